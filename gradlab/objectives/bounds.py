"""Objectives: reduce the log-weights of ``LogTerms`` to one number per image.

How its gradient is taken is not decided here (see ``gradlab.estimators``); plain autograd through these values is the
pathwise gradient. All are maximised.

=============  =========================================================  ==========================================
name           value, in nats                                             source
=============  =========================================================  ==========================================
elbo           mean over (k, l) of log w                                  paper eqs. 1, 3
iwae           log mean exp over k                                        Burda et al. 2016; paper eq. 4
iwae-2level    the same over k pairs (y_i, z_i), z_i drawn from y_i       paper section 3, eq. 16
ms-nic-mix     log mean exp over k of log p(x|y_i) p(y_i|z), + log p(z)   paper eq. 12
ms-nic-dms     log mean exp over all k x l combinations                   paper eq. 15
jvi            k L_k - (k-1) x mean over i of L_(k-1) without sample i    Nowozin 2018 (first-order jackknife)
=============  =========================================================  ==========================================

``elbo`` over k samples is the control for the others: as many samples, used to average the gradient of the looser bound
(paper Table 7 does so with a larger batch, over images as well).

All are lower bounds on log p(x) but ``jvi``: the jackknife takes the 1/k term of the bias of ``iwae`` away, and with it
the sign, so that its expectation may lie above log p(x). It needs k >= 2.

**Scale.** ``"nats"`` is the bound of the equations. ``"bpp"`` divides every log-weight by ln 2 x pixels before the
softmax, as the paper's listing (Appendix A.5) does: a tempered objective, whose weights are almost flat.

**Rate.** ``terms.rate_weight`` multiplies the rate in every log-weight; ``kl_annealing`` and ``soft_free_bits``
(paper section 4.2) say by what at each training step. Every estimator takes it into account; with a weight other than
1 no objective is a bound.

**Weighting.** ``"joint"`` gives all factors of a sample one weight (eqs. 12-17). ``"per-term"`` is the listing: the
distortion, the y-rate and the z-rate are each weighted by a softmax of their own. That is no bound but a surrogate
loss, and the value says so in its type: it is a ``SurrogateLoss``.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from gradlab.errors import GradlabError, unknown
from gradlab.objectives.terms import Latent, LogTerms, Term
from gradlab.validation import checked, checked_after

Weighting = Literal["joint", "per-term"]
Scale = Literal["nats", "bpp"]
WEIGHTINGS = ("joint", "per-term")
SCALES = ("nats", "bpp")

Factors = dict[tuple[Latent, Term], Tensor]


class SurrogateLoss(Tensor):
    """A value to differentiate, not a bound on anything: sums weighted by detached softmax weights, term by term."""


def softmax(log_w: Tensor) -> Tensor:
    """Normalised weights over the last two axes ``[B, K, L]``, detached: no gradient reaches a weight."""
    return torch.softmax(log_w.detach().flatten(1), dim=1).view_as(log_w)


def log_sum_of_others(log_w: Tensor) -> Tensor:
    """``log sum_{j != i} exp(log_w_j)`` for each i of ``[B, K]``; -inf at K = 1.

    From sums before and after i, never as ``S - w_i``, which has no digits left where one sample holds all the weight.
    """
    edge = torch.full_like(log_w[:, :1], -math.inf)
    before = torch.cat([edge, torch.logcumsumexp(log_w, dim=1)[:, :-1]], dim=1)
    after = torch.cat([edge, torch.logcumsumexp(log_w.flip(1), dim=1)[:, :-1]], dim=1).flip(1)
    return torch.logaddexp(before, after)


@dataclass(frozen=True)
class Objective:
    """One objective, a function of the terms.

    Attributes:
        name: its key in ``OBJECTIVES``.
        single: whether it averages single-sample bounds (``elbo``) rather than taking the log of a mean of weights.
        check: raises GradlabError for terms that this objective is not defined for.
        jackknife: whether it combines the bounds of k and of k - 1 samples (``jvi``).
        summary: its value in one line, which ``gradlab list`` shows.
    """

    name: str
    single: bool
    check: Callable[[LogTerms], None]
    jackknife: bool = False
    summary: str = ""

    def __call__(self, terms: LogTerms, weighting: str = "joint", scale: str = "nats") -> Tensor:
        """The objective ``[B]``, in nats (``scale="nats"``) or bits per pixel (``"bpp"``).

        Args:
            terms: log-weights, factor by factor.
            weighting: ``"joint"`` or ``"per-term"``.
            scale: ``"nats"`` or ``"bpp"``.

        Raises:
            GradlabError: unknown weighting or scale, or terms that the objective is not defined for.
        """
        self.validate(terms, weighting, scale)
        to_unit = unit(terms, scale)
        if self.single:
            return to_unit * terms.log_w().mean(dim=(1, 2))
        if weighting == "joint":
            log_w = to_unit * terms.log_w()
            if self.jackknife:
                return _jackknife(log_w[:, :, 0])
            return torch.logsumexp(log_w, dim=(1, 2)) - math.log(log_w[0].numel())
        value = sum((softmax(to_unit * t) * to_unit * t).sum(dim=(1, 2)) for t in _factors_of(terms).values())
        return torch.as_tensor(value).as_subclass(SurrogateLoss)

    def path_factors(self, terms: LogTerms, weighting: str = "joint", scale: str = "nats") -> Factors:
        """For each tap, the total normalised weight ``[B, K]`` or ``[B, L]`` of the terms that the sample enters there.

        DReG multiplies the gradient that reaches a sample by it: y_i by sum_j w~_ij and z_j by sum_i w~_ij; a z_i that
        was drawn from y_i by w~_i. All detached.
        """
        self.validate(terms, weighting, scale)
        names: tuple[Term, ...] = ("lik", "py", "pz", "q")
        if self.single:  # every log-weight is a bound of its own, with weight 1
            ones = torch.ones(terms.shape, dtype=terms.log_lik.dtype, device=terms.log_lik.device)
            z = ones[:, :, 0] if terms.paired else ones[:, 0, :]
            return {("y", name): ones[:, :, 0] for name in names} | {("z", name): z for name in names}
        to_unit = unit(terms, scale)
        if self.jackknife:
            factor = _jackknife_factor(to_unit * terms.log_w().detach()[:, :, 0])
            return {(latent, name): factor for latent in ("y", "z") for name in names}
        if weighting == "joint":
            weights = dict.fromkeys(names, softmax(to_unit * terms.log_w()))
        else:
            weights = {name: softmax(to_unit * value) for name, value in _factors_of(terms).items()}
        factors: Factors = {}
        for name, w in weights.items():
            factors["y", name] = w.sum(dim=2)
            factors["z", name] = w.sum(dim=2 if terms.paired else 1)
        return factors

    def validate(self, terms: LogTerms, weighting: str = "joint", scale: str = "nats") -> None:
        """Refuse what this objective is not defined for.

        Raises:
            GradlabError: unknown weighting or scale, or terms whose samples it does not take.
        """
        if weighting not in WEIGHTINGS:
            raise unknown("weighting", weighting, WEIGHTINGS)
        if scale not in SCALES:
            raise unknown("scale", scale, SCALES)
        if weighting == "per-term" and (terms.scores or (isinstance(terms.log_q, Tensor) and bool(terms.log_q.any()))):
            raise GradlabError(
                "weighting 'per-term' is defined for posteriors with log q = 0 (the unit box): use weighting='joint'"
            )
        if weighting == "per-term" and self.jackknife:
            raise GradlabError(f"{self.name} is not a weighted sum of terms: use weighting='joint'")
        self.check(terms)


def unit(terms: LogTerms, scale: str) -> float:
    """What a log-weight in nats is multiplied by to be in the unit of ``scale``."""
    return 1.0 if scale == "nats" else 1.0 / (math.log(2) * terms.pixels)


def score_share(terms: LogTerms, scale: str) -> float:
    """What the score of log q is multiplied by in a log-weight in the unit of ``scale``; 1 for a bound in nats."""
    return unit(terms, scale) * terms.rate_weight


@checked
def kl_annealing(step: int, warmup: int) -> float:
    """Weight of the rate at a training step, from 0 up to 1 in ``warmup`` steps (Serban et al. 2017).

    Use: ``terms.annealed(kl_annealing(step, warmup))``.

    Raises:
        GradlabError: step is below 0 or warmup below 1.
    """
    if step < 0 or warmup < 1:
        raise GradlabError(f"step {step} of a warmup of {warmup}: give a step of at least 0 and a warmup of at least 1")
    return min(step, warmup) / warmup


@checked
def soft_free_bits(weight: float, rate: float, target: float, slack: float = 0.05, change: float = 0.1) -> float:
    """The next weight of the rate, so that the rate is not pushed below a target (Chen et al. 2017).

    Above ``(1 + slack) target`` the weight grows by the factor ``1 + change``, up to 1; below the target it shrinks by
    it; between the two it stays. State is the weight, the caller's: start at 1, use ``terms.annealed(weight)``.

    Args:
        weight: of the step before, above 0 and at most 1.
        rate: of the step before, in any unit: the mean of ``-(log_py + log_pz - log_q)``.
        target: the free rate, in the same unit.
        slack: width of the band above the target in which nothing changes.
        change: relative step of the weight.

    Raises:
        GradlabError: the weight is not in (0, 1], or the target, the slack or the change is not positive.
    """
    if not 0 < weight <= 1:
        raise GradlabError(f"weight is {weight}: give a number above 0 and at most 1")
    if target <= 0 or slack < 0 or change <= 0:
        raise GradlabError(
            f"target {target}, slack {slack}, change {change}: "
            "give a target and a change above 0, a slack of at least 0"
        )
    if rate > (1 + slack) * target:
        return min(1.0, weight * (1 + change))
    return weight / (1 + change) if rate < target else weight


def _factors_of(terms: LogTerms) -> dict[Term, Tensor]:
    """The distortion, the y-rate and the z-rate, each in its own shape (so that each softmax runs over its own
    samples)."""
    share = terms.rate_weight
    values: dict[Term, Tensor | float] = {
        "lik": terms.log_lik,
        "py": share * terms.log_py,
        "pz": share * terms.log_pz,
    }
    return {term: value for term, value in values.items() if isinstance(value, Tensor) and value.ndim == 3}


def _jackknife(log_w: Tensor) -> Tensor:
    """The jackknife ``[B]`` of log-weights ``[B, K]``; its gradient by log w_i is the weight of sample i."""
    k = log_w.shape[1]
    fixed = log_w.detach()
    without = log_sum_of_others(fixed) - math.log(k - 1)
    value = k * (torch.logsumexp(fixed, dim=1) - math.log(k)) - (k - 1) * without.mean(dim=1)
    return value + (_jackknife_weights(fixed, 1) * (log_w - fixed)).sum(dim=1)


def _jackknife_weights(log_w: Tensor, power: int) -> Tensor:
    """``k w~_i^n - (k-1)/k sum_{j != i} w~_(without j),i^n`` for n = power, ``[B, K]``."""
    k = log_w.shape[1]
    own = torch.softmax(log_w, dim=1) ** power
    rest = torch.exp(power * log_w + log_sum_of_others(-power * log_sum_of_others(log_w)))
    return k * own - (k - 1) / k * rest


def _jackknife_factor(log_w: Tensor) -> Tensor:
    """What DReG multiplies a path by, ``[B, K]``: each bound of the jackknife squares its own weights."""
    weights = _jackknife_weights(log_w, 1)
    return torch.where(weights == 0, 0.0, _jackknife_weights(log_w, 2) / weights)


def _any(terms: LogTerms) -> None:
    """Defined for every shape."""


def _independent(terms: LogTerms) -> None:
    _, k, l = terms.shape
    if k > 1 and l > 1:
        raise GradlabError(
            f"iwae takes independent samples, but k = {k} and l = {l} are combined: use ms-nic-dms, or l = 1"
        )


def _left_out(terms: LogTerms) -> None:
    _, k, l = terms.shape
    if l > 1:
        raise GradlabError(f"jvi takes independent samples, one z each, but l = {l}: use l = 1")
    if k < 2:
        raise GradlabError("jvi leaves one sample out, but k = 1: give at least two samples")


def _mix(terms: LogTerms) -> None:
    _, _, l = terms.shape
    if l != 1:
        raise GradlabError(f"ms-nic-mix takes one sample of z, but l = {l}: use l = 1, or ms-nic-dms")
    if terms.paired:
        raise GradlabError(
            "ms-nic-mix shares one z between the k samples of y, but here each y has its own: use iwae-2level"
        )


def _outer(terms: LogTerms) -> None:
    if terms.paired:
        raise GradlabError("ms-nic-dms combines every y with every z, but here z was drawn from y: use iwae-2level")


OBJECTIVES: dict[str, Objective] = {
    "elbo": Objective("elbo", True, _any, summary="mean over (k, l) of log w"),
    "iwae": Objective("iwae", False, _independent, summary="log mean exp over k"),
    "iwae-2level": Objective(
        "iwae-2level", False, _independent, summary="log mean exp over k pairs (y_i, z_i), z_i drawn from y_i"
    ),
    "ms-nic-mix": Objective(
        "ms-nic-mix", False, _mix, summary="log mean exp over k of log p(x|y_i) p(y_i|z), + log p(z)"
    ),
    "ms-nic-dms": Objective("ms-nic-dms", False, _outer, summary="log mean exp over all k x l combinations"),
    "jvi": Objective(
        "jvi", False, _left_out, jackknife=True, summary="k L_k - (k-1) x mean over i of L_(k-1) without sample i"
    ),
}


@checked_after
def get_objective(name: str | Objective) -> Objective:
    """The objective of that name.

    Raises:
        GradlabError: unknown name (with the nearest one).
    """
    if isinstance(name, Objective):
        return name
    if name not in OBJECTIVES:
        raise unknown("objective", name, OBJECTIVES)
    return OBJECTIVES[name]
