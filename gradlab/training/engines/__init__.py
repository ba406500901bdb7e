"""Execute the training runs of a study.

Each engine is one file and one entry of ``ENGINES``. Each training run is a task with its own folder. If its process is
killed, the next process continues from the checkpoint.

============  ============================================================
``local``     in this process, or in parallel worker processes
``ray``       on a Ray cluster
``_task``     ``Task``, ``Sweep``, and the execution of a task
``_follow``   dispatches tasks to other processes and shows their progress
============  ============================================================
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
    """Where to execute training runs, and how many in parallel.

    Attributes:
        name: a key of ``ENGINES``.
        jobs: number of parallel training runs. None selects one on the local engine, and as many as fit on a cluster.
        address: address of a running Ray cluster, or ``"auto"`` for the one on this machine. None selects the cluster
            that this process is connected to, or else starts one on this machine.
        cpus: CPU cores per run on a cluster.
        gpus: accelerators per run on a cluster; fractions share one. None selects 1 on CUDA and 0 otherwise.

    Raises:
        GradlabError: the name is unknown, a number is too small, or the engine does not take an option.

    Example:
        >>> from gradlab.training.engines import Engine
        >>> Engine(jobs=2).name
        'local'
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
            raise GradlabError(f"--jobs is {self.jobs}: give at least 1")
        if not self.cpus > 0 or (self.gpus is not None and not self.gpus >= 0):
            raise GradlabError(
                f"--cpus is {self.cpus:g} and --gpus is {self.gpus}: give more than 0 cores and at least 0 accelerators"
            )
        if self.name == "local" and (self.address is not None or self.cpus != 1 or self.gpus is not None):
            raise GradlabError("--address, --cpus and --gpus need a cluster: add --engine ray, or leave them out")
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
        engine: where to execute them.

    Returns:
        The runs, in the order of the tasks.

    Raises:
        GradlabError: a run failed; parallel runs are finished first.
        Stopped: the deadline has passed; every run that had started has left a checkpoint.
    """
    ENGINES[engine.name](sweep, engine)
    return [task.run(Path(sweep.runs)) for task in sweep.tasks]
