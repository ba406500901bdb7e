"""Models are evaluated once, image by image, also by processes beside the training."""

from __future__ import annotations

import io
import json
from dataclasses import replace
from pathlib import Path

import pandas as pd
import pytest
import torch
from rich.console import Console

from gradlab import data, evaluation, training
from gradlab.data import Picture
from gradlab.errors import GradlabError, Stopped
from gradlab.runtime.progress import Progress
from gradlab.study import Context, evaluations, models
from gradlab.study.pieces import Parts
from gradlab.training import RunOptions
from gradlab_studies import _methods as methods
from tests.codecs.codec_zoo import nudge
from tests.processes import forked

__all__ = ["forked"]  # a fixture

SETTINGS = replace(methods.SMALLEST, data="")
GENERATOR = torch.Generator().manual_seed(0)
IMAGES = [
    Picture(name, torch.randint(0, 256, (3, 40, 56), generator=GENERATOR, dtype=torch.uint8), "")
    for name in ("01", "02", "b.png")
]


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    folder = tmp_path_factory.mktemp("runs")
    return training.train(SETTINGS, data.load(None, "train", SETTINGS.crop), folder)


@pytest.fixture
def run(trained, tmp_path):
    """A copy of the run that nothing was evaluated of."""
    folder = tmp_path / trained.folder.name
    folder.mkdir()
    for path in trained.folder.glob("*.safetensors"):
        (folder / path.name).write_bytes(path.read_bytes())
    (folder / "weights.json").write_bytes((trained.folder / "weights.json").read_bytes())
    return replace(trained, folder=folder)


@pytest.fixture
def counted(monkeypatch):
    """The images that are coded."""
    coded, code = [], evaluation.rate_distortion

    def counting(codec, pictures, *arguments):
        coded.extend(picture.name for picture in pictures)
        return code(codec, pictures, *arguments)

    monkeypatch.setattr(evaluation, "rate_distortion", counting)
    return coded


def test_rows_are_those_of_the_codec_and_are_read_the_second_time(run, counted):
    first = evaluations.rate_distortion(run, 4, IMAGES)
    direct = evaluation.rate_distortion(run.codec(4), IMAGES, SETTINGS.lam)
    pd.testing.assert_frame_equal(first, direct, check_exact=True)
    counted.clear()
    pd.testing.assert_frame_equal(evaluations.rate_distortion(run, 4, IMAGES), direct, check_exact=True)
    assert counted == []


def test_other_weights_and_other_images_are_evaluated_again(run, counted):
    evaluations.rate_distortion(run, 4, IMAGES)
    for iteration, images in ((6, IMAGES), (None, IMAGES[:2]), (4, IMAGES[:1])):
        counted.clear()
        evaluations.rate_distortion(run, iteration, images)
        assert len(counted) == len(images)
    nudge(run.snapshot(4))
    counted.clear()
    evaluations.rate_distortion(run, 4, IMAGES)
    assert len(counted) == 3


def test_what_h_a_reads_is_told_apart(tmp_path, counted):
    settings = replace(SETTINGS, direct_y=False)
    two = training.train(settings, data.load(None, "train", settings.crop), tmp_path)
    rounded, mean = (evaluations.rate_distortion(two, None, IMAGES, hyper_input=h) for h in ("", "mean"))
    codec = two.codec()
    codec.hyper_input = "mean"
    pd.testing.assert_frame_equal(mean, evaluation.rate_distortion(codec, IMAGES, settings.lam), check_exact=True)
    assert len(counted) == 9 and not rounded.equals(mean)


def test_a_run_that_was_cut_goes_on_at_the_next_image(run, counted, monkeypatch):
    monkeypatch.setattr(evaluations, "KEEP_SECONDS", 0.0)
    seen = []

    class Advance:
        def __call__(self, n=1, note=""):
            seen.append(note)
            if len(seen) == 2:
                raise Stopped("stopped at the time limit")

        def skip(self, n, note=""):
            seen.append((n, note))

    with pytest.raises(Stopped):
        evaluations.rate_distortion(run, 6, IMAGES, Advance())
    counted.clear()
    found = evaluations.rate_distortion(run, 6, IMAGES, Advance())
    assert counted == ["02", "b.png"] and seen[2:] == [(1, "evaluated before"), "02", "b.png"]
    pd.testing.assert_frame_equal(found, evaluation.rate_distortion(run.codec(6), IMAGES, SETTINGS.lam))


def test_rows_say_how_they_were_made_and_those_of_another_version_are_not_read(run, counted):
    there = Parts(made={"gradlab": "0.1.0", "device": "cuda (NVIDIA H200)"})
    evaluations.rate_distortion(run, 4, IMAGES, parts=there)
    here = Parts(made={"gradlab": "0.1.0", "device": "cpu"})
    counted.clear()
    evaluations.rate_distortion(run, 4, IMAGES, parts=here)
    assert counted == [] and here.elsewhere() == "gradlab 0.1.0, device cuda (NVIDIA H200)"
    evaluations.rate_distortion(run, 4, IMAGES, parts=Parts(made={"gradlab": "0.2.0"}))
    assert len(counted) == 3


def test_what_was_evaluated_is_read_without_the_weights(run, counted):
    before = evaluations.rate_distortion(run, 4, IMAGES)
    run.snapshot(4).unlink()
    counted.clear()
    pd.testing.assert_frame_equal(evaluations.rate_distortion(run, 4, IMAGES), before, check_exact=True)
    assert counted == []
    with pytest.raises(GradlabError, match="the weights after 4 iterations are not in"):
        evaluations.rate_distortion(run, 4, IMAGES[:1])


@pytest.mark.parametrize(
    "damage",
    [
        pytest.param(lambda text: text[:-9], id="cut"),
        pytest.param(lambda text: "", id="empty"),
        pytest.param(lambda text: "{}", id="no rows"),
        pytest.param(lambda text: text.replace("0.", "1.", 1), id="other digit"),
    ],
)
def test_damaged_rows_are_as_if_there_were_none(run, counted, damage):
    before = evaluations.rate_distortion(run, 4, IMAGES)
    (path,) = run.folder.glob("rate-distortion-4-*.json")
    path.write_text(damage(path.read_text()))
    counted.clear()
    pd.testing.assert_frame_equal(evaluations.rate_distortion(run, 4, IMAGES), before, check_exact=True)
    assert len(counted) == 3


def test_without_images_and_without_the_weights(run):
    with pytest.raises(GradlabError, match="no images to evaluate"):
        evaluations.rate_distortion(run, 4, [])
    with pytest.raises(GradlabError, match=r"the weights after 3 iterations are not in .*gradlab pack --snapshot 3"):
        evaluations.rate_distortion(run, 3, IMAGES)


@pytest.mark.slow
def test_beside_another_process_evaluates_and_this_one_reads(run, counted):
    seen = []
    with evaluations.Background(IMAGES, 1) as beside:
        beside.begin(run, 4)
        beside.begin(run, 6)
        beside.wait(lambda n=1, note="": seen.append(n))
    assert sum(seen) == 2 and beside.left == 0
    found = evaluations.rate_distortion(run, 6, IMAGES)
    assert counted == []
    pd.testing.assert_frame_equal(found, evaluation.rate_distortion(run.codec(), IMAGES, SETTINGS.lam))
    with evaluations.Background(IMAGES, 1) as beside:
        beside.begin(run, 4)  # done before: no process is started for it
        assert beside.left == 0 and beside._pool is None


def test_beside_nothing_happens_without_a_free_core_and_trouble_is_left_to_the_study(run, forked):
    with evaluations.Background(IMAGES, 0) as beside:
        beside.begin(run, 4)
        assert beside.left == 0
    run.snapshot(4).write_bytes(b"damaged")
    with evaluations.Background(IMAGES, 1) as beside:
        beside.begin(run, 4)
        assert beside.left == 0
    broken = Picture("broken", torch.full((3, 8, 8), torch.nan), "")
    with evaluations.Background([broken], 1) as beside:
        beside.begin(run, 6)
        beside.wait()
    with pytest.raises(GradlabError, match="broken holds NaN"):
        evaluations.rate_distortion(run, 6, [broken])


def test_a_study_evaluates_what_is_finished_while_the_next_model_is_trained(tmp_path, monkeypatch, counted, forked):
    monkeypatch.setattr(models, "_free_cores", lambda context: 1)
    console = Console(file=io.StringIO(), width=160)
    context = Context(
        out=tmp_path, folder=tmp_path / "table2", profile="quick", seed=0, options=RunOptions(),
        train_images=None, test_images=None, progress=Progress(console),
    )  # fmt: skip
    wanted = [(name, methods.method(SETTINGS, name)) for name in (methods.TWO_LEVEL, methods.BASELINE)]
    points = [((6, ""), (6, "mean")), ((4, ""),)]
    models.train_all(context, wanted, pictures=IMAGES, points=points)
    kept = sorted(path.name.partition("-")[0] for path in Path(tmp_path).rglob("rate-distortion-*.json"))
    assert kept == ["rate"] * 3 and counted == []
    variants = [
        models.Variant(*model, (iteration,), {"method": model[0]}, hyper_input=hyper_input)
        for model, evaluated in zip(wanted, points, strict=True)
        for iteration, hyper_input in evaluated
    ]
    tables = models.rate_distortion(context, 2, variants, ["method"], keys=["method"], pictures=IMAGES)
    assert counted == [] and len(tables["table2"]) == 3 and len(tables["table2_images"]) == 9


def test_a_run_that_was_killed_before_its_last_note_is_noted_later(run):
    noted = json.loads((run.folder / "weights.json").read_text())
    assert set(noted) == {"snapshot-2.safetensors", "snapshot-4.safetensors", "final.safetensors"}
    (run.folder / "weights.json").write_text(json.dumps({"snapshot-4.safetensors": "of an earlier run"}))
    run.record_digests(run.snapshot(4))
    assert json.loads((run.folder / "weights.json").read_text()) == noted
    (run.folder / "weights.json").unlink()
    training.train(SETTINGS, data.load(None, "train", SETTINGS.crop), run.folder.parent)
    assert json.loads((run.folder / "weights.json").read_text()) == noted
