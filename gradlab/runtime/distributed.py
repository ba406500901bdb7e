"""Coordinate the processes that share one run: rank, share of the work, agreement and averaged gradients.

``torchrun`` or SLURM starts the processes. Lightning Fabric detects the launcher, forms the process group (gloo on
CPUs, NCCL on accelerators) and averages gradients (DDP). A single process is rank 0 of 1 and does not import Fabric.

Every process runs the same program and takes the same decisions. Only rank 0 writes files and prints. torch pickles the
objects that the processes of a run exchange; nothing is unpickled from a file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from gradlab.errors import GradlabError, Stopped, needs

if TYPE_CHECKING:
    from torch import Tensor, nn

    from gradlab.runtime.progress import Advance

T = TypeVar("T")
A = TypeVar("A")

# Rank 0 draws figures and runs classical codecs while the other processes wait for it.
TIMEOUT_HOURS = 12


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        device: torch device of this process, e.g. ``"cuda:1"``; empty for a single process.
        fabric: the ``lightning_fabric.Fabric`` of the group; None for a single process.
    """

    rank: int = 0
    size: int = 1
    device: str = ""
    fabric: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes files and prints."""
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """``(rank, size)``, the argument of ``noise.stream``."""
        return self.rank, self.size

    def rows(self, batch: int) -> slice:
        """Return the rows of a batch that belong to this process.

        Args:
            batch: size of the batch.

        Raises:
            GradlabError: the batch is not divisible by the number of processes.
        """
        if batch % self.size:
            raise GradlabError(
                f"a batch of {batch} cannot be split over {self.size} processes: start a number of processes that "
                f"divides {batch}"
            )
        count = batch // self.size
        return slice(self.rank * count, (self.rank + 1) * count)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process; the result is the same in all processes."""
        if self.size == 1:
            return flag
        import torch

        tensor = torch.tensor(float(flag), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return bool(tensor)

    def coalesce(self, value: T | None) -> T | None:
        """Return the first value, in order of rank, that is not None; the result is the same in all processes."""
        if self.size == 1 or not self.any(value is not None):
            return value
        return next(item for item in self.all_gather(value) if item is not None)

    def mean(self, values: Tensor) -> Tensor:
        """Average a float tensor over the processes elementwise, on its device."""
        if self.size == 1:
            return values
        import torch

        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.SUM)
        return values / self.size

    def broadcast(self, value: T, source: int = 0) -> T:
        """Return the value of one process in every process.

        Args:
            value: value in this process.
            source: rank of the process whose value is returned.
        """
        return value if self.size == 1 else self.fabric.broadcast(value, source)

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes, in order of rank."""
        return [self.broadcast(value, source) for source in range(self.size)]

    def barrier(self) -> None:
        """Wait for all processes; files that rank 0 wrote before the barrier can be read after it."""
        if self.size > 1:
            self.fabric.barrier()

    @contextlib.contextmanager
    def shared_errors(self) -> Iterator[None]:
        """Raise an error of one process in all of them, so that none waits for a process that has failed.

        Raises:
            GradlabError: a process raised it inside the context.
            Stopped: a process raised it inside the context.
        """
        if self.size == 1:
            yield
            return
        error: GradlabError | Stopped | None = None
        try:
            yield
        except (GradlabError, Stopped) as caught:
            error = caught
        first = self.coalesce(None if error is None else (isinstance(error, Stopped), str(error)))
        if error is not None:
            raise error
        if first is not None:
            stopped, sentence = first
            raise Stopped(sentence) if stopped else GradlabError(sentence)

    def map(
        self, items: Sequence[tuple[str, A]], work: Callable[[int, str, A], T], advance: Advance | None = None
    ) -> list[T]:
        """Apply a function to items that are distributed over the processes, and return all results in every process.

        Args:
            items: pairs of a name and an item; each process handles every ``size``-th pair.
            work: called as ``work(index, name, item)``.
            advance: called as ``advance(n, name)`` after each item.

        Returns:
            The results, in the order of the items.

        Raises:
            GradlabError: ``work`` raised it in some process.
        """
        results: dict[int, T] = {}
        with self.shared_errors():
            for index in range(self.rank, len(items), self.size):
                results[index] = work(index, *items[index])
                if advance is not None:
                    advance(min(self.size, len(items) - index), items[index][0])
        shares = self.all_gather(results)
        return [shares[index % self.size][index] for index in range(len(items))]

    def data_parallel(
        self, model: nn.Module, loss: Callable[[Tensor, Any], tuple[Tensor, Tensor]]
    ) -> Callable[[Tensor, Any], tuple[Tensor, Tensor]]:
        """Wrap a loss so that its backward pass averages the gradient over all processes.

        DDP treats the whole loss as one forward pass, so that estimators can hook and rescale everything in between.
        All processes start from the weights of rank 0. Fabric's autocast is off; only the codec decides the precision
        of its transforms.

        Args:
            model: model to train; ``loss`` depends on its weights.
            loss: function of a batch's rows and the noise that returns the mean loss over the rows, and a vector for
                the log, which is averaged too.
        """
        if self.size == 1:
            return loss
        import warnings

        from torch import nn

        class Loss(nn.Module):
            def __init__(self) -> None:
                super().__init__()
                self.model = model

            def forward(self, x: Tensor, noise: Any) -> tuple[Tensor, Tensor]:
                return loss(x, noise)

        with warnings.catch_warnings():
            warnings.filterwarnings(
                "ignore", message="`broadcast_buffers` is deprecated"
            )  # its replacement is not in our minimum torch version
            ddp_loss = self.fabric.setup_module(Loss(), move_to_device=False)

        def averaged(x: Tensor, noise: Any) -> tuple[Tensor, Tensor]:
            value, logged = ddp_loss(x, noise)
            return value, self.mean(logged.detach().clone())

        return averaged


SINGLE = ProcessGroup()
_group = SINGLE  # one per process, like torch's default process group


def group() -> ProcessGroup:
    """Return the group that ``initialized`` formed; outside its context, the group of a single process."""
    return _group


@contextlib.contextmanager
def initialized(device: str) -> Iterator[ProcessGroup]:
    """Join the process group of the launcher, ``torchrun`` or SLURM's ``srun``.

    Without a launcher, the group has one process. Nested calls return the outer group.

    Args:
        device: ``"cpu"`` or ``"cuda"``; each process on a machine takes its own accelerator.

    Raises:
        GradlabError: there are more processes than accelerators, one accelerator is given for all processes, or several
            processes cannot share this kind of device.
    """
    global _group
    size, local = _launched()
    if size == 1 or _group.size > 1:
        yield _group
        return
    _group = _join(device, size, local)
    try:
        yield _group
    except GradlabError:
        raise  # other processes may be waiting for this one; the launcher ends them when this one exits
    else:
        import torch

        torch.distributed.destroy_process_group()
    finally:
        _group = SINGLE


def _launched() -> tuple[int, int]:
    """Return the number of processes that the launcher started, in total and on this machine."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"])
    # SLURM_NTASKS is set in batch scripts too; only srun numbers the processes of a step.
    if env.get("SLURM_STEP_ID", "").isdigit() and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        size = int(env["SLURM_STEP_NUM_TASKS"])
        nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1")))
        if size % nodes:
            raise GradlabError(
                f"srun started {size} processes on {nodes} machines: give --ntasks-per-node, so that each machine has "
                "the same number"
            )
        return size, size // nodes
    return 1, 1


def _join(device: str, size: int, local: int) -> ProcessGroup:
    kind, colon, _ = device.partition(":")
    if kind not in ("cpu", "cuda"):
        raise GradlabError(
            f"{size} processes cannot use device {device!r}: give --device cpu or cuda, or start a single process"
        )
    if colon:
        raise GradlabError(
            f"{size} processes cannot share {device!r}: give --device {kind}, so that each process takes its own"
        )
    import logging
    import warnings
    from datetime import timedelta

    import torch

    if kind == "cuda" and torch.cuda.device_count() < local:
        raise GradlabError(
            f"{local} processes on this machine see {torch.cuda.device_count()} accelerators: start one process per "
            "accelerator (with SLURM, request --gpus-per-node instead of --gpus-per-task)"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with needs("training on several processes"):
            from lightning_fabric import Fabric
            from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
            from lightning_fabric.strategies import DDPStrategy

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        # In training, quantiles and the prior of a plain autoencoder have no gradient, and no buffer changes.
        strategy = DDPStrategy(
            find_unused_parameters=True, broadcast_buffers=False, timeout=timedelta(hours=TIMEOUT_HOURS)
        )
        try:
            elastic = "TORCHELASTIC_RUN_ID" in os.environ
            fabric = Fabric(
                accelerator=kind,
                devices=local,
                num_nodes=size // local,
                strategy=strategy,
                precision="32-true",
                plugins=[TorchElasticEnvironment() if elastic else SLURMEnvironment(auto_requeue=False)],
            )
            fabric.launch()
        except (RuntimeError, ValueError) as error:
            raise GradlabError(
                f"the processes cannot form a group ({error}): start all of them with the same command"
            ) from error
    return ProcessGroup(fabric.global_rank, fabric.world_size, str(fabric.device), fabric)
