"""Check printed numbers, with arithmetic that tracks the effect of their rounding."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import NamedTuple

YES, NO, UNDEFINED = "yes", "no", "undefined"

FUZZ = 1e-9
"""Relative tolerance: two touching intervals share an endpoint, which binary fractions may miss."""


@dataclass(frozen=True)
class Rounded:
    """A number of the paper, or one computed from such numbers.

    Attributes:
        value: the number as printed.
        half: half a unit of the last digit, the largest distance of the unrounded number from ``value``.
    """

    value: float
    half: float = 0.0

    @property
    def low(self) -> float:
        """The smallest number that is printed like this one."""
        return self.value - self.half

    def __add__(self, other: Rounded) -> Rounded:
        """Return the sum; the half units add up."""
        return Rounded(self.value + other.value, self.half + other.half)

    def __rmul__(self, factor: float) -> Rounded:
        """Return the product with an exact factor."""
        return Rounded(factor * self.value, abs(factor) * self.half)


def read(text: str) -> Rounded:
    """Read ``"1.000"`` as 1 with a half unit of 0.0005, and a dash as NaN."""
    if text == "-":
        return Rounded(math.nan, math.nan)
    decimals = len(text.partition(".")[2])
    return Rounded(float(text), 0.5 * 10.0**-decimals)


class Check(NamedTuple):
    """One number of the paper next to the value that it should have.

    Attributes:
        claim: description of the check, identical for all checks of a kind.
        table: location of the number, e.g. ``"4"`` or ``"section 5.3"``.
        method: row of the number.
        metric: column of the number.
        interpolation: interpolation of Bjontegaard metrics, otherwise empty.
        paper: the number as printed.
        recomputed: the value that follows from other numbers of the paper, or a bound on the number.
        allowed: largest difference that rounding can explain.
        holds: yes, no or undefined.
        note: the reason, if it is not obvious.
    """

    claim: str
    table: str
    method: str
    metric: str
    interpolation: str
    paper: float
    recomputed: float
    allowed: float
    holds: str
    note: str


def equal(
    claim: str, table: str, method: str, metric: str, paper: Rounded, recomputed: Rounded, *, note: str = "",
    interpolation: str = "",
) -> Check:  # fmt: skip
    """Check that a number equals another, up to the rounding of both.

    Args:
        claim: as in ``Check``.
        table: as in ``Check``.
        method: as in ``Check``.
        metric: as in ``Check``.
        paper: the number.
        recomputed: the other number.
        note: as in ``Check``.
        interpolation: as in ``Check``.
    """
    allowed = paper.half + recomputed.half
    gap = abs(paper.value - recomputed.value)
    holds = YES if gap <= allowed + FUZZ * abs(paper.value) else UNDEFINED if math.isnan(gap) else NO
    return Check(claim, table, method, metric, interpolation, paper.value, recomputed.value, allowed, holds, note)


def at_most(
    claim: str, table: str, method: str, metric: str, paper: Rounded, bound: Rounded, *, strict: bool = False,
    note: str = "",
) -> Check:  # fmt: skip
    """Check that a number does not exceed a bound, up to the rounding of both.

    Args:
        claim: as in ``Check``.
        table: as in ``Check``.
        method: as in ``Check``.
        metric: as in ``Check``.
        paper: the number.
        bound: the bound.
        strict: whether the number must be less than the bound as printed.
        note: as in ``Check``.
    """
    allowed = 0.0 if strict else paper.half + bound.half
    gap = paper.value - bound.value
    fine = gap < 0 if strict else gap <= allowed + FUZZ * abs(bound.value)
    return Check(claim, table, method, metric, "", paper.value, bound.value, allowed, YES if fine else NO, note)


def at_least(
    claim: str, table: str, method: str, metric: str, paper: Rounded, bound: Rounded, *, strict: bool = False,
    note: str = "",
) -> Check:  # fmt: skip
    """Check that a number is not below a bound, up to the rounding of both.

    Args:
        claim: as in ``Check``.
        table: as in ``Check``.
        method: as in ``Check``.
        metric: as in ``Check``.
        paper: the number.
        bound: the bound.
        strict: whether the number must be greater than the bound as printed.
        note: as in ``Check``.
    """
    check = at_most(claim, table, method, metric, -1 * paper, -1 * bound, strict=strict, note=note)
    return check._replace(paper=paper.value, recomputed=bound.value)
