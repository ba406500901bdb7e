"""Define ``OneLatent``: exact answers by one-dimensional quadrature, for box, Normal and rounded problems."""

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
        """Return the exact bound ``E log (1/k sum_i w_i)``.

        Args:
            k: number of samples.

        Returns:
            The bound in nats.

        Raises:
            GradlabError: if ``k`` is not an integer of at least 1.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.NormalGaussian(mean=0.3, std=1.0, x=1.0)
            >>> round(problem.exact_bound(1), 4), round(problem.exact_bound(1000), 4)
            (-1.7089, -1.5156)
        """
        return moments.bound(self.nodes, check_k(k))

    def exact_gradient(self, k: SupportsIndex, wrt: str = "phi") -> float:
        """Return ``dL_k/d wrt``, by default the mean of the pathwise estimator.

        Args:
            k: number of samples.
            wrt: one of ``parameters``.

        Returns:
            The derivative in nats per unit of ``wrt``.

        Raises:
            GradlabError: if ``k`` is not an integer of at least 1, or ``wrt`` is not one of ``parameters``.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.NormalGaussian(mean=0.3, std=1.0, x=1.0)
            >>> round(problem.exact_gradient(8, "mean"), 4), round(problem.exact_gradient(8, "std"), 4)
            (0.0216, -0.0484)
        """
        return self.exact_moments("pathwise", k, wrt)[0]

    def exact_limit(self) -> float:
        """Return ``log E_q[w]``, the limit of the bound as k grows.

        Under the box this is the log evidence *inside the box*, which does not cover the true posterior.

        Returns:
            The limit in nats.

        Example:
            >>> import gradlab as gl
            >>> box = gl.problems.BoxGaussian(phi=0.3, x=1.0)
            >>> normal = gl.problems.NormalGaussian(mean=0.3, std=1.0, x=1.0)
            >>> round(box.exact_limit(), 4), round(normal.exact_limit(), 4)
            (-2.2023, -1.5155)
        """
        return self.nodes.log_mean_weight()

    def exact_concentration(self, k: SupportsIndex) -> float:
        """Return ``E sum_i w~_i^2``, the expected concentration of the normalised weights.

        Args:
            k: number of samples.

        Returns:
            A number from 1/k (all weights are equal) to 1 (one sample has all the weight).

        Raises:
            GradlabError: if ``k`` is not an integer of at least 1.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.NormalGaussian(mean=0.3, std=1.0, x=1.0)
            >>> round(problem.exact_concentration(8), 4)
            0.1486
        """
        return moments.concentration(self.nodes, check_k(k))

    def exact_moments(self, estimator: str, k: SupportsIndex, wrt: str = "phi") -> tuple[float, float]:
        """Return the exact mean and variance of one draw of an estimator.

        Args:
            estimator: a name from ``ESTIMATORS``.
            k: samples per draw.
            wrt: the parameter that the estimator differentiates with respect to, one of ``parameters``.

        Returns:
            Mean and variance of one draw of k samples, in nats per unit of ``wrt`` and its square.

        Raises:
            NotExact: if no exact moments are known for this estimator, or not at this k.
            GradlabError: if ``k`` is not an integer of at least 1, or ``wrt`` is not one of ``parameters``.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.NormalGaussian(mean=0.3, std=1.0, x=1.0)
            >>> mean, variance = problem.exact_moments("dreg", k=8)
            >>> round(mean, 4), round(variance, 4)
            (0.0216, 0.001)
        """
        table = self._moments(self.check_wrt(wrt))
        if not isinstance(estimator, str) or estimator not in table:
            raise NotExact(f"no exact moments on {type(self).__name__}: {unknown('estimator', estimator, table)}")
        return table[estimator](check_k(k))

    @abstractmethod
    def _moments(self, wrt: str) -> dict[str, Moments]:
        """Return exact moments by estimator name, for a valid ``wrt``."""


def zero_score_moments(nodes: Nodes, slope: Array) -> dict[str, Moments]:
    """Tabulate the exact moments for an inference parameter of a posterior whose score is 0.

    Without a score STL drops nothing, and estimators that multiply a score are 0 in every draw.

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
    """Return moments that raise ``NotExact``, for an estimator whose moments are not known for ``dim`` > 1."""
    return not_exact(
        f"exact moments of {estimator} are known in one dimension, not in {dim}: estimate them from draws, or use "
        "pathwise, stl, dreg or rws"
    )
