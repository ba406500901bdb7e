"""Verdicts: orderings with known outcomes, and the sentences that show them."""

from __future__ import annotations

import math

import pandas as pd
import pytest

from gradlab.study import Verdict, runner
from gradlab.study.verdicts import Pair, every, last_two, signed, unanimous

NAN = math.nan
BASE = {100: 2.0, 200: 2.0, 300: 2.0}


def after(*values):
    return dict(zip(BASE, values, strict=False))


def compare(pairs, expect="lower", **options):
    return Verdict.compare("A costs less", "Table 1", pairs, expect=expect, quantity="cost of A over B", **options)


def test_the_runner_judges_by_the_same_verdict():
    assert runner.Verdict is Verdict
    assert Verdict._fields == ("claim", "source", "holds", "evidence")


@pytest.mark.parametrize(("values", "holds"), [
    ((1.9, 1.9, 1.9), True),
    ((2.1, 1.9, 1.8), True),
    ((1.9, 2.1, 2.2), False),
    ((1.9, 1.9, 2.1), None),
    ((1.9, 2.0, 1.9), None),
    ((1.9, 1.9, NAN), None),
    ((NAN, 1.9, 1.9), True),
    ((1.9,), True),
])  # fmt: skip
def test_an_ordering_counts_where_the_last_two_agree(values, holds):
    pair = Pair(after(*values), BASE)
    assert compare(pair).holds is holds
    assert compare(pair, "higher").holds is (None if holds is None else not holds)
    assert compare(pair, unit="bit").holds is holds


def test_the_evidence_has_every_change_the_papers_and_the_seeds():
    pair = Pair(pd.Series({200: 1.9, 100: 2.5}), pd.Series(BASE), paper=(3.0, 2.0))
    sentence = "cost of A over B: +25.0 %, -5.0 % (paper +50.0 %) after 100, 200 iterations, one seed"
    assert compare(pair) == Verdict("A costs less", "Table 1", None, sentence)
    assert compare(pair, seeds=3).evidence.endswith(" iterations, 3 seeds")
    assert "paper" not in compare(pair._replace(paper=(NAN, 2.0))).evidence
    assert compare(pair._replace(a=after(NAN, 1.9))).evidence.startswith("cost of A over B: undefined, -5.0 %")


@pytest.mark.parametrize(("ends", "holds"), [
    ((1.9, 1.8), True), ((2.1, 2.2), False), ((1.9, 2.1), None), ((1.9, 1.99), None), ((1.99, 1.99), None),
])  # fmt: skip
def test_several_pairs_decide_where_all_agree(ends, holds):
    pairs = [Pair({100: end}, BASE, f"k = {k}", (1.0, 2.0)) for k, end in enumerate(ends, 3)]
    verdict = compare(pairs, smallest=1.0)
    assert verdict.holds is holds
    assert verdict.evidence.startswith(f"cost of A over B: k = 3: {50 * ends[0] - 100:+.1f} % (paper -50.0 %); k = 4: ")


@pytest.mark.parametrize(("ends", "holds"), [
    ((1.99, 2.01), True), ((1.99, 2.5), False), ((NAN, 2.01), None), ((NAN, 2.5), False), ((1.5, 2.5), False),
])  # fmt: skip
def test_values_are_similar_where_no_pair_differs(ends, holds):
    pairs = [Pair({100: end}, BASE, f"x{k}") for k, end in enumerate(ends)]
    verdict = compare(pairs, "similar", smallest=2.0)
    assert verdict.holds is holds
    assert verdict.evidence.endswith(" after 100 iterations, one seed; similar is read as below 2 %")


@pytest.mark.parametrize(("se", "holds"), [(0.04, True), (0.06, None), (NAN, None)])
def test_an_ordering_within_two_standard_errors_does_not_count(se, holds):
    pair = Pair({100: 1.9}, BASE, paper=(0.3, 0.5), se={100: se})
    verdict = compare(pair, unit="dB")
    assert verdict.holds is holds and compare(pair).holds is holds
    assert verdict.evidence == (
        f"cost of A over B: 1.9 and 2 dB, difference -0.100 dB (standard error {se:.3f}, paper 0.3 and 0.5) "
        "after 100 iterations, one seed"
    )


@pytest.mark.parametrize(("decisions", "all_alike", "conjunction"), [
    ([True, True], True, True),
    ([False, False], False, False),
    ([True, False], None, False),
    ([True, None], None, None),
    ([False, None], None, False),
    ([None], None, None),
])  # fmt: skip
def test_conditions_combine(decisions, all_alike, conjunction):
    assert unanimous(decisions) is all_alike
    assert every(decisions) is conjunction
    assert last_two([None, *decisions]) is (all_alike if len(decisions) > 1 else None)


def test_changes_are_printed_with_their_signs():
    assert signed([-3.14, NAN, 0.5]) == "-3.1 %, undefined, +0.5 %"
    assert signed([0.25], "", 2) == "+0.25"
