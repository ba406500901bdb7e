"""On this machine: one run after the other in this process, or several side by side in processes of their own."""

from __future__ import annotations

import concurrent.futures
import multiprocessing
import os
import threading
from concurrent.futures.process import BrokenProcessPool

from gradlab.errors import GradlabError
from gradlab.training.engines._follow import announced, follow, orders, undone
from gradlab.training.engines._task import RETRIES, Order, Outcome, Sweep, carry_out, do


def train(sweep: Sweep, jobs: int = 1) -> None:
    """Train every model that is not there yet.

    With several jobs each process has its share of the cores. The number of threads changes the order of sums, and
    after thousands of iterations the numbers: compare runs that had as many.

    Args:
        sweep: the runs.
        jobs: how many side by side.

    Raises:
        GradlabError: a run failed.
        Stopped: the deadline has passed.
    """
    if jobs == 1:
        with announced(sweep, undone(sweep)):
            for task in sweep.tasks:
                with sweep.progress.track(f"training {task.name}", task.settings.steps) as advance:
                    do(
                        task,
                        sweep.runs,
                        sweep.pictures,
                        sweep.device,
                        sweep.resume,
                        sweep.deadline,
                        sweep.study,
                        sweep.checkpoint_every,
                        advance,
                    )
        return
    with orders(sweep, jobs) as wanted:
        if wanted:
            with _Pools(min(jobs, len(wanted))) as pools:
                pools.submit(wanted)
                follow(sweep, wanted, pools.wait)


class _Pools:
    """Worker processes, and new ones where one of them died: whoever shared the pool goes on from its checkpoint."""

    def __init__(self, jobs: int) -> None:
        self._jobs, self._deaths = jobs, 0
        self._pool: concurrent.futures.ProcessPoolExecutor | None = None
        self._futures: dict[concurrent.futures.Future[Outcome], Order] = {}

    def __enter__(self) -> _Pools:
        return self

    def __exit__(self, *_: object) -> None:
        if self._pool is not None:
            self._pool.shutdown(wait=True, cancel_futures=True)

    def submit(self, wanted: list[Order]) -> None:
        """Order the runs of a pool of fresh processes."""
        # Spawned: a fork of a process that has started threads of torch or CUDA may hang.
        self._pool = concurrent.futures.ProcessPoolExecutor(
            self._jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_end_with_parent
        )
        self._futures = {self._pool.submit(carry_out, order): order for order in wanted}

    def wait(self, seconds: float) -> list[tuple[Order, Outcome]]:
        """What has ended."""
        finished, _ = concurrent.futures.wait(self._futures, seconds, concurrent.futures.FIRST_COMPLETED)
        ended, again = [], []
        for future in finished:
            order = self._futures.pop(future)
            try:
                ended.append((order, future.result()))
            except BrokenProcessPool:
                again.append(order)
        if again:
            # A pool that lost a process is gone as a whole.
            again += self._futures.values()
            self._deaths += 1
            if self._deaths > RETRIES:
                raise GradlabError(
                    f"{self._deaths} worker processes died, the last one with {again[0].task.name} among the runs in "
                    "work: look for what killed them (memory?), take fewer --jobs, then --resume"
                )
            self.submit(again)
        return ended


def _end_with_parent() -> None:
    """A worker whose parent was killed has nobody to work for."""
    parent = multiprocessing.parent_process()

    def watch() -> None:
        assert parent is not None
        parent.join()
        os._exit(1)

    threading.Thread(target=watch, daemon=True).start()
