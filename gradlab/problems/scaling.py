"""Measure how the SNR of inference and generative gradients scales with the samples K in the bound and M outside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Sequence
from functools import reduce
from itertools import product
from typing import TYPE_CHECKING, Any, NamedTuple, SupportsIndex

import numpy as np
import torch
from numpy.typing import NDArray

from gradlab.errors import GradlabError
from gradlab.estimators import get_estimator
from gradlab.noise import normal, stream
from gradlab.problems.rainforth import RainforthModel
from gradlab.runtime.progress import quiet
from gradlab.snr.moments import Moments
from gradlab.validation import checked, require_columns, whole, wholes

if TYPE_CHECKING:
    import pandas as pd

BLOCKS = 16
CHUNK = 2**21
PARAMETERS = ("b", "mu")
PATHWISE, SIGNAL = 0, 1


class Slope(NamedTuple):
    """Slope of log SNR over log K (or log M).

    Attributes:
        value: least-squares estimate.
        low: lower end of the 95 % confidence interval.
        high: upper end of the interval.
    """

    value: float
    low: float
    high: float


@checked
def rainforth_snr(
    model: RainforthModel,
    k: SupportsIndex | Iterable[SupportsIndex],
    m: SupportsIndex | Iterable[SupportsIndex],
    draws: SupportsIndex,
    seed: SupportsIndex = 0,
    signal: str = "dreg",
    *,
    advance: Callable[..., Any] = quiet,
) -> pd.DataFrame:
    """Measure the SNR of the pathwise gradients of b (inference) and mu (generative) at every pair (K, M).

    The SNR over data points and coordinates is sqrt(sum g^2 / sum var), where every data point has its own gradient.
    (Rainforth et al. 2018 average |g|/std over coordinates of the mean over data; both scale alike.) The signal g of b
    comes from ``signal``, an unbiased estimator of low variance on the same noise, and its noise floor is subtracted;
    see ``docs/theory/snr.md``, "Rainforth's law".

    Args:
        model: the Gaussian model.
        k: numbers of samples in the bound.
        m: numbers of independent estimates to average.
        draws: gradients per pair, at least 32.
        seed: seed of the noise.
        signal: estimator whose mean is the signal of b.
        advance: function to call after every pair.

    Returns:
        Columns ``parameter``, ``k``, ``m``, ``draws``, ``snr``, ``snr_se`` and ``snr_without_0`` ..., each without one
        block of draws, for confidence intervals.

    Raises:
        GradlabError: if there are fewer than 32 draws.

    Example:
        >>> from gradlab.problems.rainforth import RainforthModel
        >>> from gradlab.problems.scaling import rainforth_snr
        >>> table = rainforth_snr(RainforthModel(data=2, dim=2), k=(1,), m=(1,), draws=64)
        >>> table["parameter"].tolist()
        ['b', 'mu']
    """
    import pandas as pd

    draws, seed = whole("draws", draws), whole("seed", seed, 0)
    if draws < 2 * BLOCKS:
        raise GradlabError(
            f"draws is {draws}: give at least {2 * BLOCKS}, confidence intervals need {BLOCKS} blocks of 2 or more"
        )
    rows = []
    for size, copies in product(wholes("k", k, 1, "samples"), wholes("m", m, 1)):
        blocks = [_block(model, size, copies, draws // BLOCKS, seed, index, signal=signal) for index in range(BLOCKS)]
        for index, parameter in enumerate(PARAMETERS):
            # Leave out one block at a time, because the signal of a single block is far below its noise.
            left_out = [_snr(blocks[:i] + blocks[i + 1 :], index) for i in range(BLOCKS)]
            row = {"parameter": parameter, "k": size, "m": copies, "draws": draws // BLOCKS * BLOCKS}
            row |= {"snr": _snr(blocks, index), "snr_se": _jackknife(np.array(left_out))}
            rows.append(row | {f"snr_without_{i}": value for i, value in enumerate(left_out)})
        advance(1, f"K = {size}, M = {copies}")
    return pd.DataFrame(rows)


@checked
def slope(table: pd.DataFrame, over: str) -> Slope:
    """Fit the slope of log SNR over log ``over`` by least squares, with a jackknife interval over blocks of draws.

    Args:
        table: rows of ``rainforth_snr`` for one parameter, with at least two values of ``over``.
        over: ``"k"`` or ``"m"``.

    Returns:
        The slope and its 95 % confidence interval.

    Raises:
        GradlabError: if there are fewer than two values of ``over``.
    """
    require_columns(table, [over, "snr", *(f"snr_without_{i}" for i in range(BLOCKS))], "rows of rainforth_snr()")
    if table[over].nunique() < 2:
        raise GradlabError(f"the table has fewer than two values of {over}: give at least two")
    x = np.log(table[over].to_numpy(float))

    def fit(column: str) -> float:
        return float(np.polyfit(x, np.log(table[column].to_numpy(float)), 1)[0])

    value = fit("snr")
    left_out = np.array([fit(f"snr_without_{i}") for i in range(BLOCKS)])
    se = _jackknife(left_out)
    # Student's t with 15 degrees of freedom.
    return Slope(value, value - 2.131 * se, value + 2.131 * se)


def _jackknife(left_out: NDArray[np.float64]) -> float:
    """Return the standard error from the values without one block each."""
    return math.sqrt((BLOCKS - 1) / BLOCKS * float(((left_out - left_out.mean()) ** 2).sum()))


def _block(model: RainforthModel, k: int, m: int, draws: int, seed: int, index: int, *, signal: str) -> Moments:
    """Return moments ``[2, 2, N, D]`` of the pathwise estimates and of the signal, for each of ``PARAMETERS``."""
    points, dim = model.x.shape
    state = Moments.init((2, 2, points, dim))
    chunk = max(1, CHUNK // (points * k * dim * m))
    for part, start in enumerate(range(0, draws, chunk)):
        n = min(chunk, draws - start)
        generator = stream(seed, f"snr-scaling/k={k}/m={m}/block={index}", part)
        noise = normal((n * m, points, k, dim), generator, torch.float64)
        b, mu = _averaged(model, "pathwise", noise, n)
        signal_of_b = b if signal == "pathwise" else _averaged(model, signal, noise, n)[0]
        estimates = torch.stack([b, mu, signal_of_b, mu], dim=1)
        state = state.update(estimates.unflatten(1, (2, 2)))
    return state


def _averaged(model: RainforthModel, name: str, noise: torch.Tensor, draws: int) -> list[torch.Tensor]:
    """Return means ``[draws, N, D]`` over M gradient estimates of each data point's bound, for each parameter."""
    b = model.b.expand(*noise.shape[:2], -1).clone().requires_grad_()
    mu = model.mu.expand(*noise.shape[:2], -1).clone().requires_grad_()
    value = get_estimator(name)(model.log_terms(noise, b, mu), "iwae").sum()
    return [g.unflatten(0, (draws, -1)).mean(dim=1) for g in torch.autograd.grad(value, (b, mu))]


def _snr(blocks: Sequence[Moments], parameter: int) -> float:
    state = reduce(Moments.merge, blocks)
    mean, variance = state.mean[:, parameter], state.variance()[:, parameter]
    power = float((mean[SIGNAL] ** 2).sum()) - float(variance[SIGNAL].sum()) / state.count
    return math.sqrt(max(power, 0.0) / float(variance[PATHWISE].sum()))
