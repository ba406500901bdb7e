"""Compare estimators on the same draws of a toy problem, next to the exact values.

Memory is constant in the number of draws, because chunks of draws are reduced to streaming moments. The numbers depend
on ``(seed, k)`` alone: adding an estimator or a sample size changes no other row.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, NamedTuple, SupportsIndex, TypeVar

import torch
from torch import Tensor

from gradlab.errors import GradlabError, brief
from gradlab.estimators import Estimator, get_estimator
from gradlab.noise import GROUPS, coupled, stream
from gradlab.objectives import Objective, get_objective
from gradlab.problems.base import Problem, value_and_slope
from gradlab.problems.box_draws import box_moments, fits
from gradlab.problems.exact import Exact, exact_snr, exact_values
from gradlab.snr import moments
from gradlab.validation import checked, known, several, whole, wholes

if TYPE_CHECKING:
    import pandas as pd
    from jaxtyping import Float

# Samples per chunk: two megabytes in float64, so that the temporaries of one chunk stay in cache.
CHUNK = 2**18
# Moments of this many chunks are kept before they are pooled.
POOLED = 64
# From this many samples on, the compiled path saves more than its import costs (tenths of a second).
MANY = 2**21
COUPLINGS = ("iid", *GROUPS)
Result = TypeVar("Result")
# Separate draws to fit a baseline on; their noise adds a share of 1/PILOT to the variance.
PILOT = 1000
# Relative rounding error of estimates that do not vary (measure-valued at k = 1 on the box).
ROUNDING = 1e-13


@checked
def compare(
    problem: Problem,
    estimators: str | Estimator | Iterable[str | Estimator] = ("pathwise", "dreg"),
    k: SupportsIndex | Iterable[SupportsIndex] = (1, 8),
    draws: SupportsIndex = 100_000,
    seed: SupportsIndex = 0,
    allow_biased: bool = False,
    *,
    objective: str | Objective = "iwae",
    wrt: str = "phi",
    noise: str = "iid",
    dtype: torch.dtype = torch.float64,
) -> pd.DataFrame:
    """Measure bias, variance and SNR of each estimator at each sample size, next to the exact values.

    Args:
        problem: a problem from ``gradlab.problems``.
        estimators: names from ``ESTIMATORS``, or ``Estimator`` objects.
        k: sample sizes.
        draws: number of independent draws of each estimator, at least 2. All estimators share the same noise.
        seed: seed of the noise.
        allow_biased: whether to accept estimators whose requirements the posterior does not meet, as long as they are
            defined for it.
        objective: name from ``OBJECTIVES``.
        wrt: the parameter to differentiate with respect to, one of ``problem.parameters``.
        noise: ``"iid"``, or how the base noise is coupled *between draws*: ``"antithetic"`` (pairs), ``"stratified"``
            (Latin hypercube, 32 draws each) or ``"sobol"`` (scrambled, 32 draws each). The k samples of one draw stay
            independent, so that means and biases do not change; only the errors cancel better in the average over
            draws. ``variance`` is then (draws per group) x (variance of a group's mean), the variance that one
            independent draw would need to give the same average for the same work, and ``snr`` is |mean| over its
            square root.
        dtype: floating-point type of the samples; moments are always float64. float32 is twice as fast, with a relative
            error of each estimate below 1e-5, far below the Monte-Carlo error.

    Returns:
        One row per estimator and k, in nats per unit of ``wrt``, with the columns ``estimator``, ``objective``,
        ``target``, ``wrt``, ``k``, ``draws``, ``mean``, ``exact``, ``bias``, ``bias_se``, ``exact_mean``, ``z``,
        ``variance``, ``variance_se``, ``exact_variance``, ``z_variance``, ``snr``, ``snr_se`` and ``exact_snr``.

        ``exact`` is the gradient of ``target``, and ``bias`` is ``mean - exact``. ``exact_mean`` is the exact mean of
        the estimator, and ``z`` is ``(mean - exact_mean) / se``, or 0 if both are 0. If no exact moments are known,
        ``exact_variance`` is NaN (as it always is under coupled noise), and ``exact_mean`` equals ``exact`` if the
        contract of the estimator declares it unbiased here, and is NaN otherwise.

    Raises:
        GradlabError: if a name is unknown, k is below 1, there are fewer than 2 draws, the seed is negative, the
            posterior does not meet the requirements of an estimator (unless ``allow_biased`` is set), an estimator is
            undefined at some k, or the draws do not fill groups of coupled noise.

    Example:
        >>> import gradlab as gl
        >>> box = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
        >>> table = gl.compare(box, ("pathwise", "dreg"), k=8, draws=2000, allow_biased=True)
        >>> table[["estimator", "exact", "exact_mean"]].round(4).to_dict("records")[1]
        {'estimator': 'dreg', 'exact': 1.7574, 'exact_mean': 0.2229}
    """
    import pandas as pd

    sizes, draws, seed = wholes("k", k, 1, "samples"), whole("draws", draws, 2), whole("seed", seed, 0)
    if not dtype.is_floating_point:
        raise GradlabError(f"dtype is {dtype}: give a floating-point type, e.g. torch.float64")
    chosen = [get_estimator(e) for e in several("estimators", estimators, (str, Estimator), "names of estimators")]
    sampler = _Sampler(problem, get_objective(objective), wrt, seed, dtype, noise)
    _validate(sampler, chosen, sizes, draws, allow_biased)
    goal = sampler.objective
    sampler = sampler._replace(problem=problem.under("iwae" if goal.jackknife else goal.name))
    rows = []
    for size in sizes:
        fitted = [sampler.fit(e, size) for e in chosen]
        for e, state in zip(chosen, sampler.moments(fitted, size, draws), strict=True):
            exact = exact_values(sampler.problem, e, goal, size, wrt)
            if noise != "iid":
                exact = exact._replace(variance=math.nan)
            labels = {"estimator": e.name, "objective": goal.name, "target": exact.target, "wrt": wrt, "k": size}
            rows.append(labels | {"draws": draws} | _statistics(state, exact, sampler.group))
    return pd.DataFrame(rows)


@checked
def gradients(
    problem: Problem,
    estimator: Estimator,
    noise: Float[Tensor, "draws k *dim"],
    objective: str | Objective = "iwae",
    wrt: str = "phi",
) -> Float[Tensor, " draws"]:
    """Return one gradient estimate per draw.

    Args:
        problem: the toy problem.
        estimator: the estimator.
        noise: base noise ``[draws, k]``.
        objective: a name from ``OBJECTIVES``, or an ``Objective``.
        wrt: the parameter to differentiate with respect to.

    Returns:
        Estimates ``[draws]`` in nats per unit of ``wrt``.

    Example:
        >>> import torch
        >>> import gradlab as gl
        >>> from gradlab.problems.comparison import gradients
        >>> problem = gl.problems.BoxGaussian(phi=0.3, x=1.0)
        >>> noise = problem.draw_noise(5, k=2, generator=torch.Generator().manual_seed(0))
        >>> gradients(problem, gl.ESTIMATORS["dreg"], noise).shape
        torch.Size([5])
    """

    def surrogate(value: Tensor) -> Tensor:
        return estimator(problem.log_terms(noise, {wrt: value}, walls=estimator.walls), objective)

    value = torch.full((noise.shape[0],), problem.parameters[wrt], dtype=noise.dtype, device=noise.device)
    return value_and_slope(surrogate, value)[1]


class _Sampler(NamedTuple):
    """Settings that the draws of all estimators and sample sizes share."""

    problem: Problem
    objective: Objective
    wrt: str
    seed: int
    dtype: torch.dtype
    coupling: str

    @property
    def group(self) -> int:
        """The number of draws that are coupled with each other."""
        return GROUPS.get(self.coupling, 1)

    def noise(self, draws: int, k: int, generator: torch.Generator) -> Tensor:
        """Draw base noise ``[draws, k, ...]``, independent or coupled between draws."""
        if self.coupling == "iid":
            return self.problem.draw_noise(draws, k, generator, self.dtype)
        shape = self.problem.draw_noise(1, k, stream(0, "shape"), self.dtype).shape[1:]
        return coupled(self.problem.posterior.base, (draws, *shape), self.coupling, generator, self.dtype)

    def fit(self, estimator: Estimator, k: int) -> Estimator:
        """Fit the baseline of the estimator, if it has one, on separate draws that no row uses."""
        if estimator.fit is None:
            return estimator
        noise = self.problem.draw_noise(PILOT, k, stream(self.seed, f"compare/k={k}/pilot"), self.dtype)
        return estimator.fit(self.problem.log_terms(noise), self.objective, "joint", "nats")

    def moments(self, estimators: Sequence[Estimator], k: int, draws: int) -> list[moments.HigherMoments]:
        """Return the moments of each estimator over the draws, or over the means of groups of coupled draws."""
        group = self.group
        chunk = group * max(1, CHUNK // (k * group))
        fused = (
            draws * k >= MANY
            and self.coupling == "iid"
            and all(fits(self.problem, e, self.objective, self.wrt, self.dtype) for e in estimators)
        )

        def reduced(index: int) -> moments.HigherMoments:
            generator = stream(self.seed, f"compare/k={k}", index)
            count = min(chunk, draws - index * chunk)
            if fused:
                return box_moments(self.problem, estimators, count, k, generator, self.dtype)
            noise = self.noise(count, k, generator)
            estimates = [gradients(self.problem, e, noise, self.objective, self.wrt).double() for e in estimators]
            means = [values.reshape(-1, group).mean(dim=1) for values in estimates]
            parts = [moments.HigherMoments.init().update(values)[1:] for values in means]
            return moments.HigherMoments(count // group, *(torch.stack(column) for column in zip(*parts, strict=True)))

        # Chunks are independent and merged in order, so the numbers do not depend on the number of threads.
        # Autograd starts its own threads.
        parts: list[moments.HigherMoments] = []
        for part in _in_turn(reduced, -(-draws // chunk), torch.get_num_threads() if fused else 1):
            parts.append(part)
            if len(parts) == POOLED:
                parts = [moments.HigherMoments.pooled(parts)]
        state = moments.HigherMoments.pooled(parts)
        return [moments.HigherMoments(state.count, *row) for row in torch.stack(state[1:], dim=1)]


def _in_turn(work: Callable[[int], Result], count: int, threads: int) -> Iterator[Result]:
    """Yield ``work(0), work(1), ...`` in order, computed on ``threads`` threads."""
    if threads == 1 or count == 1:
        yield from map(work, range(count))
        return
    with ThreadPoolExecutor(threads) as pool:
        yield from pool.map(work, range(count))


def _statistics(state: moments.HigherMoments, exact: Exact, group: int) -> dict[str, float]:
    """Return the measured and exact columns of one row, for draws in groups of size ``group``."""
    mean, variance = float(state.mean), group * float(state.variance())
    se, variance_se = float(state.mean_se()), group * float(state.variance_se())
    return {
        "mean": mean,
        "exact": exact.gradient,
        "bias": mean - exact.gradient,
        "bias_se": se,
        "exact_mean": exact.mean,
        "z": z_score(mean - exact.mean, se, mean),
        "variance": variance,
        "variance_se": variance_se,
        "exact_variance": exact.variance,
        "z_variance": z_score(variance - exact.variance, variance_se, mean**2),
        "snr": float(state.snr()) / math.sqrt(group),
        "snr_se": float(state.snr_se()) / math.sqrt(group),
        "exact_snr": exact_snr(exact.mean, exact.variance),
    }


def z_score(difference: float, se: float, size: float, rounding: float = ROUNDING) -> float:
    """Return ``difference / se``, or 0 if the difference is at most the rounding error of numbers of this size.

    Args:
        difference: measured value minus expected value.
        se: standard error of the measured value.
        size: magnitude of the compared numbers.
        rounding: relative rounding error of these numbers.

    Returns:
        The z-score. If the standard error is 0 and the difference is not negligible, it is plus or minus infinity.
    """
    if abs(difference) <= rounding * abs(size):
        return 0.0
    if se > 0 or math.isnan(difference):
        return difference / se if se > 0 else math.nan
    return math.copysign(math.inf, difference)


def _validate(
    sampler: _Sampler, chosen: Sequence[Estimator], sizes: Sequence[int], draws: int, allow_biased: bool
) -> None:
    problem, noise = sampler.problem, sampler.coupling
    if not isinstance(problem, Problem):
        raise GradlabError(f"problem is {brief(problem)}: give a Problem")
    problem.check_wrt(sampler.wrt)
    known("noise coupling", noise, COUPLINGS)
    group = sampler.group
    if draws % group or draws < 2 * group:
        raise GradlabError(
            f"draws is {draws}, but {noise} noise couples groups of {group} draws: "
            f"give a multiple of {group}, at least {2 * group}"
        )
    posterior = problem.posterior
    for size in sizes:
        for e in chosen:
            lacking = e.undefined(posterior, size)
            if lacking:
                raise GradlabError(
                    f"estimator {e.name!r} is undefined for the {type(posterior).__name__} posterior at "
                    f"k = {size}: it needs {' and '.join(lacking)}"
                )
            missing = e.unmet(posterior, size)
            if missing and not allow_biased:
                raise GradlabError(
                    f"estimator {e.name!r} is biased for the {type(posterior).__name__} posterior at "
                    f"k = {size}: it needs {' and '.join(missing)}; take another estimator, or allow_biased=True to "
                    "measure the bias"
                )
