"""Follow training runs in other processes; all communication goes through their folders."""

from __future__ import annotations

import contextlib
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import files, heartbeat, signals
from gradlab.runtime.progress import quiet
from gradlab.training.engines._task import TOKEN_FILE, Outcome, Sweep, Task, WorkerTask

POLL_SECONDS = 0.5

Wait = Callable[[float], list[tuple[WorkerTask, Outcome]]]
"""Waits up to the given number of seconds; returns the tasks that have ended since the last call."""


@contextlib.contextmanager
def marked_waiting(sweep: Sweep, tasks: list[Task]) -> Iterator[None]:
    """Mark pending runs as ``waiting`` in their folders, so that ``gradlab status`` can estimate the total time."""
    totals = {}
    for task in tasks:
        folder = files.ensure_folder(task.run(sweep.runs).folder)
        files.write_json(folder / "settings.json", asdict(task.settings))
        totals[folder] = task.settings.steps
    with heartbeat.waiting(totals, sweep.study):
        yield


@contextlib.contextmanager
def dispatched(sweep: Sweep, shares: int = 0) -> Iterator[list[WorkerTask]]:
    """Prepare the folder of the runs and yield the tasks for its workers; withdraw the tasks at the end.

    A worker continues from a checkpoint if there is one. If the sweep is not resumed, the checkpoints of its unfinished
    runs are therefore removed first.

    Args:
        sweep: the runs.
        shares: number of processes that share the cores of this machine; 0 if the engine assigns cores itself.
    """
    runs = files.ensure_folder(sweep.runs).resolve()
    token = secrets.token_hex(8)
    files.write_text(runs / TOKEN_FILE, token)
    tasks = sweep.pending()
    deadline = sweep.options.deadline
    until = None if deadline is None else time.time() + deadline - time.monotonic()
    images = None if sweep.images is None else str(sweep.images.resolve())
    try:
        for task in tasks:
            folder = task.run(runs).folder
            state = heartbeat.read(folder)
            if state is not None and state.current == "running":
                raise GradlabError(
                    f"process {state.pid} on {state.host} is training in {folder}: wait for it, or stop it"
                )
            if not sweep.options.resume:
                (folder / "last.safetensors").unlink(missing_ok=True)
        options = replace(sweep.options, deadline=None, progress=quiet)
        common = (str(runs), token, images, sweep.study, until, options, sweep.deterministic, shares)
        with marked_waiting(sweep, tasks):
            yield [WorkerTask(task, *common) for task in tasks]
    finally:
        (runs / TOKEN_FILE).unlink(missing_ok=True)


def follow(sweep: Sweep, tasks: list[WorkerTask], wait: Wait) -> None:
    """Show the progress of the runs until all have ended.

    Args:
        sweep: the runs.
        tasks: the dispatched tasks.
        wait: returns the tasks that have ended.

    Raises:
        GradlabError: a run failed.
        Stopped: the deadline has passed, or a signal has arrived.
    """
    titles = {t.task.run(sweep.runs).folder: (f"training {t.task.name}", t.task.settings.steps) for t in tasks}
    left, failed, stopped = len(tasks), dict[str, str](), ""
    try:
        with heartbeat.Follower(sweep.progress, f"training {len(tasks)} models", titles) as follower:
            while left:
                signals.raise_if_stopped()
                for (task, *_), outcome in wait(POLL_SECONDS):
                    left -= 1
                    folder = task.run(sweep.runs).folder
                    if outcome.status == "done":
                        sweep.finished(task)
                    elif outcome.status == "stopped":
                        stopped = outcome.message or "stopped at the time limit before every model had started"
                    else:
                        failed[task.name] = outcome.message
                        state = heartbeat.read(folder) or heartbeat.State("", task.settings.steps, study=sweep.study)
                        if state.status != "failed":  # a killed worker could not write its state
                            heartbeat.write(folder, replace(state, status="failed", note=outcome.message))
                    follower.end(folder, outcome.status == "done")
                follower.update()
    except BaseException:
        # Withdraw the tasks: a worker that is training leaves a checkpoint and ends.
        (sweep.runs / TOKEN_FILE).unlink(missing_ok=True)
        raise
    if failed:
        name, message = next(iter(failed.items()))
        more = f" (and {len(failed) - 1} more: gradlab status {sweep.runs.parent})"
        raise GradlabError(f"training {name}: {message}{more if len(failed) > 1 else ''}")
    if stopped:
        raise Stopped(stopped)
