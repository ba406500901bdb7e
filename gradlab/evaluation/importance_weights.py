"""Effective sample size and entropy of the importance weights of a codec's k samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import TYPE_CHECKING, Any, SupportsIndex

import pandas as pd
import torch
from torch import Tensor

from gradlab.codecs import Codec, PFrame
from gradlab.codecs.precision import cudnn_precision
from gradlab.noise import stream
from gradlab.objectives.bounds import OBJECTIVES, SCALES, WEIGHTINGS
from gradlab.objectives.terms import Latent, Term
from gradlab.runtime.progress import quiet
from gradlab.validation import whole, wholes

if TYPE_CHECKING:
    from jaxtyping import Float

# Each term's weights are read from one tap. With joint weighting all taps of y carry the same weights.
TERMS: dict[str, dict[str, tuple[Latent, Term]]] = {
    "joint": {"all": ("y", "lik")},
    "per-term": {"distortion": ("y", "lik"), "y rate": ("y", "py")},
}


@torch.no_grad()
def weight_statistics(
    codec: Codec | PFrame,
    x: Float[Tensor, "batch *frames 3 height width"],
    lam: float,
    k: SupportsIndex | Iterable[SupportsIndex],
    draws: SupportsIndex,
    seed: SupportsIndex = 0,
    *,
    advance: Callable[..., Any] = quiet,
) -> pd.DataFrame:
    """Summarise the importance weights of MS-NIC-MIX for each combination of weighting and scale.

    Args:
        codec: codec with direct-y.
        x: images in [0, 1], ``[batch, 3, height, width]``, or videos ``[batch, frames, 3, height, width]`` for a
            P-frame codec.
        lam: R-D trade-off parameter lambda.
        k: one or several numbers of samples of y, each at least 2.
        draws: number of noise draws for each k.
        seed: seed of the noise.
        advance: progress callback, called after each draw.

    Returns:
        A table with one row per k, weighting, scale and term and the columns

        - ``k``, ``weighting``, ``scale``
        - ``term``: ``all`` for joint weighting; ``distortion`` or ``y rate`` for per-term weighting
        - ``ess``: mean effective sample size, 1 / sum of squared weights, from 1 to k
        - ``ess_se``: standard error of ``ess`` over images and draws
        - ``entropy``: mean entropy of the weights in nats, from 0 to log k
        - ``largest``: mean of the largest weight
        - ``draws``: number of images times noise draws

    Raises:
        GradlabError: a k is below 2, or ``draws`` is below 1.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> from gradlab.evaluation.importance_weights import weight_statistics
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> table = weight_statistics(codec, torch.rand(1, 3, 32, 48), lam=0.01, k=[4], draws=2)
        >>> table["weighting"].unique().tolist(), bool(table["ess"].between(1, 4).all())
        (['joint', 'per-term'], True)
    """
    sizes, draws, seed = wholes("k", k, 2, "samples"), whole("draws", draws, 1), whole("seed", seed, 0)
    mix = OBJECTIVES["ms-nic-mix"]
    rows = []
    for size in sizes:
        samples: dict[tuple[str, str, str], list[Tensor]] = {}
        for t in range(draws):
            with cudnn_precision(codec.precision, x.device):
                terms, _ = codec.log_terms(x, lam, size, 1, stream(seed, f"weights/k={size}", t, x.device))
            for weighting in WEIGHTINGS:
                for scale in SCALES:
                    factors = mix.path_factors(terms, weighting, scale)
                    for term, tap in TERMS[weighting].items():
                        samples.setdefault((weighting, scale, term), []).append(factors[tap].double())
            advance(1, f"k = {size}")
        for (weighting, scale, term), parts in samples.items():
            w = torch.cat(parts)  # [B draws, k]
            ess = 1 / (w**2).sum(dim=1)
            entropy = -torch.special.xlogy(w, w).sum(dim=1)
            se = float(ess.std() / math.sqrt(len(ess))) if len(ess) > 1 else math.nan
            rows.append(
                {
                    "k": size,
                    "weighting": weighting,
                    "scale": scale,
                    "term": term,
                    "ess": float(ess.mean()),
                    "ess_se": se,
                    "entropy": float(entropy.mean()),
                    "largest": float(w.max(dim=1).values.mean()),
                    "draws": draws * len(x),
                }
            )
    return pd.DataFrame(rows)
