"""Plans: what studies need, each model once, what fits, and that a plan is run as it was made."""

from __future__ import annotations

import importlib
import io
import json
from pathlib import Path

import pytest
from rich.console import Console

from gradlab import cli, data, training
from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import files
from gradlab.runtime.progress import Progress
from gradlab.study import Context, Request, catalog, models, planning, runner
from gradlab.training import RunOptions, run_of
from gradlab_studies import _methods as methods

NAMES = [
    name
    for name in catalog.studies()
    if hasattr(importlib.import_module(f"gradlab_studies.{name.replace('-', '_')}"), "work")
]
SECONDS = {"train": 1.0, "record": 0.5, "evaluate": 2.0, "round": 0.25}


def module(name):
    return importlib.import_module(f"gradlab_studies.{name.replace('-', '_')}")


@pytest.fixture(autouse=True)
def smallest(monkeypatch, tmp_path):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    for name in NAMES:
        monkeypatch.setitem(module(name).PROFILES, "quick", module(name).SMALLEST)


@pytest.fixture
def clock(monkeypatch):
    """Every unit takes what ``SECONDS`` says."""
    monkeypatch.setattr(planning.Timer, "seconds", lambda self, kind, settings, name: SECONDS[kind])


def lines(found, name):
    return [(item.kind, item.model, item.count) for item in found.items if item.study == name]


@pytest.mark.parametrize("name", NAMES)
def test_a_study_names_every_model_that_it_trains(name, monkeypatch, tmp_path):
    class Enough(Exception):
        pass

    trained = []

    def train_all(context, wanted, *arguments, **how):
        trained.extend(settings for _, settings in wanted)
        raise Enough

    used = module(name)
    monkeypatch.setattr(models, "train_all", train_all)
    options = {"out": tmp_path, "folder": tmp_path / name, "profile": "quick", "seed": 0}
    context = Context(
        **options,
        options=RunOptions(),
        train_images=None,
        test_images=None,
        progress=Progress(Console(file=io.StringIO())),
    )
    measure = used.on_codec if name == "rounding" else used.measure
    with pytest.raises(Enough):
        measure(used.SMALLEST, context)
    told = [one.settings for one in used.work(used.SMALLEST) if one.kind == "train"]
    assert trained and set(trained) <= set(told)
    if name != "table7":  # which trains a second group later
        assert set(trained) == set(told)
    assert all(one.units == one.settings.steps for one in used.work(used.SMALLEST) if one.kind == "train")


def test_models_that_studies_share_count_once(clock):
    found = planning.plan(["table3", "table2"])
    images = len(data.load(None, "test", 1))
    assert found.studies == ("table3", "table2") and found.left_out == () and found.budget_min is None
    assert lines(found, "table3") == [
        ("train", methods.TWO_LEVEL, 6), ("record", methods.TWO_LEVEL, 48),
        ("train", methods.BASELINE, 6), ("record", methods.BASELINE, 48),
    ]  # fmt: skip
    assert lines(found, "table2") == [
        ("evaluate", methods.TWO_LEVEL, 4 * images), ("evaluate", methods.BASELINE, 2 * images)
    ]  # fmt: skip
    assert sum(item.seconds for item in found.items) == 2 * 6 + 96 * 0.5 + 6 * images * 2.0


def test_what_studies_share_counts_once_and_a_second_training_twice(clock):
    """Rows of bitstreams are shared; recording the SNR of a model that was trained without trains it again."""
    images = len(data.load(None, "test", 1))
    found = planning.plan(["table8", "table4", "reconstructions", "toys"])
    assert sum(kind == "evaluate" for kind, _, _ in lines(found, "table8")) == 16
    for name in ("table4", "reconstructions"):
        assert lines(found, name) == [(planning.NOTHING, "", 0)]
    assert lines(found, "toys") == [(planning.OTHER, "", 0)] and len(found.studies) == 4
    assert lines(planning.plan(["table1", "table2"]), "table2")[-1] == ("evaluate", methods.BASELINE, images)  # point 6
    both = [kind for kind, _, _ in lines(planning.plan(["table2", "snr-training"]), "snr-training")]
    assert both == ["train", "record"] * 2
    assert "train" not in [kind for kind, _, _ in lines(planning.plan(["snr-training", "table2"]), "table2")]


def test_what_fits_is_chosen_in_the_order_asked_for(clock):
    """Table 3 takes 60 s; Table 2 alone 12 s of training and 12 images a point; Figure 4 6 s and the images."""
    images = len(data.load(None, "test", 1))
    two, three, four = 12 + 12 * images, 60, 6 + images * 0.25
    found = planning.plan(["table3", "table2", "figure4"], budget=(two + 7) / 54)
    # Table 3 does not fit, or leaves too little for Table 2: what comes first has its way.
    fits = [name for name, s in (("table3", three), ("table2", two), ("figure4", four)) if name in found.studies]
    spent, left = 0.0, 0.9 * (two + 7) / 54 * 60
    assert found.studies == tuple(fits) and set(found.studies) | set(found.left_out) == {"table3", "table2", "figure4"}
    for name in ("table3", "table2", "figure4"):
        mine = sum(item.seconds for item in found.items if item.study == name)
        assert (name in found.studies) == (spent + mine <= left)
        spent += mine if name in found.studies else 0.0
    # A model of a study that does not fit is no gift to the next: figure4 pays for its own baseline.
    alone = planning.plan(["table3", "figure4"], budget=1)
    assert alone.studies == ("figure4",) and ("train", methods.BASELINE, 6) in lines(alone, "figure4")


def test_what_was_trained_before_needs_no_time(clock, small_photographs, tmp_path):
    pictures = data.load(None, "train", methods.SMALLEST.crop)
    runs = tmp_path / "before" / "runs"
    training.train(methods.method(methods.SMALLEST, methods.TWO_LEVEL), pictures, runs)
    seen = []

    def advance(n=1, note=""):
        seen.append(n)
        if len(seen) == 3:
            raise Stopped("stopped")

    with pytest.raises(Stopped):
        training.train(methods.SMALLEST, pictures, runs, RunOptions(progress=advance))
    assert (run_of(methods.SMALLEST.on(pictures), runs).folder / "last.safetensors").exists()
    found = planning.plan(["table2"], out=tmp_path / "before")
    assert [line for line in lines(found, "table2") if line[0] == "train"] == [("train", methods.BASELINE, 3)]
    request = Request(options=RunOptions(resume=True), test_images=small_photographs)
    runner.run(["table2"], request, tmp_path / "before", console=Console(file=io.StringIO()))
    found = planning.plan(["table2"], Request(test_images=small_photographs), out=tmp_path / "before")
    assert lines(found, "table2") == [(planning.NOTHING, "", 0)]


def test_units_are_timed_once_for_models_that_are_alike(monkeypatch):
    told = []
    found = planning.plan(["table2", "table11", "toys"], say=told.append)
    assert all(item.unit_s > 0 and item.seconds < 60 for item in found.items if item.model)
    assert [item.study for item in found.items if item.kind == planning.OTHER] == ["toys"]
    assert len(told) == len(set(told)) == 5  # both models' iterations and images, and images read
    console = Console(file=io.StringIO(), width=160)
    planning.show(console, found)
    said = console.file.getvalue()
    assert "trains no model: not timed" in said and "total: " in said and "ms each" in said


def test_a_plan_is_run_as_it_was_made(clock, tmp_path, capsys):
    assert cli.main(["plan", "table3", "figure4", "--set", "seed=1", "--budget", "1"]) == 2
    assert "--set seed would be overwritten: give --seed instead" in capsys.readouterr().err
    arguments = ["plan", "table3", "figure4", "--seed", "3", "--set", "bins=20", "--budget", "1", "--out", "plan.json"]
    assert cli.main(arguments) == 2  # table3 has no bins
    assert "table3: unknown setting 'bins'" in capsys.readouterr().err
    arguments = ["plan", "figure4", "--seed", "3", "--set", "bins=20", "--budget", "1", "--out", "plan.json"]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert (
        "less a tenth for startup and drawing: figure4" in said
        and "run the studies that fit: gradlab run --plan plan.json" in said
    )
    assert cli.main(["run", "--plan", "plan.json", "--out", "out"]) == 0
    record = files.read_json(Path("out/figure4/provenance.json"))
    assert record["seed"] == 3 and record["set"] == ["bins=20"] and record["profile"] == "quick"
    arguments = ["plan", "table3", "--budget", "1", "--resume", "out", "--out", "plan.json"]
    assert (
        cli.main(arguments) == 0 and "run the studies that fit" not in capsys.readouterr().out
    )  # it takes 60 of 54 seconds
    arguments = ["plan", "figure4", "--budget", "1", "--resume", "out", "--out", "plan.json"]
    assert cli.main(arguments) == 0
    assert "run the studies that fit: gradlab run --plan plan.json --out out --resume\n" in capsys.readouterr().out


def test_the_budget_is_the_time_limit(clock, capsys, monkeypatch):
    seen = {}
    monkeypatch.setattr(runner, "run", lambda names, request, out, **how: seen.update(vars(request), names=names) or 0)
    assert cli.main(["plan", "figure4", "--budget", "2", "--out", "plan.json"]) == 0
    assert cli.main(["run", "--plan", "plan.json"]) == 0 and seen["time_limit"] == 2 and seen["names"] == ["figure4"]
    assert cli.main(["run", "--plan", "plan.json", "--time-limit", "1"]) == 0 and seen["time_limit"] == 1


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["figure5"], "unknown study 'figure5': did you mean 'figure4'?"),
        (["figure4", "--budget", "0.5"], "the budget is 0.5 minutes: give at least 1"),
        (["figure4", "--budget", "nan"], "the budget is nan minutes"),
        (["figure4", "--profile", "stay"], "study figure4 has no profile 'stay'"),
        (["figure4", "--device", "cuda:63"], "there is no device 'cuda:63' here"),
        (["figure4", "--train-images", "gone"], "--train-images: there is no folder gone"),
        (["figure4", "--set", "bns=3"], "figure4: unknown setting 'bns': did you mean 'bins'?"),
        (["figure4", "--out", "file/plan.json"], "cannot write to file: it or one of its parents is a file"),
        (["figure4", "--resume", "gone"], "there is no folder gone: give the --out of an earlier run"),
        (["figure4", "--budget", "inf"], "the budget is inf minutes"),
    ],
)  # fmt: skip
def test_what_cannot_be_planned(clock, capsys, arguments, sentence):
    Path("file").write_text("")
    assert cli.main(["plan", *arguments]) == 2
    assert sentence in capsys.readouterr().err


@pytest.mark.parametrize(
    ("change", "arguments", "sentence"),
    [
        pytest.param(None, ["--profile", "gpu"], "plan.json was made with --profile quick, not gpu: leave out --profile, or plan again", id="profile"),
        pytest.param(None, ["--seed", "4"], "plan.json was made with --seed 0, not 4", id="seed"),
        pytest.param(None, ["--set", "bins=3"], "plan.json was made with --set none, not bins=3", id="set"),
        pytest.param(None, ["--device", "cuda"], "plan.json was made with --device cpu, not cuda", id="device"),
        pytest.param(None, ["--test-images", "images"], "--test-images differs from the images that plan.json was made with", id="images"),
        pytest.param(None, ["figure4"], "studies are given both by name and by plan.json", id="studies"),
        pytest.param(lambda plan: plan | {"settings": {"figure4": "0" * 12}}, [], "the settings of figure4 in profile quick differ from those in plan.json", id="settings"),
        pytest.param(lambda plan: plan | {"studies": []}, [], "error: plan.json is a plan in which no study fits", id="empty"),
        pytest.param(lambda plan: plan | {"studies": ["figure5"]}, [], "error: unknown study 'figure5'", id="unknown study"),
        pytest.param(lambda plan: plan | {"plan": 2}, [], "plan.json is not a plan of this version", id="version"),
        pytest.param(lambda plan: plan | {"settings": 3}, [], "plan.json is not a plan", id="settings a number"),
        pytest.param(lambda plan: plan | {"seed": "x"}, [], "plan.json is not a plan", id="seed a text"),
        pytest.param(lambda plan: plan | {"studies": 3}, [], "plan.json is not a plan", id="studies a number"),
        pytest.param(lambda plan: {}, [], "plan.json is not a plan of this version", id="no keys"),
        pytest.param(lambda plan: [], [], "plan.json does not contain a JSON object: make a plan with gradlab plan", id="a list"),
    ],
)  # fmt: skip
def test_a_plan_that_is_not_of_this(clock, capsys, change, arguments, sentence):
    from PIL import Image

    Path("images").mkdir()
    Image.new("RGB", (64, 64), "red").save("images/red.png")
    assert cli.main(["plan", "figure4", "--budget", "9", "--out", "plan.json"]) == 0
    if change is not None:
        Path("plan.json").write_text(json.dumps(change(json.loads(Path("plan.json").read_text()))))
    assert cli.main(["run", "--plan", "plan.json", "--out", "out", *arguments]) == 2
    assert sentence in capsys.readouterr().err and not Path("out").exists()


def test_no_plan_at_all(capsys):
    assert cli.main(["run", "--plan", "gone.json"]) == 2
    assert "cannot read gone.json" in capsys.readouterr().err
    assert cli.main(["run"]) == 2
    assert "no study is given: give some of" in capsys.readouterr().err
    with pytest.raises(GradlabError, match="the seed is -1"):
        planning.plan(["figure4"], Request(seed=-1))
