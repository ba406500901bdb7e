"""What a check is, and numbers with the uncertainty that printing leaves them."""

from __future__ import annotations

import math
from typing import NamedTuple

YES, NO, UNDEFINED = "yes", "no", "undefined"

FUZZ = 1e-9
"""Relative: two intervals that touch share their end, which binary fractions miss."""


class Printed(NamedTuple):
    """A number of the paper.

    Attributes:
        value: as printed.
        half: half a unit of its last digit, which is how far off the unrounded number may be.
    """

    value: float
    half: float

    @property
    def low(self) -> float:
        """The least that is printed so."""
        return self.value - self.half

    @property
    def high(self) -> float:
        """The most that is printed so."""
        return self.value + self.half


def read(text: str) -> Printed:
    """``"1.000"`` is 1 with a half unit of 0.0005; a dash is NaN."""
    if text == "-":
        return Printed(math.nan, math.nan)
    decimals = len(text.partition(".")[2])
    return Printed(float(text), 0.5 * 10.0**-decimals)


class Check(NamedTuple):
    """One number of the paper beside what it should be.

    Attributes:
        claim: what is checked, the same words for all checks of a kind.
        table: where the number stands, e.g. ``"4"`` or ``"section 5.3"``.
        method: the row; metric: the column.
        interpolation: of Bjontegaard's figures, empty elsewhere.
        paper: the number as printed.
        recomputed: what follows from other numbers of the paper, or the bound that the number must keep.
        allowed: by how much the two may differ, because all of them are rounded.
        holds: yes, no or undefined.
        note: why, where it is not obvious.
    """

    claim: str
    table: str
    method: str
    metric: str
    paper: float
    recomputed: float
    allowed: float
    holds: str
    interpolation: str = ""
    note: str = ""


def equal(
    claim: str,
    table: str,
    method: str,
    metric: str,
    paper: Printed,
    recomputed: float,
    *,
    slack: float,
    interpolation: str = "",
    note: str = "",
) -> Check:
    """A number that must equal another, up to the rounding of both.

    Args:
        claim, table, method, metric, interpolation, note: as of ``Check``.
        paper: the number.
        recomputed: what it should be.
        slack: by how much ``recomputed`` may be off, because what it was computed from is rounded.
    """
    allowed = paper.half + slack
    if math.isnan(paper.value) or math.isnan(recomputed):
        holds = UNDEFINED
    else:
        holds = YES if abs(paper.value - recomputed) <= allowed + FUZZ * abs(paper.value) else NO
    return Check(claim, table, method, metric, paper.value, recomputed, allowed, holds, interpolation, note)


def at_most(
    claim: str, table: str, method: str, metric: str, paper: Printed, bound: Printed, *, strict: bool = False,
    note: str = "",
) -> Check:  # fmt: skip
    """A number that must not exceed another, up to the rounding of both; ``strict``: it must be below, as printed."""
    allowed = 0.0 if strict else paper.half + bound.half
    fine = paper.value < bound.value if strict else paper.value <= bound.value + allowed + FUZZ * abs(bound.value)
    return Check(claim, table, method, metric, paper.value, bound.value, allowed, YES if fine else NO, note=note)


def at_least(
    claim: str, table: str, method: str, metric: str, paper: Printed, bound: Printed, *, strict: bool = False,
    note: str = "",
) -> Check:  # fmt: skip
    """A number that must not be less than another, likewise."""
    allowed = 0.0 if strict else paper.half + bound.half
    fine = paper.value > bound.value if strict else paper.value >= bound.value - allowed - FUZZ * abs(bound.value)
    return Check(claim, table, method, metric, paper.value, bound.value, allowed, YES if fine else NO, note=note)
