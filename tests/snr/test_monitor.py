"""SNR while a model trains: what is recorded, and that training goes on as if nobody had looked."""

# ruff: noqa: NPY002  (the legacy stream of numpy is among those that must be put back)

from __future__ import annotations

import random
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch
from torch import nn

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.noise import stream
from gradlab.runtime import files
from gradlab.snr import monitor


class Noisy(nn.Module):
    """Everything that a careless observer would disturb: running statistics, a buffer that is replaced, dropout."""

    def __init__(self) -> None:
        super().__init__()
        self.encoder = nn.Sequential(nn.Linear(4, 6), nn.BatchNorm1d(6), nn.Dropout(0.2))
        self.decoder = nn.Linear(6, 1)
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls = self.calls + 1
        hidden = self.encoder(x)
        return self.decoder(hidden + torch.rand_like(hidden) + random.random() + np.random.rand())


def loss_of(model, batch):
    return (model(batch) - 1).square().mean()


def fit(steps=12, start=0, saved=None, groups=lambda model: None, **options):
    """A plain loop; returns all that training holds at its end."""
    torch.manual_seed(1)
    random.seed(2)
    np.random.seed(3)
    model = Noisy()
    optimizer = torch.optim.Adam(model.parameters(), lr=1e-2)
    if saved is not None:
        model.load_state_dict(saved[0])
        optimizer.load_state_dict(saved[1])
        torch.set_rng_state(saved[2][0])
        random.setstate(saved[2][1])
        np.random.set_state(saved[2][2])
    watch = gl.SNRMonitor(model, groups(model), every=3, **options) if options else None
    for iteration in range(start, steps):
        batch = torch.randn(8, 4, generator=stream(0, "batch", iteration))
        optimizer.zero_grad()
        loss_of(model, batch).backward()
        optimizer.step()
        if watch is not None:
            watch.after_step(iteration + 1, lambda: loss_of(model, batch))  # noqa: B023
    left = {n: p.grad.clone() for n, p in model.named_parameters()}
    streams = (torch.get_rng_state(), random.getstate(), np.random.get_state(legacy=True))
    return model.state_dict(), optimizer.state_dict(), left, streams, watch


def equal(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, np.ndarray):
        return bool((a == b).all())
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(equal(a[n], b[n]) for n in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(equal, a, b))
    return bool(a == b)


@pytest.mark.parametrize(
    "groups",
    # The encoder alone: the gradients of the decoder are nobody's, and stay.
    [
        pytest.param(lambda model: None, id="children"),
        pytest.param(lambda model: {"encoder": model.encoder.parameters()}, id="encoder"),
    ],
)
def test_training_is_the_same_bit_for_bit(tmp_path: Path, groups: Any) -> None:
    without = fit()
    watched = fit(groups=groups, draws=4, csv=tmp_path / "snr.csv")
    for kept, seen in zip(without[:4], watched[:4], strict=True):
        assert equal(kept, seen)
    assert without[0]["encoder.1.num_batches_tracked"] == 12 and without[0]["calls"] == 12
    table = files.read_csv(tmp_path / "snr.csv")
    assert list(table["iteration"].unique()) == [3, 6, 9, 12]
    assert (table["draws"] == 4).all() and (table["snr"] > 0).all()
    assert 0 < watched[4].cost < 1


def test_a_point_is_what_the_recorder_finds(tmp_path: Path) -> None:
    """By hand: the same noise, plain autograd."""
    torch.manual_seed(0)
    model = nn.Linear(3, 2)
    x = torch.ones(5, 3)
    losses = []

    def loss() -> torch.Tensor:
        losses.append(model(x + torch.randn(5, 3)).square().sum())
        return losses[-1]

    point = gl.SNRMonitor(model, {"all": model}, every=7, draws=50).after_step(14, loss)
    seed = int(torch.randint(2**62, (), generator=stream(0, "snr monitor", 14)))
    with monitor.undisturbed(model, seed):
        draws = [torch.autograd.grad(loss(), list(model.parameters())) for _ in range(50)]
    flat = torch.stack([torch.cat([g.flatten() for g in each]) for each in draws]).double()
    assert point is not None
    row = point.iloc[0]
    assert row["snr"] == pytest.approx((flat.mean(0).abs() / flat.std(0)).mean().item(), rel=1e-6)
    assert (row["iteration"], row["parameters"], row["draws"]) == (14, 8, 50)
    assert row["snr_se"] > 0


def test_a_resumed_run_writes_the_same_file(tmp_path: Path) -> None:
    fit(draws=4, csv=tmp_path / "whole.csv")
    path = tmp_path / "snr.csv"
    weights, moments, _, streams, _ = fit(steps=7, draws=4, csv=path)
    fit(steps=10, draws=4, csv=path)  # it went on to 10, was killed, and is resumed from the checkpoint of 7
    assert set(files.read_csv(path)["iteration"]) == {3, 6, 9}
    fit(start=7, saved=(weights, moments, streams), draws=4, csv=path)
    assert path.read_bytes() == (tmp_path / "whole.csv").read_bytes()
    fit(steps=4, draws=4, csv=path)  # anew: what an earlier run wrote is dropped
    assert set(files.read_csv(path)["iteration"]) == {3}


def test_tensorboard_gets_a_curve_per_group() -> None:
    points = []
    board = types.SimpleNamespace(add_scalar=lambda tag, value, step: points.append((tag, value, step)))
    fit(steps=6, draws=4, tensorboard=board)
    assert [(tag, step) for tag, _, step in points] == [
        (f"snr/{name}", step) for step in (3, 6) for name in ("encoder", "decoder", "noise floor")
    ]
    assert points[2][1] == pytest.approx((2 / (torch.pi * 4)) ** 0.5)


def test_step_counts_and_generators_are_put_back() -> None:
    model, generator = nn.Linear(2, 1), torch.Generator().manual_seed(5)
    before = generator.get_state().tolist()
    monitor = gl.SNRMonitor(model, {"all": model}, every=2, draws=3, generators=[generator])
    points = [monitor.step(lambda: model(torch.rand(4, 2, generator=generator)).sum().square()) for _ in range(4)]
    assert [point is not None for point in points] == [False, True, False, True]
    assert points[1]["snr"][0] > 0 and monitor.iteration == 4
    assert generator.get_state().tolist() == before


def test_draws_that_are_not_finite_are_left_out() -> None:
    model, factors = nn.Linear(2, 1), iter([1.0, float("nan"), 2.0, 3.0, *[float("inf")] * 3])
    monitor = gl.SNRMonitor(model, {"all": model}, every=1, draws=4)
    point = monitor.after_step(1, lambda: model(torch.ones(1, 2)).sum() * next(factors))
    assert point["draws"][0] == 3
    monitor = gl.SNRMonitor(model, {"all": model}, every=1, draws=3)
    assert monitor.after_step(1, lambda: model(torch.ones(1, 2)).sum() * next(factors)).empty


def test_a_recorder_says_what_to_leave_out_and_frozen_parameters_are_dead() -> None:
    model = nn.Linear(2, 2)
    recorder = gl.GradientRecorder({"all": model}, exclude=["bias"])
    recorder.add([torch.ones(2, 2)])
    monitor = gl.SNRMonitor(model, recorder, every=1, draws=3)
    loss = lambda: model(torch.rand(4, 2)).square().sum()  # noqa: E731
    assert monitor.step(loss)[["parameters", "dead", "draws"]].to_numpy().tolist() == [[4, 0, 3]]
    assert recorder.draws == 0
    model.weight.requires_grad_(False)
    with pytest.raises(GradlabError, match="every recorded parameter is frozen"):
        monitor.step(loss)
    both = gl.SNRMonitor(model.requires_grad_(True), {"all": model}, every=1, draws=3)
    model.weight.requires_grad_(False)
    assert both.step(loss)[["parameters", "dead", "draws"]].to_numpy().tolist() == [[6, 4, 3]]


class Trainer:
    """Calls like Lightning's, with two minibatches to a step of the optimizer."""

    def __init__(self, callbacks: list[Any]) -> None:
        self.callbacks, self.global_step = callbacks, 0

    def fit(self, module: nn.Module, batches: list[torch.Tensor]) -> None:
        for index, batch in enumerate(batches):
            self.global_step = (index + 1) // 2
            for callback in self.callbacks:
                callback.on_train_batch_end(self, module, None, batch, index)


@pytest.mark.parametrize("package", [None, "lightning.pytorch", "pytorch_lightning"])
def test_the_callback_of_lightning(monkeypatch: pytest.MonkeyPatch, package: str | None) -> None:
    for name in ("lightning.pytorch", "pytorch_lightning"):
        monkeypatch.setitem(sys.modules, name, None)  # not installed
    if package is not None:
        fake = types.ModuleType(package)
        fake.Callback = type("Callback", (), {})  # type: ignore[attr-defined]
        monkeypatch.setitem(sys.modules, package.partition(".")[0], types.ModuleType("parent"))
        monkeypatch.setitem(sys.modules, package, fake)
    model = Noisy()
    monitor = gl.SNRMonitor(model, every=2, draws=2)
    seen: list[int] = []
    monkeypatch.setattr(monitor, "_record", lambda iteration, loss: seen.append(iteration) or loss())
    callback = monitor.lightning(lambda module, batch: module(batch).sum())
    assert package is None or isinstance(callback, fake.Callback)
    Trainer([callback]).fit(model, [torch.randn(2, 4) for _ in range(9)])
    assert seen == [2, 4]  # once each, though two minibatches end at each


@pytest.mark.parametrize(("options", "match"), [
    ({"every": 0}, "every is 0: give a whole number of iterations, at least 1"),
    ({"draws": 1}, "draws is 1: give a whole number of at least 2"),
    ({"groups": {"none": []}}, "none"),
])  # fmt: skip
def test_bad_options(options: dict[str, Any], match: str) -> None:
    with pytest.raises(GradlabError, match=match):
        gl.SNRMonitor(nn.Linear(2, 1), **options)


def test_bad_losses_hooks_and_files(tmp_path: Path) -> None:
    model = nn.Linear(2, 1)
    model_state = [p.clone() for p in model.parameters()]
    monitor = gl.SNRMonitor(model, {"all": model}, every=1, draws=2)
    for loss in (lambda: model(torch.ones(3, 2)), lambda: 1.0, lambda: torch.ones(())):
        with pytest.raises(
            GradlabError, match="loss does not return a scalar tensor with a graph: return the training loss"
        ):
            monitor.after_step(monitor.iteration + 1, loss)
    assert all(p.grad is None for p in model.parameters())
    handle = model.weight.register_post_accumulate_grad_hook(lambda p: None)
    with pytest.raises(GradlabError, match="hook that acts on its finished gradient"):
        monitor.after_step(9, lambda: model(torch.rand(3, 2)).sum())
    handle.remove()
    assert equal([p.detach() for p in model.parameters()], [p.detach() for p in model_state])
    files.write_csv(tmp_path / "other.csv", pd.DataFrame({"x": [1]}))
    with pytest.raises(GradlabError, match=r"other.csv was not written by a monitor: give another file"):
        gl.SNRMonitor(model, {"all": model}, csv=tmp_path / "other.csv")
