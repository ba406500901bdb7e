"""Train on a Ray cluster: each run is one Ray task with its own resources, and is retried when its worker dies."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import TYPE_CHECKING, Any

from gradlab.errors import GradlabError, needs
from gradlab.training.engines._follow import dispatched, follow
from gradlab.training.engines._task import RETRIES, Outcome, Sweep, WorkerTask, execute

if TYPE_CHECKING:
    from gradlab.training.engines import Engine

# Results are short messages; the runs themselves are in the shared folder.
STORE_BYTES = 80 * 1024**2
GRACE_SECONDS = 60.0


def train(sweep: Sweep, engine: Engine) -> None:
    """Train every model that is not trained yet.

    Args:
        sweep: the runs; every machine of the cluster must see their folder.
        engine: the cluster, the number of parallel runs, and the resources of each.

    Raises:
        GradlabError: Ray is not installed, the cluster cannot be reached, or a run failed.
        Stopped: the deadline has passed.
    """
    gpus = float(sweep.options.device.startswith("cuda")) if engine.gpus is None else engine.gpus
    with contextlib.ExitStack() as stack:
        tasks = stack.enter_context(dispatched(sweep))
        if not tasks:
            return
        ray = stack.enter_context(_connected(engine.address))
        _fits(ray, engine.cpus, gpus)
        # Ray retries only after the death of a worker or a machine, not after exceptions.
        remote = ray.remote(num_cpus=engine.cpus, num_gpus=gpus, max_retries=RETRIES)(execute)
        queue = _Queue(ray, remote, tasks, engine.jobs or len(tasks))
        try:
            follow(sweep, tasks, queue.wait)
        except BaseException:
            queue.end()
            raise


class _Queue:
    """Tasks that the cluster is executing, and tasks that it receives later."""

    def __init__(self, ray: Any, remote: Any, tasks: list[WorkerTask], jobs: int) -> None:
        self._ray, self._remote, self._jobs = ray, remote, jobs
        self._waiting = list(tasks)
        self._active: dict[Any, WorkerTask] = {}
        self._fill()

    def _fill(self) -> None:
        while self._waiting and len(self._active) < self._jobs:
            task = self._waiting.pop(0)
            self._active[self._remote.options(name=f"gradlab {task.task.name}").remote(task)] = task

    def wait(self, seconds: float) -> list[tuple[WorkerTask, Outcome]]:
        """Return the tasks that have ended."""
        finished, _ = self._ray.wait(list(self._active), num_returns=1, timeout=seconds)
        ended = []
        for reference in finished:
            task = self._active.pop(reference)
            try:
                outcome = Outcome(*self._ray.get(reference))
            except self._ray.exceptions.RayError as error:
                outcome = Outcome("failed", f"the cluster gave up on the run ({str(error).splitlines()[0]})")
            ended.append((task, outcome))
        self._fill()
        return ended

    def end(self) -> None:
        """Give the active tasks, which have been withdrawn, time to write a checkpoint.

        Tasks that still run afterwards end with this process. They are not cancelled, because Ray 2.60 aborts the whole
        process if a task returns during its cancellation ("Tried to complete task that was not pending").
        """
        if self._active:
            self._ray.wait(list(self._active), num_returns=len(self._active), timeout=GRACE_SECONDS)


@contextlib.contextmanager
def _connected(address: str | None) -> Any:
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # the default of its next release
    with needs("--engine ray"):
        import ray
    if ray.is_initialized():
        yield ray
        return
    address = address or os.environ.get("RAY_ADDRESS")
    options: dict[str, Any] = {"address": address}
    if address is None:
        options = {"address": "local", "include_dashboard": False, "object_store_memory": STORE_BYTES,
                   "_node_ip_address": "127.0.0.1"}  # fmt: skip
    try:
        with _own_handlers():
            ray.init(**options, logging_level=logging.ERROR, log_to_driver=False)
    except (ConnectionError, RuntimeError, ValueError, OSError) as error:
        where = f"the Ray cluster at {address} cannot be reached" if address else "Ray does not start on this machine"
        raise GradlabError(f"{where} ({str(error).strip().splitlines()[0]}): see docs/cluster.md") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Keep gradlab's signal handlers: Ray's exits at once on SIGTERM, gradlab's stop in order (``runtime.signals``)."""
    main = threading.current_thread() is threading.main_thread()
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)} if main else {}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _fits(ray: Any, cpus: float, gpus: float) -> None:
    """Fail early if no node can satisfy the request.

    Raises:
        GradlabError: no node is large enough; the message gives the largest node.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        largest = max((node.get("CPU", 0), node.get("GPU", 0)) for node in nodes) if nodes else (0, 0)
        raise GradlabError(
            f"no machine of the cluster has {cpus:g} cores and {gpus:g} accelerators for a run (the largest has "
            f"{largest[0]:g} and {largest[1]:g}): lower --cpus or --gpus, or give --device cpu"
        )
