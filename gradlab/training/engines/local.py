"""Train on this machine: one run after the other in this process, or several in worker processes."""

from __future__ import annotations

import concurrent.futures
import contextlib
import functools
import multiprocessing
import os
import threading
from collections.abc import Callable, Sequence
from concurrent.futures.process import BrokenProcessPool
from dataclasses import replace
from typing import TYPE_CHECKING

from gradlab.errors import GradlabError, Stopped
from gradlab.runtime.progress import Advance, Combined, quiet
from gradlab.training.engines._follow import dispatched, follow, marked_waiting
from gradlab.training.engines._task import RETRIES, Outcome, Sweep, Task, WorkerTask, execute, train_task
from gradlab.training.loop import Training

if TYPE_CHECKING:
    from gradlab.training.engines import Engine


def train(sweep: Sweep, engine: Engine) -> None:
    """Train every model that is not trained yet.

    On CUDA, several jobs take turns in this process, each on its own stream. On other devices, each job is a process
    with its share of the cores. The number of threads affects the order of sums and, after thousands of iterations, the
    results; compare only runs with the same number of threads.

    Args:
        sweep: the runs.
        engine: its ``jobs`` is the number of parallel runs, 1 by default.

    Raises:
        GradlabError: a run failed.
        Stopped: the deadline has passed.
    """
    jobs = engine.jobs or 1
    if jobs == 1 or sweep.options.device.startswith("cuda"):
        with marked_waiting(sweep, sweep.pending()), contextlib.ExitStack() as stack:
            total: Advance = quiet
            if jobs > 1:  # a bar for all models together
                steps = sum(task.settings.steps for task in sweep.tasks)
                total = stack.enter_context(sweep.progress.track(f"training {len(sweep.tasks)} models", steps))
            take_turns([functools.partial(_training, sweep, task, total) for task in sweep.distinct()], jobs)
        return
    with dispatched(sweep, jobs) as tasks:
        if tasks:
            with _Pools(min(jobs, len(tasks))) as pools:
                pools.submit(tasks)
                follow(sweep, tasks, pools.wait)


def _training(sweep: Sweep, task: Task, total: Advance) -> Training:
    with sweep.progress.track(f"training {task.name}", task.settings.steps) as advance:
        options = replace(sweep.options, progress=Combined(total, advance))
        yield from train_task(task, sweep.runs, sweep.pictures, options, sweep.study)
    sweep.finished(task)


def take_turns(trainings: Sequence[Callable[[], Training]], jobs: int) -> None:
    """Train several models in this process, one iteration of each in turn.

    On an accelerator an iteration only queues work, so models on separate streams run in parallel.

    Args:
        trainings: functions that start a run each.
        jobs: number of models to train at a time.

    Raises:
        Exception: the error of the first run that failed; the other runs are finished first.
        Stopped: a run was stopped; the others stop for the same reason.
    """
    waiting, active = list(trainings), list[Training]()
    failed: Exception | None = None
    stopped: Stopped | None = None
    try:
        while active or (waiting and stopped is None):
            while waiting and len(active) < jobs and stopped is None:
                active.append(waiting.pop(0)())
            for training in list(active):
                try:
                    next(training)
                    continue
                except StopIteration:
                    pass
                except Stopped as error:
                    stopped = error
                except Exception as error:  # e.g. not enough memory; the others may continue
                    if jobs == 1:
                        raise
                    failed = failed or error
                active.remove(training)
    finally:
        for training in active:
            training.close()
    if failed is not None or stopped is not None:
        raise failed or stopped  # type: ignore[misc]


class _Pools:
    """Worker processes; when one dies, a new pool continues its runs from their checkpoints."""

    def __init__(self, jobs: int) -> None:
        self._jobs, self._deaths = jobs, 0
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self._futures: dict[concurrent.futures.Future[Outcome], WorkerTask] = {}

    def __enter__(self) -> _Pools:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, tasks: list[WorkerTask]) -> None:
        """Submit the tasks to a pool of new processes."""
        # Spawn, because a fork of a process with running torch or CUDA threads may hang.
        self._pool = concurrent.futures.ProcessPoolExecutor(
            self._jobs, mp_context=multiprocessing.get_context("spawn"), initializer=end_with_parent
        )
        self._futures = {self._pool.submit(execute, task): task for task in tasks}

    def wait(self, seconds: float) -> list[tuple[WorkerTask, Outcome]]:
        """Return the tasks that have ended."""
        finished, _ = concurrent.futures.wait(self._futures, seconds, concurrent.futures.FIRST_COMPLETED)
        ended, again = [], []
        for future in finished:
            task = self._futures.pop(future)
            try:
                ended.append((task, future.result()))
            except BrokenProcessPool:
                again.append(task)
        if again:
            # After losing a process, the whole pool is unusable.
            again += self._futures.values()
            self._deaths += 1
            if self._deaths > RETRIES:
                raise GradlabError(
                    f"{self._deaths} worker processes died (affected runs include {again[0].task.name}): find out what "
                    "killed them (e.g. lack of memory), give fewer --jobs, then --resume"
                )
            self.submit(again)
        return ended


def end_with_parent() -> None:
    """Exit when the parent process dies."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
