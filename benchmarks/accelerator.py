"""One training step and one recorder draw on an accelerator: which variant is fastest, is it right, how near the limit?

    python benchmarks/accelerator.py --device cuda --out figures/bench/NAME

Variants of the step (crops on the device, noise, loss, gradient, clipping, Adam), each beside the one before:

- ``recipe``: CompressAI's training example: its loss, two optimizers, a DataLoader of float crops;
- ``eager``: gradlab's loop in full float32;
- ``tf32``, ``channels-last``, ``compiled``: one after the other on top of eager;
- ``graph``: the whole step as one CUDA graph, its random numbers from a registered generator;
- ``graph x M``: M models side by side, a stream each.

For each: seconds (median and extremes), images per second, share of the largest matrix product's rate that the
convolutions reach, and the relative error of the gradient of each of the five groups against float64 on the same noise.
A variant that the device lacks is listed with the reason. ``accelerator.csv`` and ``provenance.json`` go to ``--out``.
"""

from __future__ import annotations

import copy
import math
import statistics
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import pandas as pd
import torch
import typer
from rich.console import Console
from torch import Tensor
from torch.utils.flop_counter import FlopCounterMode

from gradlab import data, recording, results, training
from gradlab.noise import stream, uniform
from gradlab.progress import Progress
from gradlab.show import show_table
from gradlab.training import settings as settings_

Step = Callable[[int], None]


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
            codec=self.codec, channels=self.channels, crop=self.crop, batch=self.batch, seed=self.seed
        )


def main(
    out: Annotated[Path, typer.Option(help="Where the table goes.")],
    device: Annotated[str, typer.Option(help="A torch device.")] = "cuda",
    tiny: Annotated[bool, typer.Option("--tiny", help="A rehearsal: a small codec, few repetitions.")] = False,
    train_images: Annotated[
        Path | None, typer.Option(help="Folder of images; embedded photographs by default.")
    ] = None,
    without: Annotated[list[str], typer.Option(help="A variant to leave out; may be given again.")] = [],  # noqa: B006
) -> None:
    """Profile one training step and one recorder draw."""
    begin = time.monotonic()
    settings = Settings()
    if tiny:
        settings = Settings("small-hyperprior", (6, 8), crop=64, batch=2, repetitions=3, warm_up=1, models=(2,))
    results.ensure_folder(out)
    pictures = data.load(train_images, "train", settings.crop)
    crops = data.Crops(pictures, settings.crop, settings.batch, settings.seed, device=device)
    limit = matrix_rate(device, 512 if tiny else 8192)
    console = Console()
    rows = []
    with Progress(console).track("variants", 5 + 1 + len(settings.models) + 2) as advance:
        for name, make in variants(settings, crops, pictures, device):
            advance(1, name)
            if name in without:
                continue
            row: dict[str, Any] = {"variant": name}
            try:
                with tf32(name not in ("recipe", "eager")):
                    built = make()
                    row |= timed(built.step, settings, device, built.models)
                    row["limit_share"] = built.models * built.flops / row["seconds"] / limit
                    row |= {f"error {group}": e for group, e in built.errors().items()}
            except Exception as error:  # a variant that this device or this torch lacks is a finding, not a failure
                row["note"] = f"{type(error).__name__}: {error}".splitlines()[0]
            rows.append(row)
        for name, share in recorder_draw(settings, crops, device):
            advance(1, name)
            rows.append({"variant": name} | share)
    frame = pd.DataFrame(rows)
    results.write_csv(out / "accelerator.csv", frame)
    inputs = {"training images": data.fingerprint(pictures), "matrix product, FLOP/s": f"{limit:.4g}"}
    results.write_json(
        out / "provenance.json",
        results.provenance(settings, settings.seed, device, inputs, round(time.monotonic() - begin, 3), {}),
    )
    show_table(console, frame, out / "accelerator.csv")


@dataclass
class Built:
    """A variant that is ready to run: its step, what one model's step multiplies, and how wrong its gradient is."""

    step: Step
    flops: float
    errors: Callable[[], dict[str, float]]
    models: int = 1


def variants(
    settings: Settings, crops: data.Crops, pictures: list[data.Picture], device: str
) -> Iterator[tuple[str, Callable[[], Built]]]:
    """Name and maker of each variant."""
    yield "recipe", lambda: recipe(settings, pictures, device)
    yield "eager", lambda: eager(settings, crops, device)
    yield "tf32", lambda: eager(settings, crops, device)
    yield "channels-last", lambda: eager(settings, crops, device, channels_last=True)
    yield "compiled", lambda: eager(settings, crops, device, channels_last=True, compiled=True)
    yield "graph", lambda: graph(settings, crops, device, 1)
    for n in settings.models:
        yield f"graph x {n}", lambda n=n: graph(settings, crops, device, n)


def eager(
    settings: Settings, crops: data.Crops, device: str, *, channels_last: bool = False, compiled: bool = False
) -> Built:
    """``training.descend``, as the training loop runs it."""
    codec = training.build(settings.train).to(device).train()
    layout = torch.channels_last if channels_last else torch.contiguous_format
    codec = codec.to(memory_format=layout)
    if compiled:
        for part in ("g_a", "g_s", "h_a", "h_s"):
            getattr(codec, part).compile()
    adam, weights = training.optimizer(codec, settings.train)

    def step(iteration: int) -> None:
        x = crops.batch(iteration).contiguous(memory_format=layout)
        noise = stream(settings.seed, "training noise", iteration, device)
        training.descend(codec, adam, weights, x, settings.train, noise)

    return Built(step, flops_of(settings, crops), lambda: errors(codec, settings, crops, layout))


def graph(settings: Settings, crops: data.Crops, device: str, models: int) -> Built:
    """The same arithmetic recorded once and replayed: one launch per step and model."""
    if not device.startswith("cuda"):
        raise RuntimeError(f"CUDA graphs need CUDA, this is {device}")
    train = settings.train
    parts = []
    for _ in range(models):
        codec = training.build(train).to(device, memory_format=torch.channels_last).train()
        weights = [p for n, p in codec.named_parameters() if not n.endswith("quantiles")]
        adam = torch.optim.Adam(weights, lr=train.learning_rate, betas=train.betas, fused=True, capturable=True)
        x = crops.batch(0).contiguous(memory_format=torch.channels_last)
        noise = torch.Generator(device=device)
        side = torch.cuda.Stream()

        def body(codec=codec, weights=weights, adam=adam, x=x, noise=noise) -> None:
            adam.zero_grad(set_to_none=False)
            terms, _ = codec.log_terms(x, train.lam, generator=noise)
            settings_.mean_loss(terms, train.objective, train.estimator, train.weighting, train.scale).backward()
            torch.nn.utils.clip_grad_norm_(weights, train.clip)
            adam.step()

        for weight in weights:
            weight.grad = torch.zeros_like(weight)
        side.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(side):
            for _ in range(3):
                body()
        torch.cuda.current_stream().wait_stream(side)
        recorded = torch.cuda.CUDAGraph()
        recorded.register_generator_state(noise)
        with torch.cuda.graph(recorded, stream=side):
            body()
        parts.append((recorded, x, noise, side, codec))

    def step(iteration: int) -> None:
        for recorded, x, noise, side, _ in parts:
            noise.manual_seed(stream(settings.seed, "training noise", iteration).initial_seed())
            x.copy_(crops.batch(iteration))
            side.wait_stream(torch.cuda.current_stream())
            with torch.cuda.stream(side):
                recorded.replay()
        for *_, side, _ in parts:
            torch.cuda.current_stream().wait_stream(side)

    first = parts[0][-1]
    return Built(
        step, flops_of(settings, crops), lambda: errors(first, settings, crops, torch.channels_last), models=models
    )


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


def timed(step: Step, settings: Settings, device: str, models: int) -> dict[str, float]:
    """Seconds of a step, and images per second over all models."""
    took = []
    for iteration in range(settings.warm_up + settings.repetitions):
        synchronize(device)
        begin = time.perf_counter()
        step(iteration)
        synchronize(device)
        if iteration >= settings.warm_up:
            took.append(time.perf_counter() - begin)
    seconds = statistics.median(took)
    images = models * settings.batch / seconds
    return {"seconds": seconds, "seconds_min": min(took), "seconds_max": max(took), "images per second": images}


def errors(codec: Any, settings: Settings, crops: data.Crops, layout: torch.memory_format) -> dict[str, float]:
    """Relative error of the gradient of each group, against the same weights, crops and noise in float64."""
    x = crops.batch(0)
    train = settings.train
    plain = training.build(train).to(x.device).train()
    plain.load_state_dict(codec.state_dict())
    exact = copy.deepcopy(plain).double()
    y, z = plain.g_a(x), plain.h_a(plain.g_a(x).abs()).shape
    generator = stream(settings.seed, "training noise", 0, x.device)
    noises = [uniform(tuple(y.shape), generator, y.dtype, y.device), uniform(tuple(z), generator, y.dtype, y.device)]

    def gradients(model: Any, images: Tensor) -> dict[str, Tensor]:
        model.zero_grad()
        y_mean = model.g_a(images)
        y = y_mean + noises[0].to(images.dtype)
        z = model.h_a(y_mean.abs()) + noises[1].to(images.dtype)
        x_hat = model.g_s(y)
        bits = sum(-p.log2().sum() for p in model.likelihoods(y, z).values())
        loss = bits / images[:, 0].numel() + train.lam * ((255 * (images - x_hat)) ** 2).mean()
        loss.backward()
        return {
            group: torch.cat([p.grad.double().flatten() for p in module.parameters() if p.grad is not None])
            for group, module in model.groups().items()
        }

    fast, true = gradients(codec, x.contiguous(memory_format=layout)), gradients(exact, x.double())
    return {group: float((fast[group] - true[group]).norm() / true[group].norm()) for group in true}


def recorder_draw(settings: Settings, crops: data.Crops, device: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """A recorded draw beside the bare forward and backward pass."""
    codec = training.build(settings.train).to(device).train()
    x, draws = crops.batch(0), settings.repetitions

    def bare(count: int) -> None:
        for t in range(count):
            terms, _ = codec.log_terms(x, settings.train.lam, generator=stream(0, "recording", t, device))
            codec.zero_grad()
            settings_.mean_loss(terms, "elbo", "pathwise", "joint", "bpp").backward()

    def recorded(count: int) -> None:
        codec.zero_grad()
        recording.record(codec, x, settings.train.lam, count)

    for name, run in (("bare draw", bare), ("recorder draw", recorded)):
        run(2)
        synchronize(device)
        begin = time.perf_counter()
        run(draws)
        synchronize(device)
        seconds = (time.perf_counter() - begin) / draws
        yield name, {"seconds": seconds, "images per second": settings.batch / seconds}


def flops_of(settings: Settings, crops: data.Crops) -> float:
    """Floating-point operations of one step in convolutions and matrix products, forward and backward."""
    codec = training.build(settings.train).to(crops.device).train()
    with FlopCounterMode(display=False) as counter:
        terms, _ = codec.log_terms(crops.batch(0), settings.train.lam)
        settings_.mean_loss(terms, "elbo", "pathwise", "joint", "bpp").backward()
    return float(counter.get_total_flops())


def matrix_rate(device: str, n: int) -> float:
    """Floating-point operations per second of an n x n x n product in TF32 (float32 where there is none)."""
    a = torch.randn(n, n, device=device, generator=stream(0, "matrix", 0, device))
    with tf32(True):
        took = []
        for _ in range(6):
            synchronize(device)
            begin = time.perf_counter()
            a @ a
            synchronize(device)
            took.append(time.perf_counter() - begin)
    return 2 * n**3 / min(took)


@contextmanager
def tf32(on: bool) -> Iterator[None]:
    """TF32 for convolutions and matrix products, or full float32."""
    before = torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = on
    try:
        yield
    finally:
        torch.backends.cuda.matmul.allow_tf32, torch.backends.cudnn.allow_tf32 = before


def synchronize(device: str) -> None:
    """Wait for what was queued."""
    if device.startswith("cuda"):
        torch.cuda.synchronize(device)


if __name__ == "__main__":
    typer.run(main)
