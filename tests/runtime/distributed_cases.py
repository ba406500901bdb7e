"""What one process measures, and two that share it: run by ``test_ranks`` in itself and under ``torchrun``."""

from __future__ import annotations

import json
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import safetensors.torch
import torch
from PIL import Image

from gradlab import codecs, data, evaluation, training
from gradlab.errors import GradlabError, Stopped
from gradlab.evaluation import gradients
from gradlab.runtime import checkpoints, distributed, files
from gradlab.training import Loss, PlainLoss, RunOptions, TrainSettings, TrainState
from gradlab.training.steps import Step

TINY = TrainSettings(codec="small-hyperprior", channels=(4, 6), crop=32, batch=4, steps=5, learning_rate=1e-4,
                     snapshots=(2,))  # fmt: skip
CASES = {
    "elbo": TINY,
    "dms": replace(TINY, loss=Loss(objective="ms-nic-dms", k=2, l=2, weighting="per-term", scale="nats")),
    "dreg": replace(TINY, loss=Loss(objective="ms-nic-mix", estimator="dreg", allow_biased=True, k=3)),
    "2level": replace(TINY, direct_y=False, loss=Loss(objective="iwae-2level", k=2)),
    "sga": replace(TINY, loss=Loss(proxy="sga")),
    "plain": replace(TINY, loss=PlainLoss()),
    "clipped": replace(TINY, clip=1e-3),
}
DRAWS = 21


def pictures() -> list[data.Picture]:
    return [p for p in data.embedded("train") if p.name in ("coffee.png", "rocket.jpg")]


def tested() -> torch.Tensor:
    return torch.rand(5, 3, 40, 33, generator=torch.Generator().manual_seed(5))


def descended(settings: TrainSettings) -> dict[str, torch.Tensor]:
    """Gradients of the last of three iterations, and the weights after it, in float64."""
    settings = settings.on(pictures())
    state = TrainState.of(training.build(settings).double().train(), settings)
    step, found = Step(state, settings.batches(pictures())), {}
    for iteration in range(3):
        step()
        (seen,) = step.read()
        for name, value in {"loss": seen.loss, "bpp": seen.bpp, "mse": seen.mse, "norm": seen.gradient_norm}.items():
            found[f"{name}.{iteration}"] = torch.tensor(value, dtype=torch.float64)
    for name, p in state.weights.items():
        found[f"weight.{name}"] = p.detach().clone()
        if p.grad is not None:
            found[f"grad.{name}"] = p.grad.clone()
    return found


def trained(folder: Path) -> dict[str, Any]:
    """A run of float32, the same stopped and resumed, and what goes wrong."""
    said: dict[str, Any] = {}
    training.train(TINY, pictures(), folder / "whole", RunOptions(log_every=1))
    try:
        # The time is up for one process only, in the middle; all leave the same checkpoint behind.
        counted = []
        late = time.monotonic() if distributed.group().rank == distributed.group().size - 1 else None

        def advance(n: int = 1, note: str = "") -> None:
            counted.append(n)

        training.train(TINY, pictures(), folder / "stopped", RunOptions(deadline=late, log_every=1, progress=advance))
    except Stopped as stopped:
        said["stopped"] = str(stopped)
    said["iteration"] = checkpoints.load(
        training.run_of(TINY.on(pictures()), folder / "stopped").folder / "last.safetensors"
    ).iteration
    training.train(TINY, pictures(), folder / "stopped", RunOptions(resume=True, log_every=1))
    try:
        training.train(replace(TINY, batch=3), pictures(), folder / "odd")
    except GradlabError as error:
        said["odd"] = str(error)

    def break_one(index: int, name: str, item: int) -> int:
        if index == 1:
            raise GradlabError(f"item {name} broke")
        return item

    try:
        distributed.group().map([("a", 1), ("b", 2), ("c", 3)], break_one)
    except GradlabError as error:
        said["share"] = str(error)
    return said


def main(folder: Path) -> None:
    """Write everything below ``folder``; each process its own weights and sentences."""
    group = distributed.group()
    tensors = {f"{case}/{n}": t for case, settings in CASES.items() for n, t in descended(settings).items()}
    codec = codecs.build("small-hyperprior", channels=(4, 6), seed=1).double()
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    state = gradients.record(codec, x, 0.015, DRAWS, seed=4).state_dict()
    for part in ("mean", "m2"):
        tensors |= {f"record/{part}.{i}": t for i, t in enumerate(state[part])}
    tensors["record/draws"] = torch.tensor(state["draws"])
    (folder / f"sentences-{group.rank}.json").write_text(json.dumps(trained(folder)))
    safetensors.torch.save_file(tensors, str(folder / f"tensors-{group.rank}.safetensors"))
    codec = codecs.build("small-hyperprior", channels=(4, 6), seed=1)
    codec.finish()
    files.write_csv(folder / "coded.csv", evaluation.rate_distortion(codec, tested(), 0.015))
    files.write_csv(folder / "universal.csv", evaluation.universal_quantization(codec, tested(), 0.015, seed=3))
    command_line(folder)


def command_line(folder: Path) -> None:
    """A whole study at its smallest, on three small images."""
    from gradlab import cli
    from gradlab_studies import table11

    images = folder / "images"
    if distributed.group().is_main:
        images.mkdir()
        for number in range(3):
            pixels = torch.randint(0, 256, (80, 96, 3), generator=torch.Generator().manual_seed(number))
            Image.fromarray(pixels.to(torch.uint8).numpy()).save(images / f"{number}.png")
    distributed.group().barrier()
    usual, table11.PROFILES["quick"] = table11.PROFILES["quick"], table11.SMALLEST
    arguments = ["run", "table11", "--train-images", images, "--test-images", images, "--out", folder / "out"]
    code = cli.main([str(argument) for argument in arguments])
    table11.PROFILES["quick"] = usual
    assert code == 0


if __name__ == "__main__":
    torch.set_num_threads(1)
    with distributed.initialized("cpu"):
        main(Path(sys.argv[1]))
