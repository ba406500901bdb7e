"""Generalised doubly reparameterised gradient (GDReG).

Equation (Bauer & Mnih 2021, eqs. 7-8), for a prior whose samples are ``T(e; theta)``::

    phi:    E_eps[ sum_i w~_i^2 (d log w_i / d y_i) (d y_i / d phi) ]
    theta:  E_eps[ sum_i ( w~_i (1 - w~_i) d log w_i / d y_i  -  w~_i d (log p - log q)(y_i) / d y_i ) dT / dtheta ]

at ``e = T^-1(y_i; theta)``; e.g. ``dT / dprior_std = y / prior_std``.

Approximates: the gradient of the objective; generative parameters without a path (those of the decoder) keep the
weights w~.
With: for phi, the same as ``dreg``; for theta, the explicit dependence of log p(y; theta) replaced by the path of y as
a sample of the prior.
Requires: a support without walls that move with phi or that the path of the prior crosses, and the path of every live
parameter of the prior in the terms.
Biased when: the posterior is a box. For ``prior_std`` at k = 1 the bias is exactly +1/prior_std, the flux of the path
through the walls.
"""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import Tensor

from gradlab.errors import GradlabError
from gradlab.estimators._base import FIXED_SUPPORT, Estimator, exchangeable
from gradlab.estimators.dreg import DREG
from gradlab.objectives.bounds import Objective, score_factor, unit_factor
from gradlab.objectives.terms import LogTerms


def _surrogate(terms: LogTerms, objective: Objective, weighting: str, scale: str) -> Tensor:
    if terms.prior_paths is None:
        raise GradlabError(
            "the terms have no prior_paths, along which gdreg moves samples: build LogTerms with "
            "prior_paths=(PriorPath(...),), or () if no parameter of the prior is live"
        )
    if not terms.prior_paths:
        return DREG.surrogate(terms, objective, weighting, scale)
    path = _prior_path(terms, objective, weighting, scale)
    explicit = sum(p.log_p - p.log_p.detach() for p in terms.prior_paths)
    return DREG.surrogate(replace(terms, log_py=terms.log_py - explicit), objective, weighting, scale) + path


def _prior_path(terms: LogTerms, objective: Objective, weighting: str, scale: str) -> Tensor:
    """Return a zero ``[B]`` whose gradient is the second line of the equation."""
    log_w = exchangeable(terms, objective, weighting, scale, "gdreg")
    taps = [tap for tap in terms.taps if tap.latent == "y"]
    if not taps or not all(tap.value.requires_grad for tap in taps):
        raise GradlabError(
            "the terms have no taps that require a gradient, but gdreg differentiates with respect to the samples: "
            "build LogTerms with taps of samples that require a gradient"
        )
    slopes = torch.autograd.grad(terms.log_w(score=False).sum(), [tap.value for tap in taps], retain_graph=True)
    rate_share = score_factor(terms, scale)
    factor = objective.path_factors(terms, weighting, scale)["y", "lik"]
    share = torch.full_like(log_w, 1 / log_w.shape[1]) if objective.single else torch.softmax(log_w, dim=1)
    total = torch.zeros_like(slopes[0])
    for tap, slope in zip(taps, slopes, strict=True):
        # w~ (1 - w~) for every term, minus w~ for prior and posterior, whose slopes already contain rate_weight.
        weight = share * (rate_share * (1 - factor) - float(tap.term != "lik"))
        total = total + weight.reshape(weight.shape + (1,) * (slope.ndim - 2)) * slope
    moves = sum(p.value - p.value.detach() for p in terms.prior_paths or ())
    return unit_factor(terms, scale) * (total * moves).flatten(1).sum(dim=1)


GDREG = Estimator("gdreg", _surrogate, (FIXED_SUPPORT,), on_box=lambda draws: draws.squared)
