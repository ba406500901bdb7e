"""Timing of iterations: medians of methods that take turns."""

from __future__ import annotations

from dataclasses import replace

import pytest

from gradlab import data
from gradlab.errors import GradlabError
from gradlab.training import TrainSettings, steps, timing

TINY = TrainSettings(codec="small-hyperprior", channels=(4, 6), crop=32, batch=1, steps=1)


@pytest.fixture(scope="module")
def pictures():
    return [p for p in data.embedded("train") if p.name == "coffee.png"]


def test_medians_of_turns_after_the_warm_up(pictures, monkeypatch):
    """A clock that is read twice an iteration, and which step is run in what order."""
    ticks = [0.0]
    cost_of = {"a": iter([100, 1, 2, 6]), "b": iter([200, 10, 30, 20])}
    order = []

    def body(step):
        name = "a" if step.state.settings.lam == 0.01 else "b"
        order.append(name)
        ticks[0] += next(cost_of[name])

    monkeypatch.setattr(steps.Step, "body", body)
    methods = {"a": replace(TINY, lam=0.01), "b": TINY}
    table = timing.step_times(methods, pictures, 3, 1, clock=lambda: ticks[0]).set_index("method")
    assert order == ["a", "b"] * 4
    assert table.loc["a", ["seconds", "seconds_min", "seconds_max"]].tolist() == [2, 1, 6]
    assert table.loc["b", ["seconds", "seconds_min", "seconds_max"]].tolist() == [20, 10, 30]
    assert (table["repetitions"] == 3).all() and (table["threads"] >= 1).all() and (table["step"] == "eager").all()


def test_real_iterations_take_time(pictures):
    seen = []
    table = timing.step_times({"a": TINY}, pictures, 2, 0, advance=lambda n=1, note="": seen.append(note))
    assert 0 < table["seconds_min"][0] <= table["seconds"][0] <= table["seconds_max"][0]
    assert seen == ["a", "a"]


def test_where_one_method_cannot_be_a_graph_none_is(pictures, monkeypatch):
    """A table of graphs and eager steps would compare unlike things."""
    asked = []

    def make_step(state, batches, kind, capacity):
        asked.append(kind)
        graph = kind == "auto" and state.settings.lam == 0.01
        return steps.Step(state, batches, capacity), "graph" if graph else "eager"

    monkeypatch.setattr(timing, "make_step", make_step)
    table = timing.step_times({"a": replace(TINY, lam=0.01), "b": TINY}, pictures, 1, 0)
    assert asked == ["auto", "auto", "eager", "eager"] and (table["step"] == "eager").all()


@pytest.mark.parametrize(
    ("methods", "repetitions", "match"), [({}, 1, "methods is empty"), ({"a": TINY}, 0, "repetitions is 0")]
)
def test_bad_input(pictures, methods, repetitions, match):
    with pytest.raises(GradlabError, match=match):
        timing.step_times(methods, pictures, repetitions)
