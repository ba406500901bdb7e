"""Define the linear hierarchy x <- y <- z with box noise on both latents: a codec with a hyperprior, solved exactly.

    phi --(+ u)--> y --(slope, offset)--> x            u, v ~ U(-1/2, 1/2), log q = 0
     |             |
     +-- direct-y  +-- 2-level VAE --(a, b)--> mean of z --(+ v)--> z --(c, d)--> y,   p(z) = N(0, prior_std^2)

With one sample every gradient is a polynomial in u and v, so its mean and variance have closed forms. What they predict
about direct-y for each group of the paper's Table 3 is in ``docs/theory/hierarchy.md``. The order of the bounds (ELBO,
MIX, DMS, IWAE) and its proofs are in ``docs/theory/bounds.md``.

The model has one latent and one image; it does not average over positions and images, as the training loss of a codec
does. A gradient whose mean is 0 (at the optimum of its parameter) has SNR 0 with and without direct-y.
"""

from __future__ import annotations

import copy
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, ClassVar, SupportsIndex

import torch
from torch import Tensor

from gradlab import noise as base_noise
from gradlab.errors import GradlabError
from gradlab.objectives.posteriors import Box, log_normal
from gradlab.objectives.terms import LogTerms, Tap, Walls
from gradlab.problems._oracle.two_level import NESTED, PAIRS, TwoLevelOracle
from gradlab.problems._oracle.two_level_model import GROUPS, Hierarchy
from gradlab.problems.base import NO_OVERRIDES, Values, check_k, widened
from gradlab.runtime.display import arguments, shown
from gradlab.validation import whole

if TYPE_CHECKING:
    from jaxtyping import Float


@shown
@dataclass(frozen=True, eq=False)
class SharedBox(Box):
    """The box of y when samples of y and z are shared, so that no sample can be moved to a wall on its own."""

    walls_known: ClassVar[bool] = False
    derivative_known: ClassVar[bool] = False


class TwoLevel(TwoLevelOracle):
    """The linear-Gaussian hierarchy x <- y <- z with box noise on y and z.

    ``y ~ U(phi +- 1/2)``, ``z ~ U(mean of z +- 1/2)``, and
    ``log w = log N(x; slope y + offset, likelihood_std^2) + log N(y; c z + d, y_std^2) + log N(z; 0, prior_std^2)``.
    The mean of z is ``a phi + b`` with direct-y, and ``a y + b`` with the sample y otherwise.

    The decoder of y (slope, offset) is the identity by default; its gradients are available in either case. ``GROUPS``
    lists the parameters in each group of the paper's Table 3.

    Args:
        phi: centre of the box of y.
        x: observation.
        encode: ``(a, b)``, slope and offset of the encoder of z.
        decode: ``(c, d, y_std)``, slope, offset and standard deviation of y given z.
        likelihood_std: standard deviation of x given y.
        prior_std: standard deviation of z.
        direct_y: True to draw z from the mean phi (Balle et al. 2018), False to draw it from the sample y (the 2-level
            VAE).
        slope: slope of the decoder of y.
        offset: offset of the decoder of y.

    Raises:
        GradlabError: if a parameter is not finite, a standard deviation is not above 0, ``encode`` or ``decode`` does
            not have two or three numbers, or ``direct_y`` is not a bool.

    Example:
        >>> import gradlab as gl
        >>> problem = gl.problems.TwoLevel(phi=0.1, x=1.7, encode=(0.15, 0.9), decode=(0.85, 0.35, 0.6))
        >>> problem.exact_bound(1) < problem.exact_bound(2, 2, "ms-nic-dms") < problem.evidence()
        True
    """

    def __init__(
        self,
        phi: float,
        x: float,
        encode: tuple[float, float],
        decode: tuple[float, float, float],
        likelihood_std: float = 1.0,
        prior_std: float = 1.0,
        direct_y: bool = True,
        *,
        slope: float = 1.0,
        offset: float = 0.0,
    ) -> None:
        if not isinstance(direct_y, bool):
            raise GradlabError(f"direct_y is {direct_y!r}: give True (z from the mean of y) or False (from its sample)")
        a, b = _numbers("encode", encode, ("a", "b"))
        c, d, y_std = _numbers("decode", decode, ("c", "d", "y_std"))
        self.model = Hierarchy(phi, x, a, b, c, d, y_std, likelihood_std, prior_std, slope, offset, direct_y)
        self.objective, self.l = "iwae", 1

    @property
    def posterior(self) -> Box:
        """The box U(phi - 1/2, phi + 1/2) of y; the posterior of z is a box too."""
        center = torch.tensor(self.model.phi, dtype=torch.float64)
        return Box(center) if self.objective in PAIRS else SharedBox(center)

    @property
    def parameters(self) -> dict[str, float]:
        """All parameters by name, in the order of ``GROUPS``."""
        return {name: getattr(self.model, name) for names in GROUPS.values() for name in names}

    def under(self, objective: str, l: int | None = None) -> TwoLevel:
        """Return the problem sampled for an objective, which becomes the default objective of the exact answers.

        ``elbo`` and ``iwae`` draw k independent pairs (y_i, z_i). In ``ms-nic-mix`` the k samples of y share one z; in
        ``ms-nic-dms`` they share l samples of z. ``gl.compare`` calls this method.

        Args:
            objective: ``elbo``, ``iwae``, ``iwae-2level``, ``ms-nic-mix`` or ``ms-nic-dms``.
            l: number of samples of z, for ``ms-nic-dms``. By default it stays the same if the objective does, and is 1
                otherwise.

        Returns:
            The problem to draw from.

        Raises:
            GradlabError: if the objective is unknown, or is incompatible with ``direct_y`` or ``l``.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.TwoLevel(phi=0.1, x=1.7, encode=(0.15, 0.9), decode=(0.85, 0.35, 0.6))
            >>> dms = problem.under("ms-nic-dms", l=3)
            >>> dms.log_terms(dms.draw_noise(5, k=2)).shape
            (5, 2, 3)
        """
        if objective == NESTED:
            raise GradlabError(f"{NESTED} is a nested expectation that cannot be sampled: use ms-nic-dms")
        if l is None:
            l = self.l if objective == self.objective else 1
        self._choose(1, l, objective)
        return self._changed(objective=objective, l=l)

    def switched(self, direct_y: bool) -> TwoLevel:
        """Return the same problem with direct-y on or off, sampled in pairs.

        Args:
            direct_y: True to draw z from the mean of y, False to draw it from the sample y.

        Returns:
            The problem to draw from; its objective is ``iwae``.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.TwoLevel(phi=0.1, x=1.7, encode=(0.15, 0.9), decode=(0.85, 0.35, 0.6))
            >>> problem.switched(False).direct_y
            False
        """
        return self._changed(model=replace(self.model, direct_y=direct_y), objective="iwae", l=1)

    def draw_noise(
        self,
        draws: SupportsIndex,
        k: SupportsIndex,
        generator: torch.Generator | None = None,
        dtype: torch.dtype = torch.float64,
    ) -> Float[Tensor, "draws noises"]:
        """Draw the noise of y, followed by the noise of z.

        Args:
            draws: number of independent draws.
            k: samples of y per draw.
            generator: random stream; None draws from the global generator of torch.
            dtype: floating-point type of the noise.

        Returns:
            Noise ``[draws, k + k]`` for pairs (y_i, z_i), or ``[draws, k + l]`` if the samples are shared.

        Raises:
            GradlabError: if ``draws`` or ``k`` is below 1.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.TwoLevel(phi=0.1, x=1.7, encode=(0.15, 0.9), decode=(0.85, 0.35, 0.6))
            >>> problem.draw_noise(5, k=2).shape
            torch.Size([5, 4])
        """
        draws, k = whole("draws", draws, 1), check_k(k)
        return base_noise.draw("uniform", (draws, k + (k if self.objective in PAIRS else self.l)), generator, dtype)

    def log_terms(
        self,
        noise: Float[Tensor, "batch noises"],
        overrides: Mapping[str, Tensor] = NO_OVERRIDES,
        *,
        walls: bool = False,
    ) -> LogTerms:
        """Evaluate the log-weights of B draws.

        Args:
            noise: base noise ``[B, K + K]`` or ``[B, K + L]`` from ``draw_noise``.
            overrides: parameter name -> ``[B]``, the value of that parameter in each draw.
            walls: whether to evaluate the log-weight of each pair with one of its noises at either end too.

        Returns:
            Terms in nats, ``[B, K, 1]`` for pairs and ``[B, K, L]`` if the samples are shared.

        Raises:
            GradlabError: if the noise has another shape, an override is unknown or not ``[B]``, or ``walls`` is set and
                the samples are shared.

        Example:
            >>> import gradlab as gl
            >>> problem = gl.problems.TwoLevel(phi=0.1, x=1.7, encode=(0.15, 0.9), decode=(0.85, 0.35, 0.6))
            >>> terms = problem.log_terms(problem.draw_noise(5, k=2))
            >>> terms.shape, terms.paired
            ((5, 2, 1), True)
        """
        if walls and self.objective not in PAIRS:
            raise GradlabError(
                f"walls is True, but shared samples, as in {self.objective}, cannot be moved to a wall one at a time: "
                "use walls=False or the objective iwae"
            )
        values = self._values(noise, overrides)
        paired = self.objective in PAIRS
        k = noise.shape[1] // 2 if paired else noise.shape[1] - self.l
        if k < 1 or (paired and noise.shape[1] % 2):
            raise GradlabError(
                f"noise has {noise.shape[1]} columns: give k for y and the same for z (or l), as draw_noise does"
            )
        y = values["phi"] + noise[:, :k]
        # z is computed from y before the taps, so that an estimator rescales each path of z once.
        z = values["a"] * (values["phi"] if self.direct_y else y) + values["b"] + noise[:, k:]
        y_lik, y_py, z_py, z_pz = y.view_as(y), y.view_as(y), z.view_as(z), z.view_as(z)
        axis = 2 if paired else 1
        wide = widened(values)
        return LogTerms(
            log_lik=self._log_lik(y_lik, values)[..., None],
            log_py=_log_py(y_py[..., None], z_py.unsqueeze(axis), wide),
            log_pz=log_normal(z_pz, 0.0, values["prior_std"]).unsqueeze(axis),
            samples=(y, z),
            taps=(Tap(y_lik, "y", "lik"), Tap(y_py, "y", "py"), Tap(z_py, "z", "py"), Tap(z_pz, "z", "pz")),
            walls=self._walls(noise[:, :k, None], noise[:, k:, None], wide) if walls else None,
        )

    def _log_lik(self, y: Tensor, values: Values) -> Tensor:
        mean = values["slope"] * y + values["offset"]
        return log_normal(y.new_tensor(self.model.x), mean, values["likelihood_std"])

    def _walls(self, u: Tensor, v: Tensor, values: Values) -> Walls:
        """Return each pair with u, and then with v, at its two ends; the noises are ``[B, K, 1]``.

        A z that is drawn from the sample y moves along with it, but the walls of z belong to a and b alone.
        """
        ends = u.new_tensor([0.5, -0.5])
        phi = torch.as_tensor(values["phi"], dtype=u.dtype, device=u.device)

        def mean_of_z(y: Tensor) -> Tensor:
            return values["a"] * (phi if self.direct_y else y) + values["b"]

        shape = (*u.shape[:2], 2)
        y_moved, y_kept = (phi + ends).expand(shape), (phi + u).detach().expand(shape)
        center = mean_of_z(y_kept).expand(shape)
        y = torch.cat([y_moved, y_kept], dim=2)
        z = torch.cat([(mean_of_z(y_moved) + v).expand(shape), center + ends], dim=2)
        return Walls(
            log_w=self._log_lik(y, values) + _log_py(y, z, values) + log_normal(z, 0.0, values["prior_std"]),
            scale=2 * torch.cat([ends, ends]),
            moves=torch.cat([phi.expand(shape), center], dim=2),
        )

    def __repr__(self) -> str:
        """Show also what ``under`` chose."""
        objective, l = vars(self).get("objective", "iwae"), vars(self).get("l", 1)
        chosen = "" if objective == "iwae" else f".under({objective!r}{f', l={l}' if l > 1 else ''})"
        return f"{super().__repr__()}{chosen}"

    def _repr_arguments_(self) -> dict[str, Any]:
        model = self.model
        parts = {"encode": (model.a, model.b), "decode": (model.c, model.d, model.y_std)}
        return {**vars(model), **parts}

    def _repr_rows_(self) -> dict[str, Any]:
        return {**arguments(self), "samples for": self.objective, "l": self.l}

    def _changed(self, **attributes: Any) -> TwoLevel:
        changed = copy.copy(self)
        vars(changed).update(attributes)
        return changed


def _log_py(y: Tensor, z: Tensor, values: Values) -> Tensor:
    return log_normal(y, values["c"] * z + values["d"], values["y_std"])


def _numbers(name: str, value: object, parts: tuple[str, ...]) -> tuple[float, ...]:
    numbers = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if len(numbers) != len(parts):
        raise GradlabError(f"{name} is {value!r}: give {len(parts)} numbers, ({', '.join(parts)})")
    return numbers
