"""What is done, running and failed, read from the folder alone."""

from __future__ import annotations

import io
import json
import math
import time
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gradlab import cli
from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import checkpoints, heartbeat
from gradlab.study import status

NOBODY = 2**22 + 1  # above the largest process id of Linux


def a_run(out: Path, name: str, state: heartbeat.State | None = None, last: int = 0, done: bool = False) -> None:
    folder = out / "runs" / name
    folder.mkdir(parents=True)
    settings = {"codec": "mbt2018", "lam": 0.015, "steps": 100, "seed": 3, "loss": {"proxy": "sga"}}
    (folder / "settings.json").write_text(json.dumps(settings))
    if last:
        checkpoints.save(folder / "last.safetensors", {"a": torch.zeros(3)}, "hash", last)
    if done:
        (folder / "final.safetensors").write_bytes(b"")
    if state is not None:
        heartbeat.write(folder, state)


@pytest.fixture
def out(tmp_path: Path) -> Path:
    a_run(tmp_path, "a", done=True)
    a_run(tmp_path, "b", heartbeat.State("running", 100, 40, 0.5, "loss 1.5", "table8"), last=30)
    a_run(tmp_path, "c", heartbeat.State("running", 100, 90, 0.5, "", "table8", pid=NOBODY), last=70)
    a_run(tmp_path, "d", heartbeat.State("running", 100, 90, host="elsewhere", time=time.time() - 600), last=80)
    a_run(tmp_path, "e", heartbeat.State("failed", 100, 20, note="the [gradient] broke"), last=10)
    a_run(tmp_path, "f", heartbeat.State("waiting", 100, study="table8"))
    a_run(tmp_path, "g", heartbeat.State("stopped", 100, 60), last=60)
    a_run(tmp_path, "h", last=50)
    a_run(tmp_path, "i", heartbeat.State("waiting", 100, study="table8", pid=NOBODY))
    (tmp_path / "table1").mkdir()
    (tmp_path / "table1" / "provenance.json").write_text(json.dumps({"wall_s": 75.2}))
    (tmp_path / "table8").mkdir()
    heartbeat.write(tmp_path / "table8", heartbeat.State("running"))
    (tmp_path / "table9").mkdir()
    heartbeat.write(tmp_path / "table9", heartbeat.State("failed", note="no images"))
    (tmp_path / "notes").mkdir()
    return tmp_path


def test_every_state(out: Path) -> None:
    found = status.survey(out)
    assert {row.name: (row.status, row.done) for row in found.runs} == {
        "a": ("done", 100), "b": ("running", 40), "c": ("interrupted", 70), "d": ("interrupted", 80),
        "e": ("failed", 10), "f": ("waiting", 0), "g": ("stopped", 60), "h": ("interrupted", 50),
        "i": ("interrupted", 0),
    }  # fmt: skip
    assert [row.status for row in found.runs][:2] == ["failed", "running"]
    running = next(row for row in found.runs if row.name == "b")
    assert running.left == pytest.approx(30, abs=1)  # 60 iterations of half a second
    assert found.left == pytest.approx(80, abs=2)  # and then the hundred of f
    assert [(row.name, row.status) for row in found.studies] == [
        ("table1", "done"), ("table8", "running"), ("table9", "failed"),
    ]  # fmt: skip
    assert found.studies[1].left == pytest.approx(80, abs=2)


def test_it_is_shown(out: Path) -> None:
    console = Console(file=io.StringIO(), width=140)
    status.show(console, status.survey(out))
    said = console.file.getvalue()  # type: ignore[attr-defined]
    for words in ("the [gradient] broke", "loss 1.5", "40/100", "mbt2018, lambda 0.015, sga, seed 3", "took 1 min 15 s",
                  "1 failed, 1 running, 4 interrupted, 1 stopped, 1 waiting, 1 done; about 1 min "):  # fmt: skip
        assert words in said


def test_the_command(out: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["status", str(out)]) == 0
    assert "table9" in capsys.readouterr().out
    assert cli.main(["status", str(out / "nowhere")]) == 2


def test_two_at_a_time_take_half_as_long(tmp_path: Path) -> None:
    for name, done in (("a", 50), ("b", 50)):
        a_run(tmp_path, name, heartbeat.State("running", 100, done, 1.0))
    a_run(tmp_path, "c", heartbeat.State("waiting", 100))
    assert status.survey(tmp_path).left == pytest.approx(100, abs=2)  # (50 + 50 + 100) / 2


def test_nothing_to_show(tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match="there is no folder"):
        status.survey(tmp_path / "nowhere")
    with pytest.raises(GradlabError, match="contains neither runs nor studies"):
        status.survey(tmp_path)


@pytest.mark.parametrize("damage", [b"", b"{", b"[]", b'{"status": 1}', b"\xff\xff"])
def test_damaged_files_are_nobodys_end(out: Path, damage: bytes) -> None:
    for path in [*out.rglob("*.json"), *out.rglob("last.safetensors")]:
        path.write_bytes(damage)
    found = status.survey(out)
    assert {row.status for row in found.runs} <= {"done", "interrupted"}
    status.show(Console(file=io.StringIO()), found)


def test_a_pulse(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(heartbeat, "BEAT_SECONDS", 0.01)
    with heartbeat.running(tmp_path / "a", 100, "table8") as pulse:
        assert heartbeat.read(tmp_path / "a").current == "running"  # type: ignore[union-attr]
        pulse(50, "resumed")
        time.sleep(0.05)
        pulse(10, "loss 2")
        until = time.monotonic() + 20
        while (said := heartbeat.read(tmp_path / "a")) is None or said.done < 60:
            assert time.monotonic() < until
            time.sleep(0.01)
        assert (said.status, said.total, said.note, said.study) == ("running", 100, "loss 2", "table8")
        assert 0.005 <= said.seconds < 2  # of the ten, not of what was resumed
    assert heartbeat.read(tmp_path / "a") is None and not list((tmp_path / "a").iterdir())


@pytest.mark.parametrize(("error", "end"), [
    pytest.param(GradlabError("a sentence"), ("failed", "a sentence"), id="refused"), pytest.param(Stopped("late"), ("stopped", "loss 2"), id="stopped"),
    pytest.param(KeyboardInterrupt(), ("stopped", "loss 2"), id="interrupted"), pytest.param(MemoryError(), ("failed", "MemoryError"), id="out of memory"),
])  # fmt: skip
def test_how_it_ended(tmp_path: Path, error: BaseException, end: tuple[str, str]) -> None:
    with pytest.raises(type(error)), heartbeat.running(tmp_path, 9) as pulse:
        pulse(1, "loss 2")
        raise error
    said = heartbeat.read(tmp_path)
    assert said is not None and (said.status, said.note) == end and said.done == 1
    assert math.isnan(said.seconds)
