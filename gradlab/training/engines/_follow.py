"""Runs that other processes do, seen from the one that ordered them: through their folders alone."""

from __future__ import annotations

import contextlib
import os
import secrets
import time
from collections.abc import Callable, Iterator
from dataclasses import asdict, replace

from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import files, heartbeat, signals
from gradlab.runtime.progress import Advance, quiet
from gradlab.training.engines._task import TOKEN, Order, Outcome, Sweep, Task

POLL_SECONDS = 0.5


@contextlib.contextmanager
def announced(sweep: Sweep, wanted: list[Task]) -> Iterator[None]:
    """Mark pending runs as ``waiting`` in their folders, so that ``gradlab status`` can estimate the total."""
    for task in wanted:
        folder = files.ensure_folder(task.run(sweep.runs).folder)
        files.write_json(folder / "settings.json", asdict(task.settings))
        heartbeat.write(folder, heartbeat.State("waiting", task.settings.steps, study=sweep.study))
    try:
        yield
    finally:
        for task in wanted:
            said = heartbeat.read(task.run(sweep.runs).folder)
            if said is not None and said.status == "waiting" and said.pid == os.getpid():
                heartbeat.clear(task.run(sweep.runs).folder)


def undone(sweep: Sweep) -> list[Task]:
    """The tasks that are not done yet, each run once."""
    there = {task.run(sweep.runs).folder: task for task in sweep.tasks}
    return [task for task in there.values() if not task.run(sweep.runs).done]


@contextlib.contextmanager
def orders(sweep: Sweep, shares: int = 0) -> Iterator[list[Order]]:
    """The orders for the tasks that are not done yet, on a folder that is ready for them.

    Whoever takes an order goes on from a checkpoint. So where the sweep is to start anew, the checkpoints of its
    unfinished runs are taken away first.
    """
    runs = files.ensure_folder(sweep.runs).resolve()
    token = secrets.token_hex(8)
    files.write_text(runs / TOKEN, token)
    wanted = undone(sweep)
    deadline = sweep.options.deadline
    until = None if deadline is None else time.time() + deadline - time.monotonic()
    images = None if sweep.images is None else str(sweep.images.resolve())
    try:
        for task in wanted:
            folder = task.run(runs).folder
            said = heartbeat.read(folder)
            if said is not None and said.status == "running" and said.alive:
                raise GradlabError(f"process {said.pid} on {said.host} is training in {folder}: wait for it, or end it")
            if not sweep.options.resume:
                (folder / "last.safetensors").unlink(missing_ok=True)
        options = replace(sweep.options, deadline=None, progress=quiet)
        common = (str(runs), token, images, sweep.study, until, options, sweep.deterministic, shares)
        with announced(sweep, wanted):
            yield [Order(task, *common) for task in wanted]
    finally:
        (runs / TOKEN).unlink(missing_ok=True)


class Follower:
    """Shows how far the runs of a sweep have come, and keeps how they ended."""

    def __init__(self, sweep: Sweep, wanted: list[Order]) -> None:
        """Nothing is shown yet."""
        self._sweep, self._runs = sweep, sweep.runs
        self._tasks = [order.task for order in wanted]
        self._bars: dict[Task, tuple[contextlib.ExitStack, Advance]] = {}
        self._shown: dict[Task, int] = {}
        self._failed: dict[str, str] = {}
        self._stopped = ""
        self._ended = 0
        self._all = contextlib.ExitStack()

    def __enter__(self) -> Follower:
        """Show the sweep as a whole."""
        total = sum(task.settings.steps for task in self._tasks)
        self._total = self._all.enter_context(self._sweep.progress.track(f"training {len(self._tasks)} models", total))
        return self

    def __exit__(self, *_: object) -> None:
        """Show no more."""
        for stack, _advance in self._bars.values():
            stack.close()
        self._bars.clear()
        self._all.close()

    def look(self) -> None:
        """Read the folders of the runs, and show what has come since the last look."""
        for task in self._tasks:
            said = heartbeat.read(task.run(self._runs).folder)
            if said is not None and said.status == "running":
                self._show(task, said.done, said.note)

    def ended(self, order: Order, outcome: Outcome) -> None:
        """Take in how an order ended."""
        task, folder = order.task, order.task.run(self._runs).folder
        self._ended += 1
        if outcome.status == "done":
            self._show(task, task.settings.steps, "")
            self._sweep.finished(task)
        elif outcome.status == "stopped":
            self._stopped = outcome.sentence or "stopped at the time limit before every model had begun"
        else:
            self._failed[task.name] = outcome.sentence
            said = heartbeat.read(folder)
            if said is None or said.status != "failed":
                state = said or heartbeat.State("failed", task.settings.steps, study=self._sweep.study)
                heartbeat.write(folder, heartbeat.State("failed", state.total, state.done, note=outcome.sentence,
                                                  study=self._sweep.study))  # fmt: skip
        bar = self._bars.pop(task, None)
        if bar is not None:
            bar[0].close()

    def verdict(self) -> None:
        """Raise what is to be raised now that all have ended.

        Raises:
            GradlabError: some failed.
            Stopped: some were stopped by the deadline.
        """
        if self._failed:
            name, sentence = next(iter(self._failed.items()))
            more = f" (and {len(self._failed) - 1} more: gradlab status {self._runs.parent})"
            raise GradlabError(f"training {name}: {sentence}{more if len(self._failed) > 1 else ''}")
        if self._stopped:
            raise Stopped(self._stopped)

    def _show(self, task: Task, done: int, note: str) -> None:
        if task not in self._bars:
            stack = contextlib.ExitStack()
            track = self._sweep.progress.track(f"training {task.name}", task.settings.steps)
            self._bars[task] = stack, stack.enter_context(track)
        more = done - self._shown.get(task, 0)
        if more > 0:
            self._shown[task] = done
            self._bars[task][1](more, note)
            self._total(more, f"{self._ended} of {len(self._tasks)} ended")


Wait = Callable[[float], list[tuple[Order, Outcome]]]


def follow(sweep: Sweep, wanted: list[Order], wait: Wait) -> None:
    """Show the runs until all have ended.

    Args:
        sweep: what was ordered.
        wanted: the orders.
        wait: waits so many seconds at most, and says which orders have ended since it was last called.

    Raises:
        GradlabError: a run failed.
        Stopped: the deadline has passed, or a signal has come.
    """
    left = len(wanted)
    try:
        with Follower(sweep, wanted) as follower:
            while left:
                signals.raise_if_stopped()
                for order, outcome in wait(POLL_SECONDS):
                    follower.ended(order, outcome)
                    left -= 1
                follower.look()
    except BaseException:
        # The orders are taken back: whoever is at work on one leaves a checkpoint and ends.
        (sweep.runs / TOKEN).unlink(missing_ok=True)
        raise
    follower.verdict()
