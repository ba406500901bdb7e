"""The training step: its arithmetic against one written out by hand, and what a CPU can show of the graph."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor
from torch._subclasses.fake_tensor import DataDependentOutputException, FakeTensorMode

from gradlab import data, training
from gradlab.errors import GradlabError, Stopped
from gradlab.evaluation import gradients
from gradlab.noise import stream
from gradlab.objectives import OBJECTIVES, bounds
from gradlab.runtime import checkpoints, files
from gradlab.runtime.cuda_graph import WARM_UP
from gradlab.training import Loss, PlainLoss, RunOptions, TrainSettings, TrainState, loop, steps
from gradlab.training.engines import local
from gradlab.training.run import Run
from gradlab.training.steps import GraphStep, Step

TINY = TrainSettings(
    codec="small-hyperprior", channels=(4, 6), crop=32, batch=2, steps=4, learning_rate=1e-3, warm_up=0
)
METHODS = {
    "baseline": Loss(),
    "mix": Loss("ms-nic-mix", k=3),
    "mix of the listing": Loss("ms-nic-mix", weighting="per-term", k=3),
    "mix in nats": Loss("ms-nic-mix", scale="nats", k=3),
    "dreg-squared": Loss("ms-nic-mix", "dreg-squared", "per-term", k=3, allow_biased=True),
    "dms": Loss("ms-nic-dms", k=2, l=2),
    "average": Loss("elbo", k=2),
    "jackknife": Loss("jvi", k=3),
    "soft rounding": Loss(proxy="soft-rounding:4"),
    "annealing": Loss(proxy="sga:0.5"),
    "plain": PlainLoss(),
}
CODECS = {
    "small-hyperprior": {},
    "2-level": {"direct_y": False},
    "bmshj2018-factorized": {},
    "bmshj2018-hyperprior": {"crop": 64},
    "mbt2018-mean": {"crop": 64},
    "mbt2018": {"crop": 64},
    "cheng2020-anchor": {"crop": 64, "channels": (4,)},
    "cheng2020-attn": {"crop": 64, "channels": (4,)},
    "ssf2020": {"crop": 128, "shift": 3, "batch": 1},
}


def settings_of(codec: str, loss: Loss | PlainLoss) -> TrainSettings:
    name = codec if codec != "2-level" else "small-hyperprior"
    return replace(TINY, codec=name, loss=loss, scale_learning_rate=False, **CODECS[codec])


def on_accelerator(settings: TrainSettings, pictures: list[data.Picture]) -> Any:
    """Batches as an accelerator cuts them: by one gather."""
    batches = settings.batches(pictures)
    crops = getattr(batches, "_crops", batches)
    crops._gathers = True
    crops._flatten()
    return batches


def by_hand(settings: TrainSettings, pictures: list[data.Picture], count: int) -> tuple[dict[str, Tensor], list[Any]]:
    """Weights after so many iterations in float64, and loss and norm of each: plain autograd, Adam from its paper."""
    codec = training.build(settings).double().train()
    names = [n for n, _ in codec.named_parameters() if not n.endswith("quantiles") and not n.startswith("img_")]
    weights = {n: p for n, p in codec.named_parameters() if n in names}
    first = {n: torch.zeros_like(p) for n, p in weights.items()}
    second, seen = {n: torch.zeros_like(p) for n, p in weights.items()}, []
    for t in range(count):
        x = settings.batches(pictures).batch(t).double()
        noise = stream(settings.seed, "training noise", t)
        if isinstance(settings.loss, PlainLoss):
            loss = settings.lam * ((255 * (x - codec.g_s(codec.g_a(x)))) ** 2).mean()
        else:
            how = settings.loss
            terms, _ = codec.log_terms(x, settings.lam, how.k, how.l, noise, how.proxy)
            nats = -OBJECTIVES[how.objective](terms, how.weighting, how.scale).as_subclass(Tensor).mean()
            loss = nats / (1 if how.scale == "bpp" else math.log(2) * settings.crop**2)
        found = torch.autograd.grad(loss, list(weights.values()), allow_unused=True)
        gradients = {n: g for n, g in zip(weights, found, strict=True) if g is not None}
        norm = torch.sqrt(sum((g**2).sum() for g in gradients.values()))
        seen.append((loss.item(), norm.item()))
        with torch.no_grad():
            for n, g in gradients.items():
                g = g * min(1.0, settings.clip / (norm.item() + 1e-6))
                first[n] = settings.betas[0] * first[n] + (1 - settings.betas[0]) * g
                second[n] = settings.betas[1] * second[n] + (1 - settings.betas[1]) * g**2
                m = first[n] / (1 - settings.betas[0] ** (t + 1))
                v = second[n] / (1 - settings.betas[1] ** (t + 1))
                weights[n] -= settings.rate_at(t) * m / (v.sqrt() + 1e-8)
    return weights, seen


def cases() -> Iterator[Any]:
    for name, loss in METHODS.items():
        if name != "dreg-squared":  # its surrogate is not the objective
            yield pytest.param("small-hyperprior", loss, id=name)
    yield pytest.param("2-level", Loss("iwae-2level", k=2), id="2-level iwae")
    for codec in CODECS:
        if codec != "small-hyperprior":
            yield pytest.param(codec, Loss("iwae-2level" if codec == "2-level" else "elbo", k=1), id=codec)


@pytest.mark.parametrize(("codec", "loss"), list(cases()))
def test_the_body_of_a_step_is_adam_on_the_gradient_in_float64(
    pictures: list[data.Picture], codec: str, loss: Loss | PlainLoss
) -> None:
    """With the inputs of an accelerator: crops by a gather, a generator that is reseeded, a learning rate in a tensor.

    Clipping is on in the first iterations. Loss and norm agree to 1e-12; where a gradient is next to nothing Adam
    divides it by its own size, and so the order of its sums shows in the weights.
    """
    settings = replace(settings_of(codec, loss), cosine_steps=5)
    weights, seen = by_hand(settings, pictures, 3)
    state = TrainState.of(training.build(settings).double().train(), settings)
    step = Step(state, on_accelerator(settings, pictures), capacity=3)
    for _ in range(3):
        step()
    rows = step.read()
    assert [row.iteration for row in rows] == [1, 2, 3] and state.iteration == 3
    assert [row.learning_rate for row in rows] == [settings.rate_at(t) for t in range(3)]
    first = rows[0]
    assert (first.loss, first.gradient_norm) == pytest.approx(seen[0], rel=1e-12)
    for row, (value, norm) in zip(rows, seen, strict=True):
        assert (row.loss, row.gradient_norm) == pytest.approx((value, norm), rel=1e-8)
    for name, expected in weights.items():
        assert torch.allclose(state.weights[name], expected, rtol=0, atol=1e-8), name


@pytest.mark.parametrize(("name", "loss"), METHODS.items(), ids=list(METHODS))
def test_the_first_gradient_is_that_of_the_loss_to_12_digits(
    pictures: list[data.Picture], name: str, loss: Loss | PlainLoss
) -> None:
    settings = replace(TINY, loss=loss, scale_learning_rate=False, clip=1e9)
    state = TrainState.of(training.build(settings).double().train(), settings)
    twin = training.build(settings).double().train()
    step = Step(state, on_accelerator(settings, pictures))
    step()
    x = settings.batches(pictures).batch(0).double()
    loss(twin, x, settings.lam, stream(settings.seed, "training noise", 0)).backward()
    assert sum(p.grad is not None for p in twin.parameters()) > 10
    for n, p in twin.named_parameters():
        mine = dict(state.codec.named_parameters())[n].grad
        assert (p.grad is None) == (mine is None), n
        if p.grad is not None:
            assert float((p.grad - mine).norm()) <= 1e-12 * float(p.grad.norm()), n


@pytest.mark.parametrize("codec", list(CODECS))
@pytest.mark.parametrize("name", ["baseline", "dreg-squared", "dms", "plain"])
def test_nothing_in_a_step_asks_the_device_for_a_number(
    pictures: list[data.Picture], monkeypatch: pytest.MonkeyPatch, codec: str, name: str
) -> None:
    """Under FakeTensorMode tensors have no values: any ``.item()``, ``bool()`` or ``tolist()`` raises."""
    no_z = codec in ("bmshj2018-factorized", "ssf2020")
    if (name == "dms" and (no_z or codec == "2-level")) or (name == "plain" and codec == "ssf2020"):
        pytest.skip("the codec has no such loss")
    loss = METHODS[name]
    if name == "dreg-squared" and codec == "2-level":
        loss = replace(loss, objective="iwae-2level")
    settings = settings_of(codec, loss)
    state = TrainState.of(training.build(settings).train(), settings)
    step = Step(state, on_accelerator(settings, pictures))
    step()  # the optimizer makes its state
    step.prepare()
    monkeypatch.setattr(bounds, "SurrogateLoss", Tensor)  # a fake tensor can be no other kind of tensor
    with FakeTensorMode(allow_non_fake_inputs=True):
        step.body()


def test_the_check_for_host_synchronisations_can_fail(pictures: list[data.Picture]) -> None:
    state = TrainState.new(TINY)
    step = Step(state, on_accelerator(TINY, pictures))
    step.prepare()
    state.codec.g_s.register_forward_hook(lambda module, x, y: y * float(y.mean()))
    with pytest.raises(DataDependentOutputException), FakeTensorMode(allow_non_fake_inputs=True):
        step.body()


# ------------------------------------------------------------------------------------------------ broken iterations


def spoil(codec: Any, at: int) -> list[int]:
    """Make the output of h_s NaN in call ``at``, counted from 0, and in that call alone."""
    calls = [0]

    def hook(module: Any, x: Any, y: Tensor) -> Tensor | None:
        calls[0] += 1
        return y * math.nan if calls[0] == at + 1 else None

    codec.h_s.register_forward_hook(hook)
    return calls


def test_an_iteration_that_is_not_finite_changes_no_weight_nor_does_any_after_it(
    pictures: list[data.Picture],
) -> None:
    settings = replace(TINY, steps=8)
    state, twin = TrainState.new(settings), TrainState.new(settings)
    batches = settings.batches(pictures)
    step, good = Step(state, batches, capacity=8), Step(twin, batches, capacity=8)
    spoil(state.codec, at=3)
    for _ in range(6):
        step()
    for _ in range(3):
        good()
    rows = step.read()
    assert [math.isfinite(row.loss) for row in rows] == [True] * 3 + [False] + [True] * 2
    for (name, mine), theirs in zip(state.tensors().items(), twin.tensors().values(), strict=True):
        assert torch.equal(mine, theirs), name  # the moments and the step counts of Adam too


@pytest.fixture
def asynchronous(monkeypatch: pytest.MonkeyPatch) -> None:
    """Read as on an accelerator, every ``log_every`` iterations."""
    monkeypatch.setattr(Step, "synchronous", property(lambda self: False))


def sabotaged(monkeypatch: pytest.MonkeyPatch, at: int) -> None:
    new = TrainState.new

    def spoilt(*arguments: Any) -> TrainState:
        state = new(*arguments)
        spoil(state.codec, at)
        return state

    monkeypatch.setattr(loop.TrainState, "new", spoilt)


@pytest.mark.usefixtures("asynchronous")
def test_a_late_reading_names_the_first_broken_iteration_and_keeps_its_weights(
    pictures: list[data.Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = replace(TINY, steps=10)
    before = training.train(replace(settings, steps=3), pictures, tmp_path / "whole")
    sabotaged(monkeypatch, at=3)
    with pytest.raises(GradlabError, match=r"broke down at iteration 4: the loss is nan"):
        training.train(settings, pictures, tmp_path / "broken", RunOptions(log_every=5))
    run = training.run_of(settings.on(pictures), tmp_path / "broken")
    kept = checkpoints.load(run.folder / "broken.safetensors")
    assert kept.iteration == 3
    assert torch.equal(kept.tensors["images"], data.Crops(pictures, 32, 2, 0).batch(3))
    whole = before.codec().state_dict()
    for name, value in kept.tensors.items():
        if name.startswith("model.") and not name.endswith(("quantiles", "_cdf", "_offset", "_length", "scale_table")):
            assert torch.equal(value, whole[name[len("model.") :]]), name


@pytest.mark.usefixtures("asynchronous")
@pytest.mark.parametrize("log_every", [1, 2, 5, 50])
def test_how_often_the_device_is_read_changes_no_number(
    pictures: list[data.Picture], tmp_path: Path, log_every: int
) -> None:
    settings = replace(TINY, steps=7, snapshots=(0, 3))
    options = RunOptions(log_every=log_every, checkpoint_seconds=0)
    late = training.train(settings, pictures, tmp_path / "late", options)
    Step.synchronous = property(lambda self: True)  # type: ignore[method-assign, assignment]  # undone by the fixture
    now = training.train(settings, pictures, tmp_path / "now", options)
    for name in ("final", "snapshot-0", "snapshot-3"):
        a, b = (checkpoints.load(run.folder / f"{name}.safetensors").tensors for run in (late, now))
        assert all(torch.equal(a[n], b[n]) for n in a), name
    assert (late.folder / "log.csv").read_bytes() == (now.folder / "log.csv").read_bytes()
    kept = [i for i in range(1, 8) if i % log_every == 0 or i == 7]
    assert list(files.read_csv(late.folder / "log.csv")["iteration"]) == kept


@pytest.mark.usefixtures("asynchronous")
def test_a_stop_between_two_readings_leaves_a_checkpoint_of_that_iteration(
    pictures: list[data.Picture], tmp_path: Path
) -> None:
    settings, seen = replace(TINY, steps=9), [0]

    def stops(n: int = 1, note: str = "") -> None:
        seen[0] += n
        if seen[0] == 3:
            raise Stopped

    with pytest.raises(Stopped, match="after iteration 3 of 9"):
        training.train(settings, pictures, tmp_path / "cut", RunOptions(progress=stops))
    run = training.run_of(settings.on(pictures), tmp_path / "cut")
    assert checkpoints.load(run.folder / "last.safetensors").iteration == 3
    resumed = training.train(settings, pictures, tmp_path / "cut", RunOptions(resume=True))
    whole = training.train(settings, pictures, tmp_path / "whole")
    assert (resumed.folder / "final.safetensors").read_bytes() == (whole.folder / "final.safetensors").read_bytes()


def test_rate_and_distortion_of_the_log_are_those_of_the_samples(pictures: list[data.Picture]) -> None:
    codec, x = training.build(TINY).double(), TINY.batches(pictures).batch(0).double()
    for loss in (Loss("ms-nic-mix", k=3), Loss("ms-nic-dms", k=2, l=2, scale="nats")):
        parts = loss.parts(codec, x, 0.02, stream(0, "noise"))
        terms, x_hat = codec.log_terms(x, 0.02, loss.k, loss.l, stream(0, "noise"))
        mse = ((255 * (x[:, None] - x_hat)) ** 2).mean()
        bits = -(terms.log_py + terms.log_pz).mean() / math.log(2)
        assert float(parts.mse) == pytest.approx(float(mse), rel=1e-12)
        assert float(parts.bpp) == pytest.approx(float(bits) / 32**2, rel=1e-12)
        assert float(loss(codec, x, 0.02, stream(0, "noise"))) == float(parts.loss)
        assert parts.loss.requires_grad and not parts.bpp.requires_grad and not parts.mse.requires_grad


# ------------------------------------------------------------------------------------------------- the graph, in play


class Played:
    """Stands in for ``Replay`` on a CPU: a replay is a call."""

    def __init__(self, body: Callable[[], None], generator: torch.Generator, stream: Any = None) -> None:
        self._body = body
        for _ in range(WARM_UP + 1):
            body()

    def placed(self) -> contextlib.AbstractContextManager[None]:
        return contextlib.nullcontext()

    def join(self) -> None:
        pass

    def __call__(self) -> None:
        self._body()


def test_capturing_trains_nothing_and_replays_are_the_eager_steps(
    pictures: list[data.Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(steps, "Replay", Played)
    monkeypatch.setattr(steps, "WARM_UP", WARM_UP + 1)  # a capture does not run the body, this one does
    settings = replace(TINY, loss=Loss("ms-nic-mix", k=2))
    one, two = TrainState.new(settings), TrainState.new(settings)
    before = {name: value.clone() for name, value in two.codec.state_dict().items()}
    eager, graph = (kind(state, settings.batches(pictures), 3) for kind, state in ((Step, one), (GraphStep, two)))
    assert all(torch.equal(before[n], v) for n, v in two.codec.state_dict().items())
    assert all(not bool(s["exp_avg"].any()) and float(s["step"]) == 0 for s in two.optimizer.state.values())
    for _ in range(3):
        eager()
        graph()
    assert eager.read() == graph.read()
    for (name, mine), theirs in zip(one.tensors().items(), two.tensors().values(), strict=True):
        assert torch.equal(mine, theirs), name


def test_where_a_graph_cannot_be_captured_training_is_eager_and_says_why(
    pictures: list[data.Picture], monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(*_: Any) -> None:
        raise RuntimeError("operation not permitted when stream is capturing\nmore")

    monkeypatch.setattr(steps, "Replay", refuses)
    monkeypatch.setattr(TrainState, "device", property(lambda self: torch.device("cuda")))
    monkeypatch.setattr(
        Step, "__init__", lambda self, state, batches, capacity: setattr(self, "_found_inf", torch.zeros(()))
    )
    monkeypatch.setattr(Step, "placed", lambda self: contextlib.nullcontext())
    monkeypatch.setattr(GraphStep, "__init__", lambda self, *_: refuses())
    state, batches = TrainState.new(TINY), TINY.batches(pictures)
    step, computed = steps.make_step(state, batches, "auto", 5)
    assert type(step) is Step
    assert computed == "eager, since a graph was not captured: operation not permitted when stream is capturing"
    with pytest.raises(GradlabError, match=r"cannot be captured as a CUDA graph \(operation.*give --step eager"):
        steps.make_step(state, batches, "graph", 5)


def test_coding_tables_are_built_on_a_copy_on_the_cpu(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each of some thousand numbers is asked for by itself: on an accelerator that would hold up all that trains there."""
    state, seen = TrainState.new(TINY, "cpu"), []
    moved: list[str] = []
    kind = type(state.codec)
    monkeypatch.setattr(kind, "cpu", lambda self: moved.append("cpu") or self)
    monkeypatch.setattr(kind, "finish", lambda self: seen.append((self is state.codec, list(moved))))
    state.snapshot(tmp_path / "snapshot.safetensors")
    state.finish(tmp_path / "final.safetensors", "eager")
    assert seen == [(False, ["cpu"]), (False, ["cpu", "cpu"])]


def test_a_run_says_where_it_was_trained(pictures: list[data.Picture], tmp_path: Path) -> None:
    assert training.train(TINY, pictures, tmp_path).record().device == "cpu"


def test_a_run_says_how_it_was_computed(
    pictures: list[data.Picture], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert training.train(TINY, pictures, tmp_path / "a").record().step == "eager"
    reason, said = "eager, since a graph was not captured: no", []
    monkeypatch.setattr(loop, "make_step", lambda state, batches, *_: (Step(state, batches, 50), reason))
    options = RunOptions(progress=lambda n=1, note="": said.append(note))
    assert training.train(TINY, pictures, tmp_path / "b", options).record().step == reason
    assert said[0] == reason


def test_recorded_draws_replayed_are_those_of_the_hooks(monkeypatch: pytest.MonkeyPatch) -> None:
    codec = training.build(TINY)
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))
    loss = Loss("ms-nic-mix", k=2)
    for batches in (x, lambda t: x + 0.01 * t):
        hooked = gradients.record(codec, batches, 0.015, 20, loss=loss, seed=3)
        recorder = gradients.GradientRecorder(codec.groups(), exclude=("quantiles",))
        monkeypatch.setattr(gradients, "Replay", Played)
        monkeypatch.setattr(torch.cuda, "Stream", lambda device: None)
        monkeypatch.setattr(torch.cuda, "current_stream", lambda device: None)
        monkeypatch.setattr(torch.cuda, "stream", lambda stream: contextlib.nullcontext())
        monkeypatch.setattr(gradients, "_wait", lambda side, device: None)
        graph = gradients._Graph(codec, batches, 0.015, loss, recorder, 3)
        for t in range(20):
            graph.draw(t)
        if callable(batches):
            graph._batches = lambda t: x[:1]
            with pytest.raises(GradlabError, match="give minibatches of the same shape"):
                graph.draw(20)
        ended = weakref.ref(graph._replay)
        graph.join()
        assert ended() is None  # at once: the next capture would find its tensors alive
        monkeypatch.undo()
        mine, theirs = recorder.state_dict(), hooked.state_dict()
        assert mine["draws"] == theirs["draws"] == 20
        for name in ("mean", "m2"):
            for a, b in zip(mine[name], theirs[name], strict=True):
                assert torch.allclose(a, b, rtol=1e-5, atol=1e-12)
        assert all(p.grad is None for p in codec.parameters())


# ------------------------------------------------------------------------------------------------------ side by side


@pytest.mark.parametrize("jobs", [1, 2, 3])
def test_models_that_take_turns_come_out_as_alone(pictures: list[data.Picture], tmp_path: Path, jobs: int) -> None:
    wanted = [replace(TINY, seed=s, steps=2 + s, snapshots=(1,)).on(pictures) for s in range(3)]
    order: list[int] = []

    def begun(settings: TrainSettings) -> Callable[[], loop.Training]:
        options = RunOptions(progress=lambda n=1, note="": order.append(settings.seed))
        return lambda: loop.training(settings, pictures, tmp_path / "turns", options)

    local.take_turns([begun(s) for s in wanted], jobs)
    first = {1: [0, 0, 1], 2: [0, 1, 0], 3: [0, 1, 2]}[jobs]
    assert order[:3] == first and len(order) == 2 + 3 + 4
    for settings in wanted:
        alone = training.train(settings, pictures, tmp_path / "alone")
        turns = Run(tmp_path / "turns" / alone.folder.name, settings)
        for name in ("final.safetensors", "snapshot-1.safetensors", "log.csv"):
            assert (alone.folder / name).read_bytes() == (turns.folder / name).read_bytes()


def test_memory_that_is_too_small_for_one_is_not_the_end_of_the_others(
    pictures: list[data.Picture], tmp_path: Path
) -> None:
    def too_large() -> loop.Training:
        yield
        raise MemoryError("out of memory")

    good = TINY.on(pictures)
    with pytest.raises(MemoryError):
        local.take_turns([too_large, lambda: loop.training(good, pictures, tmp_path, RunOptions())], 2)
    assert training.run_of(good, tmp_path).done


def test_where_one_of_them_fails_the_others_are_finished(pictures: list[data.Picture], tmp_path: Path) -> None:
    bad, good = replace(TINY, lam=1e38).on(pictures), TINY.on(pictures)
    begun = [lambda s=s: loop.training(s, pictures, tmp_path, RunOptions()) for s in (bad, good)]
    with pytest.raises(GradlabError, match="broke down at iteration 1"):
        local.take_turns(begun, 2)
    assert training.run_of(good, tmp_path).done and not training.run_of(bad, tmp_path).done


# ------------------------------------------------------------------------------------------------------------- state


def test_a_state_comes_back_in_the_layout_of_the_weights(pictures: list[data.Picture], tmp_path: Path) -> None:
    """Fused Adam on CUDA refuses moments whose strides differ from those of the weights (channels-last)."""
    state = TrainState.new(TINY)
    step = Step(state, TINY.batches(pictures))
    step()
    state.log, state.detector = [{"iteration": 1.0}], [2.0, 3.0]
    state.save(tmp_path / "last.safetensors")
    other = TrainState.new(TINY)
    other.codec.to(memory_format=torch.channels_last)
    other.load(tmp_path / "last.safetensors")
    assert (other.iteration, other.log, other.detector, other.restarts) == (1, state.log, state.detector, [])
    strided = 0
    for name, p in other.weights.items():
        moments = other.optimizer.state[p]
        assert moments["step"].dtype == torch.float32 and moments["step"].device == p.device
        for key in ("exp_avg", "exp_avg_sq"):
            assert moments[key].stride() == p.stride(), name
            assert torch.equal(moments[key], state.optimizer.state[state.weights[name]][key]), name
        strided += not p.is_contiguous()
    assert strided > 5
    Step(other, TINY.batches(pictures))()


# --------------------------------------------------------------------------------------------------------------- CUDA

cuda = pytest.mark.skipif(not torch.cuda.is_available(), reason="needs CUDA")


@cuda
@pytest.mark.parametrize(("name", "loss"), METHODS.items(), ids=list(METHODS))
def test_on_cuda_the_graph_is_the_eager_step(pictures: list[data.Picture], name: str, loss: Any) -> None:
    settings = replace(TINY, loss=loss, scale_learning_rate=False)
    states = [TrainState.new(settings, "cuda") for _ in range(2)]
    eager, graph = (
        kind(state, settings.batches(pictures, "cuda"), 3)
        for kind, state in zip((Step, GraphStep), states, strict=True)
    )
    for _ in range(3):
        for step in (eager, graph):
            with step.placed():
                step()
    with eager.placed():
        expected = eager.read()
    with graph.placed():
        found = graph.read()
    for one, other in zip(expected, found, strict=True):
        assert one == pytest.approx(other, rel=1e-4)
    graph.close()


@cuda
@pytest.mark.parametrize("fixed", [True, False])
def test_on_cuda_replayed_draws_are_those_of_the_hooks(fixed: bool) -> None:
    codec, loss = training.build(TINY).cuda(), Loss("ms-nic-mix", k=2)
    x = torch.rand(2, 3, 32, 32, device="cuda")
    batches = x if fixed else lambda t: x + 0.01 * t
    recorders = [gradients.GradientRecorder(codec.groups(), exclude=("quantiles",)) for _ in range(2)]
    graph = gradients._Graph(codec, batches, 0.015, loss, recorders[0], 3)
    for t in range(80):
        graph.draw(t)
    graph.join()
    draw = gradients._eager(codec, batches, 0.015, loss, recorders[1], 3)
    with recorders[1]:
        for t in range(80):
            draw(t)
    one, other = (
        recorder.summary("parameter").drop(columns=["group", "module", "parameter"]) for recorder in recorders
    )
    assert (one / other - 1).abs().max().max() < 1e-2


@cuda
def test_on_cuda_a_broken_iteration_changes_nothing(pictures: list[data.Picture]) -> None:
    settings = replace(TINY, lam=1e38)
    state = TrainState.new(settings, "cuda")
    before = {n: p.detach().clone() for n, p in state.weights.items()}
    step = GraphStep(state, settings.batches(pictures, "cuda"), 3)
    with step.placed():
        for _ in range(3):
            step()
        assert not any(math.isfinite(row.loss) for row in step.read())
    assert all(torch.equal(before[n], p) for n, p in state.weights.items())
    assert all(float(s["step"]) == 0 for s in state.optimizer.state.values())
    step.close()


@cuda
def test_on_cuda_a_stopped_run_resumes(pictures: list[data.Picture], tmp_path: Path) -> None:
    settings = replace(TINY, steps=4, learning_rate=1e-5)
    whole = training.train(settings, pictures, tmp_path / "whole", RunOptions(device="cuda"))
    with pytest.raises(Exception, match="stopped"):
        training.train(settings, pictures, tmp_path / "cut", RunOptions(device="cuda", deadline=0.0))
    resumed = training.train(settings, pictures, tmp_path / "cut", RunOptions(device="cuda", resume=True))
    for n, value in whole.codec().state_dict().items():
        if value.is_floating_point() and not n.endswith("quantiles"):
            assert torch.allclose(value, resumed.codec().state_dict()[n], atol=1e-4), n


@cuda
def test_on_cuda_a_run_says_where_it_was_trained(pictures: list[data.Picture], tmp_path: Path) -> None:
    run = training.train(TINY, pictures, tmp_path, RunOptions(device="cuda"))
    device = run.record().device
    assert device.startswith("cuda") and torch.cuda.get_device_name() in device and "torch" in device
