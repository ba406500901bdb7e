"""What a proxy of rounding is."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from gradlab.errors import GradlabError


class Proxy(ABC):
    """How a latent is drawn from its mean, what the decoder reads, and what autograd takes for the derivative.

    Attributes:
        name: its key in ``PROXIES``.
        forward_moves: whether the law of the latent moves with the mean (almost everywhere), so that what is trained
            has a derivative at all.
        path_is_true: whether autograd's derivative is, in expectation, that of what is trained.
        box: whether the latent is distributed as ``mean + U(-1/2, 1/2)``, jointly with the derivative that autograd
            takes: then everything that is true of the unit box is true of this proxy.
    """

    name: ClassVar[str]
    forward_moves: ClassVar[bool] = True
    path_is_true: ClassVar[bool] = True
    box: ClassVar[bool] = False

    @abstractmethod
    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        """The latent that is scored by the prior, from base noise of U(-1/2, 1/2); shapes broadcast."""

    def at(self, value: float) -> Proxy:
        """The same proxy with another parameter.

        Raises:
            GradlabError: it has none, or not of this value.
        """
        raise GradlabError(f"proxy {self.name!r} takes no parameter, but {value:g} is given: leave it out")

    def decode(self, latent: Tensor) -> Tensor:
        """What the decoder reads of the latent: the latent itself, unless the method says otherwise."""
        return latent
