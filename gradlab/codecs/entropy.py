"""CompressAI's entropy models with likelihoods of samples that are already noisy.

CompressAI's ``forward`` draws noise from the global generator. Here a sample is drawn once by the caller, and every
term scores that sample. State-dict keys, ``compress`` and ``decompress`` are CompressAI's.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from torch import Tensor

from gradlab.codecs.precision import without_autocast

if TYPE_CHECKING:
    from jaxtyping import Float


class Bottleneck(EntropyBottleneck):
    """The factorised prior p(z) of Balle et al. 2018."""

    def likelihood(
        self, samples: Float[Tensor, "batch channels rows columns"]
    ) -> Float[Tensor, "batch channels rows columns"]:
        """Compute the probability mass of the unit box around each sample.

        CompressAI's lower bound of 1e-9 and its asymmetric gradient (``LowerBound``) are kept: below the bound the
        gradient is not the derivative of the value.

        Args:
            samples: noisy or quantised latents.

        Returns:
            The probability masses, with the shape of ``samples``.

        Example:
            >>> import torch
            >>> from gradlab.codecs.entropy import Bottleneck
            >>> mass = Bottleneck(6).likelihood(torch.rand(2, 6, 4, 4))
            >>> tuple(mass.shape), bool((mass <= 1).all())
            ((2, 6, 4, 4), True)
        """
        n, c = samples.shape[:2]
        # A static permutation. CompressAI builds its permutation from tensors, which synchronises with the host.
        values = samples.transpose(0, 1).reshape(c, 1, -1)
        with without_autocast(samples.device):  # autocast would reduce the matrix products to an 8-bit mantissa
            mass = self._likelihood(values)
        mass = mass[0] if isinstance(mass, tuple) else mass  # CompressAI 1.2.4 returned a tensor
        if self.use_likelihood_bound:
            mass = self.likelihood_lower_bound(mass)
        return mass.reshape(c, n, *samples.shape[2:]).transpose(0, 1)

    def rounded(self, z: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch channels rows columns"]:
        """Round z about the medians, as ``compress`` does.

        Args:
            z: latents.

        Returns:
            The rounded latents.

        Example:
            >>> import torch
            >>> from gradlab.codecs.entropy import Bottleneck
            >>> z = 10 * torch.randn(2, 6, 4, 4)
            >>> bool((Bottleneck(6).rounded(z) - z).abs().max() <= 0.5)
            True
        """
        return self.quantize(z, "dequantize", self._get_medians().detach()[:, 0, 0, None, None])


class Conditional(GaussianConditional):
    """The conditional prior p(y | z): a Normal with predicted scale and mean, integrated over the unit box."""

    def likelihood(
        self,
        samples: Float[Tensor, "*samples"],
        scales: Float[Tensor, "*scales"],
        means: Float[Tensor, "*means"] | None = None,
    ) -> Float[Tensor, "*masses"]:
        """Compute the probability mass of the unit box around each sample.

        CompressAI's bounds (scale 0.11, mass 1e-9) and their asymmetric gradients are kept, as in ``Bottleneck``.

        Args:
            samples: noisy or quantised latents.
            scales: standard deviations, broadcast with ``samples``.
            means: means, broadcast with ``samples``; None stands for 0.

        Returns:
            The probability masses, with the broadcast shape.

        Example:
            >>> import torch
            >>> from gradlab.codecs.entropy import Conditional
            >>> round(float(Conditional(None).likelihood(torch.zeros(1), torch.ones(1))), 4)
            0.3829
        """
        mass = self._likelihood(samples, scales, means)
        return self.likelihood_lower_bound(mass) if self.use_likelihood_bound else mass
