"""Define ``Estimator`` and what several estimators share: rescaled paths, moved samples, the score of log q."""

from __future__ import annotations

import math
import textwrap
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.estimators._box import Array, BoxDraws
from gradlab.objectives.bounds import Factors, Objective, get_objective, log_sum_of_others, unit_factor
from gradlab.objectives.posteriors import Posterior
from gradlab.objectives.terms import LogTerms, Walls
from gradlab.runtime.display import shown
from gradlab.validation import checked

if TYPE_CHECKING:
    from jaxtyping import Float

Fit = Callable[[LogTerms, Objective, str, str], "Estimator"]


@shown
@dataclass(frozen=True)
class Requirement:
    """A condition on the posterior, at a sample size, under which an estimator is unbiased.

    Attributes:
        needs: the condition, as it continues "it needs ...".
        met: function ``(posterior, k) -> bool`` that returns whether the posterior meets the condition with k samples.
        to_exist: whether the estimator is undefined without the condition, and not just biased.

    Example:
        >>> import gradlab as gl
        >>> (requirement,) = gl.ESTIMATORS["dreg"].requires
        >>> requirement.needs
        'a support that does not move with the parameters'
        >>> requirement.met(gl.problems.BoxGaussian(phi=0.3, x=1.0).posterior, 8)
        False
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
    """A gradient estimator: maps terms and samples to a surrogate whose gradient is the estimate.

    Attributes:
        name: its key in ``ESTIMATORS``.
        surrogate: function ``(terms, objective, weighting, scale) -> [B]`` whose values are those of the objective.
        requires: its conditions on the posterior.
        walls: whether it reads the ``walls`` of the terms, which a model evaluates on request only.
        target: what it approximates for inference parameters, if not the gradient of the objective.
        fit: function that builds the fitted estimator from the terms of a pilot run, whose draws must not be used
            again.
        on_box: closed form ``[C]`` of the gradient with respect to the centre, for one latent under the unit box and
            the objective ``iwae``; ``compare`` uses it there. None: use autograd.

    Example:
        >>> import torch
        >>> import gradlab as gl
        >>> problem = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
        >>> phi = torch.full((1000,), 0.3, dtype=torch.float64, requires_grad=True)  # one value per draw
        >>> noise = problem.draw_noise(1000, k=8, generator=torch.Generator().manual_seed(0))
        >>> surrogate = gl.ESTIMATORS["pathwise"](problem.log_terms(noise, {"phi": phi}), "iwae")
        >>> surrogate.sum().backward()
        >>> round(phi.grad.mean().item(), 1), round(problem.exact_gradient(8), 1)
        (1.8, 1.8)
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
    ) -> Float[Tensor, " batch"]:
        """Build the surrogate; the gradient of its sum (or mean) is the gradient estimate.

        Compute new terms for each estimator, because some estimators leave hooks on the graph of the samples.

        Args:
            terms: log-weights, factor by factor.
            objective_name: a name from ``OBJECTIVES``, or an ``Objective``.
            weighting: ``"joint"`` or ``"per-term"``.
            scale: ``"nats"`` or ``"bpp"``.

        Returns:
            The surrogate ``[B]``.

        Raises:
            GradlabError: if the objective is unknown, another estimator has rescaled the paths of these terms, or the
                terms lack the parts that this estimator reads.
        """
        if any(tap.value._backward_hooks for tap in terms.taps):
            raise GradlabError(
                "another estimator has rescaled the paths of these terms: compute new terms for each estimator"
            )
        return self.surrogate(terms, get_objective(objective_name), weighting, scale)

    def _repr_line_(self) -> str:
        needs = textwrap.shorten("; ".join(r.needs for r in self.requires), 65, placeholder=" ...")
        return f"{self.name!r}{f', needs {needs}' if needs else ''}"

    def _repr_rows_(self) -> dict[str, object]:
        needs = [f"{r.needs} ({'otherwise undefined' if r.to_exist else 'otherwise biased'})" for r in self.requires]
        return {
            "name": self.name,
            "needs": "; ".join(needs) or "nothing",
            "reads walls": self.walls,
            "target": self.target or "the gradient of the objective",
            "fitted on a pilot run": self.fit is not None,
            "closed form on the box": self.on_box is not None,
        }

    def unmet(self, posterior: Posterior, k: int) -> list[str]:
        """List the conditions that a posterior does not meet; if there are none, the estimator is unbiased.

        Args:
            posterior: the posterior of the samples.
            k: number of samples.

        Returns:
            The conditions in words.

        Example:
            >>> import gradlab as gl
            >>> gl.ESTIMATORS["dreg"].unmet(gl.problems.BoxGaussian(phi=0.3, x=1.0).posterior, k=8)
            ['a support that does not move with the parameters']
        """
        return [r.needs for r in self.requires if not r.met(posterior, k)]

    def undefined(self, posterior: Posterior, k: int) -> list[str]:
        """List the conditions in ``unmet`` without which the estimator is undefined.

        Args:
            posterior: the posterior of the samples.
            k: number of samples.

        Returns:
            The conditions in words.

        Example:
            >>> import gradlab as gl
            >>> gl.ESTIMATORS["vimco"].undefined(gl.problems.NormalGaussian(0.3, 1.0, x=1.0).posterior, k=1)
            ['at least two samples']
        """
        return [r.needs for r in self.requires if r.to_exist and not r.met(posterior, k)]


def rescale_paths(terms: LogTerms, factors: Factors | float, name: str) -> None:
    """Multiply the gradient through each tap by its factor in every backward pass.

    Args:
        terms: terms with taps.
        factors: a factor ``[B, K]`` or ``[B, L]`` for each ``(latent, term)``, or one number for all.
        name: name of the estimator, for the error.

    Raises:
        GradlabError: if the terms have no taps.
    """
    if not terms.taps:
        raise GradlabError(
            f"the terms have no taps, at which {name} rescales the gradient of each sample: "
            "build LogTerms with taps=(Tap(view, 'y', 'lik'), ...)"
        )
    for tap in terms.taps:
        if not tap.value.requires_grad:
            continue  # the samples depend on no parameter, so there is no path to rescale
        if isinstance(factors, float):
            factor: Tensor | float = factors
        else:
            w = factors[tap.latent, tap.term]
            factor = w.reshape(w.shape + (1,) * (tap.value.ndim - 2))
        tap.value.register_hook(lambda grad, factor=factor: grad * factor)


def check_joint(weighting: str, name: str) -> None:
    """Reject per-term weighting.

    Args:
        weighting: ``"joint"`` or ``"per-term"``.
        name: name of the estimator, for the error.

    Raises:
        GradlabError: if ``weighting`` is ``"per-term"``.
    """
    if weighting == "per-term":
        raise GradlabError(
            f"weighting is 'per-term', whose value is not the bound that {name} needs: use weighting='joint'"
        )


def exchangeable(
    terms: LogTerms, objective: Objective, weighting: str, scale: str, name: str
) -> Float[Tensor, "batch k"]:
    """Return the detached log-weights of samples that can be replaced one at a time.

    Args:
        terms: log-weights, factor by factor.
        objective: the objective.
        weighting: ``"joint"`` or ``"per-term"``.
        scale: ``"nats"`` or ``"bpp"``.
        name: name of the estimator, for the error.

    Returns:
        Log-weights ``[B, K]`` in the unit of ``scale``.

    Raises:
        GradlabError: if the weighting is per-term, several samples share another one, or the objective is not the (log)
            mean of the samples' (log-)weights.
    """
    check_joint(weighting, name)
    if objective.jackknife:
        raise GradlabError(f"{name} does not support objective {objective.name!r}: use iwae or elbo")
    _, k, l = terms.shape
    shared = terms.samples[1] is not None and not terms.paired and k > 1
    if l > 1 or shared:
        raise GradlabError(
            f"a z is shared between the samples of y, but {name} changes one sample at a time: use paired samples"
        )
    return unit_factor(terms, scale) * terms.log_w().detach()[:, :, 0]


def value_with(
    objective: Objective, log_w: Float[Tensor, "batch k"], moved: Float[Tensor, "batch k m"]
) -> Float[Tensor, "batch k m"]:
    """Compute the objective with the log-weight of sample i replaced by ``moved``, for each i.

    Args:
        objective: a mean of log-weights or a log mean of weights.
        log_w: log-weights ``[B, K]``.
        moved: ``[B, K, M]``, the log-weight of sample i at M other points.

    Returns:
        Values ``[B, K, M]`` in the unit of the log-weights.
    """
    k = log_w.shape[1]
    if objective.single:
        return log_w.mean(dim=1)[:, None, None] + (moved - log_w[:, :, None]) / k
    return torch.logaddexp(log_sum_of_others(log_w)[:, :, None], moved) - math.log(k)


def walls_of(terms: LogTerms, name: str) -> Walls:
    """Return the walls of the terms.

    Args:
        terms: log-weights, factor by factor.
        name: name of the estimator, for the error.

    Raises:
        GradlabError: if the terms have none.
    """
    if terms.walls is None:
        raise GradlabError(
            f"the terms have no walls, which {name} needs: build LogTerms with walls=Walls(...), or for a toy problem "
            "use log_terms(noise, walls=True)"
        )
    return terms.walls


def along(coefficients: Float[Tensor, "batch k m"], walls: Walls) -> Float[Tensor, " batch"]:
    """Build a zero ``[B]`` whose gradient for each point's parameter is its coefficient ``[B, K, M]`` times scale."""
    if walls.moves is None:
        return coefficients.new_zeros(coefficients.shape[0])
    return (coefficients.detach() * walls.scale * (walls.moves - walls.moves.detach())).sum(dim=(1, 2))


def sample_scores(terms: LogTerms) -> Float[Tensor, "batch k"]:
    """Build a zero ``[B, K]`` with the gradient of log q of each fixed sample (terms as in ``exchangeable``)."""
    return sum(((s - s.detach())[:, :, 0] for s in terms.scores), start=terms.log_lik.new_zeros(terms.shape[:2]))
