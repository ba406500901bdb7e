"""Training that breaks down: noticed, located, and nothing good lost."""

from __future__ import annotations

import math
import os
import random
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from gradlab import data, training
from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints, provenance
from gradlab.training import RunOptions, breakdown
from gradlab.training import settings as settings_
from gradlab.training.breakdown import PATIENCE, WINDOW, Detector
from tests.training.test_training import TINY


@pytest.fixture(autouse=True)
def _no_waiting_for_the_disk(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing here cuts the power."""
    monkeypatch.setattr(os, "fsync", lambda descriptor: None)


class _BadOnTheWayBack(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.clone()

    @staticmethod
    def backward(ctx: Any, gradient: Tensor) -> Tensor:  # type: ignore[override]
        return gradient * math.nan


def sabotage(monkeypatch: pytest.MonkeyPatch, name: str, good: int, spoil: Any) -> None:
    """Lets module ``name`` spoil its output after so many good calls."""
    build = settings_.build

    def built(settings: training.TrainSettings) -> nn.Module:
        codec, calls = build(settings), [0]

        def hook(module: nn.Module, _: Any, output: Tensor) -> Tensor | None:
            calls[0] += 1
            return spoil(output) if calls[0] > good else None

        codec.get_submodule(name).register_forward_hook(hook)
        return codec

    monkeypatch.setattr(settings_, "build", built)


@pytest.mark.parametrize(
    ("name", "spoil", "sentence"),
    [
        pytest.param(
            "h_s.2",
            lambda y: y * math.nan,
            r"the loss is nan; the first module with a non-finite output is h_s\.2",
            id="nan in the output",
        ),
        pytest.param(
            "g_a.2",
            lambda y: y / 0,
            r"the loss is (nan|inf); the first module with a non-finite output is g_a\.2",
            id="division by zero",
        ),
        pytest.param(
            "g_s.2",
            _BadOnTheWayBack.apply,
            r"the norm of the gradient is nan; in the backward pass the first non-finite gradient is at g_s\.2\.",
            id="gradient nan",
        ),
    ],
)
def test_a_breakdown_names_iteration_and_module_and_keeps_batch_and_checkpoint(
    pictures: list[data.Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, spoil: Any, sentence: str
) -> None:
    sabotage(monkeypatch, name, 3, spoil)
    message = (
        rf"^training broke down at iteration 4: {sentence}.*; lower the learning rate or clip more \(batch and weights"
    )
    with pytest.raises(GradlabError, match=message) as error:
        training.train(TINY, pictures, tmp_path, RunOptions(checkpoint_seconds=0))
    folder = training.run_of(TINY.on(pictures), tmp_path).folder
    assert f"the last good checkpoint is {folder / 'last.safetensors'}" in str(error.value)
    broken = checkpoints.load(folder / breakdown.FILE, provenance.settings_hash(TINY.on(pictures)))
    last = checkpoints.load(folder / "last.safetensors", provenance.settings_hash(TINY.on(pictures)))
    assert (broken.iteration, last.iteration) == (3, 3)
    assert torch.equal(broken.tensors["images"], data.Crops(pictures, TINY.crop, TINY.batch, TINY.seed).batch(3))
    weights = {name: value for name, value in last.tensors.items() if name.startswith("model.")}
    assert weights.keys() == broken.tensors.keys() - {"images"}
    assert all(torch.equal(broken.tensors[name], value) for name, value in weights.items())
    assert broken.extra["error"] in str(error.value)
    # Without the saboteur the same command goes on from there, to the numbers of a run that never broke.
    monkeypatch.undo()
    resumed = training.train(TINY, pictures, tmp_path, RunOptions(resume=True))
    whole = training.train(TINY, pictures, tmp_path / "whole")
    assert (resumed.folder / "final.safetensors").read_bytes() == (whole.folder / "final.safetensors").read_bytes()


def test_a_loss_that_overflows_behind_the_modules(pictures: list[data.Picture], tmp_path: Path) -> None:
    with pytest.raises(GradlabError, match=r"iteration 1: .*finite.*overflows in the objective.*no checkpoint"):
        training.train(replace(TINY, lam=1e38), pictures, tmp_path)


def test_a_batch_that_cannot_be_saved_does_not_hide_the_breakdown(
    pictures: list[data.Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def full(*_: object, **__: object) -> None:
        raise GradlabError("cannot write")

    monkeypatch.setattr(checkpoints, "save", full)
    with pytest.raises(GradlabError, match=r"iteration 1: .*batch and weights could not be saved: cannot write"):
        training.train(replace(TINY, lam=1e38, snapshots=()), pictures, tmp_path)


def test_an_explosion_is_noticed_and_no_checkpoint_is_made_of_it(
    pictures: list[data.Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(TINY, steps=200, snapshots=())
    sabotage(monkeypatch, "g_s.4", WINDOW + 9, lambda x_hat: 1e3 * x_hat)
    message = rf"at iteration {WINDOW + 9 + PATIENCE}: the loss has been above 20 times its lowest median .*largest module output"
    with pytest.raises(GradlabError, match=message):
        training.train(settings, pictures, tmp_path, RunOptions(checkpoint_seconds=0))
    folder = training.run_of(settings.on(pictures), tmp_path).folder
    assert checkpoints.load(folder / "last.safetensors").iteration == WINDOW + 9
    assert checkpoints.load(folder / breakdown.FILE).iteration == WINDOW + 9 + PATIENCE - 1


def ordinary(seed: int, iterations: int = 3000) -> list[float]:
    """As losses are: falling by orders of magnitude, noisy, and every 20th batch ten times as hard."""
    chance = random.Random(seed)
    return [
        (300 * math.exp(-i / 100) + 1) * chance.lognormvariate(0, 0.7) * (10 if chance.random() < 0.05 else 1)
        for i in range(iterations)
    ]


@pytest.mark.parametrize("seed", range(5))
def test_ordinary_losses_are_no_explosion(seed: int) -> None:
    watch = Detector(20)
    assert not any(watch.check(loss, 1.0) for loss in ordinary(seed))


def first(losses: list[float], factor: float = 20) -> int | None:
    watch = Detector(factor)
    return next((i for i, loss in enumerate(losses) if watch.check(loss, 1.0)), None)


def test_what_is_an_explosion() -> None:
    calm = [1.0] * WINDOW
    assert first(calm + [100.0] * 50) == WINDOW + PATIENCE - 1
    assert first((calm + [100.0] * (PATIENCE - 1)) * 3) is None  # a spike that passes
    assert first([100.0] * 50) is None  # nothing to compare with yet
    assert first([1.01**i for i in range(1000)]) is not None  # slow ones too
    assert first([-1.0] * WINDOW + [100.0] * 50) is None  # a loss without a scale
    assert first(calm + [100.0] * 50, math.inf) is None


def test_a_resumed_watch_judges_as_one_that_never_stopped() -> None:
    losses = [*ordinary(0, 500), *[1e4] * 50]
    whole, half = Detector(20), Detector(20)
    for loss in losses[:500]:
        assert whole.check(loss, 1.0) is half.check(loss, 1.0) is None
    again = Detector(20, half.state())
    said = [(whole.check(loss, 1.0), again.check(loss, 1.0)) for loss in losses[500:]]
    assert all(a == b for a, b in said) and any(a for a, _ in said)


def test_weights_that_are_not_finite_are_named() -> None:
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 1))
    with torch.no_grad():
        model[1].bias.fill_(math.inf)
    assert breakdown.locate(model, lambda: model(torch.ones(1, 2)).sum()) == "the weights 1.bias are not finite"
    assert not model._forward_hooks and not model[0].weight._backward_hooks
