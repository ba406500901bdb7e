"""The processes that share one run: rank, share of the work, agreement, and averaged gradients.

``torchrun`` or SLURM starts the processes. Lightning Fabric detects the launcher, forms the process group (gloo on
CPUs, NCCL on accelerators) and averages gradients (DDP). A single process is rank 0 of 1; it imports nothing here.

Every process runs the same program and takes the same decisions. Only rank 0 writes files and prints. torch pickles the
objects that the processes of one run send to each other; nothing is unpickled from a file.
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

# Rank 0 draws figures and codes anchors while the others wait for it.
TIMEOUT_HOURS = 12


@dataclass(frozen=True)
class ProcessGroup:
    """The processes of a run, seen from one of them.

    Attributes:
        rank: number of this process, from 0.
        size: number of processes.
        device: the torch device of this process, e.g. ``"cuda:1"``; empty for a single process.
        fabric: the ``lightning_fabric.Fabric`` of the group; None for a single process.
    """

    rank: int = 0
    size: int = 1
    device: str = ""
    fabric: Any = None

    @property
    def is_main(self) -> bool:
        """Whether this process writes and prints."""
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """``(rank, size)``, as ``noise.stream`` takes it."""
        return self.rank, self.size

    def rows(self, batch: int) -> slice:
        """Return the rows of a batch that belong to this process.

        Raises:
            GradlabError: the batch is not divisible by the number of processes.
        """
        if batch % self.size:
            raise GradlabError(
                f"a batch of {batch} cannot be shared by {self.size} processes: start a number that divides {batch}"
            )
        count = batch // self.size
        return slice(self.rank * count, (self.rank + 1) * count)

    def any(self, flag: bool) -> bool:
        """Return whether the flag is set in any process; the result is the same in all."""
        if self.size == 1:
            return flag
        import torch

        tensor = torch.tensor(float(flag), dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor, torch.distributed.ReduceOp.MAX)
        return bool(tensor)

    def coalesce(self, value: T | None) -> T | None:
        """Return the first value, by rank, that is not None; the result is the same in all processes."""
        if self.size == 1 or not self.any(value is not None):
            return value
        return next(item for item in self.all_gather(value) if item is not None)

    def mean(self, values: Tensor) -> Tensor:
        """Average a float tensor over the processes, elementwise, on its device."""
        if self.size == 1:
            return values
        import torch

        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.SUM)
        return values / self.size

    def broadcast(self, value: T, source: int = 0) -> T:
        """Return in every process the value of the process ``source``."""
        return value if self.size == 1 else self.fabric.broadcast(value, source)

    def all_gather(self, value: T) -> list[T]:
        """Return the values of all processes, by rank."""
        return [self.broadcast(value, source) for source in range(self.size)]

    def barrier(self) -> None:
        """Wait until every process is here: files that rank 0 wrote before can be read afterwards."""
        if self.size > 1:
            self.fabric.barrier()

    @contextlib.contextmanager
    def shared_errors(self) -> Iterator[None]:
        """Raise the error of one process in all of them, so that none waits for a process that failed.

        Raises:
            GradlabError: one was raised inside, in any process.
            Stopped: the same.
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
        """Return ``work(index, name, item)`` of all items, in order, in all processes; each does every ``size``-th.

        Raises:
            GradlabError: ``work`` raised one, in any process.
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
        """Wrap a loss so that its backward pass leaves the gradient averaged over all processes.

        DDP sees the whole loss as one forward pass, so estimators can hook and rescale everything in between. All
        processes start from the weights of rank 0. Fabric's autocast is off: the codec alone decides the precision of
        its transforms.

        Args:
            model: the trained model; ``loss`` depends on its weights.
            loss: (rows of the batch, noise) -> mean over the rows, and a vector for the log (averaged as well).
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
_group = SINGLE  # of the process, like torch's default process group


def group() -> ProcessGroup:
    """Return the group that ``initialized`` formed; outside of it, that of a single process."""
    return _group


@contextlib.contextmanager
def initialized(device: str) -> Iterator[ProcessGroup]:
    """Join the group that ``torchrun`` or SLURM's ``srun`` started this process in.

    Without a launcher this is a group of one process. Nested calls give the outer group.

    Args:
        device: ``"cpu"`` or ``"cuda"``; each process of a machine takes an accelerator of its own.

    Raises:
        GradlabError: more processes than accelerators, one accelerator named for all, or another kind of device.
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
        raise  # the others may be waiting for this one: the launcher ends them when it exits
    else:
        import torch

        torch.distributed.destroy_process_group()
    finally:
        _group = SINGLE


def _launched() -> tuple[int, int]:
    """Return how many processes the launcher started, and how many of them on this machine."""
    env = os.environ
    if "TORCHELASTIC_RUN_ID" in env:
        return int(env["WORLD_SIZE"]), int(env["LOCAL_WORLD_SIZE"])
    # SLURM_NTASKS stands in a batch script too; only srun numbers its processes within a step.
    if env.get("SLURM_STEP_ID", "").isdigit() and int(env.get("SLURM_STEP_NUM_TASKS", "1")) > 1:
        size = int(env["SLURM_STEP_NUM_TASKS"])
        nodes = int(env.get("SLURM_STEP_NUM_NODES", env.get("SLURM_NNODES", "1")))
        if size % nodes:
            raise GradlabError(
                f"srun started {size} processes on {nodes} machines: give --ntasks-per-node, the same on each"
            )
        return size, size // nodes
    return 1, 1


def _join(device: str, size: int, local: int) -> ProcessGroup:
    kind, colon, _ = device.partition(":")
    if kind not in ("cpu", "cuda"):
        raise GradlabError(
            f"{size} processes share no device {device!r}: give --device cpu or cuda, or start one process"
        )
    if colon:
        raise GradlabError(f"{size} processes cannot share {device!r}: give --device {kind}, each takes one of its own")
    import logging
    import warnings
    from datetime import timedelta

    import torch

    if kind == "cuda" and torch.cuda.device_count() < local:
        raise GradlabError(
            f"{local} processes on a machine that shows them {torch.cuda.device_count()} accelerators: start one for "
            "each (with SLURM ask for --gpus-per-node, not --gpus-per-task)"
        )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        with needs("training on several processes"):
            from lightning_fabric import Fabric
            from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
            from lightning_fabric.strategies import DDPStrategy

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        # Quantiles have no gradient in training, nor has a plain autoencoder's prior; no buffer changes in it.
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
            raise GradlabError(f"the processes do not come together ({error}): start all of them alike") from error
    return ProcessGroup(fabric.global_rank, fabric.world_size, str(fabric.device), fabric)
