"""For your own test suite: is this gradient estimator unbiased, and is its variance what it should be?

.. code-block:: python

    import gradlab as gl
    from gradlab.testing import assert_unbiased

    def mine(log_weight, samples, noise):  # IWAE, pathwise
        log_w = log_weight(samples)
        (slope,) = torch.autograd.grad((log_w.softmax(1).detach() * log_w).sum(), samples)
        return slope.sum(1)

    def test_mine():
        assert_unbiased(mine, gl.problems.BoxGaussian(phi=0.3, x=1.0), k=8)

The tests are seeded z-tests at a fixed number of draws: the same draws, and so the same outcome, in every run (also for
a function that draws from torch's global generator). At the default of 4.5 standard errors a right estimator fails
about once in 10^5 tests, and a bias of 10 standard errors, whose size the failure prints, is never missed. Draws come
in chunks and count as independent: a function must not let them depend on each other.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from gradlab.errors import GradlabError, unknown
from gradlab.estimators import ESTIMATORS, Estimator
from gradlab.noise import stream
from gradlab.problems import BoxGaussian, BoxProblem, NormalGaussian
from gradlab.problems.base import Problem, check_k
from gradlab.problems.comparison import CHUNK, ROUNDING, compare, z_score
from gradlab.snr import moments
from gradlab.validation import checked_after

__all__ = ["Check", "assert_moments", "assert_unbiased", "check"]

Function = Callable[[Callable[[Tensor], Tensor], Tensor, Tensor], Tensor]
Z = 4.5


class Check(NamedTuple):
    """What was measured of an estimator, and what is exact. Units: nats per unit of the parameter.

    Attributes:
        estimator: its name; problem: the problem's; k: samples; wrt: the parameter; draws: how many.
        exact: the gradient that it should have.
        mean: of the draws; se: its standard error; z: (mean - exact)/se.
        variance: of one draw; variance_se: its standard error.
        like: estimators of ``ESTIMATORS`` with that mean, where it is not ``exact``.
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

    def explain(self) -> str:
        """Some lines: what was measured, how far off it is, and what else has that mean."""
        lines = [
            f"  mean of {self.draws} draws   {self.mean:.6g}",
            f"  exact gradient   {self.exact:.6g}",
            f"  bias   {self.mean - self.exact:+.3g} +- {self.se:.1g} (z = {self.z:.1f})",
        ]
        if self.like:
            names = " and ".join(part for part in (", ".join(self.like[:-1]), self.like[-1]) if part)
            lines.append(f"  within error that is the mean of {names}: see gradlab.estimators")
        return "\n".join(lines)


@checked_after
def check(
    estimator: str | Estimator | Function,
    problem: Problem,
    k: int = 8,
    draws: int = 100_000,
    seed: int = 0,
    *,
    objective: str = "iwae",
    wrt: str = "phi",
) -> Check:
    """Measure an estimator on a problem whose gradient is known exactly.

    Args:
        estimator: a name of ``ESTIMATORS``, an ``Estimator``, or a function ``(log_weight, samples, noise) ->
            gradient``. It is given ``log_weight``, which maps points of any shape ``[n, m]`` to their log-weights
            ``[n, m]`` (nats, differentiable in the points, parameters held fixed), ``samples [n, k]`` (a leaf that
            requires a gradient), and the base noise ``[n, k]`` that they were made of (on a box ``samples - phi``, on a
            Normal ``(samples - mean)/std``). It returns one estimate per draw, ``[n]``.
        problem: ``BoxProblem``, ``BoxGaussian`` or ``NormalGaussian``; for a function in one dimension.
        k: samples of one draw.
        draws: independent draws, at least 2.
        seed: of the noise.
        objective: what is differentiated, a name of ``OBJECTIVES``.
        wrt: the parameter; a function estimates by ``phi``, the centre or the mean.

    Raises:
        GradlabError: bad arguments, an estimator that is undefined here, or a function that does not return finite
            estimates ``[n]``.
    """
    check_k(k)
    if isinstance(draws, bool) or not isinstance(draws, int) or draws < 2:
        raise GradlabError(f"draws is {draws}: give a whole number, at least 2 for a standard error")
    if isinstance(seed, bool) or not isinstance(seed, int) or seed < 0:
        raise GradlabError(f"seed is {seed}: give a whole number of at least 0")
    if not isinstance(estimator, (str, Estimator)) and not callable(estimator):
        raise GradlabError(f"{estimator!r} is no estimator: give a name, an Estimator or a function")
    rounding = ROUNDING
    if isinstance(estimator, (str, Estimator)):
        (row,) = compare(
            problem, (estimator,), k, draws, seed, allow_biased=True, objective=objective, wrt=wrt
        ).to_dict("records")
        name, exact = row["estimator"], row["exact"]
        mean, se, variance, variance_se = (row[c] for c in ("mean", "bias_se", "variance", "variance_se"))
    else:
        name, exact = getattr(estimator, "__name__", type(estimator).__name__), _exact(problem, objective, k, wrt)
        state, dtype = _sample(estimator, name, problem, k, draws, seed)
        rounding = max(rounding, 10 * torch.finfo(dtype).eps)
        mean, se = float(state.mean), float(state.mean_se())
        variance, variance_se = float(state.variance()), float(state.variance_se())
    z = z_score(mean - exact, se, mean, rounding)
    like = () if abs(z) <= Z else _like(problem, objective, k, wrt, mean, se)
    return Check(name, type(problem).__name__, k, wrt, draws, exact, mean, se, z, variance, variance_se, like)


@checked_after
def assert_unbiased(
    estimator: str | Estimator | Function,
    problem: Problem,
    k: int = 8,
    draws: int = 100_000,
    seed: int = 0,
    *,
    objective: str = "iwae",
    wrt: str = "phi",
    z: float = Z,
) -> Check:
    """Fails unless the mean of the draws is within ``z`` standard errors of the exact gradient.

    Arguments and ``GradlabError`` as for :func:`check`, whose result it returns.

    Raises:
        AssertionError: it is biased; the message has the bias, its standard error, z, the exact value and, where there
            is one, the estimator of ``ESTIMATORS`` that has that mean.
    """
    _positive(z)
    found = check(estimator, problem, k, draws, seed, objective=objective, wrt=wrt)
    if not abs(found.z) <= z:
        raise AssertionError(
            f"{found.estimator} is biased on {found.problem} at k = {k}, by {wrt}:\n{found.explain()} (allowed {z:g})"
        )
    return found


@checked_after
def assert_moments(
    estimator: str | Estimator | Function,
    problem: Problem,
    k: int = 8,
    draws: int = 100_000,
    seed: int = 0,
    *,
    like: str | None = None,
    exact: tuple[float, float] | None = None,
    wrt: str = "phi",
    z: float = Z,
) -> Check:
    """Fails unless mean and variance of one draw are within ``z`` standard errors of the exact ones.

    Args:
        estimator: as for :func:`check`.
        problem, k, draws, seed, wrt, z: as for :func:`assert_unbiased`.
        like: the name of the estimator whose exact moments these should be; its own by default.
        exact: the exact mean and variance themselves, instead of ``like``.

    Raises:
        AssertionError: mean or variance is off; the message has both, with standard errors.
        GradlabError: bad arguments; a function without ``like`` or ``exact``; moments that are not known exactly.
    """
    _positive(z)
    if like is not None and exact is not None:
        raise GradlabError("like and exact are both given: say what the moments should be once")
    if like is not None and like not in ESTIMATORS:
        raise unknown("estimator", like, ESTIMATORS)
    if exact is not None and (len(exact) != 2 or not all(math.isfinite(v) for v in exact)):
        raise GradlabError(f"exact is {exact}: give two finite numbers, (mean, variance)")
    found = check(estimator, problem, k, draws, seed, wrt=wrt)
    if exact is None:
        own = found.estimator if isinstance(estimator, (str, Estimator)) else ""
        wanted = own if like is None else like
        if wanted not in ESTIMATORS:
            raise GradlabError(
                f"{found.estimator} has no exact moments of its own: say like='pathwise' (or another of "
                "gradlab.ESTIMATORS), or exact=(mean, variance)"
            )
        exact = problem.exact_moments(wanted, k, wrt=wrt)
    mean, variance = exact
    z_mean = z_score(found.mean - mean, found.se, mean)
    z_variance = z_score(found.variance - variance, found.variance_se, mean**2)
    if not (abs(z_mean) <= z and abs(z_variance) <= z):
        raise AssertionError(
            f"{found.estimator} has other moments on {found.problem} at k = {k}, by {wrt} (allowed |z| {z:g}):\n"
            f"  mean       {found.mean:.6g} +- {found.se:.1g}, exact {mean:.6g} (z = {z_mean:.1f})\n"
            f"  variance   {found.variance:.6g} +- {found.variance_se:.1g}, exact {variance:.6g} (z = {z_variance:.1f})"
        )
    return found


def _exact(problem: Problem, objective: str, k: int, wrt: str) -> float:
    if wrt != "phi":
        raise GradlabError(f"a function estimates the gradient by phi, not by {wrt!r}: write an Estimator for others")
    _transform(problem)
    # What the gradient is does not depend on who estimates it.
    (row,) = compare(problem, ("pathwise",), k, 2, objective=objective).to_dict("records")
    return float(row["exact"])


def _transform(problem: Problem) -> tuple[float, float]:
    """Centre and scale of the transform from base noise to samples."""
    if isinstance(problem, (BoxProblem, BoxGaussian)) and problem.dim == 1:
        return problem.phi, 1.0
    if isinstance(problem, NormalGaussian) and problem.dim == 1:
        return problem.mean, problem.std
    raise GradlabError(
        f"a function is checked on BoxProblem, BoxGaussian or NormalGaussian with dim = 1, not on "
        f"{type(problem).__name__} with dim = {getattr(problem, 'dim', '?')}: write an Estimator for others"
    )


def _positive(z: float) -> None:
    if not 0 < z < math.inf:
        raise GradlabError(f"z is {z}: allow a positive number of standard errors")


def _sample(
    function: Function, name: str, problem: Problem, k: int, draws: int, seed: int
) -> tuple[moments.HigherMoments, torch.dtype]:
    """Moments of the function's estimates, and their type."""
    centre, scale = _transform(problem)

    def log_weight(y: Tensor) -> Tensor:
        noise = ((y - centre) / scale).reshape(-1, 1)
        return problem.log_terms(noise).log_w(score=False).reshape(y.shape)

    state, dtype = moments.HigherMoments.init(), torch.float64
    chunk = max(1, CHUNK // k)
    for index, start in enumerate(range(0, draws, chunk)):
        size = min(chunk, draws - start)
        noise = problem.draw_noise(size, k, stream(seed, f"check/k={k}", index))
        samples = (centre + scale * noise).requires_grad_()
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(stream(seed, "check/global", index).initial_seed())
            found = _call(function, name, log_weight, samples, noise)
        if not isinstance(found, Tensor) or found.shape != (size,) or not found.is_floating_point():
            what = f"{found.dtype} {tuple(found.shape)}" if isinstance(found, Tensor) else type(found).__name__
            raise GradlabError(f"{name} returned {what}: return one estimate per draw, a tensor [{size}] of floats")
        if not bool(torch.isfinite(found).all()):
            raise GradlabError(f"{name} returned NaN or infinite estimates: check what it divides by")
        state, dtype = state.update(found.detach().double()), found.dtype
    return state, dtype


def _call(function: Function, name: str, *arguments: Any) -> Any:
    try:
        return function(*arguments)
    except (Exception, SystemExit) as error:  # whatever somebody else's code does
        raise GradlabError(
            f"{name} failed on (log_weight, samples, noise) with {type(error).__name__}: {error}"
        ) from error


def _like(problem: Problem, objective: str, k: int, wrt: str, mean: float, se: float) -> tuple[str, ...]:
    """Estimators whose exact mean is the measured one: what a wrong estimator may have become."""
    names = []
    for other in ESTIMATORS if objective == "iwae" else ():
        try:
            theirs, _ = problem.exact_moments(other, k, wrt=wrt)
        except GradlabError:  # not known exactly, or undefined at this k
            continue
        if not math.isnan(theirs) and abs(z_score(mean - theirs, se, mean)) <= Z:
            names.append(other)
    return tuple(names)
