"""Output folders that travel in a few files: nothing lost whenever packing ends, limits hold, a warm restart says so."""

from __future__ import annotations

import os
import random
import re
import shutil
import signal
import time
import zipfile
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from gradlab import cli, data, training
from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import checkpoints, files, locks
from gradlab.training import RunOptions
from gradlab.training.packing import PackOptions, _pack, archive, pack, pack_every, unpack
from gradlab.training.state import RESTART
from gradlab_studies import _methods as methods
from tests.processes import Process
from tests.training.packs import contents, model, names, shards, study

SETTINGS = replace(methods.SMALLEST, data="")


@pytest.fixture(scope="module")
def pictures():
    return data.load(None, "train", SETTINGS.crop)


@pytest.fixture(scope="module")
def trained(tmp_path_factory, pictures):
    out = tmp_path_factory.mktemp("trained") / "out"
    training.train(SETTINGS, pictures, out / "runs", RunOptions(checkpoint_seconds=0))
    return out


@pytest.fixture
def finished(trained, tmp_path, pictures):
    """A copy of a finished run, and its folder."""
    out = shutil.copytree(trained, tmp_path / "out")
    return out, training.run_of(SETTINGS.on(pictures), out / "runs")


def stop_after(pictures, runs, iterations, settings=SETTINGS, **options):
    """A run that a time limit ends after so many iterations."""
    seen = 0

    def advance(n=1, note=""):
        nonlocal seen
        seen += n

    class Deadline(float):
        def __lt__(self, other):  # time.monotonic() > deadline, which is asked before an iteration is counted
            return seen >= iterations - 1

    with pytest.raises(Stopped):
        training.train(settings, pictures, runs, RunOptions(deadline=Deadline(0), progress=advance, **options))


def test_weights_come_back_bit_for_bit(finished, tmp_path):
    out, run = finished
    packed = pack(out, tmp_path / "pack", PackOptions(limit_mb=0.9, snapshots=(2, 4)))
    assert len(shards(tmp_path / "pack")) > 1
    assert all(path.stat().st_size <= 0.9 * 2**20 for path in (tmp_path / "pack").iterdir())
    assert [p.kind for p in packed.sets] == ["final", "snapshot-4", "snapshot-2"]
    done = unpack(tmp_path / "pack", tmp_path / "there")
    assert sorted(done.sets, key=lambda p: p.kind) == sorted(packed.sets, key=lambda p: p.kind)
    for kind in ("final", "snapshot-2", "snapshot-4"):
        before, after = (
            checkpoints.load(folder / "runs" / run.folder.name / f"{kind}.safetensors")
            for folder in (out, tmp_path / "there")
        )
        assert before.tensors.keys() == after.tensors.keys()
        assert all(torch.equal(before.tensors[n], after.tensors[n]) for n in before.tensors)
        assert before[1:] == after[1:]


def test_everything_comes_back_but_what_speaks_of_processes(tmp_path):
    out = tmp_path / "out"
    model(out)
    model(out, "run-2", "last", 3, adam=True)
    study(out)
    study(out, "table3", finished=False, parts=["Baseline-12500-direct-y-noise-320", "2-level VAE (k=8), x~y"])
    study(out / "table3", "partial")
    files.ensure_folder(out / "table1" / "pictures" / "kodim01")
    (out / "table1" / "pictures" / "kodim01" / "a b.png").write_bytes(b"PNG")
    (out / "train.log").write_text("begun\n")
    before = contents(out)
    for name in (
        "state.json",
        ".hidden",
        ".lock",
        "table3/state.json",
        "runs/run-2/state.json",
        "table1/.x.csv.0a1b2c3d.tmp",
    ):
        (out / name).write_text("{}")
    pack(out, tmp_path / "pack", PackOptions(optimizer=True))
    unpack(tmp_path / "pack", tmp_path / "there")
    after = contents(tmp_path / "there")
    assert len(files.rows_of(after.pop("weights.csv"), "weights.csv")) == 2
    assert after == before


def test_links_are_followed_inside_only(tmp_path):
    out, elsewhere = tmp_path / "out", tmp_path / "elsewhere"
    model(elsewhere)
    study(out)
    (out / "runs").symlink_to(elsewhere / "runs")
    (tmp_path / "secret.csv").write_text("1\n")
    (out / "table1" / "secret.csv").symlink_to(tmp_path / "secret.csv")
    (out / "table1" / "again.csv").symlink_to("table1.csv")
    (out / "secret").symlink_to(tmp_path)
    (out / "table1" / "round").symlink_to("round")
    study(out / ".measured", "table2")
    (out / "table2").symlink_to(".measured/table2")
    (out / "self").symlink_to(".")
    (out / "table1" / "nested").symlink_to("../.measured/table2")
    assert len(pack(out, tmp_path / "pack").sets) == 1
    inside = archive.read(tmp_path / "pack" / "results.zip")
    assert inside["table1/again.csv"] == inside["table1/table1.csv"]
    assert {"runs/run-1/log.csv"} <= inside.keys()
    assert inside["table2/table2.csv"] == (out / ".measured" / "table2" / "table2.csv").read_bytes()
    assert not any(name.startswith((".", "self", "secret", "table1/nested")) or "round" in name for name in inside)


def test_a_finished_run_is_not_trained_again(finished, tmp_path, pictures):
    out, run = finished
    pack(out, tmp_path / "pack")
    unpack(tmp_path / "pack", tmp_path / "there")
    notes = []
    training.train(
        SETTINGS, pictures, tmp_path / "there" / "runs", RunOptions(progress=lambda n=1, note="": notes.append(note))
    )
    assert notes == ["already trained"]
    assert (tmp_path / "there" / "runs" / run.folder.name / "log.csv").read_bytes() == (
        run.folder / "log.csv"
    ).read_bytes()


def test_with_the_optimizer_an_unfinished_run_goes_on_to_the_same_numbers(finished, tmp_path, pictures):
    _, undisturbed = finished
    stop_after(pictures, tmp_path / "cut" / "runs", 3)
    (entry,) = pack(tmp_path / "cut", tmp_path / "pack", PackOptions(optimizer=True)).sets
    assert (entry.kind, entry.iteration, entry.optimizer) == ("last", 3, True)
    unpack(tmp_path / "pack", tmp_path / "there")
    run = training.train(SETTINGS, pictures, tmp_path / "there" / "runs", RunOptions(resume=True))
    assert run.record().warm_restarts == ()
    one, two = (checkpoints.load(r.folder / "final.safetensors").tensors for r in (undisturbed, run))
    assert all(torch.equal(one[n], two[n]) for n in one)


def test_without_it_the_restart_is_warm_and_says_so(tmp_path, pictures):
    stop_after(pictures, tmp_path / "cut" / "runs", 3)
    (entry,) = pack(tmp_path / "cut", tmp_path / "pack").sets
    assert not entry.optimizer
    unpack(tmp_path / "pack", tmp_path / "there")
    runs = tmp_path / "there" / "runs"
    stop_after(pictures, runs, 5, resume=True)  # seen: 3 resumed, 2 trained
    run = training.train(SETTINGS, pictures, runs, RunOptions(resume=True, log_every=1))  # a resume with its optimizer
    assert run.record().warm_restarts == (3,)
    log = files.read_csv(run.folder / "log.csv")
    warm = log.loc[log["iteration"] == 6, "learning_rate"].item()
    assert warm == pytest.approx(SETTINGS.rate_at(5) * 3 / RESTART)


def test_the_learning_rate_rises_after_a_warm_restart_only():
    state = training.TrainState.new(SETTINGS)
    for iteration, restarts, factor in ((0, [], 1), (10**6, [3], 1), (10, [0, 10], 1 / RESTART)):
        state.iteration, state.restarts = iteration, restarts
        assert state.set_rate() == pytest.approx(factor * SETTINGS.rate_at(iteration))
        assert float(state.optimizer.param_groups[0]["lr"]) == state.set_rate()


@pytest.mark.parametrize(
    ("limit", "count", "total", "expected"),
    [
        (0.6, None, None, 5),
        (0.6, 4, None, 4),
        (0.6, 2, None, 1),
        (15, 2, None, 5),
        (15, None, 1.5, 3),
        (1.0, 3, 1.0, 2),
    ],
)
def test_limits_hold_and_the_most_valuable_comes_first(tmp_path, limit, count, total, expected):
    out, target = tmp_path / "out", tmp_path / "pack"
    model(out, "a-late", age=10)
    model(out, "z-early", age=20, seed=1)
    model(out, "b", "last", 5, adam=True)
    model(out, "a-late", "snapshot-2", 2)
    model(out, "a-late", "snapshot-4", 4)
    made = pack(out, target, PackOptions(limit, count, total, snapshots=(2, 4)))
    order = ["z-early/final", "a-late/final", "b/last", "a-late/snapshot-4", "a-late/snapshot-2"]
    assert names(made) + list(made.left_out) == order
    assert len(made.sets) == expected
    sizes = [path.stat().st_size for path in target.iterdir()]
    assert len(sizes) == made.files <= (count or 99)
    assert max(sizes) <= limit * 2**20
    assert sum(sizes) == made.megabytes * 2**20 <= (total or 99) * 2**20
    listed = files.rows_of(archive.read(target / "results.zip")["weights.csv"], "weights.csv")
    assert list(listed["digest"]) == [p.digest for p in made.sets]
    assert sorted(names(unpack(target, tmp_path / "there"))) == sorted(names(made))


def test_skipped_sets_are_those_that_the_first_pack_had(tmp_path):
    out = tmp_path / "out"
    for number in range(5):
        model(out, f"run-{number}", seed=number, age=100 - number)
    first = pack(out, tmp_path / "1", PackOptions(15, 2, 1.0))
    second = pack(out, tmp_path / "2", PackOptions(15, skip=len(first.sets)))
    assert names(first) + names(second) == [f"run-{number}/final" for number in range(5)]
    assert first.left_out == tuple(names(second))
    assert pack(out, tmp_path / "3", PackOptions(skip=9)).sets == ()


def test_pictures_are_left_out_before_results_are_refused(tmp_path):
    out = tmp_path / "out"
    model(out, tensors=1, kb=1)
    study(out)
    assert "table1/table1.png" in archive.read(pack(out, tmp_path / "a") and tmp_path / "a" / "results.zip")
    lines = []
    made = pack_every(out, tmp_path / "b", 1, PackOptions(limit_mb=0.015), lines.append, idle=-1)
    assert lines[0].endswith("left out: 1 pictures, because results.zip would be too large")
    assert made.notes == ("1 pictures, because results.zip would be too large",)
    assert "table1/table1.csv" in (inside := archive.read(tmp_path / "b" / "results.zip"))
    assert "table1/table1.png" not in inside
    (out / "train.log").write_bytes(random.Random(0).randbytes(30_000))
    with pytest.raises(GradlabError, match=r"tables and logs need .* MB .*: raise the limit, or remove train.log \("):
        pack(out, tmp_path / "c", PackOptions(limit_mb=0.015))
    assert len(shards(tmp_path / "c")) == 1  # the weights are packed nevertheless


def test_what_stays_is_not_written_again(tmp_path):
    out, target = tmp_path / "out", tmp_path / "pack"
    model(out, "run-1", age=50)
    model(out, "run-2", "last", 3)
    study(out)

    def state():
        return {p.name: (p.stat().st_mtime_ns, p.stat().st_ino) for p in target.iterdir()}

    options = PackOptions(limit_mb=0.45)
    pack(out, target, options)
    before = state()
    assert pack(out, target, options).new == ()
    assert state() == before
    model(out, "run-2", "last", 4)  # moves on
    assert {p.run: p.iteration for p in pack(out, target, options).sets} == {"run-1": 6, "run-2": 4}
    first, *others = shards(target)
    assert before[first.name] == state()[first.name] and others  # the final lies first
    model(out, "run-2", "final", 6)
    (out / "runs" / "run-2" / "last.safetensors").unlink()
    assert names(pack(out, target, options)) == ["run-1/final", "run-2/final"]
    assert len(state()) == 1 + len(shards(target))
    unpack(target, tmp_path / "there")
    assert contents(tmp_path / "there", ["weights.csv"]) == contents(out)
    assert not list(out.glob(".pack*"))


def test_a_run_that_ends_while_it_is_read_is_packed(tmp_path, monkeypatch):
    out = tmp_path / "out"
    last = model(out, kind="last", iteration=5)
    model(out, "run-2", seed=1)

    def load(path, *rest, original=checkpoints.load):
        if path == last and last.exists():
            model(out, kind="final", iteration=6)
            last.unlink()
        return original(path, *rest)

    monkeypatch.setattr(checkpoints, "load", load)
    made = pack(out, tmp_path / "pack")
    assert sorted(names(made)) == ["run-1/final", "run-2/final"] and not made.errors


@pytest.mark.parametrize("at", ["table3/table3.csv", "table3/parts/part.json"])
def test_a_study_that_ends_while_it_is_read_is_packed(tmp_path, monkeypatch, at):
    """Its folder may be listed before its provenance is there, and its parts after they are gone."""
    out = tmp_path / "out"
    model(out)
    study(out, "table3", finished=False, parts=("part",))

    def end(path):
        if path == out / at and (out / "table3" / "parts").exists():
            study(out, "table3", rows=5)
            (out / "table3" / "parts" / "part.json").unlink()
            (out / "table3" / "parts").rmdir()

    def below(folder, prefix, original=archive._walk):
        for name, path in original(folder, prefix):
            end(path)
            yield name, path

    monkeypatch.setattr(archive, "_walk", below)
    made = pack(out, tmp_path / "pack")
    assert not made.errors
    inside = archive.read(tmp_path / "pack" / "results.zip")
    assert {name for name in inside if "table3" in name} == {
        f"table3/{n}" for n in ("table3.csv", "table3.png", "provenance.json")
    }


class Killed(BaseException):
    pass


def test_killed_at_any_step_the_target_holds_the_old_or_the_new(tmp_path, monkeypatch):
    """Each change of a file system in turn is the one before which the process is gone."""
    out = tmp_path / "out"

    def version(number):
        model(out, "run-0", age=90)
        model(out, "run-1", "last", number)
        study(out, rows=number, finished=False)

    step = steps = 0

    def counted(function):
        def wrapped(*arguments, **named):
            nonlocal step
            step += 1
            if step == steps:
                raise Killed
            return function(*arguments, **named)

        return wrapped

    for owner, name in ((os, "replace"), (os, "unlink"), (os, "fsync"), (Path, "unlink"), (Path, "mkdir")):
        monkeypatch.setattr(owner, name, counted(getattr(owner, name)))
    seen, goes_on = set(), True
    for run in range(1, 60):
        target, there = tmp_path / f"pack-{run}", tmp_path / f"there-{run}"
        steps = 0
        version(3)
        pack(out, target, PackOptions(limit_mb=0.6))
        version(4)
        step, steps = 0, run
        try:
            pack(out, target, PackOptions(limit_mb=0.6))
            goes_on = False
        except Killed:
            pass
        steps = 0
        done = unpack(target, there)
        iterations = {p.run: p.iteration for p in done.sets}
        assert iterations["run-0"] == 6 and iterations["run-1"] in (3, 4)
        assert len(files.read_csv(there / "table1" / "table1.csv")) in (3, 4)
        seen.add(iterations["run-1"])
        if not goes_on:
            break
    assert run > 6 and seen == {3, 4} and not goes_on
    assert not list(out.glob(".pack*"))


def loop(out, target):
    _pack.SHORTEST_SECONDS = 0.02
    _pack.pack_every(out, target, 0.02, _pack.PackOptions(limit_mb=0.25), lambda line: print(line, flush=True))


@pytest.mark.slow
def test_a_killed_loop_loses_one_interval_at_most(tmp_path):
    draw = random.Random(7)
    out, target = tmp_path / "out", tmp_path / "pack"
    model(out, "run-0", kb=50, age=90)
    iteration, told = 0, []
    for kill in range(8):
        log = tmp_path / f"log-{kill}.txt"
        process = Process(loop, out, target, log=log)
        while not log.exists():
            assert process.poll() is None
            time.sleep(0.005)
        until = time.monotonic() + draw.uniform(0.1, 1.0)
        while time.monotonic() < until:
            iteration += 1
            model(out, "run-1", "last", iteration, kb=50)
            study(out, rows=iteration, finished=False)
            time.sleep(draw.uniform(0, 0.02))
        process.kill()
        assert process.wait(60) == -signal.SIGKILL
        told += [int(n) for n in re.findall(r"run-1/last \((\d+)\)", log.read_text())]
        if not shards(target):
            continue
        found = {p.run: p.iteration for p in unpack(target, tmp_path / f"there-{kill}").sets}
        assert found["run-0"] == 6
        assert found.get("run-1", 0) >= max(told, default=0)
        for path in target.iterdir():
            assert path.name.endswith(".tmp") or path.stat().st_size <= 0.25 * 2**20
    assert len(set(told)) > 4
    made = pack(out, target, PackOptions(limit_mb=0.25))
    assert len(list(target.iterdir())) == made.files
    assert not list(out.glob(".pack*"))


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGUSR1, signal.SIGINT])
def test_a_signal_packs_once_more(tmp_path, monkeypatch, number):
    out, target, lines = tmp_path / "out", tmp_path / "pack", []
    model(out)

    def say(line):
        lines.append(line)
        if len(lines) == 1:
            study(out)  # after the first pack, and before the signal
            os.kill(os.getpid(), number)

    made = pack_every(out, target, 30, say=say)
    assert len(lines) == 2 and "new: results, run-1/final (6)" in lines[0] and lines[1].endswith("new: results")
    assert "table1/table1.csv" in archive.read(target / "results.zip")
    assert names(made) == ["run-1/final"]


def test_the_loop_waits_for_a_folder_and_ends_when_no_process_works(tmp_path, monkeypatch):
    monkeypatch.setattr(_pack, "SHORTEST_SECONDS", 0.05)
    out, target, lines = tmp_path / "out", tmp_path / "pack", []
    looks = 0

    def scan(folder, original=archive.scan):
        nonlocal looks
        looks += 1
        if looks == 4:
            assert not target.exists()
            model(out)
        return original(folder)

    monkeypatch.setattr(archive, "scan", scan)
    held = iter([True] * 20)
    monkeypatch.setattr(locks, "held", lambda folder: next(held, False))
    begin = time.monotonic()
    assert names(pack_every(out, target, 0.05, say=lines.append, idle=0.3)) == ["run-1/final"]
    assert len(lines) == 2 and "waiting for" in lines[0] and 0.3 < time.monotonic() - begin < 20
    assert next(held, None) is None
    assert pack_every(tmp_path / "nothing", tmp_path / "b", 0.05, idle=-1) is None
    assert not (tmp_path / "b").exists()


def test_a_held_folder_is_known(tmp_path):
    assert not locks.held(tmp_path) and not list(tmp_path.iterdir())
    with locks.hold(tmp_path, "wait"):
        assert locks.held(tmp_path)
        assert _pack._busy(tmp_path)
    (tmp_path / locks.HOLDER).write_text("{}")  # of one that was killed
    assert not locks.held(tmp_path)


def test_the_loop_says_a_failure_once_and_goes_on(tmp_path, monkeypatch):
    monkeypatch.setattr(_pack, "SHORTEST_SECONDS", 0.02)
    out, target, lines = tmp_path / "out", tmp_path / "pack", []
    model(out)
    study(out)
    small = PackOptions(limit_mb=0.2, files=2)
    with pytest.raises(GradlabError, match=r"not even run-1/final .* fits.*1 files of 0.2 MB are left"):
        pack_every(out, target, 0.02, small, lines.append, idle=0.3)
    assert len(lines) == 2 and "results" in lines[0] and "not packed: not even run-1/final (" in lines[1]
    assert [path.name for path in target.iterdir()] == ["results.zip"]
    failures = iter([OSError(28, "No space left on device", "x"), GradlabError("cannot write")] * 2)

    def packed(*arguments, original=_pack._pack):
        for error in failures:
            raise error
        return original(*arguments)

    monkeypatch.setattr(_pack, "_pack", packed)
    lines.clear()
    assert names(pack_every(out, tmp_path / "b", 0.02, say=lines.append, idle=0.3)) == ["run-1/final"]
    assert len(lines) == 3 and "No space left" in lines[0] and "cannot write" in lines[1]


def test_where_nothing_can_be_staged_files_go_straight_to_the_target(tmp_path, monkeypatch):
    out = tmp_path / "out"
    model(out)
    moved = []

    def elsewhere(source, target, original=os.replace):
        if Path(source).parent != Path(target).parent:
            moved.append(source)
            raise OSError(18, "Invalid cross-device link")
        return original(source, target)

    monkeypatch.setattr(os, "replace", elsewhere)
    pack(out, tmp_path / "a")
    assert len(moved) == 2
    (out / _pack.Staging(out, tmp_path / "b")._folder.name).write_text("in the way")
    pack(out, tmp_path / "b")
    assert len(moved) == 2
    assert contents(tmp_path / "a") == contents(tmp_path / "b") and len(contents(tmp_path / "a")) == 2


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"limit_mb": 0}, "the limit is 0 MB: give more than 0"),
        ({"limit_mb": float("nan")}, "the limit is nan MB"),
        ({"total_mb": -1}, "the total is -1 MB: give more than 0"),
        ({"files": 1}, "1 files are too few: give at least 2"),
        ({"skip": -1}, "skip is -1: give 0 or more"),
    ],
)
def test_options_out_of_range(options, message):
    with pytest.raises(GradlabError, match=message):
        PackOptions(**options)


def test_bad_input(finished, tmp_path):
    out, run = finished
    with pytest.raises(GradlabError, match="contains neither weights nor results: run a study with --out"):
        pack(tmp_path / "nothing", tmp_path / "a")
    with pytest.raises(GradlabError, match=r"alone needs .* MB: raise the limit of 0\.001 MB"):
        pack(out, tmp_path / "b", PackOptions(limit_mb=0.001))
    with pytest.raises(
        GradlabError,
        match=r"not even .*/final .* fits.* 1 files of 0\.8 MB are left for weights: raise --files or --limit",
    ):
        pack(out, tmp_path / "b", PackOptions(limit_mb=0.8, files=2))
    with pytest.raises(
        GradlabError, match=r"not even .*/final .* fits.* MB of the total are left for weights: raise --total"
    ):
        pack(out, tmp_path / "b", PackOptions(total_mb=0.1))
    with pytest.raises(GradlabError, match=r"every is 0\.5 seconds: give at least 1"):
        pack_every(out, tmp_path / "b", 0.5)
    pack(out, tmp_path / "c", PackOptions(limit_mb=0.9, snapshots=(2, 4)))
    (tmp_path / "c" / "mine.txt").write_text("")
    with pytest.raises(GradlabError, match=r"contains other files \(mine\.txt\): pack into a new folder"):
        pack(out, tmp_path / "c")
    (tmp_path / "c" / "mine.txt").unlink()
    with zipfile.ZipFile(files.ensure_folder(tmp_path / "d") / "results.zip", "w"):
        pass
    with pytest.raises(GradlabError, match=r"contains other files \(results\.zip\): pack into a new folder"):
        pack(out, tmp_path / "d")
    for target in (out, out / "pack", tmp_path, out / "runs"):
        with pytest.raises(GradlabError, match="overlap: pack into a folder outside"):
            pack(out, target)
    with pytest.raises(GradlabError, match=r"contains neither results\.zip nor weights"):
        unpack(tmp_path / "nothing", out)
    with (
        locks.hold(out, "x"),
        pytest.raises(GradlabError, match=r"is in use by process .*: wait until it has finished"),
    ):
        unpack(tmp_path / "c", out)
    victim = shards(tmp_path / "c")[-1]
    whole = victim.read_bytes()
    victim.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(GradlabError, match="is corrupt: copy it again, or delete it"):
        unpack(tmp_path / "c", tmp_path / "there")
    assert not (tmp_path / "there").exists()
    victim.unlink()
    assert unpack(tmp_path / "c", tmp_path / "there").incomplete
    final = run.folder / "final.safetensors"
    final.write_bytes(final.read_bytes()[:-1])
    with pytest.raises(GradlabError, match="is corrupt"):
        pack(out, tmp_path / "e", PackOptions(snapshots=(2,)))
    assert names(unpack(tmp_path / "e", tmp_path / "rest")) == [f"{run.folder.name}/snapshot-2"]


def test_on_the_command_line(finished, tmp_path, capsys):
    out, run = finished
    arguments = [
        "pack",
        str(out),
        str(tmp_path / "pack"),
        "--limit",
        "0.9",
        "--files",
        "3",
        "--snapshot",
        "2",
        "--snapshot",
        "4",
    ]
    assert cli.main(arguments) == 0
    said = capsys.readouterr().out
    assert "sets of weights and the results are in" in said
    assert f"left out: {run.folder.name}/snapshot-" in said
    assert cli.main(["unpack", str(tmp_path / "pack"), str(tmp_path / "there")]) == 0
    assert "sets of weights, " in capsys.readouterr().out
    assert cli.main(["unpack", str(tmp_path / "pack"), str(tmp_path / "there")]) == 0
    assert "kept unchanged in" in capsys.readouterr().out
    shards(tmp_path / "pack")[0].unlink()
    assert cli.main(["unpack", str(tmp_path / "pack"), str(tmp_path / "some")]) == 0
    assert "incomplete because files are missing" in capsys.readouterr().out
    assert len(files.read_csv(tmp_path / "there" / "weights.csv")) >= 1
    assert cli.main(["unpack", str(tmp_path), str(out)]) == 2
    assert cli.main(["pack", str(out), str(tmp_path / "pack"), "--every", "0"]) == 2
    assert "every is 0 seconds" in capsys.readouterr().err


def test_the_loop_on_the_command_line(tmp_path):
    out, target = tmp_path / "out", tmp_path / "pack"
    model(out)
    log = tmp_path / "log.txt"
    process = Process(cli.main, ["pack", str(out), str(target), "--every", "1"], log=log)
    while not (log.exists() and "\n" in log.read_text()):
        assert process.poll() is None
        time.sleep(0.02)
    first = log.read_text()
    assert "new: results, run-1/final (6)" in first
    study(out)
    process.send_signal(signal.SIGTERM)
    assert process.wait(60) == 0
    said = log.read_text()[len(first) :]
    assert "new: results" in said and "1 sets of weights and the results are in" in said
    assert "table1/table1.csv" in archive.read(target / "results.zip")
