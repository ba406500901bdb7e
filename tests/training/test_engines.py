"""Models side by side in processes and on a real Ray cluster of this machine, workers killed in the middle."""

from __future__ import annotations

import functools
import io
import os
import signal
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from rich.console import Console

from gradlab import data
from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import checkpoints, distributed, heartbeat, signals
from gradlab.runtime.progress import Progress
from gradlab.study import status
from gradlab.training import RunOptions, TrainSettings, engines
from gradlab.training.engines import Engine, Sweep, Task, _task, local
from gradlab.training.engines._task import TOKEN_FILE, WorkerTask, execute
from tests.processes import forked

__all__ = ["forked"]  # a fixture


@functools.cache
def photographs() -> list[data.Picture]:
    return data.embedded("train")


@functools.cache
def tiny() -> TrainSettings:
    return TrainSettings(codec="small-hyperprior", channels=(4, 6), crop=32, batch=2, steps=24, learning_rate=1e-3,
                         snapshots=(1,), data=data.fingerprint(photographs()))  # fmt: skip


def three_tasks() -> tuple[Task, ...]:
    return tuple(Task(f"lambda {lam}", replace(tiny(), lam=lam)) for lam in (0.01, 0.02, 0.03))


def sweep(runs: Path, tasks: tuple[Task, ...] = (), **more: object) -> tuple[Sweep, io.StringIO]:
    said = io.StringIO()
    progress = Progress(Console(file=said, width=160))
    return Sweep(
        tasks or three_tasks(),
        runs,
        None,
        photographs(),
        progress,
        study="table8",
        options=RunOptions(checkpoint_seconds=0, **more),
    ), said  # type: ignore[arg-type]


def final(task: Task, runs: Path) -> dict[str, torch.Tensor]:
    return checkpoints.load(task.run(runs).folder / "final.safetensors").tensors


@pytest.fixture(scope="module")
def undisturbed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One after the other in this process, on one thread as the workers."""
    runs, threads = tmp_path_factory.mktemp("undisturbed"), torch.get_num_threads()
    torch.set_num_threads(1)
    engines.train(sweep(runs)[0], Engine())
    torch.set_num_threads(threads)
    return runs


@pytest.fixture(scope="module", autouse=True)
def one_thread() -> Iterator[None]:
    patch = pytest.MonkeyPatch()
    patch.setenv("OMP_NUM_THREADS", "1")
    yield
    patch.undo()


@pytest.fixture(scope="module")
def ray(one_thread: None) -> Iterator[None]:
    """A cluster of this machine, bound to 127.0.0.1."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    # By default 15: other tests would starve it.
    os.environ["RAY_worker_niceness"] = "0"  # noqa: SIM112
    cluster = pytest.importorskip("ray")
    cluster.init(num_cpus=2, include_dashboard=False, object_store_memory=80 * 1024**2, log_to_driver=False,
                 _node_ip_address="127.0.0.1", logging_level="error")  # fmt: skip
    yield
    cluster.shutdown()


class Killer(threading.Thread):
    """Kills the first worker that has left a checkpoint and is not done."""

    def __init__(self, runs: Path) -> None:
        super().__init__(daemon=True)
        self.runs, self.killed, self.over = runs, 0, False

    def run(self) -> None:
        while not self.over:
            for last in self.runs.glob("*/last.safetensors"):
                state = heartbeat.read(last.parent)
                if state is not None and state.status == "running" and state.pid != os.getpid():
                    os.kill(state.pid, signal.SIGKILL)
                    self.killed, self.at = state.pid, checkpoints.load(last).iteration
                    self.early, self.when = last.parent / "snapshot-1.safetensors", time.time()
                    return
            time.sleep(0.01)

    def __enter__(self) -> Killer:
        self.start()
        return self

    def __exit__(self, *_: object) -> None:
        self.over = True
        self.join()


@pytest.mark.slow
@pytest.mark.parametrize("engine", ["local", "ray"])
def test_a_killed_worker_changes_nothing(
    engine: str, undisturbed: Path, tmp_path: Path, request: pytest.FixtureRequest
) -> None:
    request.getfixturevalue({"ray": "ray", "local": "forked"}[engine])
    runs = tmp_path / "out" / "runs"
    asked, said = sweep(runs)
    with Killer(runs) as killer:
        found = engines.train(asked, Engine(engine, jobs=2))
    assert killer.killed and killer.at < tiny().steps
    assert killer.early.stat().st_mtime < killer.when  # it went on from the checkpoint, not from the start
    assert [run.folder for run in found] == [task.run(runs).folder for task in three_tasks()]
    for task in three_tasks():
        here, there = final(task, runs), final(task, undisturbed)
        assert all(torch.equal(here[n], there[n]) for n in there), task.name
        assert f"training {task.name}: 24/24 in" in said.getvalue()
    assert "training 3 models: 72/72 in" in said.getvalue()
    left = {p.name for p in runs.rglob("*") if not p.name.endswith(".tmp")} - {p.name for p in undisturbed.rglob("*")}
    assert left == set(), left  # no state, no token


def test_one_fails_and_the_others_are_finished(tmp_path: Path, ray: None) -> None:
    runs = tmp_path / "out" / "runs"
    tasks = (Task("bad", replace(tiny(), lam=1e38)), Task("good", replace(tiny(), steps=3)))
    with pytest.raises(GradlabError, match=r"^training bad: training broke down at iteration 1"):
        engines.train(sweep(runs, tasks)[0], Engine("ray", jobs=2))
    assert tasks[1].run(runs).done
    found = status.survey(runs.parent)
    assert [(row.status, row.done) for row in found.runs] == [("failed", 0), ("done", 3)]
    assert found.runs[0].note.startswith("training broke down at iteration 1")


def test_a_time_limit_stops_all_and_they_go_on(undisturbed: Path, tmp_path: Path, ray: None) -> None:
    tasks = three_tasks()[:2]
    with pytest.raises(Stopped):
        engines.train(sweep(tmp_path, tasks, deadline=time.monotonic() - 1)[0], Engine("ray"))
    assert not any(task.run(tmp_path).done for task in tasks)
    engines.train(sweep(tmp_path, tasks, resume=True)[0], Engine())
    assert torch.equal(*(final(three_tasks()[0], at)["g_a.0.weight"] for at in (tmp_path, undisturbed)))


def order(runs: Path, **change: object) -> WorkerTask:
    (runs / TOKEN_FILE).write_text("abc")
    return WorkerTask(
        Task("tiny", replace(tiny(), steps=2)), str(runs), "abc", None, "", None, RunOptions(), False
    )._replace(**change)


def test_what_an_order_refuses(tmp_path: Path) -> None:
    assert execute(order(tmp_path, token="other")).message.endswith(
        f"does not see {tmp_path}: use an output folder that all machines of the cluster share"
    )
    task = Task("tiny", replace(tiny(), steps=2, data="0123"))
    assert "sees other training images" in execute(order(tmp_path, task=task)).message
    assert "there is no folder" in execute(order(tmp_path, images="/nowhere")).message
    assert execute(order(tmp_path, until=time.time() - 1)).status == "stopped"
    assert execute(order(tmp_path)).status == "done"


def test_an_order_that_is_taken_back_leaves_a_checkpoint(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(_task, "TOKEN_SECONDS", 0.0)
    task = Task("long", replace(tiny(), steps=100_000))
    asked = order(tmp_path, task=task)

    def take_back() -> None:
        while heartbeat.read(task.run(tmp_path).folder) is None:
            time.sleep(0.01)
        (tmp_path / TOKEN_FILE).unlink()

    thread = threading.Thread(target=take_back)
    thread.start()
    assert execute(asked).status == "stopped"
    thread.join()
    assert checkpoints.load(task.run(tmp_path).folder / "last.safetensors").iteration >= 1
    state = heartbeat.read(task.run(tmp_path).folder)
    assert state is not None and state.status == "stopped"


@pytest.mark.parametrize("engine", ["local", "ray"])
def test_sigterm_stops_all_in_good_order(engine: str, tmp_path: Path, request: pytest.FixtureRequest) -> None:
    request.getfixturevalue({"ray": "ray", "local": "forked"}[engine])
    tasks = tuple(Task(f"{lam}", replace(tiny(), steps=100_000, lam=lam)) for lam in (0.01, 0.02))

    def terminate() -> None:
        while sum(1 for _ in tmp_path.glob("*/last.safetensors")) < 2:
            time.sleep(0.01)
        os.kill(os.getpid(), signal.SIGTERM)

    thread = threading.Thread(target=terminate, daemon=True)
    with signals.handled(), pytest.raises(Stopped, match="by SIGTERM"):
        thread.start()
        engines.train(sweep(tmp_path, tasks)[0], Engine(engine, jobs=2))
    found = [heartbeat.read(task.run(tmp_path).folder) for task in tasks]
    assert [state.status for state in found if state is not None] == ["stopped", "stopped"]


def test_a_run_that_another_process_trains_is_left_alone(tmp_path: Path) -> None:
    folder = three_tasks()[0].run(tmp_path).folder
    folder.mkdir()
    heartbeat.write(folder, heartbeat.State("running", 60))
    with pytest.raises(GradlabError, match=r"process \d+ on .* is training in .*: wait for it"):
        engines.train(sweep(tmp_path)[0], Engine(jobs=2))
    heartbeat.write(folder, heartbeat.State("running", 60, pid=2**22 + 1))  # no such process


def test_without_ray(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(GradlabError, match=r"--engine ray needs Ray: pip install 'gradlab\[cluster\]'"):
        engines.train(sweep(tmp_path)[0], Engine("ray"))


def test_no_machine_for_a_run(tmp_path: Path, ray: None) -> None:
    with pytest.raises(GradlabError, match=r"no machine of the cluster has 64 cores and 0 accelerators .*lower --cpus"):
        engines.train(sweep(tmp_path)[0], Engine("ray", cpus=64))


@pytest.mark.parametrize(("arguments", "match"), [
    ({"name": "rey"}, "unknown engine 'rey': did you mean 'ray'"),
    ({"jobs": 0}, "--jobs is 0: give at least 1"),
    ({"name": "ray", "cpus": 0}, "--cpus is 0"),
    ({"name": "ray", "gpus": -1.0}, "--gpus is -1"),
    ({"address": "auto"}, "add --engine ray"),
])  # fmt: skip
def test_bad_engines(arguments: dict[str, object], match: str) -> None:
    with pytest.raises(GradlabError, match=match):
        Engine(**arguments)  # type: ignore[arg-type]


def test_processes_that_share_a_model_take_no_other_engine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(distributed, "_group", distributed.ProcessGroup(0, 2))
    assert Engine().jobs is None
    for arguments in ({"jobs": 2}, {"name": "ray"}):
        with pytest.raises(GradlabError, match="2 processes share every model"):
            Engine(**arguments)  # type: ignore[arg-type]


def test_on_cuda_models_take_turns_in_this_process_each_run_once(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    begun: list[int] = []
    monkeypatch.setattr(local, "take_turns", lambda trainings, jobs: begun.extend([len(trainings), jobs]))
    asked, _ = sweep(tmp_path, (*three_tasks(), three_tasks()[0]._replace(name="the same again")))
    object.__setattr__(asked.options, "device", "cuda")  # there is none here
    engines.train(asked, Engine(jobs=2))
    assert begun == [3, 2]
