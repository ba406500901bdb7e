"""The interface of proxies of rounding."""

from __future__ import annotations

from abc import ABC, abstractmethod
from typing import ClassVar

from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.runtime.display import arguments, shown


@shown
class Proxy(ABC):
    """How a latent is drawn from its mean, what the decoder reads, and which derivative autograd takes.

    Attributes:
        name: its key in ``PROXIES``.
        forward_moves: whether the distribution of the latent moves with the mean (almost everywhere), so that the
            training objective has a derivative.
        path_is_true: whether autograd's derivative is, in expectation, that of the training objective.
        box: whether the latent is distributed as ``mean + U(-1/2, 1/2)``, jointly with autograd's derivative, so that
            all results for the unit box hold.
    """

    name: ClassVar[str]
    forward_moves: ClassVar[bool] = True
    path_is_true: ClassVar[bool] = True
    box: ClassVar[bool] = False

    @abstractmethod
    def sample(self, mean: Tensor, noise: Tensor) -> Tensor:
        """Draw the latent that the prior scores from base noise of U(-1/2, 1/2); shapes broadcast."""

    def at(self, value: float) -> Proxy:
        """Return the same proxy with another parameter.

        Raises:
            GradlabError: the proxy has no parameter, or the value is out of its range.
        """
        raise GradlabError(f"proxy {self.name!r} takes no parameter, but {value:g} is given: leave it out")

    def decode(self, latent: Tensor) -> Tensor:
        """Return what the decoder reads: by default the latent itself."""
        return latent

    def _repr_rows_(self) -> dict[str, object]:
        declared = ("name", "forward_moves", "path_is_true", "box")
        return {**arguments(self), **{name: getattr(self, name) for name in declared}}
