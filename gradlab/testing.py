"""Test your own gradient estimators: is the mean unbiased, and does the estimator have the right variance?

.. code-block:: python

    import gradlab as gl
    from gradlab.testing import assert_unbiased

    def mine(log_weight, samples, noise):  # IWAE, pathwise
        log_w = log_weight(samples)
        (slope,) = torch.autograd.grad((log_w.softmax(1).detach() * log_w).sum(), samples)
        return slope.sum(1)

    def test_mine():
        assert_unbiased(mine, gl.problems.BoxGaussian(phi=0.3, x=1.0), k=8)

The tests are z-tests with a fixed number of draws. They are deterministic for a given seed, also for a function that
draws from torch's global generator. At the default threshold of 4.5 standard errors a correct estimator fails about
once in 10^5 tests, and a bias of 10 standard errors is always detected; the error message states the size of the bias.
Draws come in chunks and count as independent, so a function must not make one draw depend on another.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from contextlib import suppress
from functools import partial
from typing import Any, NamedTuple, SupportsIndex

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.estimators import ESTIMATORS, Estimator
from gradlab.noise import stream
from gradlab.problems import BoxGaussian, BoxProblem, NormalGaussian
from gradlab.problems.base import Problem, check_k
from gradlab.problems.comparison import CHUNK, ROUNDING, compare, z_score
from gradlab.runtime.display import shown
from gradlab.snr import moments
from gradlab.validation import checked, known, real, whole

__all__ = ["Check", "assert_moments", "assert_unbiased", "check"]

Function = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]
Z = 4.5


@shown
class Check(NamedTuple):
    """Measured moments of an estimator and the exact gradient, in nats per unit of the parameter.

    Attributes:
        estimator: name of the estimator.
        problem: name of the problem's class.
        k: samples per draw.
        wrt: the parameter.
        draws: number of draws.
        exact: the exact gradient.
        mean: mean of the draws.
        se: standard error of the mean.
        z: (mean - exact) / se.
        variance: variance of one draw.
        variance_se: standard error of the variance.
        like: if the mean differs from ``exact``, estimators from ``ESTIMATORS`` that have the measured mean.
    """

    estimator: str
    problem: str
    k: int
    wrt: str
    draws: int
    exact: float
    mean: float
    se: float
    z: float
    variance: float
    variance_se: float
    like: tuple[str, ...]

    @property
    def passed(self) -> bool:
        """Whether the mean is within 4.5 standard errors of the exact gradient."""
        return abs(self.z) <= Z

    def _repr_line_(self) -> str:
        verdict = "passed" if self.passed else "biased"
        at = f"k={self.k}, by {self.wrt}, {self.draws:_} draws"
        return f"{self.estimator!r} on {self.problem}, {at}: {verdict}, z = {self.z:.1f}"

    def _repr_rows_(self) -> dict[str, object]:
        return {
            "estimator": self.estimator,
            "problem": f"{self.problem}, k = {self.k}, by {self.wrt}",
            "draws": f"{self.draws:_}",
            "mean": f"{self.mean:.6g} +- {self.se:.1g}",
            "exact": f"{self.exact:.6g}",
            "bias": f"{self.mean - self.exact:+.3g}, z = {self.z:.1f}",
            "variance of a draw": f"{self.variance:.6g} +- {self.variance_se:.1g}",
            "verdict": "passed" if self.passed else "biased",
            **({"mean of": ", ".join(self.like)} if self.like else {}),
        }

    def explain(self) -> str:
        """Describe the mean, its bias, and the estimators with the same mean, in a few lines."""
        lines = [
            f"  mean of {self.draws} draws   {self.mean:.6g}",
            f"  exact gradient   {self.exact:.6g}",
            f"  bias   {self.mean - self.exact:+.3g} +- {self.se:.1g} (z = {self.z:.1f})",
        ]
        if self.like:
            names = " and ".join(part for part in (", ".join(self.like[:-1]), self.like[-1]) if part)
            lines.append(f"  this matches the mean of {names}: see gradlab.estimators")
        return "\n".join(lines)


@checked
def check(
    estimator: str | Estimator | Function,
    problem: Problem,
    k: SupportsIndex = 8,
    draws: SupportsIndex = 100_000,
    seed: SupportsIndex = 0,
    *,
    objective: str = "iwae",
    wrt: str = "phi",
) -> Check:
    """Measure an estimator on a problem whose gradient is known exactly.

    Args:
        estimator: a name from ``ESTIMATORS``, an ``Estimator``, or a function ``(log_weight, samples, noise) ->
            gradient`` that returns one estimate per draw, ``[n]``. ``log_weight`` maps points ``[n, m]``, for any m, to
            their log-weights ``[n, m]`` (in nats, differentiable with respect to the points, at fixed parameters).
            ``samples [n, k]`` is a leaf tensor that requires a gradient. ``noise [n, k]`` is the base noise of the
            samples: ``samples - phi`` on a box, ``(samples - mean)/std`` on a Normal.
        problem: ``BoxProblem``, ``BoxGaussian`` or ``NormalGaussian``; one-dimensional if the estimator is a function.
        k: samples per draw.
        draws: number of independent draws, at least 2.
        seed: seed of the noise.
        objective: the objective to differentiate, a name from ``OBJECTIVES``.
        wrt: the parameter to differentiate with respect to. A function must use ``"phi"``, the centre or the mean.

    Returns:
        The measured moments and the exact gradient.

    Raises:
        GradlabError: if an argument is invalid, the estimator is undefined for this problem, or the function does not
            return finite estimates ``[n]``.

    Example:
        >>> import gradlab as gl
        >>> box = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
        >>> result = gl.testing.check("dreg", box, k=8, draws=2000)
        >>> result.passed, round(result.exact, 4), round(result.mean, 1)
        (False, 1.7574, 0.2)
    """
    k, draws, seed = check_k(k), whole("draws", draws, 2), whole("seed", seed, 0)
    rounding = ROUNDING
    if isinstance(estimator, (str, Estimator)):
        table = compare(problem, (estimator,), k, draws, seed, allow_biased=True, objective=objective, wrt=wrt)
        (row,) = table.to_dict("records")
        name, exact = row["estimator"], row["exact"]
        mean, se, variance, variance_se = (row[c] for c in ("mean", "bias_se", "variance", "variance_se"))
    elif callable(estimator):
        name, exact = getattr(estimator, "__name__", type(estimator).__name__), _exact(problem, objective, k, wrt)
        state, dtype = _sample(partial(_call, estimator, name), problem, k, draws, seed)
        rounding = max(rounding, 10 * torch.finfo(dtype).eps)
        mean, se = float(state.mean), float(state.mean_se())
        variance, variance_se = float(state.variance()), float(state.variance_se())
    else:
        raise GradlabError(f"{estimator!r} is not an estimator: give a name, an Estimator or a function")
    z = z_score(mean - exact, se, mean, rounding)
    like = () if abs(z) <= Z else _like(problem, objective, k, wrt, mean, se)
    return Check(name, type(problem).__name__, k, wrt, draws, exact, mean, se, z, variance, variance_se, like)


@checked
def assert_unbiased(
    estimator: str | Estimator | Function,
    problem: Problem,
    k: SupportsIndex = 8,
    draws: SupportsIndex = 100_000,
    seed: SupportsIndex = 0,
    *,
    objective: str = "iwae",
    wrt: str = "phi",
    z: float = Z,
) -> Check:
    """Assert that the mean of an estimator is within ``z`` standard errors of the exact gradient.

    Args:
        estimator: a name, an ``Estimator`` or a function, as in :func:`check`.
        problem: the problem, as in :func:`check`.
        k: samples per draw.
        draws: number of independent draws, at least 2.
        seed: seed of the noise.
        objective: the objective to differentiate, a name from ``OBJECTIVES``.
        wrt: the parameter to differentiate with respect to.
        z: number of standard errors that the mean may deviate.

    Returns:
        The measured moments and the exact gradient.

    Raises:
        AssertionError: if the estimator is biased. The message states the bias, its standard error, z, the exact value,
            and the estimators from ``ESTIMATORS`` that have the same mean.
        GradlabError: if ``z`` is not positive, or under the same conditions as :func:`check`.

    Example:
        >>> import gradlab as gl
        >>> box = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
        >>> gl.testing.assert_unbiased("dreg-boundary", box, k=8, draws=2000).passed
        True
    """
    _positive(z)
    result = check(estimator, problem, k, draws, seed, objective=objective, wrt=wrt)
    if not abs(result.z) <= z:
        raise AssertionError(
            f"{result.estimator} is biased on {result.problem} at k = {k} for {wrt}:\n"
            f"{result.explain()} (allowed {z:g})"
        )
    return result


@checked
def assert_moments(
    estimator: str | Estimator | Function,
    problem: Problem,
    k: SupportsIndex = 8,
    draws: SupportsIndex = 100_000,
    seed: SupportsIndex = 0,
    *,
    like: str | tuple[float, float] | None = None,
    wrt: str = "phi",
    z: float = Z,
) -> Check:
    """Assert that mean and variance of one draw are within ``z`` standard errors of the exact values.

    Args:
        estimator: a name, an ``Estimator`` or a function, as in :func:`check`.
        problem: the problem, as in :func:`check`.
        k: samples per draw.
        draws: number of independent draws, at least 2.
        seed: seed of the noise.
        like: the estimator from ``ESTIMATORS`` whose exact moments are expected, by default the tested one; or the
            exact mean and variance themselves.
        wrt: the parameter to differentiate with respect to.
        z: number of standard errors that mean and variance may deviate.

    Returns:
        The measured moments and the exact gradient.

    Raises:
        AssertionError: if mean or variance is off. The message states both, with standard errors.
        GradlabError: if an argument is invalid, a function is tested without ``like``, or the moments are not known
            exactly.

    Example:
        >>> import gradlab as gl
        >>> box = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
        >>> result = gl.testing.assert_moments("pathwise", box, k=8, draws=2000)
        >>> result.estimator, result.draws
        ('pathwise', 2000)
    """
    _positive(z)
    if isinstance(like, str):
        known("estimator", like, ESTIMATORS)
    elif like is not None and (len(like) != 2 or not all(math.isfinite(v) for v in like)):
        raise GradlabError(f"like is {like}: give two finite numbers, (mean, variance)")
    result = check(estimator, problem, k, draws, seed, wrt=wrt)
    if like is None:
        if result.estimator not in ESTIMATORS or not isinstance(estimator, (str, Estimator)):
            raise GradlabError(
                f"{result.estimator} has no exact moments of its own: give like='pathwise' (or another name from "
                "gradlab.ESTIMATORS), or like=(mean, variance)"
            )
        like = result.estimator
    mean, variance = problem.exact_moments(like, result.k, wrt=wrt) if isinstance(like, str) else like
    z_mean = z_score(result.mean - mean, result.se, mean)
    z_variance = z_score(result.variance - variance, result.variance_se, mean**2)
    if not (abs(z_mean) <= z and abs(z_variance) <= z):
        raise AssertionError(
            f"{result.estimator} has the wrong moments on {result.problem} at k = {k} for {wrt} (allowed |z| {z:g}):\n"
            f"  mean       {result.mean:.6g} +- {result.se:.1g}, exact {mean:.6g} (z = {z_mean:.1f})\n"
            f"  variance   {result.variance:.6g} +- {result.variance_se:.1g}, exact {variance:.6g} "
            f"(z = {z_variance:.1f})"
        )
    return result


def _exact(problem: Problem, objective: str, k: int, wrt: str) -> float:
    if wrt != "phi":
        raise GradlabError(
            f"wrt is {wrt!r}, but a function estimates the gradient with respect to phi: use wrt='phi', or write an "
            "Estimator"
        )
    _transform(problem)
    # The exact gradient is the same for every estimator.
    (row,) = compare(problem, ("pathwise",), k, 2, objective=objective).to_dict("records")
    return float(row["exact"])


def _transform(problem: Problem) -> tuple[float, float]:
    """Return centre and scale of the transform from base noise to samples."""
    if isinstance(problem, (BoxProblem, BoxGaussian)) and problem.dim == 1:
        return problem.phi, 1.0
    if isinstance(problem, NormalGaussian) and problem.dim == 1:
        return problem.mean, problem.std
    raise GradlabError(
        f"problem is of type {type(problem).__name__} with dim = {getattr(problem, 'dim', '?')}, but a function needs "
        "BoxProblem, BoxGaussian or NormalGaussian with dim = 1: use one of them, or write an Estimator"
    )


def _positive(z: float) -> None:
    if real("z", z) <= 0:
        raise GradlabError(f"z is {z}: give a positive number of standard errors")


def _sample(
    function: Callable[..., Tensor], problem: Problem, k: int, draws: int, seed: int
) -> tuple[moments.HigherMoments, torch.dtype]:
    """Return the moments of the function's estimates, and their type."""
    centre, scale = _transform(problem)

    def log_weight(y: Tensor) -> Tensor:
        noise = ((y - centre) / scale).reshape(-1, 1)
        return problem.log_terms(noise).log_w(score=False).reshape(y.shape)

    state, dtype = moments.HigherMoments.init(), torch.float64
    chunk = max(1, CHUNK // k)
    for index, start in enumerate(range(0, draws, chunk)):
        noise = problem.draw_noise(min(chunk, draws - start), k, stream(seed, f"check/k={k}", index))
        samples = (centre + scale * noise).requires_grad_()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, "check/global", index).initial_seed())
            estimates = function(log_weight, samples, noise)
        state, dtype = state.update(estimates.detach().double()), estimates.dtype
    return state, dtype


def _call(function: Function, name: str, log_weight: Callable[[Tensor], Tensor], samples: Tensor, noise: Tensor) -> Any:
    """Return the estimates of the user's function, after checking them."""
    size = len(samples)
    try:
        estimates: Any = function(log_weight, samples, noise)
    except (Exception, SystemExit) as error:  # user code may raise anything
        raise GradlabError(
            f"{name} failed on (log_weight, samples, noise) with {type(error).__name__}: {error}"
        ) from error
    if not isinstance(estimates, Tensor) or estimates.shape != (size,) or not estimates.is_floating_point():
        returned = type(estimates).__name__
        if isinstance(estimates, Tensor):
            returned = f"{estimates.dtype} {tuple(estimates.shape)}"
        raise GradlabError(f"{name} returned {returned}: return one estimate per draw, a tensor [{size}] of floats")
    if not bool(torch.isfinite(estimates).all()):
        raise GradlabError(f"{name} returned NaN or infinite estimates: look for a division by zero")
    return estimates


def _like(problem: Problem, objective: str, k: int, wrt: str, mean: float, se: float) -> tuple[str, ...]:
    """Return the estimators whose exact mean agrees with the measured one, because they hint at a likely mistake."""
    names = []
    for name in ESTIMATORS if objective == "iwae" else ():
        with suppress(GradlabError):  # the moments are not known exactly, or the estimator is undefined at this k
            exact, _ = problem.exact_moments(name, k, wrt=wrt)
            if not math.isnan(exact) and abs(z_score(mean - exact, se, mean)) <= Z:
                names.append(name)
    return tuple(names)
