"""``Estimator`` and what several estimators share: rescaled paths, moved samples, the score of log q."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.estimators._box import Array, BoxDraws
from gradlab.objectives.bounds import Factors, Objective, get_objective, log_sum_of_others, unit_factor
from gradlab.objectives.posteriors import Posterior
from gradlab.objectives.terms import LogTerms, Walls
from gradlab.runtime.display import shown
from gradlab.validation import checked

Fit = Callable[[LogTerms, Objective, str, str], "Estimator"]


@shown
@dataclass(frozen=True)
class Requirement:
    """A condition on the posterior, at a sample size, under which an estimator is unbiased.

    Attributes:
        needs: the condition, as it continues "it needs ...".
        met: whether a posterior meets it at sample size k.
        to_exist: whether the estimator is undefined without it, and not just biased.
    """

    needs: str
    met: Callable[[Posterior, int], bool]
    to_exist: bool = False

    def _repr_line_(self) -> str:
        return f"{self.needs!r}{', to exist' if self.to_exist else ''}"


FIXED_SUPPORT = Requirement("a support that does not move with the parameters", lambda q, k: not q.support_moves)
ZERO_SCORE_OR_ONE_SAMPLE = Requirement(
    "a posterior whose score is zero, or a single sample", lambda q, k: q.score_is_zero or k == 1
)
FIXED_SUPPORT_OR_WALLS = Requirement(
    "a support that does not move with the parameters, or one whose walls are known",
    lambda q, k: not q.support_moves or q.walls_known,
    to_exist=True,
)
DERIVATIVE = Requirement(
    "a posterior that gives its walls or another measure-valued derivative",
    lambda q, k: q.derivative_known,
    to_exist=True,
)
TRUE_PATH = Requirement("a sample whose derivative autograd knows", lambda q, k: q.path_is_true)
TWO_SAMPLES = Requirement("at least two samples", lambda q, k: k >= 2, to_exist=True)


@shown
@dataclass(frozen=True)
class Estimator:
    """A gradient estimator: from terms and samples to a surrogate whose gradient is the estimate.

    Attributes:
        name: its key in ``ESTIMATORS``.
        surrogate: ``(terms, objective, weighting, scale) -> [B]``; its value is the objective's.
        requires: its conditions on the posterior.
        walls: whether it reads the terms' ``walls``, which a model evaluates on request only.
        target: its target in the inference parameters, if that is not the gradient of the objective.
        fit: builds the fitted estimator from the terms of a pilot run, whose draws must not be used again.
        on_box: closed form ``[C]`` of the gradient by the centre for one latent under the unit box and objective
            ``iwae``, which ``compare`` uses there; None: autograd.
    """

    name: str
    surrogate: Callable[[LogTerms, Objective, str, str], Tensor]
    requires: tuple[Requirement, ...] = ()
    walls: bool = False
    target: str | None = None
    fit: Fit | None = None
    on_box: Callable[[BoxDraws], Array] | None = None

    @checked
    def __call__(
        self, terms: LogTerms, objective_name: str | Objective = "iwae", weighting: str = "joint", scale: str = "nats"
    ) -> Tensor:
        """Build the surrogate ``[B]``; the gradient of its sum (or mean) is the gradient estimate.

        Compute new terms for each estimator: some leave hooks on the samples' graph.

        Raises:
            GradlabError: unknown objective, terms that an estimator that rescales paths has used, or terms without the
                parts that this estimator reads.
        """
        if any(tap.value._backward_hooks for tap in terms.taps):
            raise GradlabError(
                "these terms already served an estimator that rescales their paths: compute the terms anew"
            )
        return self.surrogate(terms, get_objective(objective_name), weighting, scale)

    def _repr_line_(self) -> str:
        needs = textwrap.shorten("; ".join(r.needs for r in self.requires), 65, placeholder=" ...")
        return f"{self.name!r}{f', needs {needs}' if needs else ''}"

    def _repr_rows_(self) -> dict[str, object]:
        needs = [f"{r.needs} ({'to exist' if r.to_exist else 'to be unbiased'})" for r in self.requires]
        return {
            "name": self.name,
            "needs": "; ".join(needs) or "nothing",
            "reads walls": self.walls,
            "target": self.target or "the gradient of the objective",
            "fitted on a pilot run": self.fit is not None,
            "closed form on the box": self.on_box is not None,
        }

    def unmet(self, posterior: Posterior, k: int) -> list[str]:
        """List the conditions that this posterior does not meet at sample size k; none: the estimator is unbiased."""
        return [r.needs for r in self.requires if not r.met(posterior, k)]

    def undefined(self, posterior: Posterior, k: int) -> list[str]:
        """List the conditions in ``unmet`` without which the estimator is undefined."""
        return [r.needs for r in self.requires if r.to_exist and not r.met(posterior, k)]


def rescale_paths(terms: LogTerms, factors: Factors | float, name: str) -> None:
    """Multiply the gradient through each tap by its factor in every backward pass.

    Args:
        terms: terms with taps.
        factors: per ``(latent, term)`` a factor ``[B, K]`` or ``[B, L]``, or one number for all.
        name: the estimator, for the error.

    Raises:
        GradlabError: terms without taps.
    """
    if not terms.taps:
        raise GradlabError(
            f"{name} rescales the gradient that reaches each sample, but these terms name no taps: "
            "build LogTerms with taps=(Tap(view, 'y', 'lik'), ...)"
        )
    for tap in terms.taps:
        if not tap.value.requires_grad:
            continue  # the samples depend on no parameter: no path to rescale
        if isinstance(factors, float):
            factor: Tensor | float = factors
        else:
            w = factors[tap.latent, tap.term]
            factor = w.reshape(w.shape + (1,) * (tap.value.ndim - 2))
        tap.value.register_hook(lambda grad, factor=factor: grad * factor)


def check_joint(weighting: str, name: str) -> None:
    """Refuse per-term weighting.

    Raises:
        GradlabError: ``weighting`` is ``"per-term"``.
    """
    if weighting == "per-term":
        raise GradlabError(
            f"{name} needs the value of a bound, which weighting 'per-term' is not: use weighting='joint'"
        )


def exchangeable(terms: LogTerms, objective: Objective, weighting: str, scale: str, name: str) -> Tensor:
    """Return detached log-weights ``[B, K]`` of samples that can be replaced one at a time, in the unit of ``scale``.

    Raises:
        GradlabError: per-term weighting, a sample that several others share, or an objective that is not the (log)
            mean of the samples' (log-)weights.
    """
    check_joint(weighting, name)
    if objective.jackknife:
        raise GradlabError(f"{name} is not written for objective {objective.name!r}: use iwae or elbo")
    _, k, l = terms.shape
    shared = terms.samples[1] is not None and not terms.paired and k > 1
    if l > 1 or shared:
        raise GradlabError(
            f"{name} changes one sample at a time, but here a z is shared between the samples of y: use paired samples"
        )
    return unit_factor(terms, scale) * terms.log_w().detach()[:, :, 0]


def value_with(objective: Objective, log_w: Tensor, moved: Tensor) -> Tensor:
    """Compute the objective with the log-weight of sample i replaced by ``moved``, for each i.

    Args:
        objective: a mean of log-weights or a log mean of weights.
        log_w: ``[B, K]`` log-weights.
        moved: ``[B, K, M]`` log-weight of sample i at M other points.

    Returns:
        ``[B, K, M]``, in the unit of the log-weights.
    """
    k = log_w.shape[1]
    if objective.single:
        return log_w.mean(dim=1)[:, None, None] + (moved - log_w[:, :, None]) / k
    return torch.logaddexp(log_sum_of_others(log_w)[:, :, None], moved) - math.log(k)


def walls_of(terms: LogTerms, name: str) -> Walls:
    """Return the walls of the terms.

    Raises:
        GradlabError: the terms have none.
    """
    if terms.walls is None:
        raise GradlabError(
            f"{name} reads where the derivative of the posterior sits, but these terms name no walls: build LogTerms "
            "with walls=Walls(...), for a toy problem by log_terms(noise, walls=True)"
        )
    return terms.walls


def along(coefficients: Tensor, walls: Walls) -> Tensor:
    """Build 0 ``[B]`` whose gradient by each point's parameter is its coefficient ``[B, K, M]`` times its scale."""
    if walls.moves is None:
        return coefficients.new_zeros(coefficients.shape[0])
    return (coefficients.detach() * walls.scale * (walls.moves - walls.moves.detach())).sum(dim=(1, 2))


def sample_scores(terms: LogTerms) -> Tensor:
    """Build 0 ``[B, K]`` (terms as for ``exchangeable``) with the gradient of log q of sample i at fixed samples."""
    return sum(((s - s.detach())[:, :, 0] for s in terms.scores), start=terms.log_lik.new_zeros(terms.shape[:2]))
