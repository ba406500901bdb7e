"""Effective sample size and entropy of the importance weights of a codec's k samples."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import Any, SupportsIndex

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

# The tap that carries the weights of a term; with joint weighting all taps of y carry the same weights.
TERMS: dict[str, dict[str, tuple[Latent, Term]]] = {
    "joint": {"all": ("y", "lik")},
    "per-term": {"distortion": ("y", "lik"), "y rate": ("y", "py")},
}


@torch.no_grad()
def weight_statistics(
    codec: Codec | PFrame,
    x: Tensor,
    lam: float,
    k: SupportsIndex | Iterable[SupportsIndex],
    draws: SupportsIndex,
    seed: SupportsIndex = 0,
    *,
    advance: Callable[..., Any] = quiet,
) -> pd.DataFrame:
    """Summarise the weights of MS-NIC-MIX for each pair of weighting and scale.

    Args:
        codec: the codec, with direct-y.
        x: ``[B, 3, H, W]`` images in [0, 1], or videos for a P-frame.
        lam: lambda of the R-D cost.
        k: sample sizes, one or several, at least 2.
        draws: noise draws for each k.
        seed: of the noise.
        advance: called after each draw.

    Returns:
        One row per k, weighting, scale and term (``all``, or ``distortion`` and ``y rate``): ``ess`` (mean of 1/sum
        w^2, from 1 to k), its standard error ``ess_se`` over images and draws, ``entropy`` (mean, nats, from 0 to log
        k), ``largest`` (mean of the largest weight), ``draws`` (images times noise draws).

    Raises:
        GradlabError: k below 2, or no draws.
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
