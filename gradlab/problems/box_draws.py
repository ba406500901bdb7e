"""Draws under the unit box without autograd: blocks that stay in cache, all estimators on the same weights.

What a draw costs is then its random numbers and one exponential for each sample, however many estimators are asked for
(``benchmarks/NOTES.md``). :func:`gradlab.problems.comparison.gradients` is the plain path, and gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, cast

import numpy as np
import torch

from gradlab import noise
from gradlab.estimators import Estimator
from gradlab.estimators._box import Array, BoxDraws
from gradlab.objectives import Objective
from gradlab.problems.base import Problem
from gradlab.problems.box import BoxOracle
from gradlab.snr.moments import HigherMoments

# Nats that log w may vary by: its exponential, and what is left of a sum without the largest, must not underflow.
SPANS = {torch.float64: 300.0, torch.float32: 30.0}


def fits(problem: Problem, estimator: Estimator, objective: Objective, wrt: str, dtype: torch.dtype) -> bool:
    """Whether :func:`box_gradients` gives what autograd would."""
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
    """One estimate per draw, ``[estimators, draws]`` float64, on the noise that ``draw_noise`` would draw.

    Args:
        problem: one of those that ``fits``; ``estimators`` likewise.
        estimators: what to compute on the same samples.
        draws: how many.
        k: samples per draw.
        generator: of the noise.
        dtype: of the samples.
    """
    box = cast(BoxOracle, problem)
    found, start = np.empty((len(estimators), draws)), 0
    for words in noise.words(draws, k, generator, dtype, fast=True):
        batch = weighed(box, words)
        for estimates, e in zip(found, estimators, strict=True):
            assert e.on_box is not None
            estimates[start : start + words.shape[1]] = e.on_box(batch)
        start += words.shape[1]
    return found


def box_moments(*arguments: Any) -> HigherMoments:
    """Moments ``[estimators]`` of what :func:`box_gradients` returns; each row's are free of the others."""
    from gradlab import kernels

    rows = box_gradients(*arguments)
    sums = torch.tensor([kernels.central(row) for row in rows], dtype=torch.float64)
    return HigherMoments(rows.shape[1], *sums.T)


def weighed(box: BoxOracle, words: Array) -> BoxDraws:
    """The samples of ``noise.words`` with their weights."""
    log_w, slope, reference = box.weigh(words)
    lower, upper = (math.exp(end - reference) for end in box.ends)
    return BoxDraws(np.exp(log_w, out=log_w), slope, (upper, lower), box.span)
