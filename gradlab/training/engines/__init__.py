"""Engines: where the training runs of a study are executed; one file each, and one line here.

A training run is a task with a folder of its own. If its process is killed, the next one continues from its checkpoint.

============  ==================================================================
``local``     in this process, or side by side in worker processes
``ray``       on a Ray cluster
``_task``     ``Task``, ``Sweep``, and the execution of a task
``_follow``   dispatching tasks to other processes, and showing their progress
============  ==================================================================
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gradlab.errors import GradlabError, unknown
from gradlab.runtime import distributed
from gradlab.training.engines import local, ray
from gradlab.training.engines._task import Sweep, Task
from gradlab.training.run import Run

__all__ = ["ENGINES", "Engine", "Sweep", "Task", "train"]


@dataclass(frozen=True)
class Engine:
    """Where training runs are executed, and how many at a time.

    Attributes:
        name: a key of ``ENGINES``.
        jobs: training runs side by side; None: one on the local engine, as many as fit on a cluster.
        address: of a running Ray cluster (``"auto"``: that of this machine); None: the one that this process is
            connected to, else a new one on this machine.
        cpus: cores of each run on a cluster.
        gpus: accelerators of each run on a cluster, fractions share one; None: 1 on CUDA, 0 elsewhere.

    Raises:
        GradlabError: an unknown name, a number that is too small, or an option that the engine does not take.
    """

    name: str = "local"
    jobs: int | None = None
    address: str | None = None
    cpus: float = 1
    gpus: float | None = None

    def __post_init__(self) -> None:
        if self.name not in ENGINES:
            raise unknown("engine", self.name, ENGINES)
        if self.jobs is not None and self.jobs < 1:
            raise GradlabError(f"--jobs is {self.jobs}: train at least one model at a time")
        if not self.cpus > 0 or (self.gpus is not None and not self.gpus >= 0):
            raise GradlabError(
                f"--cpus is {self.cpus:g} and --gpus {self.gpus}: give more than 0 cores, and 0 or more accelerators"
            )
        if self.name == "local" and (self.address is not None or self.cpus != 1 or self.gpus is not None):
            raise GradlabError("--address, --cpus and --gpus are of a cluster: add --engine ray, or leave them out")
        size = distributed.group().size
        if size > 1 and (self.name != "local" or self.jobs not in (None, 1)):
            raise GradlabError(
                f"{size} processes share every model: leave out --jobs and --engine {self.name}, or start one process"
            )


ENGINES: dict[str, Callable[[Sweep, Engine], None]] = {"local": local.train, "ray": ray.train}


def train(sweep: Sweep, engine: Engine) -> list[Run]:
    """Train every model that is not trained yet.

    Args:
        sweep: the runs.
        engine: where they are executed.

    Returns:
        The runs, in the order of the tasks.

    Raises:
        GradlabError: a run failed; runs side by side are finished first.
        Stopped: the deadline has passed; every run that had started left a checkpoint.
    """
    ENGINES[engine.name](sweep, engine)
    return [task.run(Path(sweep.runs)) for task in sweep.tasks]
