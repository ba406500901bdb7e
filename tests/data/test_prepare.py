"""A training set from a tree of photographs."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures.process import BrokenProcessPool

import numpy as np
import pytest
from PIL import Image

from gradlab import cli, data
from gradlab.data import prepare as module
from gradlab.data.downsampling import SATURATED, downsample, saturated_share
from gradlab.data.prepare import images_in, prepare
from gradlab.errors import GradlabError
from gradlab.runtime import files
from tests.processes import Process, forked

__all__ = ["forked"]  # a fixture


def photograph(path, width, height, seed=0, **options):
    path.parent.mkdir(parents=True, exist_ok=True)
    values = np.random.default_rng(seed).integers(60, 200, (height, width, 3), dtype=np.uint8)
    Image.fromarray(values).save(path, **options)


@pytest.fixture
def tree(tmp_path):
    source = tmp_path / "photos"
    photograph(source / "a" / "largest.png", 900, 700, 1)
    photograph(source / "second.jpg", 700, 660, 2)
    photograph(source / "b" / "c" / "third.png", 300, 200, 3)
    photograph(source / "smallest.png", 100, 90, 4)
    (source / "notes.txt").write_text("no image")
    photograph(source / ".hidden.png", 2000, 10)
    return source


def pixels(path):
    return np.asarray(Image.open(path))


def contents(folder):
    return {p.name: hashlib.sha256(p.read_bytes()).hexdigest() for p in folder.iterdir()}


def test_the_largest_are_taken_and_the_manifest_says_how(tree, tmp_path):
    done = prepare(tree, tmp_path / "set", 3, seed=5, workers=1)
    manifest = files.read_csv(tmp_path / "set" / "manifest.csv")
    assert list(manifest["source"]) == ["a/largest.png", "second.jpg", "b/c/third.png"]
    assert done.total == 4 and done.done_before == 0 and len(done.skipped) == 0
    for row in manifest.itertuples():
        made = pixels(tmp_path / "set" / row.file)
        assert made.shape == (row.height, row.width, 3)
        assert row.sha256 == hashlib.sha256((tree / row.source).read_bytes()).hexdigest()
        assert row.output_sha256 == hashlib.sha256((tmp_path / "set" / row.file).read_bytes()).hexdigest()
        assert row.seed == 5
        assert row.factor == min(row.width, row.height) / min(row.source_width, row.source_height)
    assert 640 <= manifest["height"][0] <= 700  # 900 x 700: the shorter side is the height
    assert manifest["factor"][2] == 1  # 300 x 200 keeps its size
    pictures = data.load(tmp_path / "set", "train", 64)
    assert sorted(p.name for p in pictures) == sorted(manifest["file"])


def test_small_noise_is_added_before_rounding(tmp_path):
    """Without resizing: whole values stay or move by one where |u| is exactly a half; between them it dithers."""
    flat = np.full((650, 800, 3), 100, np.uint8)
    flat[:, 400:] = 101
    made = downsample(flat, np.random.default_rng(0))
    short = made.shape[0]
    assert 640 <= short <= 650 and abs(made.shape[1] / short - 800 / 650) < 0.002
    assert set(np.unique(made)) <= {99, 100, 101, 102}
    kept = downsample(np.full((64, 64, 3), 100, np.uint8), np.random.default_rng(0))
    assert kept.shape == (64, 64, 3) and (kept == 100).all()


def test_a_value_between_two_bytes_is_dithered():
    """Resized in float, then noise, then rounding: the mean is kept to its standard error, rounding alone is off."""
    pattern = np.zeros((1300, 1300, 3), np.uint8)
    pattern[:] = 100
    pattern[::2, ::2] = 101  # mean 100.25, which a resize by about half brings about everywhere
    made = downsample(pattern, np.random.default_rng(1)).astype(float)
    inner = made[20:-20, 20:-20]
    share = (inner == 101).mean()
    assert set(np.unique(inner)) <= {99, 100, 101, 102}
    assert abs(inner.mean() - 100.25) < 0.02
    assert 0.1 < share < 0.5


def test_shorter_sides_are_uniform_from_640_to_1200():
    sides = [downsample(np.zeros((1201, 1210, 3), np.uint8), np.random.default_rng(s)).shape[0] for s in range(40)]
    assert all(640 <= side <= 1200 for side in sides)
    # z-test of the mean of a uniform on 640..1200.
    assert abs(np.mean(sides) - 920) / (561 / 12**0.5 / 40**0.5) < 4.5
    assert len(set(sides)) > 30


def test_the_same_pixels_whatever_else_is_there_and_however_many_processes(tree, tmp_path, forked):
    one = prepare(tree, tmp_path / "one", 4, workers=1)
    prepare(tree, tmp_path / "two", 4, workers=2)
    images = [n for n in contents(tmp_path / "one") if n.endswith((".png", ".csv"))]
    assert all(contents(tmp_path / "one")[n] == contents(tmp_path / "two")[n] for n in images)
    (tree / "smallest.png").unlink()
    photograph(tree / "z" / "new.png", 950, 900, 9)
    more = prepare(tree, tmp_path / "more", 4, workers=1)
    before, after = (m.manifest.set_index("source")["output_sha256"] for m in (one, more))
    assert after["second.jpg"] == before["second.jpg"] and after["a/largest.png"] == before["a/largest.png"]
    other = prepare(tree, tmp_path / "other", 1, seed=1, workers=1)
    assert other.manifest["output_sha256"][0] != after["z/new.png"]


def test_what_is_done_is_not_done_again_and_what_is_damaged_is(tree, tmp_path):
    target = tmp_path / "set"
    first = prepare(tree, target, 3, workers=1)
    whole, times = contents(target), {p.name: p.stat().st_mtime_ns for p in target.glob("*.png")}
    again = prepare(tree, target, 3, workers=1)
    assert again.done_before == 3
    assert contents(target) == whole
    assert {p.name: p.stat().st_mtime_ns for p in target.glob("*.png")} == times
    names = list(first.manifest["file"])
    (target / names[0]).write_bytes((target / names[0]).read_bytes()[:-20])  # cut off
    (target / names[1]).with_name(f".{names[1][:-4]}.json").unlink()  # killed before its note
    third = prepare(tree, target, 3, workers=1)
    assert third.done_before == 1
    assert contents(target) == whole
    photograph(tree / "a" / "largest.png", 900, 701, 11)  # another source under the same name
    assert prepare(tree, target, 3, workers=1).done_before == 2


def test_a_smaller_count_leaves_the_set_and_nothing_else(tree, tmp_path):
    target = tmp_path / "set"
    prepare(tree, target, 4, workers=1)
    (target / "readme.md").write_text("mine")
    kept = prepare(tree, target, 2, workers=1)
    assert sorted(p.name for p in target.glob("*.png")) == sorted(kept.manifest["file"])
    assert (target / "readme.md").exists() and len(list(target.glob(".*-*.json"))) == 2


def test_what_is_left_out_is_listed_and_the_next_takes_its_place(tree, tmp_path, monkeypatch):
    (tree / "broken.jpg").write_bytes((tree / "second.jpg").read_bytes()[:3000])
    (tree / "text.png").write_text("not a picture")
    drawing = np.zeros((800, 1000, 3), np.uint8)
    drawing[..., 0] = 255
    Image.fromarray(drawing).save(tree / "drawing.png")
    monkeypatch.setattr(module, "MAX_PIXELS", 2_000_000)
    Image.new("1", (2000, 1001)).save(tree / "bomb.png")
    done = prepare(tree, tmp_path / "set", 3, workers=1)
    assert list(done.manifest["source"]) == ["a/largest.png", "second.jpg", "b/c/third.png"]
    reasons = done.skipped.set_index("source")["reason"]
    assert set(reasons.index) == {"broken.jpg", "text.png", "drawing.png", "bomb.png"}
    assert "damaged" in reasons["broken.jpg"] and "cannot be read" in reasons["text.png"]
    assert "100 % of its pixels are fully saturated" in reasons["drawing.png"] and "bomb" in reasons["bomb.png"]
    assert files.read_csv(tmp_path / "set" / "skipped.csv").equals(done.skipped)
    assert done.total == images_in(tree) == 8


@pytest.mark.parametrize(("colour", "full"), [
    ((255, 0, 0), 1), ((0, 64, 64), 1), ((0, 63, 0), 0), ((0, 0, 0), 0), ((255, 255, 255), 0), ((200, 20, 20), 0),
])  # fmt: skip
def test_saturation(colour, full):
    assert saturated_share(np.full((2, 3, 3), colour, np.uint8)) == full


def test_embedded_photographs_are_photographs():
    # The Hubble field is mostly black: dark pixels do not count.
    for picture in [*data.embedded("train"), *data.embedded("test")]:
        assert saturated_share(picture.pixels.permute(1, 2, 0).numpy()) < SATURATED / 2, picture.name


@pytest.mark.parametrize(("source", "target", "count", "workers", "match"), [
    ("gone", "set", 1, 1, "there is no folder .*gone: check the path"),
    ("photos/notes.txt", "set", 1, 1, "is not a folder"),
    ("photos", "photos", 1, 1, "are nested"),
    ("photos", "photos/set", 1, 1, "are nested"),
    ("photos/a", "photos", 1, 1, "are nested"),
    ("photos", "set", 0, 1, "count is 0"),
    ("photos", "set", 1, 0, "workers is 0: give a whole number of processes, at least 1"),
    ("empty", "set", 1, 1, "there are no images in"),
    ("photos", "taken", 1, 1, "already holds stranger.png"),
    ("photos", "photos/notes.txt/x", 1, 1, "are nested"),
])  # fmt: skip
def test_bad_input(tree, tmp_path, source, target, count, workers, match):
    (tmp_path / "empty").mkdir()
    photograph(tmp_path / "taken" / "stranger.png", 10, 10)
    with pytest.raises(GradlabError, match=match):
        prepare(tmp_path / source, tmp_path / target, count, workers=workers)


def test_two_seeds_are_not_mixed(tree, tmp_path):
    prepare(tree, tmp_path / "set", 1, workers=1)
    with pytest.raises(GradlabError, match="prepared with seed 0, not 1"):
        prepare(tree, tmp_path / "set", 1, seed=1, workers=1)


def test_a_disk_that_refuses(tree, tmp_path):
    (tmp_path / "file").write_text("x")
    with pytest.raises(GradlabError, match="cannot write to"):
        prepare(tree, tmp_path / "file" / "set", 1, workers=1)


def test_a_process_that_died():
    with pytest.raises(GradlabError, match="died, possibly out of memory"), module._pool(2):
        raise BrokenProcessPool


def test_the_command(tree, tmp_path, capsys):
    (tree / "text.png").write_text("not a picture")
    arguments = ["data", "prepare", str(tree), str(tmp_path / "set"), "--count", "9", "--workers", "1"]
    assert cli.main(arguments) == 0
    output = capsys.readouterr().out
    assert "4 images are in" in output and "9 were requested, but SRC has no more" in output
    assert "text.png" in output and "cannot be read" in output and "4/5" in output
    assert cli.main(arguments) == 0
    assert "4 of them from an earlier run" in capsys.readouterr().out
    assert cli.main(["data", "prepare", str(tmp_path / "gone"), str(tmp_path / "set")]) == 2
    assert capsys.readouterr().err.startswith("error: there is no folder")


def killed_after_one(source, target):
    prepare(source, target, 4, workers=1, advance=lambda n, note: os._exit(9))


def test_a_killed_run_goes_on(tree, tmp_path):
    """Killed after the first image; the second run keeps it and leaves the same folder as an undisturbed one."""
    assert Process(killed_after_one, tree, tmp_path / "set").wait(60) == 9
    assert len(list((tmp_path / "set").glob("*.png"))) == 1
    assert prepare(tree, tmp_path / "set", 4, workers=1).done_before == 1
    prepare(tree, tmp_path / "undisturbed", 4, workers=1)
    assert contents(tmp_path / "set") == contents(tmp_path / "undisturbed")
    row = json.loads(next((tmp_path / "set").glob(".largest-*.json")).read_text())
    assert row["source"] == "a/largest.png"
