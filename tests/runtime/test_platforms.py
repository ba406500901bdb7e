"""Linux is tested; Windows is imitated: what works there calls nothing that is missing, the rest is refused."""

from __future__ import annotations

import builtins
import os
import signal
import socket
import sys
import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch

import gradlab as gl
from gradlab import cli, testing
from gradlab.errors import GradlabError
from gradlab.runtime import files, heartbeat, signals

REFUSED = (
    "needs Linux or macOS, and this is Windows: use WSL; toy problems, compare, check, the recorder and the monitor"
)
POSIX_SIGNALS = ("SIGUSR1", "SIGUSR2", "SIGKILL", "SIGHUP", "SIGALRM")


@pytest.fixture
def windows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What Python lacks on Windows, or does differently there; `tmp_path` comes first since pytest asks for the user."""

    def kill(pid: int, number: int) -> None:
        raise AssertionError(f"os.kill({pid}, {number}) ends the process on Windows")

    imported = builtins.__import__

    def without_posix(name: str, *args: Any, **kwargs: Any) -> Any:
        if name.partition(".")[0] in ("fcntl", "filelock", "resource"):
            raise ModuleNotFoundError(f"No module named {name!r}", name=name)
        return imported(name, *args, **kwargs)

    for name in POSIX_SIGNALS:
        monkeypatch.delattr(signal, name)
    for name in ("fork", "sched_getaffinity", "getuid", "geteuid", "killpg", "getpgid"):
        monkeypatch.delattr(os, name)
    monkeypatch.setattr(os, "kill", kill)
    monkeypatch.setattr(builtins, "__import__", without_posix)
    monkeypatch.setattr(sys, "platform", "win32")


@pytest.mark.parametrize(
    "command",
    [
        ["run", "toys", "--out", "out"],
        ["plan", "toys", "--out", "out/plan.json"],
        ["pack", "source", "out"],
        ["pack", "source", "out", "--every", "1"],
        ["unpack", "source", "out"],
    ],
    ids=lambda command: " ".join(command),
)
def test_commands_that_are_refused(
    windows: None,
    command: list[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert cli.main(command) == 2
    printed = capsys.readouterr()
    assert printed.out == "" and printed.err.startswith(f"error: gradlab {command[0]} {REFUSED}")
    assert printed.err.count("\n") == 1 and not list(tmp_path.iterdir())


@pytest.mark.skipif(find_spec("compressai") is None, reason="needs gradlab[studies]")
def test_functions_that_are_refused(request: pytest.FixtureRequest, tmp_path: Path) -> None:
    from gradlab import training
    from gradlab.study import runner
    from gradlab.training import packing
    from tests.training.test_training import TINY

    pictures = request.getfixturevalue("pictures")
    request.getfixturevalue("windows")
    calls = {
        "training": lambda: training.train(TINY, pictures, tmp_path),
        "gradlab run": lambda: runner.run(["toys"], out=tmp_path),
        "gradlab pack": lambda: packing.pack(tmp_path / "a", tmp_path / "b"),
        "gradlab unpack": lambda: packing.unpack(tmp_path / "a", tmp_path / "b"),
    }
    for name, call in calls.items():
        with pytest.raises(GradlabError, match=f"^{name} {REFUSED}"):
            call()
    with pytest.raises(GradlabError, match=f"^gradlab pack {REFUSED}"):
        packing.pack_every(tmp_path / "a", tmp_path / "b", 1.0)
    assert not list(tmp_path.iterdir())


def test_toys_recorder_and_monitor_need_nothing_of_posix(windows: None, tmp_path: Path) -> None:
    box = gl.problems.BoxGaussian(phi=0.3, x=1.0)
    assert len(gl.compare(box, ("pathwise",), k=(1, 8), draws=2000)) == 2
    assert len(gl.compare(box, ("pathwise",), k=8, draws=100_000)) == 1  # the compiled loop where there is one

    def pathwise(log_weight: Any, samples: torch.Tensor, noise: torch.Tensor) -> torch.Tensor:
        log_w = log_weight(samples)
        (slope,) = torch.autograd.grad((log_w.softmax(1).detach() * log_w).sum(), samples)
        return slope.sum(1)

    testing.assert_unbiased(pathwise, box, k=2, draws=2000)

    model, path = torch.nn.Linear(4, 1), tmp_path / "snr.csv"
    monitor = gl.SNRMonitor(model, {"all": model}, every=1, draws=3, csv=path)
    for _ in range(2):
        monitor.step(lambda: model(torch.randn(8, 4)).square().mean())
    assert len(files.read_csv(path)) == 2

    recorder = gl.GradientRecorder({"all": model})
    with recorder:
        for _ in range(3):
            model(torch.randn(8, 4)).square().mean().backward()
            recorder.step()
    assert recorder.summary()["draws"].tolist() == [3]


def test_the_command_check_works_there(
    windows: None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "mine_on_windows.py").write_text(
        "def zero(log_weight, samples, noise):\n    return samples[:, 0] * 0\n"
    )
    monkeypatch.chdir(tmp_path)
    assert cli.main(["check", "mine_on_windows:zero", "--k", "1", "--draws", "100"]) == 1
    assert "biased" in capsys.readouterr().out


def test_signals_that_do_not_exist_are_left_out(windows: None) -> None:
    with signals.handled():
        signal.raise_signal(signal.SIGTERM)
        assert signals.stop_reason() == "by SIGTERM"
    assert signals.stop_reason() is None


def test_status_asks_for_no_process_on_windows(windows: None) -> None:
    """Signal 0 is Ctrl-C there; a folder that WSL writes carries the name of the same host."""
    state = heartbeat.State("running", host=socket.gethostname(), pid=2**22 + 1)
    assert state.current == "running"
    late = heartbeat.State("running", host=socket.gethostname(), pid=os.getpid(), time=time.time() - 120)
    assert late.current == "interrupted"


def test_status_asks_for_the_process_elsewhere() -> None:
    assert heartbeat.State("running", pid=2**22 + 1).current == "interrupted"
    assert heartbeat.State("running").current == "running"


@pytest.mark.parametrize("platform", ["linux", "darwin"])
def test_nothing_is_refused_on_linux_and_macos(platform: str, monkeypatch: pytest.MonkeyPatch) -> None:
    from gradlab.runtime.platforms import require_posix

    monkeypatch.setattr(sys, "platform", platform)
    require_posix("gradlab run")
