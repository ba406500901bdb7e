"""``OneLatent``: exact answers by one-dimensional quadrature, for the box, the Normal and the rounded problems."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Callable
from typing import SupportsIndex

from gradlab.errors import NotExact, unknown
from gradlab.problems._oracle import moments
from gradlab.problems._oracle.quadrature import Array, Nodes
from gradlab.problems._oracle.vimco import check_vimco
from gradlab.problems.base import Problem, check_k

Moments = Callable[[int], tuple[float, float]]
"""k -> exact mean and variance of one draw."""


class OneLatent(Problem):
    """A problem with one latent coordinate, or independent copies of it.

    Subclasses define ``nodes`` in their constructor, and ``_moments``.

    Attributes:
        nodes: quadrature of the posterior: points, probabilities and log-weights of one coordinate.
    """

    nodes: Nodes

    def exact_bound(self, k: SupportsIndex) -> float:
        """Return ``E log (1/k sum_i w_i)``, nats."""
        return moments.bound(self.nodes, check_k(k))

    def exact_gradient(self, k: SupportsIndex, wrt: str = "phi") -> float:
        """Return ``dL_k/d wrt``, by default the mean of the pathwise estimator."""
        return self.exact_moments("pathwise", k, wrt)[0]

    def exact_limit(self) -> float:
        """Return ``log E_q[w]``, nats, the limit of the bound as k grows.

        Under the box it is the log evidence *inside the box*, which does not cover the true posterior.
        """
        return self.nodes.log_mean_weight()

    def exact_concentration(self, k: SupportsIndex) -> float:
        """Return ``E sum_i w~_i^2``; see :meth:`Problem.exact_concentration`."""
        return moments.concentration(self.nodes, check_k(k))

    def exact_moments(self, estimator: str, k: SupportsIndex, wrt: str = "phi") -> tuple[float, float]:
        """Return mean and variance of one draw of an estimator; see :meth:`Problem.exact_moments`."""
        table = self._moments(self.check_wrt(wrt))
        if not isinstance(estimator, str) or estimator not in table:
            raise NotExact(f"no exact moments on {type(self).__name__}: {unknown('estimator', estimator, table)}")
        return table[estimator](check_k(k))

    @abstractmethod
    def _moments(self, wrt: str) -> dict[str, Moments]:
        """Estimator name -> exact moments, for a valid ``wrt``."""


def zero_score_moments(nodes: Nodes, slope: Array) -> dict[str, Moments]:
    """Tabulate the exact moments by an inference parameter of a posterior whose score is 0.

    STL then drops nothing, and estimators that multiply a score are 0 in every draw.

    Args:
        nodes: the posterior ``[N]``.
        slope: ``d log w/d wrt`` at the nodes ``[N]``.
    """

    def linear(k: int) -> tuple[float, float]:
        return moments.linear(nodes, slope, k)

    def squared(k: int) -> tuple[float, float]:
        return moments.squared(nodes, slope, k)

    def zero(k: int) -> tuple[float, float]:
        return 0.0, 0.0

    table = dict.fromkeys(("pathwise", "stl"), linear) | dict.fromkeys(("dreg", "dreg-squared", "gdreg"), squared)
    return table | dict.fromkeys(("score", "nvil", "rws"), zero) | {"vimco": lambda k: zero(check_vimco(k))}


def not_exact(reason: str) -> Moments:
    """Return moments that raise ``NotExact`` when they are called."""

    def moments(k: int) -> tuple[float, float]:
        raise NotExact(reason)

    return moments


def in_one_dimension(estimator: str, dim: int) -> Moments:
    """Return moments that raise, for an estimator whose moments are not known for ``dim`` > 1."""
    return not_exact(
        f"exact moments of {estimator} are known in one dimension, not in {dim}: measure them on draws, or ask for "
        "pathwise, stl, dreg or rws"
    )
