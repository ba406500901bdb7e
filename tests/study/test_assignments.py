"""``--set``: any setting from the command line, typed, all of a group at once."""

from __future__ import annotations

import operator
from dataclasses import dataclass, field

import pytest

from gradlab.errors import GradlabError
from gradlab.runtime import provenance
from gradlab.study.assignments import assigned
from gradlab.training import Loss, TrainSettings


@dataclass(frozen=True)
class Study:
    base: TrainSettings = field(default_factory=lambda: TrainSettings(steps=100, snapshots=(50, 75)))
    points: tuple[int, ...] = (50, 100)
    stages: tuple[str, ...] = ("-",)
    tile: float = 1.0
    name: str = "a"
    pairs: tuple[tuple[float, float], ...] = ((0.0, 1.0),)
    limit: float | None = None
    extra: tuple[int, ...] = ()
    whole: bool = False
    counts: int | tuple[int, ...] = 3
    seed: int = 0


@pytest.mark.parametrize(
    ("given", "name", "value"),
    [
        ("base.crop=128", "base.crop", 128),
        ("base.learning_rate=4e-4", "base.learning_rate", 4e-4),
        ("base.lam=1", "base.lam", 1.0),
        pytest.param("base.loss.k=8", "base.loss", Loss("ms-nic-mix", k=8), id="base.loss.k=8-base.loss"),
        ("base.codec=small-hyperprior", "base.codec", "small-hyperprior"),
        ("base.warm_up=300", "base.warm_up", 300),
        ("base.warm_up=None", "base.warm_up", None),
        ("base.direct_y=False", "base.direct_y", False),
        ("points=(10, 20)", "points", (10, 20)),
        ("points=[10,20]", "points", (10, 20)),
        ("points=(10,)", "points", (10,)),
        ("points=10", "points", (10,)),
        ("stages=early", "stages", ("early",)),
        ("stages=('early','mid')", "stages", ("early", "mid")),
        ("tile=2", "tile", 2.0),
        ("base.betas=(0, 0.5)", "base.betas", (0.0, 0.5)),
        ("pairs=[[1, 2], (3, 4)]", "pairs", ((1.0, 2.0), (3.0, 4.0))),
        ("limit=3", "limit", 3.0),
        ("limit=None", "limit", None),
        ("extra=()", "extra", ()),
        ("base.snapshots=()", "base.snapshots", ()),
        ("name=128", "name", "128"),
        ("name=a=b", "name", "a=b"),
        ("counts=4", "counts", 4),
        ("counts=[4, 5, 6]", "counts", (4, 5, 6)),
        (" whole = True ", "whole", True),
    ],
)
def test_a_setting_is_changed_and_typed(given, name, value):
    extra = ["base.loss.objective=ms-nic-mix"] if "loss.k" in given else []
    before = Study()
    after = assigned(before, [given, *extra])
    changed = operator.attrgetter(name)(after)
    assert changed == value and type(changed) is type(value)
    assert before == Study()
    hash(after)


def test_equal_settings_have_one_hash():
    given = [("tile=2", "tile=2.0"), ("points=[1,2]", "points=(1,2)"), ("base.betas=(0,0)", "base.betas=[0.0,0.0]")]
    for one, other in given:
        first, second = assigned(Study(), [one]), assigned(Study(), [other])
        assert first == second and provenance.settings_hash(first) == provenance.settings_hash(second)


def test_it_is_part_of_the_identity_of_a_run():
    assert len({provenance.settings_hash(assigned(Study(), [f"base.crop={c}"])) for c in (64, 128, 256)}) == 3
    assert provenance.settings_hash(assigned(Study(), [])) == provenance.settings_hash(Study())


def test_assignments_to_one_group_are_checked_together():
    """Neither alone would do: snapshots must lie within the steps."""
    after = assigned(Study(), ["base.steps=10", "base.snapshots=(2,5)", "base.steps=20"])
    assert (after.base.steps, after.base.snapshots) == (20, (2, 5))  # the last word counts
    with pytest.raises(GradlabError, match=r"snapshots is .*: give iterations from 0 to"):
        assigned(Study(), ["base.steps=10"])


@pytest.mark.parametrize(
    ("given", "sentence"),
    [
        (["base.crpo=3"], "unknown setting 'base.crpo': did you mean 'base.crop'"),
        (["pionts=3"], "unknown setting 'pionts': did you mean 'points'"),
        (["base.loss.kk=3"], "unknown setting 'base.loss.kk': did you mean 'base.loss.k'"),
        (["base.crop=x"], "--set base.crop is 'x': give a whole number"),
        (["base.crop=1.5"], "--set base.crop is '1.5': give a whole number"),
        (["base.crop=True"], "--set base.crop is 'True': give a whole number"),
        (["base.lam=much"], "--set base.lam is 'much': give a number"),
        (["whole=1"], "--set whole is '1': give True or False"),
        (["points=x"], "--set points is 'x': give a sequence, each a whole number"),
        (["points=True"], "--set points is 'True': give a sequence, each a whole number"),
        (["stages=(early,mid)"], r"--set stages is '\(early,mid\)': give a sequence, each text"),
        (["pairs=1"], "--set pairs is '1': give a sequence, each 2 values"),
        (["tile=" + "9" * 400], "--set tile is .*: give a number"),
        (["points=(1,'x')"], "--set points is .* give a sequence, each a whole number"),
        (["base=3"], "--set base: this is a group of settings; set one of its parts"),
        (["base.loss=elbo"], "--set base.loss: this is a group of settings; set one of its parts"),
        (["points.first=3"], r"--set points.first: points is \(50, 100\) and has no parts"),
        (["base.loss.k=0"], "k is 0: give a whole number of samples, at least 1"),
        (["base.loss.objective=elb"], "unknown objective 'elb': did you mean 'elbo'"),
        (["base.crop"], "--set 'base.crop' assigns nothing: give NAME=VALUE"),
        (["=3"], "--set '=3' assigns nothing: give NAME=VALUE"),
        (["base..crop=3"], "unknown setting 'base.'"),
        (["base=3", "base.crop=3"], "--set gives both base and base.crop: give only one"),
        (["base.crop=" + "(" * 500], "--set base.crop is "),
        (["base.crop=3", "base=3"], "--set gives both base and parts of it: give only one"),
        (["tile=1e999"], "--set tile is 1e999: give finite numbers"),
        (["tile=nan"], "--set tile is 'nan': give a number"),
        (["pairs=((1,-1e999),)"], "--set pairs is .*: give finite numbers"),
        (["points=()"], r"--set points is empty: give at least one value, e.g. \(50,\)"),
        (["base.clip=-1"], "clip is -1.0: it must be positive and finite"),
        (["base.betas=(1,0)"], "betas are .*: give two numbers from 0 to below 1"),
        (["base.final_fraction=2"], "final_fraction is 2.0: give a fraction from 0 to 1"),
    ],
)
def test_bad_input_is_one_sentence(given, sentence):
    with pytest.raises(GradlabError, match=sentence) as told:
        assigned(Study(), given)
    assert "\n" not in str(told.value)
