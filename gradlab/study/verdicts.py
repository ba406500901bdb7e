"""Decide claims of the paper: verdicts, and the rules by which measured orderings decide them."""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Literal, NamedTuple

if TYPE_CHECKING:
    import pandas as pd

CLEAR = 2.0
"""Number of standard errors by which two values must differ for their ordering to count."""
WORDS = {"yes": "holds", "no": "not here", "undecided": "undecided"}
"""Word to show for each answer in ``verdicts.csv``."""


class Pair(NamedTuple):
    """A quantity measured for A and for B, by training iteration.

    Attributes:
        a: values of A, e.g. a series indexed by iteration.
        b: values of B at the same iterations.
        name: name of the pair if a verdict compares several, e.g. the method or the lambda.
        paper: the paper's values of A and B; NaN or None if it has none.
        se: standard errors of the differences; None if unknown.
    """

    a: Mapping[int, float] | pd.Series[float]
    b: Mapping[int, float] | pd.Series[float]
    name: str = ""
    paper: tuple[float, float] | None = None
    se: Mapping[int, float] | pd.Series[float] | None = None


class Verdict(NamedTuple):
    """A claim of the paper, and whether it holds here.

    Attributes:
        claim: the claim.
        source: where the paper makes it, e.g. ``"Table 3"``.
        holds: True, False, or None if this budget cannot decide.
        evidence: one sentence with numbers.
    """

    claim: str
    source: str
    holds: bool | None
    evidence: str

    @property
    def answer(self) -> str:
        """``holds`` as stored in ``verdicts.csv``: a key of ``WORDS``."""
        return "undecided" if self.holds is None else "yes" if self.holds else "no"

    @classmethod
    def compare(
        cls,
        claim: str,
        source: str,
        pairs: Pair | Sequence[Pair],
        *,
        expect: Literal["lower", "higher", "similar"],
        quantity: str,
        unit: str = "%",
        smallest: float = 0.0,
        seeds: int = 1,
    ) -> Verdict:
        """Decide a claim that a quantity of A is lower than, higher than or similar to the quantity of B.

        An ordering counts if the last two points of training agree, and the claim is decided if all pairs agree. The
        claim stays undecided if they disagree, if a value is NaN, or if a change is at most ``smallest`` or at most two
        standard errors. A claim of similarity fails if one pair differs by ``smallest`` or more.

        Args:
            claim: the claim.
            source: where the paper makes it.
            pairs: values of A and B; several for a claim about several methods, sample sizes or lambdas.
            expect: how A compares with B if the claim holds.
            quantity: the quantity that is compared, e.g. ``"R-D cost of MS-NIC-MIX over the baseline's"``.
            unit: ``"%"`` to compare the relative change; any other unit compares the difference.
            smallest: changes up to this size, in ``unit``, do not count as an ordering, and are similar.
            seeds: number of training runs that the values are averaged over.

        Example:
            >>> from gradlab.study.verdicts import Pair, Verdict
            >>> cost = Pair({900: 0.99, 1800: 0.97}, {900: 1.0, 1800: 1.0}, paper=(0.98, 1.0))
            >>> Verdict.compare("MIX costs less", "Table 1", cost, expect="lower", quantity="cost").evidence
            'cost: -1.0 %, -3.0 % (paper -2.0 %) after 900, 1800 iterations, one seed'
        """
        pairs = [pairs] if isinstance(pairs, Pair) else list(pairs)
        points = sorted({point for pair in pairs for point, _ in pair.a.items()})
        parts = [_numbers(pair, points, unit) for pair in pairs]
        decisions = [last_two(_signs(pair, points, unit, smallest, expect)) for pair in pairs]
        evidence = (
            f"{quantity}: {'; '.join(parts)} after {', '.join(map(str, points))} iterations, "
            f"{'one seed' if seeds == 1 else f'{seeds} seeds'}"
        )
        if expect == "similar":
            return cls(claim, source, every(decisions), f"{evidence}; similar is read as below {smallest:g} {unit}")
        return cls(claim, source, unanimous(decisions), evidence)


def last_two(signs: Sequence[bool | None]) -> bool | None:
    """Decide a condition from its last two points of training, or the only one; None if they disagree.

    Example:
        >>> from gradlab.study.verdicts import last_two
        >>> last_two([False, True, True]), last_two([True, False])
        (True, None)
    """
    return unanimous(signs[-2:])


def unanimous(decisions: Iterable[bool | None]) -> bool | None:
    """Decide a claim about several cases: the common decision, or None if they disagree."""
    different = set(decisions)
    return different.pop() if len(different) == 1 else None


def every(decisions: Iterable[bool | None]) -> bool | None:
    """Decide a claim with several conditions: False if one fails, else None if one is undecided, else True."""
    different = set(decisions)
    return False if False in different else None if None in different else True


def signed(values: Iterable[float], unit: str = "%", digits: int = 1) -> str:
    """Format changes with their signs.

    Args:
        values: the changes; NaN gives ``"undefined"``.
        unit: unit to append.
        digits: decimal places.

    Example:
        >>> from gradlab.study.verdicts import signed
        >>> signed([-3.14, 0.2])
        '-3.1 %, +0.2 %'
    """
    return ", ".join("undefined" if math.isnan(v) else f"{v:+.{digits}f} {unit}".rstrip() for v in values)


def _change(a: float, b: float, unit: str) -> float:
    return 100 * (a / b - 1) if unit == "%" else a - b


def _signs(pair: Pair, points: Sequence[int], unit: str, smallest: float, expect: str) -> list[bool | None]:
    """Return for each point whether it shows the expected ordering; None if it shows none."""
    signs: list[bool | None] = []
    for point in points:
        change = _change(pair.a[point], pair.b[point], unit)
        clear = pair.se is None or abs(pair.a[point] - pair.b[point]) > CLEAR * pair.se[point]
        if expect == "similar":
            signs.append(None if math.isnan(change) else bool(abs(change) < smallest))
        else:
            signs.append(bool(change < 0) == (expect == "lower") if clear and abs(change) > smallest else None)
    return signs


def _numbers(pair: Pair, points: Sequence[int], unit: str) -> str:
    """Format the changes of a pair next to the paper's; for differences also the values at the last point."""
    last = points[-1]
    numbers = signed((_change(pair.a[point], pair.b[point], unit) for point in points), unit, 1 if unit == "%" else 3)
    if unit != "%":
        numbers = f"{pair.a[last]:.4g} and {pair.b[last]:.4g} {unit}".rstrip() + f", difference {numbers}"
    notes = [] if pair.se is None else [f"standard error {pair.se[last]:.3f}"]
    if pair.paper is not None and not any(map(math.isnan, pair.paper)):
        a, b = pair.paper
        notes.append(f"paper {signed([_change(a, b, unit)])}" if unit == "%" else f"paper {a:.4g} and {b:.4g}")
    named = f"{pair.name}: {numbers}" if pair.name else numbers
    return f"{named} ({', '.join(notes)})" if notes else named
