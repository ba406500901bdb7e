"""The factorised prior of Balle et al. 2018: one latent y, with a learned p(y) per channel, and no z.

.. code-block:: none

         x --> g_a --> y --> y + u_1..k --+--> g_s --> x_hat_1..k    log p(x | y_i)
                                          |
                                          +--> p(y_i)                log p(y_i)
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

from compressai.models import FactorizedPrior
from torch import Tensor, nn

from gradlab.codecs.base import Codec
from gradlab.codecs.shared import fold, unfold
from gradlab.errors import GradlabError
from gradlab.objectives.terms import Tap

if TYPE_CHECKING:
    from jaxtyping import Float


class Factorized(Codec, FactorizedPrior):
    """CompressAI's ``FactorizedPrior``. ``log_pz`` is 0, and ``direct_y`` is always True, because there is no h_a.

    Source:
        J. Balle et al., "Variational image compression with a scale hyperprior" (2018).
    """

    has_z = False

    @property
    def direct_y(self) -> bool:
        """Always True."""
        return True

    @direct_y.setter
    def direct_y(self, value: bool) -> None:
        if not value:
            raise GradlabError("direct_y is False, but bmshj2018-factorized has no z: leave direct_y at True")

    @classmethod
    def channels_of(cls, state: Mapping[str, Tensor]) -> tuple[int, ...]:
        """Infer ``(N, M)`` from the output channels of the first and the last layer of g_a.

        Args:
            state: state dict with the keys of this model.

        Returns:
            The channels in the order of ``channel_names``.
        """
        return state["g_a.0.weight"].shape[0], state["g_a.6.weight"].shape[0]

    def groups(self) -> dict[str, nn.Module]:
        """Return the module groups of Table 3 that exist: g_a, g_s, and the entropy bottleneck, here the prior of y."""
        return {"y infer": self.g_a, "y gen": self.g_s, "y prior": self.entropy_bottleneck}

    def likelihoods(
        self,
        y_hat: Float[Tensor, "batch channels rows columns"],
        z_hat: Float[Tensor, "batch z_channels z_rows z_columns"] | None,
    ) -> dict[str, Tensor]:
        """Compute the probability mass of each element of y.

        Args:
            y_hat: y after rounding, universal quantization or additive noise.
            z_hat: ignored.

        Returns:
            The probability mass of ``"y"``.
        """
        return {"y": self.entropy_bottleneck.likelihood(y_hat)}

    def _hyper(self, y: Tensor) -> None:
        return None

    def _log_prior(self, y: Tensor, z: Tensor | None) -> tuple[Tensor, float, tuple[Tap, ...]]:
        mass = unfold(self.entropy_bottleneck.likelihood(fold(y)), len(y))
        return mass.log().sum(dim=(2, 3, 4))[:, :, None], 0.0, ()

    def _rounded(self, y: Tensor, z_hat: Tensor | None) -> Tensor:
        return self.entropy_bottleneck.rounded(y)
