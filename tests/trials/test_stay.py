"""A stay on a machine that is lent by the minute, as the guide tells it: to the end, cut, killed; then finished at home.

Each time the tables are those of a run in one piece.
"""

from __future__ import annotations

import importlib
import io
import json
import signal
import time
from pathlib import Path

import pytest
from rich.console import Console

from gradlab import cli
from gradlab.runtime import progress
from gradlab.study import Request, catalog, plotstyle, runner
from gradlab.training import RunOptions
from gradlab.training.packing import unpack
from tests.processes import Process

STUDIES = ["table3", "table2", "table6"]
INTERVAL = 1.0
pytestmark = pytest.mark.slow


def command(arguments, pause):
    """``gradlab``, every study at its smallest; each unit of work takes ``pause`` longer, so that a kill lands in it."""
    catalog.studies_folder()
    plotstyle.STYLE["savefig.dpi"] = 60
    for name in STUDIES:
        module = importlib.import_module(f"gradlab_studies.{name}")
        module.PROFILES["quick"] = module.SMALLEST
    stop_if_requested = progress.stop_if_requested
    progress.stop_if_requested = lambda: (time.sleep(pause), stop_if_requested())
    return cli.main(arguments)


def gradlab(*arguments, pause=0.0, log):
    """A process of the command line."""
    return Process(command, list(map(str, arguments)), pause, log=log)


@pytest.fixture(autouse=True)
def smallest(monkeypatch):
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    monkeypatch.setitem(plotstyle.STYLE, "savefig.dpi", 60)
    for name in STUDIES:
        module = importlib.import_module(f"gradlab_studies.{name}")
        monkeypatch.setitem(module.PROFILES, "quick", module.SMALLEST)


@pytest.fixture
def finish(small_photographs):
    """``gradlab run --resume`` at home; what it printed, and every table."""

    def finished(folder):
        console = Console(file=io.StringIO(), width=200)
        request = Request(options=RunOptions(resume=True), test_images=small_photographs)
        assert runner.run(STUDIES, request, folder, console=console) == 0
        return console.file.getvalue(), tables(folder)

    return finished


def tables(folder):
    return {
        f"{name}/{path.name}": path.read_bytes() for name in STUDIES for path in sorted((folder / name).glob("*.csv"))
    }


@pytest.fixture(scope="module")
def whole(small_photographs, tmp_path_factory):
    """The tables of a run in one piece."""
    folder = tmp_path_factory.mktemp("whole")
    arguments = ["run", *STUDIES, "--out", folder, "--test-images", small_photographs]
    assert gradlab(*arguments, log=folder / "log.txt").wait(300) == 0
    return tables(folder)


@pytest.fixture
def stay(small_photographs, tmp_path):
    """Begins a run and its packing; ends what still runs."""
    begun, log = [], tmp_path / "log.txt"

    def begin(*options, pause):
        arguments = ["run", *STUDIES, "--out", tmp_path / "there", "--test-images", small_photographs, *options]
        run = gradlab(*arguments, pause=pause, log=log)
        arguments = [tmp_path / "there", tmp_path / "home", "--every", INTERVAL, "--optimizer", "--files", 8]
        pack = gradlab("pack", *arguments, "--snapshot", 2, "--snapshot", 4, log=log)
        begun.extend([run, pack])
        return run, pack

    yield begin
    for one in begun:
        one.kill()
        one.wait()


def until(condition, seconds=120):
    end = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < end, "it took too long"
        time.sleep(0.05)


def test_to_the_end(stay, whole, finish, tmp_path):
    run, pack = stay(pause=0.0)
    assert run.wait(300) == 0
    pack.send_signal(signal.SIGTERM)
    assert pack.wait(60) == 0
    assert not unpack(tmp_path / "home", tmp_path / "here").incomplete
    said, found = finish(tmp_path / "here")
    assert found == whole and said.count("already done") == len(STUDIES) and "training" not in said


def test_cut_by_its_own_limit(stay, whole, finish, tmp_path):
    run, pack = stay("--time-limit", 0.15, pause=0.2)  # Table 3 alone takes twenty seconds
    assert run.wait(60) == 0 and "stopped at the time limit; resume with" in (tmp_path / "log.txt").read_text()
    pack.send_signal(signal.SIGTERM)
    assert pack.wait(60) == 0
    unpack(tmp_path / "home", tmp_path / "here")
    record = json.loads((tmp_path / "here" / "table3" / "partial" / "provenance.json").read_text())
    assert record["partial"].startswith("stopped at the time limit after ") and record["tables"] == ["table3_groups"]
    said, found = finish(tmp_path / "here")
    assert found == whole and "already done" not in said


@pytest.mark.parametrize("parts", [1, 7])
def test_killed_it_loses_one_interval_at_most(stay, whole, finish, tmp_path, parts):
    run, pack = stay(pause=0.15)
    there, packed = tmp_path / "there", tmp_path / "home" / "results.zip"
    until(lambda: len(list((there / "table3" / "parts").glob("*.json"))) >= parts and packed.exists())
    kept = {path.name for path in (there / "table3" / "parts").glob("*.json")}
    for _ in range(2):  # the packing that is at work may have begun before; the next one has not
        before = packed.stat().st_mtime_ns
        until(lambda before=before: packed.stat().st_mtime_ns != before)
    for one in (run, pack):
        one.send_signal(signal.SIGKILL)
        one.wait()
    unpack(tmp_path / "home", tmp_path / "here")
    home = {path.name for path in Path(tmp_path / "here" / "table3" / "parts").glob("*.json")}
    assert kept <= home and len(list((tmp_path / "here" / "runs").glob("*/final.safetensors"))) == 2
    said, found = finish(tmp_path / "here")
    assert found == whole and "already done" not in said
