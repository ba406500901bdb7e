"""Measure-valued gradient (weak derivative): differences of the objective instead of its derivative.

Equation (Mohamed et al. 2020, section 6; Pflug 1989)::

    sum_i E[ c_i (L^(y_i = plus_i) - L^(y_i = minus_i)) ]  -  E[ sum_i w~_i grad log q(y_i; phi) ]

with L^ the objective and all other samples fixed. The pairs are

- for the unit box the two walls, with c = 1; in D dimensions one pair per coordinate, or a random subset of them;
- for the mean of a Normal a Weibull pair ``mean +- std sqrt(-2 ln U)``, with ``c = 1 / (std sqrt(2 pi))``;
- for the std of a Normal a double-sided Maxwell and a Normal point, with ``c = 1 / std``.

The second sum is the explicit dependence of the weights on phi.

Approximates: the gradient of the objective, without a derivative of log w in the samples (true rounding is allowed).
With: the samples held fixed, and the differences as coefficients of the parameter; the moved sample reuses its own
noise, which its own term integrates out.
Requires: a posterior that provides its walls or another measure-valued derivative; each costs two evaluations of log w
per sample and parameter.
Biased when: never.
"""

from __future__ import annotations

from torch import Tensor

from gradlab.estimators._base import (
    DERIVATIVE,
    Estimator,
    along,
    exchangeable,
    rescale_paths,
    value_with,
    walls_of,
)
from gradlab.objectives.bounds import Objective, unit_factor
from gradlab.objectives.terms import LogTerms


def _surrogate(terms: LogTerms, objective: Objective, weighting: str, scale: str) -> Tensor:
    walls = walls_of(terms, "measure-valued")
    log_w = exchangeable(terms, objective, weighting, scale, "measure-valued")
    moved = value_with(objective, log_w, unit_factor(terms, scale) * walls.log_w.detach())
    rescale_paths(terms, 0.0, "measure-valued")
    return objective(terms, weighting, scale) + along(moved, walls)


MEASURE_VALUED = Estimator("measure-valued", _surrogate, (DERIVATIVE,), walls=True, on_box=lambda draws: draws.moved)
