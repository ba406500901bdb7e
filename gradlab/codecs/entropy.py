"""CompressAI's entropy models with a likelihood of samples that are already noisy.

Their ``forward`` draws noise from the global generator. Here a sample is drawn once, outside, and every term scores
this sample. State-dict keys, ``compress`` and ``decompress`` are CompressAI's.
"""

from __future__ import annotations

from compressai.entropy_models import EntropyBottleneck, GaussianConditional
from torch import Tensor

from gradlab.codecs.precision import without_autocast


class Bottleneck(EntropyBottleneck):
    """The factorised prior p(z) of Balle et al. 2018."""

    def likelihood(self, samples: Tensor) -> Tensor:
        """Compute the probability mass of the unit box around each sample, ``[N, C, h, w]``.

        CompressAI's lower bound of 1e-9 and its asymmetric gradient (``LowerBound``) are kept: below the bound the
        gradient is not the derivative of the value.
        """
        n, c = samples.shape[:2]
        # A static permute: CompressAI's own is built from tensors, which costs a host synchronisation on a GPU.
        values = samples.transpose(0, 1).reshape(c, 1, -1)
        with without_autocast(samples.device):  # matrix products: a user's autocast would round log p(z) to 8 bits
            mass = self._likelihood(values)
        mass = mass[0] if isinstance(mass, tuple) else mass  # 1.2.4 returned a tensor
        if self.use_likelihood_bound:
            mass = self.likelihood_lower_bound(mass)
        return mass.reshape(c, n, *samples.shape[2:]).transpose(0, 1)

    def rounded(self, z: Tensor) -> Tensor:
        """Round ``z [N, C, h, w]`` about the medians, as ``compress`` does."""
        return self.quantize(z, "dequantize", self._get_medians().detach()[:, 0, 0, None, None])


class Conditional(GaussianConditional):
    """p(y | z): a Normal of the predicted scale and mean, integrated over the unit box."""

    def likelihood(self, samples: Tensor, scales: Tensor, means: Tensor | None = None) -> Tensor:
        """Compute the probability mass of the unit box around each sample; shapes broadcast; a mean of None is 0.

        CompressAI's bounds (scale 0.11, mass 1e-9) and their asymmetric gradients are kept, as in ``Bottleneck``.
        """
        mass = self._likelihood(samples, scales, means)
        return self.likelihood_lower_bound(mass) if self.use_likelihood_bound else mass
