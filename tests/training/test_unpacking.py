"""Packed files from elsewhere: any of them are of use, what is finished stays, and nothing hostile is unpacked."""

from __future__ import annotations

import io
import os
import random
import stat
import zipfile

import pytest

from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints, digests, files
from gradlab.training.packing import PackOptions, pack, unpack
from tests.training.packs import contents, model, shards, study


def test_any_files_unpack_what_is_whole(tmp_path):
    out = tmp_path / "out"
    for number in range(4):
        model(out, f"run-{number}", seed=number, age=100 - number)
    pack(out, tmp_path / "pack", PackOptions(limit_mb=0.5))
    paths = shards(tmp_path / "pack")
    holders = {}  # which files have tensors of a run
    for path in paths:
        for said in checkpoints.load(path).extra["sets"]:
            holders.setdefault(said["run"], set()).add(path.name)
    assert len(paths) > 2 and any(len(names) > 1 for names in holders.values())
    for mask in range(1, 2 ** len(paths)):
        chosen = [path for at, path in enumerate(paths) if mask >> at & 1]
        source = files.ensure_folder(tmp_path / f"some-{mask}")
        for path in chosen:
            os.link(path, source / path.name)
        done = unpack(source, tmp_path / f"there-{mask}")
        there = {path.name for path in chosen}
        whole = {run for run, needed in holders.items() if needed <= there}
        assert {p.run for p in done.sets} == whole
        assert {name.split("/")[0] for name in done.incomplete} == {r for r, n in holders.items() if n & there} - whole
        for run in whole:
            folder, came = out / "runs" / run, tmp_path / f"there-{mask}" / "runs" / run
            assert contents(folder) == contents(came)


def test_finished_runs_and_studies_stay_and_lack_nothing_new(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    for out, seed in ((there, 1), (here, 2)):
        model(out, seed=seed)
        study(out, rows=seed)
        (out / "train.log").write_text(f"begun\nby {seed}\n")
    model(there, kind="snapshot-2", iteration=2)
    (there / "runs" / "run-1" / "log.csv").write_text("another\n")
    (there / "runs" / "run-1" / "rate-distortion-6-ab-cd.csv").write_text("bpp\n1\n")
    (there / "table1" / "more.csv").write_text("1\n")
    before = contents(here)
    pack(there, tmp_path / "pack", PackOptions(snapshots=(2,)))
    done = unpack(tmp_path / "pack", here)
    assert done.stayed == ["runs/run-1", "train.log", "table1"]
    after = contents(here, ["weights.csv"])
    assert before.items() <= after.items()
    assert after.keys() - before.keys() == {
        f"runs/run-1/{n}" for n in ("snapshot-2.safetensors", "rate-distortion-6-ab-cd.csv")
    }


@pytest.mark.parametrize(
    ("here", "packed", "wins"),
    [
        (("last", 3), ("last", 4), "packed"),
        (("last", 4), ("last", 3), "here"),
        (("last", 4), ("last", 4), "here"),
        (("last", 5), ("final", 6), "packed"),
        (("final", 6), ("last", 5), "here"),
        (None, ("last", 1), "packed"),
        (("damaged", 9), ("last", 1), "packed"),
    ],
)
def test_of_two_runs_the_further_wins(tmp_path, here, packed, wins):
    source, out = tmp_path / "source", tmp_path / "out"
    model(source, kind=packed[0], iteration=packed[1], seed=1)
    (source / "runs" / "run-1" / "snr-2x8.csv").write_text("packed\n")
    if here:
        path = model(out, kind=here[0].replace("damaged", "last"), iteration=here[1], seed=2)
        (out / "runs" / "run-1" / "snr-2x8.csv").write_text("here\n")
        if here[0] == "damaged":
            path.write_bytes(path.read_bytes()[:-9])
    pack(source, tmp_path / "pack")
    expected = contents((source if wins == "packed" else out) / "runs")
    done = unpack(tmp_path / "pack", out)
    assert contents(out / "runs") == expected
    assert bool(done.sets) == (wins == "packed") and bool(done.stayed) == (wins == "here")


def test_an_unfinished_study_takes_the_packed_files_and_keeps_its_other_parts(tmp_path):
    there, here = tmp_path / "there", tmp_path / "here"
    study(there, rows=2, finished=False, parts=("a", "b"))
    study(here, rows=1, finished=False, parts=("b", "c"))
    files.write_json(here / "table1" / "provenance.json", {"sealed": True, "study": "table1"})  # damaged
    (there / "train.log").write_text("begun\nended\n")
    (here / "train.log").write_text("begun\n")
    pack(there, tmp_path / "pack")
    assert unpack(tmp_path / "pack", here).stayed == []
    rows = {path.stem: files.read_json(path)["rows"] for path in (here / "table1" / "parts").iterdir()}
    assert rows == {"a": 2, "b": 2, "c": 1}
    assert len(files.read_csv(here / "table1" / "table1.csv")) == 2
    assert (here / "train.log").read_text() == "begun\nended\n"
    study(there, rows=3)
    model(there)
    pack(there, tmp_path / "pack")
    unpack(tmp_path / "pack", here)
    assert len(files.read_csv(here / "weights.csv")) == 1
    assert digests.read_record(here / "table1")["rows"] == 3


def test_the_last_of_a_mixed_folder_wins(tmp_path):
    out, both = tmp_path / "out", files.ensure_folder(tmp_path / "both")
    for iteration in (3, 5, 4):
        model(out, kind="last", iteration=iteration)
        pack(out, tmp_path / str(iteration), PackOptions(limit_mb=0.25))
        for path in (tmp_path / str(iteration)).iterdir():
            (both / path.name).write_bytes(path.read_bytes())
    assert len(shards(both)) == 6
    done = unpack(both, tmp_path / "there")
    assert [p.iteration for p in done.sets] == [5] and done.incomplete == []
    shards(tmp_path / "5")[0].unlink()
    (both / shards(tmp_path / "5")[0].name).unlink()
    done = unpack(both, tmp_path / "again")
    assert [p.iteration for p in done.sets] == [4] and done.incomplete == ["run-1/last (5)"]


def rewritten(path, change):
    """The file of weights with its list of sets changed."""
    stored = checkpoints.load(path)
    sets = stored.extra["sets"]
    change(sets[0])
    checkpoints.save(path, stored.tensors, "pack", 1, {"sets": sets})


@pytest.mark.parametrize(
    ("change", "message"),
    [
        pytest.param(
            lambda s: s.update(run="../../evil"),
            r"'\.\./\.\./evil'/'final' is not a plain name\): pack again",
            id="run above",
        ),
        pytest.param(lambda s: s.update(run="/evil"), r"not a plain name\): pack again", id="run absolute"),
        pytest.param(lambda s: s.update(run=".."), r"not a plain name\): pack again", id="run dots"),
        pytest.param(lambda s: s.update(kind="../final"), r"not a plain name\): pack again", id="kind above"),
        pytest.param(lambda s: s.update(digest="0" * 64), "do not match their digest: pack again", id="digest"),
        pytest.param(
            lambda s: s.update(iteration="many"),
            r"was not written by gradlab pack \(.*: pack again",
            id="iteration text",
        ),
        pytest.param(lambda s: s.pop("of"), r"was not written by gradlab pack \(.*: pack again", id="of missing"),
        pytest.param(
            lambda s: s.update(about=[]), r"was not written by gradlab pack \(.*: pack again", id="about a list"
        ),
    ],
)
def test_weights_write_below_their_folder_only(tmp_path, change, message):
    model(tmp_path / "out")
    pack(tmp_path / "out", tmp_path / "pack")
    rewritten(shards(tmp_path / "pack")[0], change)
    with pytest.raises(GradlabError, match=message):
        unpack(tmp_path / "pack", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def zipped(name, content=b"1\n", mode=0, method=zipfile.ZIP_DEFLATED):
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        entry = zipfile.ZipInfo("placeholder")
        entry.filename, entry.external_attr = name, mode << 16
        archive.writestr(entry, content, method)
    return buffer.getvalue()


@pytest.mark.parametrize(
    "name",
    [
        "../evil.csv",
        "table1/../../evil.csv",
        "/evil.csv",
        "table1//evil.csv",
        "table1/",
        "C:evil.csv",
        "table1\\evil.csv",
        ".lock",
        "table1/.hidden/x",
        "a/b/c/d/e",
        "runs/run-1/final.safetensors",
        "runs/run-1/final.SAFETENSORS",
        "",
        "a\nb",
    ],
)
def test_names_in_a_zip_are_not_trusted(tmp_path, name):
    (files.ensure_folder(tmp_path / "pack") / "results.zip").write_bytes(zipped(name))
    with pytest.raises(GradlabError, match="which gradlab pack does not write: copy it again"):
        unpack(tmp_path / "pack", tmp_path / "there")
    assert not (tmp_path / "there").exists()


def test_a_zip_that_is_a_bomb_a_link_or_damaged(tmp_path):
    path = files.ensure_folder(tmp_path / "pack") / "results.zip"
    for content in (zipped("a", b"/etc/passwd", stat.S_IFLNK | 0o777), zipped("a", method=zipfile.ZIP_LZMA)):
        path.write_bytes(content)
        with pytest.raises(GradlabError, match="which gradlab pack does not write: copy it again"):
            unpack(tmp_path / "pack", tmp_path / "there")
    path.write_bytes(zipped("bomb.csv", bytes(2**27)))
    with pytest.raises(GradlabError, match="would unpack to 128 MB: copy it again"):
        unpack(tmp_path / "pack", tmp_path / "there")
    whole = zipped("a.csv", random.Random(0).randbytes(2000))
    lied = bytearray(whole)
    at = lied.rindex(b"PK\x01\x02") + 24
    lied[at : at + 4] = (10).to_bytes(4, "little")  # says that ten bytes are in it
    for damaged in (b"", b"PK", whole[:1000], whole[:500] + b"x" + whole[501:], bytes(lied)):
        path.write_bytes(damaged)
        with pytest.raises(GradlabError, match=r"is damaged .*: copy it again"):
            unpack(tmp_path / "pack", tmp_path / "there")
    assert not (tmp_path / "there").exists()
