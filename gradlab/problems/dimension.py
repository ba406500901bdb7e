"""Map exact bias, variance, SNR and effective sample size over samples k, coordinates D and temperature.

This leads from a toy problem to a codec. The standard deviation of log w grows like sqrt(D). As long as it is below
``sqrt(2 log k)``, many samples share the weight; above it, one sample has nearly all the weight and more samples hardly
increase the SNR (``docs/theory/snr.md``, "What it means for a codec"). Tempering replaces w by ``w^(1/temperature)``,
as weights in bits per pixel do with the temperature ``ln 2 * pixels`` (``docs/theory/codecs.md``). It restores the
sqrt(k) growth, but for the gradient of another bound.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import replace
from typing import TYPE_CHECKING, Any, SupportsIndex

import numpy as np

from gradlab.errors import GradlabError, brief
from gradlab.problems._oracle import moments
from gradlab.problems._oracle.quadrature import Nodes
from gradlab.problems.base import check_std
from gradlab.problems.box import BoxGaussian
from gradlab.problems.exact import exact_snr
from gradlab.problems.normal import NormalGaussian
from gradlab.validation import checked, several, wholes

if TYPE_CHECKING:
    import pandas as pd


@checked
def dimension_map(
    problem: BoxGaussian | NormalGaussian,
    k: SupportsIndex | Iterable[SupportsIndex] = (1, 8, 64, 1024, 65536, 1_000_000),
    dim: SupportsIndex | Iterable[SupportsIndex] = (1, 10, 100, 1000, 10_000, 100_000),
    temperature: float | Iterable[float] = (1.0,),
) -> pd.DataFrame:
    """Tabulate exact answers for products of identical coordinates.

    The gradient is taken with respect to phi of the first coordinate.

    Args:
        problem: a problem that defines one coordinate; its ``dim`` is ignored.
        k: sample sizes.
        dim: numbers of coordinates.
        temperature: temperatures of the weights; 1 is IWAE in nats.

    Returns:
        One row per temperature, dim and k, in nats and nats per unit of phi, with the columns

        - ``dim``, ``k``, ``temperature``; ``log_w_std``, the standard deviation of the untempered log-weight of one
          sample; ``ess`` and ``ess_share`` (of k);
        - ``bound``: the tempered objective; ``exact``: the gradient of the *untempered* bound at this k and dim;
        - ``pathwise_mean``, ``pathwise_variance``, ``pathwise_snr``, ``pathwise_bias`` of the tempered objective; the
          bias is relative to ``exact``, and 0 at temperature 1;
        - ``dreg_mean``, ``dreg_variance``, ``dreg_snr``, ``dreg_bias``: the same for DReG;
        - ``pathwise_slope``: d log SNR / d log k between neighbouring values of k (NaN for a single k).

    Raises:
        GradlabError: if the problem is not a BoxGaussian or NormalGaussian, or k, dim or temperature is empty or
            invalid.

    Example:
        >>> import gradlab as gl
        >>> problem = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
        >>> table = gl.problems.dimension_map(problem, k=(1, 64), dim=(1, 100))
        >>> table[["dim", "k", "ess_share"]].round(3).to_dict("list")
        {'dim': [1, 1, 100, 100], 'k': [1, 64, 1, 64], 'ess_share': [1.0, 0.754, 1.0, 0.023]}
    """
    import pandas as pd

    if not isinstance(problem, (BoxGaussian, NormalGaussian)):
        raise GradlabError(f"problem is {brief(problem)}: give a BoxGaussian or a NormalGaussian")
    sizes, dims = sorted(set(wholes("k", k, 1, "samples"))), sorted(set(wholes("dim", dim, 1, "coordinates")))
    temperatures = several("temperature", temperature, (int, float), "a number, or several")
    temperatures = sorted({check_std("temperature", t) for t in temperatures})
    rows: list[dict[str, Any]] = []
    for d in dims:
        exact = {n: _moments(problem, d, 1.0, n, "pathwise")[0] for n in sizes}
        for t in temperatures:
            block = [_row(problem, d, t, n, exact[n]) for n in sizes]
            snr = np.array([row["pathwise_snr"] for row in block])
            slopes = np.gradient(np.log(snr), np.log(sizes)) if len(sizes) > 1 else np.full(1, np.nan)
            rows += [row | {"pathwise_slope": float(slope)} for row, slope in zip(block, slopes, strict=True)]
    return pd.DataFrame(rows)


def _row(problem: BoxGaussian | NormalGaussian, dim: int, temperature: float, k: int, exact: float) -> dict[str, Any]:
    nodes = problem.nodes
    tempered = _tempered(nodes, dim, temperature)
    ess = 1 / moments.concentration(tempered, k)
    row = {
        "dim": dim,
        "k": k,
        "temperature": temperature,
        "log_w_std": float(np.sqrt(dim * nodes.mean((nodes.log_w - nodes.mean(nodes.log_w)) ** 2))),
        "ess": ess,
        "ess_share": ess / k,
        "bound": temperature * moments.bound(tempered, k),
        "exact": exact,
    }
    for name in ("pathwise", "dreg"):
        mean, variance = _moments(problem, dim, temperature, k, name)
        row |= {f"{name}_mean": mean, f"{name}_variance": variance, f"{name}_snr": exact_snr(mean, variance)}
        row[f"{name}_bias"] = mean - exact
    return row


def _tempered(nodes: Nodes, dim: int, temperature: float) -> Nodes:
    return replace(nodes, log_w=nodes.log_w / temperature, dim=dim)


def _moments(
    problem: BoxGaussian | NormalGaussian, dim: int, temperature: float, k: int, estimator: str
) -> tuple[float, float]:
    """Return mean and variance of ``sum_i w~_i d log w_i/dphi``, or of DReG, with tempered weights.

    DReG reparameterises the score term of ``w^(1/T)`` into ``w~_i (1 - w~_i)/T`` of the path.
    """
    nodes = _tempered(problem.nodes, dim, temperature)
    total, path = problem.slopes()
    if estimator == "pathwise":
        return moments.linear(nodes, total, k)
    if problem.posterior.score_is_zero or temperature == 1:
        return moments.squared(nodes, path, k)
    return moments.mixed(nodes, (1 - 1 / temperature) * path, path / temperature, k)
