r"""The linear hierarchy x <- y <- z with box noise on both latents: a codec with a hyperprior, solved exactly.

    phi --(+ u)--> y --(slope, offset)--> x            u, v ~ U(-1/2, 1/2), log q = 0
     |             |
     +-- direct-y  +-- 2-level VAE --(a, b)--> mean of z --(+ v)--> z --(c, d)--> y,   p(z) = N(0, prior_std^2)

**What it predicts for direct-y** (paper section 2.3, Table 3). With one sample every gradient is a polynomial in u and v,
so that its mean and variance are closed forms. Let r0, z0 be y - c z - d and z without noise, s = likelihood_std and

    gamma = c / y_std^2,   kappa = c^2 / y_std^2 + 1 / prior_std^2,   lam = slope^2 / s^2 + 1 / y_std^2,
    delta = gamma - a kappa,   h = d log w/dz without noise = c r0 / y_std^2 - z0 / prior_std^2.

gamma / kappa is the slope of the true posterior mean E[z|y]; delta = 0 where the encoder has found it.

===========  ========================  =============================  ==============================================
by           mean, both                12 variance, direct-y          12 variance, z from the sample
===========  ========================  =============================  ==============================================
b            h                         gamma^2 + kappa^2              delta^2 + kappa^2
a            phi h (+ delta/12         phi^2 (gamma^2 + kappa^2)      (h + delta phi)^2 + (kappa phi)^2
             without direct-y)                                        + delta^2/15 + kappa^2/12
phi          of d log w/dy + a h       (lam - a gamma)^2 + delta^2    (lam - a gamma - a delta)^2 + delta^2
d            r0 / y_std^2              (1 + c^2) / y_std^4            ((1 - a c)^2 + c^2) / y_std^4
prior_std    (z0^2 + n/12)/prior_std^3 (4 z0^2 + 1/15)/prior_std^6    (4 z0^2 (1 + a^2) + (1 + a^4)/15
             - 1/prior_std, n = 1                                     + a^2/3) / prior_std^6
             (1 + a^2 without)
===========  ========================  =============================  ==============================================

- *z infer*: the noise of y reaches a by two ways. As a **factor**, gradient = h_z (phi + u) instead of h_z phi: with
  direct-y the SNR of a is that of b and grows with h without end; from the sample it never passes |phi| sqrt(12), and
  at phi = 0 nothing is left of h but noise. Most latents of a codec sit within half a step of 0: this is why z infer
  alone loses a third to a half of its SNR in Table 3. It is a matter of small phi and large h, not of two noises as
  such: for large |phi| the factor costs nothing.
  Through the **place of z**, gamma becomes delta. That noise is not always harmful: b has the *higher* SNR without
  direct-y wherever 0 < a < 2 gamma/kappa, since z then follows y; it has the lower one beyond, or with a of the wrong
  sign. "Two stochastic arguments" (section 2.3) is thus no reason by itself.
- *y infer*: same mean; its SNR is a little higher without direct-y wherever a delta lies between 0 and
  2 (lam - a gamma), that is for an encoder that shrinks (0 < a < gamma/kappa) unless a gamma comes near lam. Table 3
  has it higher at every stage, by 1 to 5 %.
- *y gen*: reads y alone, the same either way (Table 3: within 3 %).
- *z gen*: either sign; d gains wherever 0 < a c < 2 (Table 3: higher early, lower later).
- *z prior*: sees z alone, whose variance is 1 + a^2 times larger: its variance always grows (Table 3: 7-10 % lower).

One latent, one image: averaging over positions and images, which a codec does, lowers every variance alike and is not
in here. A gradient of mean 0 (at the optimum of a parameter) has SNR 0 either way.

**What it predicts for the bounds** (sections 3.1, 3.2, A.3), strict unless w is constant::

    ELBO <= MIX_k <= DMS_kl (eq. 14) <= DMS_kl (eq. 15) <= IWAE with k l pairs <= log evidence inside the boxes <= log p(x)
                                    IWAE with min(k, l) pairs <= DMS_kl (eq. 15)

Eq. 15 is above eq. 14 because log-sum-exp is convex in the log-weights that eq. 14 averages over y. DMS is below k l
independent pairs (eqs. 16-17) because E exp(-t sum w_ij) >= (E exp(-t w))^(k l), by Jensen over z and then over y, and
log S = int (exp(-t) - exp(-t S))/t dt; above min(k, l) pairs because it is the mean over all pairings, in a log.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar

import torch
from torch import Tensor

from gradlab import noise as base_noise
from gradlab.errors import GradlabError, NotExact, unknown
from gradlab.posteriors import Box, log_normal
from gradlab.problems import oracle, two_level_bounds
from gradlab.problems.base import NO_OVERRIDES, Moments, Problem, check_k, check_real, check_std
from gradlab.problems.two_level_bounds import Hierarchy
from gradlab.terms import LogTerms, Tap

if TYPE_CHECKING:
    import pandas as pd

GROUPS: dict[str, tuple[str, ...]] = {
    "y infer": ("phi",),
    "y gen": ("slope", "offset", "likelihood_std"),
    "z infer": ("a", "b"),
    "z gen": ("c", "d", "y_std"),
    "z prior": ("prior_std",),
}
"""The five groups of Table 3."""

PAIRS = ("elbo", "iwae", "iwae-2level")  # independent pairs (y_i, z_i)
SHARED = ("ms-nic-mix", "ms-nic-dms")  # every y with every z
NESTED = "ms-nic-dms-nested"  # eq. 14
INFERENCE = GROUPS["y infer"] + GROUPS["z infer"]


@dataclass(frozen=True, eq=False)
class TwoBoxes(Box):
    """The boxes of y and z, centred (for y) at phi; z's walls depend on the parameter, so that none are given."""

    walls_known: ClassVar[bool] = False


class TwoLevel(Problem):
    """``y ~ U(phi +- 1/2)``, ``z ~ U(a y + b +- 1/2)``, and x <- y <- z linear and Normal; see the module for results.

    ``log w = log N(x; slope y + offset, likelihood_std^2) + log N(y; c z + d, y_std^2) + log N(z; 0, prior_std^2)``.
    The mean of z is ``a phi + b`` (direct-y) or ``a y + b`` with the sample y. Parameters by group of Table 3 are in
    ``GROUPS``; the decoder of y (slope, offset) is fixed to the identity unless given, and has gradients in any case.

    Args:
        phi: centre of y's box.
        x: observation.
        encode: ``(a, b)``.
        decode: ``(c, d, y_std)``.
        likelihood_std: standard deviation of x given y.
        prior_std: standard deviation of z.
        direct_y: z is drawn from the mean phi (Balle et al. 2018); False: from the sample y (the 2-level VAE).
        slope: of the decoder of y.
        offset: of the decoder of y.

    Raises:
        GradlabError: a parameter is not finite, a standard deviation is not above 0, encode or decode is not of two or
            three numbers, or direct_y is not a bool.
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
            raise GradlabError(f"direct_y is {direct_y!r}: give True (z from the mean of y) or False (from the sample)")
        a, b = _numbers("encode", encode, ("a", "b"))
        c, d, y_std = _numbers("decode", decode, ("c", "d", "y_std"))
        self.model = Hierarchy(
            phi=check_real("phi", phi),
            x=check_real("x", x),
            a=check_real("a", a),
            b=check_real("b", b),
            c=check_real("c", c),
            d=check_real("d", d),
            y_std=check_std("y_std", y_std),
            likelihood_std=check_std("likelihood_std", likelihood_std),
            prior_std=check_std("prior_std", prior_std),
            slope=check_real("slope", slope),
            offset=check_real("offset", offset),
            direct_y=direct_y,
        )
        self.objective, self.l = "iwae", 1

    @property
    def direct_y(self) -> bool:
        """Whether z is drawn from the mean of y."""
        return self.model.direct_y

    @property
    def posterior(self) -> TwoBoxes:
        """U(phi - 1/2, phi + 1/2) for y, and a box for z."""
        return TwoBoxes(torch.tensor(self.model.phi, dtype=torch.float64))

    @property
    def parameters(self) -> dict[str, float]:
        """All parameters, in the order of ``GROUPS``."""
        return {name: getattr(self.model, name) for names in GROUPS.values() for name in names}

    def under(self, objective: str, l: int = 1) -> TwoLevel:
        """The same problem, sampled for an objective, which is then also the default of the exact answers.

        ``gl.compare(problem.under("ms-nic-mix"), objective="ms-nic-mix")``: here one z is shared by the k samples of y.
        Without it the samples are k independent pairs (y_i, z_i), which ``elbo`` and ``iwae`` take.

        Args:
            objective: ``elbo``, ``iwae``, ``iwae-2level``, ``ms-nic-mix`` or ``ms-nic-dms``.
            l: samples of z, for ``ms-nic-dms``.

        Raises:
            GradlabError: an unknown objective, or one that direct_y or l rules out.
        """
        if objective == NESTED:
            raise GradlabError(f"{NESTED} is a nested expectation that has no samples: take ms-nic-dms")
        self._choose(1, l, objective)
        return self._copy(self.model, objective, l)

    def switched(self, direct_y: bool) -> TwoLevel:
        """The same parameters with direct-y on or off, sampled in pairs."""
        return self._copy(replace(self.model, direct_y=direct_y), "iwae", 1)

    def draw_noise(
        self, draws: int, k: int, generator: torch.Generator | None = None, dtype: torch.dtype = torch.float64
    ) -> Tensor:
        """``[draws, k + k]`` for pairs, ``[draws, k + l]`` otherwise: noise of y, then of z.

        Raises:
            GradlabError: ``draws`` or ``k`` is below 1.
        """
        columns = 0 if k < 1 else k + (k if self.objective in PAIRS else self.l)
        return base_noise.draw("uniform", (draws, columns), generator, dtype)

    def log_terms(
        self, noise: Tensor, overrides: Mapping[str, Tensor] = NO_OVERRIDES, *, walls: bool = False
    ) -> LogTerms:
        """Terms ``[B, K, 1]`` of pairs, or ``[B, K, L]``; nats; noise ``[B, K + K]`` or ``[B, K + L]``.

        Args:
            noise: from ``draw_noise``.
            overrides: parameter name -> ``[B]`` its value in each draw.
            walls: refused.

        Raises:
            GradlabError: noise of another shape, a bad override, or ``walls``.
        """
        if walls:
            raise GradlabError(
                "TwoLevel gives no walls, since those of z depend on the parameter: leave walls=False, "
                "or use BoxGaussian"
            )
        values = self._values(noise, overrides)
        paired = self.objective in PAIRS
        k = noise.shape[1] // 2 if paired else noise.shape[1] - self.l
        if k < 1 or (paired and noise.shape[1] % 2):
            raise GradlabError(f"noise has {noise.shape[1]} columns: give those of y and of z, as draw_noise does")
        y = values["phi"] + noise[:, :k]
        # h_a reads y before the taps: an estimator rescales each path of z once.
        z = values["a"] * (values["phi"] if self.direct_y else y) + values["b"] + noise[:, k:]
        y_lik, y_py, z_py, z_pz = y.view_as(y), y.view_as(y), z.view_as(z), z.view_as(z)
        axis = 2 if paired else 1
        y_mean = (values["c"] * z_py + values["d"]).unsqueeze(axis)
        y_std = values["y_std"]
        return LogTerms(
            log_lik=log_normal(
                y.new_tensor(self.model.x), values["slope"] * y_lik + values["offset"], values["likelihood_std"]
            )[..., None],
            log_py=log_normal(y_py[..., None], y_mean, y_std[..., None] if isinstance(y_std, Tensor) else y_std),
            log_pz=log_normal(z_pz, 0.0, values["prior_std"]).unsqueeze(axis),
            samples=(y, z),
            taps=(Tap(y_lik, "y", "lik"), Tap(y_py, "y", "py"), Tap(z_py, "z", "py"), Tap(z_pz, "z", "pz")),
        )

    def exact_bound(self, k: int, l: int | None = None, objective: str | None = None) -> float:
        """E of the objective, nats.

        Args:
            k: samples of y; of pairs (y_i, z_i) for ``iwae`` and ``iwae-2level``, which are the same here.
            l: samples of z, for the two forms of DMS (otherwise 1).
            objective: ``elbo``, ``iwae`` (the default, unless :meth:`under` chose another), ``iwae-2level``,
                ``ms-nic-mix`` (eq. 12), ``ms-nic-dms`` (eq. 15), or ``ms-nic-dms-nested`` (eq. 14).

        Raises:
            NotExact: ms-nic-dms with both k and l above 3.
            GradlabError: k or l is not an integer of at least 1, or an objective that is unknown, or ruled out by
                direct_y = False (which pairs each z with its y) or by l.
        """
        k, l, objective = self._choose(k, l, objective)
        if objective in PAIRS:
            return oracle.bound(two_level_bounds.pairs(self.model, k).nodes, k)
        if objective == NESTED:
            return oracle.bound(two_level_bounds.nested(self.model, k).nodes, l)
        return two_level_bounds.bound(two_level_bounds.shared(self.model, k, l), max(k, l)) - math.log(min(k, l))

    def exact_gradient(self, k: int, wrt: str = "phi", l: int | None = None, objective: str | None = None) -> float:
        """The derivative of ``exact_bound`` by a parameter, under the integral sign (the noises are held fixed).

        Raises:
            NotExact: as ``exact_bound``.
            GradlabError: as ``exact_bound``, or ``wrt`` is not one of ``parameters``.
        """
        wrt = self.check_wrt(wrt)
        k, l, objective = self._choose(k, l, objective)
        if objective == NESTED:
            case = two_level_bounds.nested(self.model, k, wrt)
            return oracle.linear(case.nodes, case.values, l)[0]
        return self._pathwise(k, l, objective, wrt)[0]

    def exact_moments(
        self, estimator: str, k: int = 1, wrt: str = "phi", l: int | None = None, objective: str | None = None
    ) -> tuple[float, float]:
        """Exact mean and variance of one draw of an estimator of the gradient by ``wrt``.

        ``pathwise``, which is ``stl`` on a box; ``dreg`` of independent pairs; ``score`` (0 for phi, a and b).

        Raises:
            NotExact: no exact moments are known for this estimator or for eq. 14; or as ``exact_bound``.
            GradlabError: as ``exact_gradient``.
        """
        wrt = self.check_wrt(wrt)
        k, l, objective = self._choose(k, l, objective)
        if objective == NESTED:
            raise NotExact(f"{NESTED} is a nested expectation that no estimator samples: take ms-nic-dms")
        inference = wrt in INFERENCE
        known: dict[str, Moments] = dict.fromkeys(
            ("pathwise", "stl"), lambda _: self._pathwise(k, l, objective, wrt)
        )  # the score is 0, so that dropping it changes nothing
        known["score"] = (lambda _: (0.0, 0.0)) if inference else known["pathwise"]
        if not inference or objective == "elbo":
            known["dreg"] = known["pathwise"]
        elif objective in PAIRS:
            known["dreg"] = lambda _: self._dreg(k, wrt)
        if estimator not in known:
            raise NotExact(f"no exact moments on TwoLevel ({objective}): {unknown('estimator', estimator, known)}")
        return known[estimator](k)

    def exact_limit(self, objective: str | None = None) -> float:
        """What ``exact_bound`` tends to as k (and l) grow, nats: the log evidence *inside the boxes*.

        ELBO stays where it is, and MIX has one z: ``E log E_y[w | z]``.

        Raises:
            GradlabError: as ``exact_bound``.
        """
        _, _, objective = self._choose(1, None, objective)
        if objective == "elbo":
            return self.exact_bound(1, objective="elbo")
        if objective == "ms-nic-mix":
            cases = two_level_bounds.shared(self.model, 2, 1)
            return float(sum(case.p * case.nodes.log_mean_weight() for case in cases))
        return two_level_bounds.pairs(self.model, 2).nodes.log_mean_weight()

    def evidence(self) -> float:
        """``log p(x)``, nats: above ``exact_limit``, since the boxes do not cover the true posterior."""
        return self.model.evidence()

    def exact_snr(self, k: int = 1) -> pd.DataFrame:
        """The pathwise gradient's SNR by group of Table 3, without and with direct-y; k independent pairs.

        Returns:
            Columns direct_y, group, parameters, dead, snr, mean_norm, variance_trace: the SNR of a group is the mean
            over its parameters of |mean| / std; parameters whose gradient never moves are ``dead`` and left out.

        Raises:
            GradlabError: k is not an integer of at least 1.
        """
        import pandas as pd

        rows = []
        for direct_y in (False, True):
            problem = self.switched(direct_y)
            for group, names in GROUPS.items():
                moments = [problem.exact_moments("pathwise", k, name) for name in names]
                ratios = [abs(mean) / math.sqrt(variance) for mean, variance in moments if variance > 0]
                rows.append(
                    {
                        "direct_y": direct_y,
                        "group": group,
                        "parameters": len(names),
                        "dead": len(names) - len(ratios),
                        "snr": sum(ratios) / len(ratios) if ratios else math.nan,
                        "mean_norm": math.hypot(*(mean for mean, _ in moments)),
                        "variance_trace": sum(variance for _, variance in moments),
                    }
                )
        return pd.DataFrame(rows)

    def _moments(self, wrt: str) -> dict[str, Moments]:
        def moments(name: str) -> Moments:
            return lambda k: self.exact_moments(name, k, wrt)

        return {name: moments(name) for name in ("pathwise", "stl", "dreg", "score")}

    def _pathwise(self, k: int, l: int, objective: str, wrt: str) -> tuple[float, float]:
        if objective == "elbo":
            case = two_level_bounds.pairs(self.model, 1, wrt)
            mean, variance = oracle.linear(case.nodes, case.values, 1)
            return mean, variance / k
        if objective in PAIRS:
            case = two_level_bounds.pairs(self.model, k, wrt)
            return oracle.linear(case.nodes, case.values, k)
        return two_level_bounds.linear(two_level_bounds.shared(self.model, k, l, wrt), max(k, l))

    def _dreg(self, k: int, wrt: str) -> tuple[float, float]:
        case = two_level_bounds.pairs(self.model, k, wrt)
        return oracle.squared(case.nodes, case.values, k)

    def _choose(self, k: int, l: int | None, objective: str | None) -> tuple[int, int, str]:
        """Valid (k, l, objective), with what :meth:`under` chose put in."""
        l = (self.l if objective is None else 1) if l is None else l
        objective = self.objective if objective is None else objective
        if objective not in (*PAIRS, *SHARED, NESTED):
            raise unknown("objective of TwoLevel:", objective, (*PAIRS, *SHARED, NESTED))
        k, l = check_k(k), _check_l(l)
        if not self.direct_y and objective not in PAIRS:
            raise GradlabError(
                f"{objective} combines samples of y and z that are independent, but without direct-y each z is drawn "
                "from its y: use iwae-2level, or direct_y=True"
            )
        if l > 1 and objective not in ("ms-nic-dms", NESTED):
            raise GradlabError(f"{objective} takes no l, but l = {l}: use l = 1, or ms-nic-dms")
        return k, l, objective

    def _copy(self, model: Hierarchy, objective: str, l: int) -> TwoLevel:
        copy = object.__new__(TwoLevel)
        copy.model, copy.objective, copy.l = model, objective, l
        return copy


def _numbers(name: str, value: object, parts: tuple[str, ...]) -> tuple[float, ...]:
    found = tuple(value) if isinstance(value, Iterable) and not isinstance(value, str) else ()
    if len(found) != len(parts):
        raise GradlabError(f"{name} is {value!r}: give {len(parts)} numbers, ({', '.join(parts)})")
    return found


def _check_l(l: int) -> int:
    if isinstance(l, bool) or not hasattr(l, "__index__") or l < 1:
        raise GradlabError(f"l is {l!r}: give a whole number of samples of z, at least 1")
    return int(l)
