"""Define the objectives, which reduce the log-weights of ``LogTerms`` to one number per image.

Estimators determine how the gradient is computed (``gradlab.estimators``); plain autograd through these values is the
pathwise gradient. All objectives are maximised.

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

``elbo`` over k samples is the control for the others: it spends the same number of samples on averaging the gradient of
the looser bound (paper Table 7 does so with a larger batch, which averages over images as well). All objectives but
``jvi`` are lower bounds on log p(x). The jackknife (k >= 2) removes the 1/k term of the bias of ``iwae``, so its mean
may exceed log p(x).

**Scale.** ``"nats"`` is the bound of the equations. ``"bpp"`` divides every log-weight by ln 2 x pixels before the
softmax, as the paper's listing (Appendix A.5) does: a tempered objective with almost flat weights.

**Rate.** ``terms.rate_weight`` multiplies the rate in every log-weight, for all estimators.
:func:`~gradlab.objectives.kl_annealing` and :func:`~gradlab.objectives.soft_free_bits` (paper section 4.2) compute its
value at each training step. With a weight other than 1, no objective is a bound.

**Weighting.** ``"joint"`` gives all factors of a sample the same weight (eqs. 12-17). ``"per-term"`` follows the
listing: distortion, y-rate and z-rate each have their own softmax. Its value is not a bound but a ``SurrogateLoss``.
See docs/theory/codecs.md.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.objectives.terms import Latent, LogTerms, Term
from gradlab.runtime.display import shown
from gradlab.validation import checked, known

if TYPE_CHECKING:
    from jaxtyping import Float

WEIGHTINGS = ("joint", "per-term")
SCALES = ("nats", "bpp")

Factors = dict[tuple[Latent, Term], Tensor]


class SurrogateLoss(Tensor):
    """A tensor to differentiate that is not a bound: a sum of terms, each weighted by its own detached softmax.

    Example:
        >>> import torch
        >>> import gradlab as gl
        >>> terms = gl.LogTerms(torch.zeros(1, 2, 1), log_py=torch.zeros(1, 2, 1))
        >>> type(gl.OBJECTIVES["iwae"](terms, weighting="per-term")).__name__
        'SurrogateLoss'
    """


def softmax(log_w: Float[Tensor, "batch k l"]) -> Float[Tensor, "batch k l"]:
    """Normalise weights over the last two axes of ``[B, K, L]``.

    The result is detached, so no gradient reaches a weight.

    Args:
        log_w: log-weights ``[B, K, L]``.

    Returns:
        Weights ``[B, K, L]`` that sum to 1 in each row of the batch.

    Example:
        >>> import torch
        >>> from gradlab.objectives.bounds import softmax
        >>> softmax(torch.zeros(1, 2, 2)).flatten().tolist()
        [0.25, 0.25, 0.25, 0.25]
    """
    return torch.softmax(log_w.detach().flatten(1), dim=1).view_as(log_w)


def log_sum_of_others(log_w: Float[Tensor, "batch k"]) -> Float[Tensor, "batch k"]:
    """Compute ``log sum_{j != i} exp(log_w_j)`` for each i.

    The sums before and after i are added, because ``S - w_i`` loses all digits if one sample has all the weight.

    Args:
        log_w: log-weights ``[B, K]``.

    Returns:
        Log-sums ``[B, K]``; -inf at K = 1.

    Example:
        >>> import torch
        >>> from gradlab.objectives.bounds import log_sum_of_others
        >>> log_sum_of_others(torch.tensor([[1.0, 2.0, 5.0]]).log()).exp().round(decimals=4).tolist()
        [[7.0, 6.0, 3.0]]
    """
    edge = torch.full_like(log_w[:, :1], -math.inf)
    before = torch.cat([edge, torch.logcumsumexp(log_w, dim=1)[:, :-1]], dim=1)
    after = torch.cat([edge, torch.logcumsumexp(log_w.flip(1), dim=1)[:, :-1]], dim=1).flip(1)
    return torch.logaddexp(before, after)


@shown
@dataclass(frozen=True)
class Objective:
    """An objective, a function of the terms.

    Attributes:
        name: its key in ``OBJECTIVES``.
        single: whether it averages single-sample bounds (``elbo``) instead of taking the log of a mean of weights.
        check: function that raises GradlabError for terms for which the objective is not defined.
        jackknife: whether it combines the bounds of k and of k - 1 samples (``jvi``).
        summary: its value in one line, for ``gradlab list``.

    Example:
        >>> import math
        >>> import torch
        >>> import gradlab as gl
        >>> terms = gl.LogTerms(torch.tensor([[[math.log(1.0)], [math.log(3.0)]]]))
        >>> round(gl.OBJECTIVES["iwae"](terms).exp().item(), 4)  # the mean of the weights 1 and 3
        2.0
    """

    name: str
    single: bool
    check: Callable[[LogTerms], None]
    jackknife: bool = False
    summary: str = ""

    @checked
    def __call__(self, terms: LogTerms, weighting: str = "joint", scale: str = "nats") -> Float[Tensor, " batch"]:
        """Compute the objective for each image.

        Args:
            terms: log-weights, factor by factor.
            weighting: ``"joint"`` or ``"per-term"``.
            scale: ``"nats"`` or ``"bpp"``.

        Returns:
            Values ``[B]`` in nats (``scale="nats"``) or bits per pixel (``scale="bpp"``).

        Raises:
            GradlabError: if the weighting or scale is unknown, or the objective is not defined for the terms.
        """
        self.validate(terms, weighting, scale)
        factor = unit_factor(terms, scale)
        if self.single:
            return factor * terms.log_w().mean(dim=(1, 2))
        if weighting == "joint":
            log_w = factor * terms.log_w()
            if self.jackknife:
                return _jackknife(log_w[:, :, 0])
            return torch.logsumexp(log_w, dim=(1, 2)) - math.log(log_w[0].numel())
        value = sum((softmax(factor * t) * factor * t).sum(dim=(1, 2)) for t in _factors_of(terms).values())
        return torch.as_tensor(value).as_subclass(SurrogateLoss)

    def _repr_line_(self) -> str:
        return ", ".join([repr(self.name), self.summary] if self.summary else [repr(self.name)])

    def path_factors(self, terms: LogTerms, weighting: str = "joint", scale: str = "nats") -> Factors:
        """Compute, for each tap, the total normalised weight of the terms that its sample enters.

        DReG multiplies the gradient that reaches a sample by this factor: y_i by sum_j w~_ij and z_j by sum_i w~_ij, or
        by w~_i if z_i was drawn from y_i.

        Args:
            terms: log-weights, factor by factor.
            weighting: ``"joint"`` or ``"per-term"``.
            scale: ``"nats"`` or ``"bpp"``.

        Returns:
            ``(latent, term)`` -> detached factors, ``[B, K]`` or ``[B, L]``.

        Raises:
            GradlabError: if the weighting or scale is unknown, or the objective is not defined for the terms.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> terms = gl.LogTerms(torch.zeros(1, 4, 1))
            >>> gl.OBJECTIVES["iwae"].path_factors(terms)["y", "lik"].tolist()
            [[0.25, 0.25, 0.25, 0.25]]
        """
        self.validate(terms, weighting, scale)
        names: tuple[Term, ...] = ("lik", "py", "pz", "q")
        factor = unit_factor(terms, scale)
        if self.single:  # every log-weight is its own bound, with weight 1
            ones = torch.ones(terms.shape, dtype=terms.log_lik.dtype, device=terms.log_lik.device)
            z = ones[:, :, 0] if terms.paired else ones[:, 0, :]
            return {("y", name): ones[:, :, 0] for name in names} | {("z", name): z for name in names}
        if self.jackknife:
            path = _jackknife_factor(factor * terms.log_w().detach()[:, :, 0])
            return {(latent, name): path for latent in ("y", "z") for name in names}
        if weighting == "joint":
            weights = dict.fromkeys(names, softmax(factor * terms.log_w()))
        else:
            weights = {name: softmax(factor * value) for name, value in _factors_of(terms).items()}
        factors: Factors = {}
        for name, w in weights.items():
            factors["y", name] = w.sum(dim=2)
            factors["z", name] = w.sum(dim=2 if terms.paired else 1)
        return factors

    def validate(self, terms: LogTerms, weighting: str = "joint", scale: str = "nats") -> None:
        """Check that the objective is defined for these terms and options.

        Args:
            terms: log-weights, factor by factor.
            weighting: ``"joint"`` or ``"per-term"``.
            scale: ``"nats"`` or ``"bpp"``.

        Raises:
            GradlabError: if the weighting or scale is unknown, or the objective is not defined for the terms.

        Example:
            >>> import torch
            >>> import gradlab as gl
            >>> gl.OBJECTIVES["jvi"].validate(gl.LogTerms(torch.zeros(1, 1, 1)))
            Traceback (most recent call last):
            gradlab.errors.GradlabError: k is 1, but jvi leaves one sample out: use at least two samples
        """
        known("weighting", weighting, WEIGHTINGS)
        known("scale", scale, SCALES)
        if weighting == "per-term" and (terms.scores or (isinstance(terms.log_q, Tensor) and bool(terms.log_q.any()))):
            raise GradlabError(
                "weighting 'per-term' is defined for posteriors with log q = 0 (the unit box): use weighting='joint'"
            )
        if weighting == "per-term" and self.jackknife:
            raise GradlabError(
                f"weighting is 'per-term', but {self.name} is not a weighted sum of terms: use weighting='joint'"
            )
        self.check(terms)


def unit_factor(terms: LogTerms, scale: str) -> float:
    """Return the factor that converts a log-weight in nats to the unit of ``scale``."""
    return 1.0 if scale == "nats" else 1.0 / (math.log(2) * terms.pixels)


def score_factor(terms: LogTerms, scale: str) -> float:
    """Return the factor of the score of log q in a log-weight in the unit of ``scale``; 1 for a bound in nats."""
    return unit_factor(terms, scale) * terms.rate_weight


@checked
def kl_annealing(step: float | Tensor, warmup: float) -> float:
    """Compute the weight of the rate at a training step, which rises from 0 to 1 in ``warmup`` steps.

    Source: Serban et al. 2017; paper section 4.2.

    Args:
        step: iterations done.
        warmup: number of iterations until the weight is 1.

    Returns:
        The weight, for ``terms.annealed``.

    Raises:
        GradlabError: if ``step`` is not a number or negative, or ``warmup`` is below 1.

    Example:
        >>> import gradlab as gl
        >>> [gl.objectives.kl_annealing(step, warmup=1000) for step in (0, 250, 2000)]
        [0.0, 0.25, 1.0]
    """
    step = _number("step", step)
    if not step >= 0 or not warmup >= 1:
        raise GradlabError(f"step is {step}, warmup is {warmup}: give a step of at least 0 and a warmup of at least 1")
    return min(step, warmup) / warmup


@checked
def soft_free_bits(
    weight: float | Tensor, rate: float | Tensor, target: float, slack: float = 0.05, change: float = 0.1
) -> float:
    """Compute the next weight of the rate, which keeps the rate from falling below a target.

    Above ``(1 + slack) target`` the weight grows by the factor ``1 + change``, up to 1; below the target it shrinks by
    the same factor; in between it stays. The caller keeps the weight: start at 1 and use ``terms.annealed(weight)``.

    Source: Chen et al. 2017; paper section 4.2.

    Args:
        weight: weight at the previous step, above 0 and at most 1.
        rate: rate at the previous step, in any unit: the mean of ``-(log_py + log_pz - log_q)``.
        target: the free rate, in the same unit.
        slack: relative width of the band above the target in which the weight does not change.
        change: relative change of the weight per step.

    Returns:
        The weight for the next step.

    Raises:
        GradlabError: if the weight is not in (0, 1], the rate is not a number, the target or the change is not
            positive, or the slack is negative.

    Example:
        >>> import gradlab as gl
        >>> round(gl.objectives.soft_free_bits(1.0, rate=0.8, target=1.0), 4)
        0.9091
    """
    weight, rate = _number("weight", weight), _number("rate", rate)
    if not 0 < weight <= 1:
        raise GradlabError(f"weight is {weight}: give a number above 0 and at most 1")
    if target <= 0 or slack < 0 or change <= 0:
        raise GradlabError(
            f"target is {target}, slack is {slack}, change is {change}: "
            "give a target and a change above 0 and a slack of at least 0"
        )
    if rate > (1 + slack) * target:
        return min(1.0, weight * (1 + change))
    return weight / (1 + change) if rate < target else weight


def _number(name: str, value: float | Tensor) -> float:
    if not isinstance(value, Tensor):
        return value
    if value.numel() != 1 or value.is_complex() or value.device.type == "meta":
        raise GradlabError(f"{name} is a tensor of shape {tuple(value.shape)}: give a real number")
    return float(value)


def _factors_of(terms: LogTerms) -> dict[Term, Tensor]:
    """Return distortion, y-rate and z-rate in their own shapes, so that each softmax runs over its own samples."""
    rates: dict[Term, Tensor | float] = {"py": terms.log_py, "pz": terms.log_pz}
    weighted = {name: terms.rate_weight * r for name, r in rates.items() if isinstance(r, Tensor) and r.ndim == 3}
    return {"lik": terms.log_lik, **weighted}


def _jackknife(log_w: Tensor) -> Tensor:
    """Compute the jackknife ``[B]`` of log-weights ``[B, K]``; its gradient for log w_i is the weight of sample i."""
    k = log_w.shape[1]
    fixed = log_w.detach()
    without = log_sum_of_others(fixed) - math.log(k - 1)
    value = k * (torch.logsumexp(fixed, dim=1) - math.log(k)) - (k - 1) * without.mean(dim=1)
    return value + (_jackknife_weights(fixed, 1) * (log_w - fixed)).sum(dim=1)


def _jackknife_weights(log_w: Tensor, power: int) -> Tensor:
    """Compute ``k w~_i^n - (k-1)/k sum_{j != i} w~_(without j),i^n`` for n = power, ``[B, K]``."""
    k = log_w.shape[1]
    with_all = torch.softmax(log_w, dim=1) ** power
    without = torch.exp(power * log_w + log_sum_of_others(-power * log_sum_of_others(log_w)))
    return k * with_all - (k - 1) / k * without


def _jackknife_factor(log_w: Tensor) -> Tensor:
    """Compute DReG's factor of a path, ``[B, K]``: each bound in the jackknife squares its own weights."""
    weights = _jackknife_weights(log_w, 1)
    return torch.where(weights == 0, 0.0, _jackknife_weights(log_w, 2) / weights)


def _check_nothing(terms: LogTerms) -> None:
    """Accept terms of any shape."""


def _check_independent(terms: LogTerms) -> None:
    _, k, l = terms.shape
    if k > 1 and l > 1:
        raise GradlabError(
            f"k is {k} and l is {l}, but iwae takes independent samples, not all combinations: use ms-nic-dms, or l = 1"
        )


def _check_leave_one_out(terms: LogTerms) -> None:
    _, k, l = terms.shape
    if l > 1:
        raise GradlabError(f"l is {l}, but jvi takes independent samples with one z each: use l = 1")
    if k < 2:
        raise GradlabError("k is 1, but jvi leaves one sample out: use at least two samples")


def _check_mix(terms: LogTerms) -> None:
    _, _, l = terms.shape
    if l != 1:
        raise GradlabError(f"l is {l}, but ms-nic-mix takes one sample of z: use l = 1, or ms-nic-dms")
    if terms.paired:
        raise GradlabError(
            "each y has its own z, but ms-nic-mix shares one z between the k samples of y: use iwae-2level"
        )


def _check_outer(terms: LogTerms) -> None:
    if terms.paired:
        raise GradlabError("each z was drawn from its y, but ms-nic-dms combines every y with every z: use iwae-2level")


OBJECTIVES: dict[str, Objective] = {
    "elbo": Objective("elbo", True, _check_nothing, summary="mean over (k, l) of log w"),
    "iwae": Objective("iwae", False, _check_independent, summary="log mean exp over k"),
    "iwae-2level": Objective(
        "iwae-2level", False, _check_independent, summary="log mean exp over k pairs (y_i, z_i), z_i drawn from y_i"
    ),
    "ms-nic-mix": Objective(
        "ms-nic-mix", False, _check_mix, summary="log mean exp over k of log p(x|y_i) p(y_i|z), + log p(z)"
    ),
    "ms-nic-dms": Objective("ms-nic-dms", False, _check_outer, summary="log mean exp over all k x l combinations"),
    "jvi": Objective(
        "jvi", False, _check_leave_one_out, jackknife=True, summary="k L_k - (k-1) x mean over i of L_(k-1) without i"
    ),
}


@checked
def get_objective(name: str | Objective) -> Objective:
    """Return an objective by name.

    Args:
        name: a name from ``OBJECTIVES``, or an ``Objective``, which is returned as it is.

    Returns:
        The objective.

    Raises:
        GradlabError: if the name is unknown; the message suggests the nearest one.

    Example:
        >>> import gradlab as gl
        >>> gl.objectives.get_objective("iwae").summary
        'log mean exp over k'
    """
    if isinstance(name, Objective):
        return name
    return OBJECTIVES[known("objective", name, OBJECTIVES)]
