"""Draws under the unit box without autograd: chunks that stay in cache, all estimators on the same weights.

What a draw costs is then its random numbers and one exponential for each sample, however many estimators are asked for
(``benchmarks/NOTES.md``). :func:`gradlab.comparison.gradients` is the plain path, and gives the same numbers.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import cast

import torch
from torch import Tensor

from gradlab.estimators import Estimator
from gradlab.estimators._box import BoxDraws
from gradlab.noise import draw
from gradlab.objectives import Objective
from gradlab.problems.base import Problem
from gradlab.problems.box import BoxOracle

# Samples per pass: as many as torch still gives to one thread, so that threads take whole chunks and share none.
PASS = 2**15
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


@torch.no_grad()
def box_gradients(
    problem: Problem,
    estimators: Sequence[Estimator],
    draws: int,
    k: int,
    generator: torch.Generator,
    dtype: torch.dtype,
) -> list[Tensor]:
    """One estimate per draw, ``[draws]`` float64 for each estimator, on the noise that ``draw_noise`` would draw.

    Args:
        problem: one of those that ``fits``; ``estimators`` likewise.
        estimators: what to compute on the same samples.
        draws: how many.
        k: samples per draw.
        generator: of the noise.
        dtype: of the samples.
    """
    box = cast(BoxOracle, problem)
    found = [torch.empty(draws, dtype=torch.float64) for _ in estimators]
    rows, base = max(1, PASS // k), problem.posterior.base
    for start in range(0, draws, rows):
        noise = draw(base, (min(rows, draws - start), k), generator, dtype)
        batch = weighed(box, noise)
        for estimates, e in zip(found, estimators, strict=True):
            assert e.on_box is not None
            estimates[start : start + len(noise)] = e.on_box(batch)
    return found


def weighed(box: BoxOracle, noise: Tensor) -> BoxDraws:
    """The samples of base noise ``[C, k]`` with their weights."""
    log_w, slope, reference = box.weigh(noise)
    lower, upper = (math.exp(end - reference) for end in box.ends)
    return BoxDraws(log_w.exp_(), slope, (upper, lower), box.span)
