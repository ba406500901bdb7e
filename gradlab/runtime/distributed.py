"""The processes that one run is spread over: each knows its rank, draws its share, and agrees with the others.

``torchrun`` and SLURM start them; Lightning Fabric finds out which, forms the group (gloo on CPUs, NCCL on
accelerators) and averages gradients (DDP). One process alone is rank 0 of 1: it imports nothing and does nothing here.

Every process runs the same program on the same decisions. Rank 0 alone writes files and prints. What is sent from one
to another is pickled by torch, between the processes of one run only, never from a file.
"""

from __future__ import annotations

import contextlib
import os
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, TypeVar

from gradlab.errors import GradlabError, Stopped

if TYPE_CHECKING:
    from torch import Tensor, nn

T = TypeVar("T")
A = TypeVar("A")

# Rank 0 draws figures and codes anchors while the others wait for it.
PATIENCE_HOURS = 12


@dataclass(frozen=True)
class Ranks:
    """One process among those of a run.

    Attributes:
        rank: its number, from 0.
        size: how many there are.
        device: the torch device of this process, ``"cuda:1"``; empty where it is alone.
        fabric: the ``lightning_fabric.Fabric`` of the group; None where it is alone.
    """

    rank: int = 0
    size: int = 1
    device: str = ""
    fabric: Any = None

    @property
    def first(self) -> bool:
        """Whether this is the process that writes and prints."""
        return self.rank == 0

    @property
    def part(self) -> tuple[int, int]:
        """``(rank, size)``, as ``noise.stream`` takes it."""
        return self.rank, self.size

    def rows(self, batch: int) -> slice:
        """The rows of a batch that are this process's.

        Raises:
            GradlabError: the processes cannot share the batch evenly.
        """
        if batch % self.size:
            raise GradlabError(
                f"a batch of {batch} cannot be shared by {self.size} processes: start a number that divides {batch}"
            )
        each = batch // self.size
        return slice(self.rank * each, (self.rank + 1) * each)

    def any(self, flag: bool) -> bool:
        """Whether the flag is up in one process at least; the same answer in all."""
        return flag if self.size == 1 else bool(self._reduced([float(flag)], "MAX")[0])

    def cause(self, why: str | None) -> str | None:
        """Why work should end, of the first process that has a reason; None where none has. The same answer in all."""
        if self.size == 1 or not self.any(why is not None):
            return why
        return next(said for said in self.gather(why) if said is not None)

    def mean(self, values: Tensor) -> Tensor:
        """Each value of a float tensor averaged over the processes, on its device; the same answer in all."""
        if self.size == 1:
            return values
        import torch

        torch.distributed.all_reduce(values, torch.distributed.ReduceOp.SUM)
        return values / self.size

    def _reduced(self, values: list[float], operation: str) -> list[float]:
        import torch

        tensor = torch.tensor(values, dtype=torch.float64, device=self.device)
        torch.distributed.all_reduce(tensor, getattr(torch.distributed.ReduceOp, operation))
        return list(map(float, tensor.tolist()))

    def agreed(self, value: T, source: int = 0) -> T:
        """The value that the process ``source`` gives, in all of them."""
        return value if self.size == 1 else self.fabric.broadcast(value, source)

    def gather(self, value: T) -> list[T]:
        """The values of all processes, in the order of their ranks."""
        return [self.agreed(value, source) for source in range(self.size)]

    def wait(self) -> None:
        """Until all have come here: what rank 0 wrote before can be read after."""
        if self.size > 1:
            self.fabric.barrier()

    @contextlib.contextmanager
    def together(self) -> Iterator[None]:
        """What breaks in one process breaks in all, instead of leaving the others waiting.

        Raises:
            GradlabError: one was raised inside, here or elsewhere.
            Stopped: likewise.
        """
        if self.size == 1:
            yield
            return
        error: GradlabError | Stopped | None = None
        try:
            yield
        except (GradlabError, Stopped) as caught:
            error = caught
        said = self.gather(None if error is None else (isinstance(error, Stopped), str(error)))
        if error is not None:
            raise error
        elsewhere = next((one for one in said if one is not None), None)
        if elsewhere is not None:
            stopped, sentence = elsewhere
            raise Stopped(sentence) if stopped else GradlabError(sentence)

    def share(
        self,
        items: Sequence[tuple[str, A]],
        work: Callable[[int, str, A], T],
        advance: Callable[..., Any] = lambda n=1, note="": None,
    ) -> list[T]:
        """``work(index, name, item)`` of every item, in order, for all: each process does every ``size``-th.

        Raises:
            GradlabError: work raised one, in any process.
        """
        mine: dict[int, T] = {}
        with self.together():
            for index in range(self.rank, len(items), self.size):
                mine[index] = work(index, *items[index])
                advance(min(self.size, len(items) - index), items[index][0])
        found = {index: result for each in self.gather(mine) for index, result in each.items()}
        return [found[index] for index in range(len(items))]

    def data_parallel(
        self, model: nn.Module, loss: Callable[[Tensor, Any], tuple[Tensor, Tensor]]
    ) -> Callable[[Tensor, Any], tuple[Tensor, Tensor]]:
        """``loss`` of this process's rows, whose backward pass leaves the gradient averaged over all processes.

        DDP sees the whole loss as one forward pass, so that an estimator may hook and rescale whatever lies between.
        All weights are set to those of rank 0. Fabric's autocast is off: the codec alone decides the precision of its
        transforms.

        Args:
            model: whose weights are trained; they are what ``loss`` depends on.
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
            warnings.filterwarnings("ignore", message="`broadcast_buffers` is deprecated")  # its heir is too young
            spread = self.fabric.setup_module(Loss(), move_to_device=False)

        def averaged(x: Tensor, noise: Any) -> tuple[Tensor, Tensor]:
            value, seen = spread(x, noise)
            return value, self.mean(seen.detach().clone())

        return averaged


ALONE = Ranks()
_here = ALONE  # like torch's process group: one for each process


def here() -> Ranks:
    """This process among those that ``started`` brought together; alone without it."""
    return _here


@contextlib.contextmanager
def started(device: str) -> Iterator[Ranks]:
    """Joins the group that ``torchrun`` or SLURM's ``srun`` started this process in; alone where neither did.

    Inside of another it is that group.

    Args:
        device: ``"cpu"`` or ``"cuda"``; each process of a machine takes an accelerator of its own.

    Raises:
        GradlabError: more processes than accelerators, one accelerator named for all, another kind of device.
    """
    global _here
    size, local = _launched()
    if size == 1 or _here.size > 1:
        yield _here
        return
    _here = _join(device, size, local)
    try:
        yield _here
    except GradlabError:
        raise  # the others may be waiting for this one: the launcher ends them when it exits
    else:
        import torch

        torch.distributed.destroy_process_group()
    finally:
        _here = ALONE


def _launched() -> tuple[int, int]:
    """How many processes the launcher started, and how many of them on this machine."""
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


def _join(device: str, size: int, local: int) -> Ranks:
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
        from lightning_fabric import Fabric
        from lightning_fabric.plugins.environments import SLURMEnvironment, TorchElasticEnvironment
        from lightning_fabric.strategies import DDPStrategy

        logging.getLogger("lightning_fabric").setLevel(logging.WARNING)
        # Quantiles have no gradient in training, nor has a plain autoencoder's prior; no buffer changes in it.
        strategy = DDPStrategy(
            find_unused_parameters=True, broadcast_buffers=False, timeout=timedelta(hours=PATIENCE_HOURS)
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
    return Ranks(fabric.global_rank, fabric.world_size, str(fabric.device), fabric)
