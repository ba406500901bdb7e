"""Signals, locks, full disks and kills: an orderly end or a clear refusal, and the same numbers after all of them."""

from __future__ import annotations

import contextlib
import os
import resource
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from gradlab import cli, data, training
from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import checkpoints, files, locks, signals
from gradlab.training import RunOptions
from tests.processes import Process
from tests.study.fake_studies import studies
from tests.training.test_training import TINY

__all__ = ["studies"]  # a fixture

ROOT = Path(training.__file__).parents[2]
SLOW = '''
"""Never ends by itself."""
import time
from dataclasses import dataclass

from gradlab.runtime import files
from gradlab.training import RunOptions


@dataclass(frozen=True)
class Settings:
    seed: int = 0


PROFILES = {"quick": Settings()}


def measure(settings, context):
    with context.progress.track("measuring", 10**6) as advance:
        for i in range(10**6):
            if i == 1:
                files.write_text(context.out / "begun", "")
            time.sleep(0.01)
            advance()
'''


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


@pytest.fixture(scope="module")
def whole(pictures: list[data.Picture], tmp_path_factory: pytest.TempPathFactory) -> dict[str, bytes]:
    """The files of a run that nothing disturbs."""
    return contents(training.train(TINY, pictures, tmp_path_factory.mktemp("whole"), RunOptions(log_every=1)).folder)


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.name != locks.LOCK}


def python(code: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", code], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, cwd=ROOT
    )


@contextlib.contextmanager
def held(folder: Path) -> Iterator[subprocess.Popen[str]]:
    """The folder, in the hands of another process."""
    folder.mkdir(parents=True, exist_ok=True)
    code = "import pathlib, sys; from gradlab.runtime import locks\n"
    code += f"with locks.hold(pathlib.Path({str(folder.resolve())!r}), 'wait'): print('held', flush=True); sys.stdin.read()\n"
    with python(code) as process:
        assert process.stdout and process.stdout.readline() == "held\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.mark.parametrize("name", signals.SIGNALS)
def test_a_signal_leaves_a_checkpoint_that_resumes_to_the_same_bits(
    pictures: list[data.Picture], tmp_path: Path, whole: dict[str, bytes], name: str
) -> None:
    before = signal.getsignal(getattr(signal, name))

    def at_three(n: int = 1, note: str = "", count: list[int] = [0]) -> None:  # noqa: B006
        count[0] += n
        if count[0] == 3:
            os.kill(os.getpid(), getattr(signal, name))

    with signals.handled(), pytest.raises(Stopped, match=f"stopped by {name} after iteration [34] of 6"):
        training.train(TINY, pictures, tmp_path, RunOptions(progress=at_three, log_every=1))
    assert signal.getsignal(getattr(signal, name)) == before and signals.stop_reason() is None
    run = training.run_of(TINY.on(pictures), tmp_path)
    assert checkpoints.load(run.folder / "last.safetensors").iteration in (3, 4)
    training.train(TINY, pictures, tmp_path, RunOptions(resume=True, log_every=1))
    assert contents(run.folder) == whole


def test_a_signal_that_progress_notices_first_still_leaves_a_checkpoint(
    pictures: list[data.Picture], tmp_path: Path
) -> None:
    def raises(n: int = 1, note: str = "") -> None:
        raise Stopped

    with pytest.raises(Stopped, match="stopped early after iteration 1"):
        training.train(TINY, pictures, tmp_path, RunOptions(progress=raises))
    assert checkpoints.load(training.run_of(TINY.on(pictures), tmp_path).folder / "last.safetensors").iteration == 1


def test_sigterm_ends_a_command_with_code_0_and_how_to_resume(studies: Path) -> None:
    (studies / "slow.py").write_text(SLOW.lstrip())
    run = Process(cli.main, ["run", "table1", "slow", "--out", "out"], log=Path("log.txt"))
    while not Path("out/begun").exists() and run.poll() is None:
        time.sleep(0.02)
    assert files.read_json("out/.lock-holder.json")["process"] == run.pid
    run.send_signal(signal.SIGTERM)
    assert run.wait(60) == 0, Path("log.txt").read_text()
    last = Path("log.txt").read_text().strip().splitlines()[-1]
    assert last == (
        "stopped by SIGTERM; resume with: gradlab run table1 slow --profile quick --out out --seed 0 --resume"
    )
    assert Path("out/table1/provenance.json").is_file() and not Path("out/slow/provenance.json").exists()
    assert not Path("out/.lock-holder.json").exists()


def test_the_wall_clock_stops_nothing(
    pictures: list[data.Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Set forward by millennia and back between any two readings: only the monotonic clock counts."""
    leaps = [0]

    def leaping() -> float:
        leaps[0] += 1
        return 1e12 * (-1) ** leaps[0]

    monkeypatch.setattr(time, "time", leaping)
    monkeypatch.setattr(time, "time_ns", lambda: int(leaping()) * 10**9)
    settings = replace(TINY, steps=2, snapshots=())
    assert training.train(settings, pictures, tmp_path / "a", RunOptions(deadline=time.monotonic() + 3600)).done
    with pytest.raises(Stopped, match="at the time limit after iteration 1 of 2"):
        training.train(settings, pictures, tmp_path / "b", RunOptions(deadline=time.monotonic() - 1))


def test_a_folder_in_use_is_refused_until_its_process_is_gone(
    studies: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    with held(Path("out")) as other:
        assert cli.main(["run", "table1", "--out", "out"]) == 2
        said = capsys.readouterr().err
        assert said.startswith(f"error: out is in use by process {other.pid} on {socket.gethostname()} (since ")
        assert said.endswith("wait until it has finished, stop it, or choose another folder with --out\n")
        assert not Path("out/table1").exists()
        other.kill()  # no farewell: the operating system gives the lock back
        other.wait()
        assert cli.main(["run", "table1", "--out", "out"]) == 0
    assert Path("out/table1/provenance.json").is_file()


def test_a_run_that_another_process_trains_is_waited_for(pictures: list[data.Picture], tmp_path: Path) -> None:
    folder, notes = training.run_of(TINY.on(pictures), tmp_path).folder, []
    with held(folder) as other:

        def noted(n: int = 1, note: str = "") -> None:
            notes.append((n, note))
            if note.startswith("waiting"):
                other.kill()

        assert training.train(TINY, pictures, tmp_path, RunOptions(progress=noted)).done
        assert notes[0][0] == 0 and notes[0][1].startswith(f"waiting for process {other.pid} on ")
        assert sum(n for n, _ in notes) == TINY.steps
    with held(training.run_of(replace(TINY, seed=1).on(pictures), tmp_path).folder), pytest.raises(Stopped):
        training.train(replace(TINY, seed=1), pictures, tmp_path, RunOptions(deadline=time.monotonic() + 0.1))


def test_what_killed_writers_left_is_removed_where_nobody_works(studies: Path) -> None:
    names = ("out/.a.csv.0123abcd.tmp", "out/runs/x/.last.safetensors.0123abcd.tmp", "out/runs/y/.b.0123abcd.tmp")
    with held(Path("out/runs/y")):
        for name in (*names, "out/.mine.tmp", "out/runs/x/.lock"):
            Path(name).parent.mkdir(parents=True, exist_ok=True)
            Path(name).write_text("x")
        assert cli.main(["run", "table1", "--out", "out"]) == 0
        assert [Path(name).exists() for name in names] == [False, False, True]
    assert Path("out/.mine.tmp").exists()


@contextlib.contextmanager
def mounted(folder: Path, options: str) -> Iterator[None]:
    """A file system of its own in the folder, where the superuser may mount one."""
    folder.mkdir(exist_ok=True)
    made = subprocess.run(["mount", "-t", "tmpfs", "-o", options, "tmpfs", str(folder)], capture_output=True, text=True)
    if made.returncode:
        pytest.skip(f"cannot mount a file system here: {made.stderr.strip()}")
    try:
        yield
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=True)


@contextlib.contextmanager
def limited(size: int) -> Iterator[None]:
    """No file may grow beyond so many bytes: what a quota does, for every user."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


@pytest.mark.parametrize("kind", ["disk full", "limit"])
def test_a_full_disk_loses_nothing(
    pictures: list[data.Picture], tmp_path: Path, whole: dict[str, bytes], kind: str
) -> None:
    """The third checkpoint does not fit; the second stays; with space again the run ends as if nothing had been."""
    disk = tmp_path / "disk"
    folder = training.run_of(TINY.on(pictures), disk).folder

    with contextlib.ExitStack() as stack:
        if kind == "disk full":
            stack.enter_context(mounted(disk, "size=8m"))
        full = contextlib.ExitStack()

        def fill(n: int = 1, note: str = "", count: list[int] = [0]) -> None:  # noqa: B006
            count[0] += n
            if count[0] == 3 and kind == "limit":
                full.enter_context(limited(1000))
            elif count[0] == 3:
                with pytest.raises(OSError, match="No space"), open(disk / "filler", "wb", buffering=0) as filler:
                    while True:
                        filler.write(bytes(65536))

        options: dict[str, Any] = {"checkpoint_seconds": 0, "log_every": 1}
        with (
            full,
            pytest.raises(GradlabError, match=r"cannot write to .* \((No space left|File too large).*free space"),
        ):
            training.train(TINY, pictures, disk, RunOptions(progress=fill, **options))
        assert not list(folder.glob(".*.tmp"))
        assert checkpoints.load(folder / "last.safetensors").iteration == 2
        files.read_csv(folder / "log.csv")
        (disk / "filler").unlink(missing_ok=True)
        training.train(TINY, pictures, disk, RunOptions(resume=True, **options))
        assert contents(folder) == whole


def test_a_folder_that_is_read_only_is_one_sentence(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with mounted(Path("disk"), "size=2m"):
        assert cli.main(["run", "table1", "--out", "disk/out"]) == 0
        before = {path: path.read_bytes() for path in Path("disk/out").rglob("*") if path.is_file()}
        subprocess.run(["mount", "-o", "remount,ro", "disk"], check=True)
        capsys.readouterr()
        for arguments in (["run", "table1", "--out", "disk/out"], ["report", "disk/out"]):
            assert cli.main(arguments) == 2
            said = capsys.readouterr().err
            assert said.startswith("error: cannot write to disk/out") and said.count("\n") == 1
            assert "Read-only file system" in said
        assert {path: path.read_bytes() for path in Path("disk/out").rglob("*") if path.is_file()} == before


def test_a_checkpoint_that_does_not_reach_the_disk_leaves_the_one_before(
    pictures: list[data.Picture], tmp_path: Path, whole: dict[str, bytes], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An input-output error in every step of writing, one after the other."""
    folder = training.run_of(TINY.on(pictures), tmp_path).folder
    for iteration, (where, name) in enumerate([(os, "fsync"), (os, "replace"), (files, "open")], 1):

        def broken(*_: object, **__: object) -> None:
            raise OSError(5, "Input/output error")

        def fail(n: int = 1, note: str = "", at: int = iteration, count: list[int] = [0]) -> None:  # noqa: B006
            count[0] = n if note == "resumed" else count[0] + n
            if count[0] == at + 1:
                monkeypatch.setattr(where, name, broken, raising=False)  # noqa: B023

        with pytest.raises(GradlabError, match="Input/output error"):
            fail.__defaults__[-1][0] = 0  # type: ignore[index]
            training.train(
                TINY, pictures, tmp_path, RunOptions(resume=True, progress=fail, checkpoint_seconds=0, log_every=1)
            )
        monkeypatch.undo()
        assert checkpoints.load(folder / "last.safetensors").iteration == iteration
    training.train(TINY, pictures, tmp_path, RunOptions(resume=True, log_every=1))
    assert contents(folder) == whole


def trials(arguments: list[str]) -> int:
    from tests.trials import faults

    sys.argv = ["faults.py", *arguments]
    return faults.main()


@pytest.mark.slow
def test_kills_at_random_moments(tmp_path: Path) -> None:
    """A handful of the trials of ``make faults``."""
    log = tmp_path / "log.txt"
    arguments = ["--trials", "4", "--seed", "1", "--out", str(tmp_path)]
    assert Process(trials, arguments, log=log).wait() == 0, log.read_text()
    table = files.read_csv(tmp_path / "kills.csv")
    assert table["outcome"].tolist() == ["as undisturbed"] * 4
    assert table["kills"][[1, 3]].tolist() == [1, 1]  # within a write; by time a run may have ended before
    assert (table["files_checked"] > 20).all()


def test_time_left_does_not_count_what_an_earlier_run_did(monkeypatch: pytest.MonkeyPatch) -> None:
    import io

    from rich.console import Console

    from gradlab.runtime.progress import Progress, skip

    now = [0.0]
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    console = Console(file=io.StringIO(), width=120)
    with Progress(console).track("train", 200) as advance:
        skip(advance, 100, "resumed")
        for _ in range(100):
            now[0] += 0.5
            advance()
    assert console.file.getvalue().splitlines()[0] == "  train: 120/200, 10 s, 40 s left, resumed"  # type: ignore[attr-defined]
    seen = []
    skip(lambda n=1, note="": seen.append((n, note)), 7, "resumed")  # any function of n and note will do
    assert seen == [(7, "resumed")]


def test_time_left_on_a_bar_does_not_count_it_either() -> None:
    import io

    from rich.console import Console

    from gradlab.runtime.progress import Progress, skip

    progress = Progress(Console(file=io.StringIO(), width=120, force_terminal=True))
    with progress.track("train", 1_000_000) as advance:
        advance()
        skip(advance, 900_000, "resumed")
        for _ in range(5):
            time.sleep(0.01)
            advance()
        assert progress._bars is not None
        (task,) = progress._bars.tasks
        assert task.completed == 900_006 and task.speed is not None and task.speed < 1000


def test_threads_are_none_of_the_signals_business() -> None:
    """Where signals cannot be received nothing changes."""
    import threading

    seen = []

    def elsewhere() -> None:
        with signals.handled():
            seen.append(signal.getsignal(signal.SIGTERM))

    before = signal.getsignal(signal.SIGTERM)
    thread = threading.Thread(target=elsewhere)
    thread.start()
    thread.join()
    assert seen == [before] and torch.get_num_threads() >= 1
