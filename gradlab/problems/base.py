"""What every toy problem offers: samples and log-weights like any model, and the exact answers to compare with."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import Tensor

from gradlab import noise
from gradlab.errors import GradlabError, NotExact, unknown
from gradlab.objectives.posteriors import Posterior
from gradlab.objectives.terms import LogTerms
from gradlab.validation import checked_class

Moments = Callable[[int], tuple[float, float]]
NO_OVERRIDES: Mapping[str, Tensor] = {}
LARGEST = 1e75  # whose fourth power is a float
OF_ONE_COORDINATE = ("phi", "mean", "std")  # parameters of the posterior; in several dimensions the first coordinate's


class Problem(ABC):
    """A model with one latent coordinate, or independent copies of it, whose bound and gradients are known at any k.

    ``dim`` > 1 is a product of that many such coordinates: parameters of the posterior are then those of the first one,
    parameters of the model are shared by all.

    Final classes give ``posterior``, ``parameters``, ``log_terms`` and the exact answers. ``wrt`` is always one of
    ``parameters``; ``"phi"`` is the inference parameter that the paper differentiates by.
    """

    dim: int = 1

    def __init_subclass__(cls, **options: Any) -> None:
        """Constructors and public methods of every problem refuse arguments of a wrong kind."""
        super().__init_subclass__(**options)
        checked_class(cls)

    @property
    @abstractmethod
    def posterior(self) -> Posterior:
        """The posterior at the problem's own parameters, which says what estimators need to know of it."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, float]:
        """Name -> value of everything that a gradient may be taken by."""

    def under(self, objective: str) -> Problem:
        """The same problem, sampled as that objective takes its samples; one latent is sampled alike for all."""
        return self

    @abstractmethod
    def log_terms(
        self, noise: Tensor, overrides: Mapping[str, Tensor] = NO_OVERRIDES, *, walls: bool = False
    ) -> LogTerms:
        """Log-weights of ``B`` draws of K samples.

        Args:
            noise: ``[B, K]`` base noise, from ``draw_noise``.
            overrides: parameter name -> ``[B]`` its value in each draw, so that one backward gives a gradient per draw.
            walls: also evaluate the log-weight at the walls of the support, or at the points of another
                measure-valued derivative of the posterior.

        Returns:
            Terms ``[B, K, 1]``, nats, with one tap per term that a sample enters.

        Raises:
            GradlabError: noise is not ``[B, K]``, an override is unknown or not ``[B]``, or walls are asked of a
                posterior that has none.
        """

    @abstractmethod
    def exact_bound(self, k: int) -> float:
        """``E log (1/k sum_i w_i)``, nats.

        Raises:
            GradlabError: k is not an integer of at least 1.
        """

    @abstractmethod
    def exact_gradient(self, k: int, wrt: str = "phi") -> float:
        """The derivative of ``exact_bound(k)`` by a parameter.

        Raises:
            GradlabError: k is not an integer of at least 1, or ``wrt`` is not one of ``parameters``.
        """

    @abstractmethod
    def exact_limit(self) -> float:
        """What ``exact_bound(k)`` tends to as k grows, nats."""

    def exact_concentration(self, k: int) -> float:
        """``E sum_i w~_i^2``, from 1/k (all weights equal) to 1 (one sample has all the weight).

        Raises:
            NotExact: this problem does not know it.
            GradlabError: k is not an integer of at least 1.
        """
        raise NotExact(f"no exact effective sample size is known on {type(self).__name__}: measure it on draws")

    def exact_ess(self, k: int) -> float:
        """Effective sample size ``1 / E sum_i w~_i^2``, from 1 to k.

        The mean is inside: by convexity this is at most the mean over draws of ``1 / sum_i w~_i^2``, which has no
        identity of its own.

        Raises:
            NotExact: this problem does not know it.
            GradlabError: k is not an integer of at least 1.
        """
        return 1 / self.exact_concentration(k)

    def exact_wake_gradient(self, wrt: str = "phi") -> float:
        """``d/d wrt`` of ``E_p(y|x) log q(y; wrt)``, which wake-phi of reweighted wake-sleep ascends (its limit in k).

        Raises:
            NotExact: this problem does not know it, or it does not exist.
            GradlabError: ``wrt`` is not an inference parameter.
        """
        raise NotExact(f"no exact wake-phi gradient is known on {type(self).__name__}")

    @abstractmethod
    def _moments(self, wrt: str) -> dict[str, Moments]:
        """Estimator name -> exact (mean, variance) at k, for a valid ``wrt``."""

    def exact_moments(self, estimator: str, k: int, wrt: str = "phi") -> tuple[float, float]:
        """Exact mean and variance of one draw (k samples) of an estimator of the gradient by ``wrt``.

        Raises:
            NotExact: no exact moments are known for this estimator, or not at this k.
            GradlabError: k is not an integer of at least 1, or ``wrt``
                is not one of ``parameters``.
        """
        known = self._moments(self.check_wrt(wrt))
        if not isinstance(estimator, str) or estimator not in known:
            raise NotExact(f"no exact moments on {type(self).__name__}: {unknown('estimator', estimator, known)}")
        return known[estimator](check_k(k))

    def draw_noise(
        self, draws: int, k: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """Base noise ``[draws, k]`` (``[draws, k, dim]`` in several dimensions), of the kind that the posterior takes.

        Raises:
            GradlabError: ``draws`` or ``k`` is below 1.
        """
        return noise.draw(self.posterior.base, (draws, k, self.dim)[: 2 + (self.dim > 1)], generator, dtype)

    def check_wrt(self, wrt: str) -> str:
        """``wrt`` itself.

        Raises:
            GradlabError: it is not one of ``parameters``.
        """
        if not isinstance(wrt, str) or wrt not in self.parameters:
            raise unknown(f"parameter (wrt) of {type(self).__name__}:", wrt, self.parameters)
        return wrt

    def _values(self, base: Tensor, overrides: Mapping[str, Tensor]) -> dict[str, Tensor | float]:
        """Parameters with overrides put in as ``[B, 1]``, so that they broadcast with noise ``base [B, K]``.

        In several dimensions ``[B, 1, 1]``, and ``[B, 1, dim]`` for those of the posterior: the first coordinate's own.
        """
        if base.ndim != 2 and self.dim == 1:
            raise GradlabError(f"noise has shape {tuple(base.shape)}: give [draws, k], as draw_noise does")
        if self.dim > 1 and (base.ndim != 3 or base.shape[-1] != self.dim):
            raise GradlabError(f"noise has shape {tuple(base.shape)}: give [draws, k, {self.dim}], as draw_noise does")
        values: dict[str, Tensor | float] = dict(self.parameters)
        for name, value in overrides.items():
            if value.shape != base.shape[:1]:
                raise GradlabError(
                    f"override {name!r} has shape {tuple(value.shape)}: give one value per draw, [{base.shape[0]}]"
                )
            values[self.check_wrt(name)] = value[:, None] if self.dim == 1 else self._spread(name, value)
        return values

    def _spread(self, name: str, value: Tensor) -> Tensor:
        if name not in OF_ONE_COORDINATE:
            return value[:, None, None]
        others = value.new_full((len(value), self.dim - 1), self.parameters[name])
        return torch.cat([value[:, None], others], dim=1)[:, None]


checked_class(Problem)


def in_one_dimension(estimator: str, dim: int) -> Moments:
    """Moments that are not known for ``dim`` > 1.

    Raises:
        NotExact: when called.
    """

    def moments(k: int) -> tuple[float, float]:
        raise NotExact(
            f"exact moments of {estimator} are known in one dimension, not in {dim}: measure them on draws, or ask for "
            "pathwise, stl, dreg or rws"
        )

    return moments


def check_k(k: int) -> int:
    """``k`` as an int.

    Raises:
        GradlabError: it is not an integer of at least 1.
    """
    if isinstance(k, bool) or not hasattr(k, "__index__") or k < 1:
        raise GradlabError(f"k is {k!r}: give a whole number of samples, at least 1")
    return int(k)


def check_dim(dim: int) -> int:
    """``dim`` as an int.

    Raises:
        GradlabError: it is not an integer of at least 1.
    """
    if isinstance(dim, bool) or not hasattr(dim, "__index__") or dim < 1:
        raise GradlabError(f"dim is {dim!r}: give a whole number of coordinates, at least 1")
    return int(dim)


def check_real(name: str, value: float) -> float:
    """``value`` as a float.

    Raises:
        GradlabError: it is not a finite number.
    """
    try:
        if isinstance(value, (str, bool)):
            raise TypeError
        number = float(value)
    except (TypeError, ValueError, OverflowError, RuntimeError):
        raise GradlabError(f"{name} is {value!r}: give a number") from None
    if not math.isfinite(number):
        raise GradlabError(f"{name} is {number}: give a finite number")
    if abs(number) > LARGEST:
        raise GradlabError(f"{name} is {number}: its powers are beyond floats, give at most {LARGEST:g}")
    return number


def check_std(name: str, value: float) -> float:
    """``value`` as a float.

    Raises:
        GradlabError: it is not a finite number above 0.
    """
    number = check_real(name, value)
    if number <= 0:
        raise GradlabError(f"{name} is {number}: a standard deviation must be above 0")
    if number < 1 / LARGEST:
        raise GradlabError(f"{name} is {number}: its powers are beyond floats, give at least {1 / LARGEST:g}")
    return number
