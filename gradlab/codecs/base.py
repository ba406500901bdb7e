"""The base class of all image codecs: gradlab's forward pass around CompressAI's transforms and entropy models.

Sampling, scoring and decoding are implemented here once. Subclasses provide ``g_a``, ``g_s``, the hyperprior, p(y | z)
and the rounding of y. The same noisy sample of y is scored, read by the context model and decoded. CompressAI's own
forward pass of ``mbt2018`` and ``cheng2020`` draws two different samples for these purposes, which would make an
importance weight meaningless.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple, SupportsIndex

import torch
from compressai.models import CompressionModel
from torch import Tensor, nn

from gradlab.codecs.entropy import Bottleneck
from gradlab.codecs.precision import run_transform
from gradlab.codecs.shared import check_input, fold, log_likelihood, noise_like, rows_of, unfold
from gradlab.errors import GradlabError
from gradlab.noise import uniform
from gradlab.objectives.proxies import Proxy, get_proxy
from gradlab.objectives.terms import LogTerms, Tap
from gradlab.runtime.display import brief, shown, table
from gradlab.validation import checked, whole

if TYPE_CHECKING:
    from jaxtyping import Float


@shown
class Latents(NamedTuple):
    """Latents of images before and after quantisation, and the information content of the quantised latents.

    Attributes:
        y: output of g_a.
        z: output of h_a; None if the codec has no z.
        y_hat: quantised y, either as in the bitstream (``Codec.latents``) or by universal quantization
            (``Codec.universal``).
        z_hat: quantised z; None if the codec has no z.
        y_bits: -log2 p(y_hat | z_hat) in bits per image.
        z_bits: -log2 p(z_hat) in bits per image; 0 if the codec has no z.
    """

    y: Float[Tensor, "batch channels rows columns"]
    z: Float[Tensor, "batch z_channels z_rows z_columns"] | None
    y_hat: Float[Tensor, "batch channels rows columns"]
    z_hat: Float[Tensor, "batch z_channels z_rows z_columns"] | None
    y_bits: Float[Tensor, " batch"]
    z_bits: Float[Tensor, " batch"]

    def _repr_line_(self) -> str:
        return f"y={brief(self.y)}, z={brief(self.z)}, with y_hat, z_hat and their bits"


class Codec(CompressionModel):
    """Base class of image codecs: a CompressAI model with gradlab's forward pass.

    Subclasses list this class before CompressAI's. ``forward`` is replaced, while the parameters, their order and their
    state-dict keys stay the same, so state dicts can be exchanged with CompressAI in both directions.

    Gradients come from autograd through CompressAI's modules. They equal the derivatives except at CompressAI's lower
    bounds (0.11 for scales, 1e-9 for likelihoods, and those of GDN's parameters). Below a bound the value is constant,
    but gradients that would increase the argument still pass, so that training can leave the bound.

    Args:
        *channels: numbers of channels, in the order of ``channel_names``, which is that of CompressAI's arguments.
        direct_y: whether h_a reads the mean of y (Balle et al. 2018). If False, it reads the sample of y, which gives
            the 2-level VAE of the paper.

    Attributes:
        hyper_input: input of h_a at test time if ``direct_y`` is False: ``"rounded"`` for round(y), or ``"mean"`` for
            y. y is rounded to integers here, because its predicted mean is not known before z.
        precision: precision of the transforms: ``"float32"``, ``"tf32"`` or ``"bf16"`` (see
            ``gradlab.codecs.precision``). Latents, noise, likelihoods and distortion always keep the dtype of the
            weights, even under autocast.

    Example:
        >>> import gradlab as gl
        >>> import torch
        >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
        >>> x = torch.rand(2, 3, 32, 48)
        >>> terms, x_hat = codec.log_terms(x, lam=0.01, k=5)
        >>> tuple(terms.log_lik.shape), tuple(x_hat.shape)
        ((2, 5, 1), (2, 5, 3, 32, 48))
    """

    channel_names: ClassVar[tuple[str, ...]] = ("N", "M")
    has_z: ClassVar[bool] = True
    g_a: nn.Module
    g_s: nn.Module
    entropy_bottleneck: Bottleneck
    downsampling_factor: int  # pixels per position of the coarsest latent along one axis

    def __init__(self, *channels: int, direct_y: bool = True) -> None:
        super().__init__(*channels)
        self.entropy_bottleneck = Bottleneck(self.entropy_bottleneck.channels)
        self.channels = channels
        self.direct_y = direct_y
        self.hyper_input = "rounded"
        self.precision = "float32"

    def extra_repr(self) -> str:
        """Describe the codec in the first line of torch's tree of modules."""
        return f"channels={self.channels}, direct_y={self.direct_y}, precision={self.precision!r}"

    def _repr_html_(self) -> str:
        from gradlab.codecs.zoo import CODECS

        names = [name for name, kind in CODECS.items() if kind is type(self)]
        rows = {"name": ", ".join(names)} if names else {}
        tables = self.entropy_bottleneck._offset.numel() > 0
        ready = "yes" if tables else "no: call finish() first"
        return table(type(self).__name__, {**rows, **rows_of(self), "direct_y": self.direct_y, "bitstreams": ready})

    @classmethod
    @abstractmethod
    def channels_of(cls, state: Mapping[str, Tensor]) -> tuple[int, ...]:
        """Infer the numbers of channels from a state dict.

        Args:
            state: state dict with the keys of this model.

        Returns:
            The channels in the order of ``channel_names``.

        Example:
            >>> import gradlab as gl
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
            >>> codec.channels_of(codec.state_dict())
            (6, 4)
        """

    @abstractmethod
    def groups(self) -> dict[str, nn.Module]:
        """Return the module groups of Table 3 by name.

        The quantiles of the entropy bottleneck are not part of the likelihood; exclude them when recording gradients.

        Example:
            >>> import gradlab as gl
            >>> list(gl.codecs.build("small-hyperprior", channels=(6, 4)).groups())
            ['y infer', 'y gen', 'z infer', 'z gen', 'z prior']
        """

    @abstractmethod
    def _hyper(self, y: Tensor) -> Tensor | None:
        """Compute z before noise, from the input of h_a before its absolute value; None if the codec has no z."""

    @abstractmethod
    def _log_prior(self, y: Tensor, z: Tensor | None) -> tuple[Tensor, Tensor | float, tuple[Tap, ...]]:
        """Return ``log_py``, ``log_pz`` and the taps of z for samples ``y [B, k, ...]`` and ``z [B, l, ...]``."""

    @abstractmethod
    def _rounded(self, y: Tensor, z_hat: Tensor | None) -> Tensor:
        """Round y as in the bitstream."""

    def encode(self, x: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch channels rows columns"]:
        """Compute the mean of y, ``g_a(x)``.

        Args:
            x: images in [0, 1]. Height and width must be multiples of ``downsampling_factor``.

        Returns:
            The mean of y in the dtype of ``x``.

        Raises:
            GradlabError: the shape, dtype or device of ``x`` does not fit the codec.

        Example:
            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
            >>> tuple(codec.encode(torch.rand(1, 3, 32, 48)).shape)
            (1, 4, 4, 6)
        """
        self._check(x)
        return run_transform(self.g_a, x, self.precision)

    def decode(self, y: Float[Tensor, "batch channels rows columns"]) -> Float[Tensor, "batch 3 height width"]:
        """Decode latents to images, ``g_s(y)``.

        Args:
            y: latents.

        Returns:
            Images in the dtype of ``y``, not clamped to [0, 1].

        Example:
            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
            >>> tuple(codec.decode(torch.randn(1, 4, 4, 6)).shape)
            (1, 3, 32, 48)
        """
        return run_transform(self.g_s, y, self.precision)

    @abstractmethod
    def likelihoods(
        self,
        y_hat: Float[Tensor, "batch channels rows columns"],
        z_hat: Float[Tensor, "batch z_channels z_rows z_columns"] | None,
    ) -> dict[str, Tensor]:
        """Compute the probability mass of each latent element.

        Args:
            y_hat: y after rounding, universal quantization or additive noise.
            z_hat: z, also quantised or noisy; None if the codec has no z.

        Returns:
            The probability masses of ``"y"`` and, if the codec has one, of ``"z"``, with the shapes of the arguments.

        Example:
            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
            >>> latents = codec.latents(torch.rand(1, 3, 32, 48))
            >>> {name: tuple(p.shape) for name, p in codec.likelihoods(latents.y_hat, latents.z_hat).items()}
            {'y': (1, 4, 4, 6), 'z': (1, 6, 2, 3)}
        """

    @checked
    def log_terms(
        self,
        x: Float[Tensor, "batch 3 height width"],
        lam: float,
        k: SupportsIndex = 1,
        l: SupportsIndex = 1,
        generator: torch.Generator | None = None,
        proxy: str | Proxy = "noise",
        *,
        encoded: Float[Tensor, "batch channels rows columns"] | None = None,
    ) -> tuple[LogTerms, Float[Tensor, "batch k 3 height width"]]:
        """Sample the latents and compute the log-weight of each image, factor by factor.

        Noise is added in training and evaluation mode alike.

        Args:
            x: images in [0, 1]. Height and width must be multiples of ``downsampling_factor``.
            lam: R-D trade-off parameter lambda, for an MSE on the 0-255 scale.
            k: number of samples of y. The encoder runs once for all of them.
            l: number of samples of z. It must be 1 if the codec has no z, or if ``direct_y`` is False, because each z
                is then drawn from its own y.
            generator: generator of the noise, on the device of ``x``. The noise of y is drawn before that of z.
            proxy: proxy for rounding y (see ``gradlab.objectives.proxies``); z always gets additive noise. Proxies
                round to integers, even if the codec rounds about a predicted mean at test time.
            encoded: ``codec.encode(x)``, if it is already computed. Draws that differ only in their noise can share it,
                with ``backward(retain_graph=True)``.

        Returns:
            The terms in nats, with log_lik = -ln(2) H W lam MSE, and the decoded samples ``[batch, k, 3, height,
            width]``, not clamped to [0, 1]. The context model reads a sample y_i through the tap of log p(y_i | z_j).

        Raises:
            GradlabError: the shape, dtype or device of ``x`` does not fit the codec, ``k`` or ``l`` is invalid, the
                proxy is unknown, or the weights are float16 or bfloat16.

        Example:
            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
            >>> terms, _ = codec.log_terms(torch.rand(2, 3, 32, 48), lam=0.01, k=5, l=3)
            >>> tuple(terms.log_lik.shape), tuple(terms.log_py.shape), tuple(terms.log_pz.shape)
            ((2, 5, 1), (2, 5, 3), (2, 1, 3))

        Source:
            Equations 12 to 17 of the paper.
        """
        k, l = whole("k", k, 1, "samples of y"), whole("l", l, 1, "samples of z")
        self._check(x, l)
        rounding = get_proxy(proxy)
        b, _, height, width = x.shape
        y_mean = self.encode(x) if encoded is None else encoded
        y = rounding.sample(y_mean[:, None], uniform((b, k, *y_mean.shape[1:]), generator, y_mean.dtype, x.device))
        # Without direct-y, h_a reads the sample before any tap, so an estimator rescales each path of z_i only once.
        z_mean = self._hyper(y_mean if self.direct_y else fold(y))
        z = None
        if z_mean is not None:
            z_mean = unfold(z_mean, b)
            z = z_mean + uniform((b, l if self.direct_y else k, *z_mean.shape[2:]), generator, y_mean.dtype, x.device)
        y_lik, y_py = y.view_as(y), y.view_as(y)
        x_hat = unfold(self.decode(fold(rounding.decode(y_lik))), b)
        log_py, log_pz, z_taps = self._log_prior(y_py, z)
        terms = LogTerms(
            log_lik=log_likelihood(x, x_hat, lam),
            log_py=log_py,
            log_pz=log_pz,
            pixels=height * width,
            samples=(y, z),
            taps=(Tap(y_lik, "y", "lik"), Tap(y_py, "y", "py"), *z_taps),
        )
        return terms, x_hat

    @checked
    @torch.no_grad()
    def latents(
        self,
        x: Float[Tensor, "batch 3 height width"],
        encoded: Float[Tensor, "batch channels rows columns"] | None = None,
    ) -> Latents:
        """Compute the latents without noise, and quantised as in the bitstream.

        Args:
            x: images in [0, 1]. Height and width must be multiples of ``downsampling_factor``.
            encoded: ``codec.encode(x)``, if it is already computed.

        Returns:
            The latents and their information content.

        Raises:
            GradlabError: the shape, dtype or device of ``x`` does not fit the codec.

        Example:
            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
            >>> latents = codec.latents(torch.rand(2, 3, 32, 48))
            >>> bool((latents.y_hat == latents.y.round()).all()), tuple(latents.y_bits.shape)
            (True, (2,))
        """
        self._check(x)
        y, z, y_hat, z_hat = self._quantised(x, encoded)
        return Latents(y, z, y_hat, z_hat, *self.bits(y_hat, z_hat))

    @checked
    @torch.no_grad()
    def universal(self, x: Float[Tensor, "batch 3 height width"], generator: torch.Generator | None = None) -> Latents:
        """Quantise y and z by universal quantization: y_hat = round(y - u) + u with dither u ~ U(-1/2, 1/2).

        If encoder and decoder share the dither, y_hat has the same distribution as y plus additive noise. No bitstream
        is written; the bits are the information content of y_hat and z_hat.

        Args:
            x: images in [0, 1]. Height and width must be multiples of ``downsampling_factor``.
            generator: generator of the dither, on the device of ``x``. The dither of y is drawn before that of z.

        Returns:
            The latents and their information content.

        Raises:
            GradlabError: the shape, dtype or device of ``x`` does not fit the codec.

        Example:
            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
            >>> latents = codec.universal(torch.rand(1, 3, 32, 48), torch.Generator().manual_seed(0))
            >>> bool((latents.y_hat - latents.y).abs().max() <= 0.5 + 1e-6)
            True

        Source:
            E. Agustsson and L. Theis, "Universally quantized neural compression" (2020).
        """
        self._check(x)
        y = self.encode(x)
        y_hat = dithered(y, generator)
        z = self._hyper(y if self.direct_y or self.hyper_input == "mean" else y_hat)
        z_hat = None if z is None else dithered(z, generator)
        return Latents(y, z, y_hat, z_hat, *self.bits(y_hat, z_hat))

    def bits(
        self,
        y_hat: Float[Tensor, "batch channels rows columns"],
        z_hat: Float[Tensor, "batch z_channels z_rows z_columns"] | None,
    ) -> tuple[Float[Tensor, " batch"], Float[Tensor, " batch"]]:
        """Compute the information content of latents.

        Args:
            y_hat: y after rounding, universal quantization or additive noise.
            z_hat: z, also quantised or noisy; None if the codec has no z.

        Returns:
            -log2 p(y_hat | z_hat) and -log2 p(z_hat) in bits per image. The second is 0 if the codec has no z.

        Example:
            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
            >>> latents = codec.latents(torch.rand(2, 3, 32, 48))
            >>> y_bits, z_bits = codec.bits(latents.y_hat, latents.z_hat)
            >>> torch.equal(y_bits, latents.y_bits), torch.equal(z_bits, latents.z_bits)
            (True, True)
        """
        bits = {name: -mass.log2().sum(dim=(1, 2, 3)) for name, mass in self.likelihoods(y_hat, z_hat).items()}
        return bits["y"], bits.get("z", torch.zeros_like(bits["y"]))

    def forward(self, x: Float[Tensor, "batch 3 height width"]) -> dict[str, Any]:
        """Run CompressAI's interface: additive noise in training mode, and the rounding of ``compress`` in evaluation
        mode.

        Args:
            x: images in [0, 1]. Height and width must be multiples of ``downsampling_factor``.

        Returns:
            A dictionary as in CompressAI, with the decoded images ``"x_hat"`` and the ``"likelihoods"`` of ``"y"`` and
            ``"z"``.

        Raises:
            GradlabError: the shape, dtype or device of ``x`` does not fit the codec.

        Example:
            >>> import gradlab as gl
            >>> import torch
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4)).eval()
            >>> output = codec(torch.rand(1, 3, 32, 48))
            >>> tuple(output["x_hat"].shape), list(output["likelihoods"])
            ((1, 3, 32, 48), ['y', 'z'])
        """
        if self.training:
            y = self.encode(x)
            y_hat = y + noise_like(y)
            z = self._hyper(y if self.direct_y else y_hat)
            z_hat = None if z is None else z + noise_like(z)
        else:
            _, _, y_hat, z_hat = self._quantised(x)
        return {"x_hat": self.decode(y_hat), "likelihoods": self.likelihoods(y_hat, z_hat)}

    def finish(self) -> None:
        """Solve for the quantiles by bisection and build the coding tables; call this once after training.

        Example:
            >>> import gradlab as gl
            >>> codec = gl.codecs.build("small-hyperprior", channels=(6, 4))
            >>> codec.finish()
            >>> codec.entropy_bottleneck.quantized_cdf.shape[0]
            6
        """
        self.update(force=True, update_quantiles=True)

    def _quantised(
        self, x: Tensor, encoded: Tensor | None = None
    ) -> tuple[Tensor, Tensor | None, Tensor, Tensor | None]:
        y = self.encode(x) if encoded is None else encoded
        z = self._hyper(self._read_by_h_a(y))
        z_hat = None if z is None else self.entropy_bottleneck.rounded(z)
        return y, z, self._rounded(y, z_hat), z_hat

    def _read_by_h_a(self, y: Tensor) -> Tensor:
        return y if self.direct_y or self.hyper_input == "mean" else torch.round(y)

    def _check(self, x: Tensor, l: int = 1) -> None:
        if x.ndim != 4 or x.shape[1] != 3:
            raise GradlabError(f"the images have shape {tuple(x.shape)}: give [batch, 3, height, width]")
        check_input(self, x, "images", "crop or pad them")
        if l > 1 and not self.has_z:
            raise GradlabError(f"l is {l}, but this codec has no z: set l to 1")
        if l > 1 and not self.direct_y:
            raise GradlabError(f"l is {l}, but without direct-y each z is drawn from its own y: set l to 1")


def dithered(t: Float[Tensor, "*shape"], generator: torch.Generator | None) -> Float[Tensor, "*shape"]:
    """Quantise a tensor by round(t - u) + u with dither u ~ U(-1/2, 1/2).

    Args:
        t: tensor of any shape.
        generator: generator of the dither, on the device of ``t``.

    Returns:
        The quantised tensor.

    Example:
        >>> import torch
        >>> from gradlab.codecs.base import dithered
        >>> t = torch.linspace(-2, 2, 9)
        >>> bool((dithered(t, torch.Generator().manual_seed(0)) - t).abs().max() <= 0.5 + 1e-6)
        True
    """
    u = noise_like(t, generator)
    return torch.round(t - u) + u
