"""Define ``Problem``, the interface of every toy problem: samples and log-weights, and the exact answers."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import fields
from typing import TYPE_CHECKING, Any, SupportsIndex

import torch
from torch import Tensor

from gradlab import noise
from gradlab.errors import GradlabError, NotExact
from gradlab.objectives.posteriors import Posterior
from gradlab.objectives.terms import LogTerms
from gradlab.runtime.display import shown
from gradlab.validation import checked, known, real, whole

if TYPE_CHECKING:
    from jaxtyping import Float

Values = Mapping[str, Tensor | float]
NO_OVERRIDES: Mapping[str, Tensor] = {}
LARGEST = 1e75  # its fourth power is still a finite float
OF_ONE_COORDINATE = ("phi", "mean", "std")  # posterior parameters: in several dimensions, of the first coordinate only


@shown
@checked
class Problem(ABC):
    """A model whose bound and gradients are known exactly at any number of samples k.

    Subclasses define ``posterior``, ``parameters``, ``log_terms`` and the exact answers. The argument ``wrt`` always
    names one of ``parameters``; ``"phi"`` is the inference parameter that the paper differentiates with respect to.

    Attributes:
        dim: number of independent, identical coordinates. If there are several, the parameters of the posterior belong
            to the first coordinate, and all coordinates share the parameters of the model.

    Example:
        >>> import gradlab as gl
        >>> problem = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
        >>> list(problem.parameters)
        ['phi', 'prior_std', 'slope', 'offset', 'likelihood_std']
        >>> round(problem.exact_bound(8), 4), round(problem.exact_gradient(8), 4)
        (-2.171, 1.7574)
        >>> noise = problem.draw_noise(draws=5, k=8)
        >>> problem.log_terms(noise).shape
        (5, 8, 1)
    """

    dim: int = 1

    def __init_subclass__(cls, **options: Any) -> None:
        """Check the argument types of gradlab's own problems, not of users' subclasses."""
        super().__init_subclass__(**options)
        if cls.__module__.startswith("gradlab."):
            checked(cls)

    @property
    @abstractmethod
    def posterior(self) -> Posterior:
        """The posterior at the problem's parameters, with the properties that estimators require."""

    @property
    @abstractmethod
    def parameters(self) -> dict[str, float]:
        """All parameters that a gradient can be taken with respect to, by name."""

    def under(self, objective: str) -> Problem:
        """Return the problem sampled as an objective requires.

        Problems with one latent draw the same samples for every objective and return themselves.

        Args:
            objective: a name from ``OBJECTIVES``.

        Returns:
            The problem to draw from.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxGaussian(phi=0.3, x=1.0)
            >>> problem.under("elbo") is problem
            True
        """
        return self

    @abstractmethod
    def log_terms(
        self,
        noise: Float[Tensor, "batch k *dim"],
        overrides: Mapping[str, Tensor] = NO_OVERRIDES,
        *,
        walls: bool = False,
    ) -> LogTerms:
        """Evaluate the log-weights of B draws of K samples.

        Args:
            noise: base noise ``[B, K]`` from ``draw_noise``.
            overrides: parameter name -> ``[B]``, the value of that parameter in each draw. One backward pass then gives
                one gradient per draw.
            walls: whether to evaluate the log-weight at the walls of the support too, or at the points of another
                measure-valued derivative of the posterior.

        Returns:
            Terms ``[B, K, 1]`` in nats, with one tap for each term that a sample enters.

        Raises:
            GradlabError: if ``noise`` is not ``[B, K]``, an override is unknown or not ``[B]``, or ``walls`` is set for
                a posterior without walls.
        """

    @abstractmethod
    def exact_bound(self, k: SupportsIndex) -> float:
        """Return the exact bound ``E log (1/k sum_i w_i)``.

        Args:
            k: number of samples.

        Returns:
            The bound in nats.

        Raises:
            GradlabError: if ``k`` is not an integer of at least 1.
        """

    @abstractmethod
    def exact_gradient(self, k: SupportsIndex, wrt: str = "phi") -> float:
        """Return the derivative of ``exact_bound(k)`` with respect to a parameter.

        Args:
            k: number of samples.
            wrt: one of ``parameters``.

        Returns:
            The derivative in nats per unit of ``wrt``.

        Raises:
            GradlabError: if ``k`` is not an integer of at least 1, or ``wrt`` is not one of ``parameters``.
        """

    @abstractmethod
    def exact_limit(self) -> float:
        """Return the limit of ``exact_bound(k)`` as k grows, in nats."""

    def exact_concentration(self, k: SupportsIndex) -> float:
        """Return ``E sum_i w~_i^2``, the expected concentration of the normalised weights.

        Args:
            k: number of samples.

        Returns:
            A number from 1/k (all weights are equal) to 1 (one sample has all the weight).

        Raises:
            NotExact: if the exact value is not known for this problem.
            GradlabError: if ``k`` is not an integer of at least 1.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
            >>> round(problem.exact_concentration(8), 4)
            0.1647
        """
        raise NotExact(f"{type(self).__name__} has no exact effective sample size: estimate it from draws")

    def exact_ess(self, k: SupportsIndex) -> float:
        """Return the effective sample size ``1 / E sum_i w~_i^2``.

        By convexity it is at most the mean over draws of ``1 / sum_i w~_i^2``, for which no exact form is known.

        Args:
            k: number of samples.

        Returns:
            A number from 1 to k.

        Raises:
            NotExact: if the exact value is not known for this problem.
            GradlabError: if ``k`` is not an integer of at least 1.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
            >>> round(problem.exact_ess(8), 2)
            6.07
        """
        return 1 / self.exact_concentration(k)

    def exact_wake_gradient(self, wrt: str = "phi") -> float:
        """Return the derivative of ``E_p(y|x) log q(y; wrt)``, the limit of the wake-phi gradient as k grows.

        Source: Bornschein & Bengio 2015, reweighted wake-sleep.

        Args:
            wrt: an inference parameter.

        Returns:
            The derivative in nats per unit of ``wrt``.

        Raises:
            NotExact: if the gradient is not known for this problem or does not exist.
            GradlabError: if ``wrt`` is not an inference parameter.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.NormalGaussian(mean=0.3, std=1.0, x=1.0)
            >>> round(problem.exact_wake_gradient("mean"), 4)
            0.2
        """
        raise NotExact(f"{type(self).__name__} has no exact wake-phi gradient: use NormalGaussian")

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
            >>> problem = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
            >>> mean, variance = problem.exact_moments("dreg", k=8)
            >>> round(mean, 4), round(variance, 4)
            (0.2229, 0.0056)
        """
        raise NotExact(f"{type(self).__name__} has no exact moments: estimate them from draws")

    def draw_noise(
        self,
        draws: SupportsIndex,
        k: SupportsIndex,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Float[Tensor, "draws k *dim"]:
        """Draw the base noise of the posterior.

        Args:
            draws: number of independent draws.
            k: samples per draw.
            generator: random stream; None draws from the global generator of torch.
            dtype: floating-point type of the noise.

        Returns:
            Noise ``[draws, k]``, or ``[draws, k, dim]`` if there are several dimensions.

        Raises:
            GradlabError: if ``draws`` or ``k`` is below 1.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> problem = gl.problems.NormalGaussian(mean=0.3, std=1.0, x=1.0, dim=3)
            >>> problem.draw_noise(5, k=2, generator=torch.Generator().manual_seed(0)).shape
            torch.Size([5, 2, 3])
        """
        shape = (whole("draws", draws, 1), check_k(k), *self._coordinates)
        return noise.draw(self.posterior.base, shape, generator, dtype)

    def _repr_arguments_(self) -> dict[str, Any]:
        return {**getattr(vars(self).get("model"), "__dict__", {}), **vars(self)}

    @property
    def _coordinates(self) -> tuple[int, ...]:
        """The axes of the noise after ``[draws, k]``."""
        return (self.dim,) if self.dim > 1 else ()

    def check_wrt(self, wrt: str) -> str:
        """Return ``wrt`` if it is the name of a parameter.

        Args:
            wrt: the name to check.

        Returns:
            The same name.

        Raises:
            GradlabError: if ``wrt`` is not one of ``parameters``.

        Example:
            >>> import gradlab as gl
            >>> gl.problems.BoxGaussian(phi=0.3, x=1.0).check_wrt("slope")
            'slope'
        """
        return known(f"parameter (wrt) of {type(self).__name__}:", wrt, self.parameters)

    def _values(self, base: Tensor, overrides: Mapping[str, Tensor]) -> dict[str, Tensor | float]:
        """Return all parameters, the overridden ones as ``[B, 1]``, so that they broadcast with noise ``base [B, K]``.

        In several dimensions overridden values are ``[B, 1, 1]``; those of posterior parameters are ``[B, 1, dim]``,
        and only the first coordinate is overridden.
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
    """Evaluate an elementwise function and its derivative.

    Args:
        function: an elementwise function.
        y: points of any shape. The tensor is a leaf or detached, and is changed to require a gradient.

    Returns:
        Values and derivatives, both detached; the derivative is 0 if the function is constant.
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
        GradlabError: if it is not an integer of at least 1.
    """
    return whole("k", k, 1, "samples")


def check_real(name: str, value: float) -> float:
    """Return ``value`` as a float.

    Args:
        name: name of the argument, for the error.
        value: the number to check.

    Raises:
        GradlabError: if the value is not a finite number, or is so large that its fourth power overflows.
    """
    number = real(name, value)
    if abs(number) > LARGEST:
        raise GradlabError(f"{name} is {number}, whose powers overflow: give at most {LARGEST:g}")
    return number


def check_parameters(model: Any) -> None:
    """Convert the fields of a frozen dataclass of parameters to floats.

    Args:
        model: the dataclass; fields whose name ends in ``std`` must be above 0, and fields of type bool are left alone.

    Raises:
        GradlabError: if a field is not a finite number, or a standard deviation is not above 0.
    """
    for name in (field.name for field in fields(model) if field.type != "bool"):
        check = check_std if name.endswith("std") else check_real
        object.__setattr__(model, name, check(name, getattr(model, name)))


def check_std(name: str, value: float) -> float:
    """Return a standard deviation as a float.

    Args:
        name: name of the argument, for the error.
        value: the number to check.

    Raises:
        GradlabError: if the value is not a finite number above 0, or is so small that its powers underflow.
    """
    number = check_real(name, value)
    if number <= 0:
        raise GradlabError(f"{name} is {number}: give a standard deviation above 0")
    if number < 1 / LARGEST:
        raise GradlabError(f"{name} is {number}, whose powers underflow: give at least {1 / LARGEST:g}")
    return number
