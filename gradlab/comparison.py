"""``compare``: every estimator on the same draws of a toy problem, beside what is exactly true.

Memory is flat in the number of draws (they come in chunks, reduced to streaming moments), and the numbers depend on
``(seed, k)`` alone: adding an estimator or a sample size changes no other row.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from gradlab import moments
from gradlab.errors import GradlabError, NotExact, unknown
from gradlab.estimators import Estimator, estimator
from gradlab.noise import stream
from gradlab.objectives import Objective, objective
from gradlab.problems.base import Problem

if TYPE_CHECKING:
    import pandas as pd

# Samples per chunk: two megabytes in float64, so that the temporaries of one chunk stay in cache.
CHUNK = 2**18
COUPLINGS = ("iid",)


class Exact(NamedTuple):
    """What is exactly true of one estimator at one k; NaN where no exact answer is known."""

    gradient: float
    mean: float
    variance: float


def compare(
    problem: Problem,
    estimators: Sequence[str | Estimator] = ("pathwise", "dreg"),
    k: Sequence[int] | int = (1, 8),
    draws: int = 100_000,
    seed: int = 0,
    allow_biased: bool = False,
    *,
    objective: str = "iwae",
    wrt: str = "phi",
    noise: str = "iid",
    dtype: torch.dtype = torch.float64,
) -> pd.DataFrame:
    """Bias, variance and SNR of each estimator at each sample size, with standard errors and the exact values.

    Args:
        problem: a problem of ``gradlab.problems``.
        estimators: names from ``ESTIMATORS``, or estimators of your own.
        k: sample sizes.
        draws: independent draws of each estimator (at least 2); all estimators share the same noise.
        seed: of the noise.
        allow_biased: also take estimators whose requirement the posterior breaks.
        objective: name from ``OBJECTIVES``.
        wrt: the parameter, one of ``problem.parameters``.
        noise: how the base noise of the k samples is coupled; ``"iid"``.
        dtype: of the samples; moments are always float64.

    Returns:
        One row per estimator and k with the columns estimator, objective, target, wrt, k, draws, mean, exact, bias,
        bias_se, exact_mean, z, variance, variance_se, exact_variance, z_variance, snr, snr_se, exact_snr. ``exact`` is
        the gradient of ``target``, bias = mean - exact; ``exact_mean`` is what the estimator converges to and
        z = (mean - exact_mean)/se, 0 where both are 0. Units: nats per unit of ``wrt``.

    Raises:
        GradlabError: an unknown name, k < 1, fewer than 2 draws, a negative seed, or an estimator whose requirement the
            posterior breaks (unless ``allow_biased``).
    """
    import pandas as pd

    sizes = [k] if isinstance(k, int) else list(k)
    chosen = [estimator(name) for name in estimators]
    goal = _objective(objective)
    _validate(problem, chosen, sizes, draws, seed, allow_biased, wrt, noise)
    rows = []
    for size in sizes:
        states = _sample(problem, chosen, goal, size, draws, seed, wrt, dtype)
        rows += [
            _row(e, goal, wrt, size, draws, s, exact_answers(problem, e, goal, size, wrt))
            for e, s in zip(chosen, states, strict=True)
        ]
    return pd.DataFrame(rows)


# ``objective`` is a parameter of compare, so the look-up needs another name inside it.
_objective = objective


def gradients(
    problem: Problem, estimator: Estimator, noise: Tensor, objective: str | Objective = "iwae", wrt: str = "phi"
) -> Tensor:
    """One gradient estimate per draw.

    Args:
        problem: the toy problem.
        estimator: the estimator.
        noise: base noise ``[draws, k]``.
        objective: name or object.
        wrt: the parameter.

    Returns:
        ``[draws]`` estimates, nats per unit of ``wrt``.
    """
    value = torch.full((noise.shape[0],), problem.parameters[wrt], dtype=noise.dtype, device=noise.device)
    value.requires_grad_()
    surrogate = estimator(problem.log_terms(noise, {wrt: value}), objective)
    if not surrogate.requires_grad:
        return torch.zeros_like(value)
    (grad,) = torch.autograd.grad(surrogate.sum(), value, allow_unused=True)
    return torch.zeros_like(value) if grad is None else grad


def exact_answers(problem: Problem, estimator: Estimator, objective: Objective, k: int, wrt: str) -> Exact:
    """The exact gradient, and the exact mean and variance of one draw of the estimator, at sample size k.

    The average of k single-sample bounds (``elbo``) has the gradient of one, and a k-th of its variance.
    """
    size, share = (1, k) if objective.single else (k, 1)
    try:
        gradient = problem.exact_gradient(size, wrt=wrt)
    except NotExact:
        gradient = math.nan
    try:
        mean, variance = problem.exact_moments(estimator.name, size, wrt=wrt)
    except NotExact:
        mean, variance = math.nan, math.nan
    return Exact(gradient, mean, variance / share)


def _sample(
    problem: Problem,
    chosen: Sequence[Estimator],
    goal: Objective,
    k: int,
    draws: int,
    seed: int,
    wrt: str,
    dtype: torch.dtype,
) -> list[moments.HigherMoments]:
    states = [moments.HigherMoments.init() for _ in chosen]
    chunk = max(1, CHUNK // k)
    for index, start in enumerate(range(0, draws, chunk)):
        generator = stream(seed, f"compare/k={k}", index)
        noise = problem.draw_noise(min(chunk, draws - start), k, generator, dtype)
        for i, e in enumerate(chosen):
            states[i] = states[i].update(gradients(problem, e, noise, goal, wrt))
    return states


def _row(
    e: Estimator, goal: Objective, wrt: str, k: int, draws: int, state: moments.HigherMoments, exact: Exact
) -> dict[str, Any]:
    mean, variance = float(state.mean), float(state.variance())
    se, variance_se = float(state.mean_se()), float(state.variance_se())
    return {
        "estimator": e.name,
        "objective": goal.name,
        "target": goal.name,
        "wrt": wrt,
        "k": k,
        "draws": draws,
        "mean": mean,
        "exact": exact.gradient,
        "bias": mean - exact.gradient,
        "bias_se": se,
        "exact_mean": exact.mean,
        "z": _z(mean - exact.mean, se),
        "variance": variance,
        "variance_se": variance_se,
        "exact_variance": exact.variance,
        "z_variance": _z(variance - exact.variance, variance_se),
        "snr": float(state.snr()),
        "snr_se": float(state.snr_se()),
        "exact_snr": _snr(exact.mean, exact.variance),
    }


def _z(difference: float, se: float) -> float:
    if difference == 0:
        return 0.0
    return difference / se if se > 0 else math.copysign(math.inf, difference)


def _snr(mean: float, variance: float) -> float:
    if variance > 0:
        return abs(mean) / math.sqrt(variance)
    return math.nan if mean == 0 or math.isnan(variance) else math.inf


def _validate(
    problem: Problem,
    chosen: Sequence[Estimator],
    sizes: Sequence[int],
    draws: int,
    seed: int,
    allow_biased: bool,
    wrt: str,
    noise: str,
) -> None:
    if not isinstance(problem, Problem):
        raise GradlabError(f"compare takes a problem of gradlab.problems, not a {type(problem).__name__}")
    if not chosen:
        raise GradlabError("compare needs at least one estimator")
    if not sizes or any(not isinstance(s, int) or isinstance(s, bool) or s < 1 for s in sizes):
        raise GradlabError(f"k is {list(sizes)}: give sample sizes of at least 1")
    if not isinstance(draws, int) or draws < 2:
        raise GradlabError(f"draws is {draws}: a variance needs at least 2")
    if not isinstance(seed, int) or seed < 0:
        raise GradlabError(f"seed is {seed}: give an integer of at least 0")
    if wrt not in problem.parameters:
        raise unknown("parameter (wrt)", wrt, problem.parameters)
    if noise not in COUPLINGS:
        raise unknown("noise coupling", noise, COUPLINGS)
    for size in sizes:
        for e in chosen:
            missing = e.unmet(problem.posterior, size)
            if missing and not allow_biased:
                raise GradlabError(
                    f"estimator {e.name!r} is biased for the {type(problem.posterior).__name__} posterior at "
                    f"k = {size}: it needs {' and '.join(missing)}; take another estimator, or allow_biased=True to "
                    "measure the bias"
                )
