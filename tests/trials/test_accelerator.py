"""The profile of a training step, rehearsed on a CPU: what an accelerator alone can run is listed with the reason."""

from __future__ import annotations

import contextlib
import importlib.util
import json
import sys
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from gradlab import data, training
from gradlab.runtime import files
from gradlab.study import Request, runner
from gradlab.training import RunOptions

SCRIPT = Path(__file__).parents[2] / "benchmarks" / "accelerator.py"


def test_every_variant_is_timed_or_says_why_not(bench, tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(SCRIPT.parent)  # as for any script
    without = ["--without", "compiled", "--without", "toy draws, jax"]
    done = invoked(bench, ["--device", "cpu", "--tiny", *without, "--commit", "abc", "--out", str(tmp_path)])
    assert done.exit_code == 0, done.output
    table = files.read_csv(tmp_path / "accelerator.csv").set_index("variant")
    methods = ["2-level", "MIX, k = 5", "MIX, k = 5, dreg-squared", "MIX, k = 8", "DMS, 8 x 8"]
    graphs = ["graph", "compiled graph", "bf16 graph", "bf16 compiled graph", "graph x 2", *methods]
    before, after = ["recipe", "eager", "tf32", "bf16", "largest convolution"], ["bare draw", "recorder draw"]
    assert list(table.index) == [*before, *graphs, *after, "toy draws"]
    ran = ["recipe", "eager", "bf16", "largest convolution", *after]
    assert (table.loc[ran, "images per second"] > 0).all() and table.loc["toy draws", "seconds"] > 0
    assert table.loc[graphs, "note"].str.contains("CUDA graphs need CUDA").all()
    assert "precision 'tf32' is not available" in table.loc["tf32", "note"]
    errors = table[[c for c in table.columns if c.startswith("error ")]]
    assert errors.shape[1] == 5 and (errors.loc[["eager", "bf16"]] > 0).all().all()
    assert (errors.loc["eager"] < 1e-4).all() and errors.loc["bf16"].drop("error z prior").between(1e-4, 0.5).all()
    assert errors.loc["bf16", "error z prior"] < 1e-4  # likelihoods stay in float32
    record = json.loads((tmp_path / "provenance.json").read_text())
    assert (record["device"], record["commit"], record["dirty"]) == ("cpu", "abc", None)


def load(path):
    """A script of ``benchmarks/``, which is no package, as a module."""
    spec = importlib.util.spec_from_file_location(f"benchmarks_{path.stem}", path)
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module  # dataclasses look their module up
    spec.loader.exec_module(module)
    return module


def invoked(script, arguments):
    """The script, called in this process as ``typer.run`` calls it."""
    app = typer.Typer()
    app.command()(script.main)
    return CliRunner().invoke(app, arguments)


@pytest.fixture(scope="module")
def bench():
    return load(SCRIPT)


@pytest.fixture(scope="module")
def stay():
    return load(SCRIPT.with_name("stay.py"))


@pytest.mark.parametrize("method", ["2-level", "MIX, k = 5", "MIX, k = 5, dreg-squared", "MIX, k = 8", "DMS, 8 x 8"])
def test_the_gradient_of_every_method_is_held_against_float64_on_the_same_noise(bench, method):
    settings = bench.Settings("small-hyperprior", (6, 8), crop=64, batch=2)
    train = bench.method(settings.train, *bench.METHODS[method])
    crops = data.Crops(data.load(None, "train", 64), 64, 2, 0)
    codec = training.TrainState.new(train, "cpu").codec
    right = bench.errors(codec, train, crops)
    assert set(right) == {"y infer", "y gen", "z infer", "z gen", "z prior"} and max(right.values()) < 1e-5


def test_a_wrong_gradient_is_told(bench, monkeypatch):
    settings = bench.Settings("small-hyperprior", (6, 8), crop=64, batch=2)
    crops = data.Crops(data.load(None, "train", 64), 64, 2, 0)
    codec = training.TrainState.new(settings.train, "cpu").codec
    codec.g_a[0].weight.register_hook(lambda gradient: 1.01 * gradient)
    errors = bench.errors(codec, settings.train, crops)
    assert errors["y infer"] > 1e-3 and max(e for g, e in errors.items() if g != "y infer") < 1e-5
    monkeypatch.setattr(bench, "noise_of_float32", contextlib.nullcontext)  # float64 draws other noise
    assert min(bench.errors(training.build(settings.train).train(), settings.train, crops).values()) > 1e-3


@pytest.mark.parametrize("profile", ["stay", "gpu"])
def test_a_stay_with_enough_time_is_the_profile(stay, profile):
    for name, module in stay.STUDIES.items():
        settings = module.PROFILES[profile]
        assert stay.told(name, profile, settings.base.steps) == []
        found = stay.planned([name], profile, settings.base.steps, [])
        assert [s for _, s in found] == [item.settings for item in module.work(settings) if item.kind == "train"]


@pytest.mark.parametrize("steps", [2_000, 20_000, 40_000])
def test_a_stay_that_is_cut_is_the_same_training_ended_earlier(stay, steps):
    """Table 3's learning rate at each iteration, its snapshots and points; profile stay's cosine ends with it."""
    told = stay.told("table3", "gpu", steps)
    settings = stay.assigned(stay.table3.PROFILES["gpu"], told)
    whole = stay.table3.PROFILES["gpu"].base
    assert settings.base.steps == settings.points[-1] == steps
    assert settings.counts == (320, 320, 1000)[-len(settings.points) :]
    assert settings.points[:-1] == tuple(p for p in (12_500, 25_000) if p < steps)
    assert settings.base.snapshots == tuple(s for s in whole.snapshots if s < steps)
    assert [settings.base.rate_at(t) for t in range(0, steps, 99)] == [whole.rate_at(t) for t in range(0, steps, 99)]
    short = stay.assigned(stay.table3.PROFILES["stay"], stay.told("table3", "stay", steps))
    assert short.base.cosine_steps == steps and short.points == (steps // 4, steps // 2, steps)
    assert short.base.snapshots == short.points[:-1]
    curve = stay.assigned(stay.table2.PROFILES["gpu"], stay.told("table2", "gpu", steps))
    assert curve.points == (*(p for p in (25_000,) if p < steps), steps)


@pytest.mark.slow
def test_a_stay_trains_the_models_that_its_studies_read(stay, small_photographs, tmp_path, monkeypatch):
    """At a small size to its end; ``gradlab run`` then finds the models there."""
    monkeypatch.setattr(stay.together, "__defaults__", (2,))  # steps that are timed
    sizes = ["base.codec=small-hyperprior", "base.channels=(6,8)", "base.crop=32", "base.precision=float32"]
    changes = [part for size in sizes for part in ("--set", size)]
    names = ["table3", "figure3", "table6", "table10", "table1", "table2"]
    arguments = [*names, "--device", "cpu", "--until", "0", "--round-to", "4", "--most", "4", "--out", str(tmp_path)]
    done = invoked(stay, [*arguments, *changes])
    assert done.exit_code == 0, done.output
    assert (tmp_path / "steps").read_text() == "4\n" and "a step of all 6 models; 4 iterations" in done.output
    before = {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/final.safetensors")}
    assert len(before) == 6
    told = {path.name: path.read_text().splitlines() for path in (tmp_path / "set").iterdir()}
    assert set(told) == set(names)
    for name, own in {"table3": ["draws=4"], "table1": [], "figure3": []}.items():
        assignments, options = (*told[name], *own), RunOptions(resume=True)
        request = Request(profile="stay", options=options, assignments=assignments, test_images=small_photographs)
        runner.run([name], request, tmp_path)
    assert {p: p.stat().st_mtime_ns for p in tmp_path.glob("runs/*/final.safetensors")} == before
