"""``Problem``, the interface of every toy problem: samples and log-weights like any model, and the exact answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import Any, SupportsIndex

import torch
from torch import Tensor

from gradlab import noise
from gradlab.errors import GradlabError, NotExact
from gradlab.objectives.posteriors import Posterior
from gradlab.objectives.terms import LogTerms
from gradlab.runtime.display import shown
from gradlab.validation import checked, known, real, whole

Values = Mapping[str, Tensor | float]
NO_OVERRIDES: Mapping[str, Tensor] = {}
LARGEST = 1e75  # whose fourth power is a float
OF_ONE_COORDINATE = ("phi", "mean", "std")  # parameters of the posterior; in several dimensions the first coordinate's


@shown
@checked
class Problem(ABC):
    """A model whose bound and gradients are known exactly at any number of samples k.

    Subclasses define ``posterior``, ``parameters``, ``log_terms`` and the exact answers. ``wrt`` is always one of
    ``parameters``; ``"phi"`` is the inference parameter that the paper differentiates by.

    Attributes:
        dim: number of independent, identical coordinates. With several, parameters of the posterior belong to the first
            coordinate and parameters of the model are shared by all.
    """

    dim: int = 1

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the types of the arguments of constructors and public methods."""
        super().__init_subclass__(**options)
        checked(cls)

    @property
    @abstractmethod
    def posterior(self) -> Posterior:
        """The posterior at the problem's parameters, with the properties that estimators require of it."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, float]:
        """Name -> value of every parameter that a gradient can be taken with respect to."""

    def under(self, objective: str) -> Problem:
        """Return the problem sampled as the objective requires; with one latent, all objectives sample alike."""
        return self

    @abstractmethod
    def log_terms(
        self, noise: Tensor, overrides: Mapping[str, Tensor] = NO_OVERRIDES, *, walls: bool = False
    ) -> LogTerms:
        """Evaluate the log-weights of ``B`` draws of K samples.

        Args:
            noise: ``[B, K]`` base noise, from ``draw_noise``.
            overrides: parameter name -> ``[B]`` value in each draw, so that one backward pass gives a gradient per
                draw.
            walls: also evaluate the log-weight at the walls of the support, or at the points of another
                measure-valued derivative of the posterior.

        Returns:
            Terms ``[B, K, 1]``, nats, with one tap per term that a sample enters.

        Raises:
            GradlabError: noise is not ``[B, K]``, an override is unknown or not ``[B]``, or ``walls`` is set for a
                posterior without walls.
        """

    @abstractmethod
    def exact_bound(self, k: SupportsIndex) -> float:
        """Return ``E log (1/k sum_i w_i)``, nats.

        Raises:
            GradlabError: k is not an integer of at least 1.
        """

    @abstractmethod
    def exact_gradient(self, k: SupportsIndex, wrt: str = "phi") -> float:
        """Return the derivative of ``exact_bound(k)`` with respect to a parameter.

        Raises:
            GradlabError: k is not an integer of at least 1, or ``wrt`` is not one of ``parameters``.
        """

    @abstractmethod
    def exact_limit(self) -> float:
        """Return the limit of ``exact_bound(k)`` as k grows, nats."""

    def exact_concentration(self, k: SupportsIndex) -> float:
        """Return ``E sum_i w~_i^2``, from 1/k (all weights equal) to 1 (one sample has all the weight).

        Raises:
            NotExact: not known for this problem.
            GradlabError: k is not an integer of at least 1.
        """
        raise NotExact(f"no exact effective sample size is known on {type(self).__name__}: measure it on draws")

    def exact_ess(self, k: SupportsIndex) -> float:
        """Return the effective sample size ``1 / E sum_i w~_i^2``, from 1 to k.

        By convexity it is at most the mean over draws of ``1 / sum_i w~_i^2``, for which no exact form is known.

        Raises:
            GradlabError: k is not an integer of at least 1.
        """
        return 1 / self.exact_concentration(k)

    def exact_wake_gradient(self, wrt: str = "phi") -> float:
        """Return ``d/d wrt`` of ``E_p(y|x) log q(y; wrt)``, the limit in k of the wake-phi gradient.

        Source: Bornschein & Bengio 2015, reweighted wake-sleep.

        Raises:
            NotExact: not known for this problem, or nonexistent.
            GradlabError: ``wrt`` is not an inference parameter.
        """
        raise NotExact(f"no exact wake-phi gradient is known on {type(self).__name__}")

    def exact_moments(self, estimator: str, k: SupportsIndex, wrt: str = "phi") -> tuple[float, float]:
        """Return mean and variance of one draw (k samples) of an estimator of the gradient with respect to ``wrt``.

        Raises:
            NotExact: no exact moments are known for this estimator, or not at this k.
            GradlabError: k is not an integer of at least 1, or ``wrt`` is not one of ``parameters``.
        """
        raise NotExact(f"no exact moments are known on {type(self).__name__}")

    def draw_noise(
        self,
        draws: SupportsIndex,
        k: SupportsIndex,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Tensor:
        """Draw the posterior's base noise, ``[draws, k]`` (``[draws, k, dim]`` in several dimensions).

        Raises:
            GradlabError: ``draws`` or ``k`` is below 1.
        """
        shape = (whole("draws", draws, 1), check_k(k), *self._coordinates)
        return noise.draw(self.posterior.base, shape, generator, dtype)

    def _repr_arguments_(self) -> dict[str, Any]:
        return {**getattr(vars(self).get("model"), "__dict__", {}), **vars(self)}

    @property
    def _coordinates(self) -> tuple[int, ...]:
        """The axes of noise after ``[draws, k]``."""
        return (self.dim,) if self.dim > 1 else ()

    def check_wrt(self, wrt: str) -> str:
        """Return ``wrt`` if it names a parameter.

        Raises:
            GradlabError: it is not one of ``parameters``.
        """
        return known(f"parameter (wrt) of {type(self).__name__}:", wrt, self.parameters)

    def _values(self, base: Tensor, overrides: Mapping[str, Tensor]) -> dict[str, Tensor | float]:
        """Parameters with overrides as ``[B, 1]``, to broadcast with noise ``base [B, K]``.

        In several dimensions ``[B, 1, 1]``; ``[B, 1, dim]`` for parameters of the posterior, overridden in the first
        coordinate only.
        """
        if base.ndim < 2 or base.shape[2:] != self._coordinates:
            axes = ", ".join(("draws", "k", *map(str, self._coordinates)))
            raise GradlabError(f"noise has shape {tuple(base.shape)}: give [{axes}], as draw_noise does")
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


def widened(values: Values) -> dict[str, Tensor | float]:
    """Append an axis to every tensor, so that ``[B, 1]`` broadcasts with points ``[B, K, M]``."""
    return {name: value[..., None] if isinstance(value, Tensor) else value for name, value in values.items()}


def value_and_slope(function: Callable[[Tensor], Tensor], y: Tensor) -> tuple[Tensor, Tensor]:
    """Evaluate an elementwise function and its derivative, 0 where it is constant, both detached.

    Args:
        function: elementwise.
        y: points of any shape, a leaf or detached; made to require a gradient.
    """
    y.requires_grad_()
    with torch.enable_grad():
        value = function(y)
        total = value.sum()
    slope = torch.autograd.grad(total, y, allow_unused=True)[0] if total.requires_grad else None
    return value.detach(), torch.zeros_like(y.detach()) if slope is None else slope


def check_k(k: SupportsIndex) -> int:
    """Return the number of samples as an int.

    Raises:
        GradlabError: it is not an integer of at least 1.
    """
    return whole("k", k, 1, "samples")


def check_real(name: str, value: float) -> float:
    """Return ``value`` as a float.

    Raises:
        GradlabError: it is not a finite number.
    """
    number = real(name, value)
    if abs(number) > LARGEST:
        raise GradlabError(f"{name} is {number}: its powers are beyond floats, give at most {LARGEST:g}")
    return number


def check_parameters(model: Any) -> None:
    """Replace the fields of a frozen dataclass of parameters by floats; those named ``*std`` must be above 0.

    Raises:
        GradlabError: a field is not a finite number, or a standard deviation is not above 0.
    """
    for name in (field.name for field in fields(model) if field.type != "bool"):
        check = check_std if name.endswith("std") else check_real
        object.__setattr__(model, name, check(name, getattr(model, name)))


def check_std(name: str, value: float) -> float:
    """Return ``value`` as a float.

    Raises:
        GradlabError: it is not a finite number above 0.
    """
    number = check_real(name, value)
    if number <= 0:
        raise GradlabError(f"{name} is {number}: a standard deviation must be above 0")
    if number < 1 / LARGEST:
        raise GradlabError(f"{name} is {number}: its powers are beyond floats, give at least {1 / LARGEST:g}")
    return number
