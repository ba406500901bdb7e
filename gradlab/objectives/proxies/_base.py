"""Define the interface of proxies of rounding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import TYPE_CHECKING, ClassVar

from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.runtime.display import arguments, shown

if TYPE_CHECKING:
    from jaxtyping import Float


@shown
class Proxy(ABC):
    """A differentiable replacement of rounding.

    A proxy defines how a latent is drawn from its mean, what the decoder reads, and which derivative autograd computes.

    Attributes:
        name: its key in ``PROXIES``.
        forward_moves: whether the distribution of the latent moves with the mean (almost everywhere), so that the
            training objective has a derivative.
        path_is_true: whether autograd's derivative equals, in expectation, the derivative of the training objective.
        box: whether the latent is distributed as ``mean + U(-1/2, 1/2)``, jointly with autograd's derivative, so that
            all results for the unit box hold.

    Example:
        >>> import torch
        >>> import gradlab as gl
        >>> proxy = gl.PROXIES["straight-through"]
        >>> latent = proxy.sample(torch.tensor([0.2, 1.7]), torch.zeros(2))
        >>> proxy.decode(latent).tolist()
        [0.0, 2.0]
        >>> proxy.path_is_true
        False
    """

    name: ClassVar[str]
    forward_moves: ClassVar[bool] = True
    path_is_true: ClassVar[bool] = True
    box: ClassVar[bool] = False

    @abstractmethod
    def sample(self, mean: Float[Tensor, "*#shape"], noise: Float[Tensor, "*#shape"]) -> Float[Tensor, "*#shape"]:
        """Draw the latent that the prior evaluates.

        Args:
            mean: the values to round.
            noise: base noise from U(-1/2, 1/2); its shape broadcasts with ``mean``.

        Returns:
            The latent, in the broadcast shape.
        """

    def at(self, value: float) -> Proxy:
        """Return the same proxy with another parameter.

        Args:
            value: the parameter.

        Returns:
            The proxy with that parameter.

        Raises:
            GradlabError: if the proxy has no parameter, or the value is out of range.

        Example:
            >>> import gradlab as gl
            >>> gl.PROXIES["soft-rounding"].at(8.0).alpha
            8.0
        """
        raise GradlabError(f"the parameter is {value:g}, but proxy {self.name!r} takes no parameter: leave it out")

    def decode(self, latent: Float[Tensor, "*shape"]) -> Float[Tensor, "*shape"]:
        """Return what the decoder reads, by default the latent itself.

        Args:
            latent: the latent from ``sample``.

        Returns:
            The input of the decoder, in the shape of ``latent``.
        """
        return latent

    def _repr_rows_(self) -> dict[str, object]:
        declared = ("name", "forward_moves", "path_is_true", "box")
        return {**arguments(self), **{name: getattr(self, name) for name in declared}}
