"""How the SNR of inference and generative gradients scales with the samples K in the bound and M outside it."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from gradlab.errors import GradlabError
from gradlab.estimators import get_estimator
from gradlab.noise import normal, stream
from gradlab.problems.rainforth import RainforthModel
from gradlab.runtime.progress import quiet
from gradlab.snr.moments import Moments
from gradlab.validation import checked, require_columns

if TYPE_CHECKING:
    import pandas as pd

BLOCKS = 16
CHUNK = 2**21


class Slope(NamedTuple):
    """Slope of log SNR over log K (or log M).

    Attributes:
        value: least squares.
        low, high: 95 % confidence interval.
    """

    value: float
    low: float
    high: float


@checked
def rainforth_snr(
    model: RainforthModel,
    k: Sequence[int],
    m: Sequence[int],
    draws: int,
    seed: int = 0,
    signal: str = "dreg",
    *,
    advance: Callable[..., Any] = quiet,
) -> pd.DataFrame:
    """SNR of the pathwise gradient of b (inference) and mu (generative) at every pair (K, M).

    SNR over data points and coordinates: sqrt(sum g^2 / sum var), each data point's gradient on its own (Rainforth et
    al. 2018 average |g|/std over coordinates of the mean over data; both scale alike). The signal g of b comes from
    ``signal``, an unbiased estimator of low variance on the same noise, and its own noise is taken off, |g|^2 - tr
    S_signal / draws; otherwise the floor sqrt(2/(pi draws)) flattens the law (slope -0.36 instead of -0.5 at 1500
    draws).

    Args:
        model: the Gaussian model.
        k: samples in the bound; m: independent estimates that are averaged.
        draws: gradients per pair, at least 32.
        seed: of the noise.
        signal: estimator whose mean is the signal of b.
        advance: called after every pair.

    Returns:
        Columns ``parameter k m draws snr snr_se`` and ``snr_without_0 ...`` (without one block of draws each: for
        intervals).

    Raises:
        GradlabError: fewer than 32 draws.
    """
    import pandas as pd

    if draws < 2 * BLOCKS:
        raise GradlabError(
            f"draws is {draws}: confidence intervals take {BLOCKS} blocks of at least 2, so at least {2 * BLOCKS}"
        )
    rows = []
    for size in k:
        for copies in m:
            blocks = [
                _block(model, size, copies, draws // BLOCKS, seed, index, signal=signal) for index in range(BLOCKS)
            ]
            for parameter in ("b", "mu"):
                states = [block[parameter] for block in blocks]
                row = {
                    "parameter": parameter,
                    "k": size,
                    "m": copies,
                    "draws": draws // BLOCKS * BLOCKS,
                    "snr": _snr(states),
                }
                # Delete-one-block values: a single block's signal would drown in its own noise.
                left_out = [_snr(states[:i] + states[i + 1 :]) for i in range(BLOCKS)]
                row |= {"snr_se": _jackknife(np.array(left_out))}
                row |= {f"snr_without_{i}": value for i, value in enumerate(left_out)}
                rows.append(row)
            advance(1, f"K = {size}, M = {copies}")
    return pd.DataFrame(rows)


@checked
def slope(table: pd.DataFrame, over: str) -> Slope:
    """Slope of log SNR over log ``over`` by least squares, with a jackknife interval over blocks of draws.

    Args:
        table: rows of ``rainforth_snr`` of one parameter, at least two values of ``over``.
        over: ``"k"`` or ``"m"``.

    Raises:
        GradlabError: fewer than two values of ``over``.
    """
    require_columns(table, [over, "snr", *(f"snr_without_{i}" for i in range(BLOCKS))], "rows of rainforth_snr()")
    if table[over].nunique() < 2:
        raise GradlabError(f"a slope over {over} takes at least two values of it")
    x = np.log(table[over].to_numpy(float))

    def fit(column: str) -> float:
        return float(np.polyfit(x, np.log(table[column].to_numpy(float)), 1)[0])

    value = fit("snr")
    left_out = np.array([fit(f"snr_without_{i}") for i in range(BLOCKS)])
    se = _jackknife(left_out)
    # Student's t with 15 degrees of freedom.
    return Slope(value, value - 2.131 * se, value + 2.131 * se)


def _jackknife(left_out: NDArray[np.float64]) -> float:
    """Standard error from the values without one block each."""
    return math.sqrt((BLOCKS - 1) / BLOCKS * float(((left_out - left_out.mean()) ** 2).sum()))


class _Block(NamedTuple):
    noise: Moments
    signal: Moments


def _block(
    model: RainforthModel, k: int, m: int, draws: int, seed: int, index: int, *, signal: str
) -> dict[str, _Block]:
    points, dim = model.x.shape
    states = {p: _Block(Moments.init((points, dim)), Moments.init((points, dim))) for p in ("b", "mu")}
    chunk = max(1, CHUNK // (points * k * dim * m))
    for part, start in enumerate(range(0, draws, chunk)):
        n = min(chunk, draws - start)
        generator = stream(seed, f"snr-scaling/k={k}/m={m}/block={index}", part)
        noise = normal((n * m, points, k, dim), generator, torch.float64)
        found = {name: _gradients(model, name, noise) for name in {"pathwise", signal}}
        for p, state in states.items():
            averaged = {name: g[p].unflatten(0, (n, m)).mean(dim=1) for name, g in found.items()}
            of_signal = averaged[signal if p == "b" else "pathwise"]
            states[p] = _Block(state.noise.update(averaged["pathwise"]), state.signal.update(of_signal))
    return states


def _gradients(model: RainforthModel, name: str, noise: torch.Tensor) -> dict[str, torch.Tensor]:
    """``[draws, N, D]`` gradient of each data point's bound, for b and mu."""
    b = model.b.expand(*noise.shape[:2], -1).clone().requires_grad_()
    mu = model.mu.expand(*noise.shape[:2], -1).clone().requires_grad_()
    value = get_estimator(name)(model.log_terms(noise, b, mu), "iwae").sum()
    return dict(zip(("b", "mu"), torch.autograd.grad(value, (b, mu)), strict=True))


def _snr(blocks: Sequence[_Block]) -> float:
    noise, signal = blocks[0]
    for block in blocks[1:]:
        noise, signal = noise.merge(block.noise), signal.merge(block.signal)
    trace, own = float(noise.variance().sum()), float(signal.variance().sum())
    power = float((signal.mean**2).sum()) - own / signal.count
    return math.sqrt(max(power, 0.0) / trace)
