"""On a Ray cluster: every run is a task with its cores and accelerators, taken up elsewhere when its worker dies."""

from __future__ import annotations

import contextlib
import logging
import os
import signal
import threading
from collections.abc import Iterator
from typing import Any

from gradlab.errors import GradlabError
from gradlab.training.engines._follow import follow, orders
from gradlab.training.engines._task import RETRIES, Order, Outcome, Sweep, carry_out

# Results are sentences; the runs themselves lie in the shared folder.
STORE_BYTES = 80 * 1024**2
GRACE_SECONDS = 60.0


def train(sweep: Sweep, jobs: int | None, address: str | None, cpus: float, gpus: float | None) -> None:
    """Train every model that is not there yet.

    Args:
        sweep: the runs; their folder is one that every machine of the cluster sees.
        jobs: how many at a time; None is as many as the cluster has room for.
        address: of the cluster; None takes the one that this process is connected to, or starts one on this machine.
        cpus: cores of each run.
        gpus: accelerators of each run; None is 1 on CUDA and 0 elsewhere.

    Raises:
        GradlabError: Ray is not installed or the cluster is not reached; a run failed.
        Stopped: the deadline has passed.
    """
    share = (1.0 if sweep.options.device.startswith("cuda") else 0.0) if gpus is None else gpus
    with contextlib.ExitStack() as stack:
        wanted = stack.enter_context(orders(sweep))
        if not wanted:
            return
        ray = stack.enter_context(_connected(address))
        _fits(ray, cpus, share)
        # Exceptions are no reason to try again, a worker or a machine that died is.
        remote = ray.remote(num_cpus=cpus, num_gpus=share, max_retries=RETRIES)(carry_out)
        tasks = _Tasks(ray, remote, wanted, jobs or len(wanted))
        try:
            follow(sweep, wanted, tasks.wait)
        except BaseException:
            tasks.end()
            raise


class _Tasks:
    """Orders that the cluster has, and those that it is to get later."""

    def __init__(self, ray: Any, remote: Any, wanted: list[Order], jobs: int) -> None:
        self._ray, self._remote, self._jobs = ray, remote, jobs
        self._later = list(wanted)
        self._now: dict[Any, Order] = {}
        self._fill()

    def _fill(self) -> None:
        while self._later and len(self._now) < self._jobs:
            order = self._later.pop(0)
            self._now[self._remote.options(name=f"gradlab {order.task.name}").remote(order)] = order

    def wait(self, seconds: float) -> list[tuple[Order, Outcome]]:
        """What has ended."""
        finished, _ = self._ray.wait(list(self._now), num_returns=1, timeout=seconds)
        ended = []
        for reference in finished:
            order = self._now.pop(reference)
            try:
                outcome = Outcome(*self._ray.get(reference))
            except self._ray.exceptions.RayError as error:
                outcome = Outcome("failed", f"the cluster gave it up ({str(error).splitlines()[0]})")
            ended.append((order, outcome))
        self._fill()
        return ended

    def end(self) -> None:
        """Give those at work the time to leave a checkpoint, now that their orders were taken back.

        Whatever is left then ends with this process. Nothing is cancelled: where a task answers while it is cancelled
        Ray 2.60 aborts the whole process ("Tried to complete task that was not pending").
        """
        if self._now:
            self._ray.wait(list(self._now), num_returns=len(self._now), timeout=GRACE_SECONDS)


@contextlib.contextmanager
def _connected(address: str | None) -> Any:
    try:
        os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
        os.environ.setdefault("RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO", "0")  # what its next release does
        import ray
    except ImportError:
        raise GradlabError("Ray is not installed: pip install 'gradlab[cluster]', or take --engine local") from None
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
        where = f"the Ray cluster at {address} is not reached" if address else "Ray does not start on this machine"
        raise GradlabError(f"{where} ({str(error).strip().splitlines()[0]}): see docs/cluster.md") from error
    try:
        yield ray
    finally:
        ray.shutdown()


@contextlib.contextmanager
def _own_handlers() -> Iterator[None]:
    """Ray takes SIGTERM for itself, and would leave at once; here it asks for an orderly end (``runtime.signals``)."""
    main = threading.current_thread() is threading.main_thread()
    before = {one: signal.getsignal(one) for one in (signal.SIGTERM, signal.SIGINT)} if main else {}
    try:
        yield
    finally:
        for one, handler in before.items():
            signal.signal(one, handler)


def _fits(ray: Any, cpus: float, gpus: float) -> None:
    """Fail early if no node can satisfy the request.

    Raises:
        GradlabError: there is no such machine.
    """
    nodes = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    if not any(node.get("CPU", 0) >= cpus and node.get("GPU", 0) >= gpus for node in nodes):
        largest = max((node.get("CPU", 0), node.get("GPU", 0)) for node in nodes) if nodes else (0, 0)
        raise GradlabError(
            f"no machine of the cluster has {cpus:g} cores and {gpus:g} accelerators for a run (the largest has "
            f"{largest[0]:g} and {largest[1]:g}): give --cpus, --gpus or --device cpu"
        )
