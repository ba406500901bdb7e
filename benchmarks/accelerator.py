"""One training step and one recorder draw on an accelerator: which variant is fastest, is it right, how near the limit?

    python benchmarks/accelerator.py --device cuda --out figures/bench/NAME

Variants of the step (crops on the device, noise, loss, gradient, clipping, Adam), each beside the one before:

- ``recipe``: CompressAI's training example: its loss, two optimizers, a DataLoader of float crops;
- ``eager``: gradlab's step in full float32;
- ``tf32``, ``bf16``: the same with transforms of that precision;
- ``compiled``: the transforms compiled, in TF32;
- ``graph``: the step as training takes it on CUDA, one graph a step, in TF32;
- ``compiled graph``: both; ``bf16 graph``, ``bf16 compiled graph``: the same two in bf16;
- ``graph x M``: M models side by side, a stream each;
- then the graph step of each training method of the paper, in TF32.

Beside them a recorded draw and a bare one; the codec's largest convolution alone, forward and backward; and a million
toy draws (pathwise, k = 8, float32) on the device, beside those of jax, if it is there, on its own default device.

For each: seconds (median and extremes), images per second, share of the largest matrix product's rate that the
convolutions reach, and the relative error of the gradient of each of the five groups against float64 on the same noise.
A variant that the device lacks is listed with the reason. ``accelerator.csv`` and ``provenance.json`` go to ``--out``.
"""

from __future__ import annotations

import itertools
import math
import os
import statistics
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from rich.console import Console
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gradlab import data, estimators, noise, problems, training
from gradlab.codecs.precision import cudnn_precision
from gradlab.evaluation import gradients
from gradlab.noise import stream
from gradlab.problems import comparison
from gradlab.runtime import files, provenance
from gradlab.runtime.cuda_graph import Replay
from gradlab.runtime.progress import Progress
from gradlab.study import catalog
from gradlab.study.console import show_table
from gradlab.training import Loss, TrainState
from gradlab.training.steps import PURPOSE, GraphStep, Step

catalog.studies_folder()
from gradlab_studies._methods import DMS, MIX, MIX_DREG, TWO_LEVEL, method  # noqa: E402

Iterate = Callable[[int], None]

METHODS = {
    "2-level": (TWO_LEVEL, 1),
    "MIX, k = 5": (MIX, 5),
    "MIX, k = 5, dreg-squared": (MIX_DREG, 5),
    "MIX, k = 8": (MIX, 8),
    "DMS, 8 x 8": (DMS, 8),
}
"""Training methods by their name in the studies, and their sample size."""


@dataclass(frozen=True)
class Settings:
    """Sizes of the measurement; the defaults are those of the paper's codec."""

    codec: str = "bmshj2018-hyperprior"
    channels: tuple[int, ...] = (128, 192)
    crop: int = 256
    batch: int = 8
    repetitions: int = 30
    warm_up: int = 10
    models: tuple[int, ...] = (2, 4)
    seed: int = 0

    @property
    def train(self) -> training.TrainSettings:
        """The baseline of Tables 1-3."""
        return training.TrainSettings(
            codec=self.codec,
            channels=self.channels,
            crop=self.crop,
            batch=self.batch,
            scale_learning_rate=False,
            seed=self.seed,
        )


def main(
    out: Annotated[Path, typer.Option(help="Where the table goes.")],
    device: Annotated[str, typer.Option(help="A torch device.")] = "cuda",
    tiny: Annotated[bool, typer.Option("--tiny", help="A rehearsal: a small codec, few repetitions.")] = False,
    train_images: Annotated[
        Path | None, typer.Option(help="Folder of images; embedded photographs by default.")
    ] = None,
    batch: Annotated[int, typer.Option(help="Crops of a step.")] = 8,
    commit: Annotated[str | None, typer.Option(help="Of the code, where git cannot say it.")] = None,
    without: Annotated[list[str], typer.Option(help="A variant to leave out; may be given again.")] = [],  # noqa: B006
) -> None:
    """Profile one training step and one recorder draw."""
    begin = time.monotonic()
    settings = Settings(batch=batch)
    if tiny:
        settings = Settings("small-hyperprior", (6, 8), crop=64, batch=2, repetitions=3, warm_up=1, models=(2,))
    files.ensure_folder(out)
    pictures = data.load(train_images, "train", settings.crop)
    crops = data.Crops(pictures, settings.crop, settings.batch, settings.seed, device=device)
    limit = matrix_rate(device, 512 if tiny else 8192)
    console = Console()
    rows: list[dict[str, Any]] = []
    inputs = {"training images": data.fingerprint(pictures), "matrix product, FLOP/s": f"{limit:.4g}"}

    def keep(row: dict[str, Any]) -> None:  # all that there is, if time ends
        rows.append(row)
        files.write_csv(out / "accelerator.csv", pd.DataFrame(rows))
        took = time.monotonic() - begin
        record = provenance.provenance(settings, settings.seed, device, inputs, took, {}, commit=commit)
        files.write_json(out / "provenance.json", record)

    def step_costs(make: Callable[[], Built]) -> Iterator[dict[str, Any]]:
        built = make()
        found = timed(built.step, settings, device, built.models)
        yield found | {"limit_share": built.models * built.flops / found["seconds"] / limit}
        yield {f"error {group}": e for group, e in built.errors().items()}

    # What measures each, and gives its columns as they come.
    every: Iterator[tuple[str, Callable[[], Iterable[dict[str, Any]]]]] = itertools.chain(
        ((name, partial(step_costs, make)) for name, make in variants(settings, crops, pictures, device)),
        recorder_draw(settings, crops, device),
        toys(50_000 if tiny else 1_000_000, settings, device, inputs),
    )
    with Progress(console).track("variants", 10 + len(settings.models) + len(METHODS) + 4) as advance:
        for name, measure in every:
            advance(1, name)
            if name in without:
                continue
            row: dict[str, Any] = {"variant": name}
            try:
                for columns in measure():
                    row |= columns
            except Exception as error:  # what this device, this torch or this machine lacks is a finding, not a failure
                row["note"] = f"{type(error).__name__}: {error}".splitlines()[0]
            keep(row)
    show_table(console, pd.DataFrame(rows), out / "accelerator.csv")


@dataclass
class Built:
    """A variant that is ready to run: its step, what one model's step multiplies, and how wrong its gradient is."""

    step: Iterate
    flops: float
    errors: Callable[[], dict[str, float]]
    models: int = 1


def variants(
    settings: Settings, crops: data.Crops, pictures: list[data.Picture], device: str
) -> Iterator[tuple[str, Callable[[], Built]]]:
    """Name and maker of each variant."""
    yield "recipe", lambda: recipe(settings, pictures, device)
    yield "eager", lambda: eager(settings, crops, device)
    yield "tf32", lambda: eager(settings, crops, device, "tf32")
    yield "bf16", lambda: eager(settings, crops, device, "bf16")
    yield "compiled", lambda: eager(settings, crops, device, "tf32", compiled=True)
    yield "largest convolution", lambda: largest_convolution(settings, crops, device)
    yield "graph", lambda: graph(settings, settings.train, crops, device)
    yield "compiled graph", lambda: graph(settings, settings.train, crops, device, compiled=True)
    bf16 = replace(settings.train, precision="bf16")
    yield "bf16 graph", lambda: graph(settings, bf16, crops, device)
    yield "bf16 compiled graph", lambda: graph(settings, bf16, crops, device, compiled=True)
    for n in settings.models:
        yield f"graph x {n}", lambda n=n: graph(settings, settings.train, crops, device, n)
    for name, (kind, k) in METHODS.items():
        train = method(settings.train, kind, k)
        yield name, lambda train=train: graph(settings, train, crops, device)


def eager(
    settings: Settings, crops: data.Crops, device: str, precision: str = "float32", *, compiled: bool = False
) -> Built:
    """``gradlab.training.steps.Step``, the reference."""
    train = replace(settings.train, precision=precision)
    state = TrainState.new(train, device)
    if compiled:
        compile_transforms(state.codec)
    step = Step(state, crops, settings.repetitions + settings.warm_up)

    def run(_: int) -> None:
        with step.placed():
            step()

    return Built(run, flops_of(train, crops), lambda: errors(state.codec, train, crops))


def graph(
    settings: Settings,
    train: training.TrainSettings,
    crops: data.Crops,
    device: str,
    models: int = 1,
    *,
    compiled: bool = False,
) -> Built:
    """The same recorded once and replayed: one launch per step and model. What is float32 in training becomes TF32."""
    if not device.startswith("cuda"):
        raise RuntimeError(f"CUDA graphs need CUDA, this is {device}")
    train = replace(train, precision="tf32") if train.precision == "float32" else train
    capacity = settings.repetitions + settings.warm_up
    states = [TrainState.new(train, device) for _ in range(models)]
    if compiled:
        for state in states:
            compile_transforms(state.codec)
    steps = [GraphStep(state, crops, capacity) for state in states]

    def run(_: int) -> None:
        for step in steps:
            with step.placed():
                step()

    first = steps[0].state.codec
    return Built(run, flops_of(train, crops), lambda: errors(first, train, crops), models=models)


def compile_transforms(codec: Any) -> None:
    """Have torch.compile fuse what is between the convolutions of each transform."""
    for part in ("g_a", "g_s", "h_a", "h_s"):
        getattr(codec, part).compile()


def largest_convolution(settings: Settings, crops: data.Crops, device: str) -> Built:
    """The convolution with the most arithmetic in a training step (of several, the first): forward, both gradients."""
    train = replace(settings.train, precision="tf32" if device.startswith("cuda") else "float32")
    codec = TrainState.new(train, device).codec
    found: dict[str, tuple[float, Any, Tensor]] = {}

    def look(name: str, module: Any, x: Tensor, y: Tensor) -> None:
        positions = x if isinstance(module, torch.nn.ConvTranspose2d) else y
        found[name] = (2.0 * module.weight.numel() * positions[:, 0].numel(), module, x.detach())

    hooks = [
        module.register_forward_hook(lambda m, x, y, name=name: look(name, m, x[0], y))
        for name, module in codec.named_modules()
        if isinstance(module, (torch.nn.Conv2d, torch.nn.ConvTranspose2d))
    ]
    with torch.no_grad():
        train.loss(codec, crops.batch(0).contiguous(memory_format=torch.channels_last), train.lam)
    for hook in hooks:
        hook.remove()
    flops, module, x = max(found.values(), key=lambda one: one[0])
    x.requires_grad_()
    with torch.no_grad():
        upstream = torch.ones_like(module(x))

    def body() -> None:
        torch.autograd.grad(module(x), (x, module.weight), upstream)

    with cudnn_precision(train.precision, x.device):
        once = Replay(body, torch.Generator(device)) if device.startswith("cuda") else body

    def run(_: int) -> None:
        with cudnn_precision(train.precision, x.device):
            once()

    return Built(run, 3 * flops, dict)


def recipe(settings: Settings, pictures: list[data.Picture], device: str) -> Built:
    """CompressAI's published training example, on the same pictures: random crops to float on the CPU, two Adams."""
    from compressai.losses import RateDistortionLoss
    from torch.utils.data import DataLoader, Dataset
    from torchvision.transforms.functional import convert_image_dtype
    from torchvision.transforms.v2 import RandomCrop

    class Images(Dataset):  # type: ignore[type-arg]
        def __len__(self) -> int:
            return 10**6

        def __getitem__(self, index: int) -> Tensor:
            return convert_image_dtype(cut(pictures[index % len(pictures)].pixels), torch.float32)

    cut = RandomCrop(settings.crop)
    model = training.build(settings.train).to(device).train()
    loss_of = RateDistortionLoss(lmbda=settings.train.lam)
    main_ = [p for n, p in model.named_parameters() if not n.endswith("quantiles")]
    quantiles = [p for n, p in model.named_parameters() if n.endswith("quantiles")]
    adam, auxiliary = torch.optim.Adam(main_, lr=1e-4), torch.optim.Adam(quantiles, lr=1e-3)
    workers = 4 if device.startswith("cuda") else 0
    loader = iter(DataLoader(Images(), batch_size=settings.batch, num_workers=workers, pin_memory=workers > 0))

    def step(_: int) -> None:
        x = next(loader).to(device)
        adam.zero_grad()
        auxiliary.zero_grad()
        loss_of(model(x), x)["loss"].backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        adam.step()
        model.aux_loss().backward()
        auxiliary.step()

    return Built(step, math.nan, dict)


def timed(step: Iterate, settings: Settings, device: str, models: int) -> dict[str, float]:
    """Seconds of a step, and images per second over all models."""
    found = seconds_of(step, settings, device)
    return found | {"images per second": models * settings.batch / found["seconds"]}


def seconds_of(step: Iterate, settings: Settings, device: str) -> dict[str, float]:
    """Median and extremes."""
    took = []
    for iteration in range(settings.warm_up + settings.repetitions):
        synchronize(device)
        begin = time.perf_counter()
        step(iteration)
        synchronize(device)
        if iteration >= settings.warm_up:
            took.append(time.perf_counter() - begin)
    return {"seconds": statistics.median(took), "seconds_min": min(took), "seconds_max": max(took)}


def toys(
    draws: int, settings: Settings, device: str, inputs: dict[str, str]
) -> Iterator[tuple[str, Callable[[], list[dict[str, float]]]]]:
    """Mean and variance of as many pathwise gradients of a toy problem at once, ours and those of jax.

    Which jax, and on what, goes to ``inputs``.
    """
    import harness
    from cases import toy

    def ours() -> Iterate:
        box = problems.BoxGaussian(phi=toy.PHI, x=toy.X, likelihood_std=toy.STD)
        pathwise = estimators.get_estimator("pathwise")

        def run(iteration: int) -> None:
            drawn = box.draw_noise(draws, toy.K, stream(0, "toys", iteration, device), torch.float32)
            found = comparison.gradients(box, pathwise, drawn).double()
            torch.stack([found.mean(), found.var()]).tolist()

        return run

    def theirs() -> Iterate:
        os.environ.setdefault("XLA_PYTHON_CLIENT_PREALLOCATE", "false")  # it would take the device's memory
        work = toy.jax(harness.Options(quick=draws < 1_000_000), chunk=draws)
        import jax

        inputs["jax"] = f"{jax.__version__} on {jax.devices()[0].device_kind}"
        return lambda _: work()

    yield "toy draws", lambda: [seconds_of(ours(), settings, device)]
    yield "toy draws, jax", lambda: [seconds_of(theirs(), settings, device)]


def errors(codec: Any, train: training.TrainSettings, crops: data.Crops) -> dict[str, float]:
    """Relative error of the gradient of each group, against the same weights, crops and noise in float64."""
    x = crops.batch(0)
    exact = training.build(train).to(x.device).train()
    exact.load_state_dict(codec.state_dict())
    exact = exact.double()

    def gradients(model: Any, images: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        train.loss(model, images, train.lam, stream(train.seed, PURPOSE, 0, x.device)).backward()
        return {
            group: torch.cat([p.grad.double().flatten() for p in module.parameters() if p.grad is not None])
            for group, module in model.groups().items()
        }

    with cudnn_precision(train.precision, x.device), noise_of_float32():
        fast, true = gradients(codec, x), gradients(exact, x.double())
    codec.zero_grad()
    return {group: float((fast[group] - true[group]).norm() / true[group].norm()) for group in true}


@contextmanager
def noise_of_float32() -> Iterator[None]:
    """Noise of any type is that of float32: generators give other numbers in float64."""

    def in_float32(draw: Callable[..., torch.Tensor]) -> Callable[..., torch.Tensor]:
        return lambda shape, dtype, **options: draw(shape, dtype=torch.float32, **options).to(dtype)

    base = dict(noise.BASE)
    noise.BASE |= {kind: in_float32(draw) for kind, draw in base.items()}
    try:
        yield
    finally:
        noise.BASE |= base


def recorder_draw(
    settings: Settings, crops: data.Crops, device: str
) -> Iterator[tuple[str, Callable[[], list[dict[str, float]]]]]:
    """A recorded draw beside the bare forward and backward pass: name, and what measures it."""
    codec = training.build(settings.train).to(device).train()
    x, draws = crops.batch(0), settings.repetitions

    def bare(count: int) -> None:
        for t in range(count):
            codec.zero_grad()
            Loss()(codec, x, settings.train.lam, stream(0, "recording", t, device)).backward()

    def recorded(count: int) -> None:
        codec.zero_grad()
        gradients.record(codec, x, settings.train.lam, count)

    def took(run: Callable[[int], None], count: int) -> float:
        synchronize(device)
        begin = time.perf_counter()
        run(count)
        synchronize(device)
        return time.perf_counter() - begin

    def measure(run: Callable[[int], None]) -> list[dict[str, float]]:
        with cudnn_precision("float32", x.device):
            run(2)
            # The difference, so that hooks and, on CUDA, the capture of a graph do not count.
            seconds = max(took(run, 3 * draws) - took(run, draws), 1e-9) / (2 * draws)
        return [{"seconds": seconds, "images per second": settings.batch / seconds}]

    yield "bare draw", lambda: measure(bare)
    yield "recorder draw", lambda: measure(recorded)


def flops_of(train: training.TrainSettings, crops: data.Crops) -> float:
    """Floating-point operations of one step in convolutions and matrix products, forward and backward."""
    codec = training.build(train).to(crops.device).train()
    with FlopCounterMode(display=False) as counter:
        train.loss(codec, crops.batch(0), train.lam).backward()
    return float(counter.get_total_flops())


def matrix_rate(device: str, n: int) -> float:
    """Floating-point operations per second of an n x n x n product in TF32 (float32 where there is none)."""
    a = torch.randn(n, n, device=device, generator=stream(0, "matrix", 0, device))
    with tf32():
        took = []
        for _ in range(6):
            synchronize(device)
            begin = time.perf_counter()
            a @ a
            synchronize(device)
            took.append(time.perf_counter() - begin)
    return 2 * n**3 / min(took)


@contextmanager
def tf32() -> Iterator[None]:
    """TF32 for matrix products."""
    matmul = torch.backends.cuda.matmul
    # From torch 2.9 on the flags are others, which must not be mixed with the old ones.
    name, value = ("fp32_precision", "tf32") if hasattr(matmul, "fp32_precision") else ("allow_tf32", True)
    before = getattr(matmul, name)
    setattr(matmul, name, value)
    try:
        yield
    finally:
        setattr(matmul, name, before)


def synchronize(device: str) -> None:
    """Wait for what was queued."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    typer.run(main)
