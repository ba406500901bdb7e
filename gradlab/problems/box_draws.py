"""Compute draws under the unit box without autograd, in blocks that fit in the cache: the fast path of ``compare``.

All estimators share the same weights, so a draw costs its random numbers and one exponential per sample, however many
estimators are compared (``benchmarks/NOTES.md``). :func:`gradlab.problems.comparison.gradients` is the plain path and
gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from gradlab import kernels, noise
from gradlab.estimators import Estimator
from gradlab.estimators._box import Array, BoxDraws
from gradlab.objectives import Objective
from gradlab.problems.base import Problem
from gradlab.problems.box import BoxOracle
from gradlab.snr.moments import HigherMoments

# Largest range of log w, in nats: neither its exponential nor a sum without its largest term may underflow.
SPANS = {torch.float64: 300.0, torch.float32: 30.0}


def fits(problem: Problem, estimator: Estimator, objective: Objective, wrt: str, dtype: torch.dtype) -> bool:
    """Return whether :func:`box_gradients` applies, with the same results as autograd.

    Args:
        problem: the problem.
        estimator: the estimator.
        objective: the objective.
        wrt: the parameter to differentiate with respect to.
        dtype: floating-point type of the samples.
    """
    return (
        isinstance(problem, BoxOracle)
        and problem.dim == 1
        and wrt == "phi"
        and objective.name in ("iwae", "iwae-2level")
        and estimator.on_box is not None
        and problem.span <= SPANS.get(dtype, 0.0)
    )


def box_gradients(
    problem: Problem,
    estimators: Sequence[Estimator],
    draws: int,
    k: int,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> Array:
    """Return one estimate per draw, on the noise that ``draw_noise`` would draw.

    Args:
        problem: a problem that ``fits`` accepts.
        estimators: estimators that ``fits`` accepts; all are computed on the same samples.
        draws: number of draws.
        k: samples per draw.
        generator: random stream of the noise.
        dtype: floating-point type of the samples.

    Returns:
        Estimates ``[estimators, draws]``, float64, in nats per unit of phi.
    """
    box = cast(BoxOracle, problem)
    estimates, start = np.empty((len(estimators), draws)), 0
    for words in noise.words(draws, k, generator, dtype, fast=True):
        log_w, slope, reference = box.log_weights(words)
        lower, upper = (math.exp(end - reference) for end in box.ends)
        batch = BoxDraws(np.exp(log_w, out=log_w), slope, (upper, lower), box.span)
        for row, e in zip(estimates, estimators, strict=True):
            assert e.on_box is not None
            row[start : start + words.shape[1]] = e.on_box(batch)
        start += words.shape[1]
    return estimates


def box_moments(*arguments: Any) -> HigherMoments:
    """Return the moments ``[estimators]`` of :func:`box_gradients`; each row is independent of the others."""
    rows = box_gradients(*arguments)
    sums = torch.tensor([kernels.central(row) for row in rows], dtype=torch.float64)
    return HigherMoments(rows.shape[1], *sums.T)
