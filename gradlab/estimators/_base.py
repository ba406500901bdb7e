"""What an estimator is, and the two things it can do to a path: leave it, or rescale it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.objectives import Factors, Objective, objective
from gradlab.posteriors import Posterior
from gradlab.terms import LogTerms


@dataclass(frozen=True)
class Requirement:
    """Something that an estimator needs of a posterior, at a sample size, to be unbiased.

    Attributes:
        needs: how the sentence goes on after "it needs ...".
        met: whether the posterior gives it at sample size k.
    """

    needs: str
    met: Callable[[Posterior, int], bool]


FIXED_SUPPORT = Requirement("a support that does not move with the parameters", lambda q, k: not q.support_moves)
ZERO_SCORE_OR_ONE_SAMPLE = Requirement(
    "a posterior whose score is zero, or a single sample", lambda q, k: q.score_is_zero or k == 1
)


@dataclass(frozen=True)
class Estimator:
    """A gradient estimator: from terms and samples to a surrogate whose gradient is the estimate.

    Attributes:
        name: its key in ``ESTIMATORS``.
        surrogate: ``(terms, objective, weighting, scale) -> [B]``; its value is the objective's.
        requires: what it needs of the posterior to be unbiased.
    """

    name: str
    surrogate: Callable[[LogTerms, Objective, str, str], Tensor]
    requires: tuple[Requirement, ...] = ()

    def __call__(
        self, terms: LogTerms, objective_name: str | Objective = "iwae", weighting: str = "joint", scale: str = "nats"
    ) -> Tensor:
        """The surrogate ``[B]``: back-propagate its sum (or mean) to get the gradient estimate of each image.

        One set of terms serves one estimator: some leave hooks on the samples' graph.

        Raises:
            GradlabError: unknown objective, terms that already served an estimator that rescales paths, or terms that
                lack what this estimator reads.
        """
        if any(tap.value._backward_hooks for tap in terms.taps):
            raise GradlabError(
                "these terms already served an estimator that rescales their paths: compute the terms anew"
            )
        return self.surrogate(terms, objective(objective_name), weighting, scale)

    def unmet(self, posterior: Posterior, k: int) -> list[str]:
        """What this posterior does not give at sample size k; empty where the estimator is unbiased."""
        return [r.needs for r in self.requires if not r.met(posterior, k)]


def rescale_paths(terms: LogTerms, factors: Factors | float, name: str) -> None:
    """Multiply the gradient that returns through each tap by its factor, whenever the graph is back-propagated.

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
            continue  # the samples depend on no parameter: there is no path to rescale
        if isinstance(factors, float):
            factor: Tensor | float = factors
        else:
            w = factors[tap.latent, tap.term]
            factor = w.reshape(w.shape + (1,) * (tap.value.ndim - 2))
        tap.value.register_hook(lambda grad, factor=factor: grad * factor)
