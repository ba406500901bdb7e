"""The recorder against gradients stored one by one with plain autograd."""

from __future__ import annotations

import copy
import functools
import io
import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from gradlab import kernels
from gradlab.errors import GradlabError, NonFinite
from gradlab.snr import definitions
from gradlab.snr.recorder import GradientRecorder, passes
from gradlab.snr.recorder.layout import Layout, Moments, pieces
from gradlab.snr.recorder.stream import BURN_IN, Stream, block_size


def model(inplace=True):
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(5, 7), nn.ReLU(inplace=inplace), nn.Linear(7, 3)).double()


def loss(net, seed, scale=1.0):
    g = torch.Generator().manual_seed(seed)
    x, noise = torch.ones(4, 5).double(), torch.randn(4, 3, generator=g, dtype=torch.float64)
    return scale * ((net(x) + noise) ** 2).mean()


def stored(net, parameters, draws, compute=loss):
    """``[draws, scalars]`` gradients, by autograd.grad on a copy of nothing."""
    rows = []
    for t in range(draws):
        grads = torch.autograd.grad(compute(net, t), parameters, allow_unused=True)
        rows.append(
            torch.cat(
                [(torch.zeros_like(p) if g is None else g).flatten() for p, g in zip(parameters, grads, strict=True)]
            )
        )
    return torch.stack(rows).double().numpy()


def record(recorder, net, draws, compute=loss):
    with recorder:
        for t in draws:
            compute(net, t).backward()
            recorder.step()
    return recorder


def check(row, draws, rel=1e-10):
    mean, std = draws.mean(0), draws.std(0, ddof=1)
    live = std > 0
    trace = (std**2).sum()
    assert row["parameters"] == draws.shape[1] and row["draws"] == len(draws) and row["dead"] == (~live).sum()
    assert row["snr"] == pytest.approx(np.mean(np.abs(mean[live]) / std[live]), rel=rel)
    assert row["variance_trace"] == pytest.approx(trace, rel=rel)
    assert row["mean_norm"] == pytest.approx(np.linalg.norm(mean), rel=rel)
    corrected = math.sqrt(max(0, ((mean[live] ** 2).sum() - trace / len(draws)) / trace))
    assert row["snr_corrected"] == pytest.approx(corrected, rel=rel)
    assert row["noise_floor"] == pytest.approx(math.sqrt(2 / (math.pi * len(draws))))


@pytest.mark.parametrize("draws", [2, 40, 150])  # inside the burn-in, single draws, an open block of 4
def test_summary_is_that_of_stored_gradients(draws):
    net = model()
    recorder = record(GradientRecorder({"first": net[0], "all": net}), net, range(draws))
    groups = recorder.summary().set_index("group")
    check(groups.loc["first"], stored(net, list(net[0].parameters()), draws))
    check(groups.loc["all"], stored(net, list(net.parameters()), draws))
    modules = recorder.summary("module").set_index(["group", "module"])
    check(modules.loc["all", "2"], stored(net, list(net[2].parameters()), draws))
    parameters = recorder.summary("parameter").set_index(["group", "parameter"])
    check(parameters.loc["all", "2.weight"], stored(net, [net[2].weight], draws))
    check(parameters.loc["first", "bias"], stored(net, [net[0].bias], draws))
    assert np.isfinite(groups["snr_se"]).all() == (draws >= 17)


def test_columns_and_groups_of_a_model():
    net = model()
    net.scale = nn.Parameter(torch.ones((), dtype=torch.float64))
    recorder = record(GradientRecorder(net, standard_errors=False), net, range(20))
    table = recorder.summary()
    assert " ".join(table.columns) == (
        "group parameters dead draws snr snr_se noise_floor snr_corrected mean_norm variance_trace"
    )
    assert list(table["group"]) == ["0", "2", "(own)"]
    assert table["snr_se"].isna().all()
    own = table.set_index("group").loc["(own)"]
    assert own["dead"] == 1 and math.isnan(own["snr"])  # it never gets a gradient: 0 in every draw
    assert list(recorder.summary("module").columns)[:3] == ["group", "module", "parameters"]
    assert list(recorder.summary("parameter").columns)[:3] == ["group", "module", "parameter"]


def test_weights_and_gradients_are_left_as_they_were():
    net = model()
    before = copy.deepcopy(net.state_dict())
    kept = torch.full_like(net[0].weight, 3.0)
    net[0].weight.grad = kept
    recorder = GradientRecorder(net)
    with recorder:
        for t in range(3):
            loss(net, t).backward()
            assert all(p.grad is None for p in net.parameters())
            recorder.step()
    assert net[0].weight.grad is kept and (kept == 3).all()
    assert net[2].weight.grad is None
    assert all(torch.equal(v, before[k]) for k, v in net.state_dict().items())
    # The hooks are gone: a backward pass accumulates as ever and records nothing.
    loss(net, 0).backward()
    assert net[2].weight.grad is not None and recorder.draws == 3


def test_hooks_are_gone_after_an_exception():
    net = model()
    recorder = GradientRecorder(net)
    with pytest.raises(KeyError), recorder:
        loss(net, 0).backward()
        raise KeyError("mine")
    loss(net, 0).backward()
    assert all(p.grad is not None and not p._post_accumulate_grad_hooks for p in net.parameters())
    # The half draw is forgotten, and the recorder can be opened again.
    net.zero_grad()
    record(recorder, net, range(2))
    check(recorder.summary().iloc[0], stored(net, list(net[0].parameters()), 2))


class Reused(nn.Module):
    """One layer used twice, a shared weight, an unused branch, a frozen layer."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(1)
        self.layer = nn.Linear(5, 5).double()
        self.tied = nn.Linear(5, 5).double()
        self.tied.weight = self.layer.weight
        self.sometimes = nn.Linear(5, 5).double()
        self.frozen = nn.Linear(5, 3).double().requires_grad_(False)

    def forward(self, x, seed=0):
        x = torch.relu_(self.layer(torch.relu_(self.layer(x))))
        x = self.tied(x)
        return self.frozen(self.sometimes(x) if seed % 2 else x)


def reused_loss(net, seed):
    g = torch.Generator().manual_seed(seed)
    x = torch.randn(4, 5, generator=g, dtype=torch.float64)
    return (net(x, seed) ** 2).mean()


def test_reuse_sharing_freezing_and_absent_gradients():
    net = Reused()
    recorder = record(GradientRecorder(net), net, range(9), reused_loss)
    table = recorder.summary().set_index("group")
    assert list(table.index) == ["layer", "tied", "sometimes"]  # the frozen layer is no group
    for name in table.index:
        check(table.loc[name], stored(net, list(getattr(net, name).parameters()), 9, reused_loss))
    both = record(GradientRecorder({"pair": nn.ModuleList([net.layer, net.tied])}), net, range(9), reused_loss)
    assert both.summary()["parameters"].item() == 25 + 5 + 5  # a shared weight counts once in one group


def test_accumulation_is_one_draw():
    net = model()
    recorder = GradientRecorder({"net": net})
    with recorder:
        for t in range(6):
            (loss(net, t) * 0.25).backward()
            (loss(net, t) * 0.75).backward()
            recorder.step()
    check(recorder.summary().iloc[0], stored(net, list(net.parameters()), 6))


def test_groups_as_lists_and_dicts_and_exclusion():
    net = model()
    net.register_parameter("quantiles", nn.Parameter(torch.ones(2, dtype=torch.float64)))

    def compute(net, t):
        return loss(net, t) + (net.quantiles * t).sum()

    recorder = GradientRecorder(
        {
            "list": [net[0].weight],
            "dict": {"b": net[0].bias},
            "pairs": net[2].named_parameters(),
            "one": net[2].weight,
            "twice": [net[2].bias, net[2].bias],
            "left out": net,
        },
        exclude=("quantiles",),
    )
    record(recorder, net, range(5), compute)
    assert net.quantiles.grad is None  # thrown away, not left behind
    sizes = recorder.summary().set_index("group")["parameters"].to_dict()
    assert sizes == {"list": 35, "dict": 7, "pairs": 24, "one": 21, "twice": 3, "left out": 35 + 7 + 24}
    check(recorder.summary().iloc[0], stored(net, [net[0].weight], 5))


class Masked(nn.Conv2d):
    def __init__(self):
        super().__init__(2, 2, 3, bias=False)
        self.register_buffer("mask", torch.ones_like(self.weight))
        self.mask[:, :, 1:, 1:] = 0

    def forward(self, x):
        self.weight.data = self.weight.data * self.mask
        return super().forward(x)


@pytest.mark.parametrize("chunk", [2**22, 7])
def test_masked_taps_do_not_count(chunk, monkeypatch):
    monkeypatch.setattr("gradlab.snr.recorder.layout.CHUNK", chunk)
    torch.manual_seed(3)
    net = Masked().double()

    def compute(net, t):
        return (
            net(torch.randn(1, 2, 6, 6, generator=torch.Generator().manual_seed(t), dtype=torch.float64)).square().sum()
        )

    row = record(GradientRecorder({"net": net}), net, range(30), compute).summary().iloc[0]
    everything = stored(net, [net.weight], 30, compute)
    taps = net.mask.flatten().numpy() != 0
    assert np.abs(everything[:, ~taps]).max() > 0  # autograd does not know of the mask
    check(row, everything[:, taps])
    # Neither does a gradient that is not finite at a tap that nobody uses.
    handle = net.weight.register_hook(lambda g: torch.where(net.mask != 0, g, math.nan))
    record(GradientRecorder({"net": net}), net, range(2), compute)
    handle.remove()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32])
def test_low_precision_gradients_are_summed_in_float64(dtype):
    net = nn.Linear(6, 4).to(dtype)
    kept = []
    recorder = GradientRecorder({"net": net})
    with recorder:
        for t in range(70):
            x = torch.randn(3, 6, generator=torch.Generator().manual_seed(t)).to(dtype)
            net(x).sum().backward()
            kept.append(torch.cat([recorder._pending[i].double().flatten() for i in range(2)]))
            recorder.step()
    check(recorder.summary().iloc[0], torch.stack(kept).numpy())


def test_sparse_gradients():
    net = nn.Embedding(5, 2, sparse=True).double()

    def compute(net, t):
        return (net(torch.tensor([t % 3, 1])) * (t + 1.0)).sum()

    row = record(GradientRecorder({"net": net}), net, range(6), compute).summary().iloc[0]
    assert row["parameters"] == 10 and row["dead"] == 4


def test_compiled_models():
    net = model(inplace=False)
    wanted = record(GradientRecorder(net), net, range(5)).summary()
    wrapped = torch.compile(net, backend="aot_eager")
    loss(wrapped, 0).backward()  # hooks come after compilation
    net.zero_grad()
    table = record(GradientRecorder(wrapped), wrapped, range(5)).summary()
    np.testing.assert_allclose(table.drop(columns="group"), wanted.drop(columns="group"), rtol=1e-10)
    assert list(table["group"]) == ["0", "2"]


def test_a_gradient_that_is_not_finite_changes_nothing():
    net = model()
    recorder = GradientRecorder({"net": net})
    with recorder:
        for t in range(66):  # an open block of 2 from draw 64 on
            loss(net, t).backward()
            recorder.step()
        before = recorder.state_dict()
        for bad in (math.nan, math.inf):
            (loss(net, 9) + (net[2].bias * bad).sum()).backward()
            with pytest.raises(GradlabError, match=r"'2.bias' of group 'net' is not finite in draw 67"):
                recorder.step()
            same(before, recorder.state_dict())
        with pytest.raises(GradlabError, match="without a gradient"):
            recorder.step()
        loss(net, 66).backward()
        recorder.step()
    check(recorder.summary().iloc[0], stored(net, list(net.parameters()), 67))


def test_finite_gradients_whose_sum_overflows_are_taken():
    net = nn.Linear(4, 1, bias=False)
    recorder = GradientRecorder({"net": net})
    with recorder:
        (net.weight * 3e38).sum().backward()
        recorder.step()
    assert recorder.summary()["mean_norm"].item() == pytest.approx(6e38, rel=1e-6)


def test_wrong_use():
    net = model()
    recorder = GradientRecorder(net)
    with pytest.raises(GradlabError, match="outside the recorder's context"):
        recorder.step()
    with pytest.raises(GradlabError, match="has no draws"):
        recorder.summary()
    with recorder, pytest.raises(GradlabError, match="call backward"):
        recorder.step()
    with recorder, pytest.raises(GradlabError, match="already open"):
        recorder.__enter__()
    with pytest.raises(GradlabError, match="after every draw"), recorder:
        loss(net, 0).backward()
    record(recorder, net, range(2))
    with pytest.raises(GradlabError, match="did you mean 'module'"):
        recorder.summary("modul")
    with pytest.raises(GradlabError, match="other is this recorder"):
        recorder.merge(recorder)
    with pytest.raises(GradlabError, match="give a GradientRecorder"):
        recorder.merge(net)
    with pytest.raises(GradlabError, match=r"different parameters .*same groups"):
        recorder.merge(GradientRecorder({"x": net}))
    with pytest.raises(GradlabError, match="only one of the recorders has standard errors"):
        recorder.merge(GradientRecorder(net, standard_errors=False))


def test_groups_that_cannot_be_recorded():
    net = model()
    cases = [
        ({"x": nn.ReLU()}, "group 'x' has no trainable parameter"),
        ({"x": []}, "group 'x' has no trainable parameter"),
        ({"x": nn.Linear(2, 2).requires_grad_(False)}, "leave the group out, or unfreeze"),
        (nn.ReLU(), "the model ReLU has no trainable parameter"),
        ({}, "groups is empty"),
        ({"x": 3}, "group 'x' is 3: give a module"),
        ({"x": "abc"}, "group 'x' is 'abc': give a module"),
        ({"x": [net]}, "group 'x' holds a Sequential where a parameter is expected"),
        ({3: net}, "name groups by strings"),
        ([net], "groups is a list: give a model"),
        ({"x": [net[0].weight * 2]}, "is not a leaf"),
        ({"x": [torch.ones(2, dtype=torch.complex64, requires_grad=True)]}, "complex or empty"),
    ]
    for groups, message in cases:
        with pytest.raises(GradlabError, match=message):
            GradientRecorder(groups)


def same(a, b):
    if isinstance(a, dict):
        assert a.keys() == b.keys()
        for key in a:
            same(a[key], b[key])
    elif isinstance(a, (list, tuple)):
        assert len(a) == len(b)
        for x, y in zip(a, b, strict=True):
            same(x, y)
    elif isinstance(a, torch.Tensor):
        assert torch.equal(a, b)
    else:
        assert a == b


@pytest.mark.parametrize("cut", [1, 30, 133])
def test_state_round_trip_continues_bit_for_bit(cut):
    net = model()
    whole = record(GradientRecorder(net), net, range(150))
    first = record(GradientRecorder(net), net, range(cut))
    file = io.BytesIO()
    torch.save(first.state_dict(), file)
    second = GradientRecorder(net)
    second.load_state_dict(torch.load(io.BytesIO(file.getvalue()), weights_only=True))
    same(first.state_dict(), second.state_dict())
    record(second, net, range(cut, 150))
    same(whole.state_dict(), second.state_dict())
    second.summary()
    same(whole.state_dict(), second.state_dict())


def test_memory_is_constant_in_draws():
    net = model()

    def size(recorder):
        file = io.BytesIO()
        torch.save(recorder.state_dict(), file)
        return len(file.getvalue())

    recorder = record(GradientRecorder(net), net, range(600))
    at_600 = size(recorder)
    assert size(record(recorder, net, range(600))) <= at_600 + 100
    plain = record(GradientRecorder(net, standard_errors=False), net, range(100)).state_dict()
    scalars = sum(p.numel() for p in net.parameters())
    assert sum(v.numel() for name in ("mean", "m2", "block_mean", "block_m2") for v in plain[name]) == 2 * scalars


def test_a_reset_recorder_starts_anew():
    net = model()
    recorder = record(GradientRecorder(net, standard_errors=False), net, range(70))
    recorder.reset()
    assert recorder.draws == 0
    same(record(recorder, net, range(5)).state_dict(), record(GradientRecorder(net, False), net, range(5)).state_dict())


def test_damaged_states_are_refused():
    net = model()
    recorder = record(GradientRecorder(net), net, range(70))
    good = recorder.state_dict()
    for key, value in (("mean", good["mean"][:-1]), ("draws", "many"), ("opened", 99), ("squares", {}), ("last", [1])):
        with pytest.raises(GradlabError, match="state is damaged"):
            recorder.load_state_dict({**good, key: value})
    with pytest.raises(GradlabError, match="different parameters"):
        recorder.load_state_dict({})
    short = [v[:-1] for v in good["block_mean"]]
    with pytest.raises(GradlabError, match="state is damaged"):
        recorder.load_state_dict({**good, "block_mean": short, "block_m2": short})
    without = {k: v for k, v in good.items() if k != "pairs"}
    with pytest.raises(GradlabError, match="state is damaged"):
        recorder.load_state_dict(without)
    same(good, recorder.state_dict())


@given(cuts=st.tuples(st.integers(0, 90), st.integers(0, 90)))
@settings(max_examples=15, deadline=None)
def test_merge_is_recording_in_one_go(cuts):
    a, b = sorted(cuts)
    net = model()
    draws = noisy_draws()[:90]
    whole = fed(draws)
    parts = [fed(draws[:a]), fed(draws[a:b]), fed(draws[b:])]
    parts[1].merge(parts[2])
    parts[0].merge(parts[1])
    assert parts[0].draws == 90
    for x, y in zip(parts[0].totals(0), whole.totals(0), strict=True):
        torch.testing.assert_close(x, y, rtol=1e-12, atol=1e-13)
    assert net is not None


@functools.cache
def noisy_draws():
    return torch.randn(700, 30, generator=torch.Generator().manual_seed(4), dtype=torch.float64) + 1.0


def fed(draws, standard_errors=True):
    stream = Stream([torch.zeros(draws.shape[1])], [[0]], standard_errors)
    stream.allocate([torch.device("cpu")])
    for row in draws:
        stream.update([row])
    return stream


def test_merged_recorders_keep_their_standard_errors():
    net = model()
    whole = record(GradientRecorder(net), net, range(120)).summary()
    a, b = record(GradientRecorder(net), net, range(67)), record(GradientRecorder(net), net, range(67, 120))
    before = b.state_dict()
    a.merge(b)
    same(before, b.state_dict())
    merged = a.summary()
    exact = ["parameters", "dead", "draws", "snr", "snr_corrected", "mean_norm", "variance_trace"]
    np.testing.assert_allclose(merged[exact], whole[exact], rtol=1e-11)
    np.testing.assert_allclose(merged["snr_se"], whole["snr_se"], rtol=0.5)
    empty = GradientRecorder(net)
    empty.merge(b)
    np.testing.assert_allclose(empty.summary()[exact], b.summary()[exact], rtol=1e-12)


@pytest.mark.parametrize("large", [0, 2**40], ids=["compiled", "passes"])
def test_fast_replicates_are_the_plain_ones(large, monkeypatch):
    """The replicates of both against ``snr.replicate`` on the stored draws, block by block."""
    monkeypatch.setattr("gradlab.snr.recorder.stream.LARGE", large)
    stream = Stream([torch.zeros(30)], [[0]], True)
    stream.allocate([torch.device("cpu")])
    scale = torch.logspace(-30, 30, 30, dtype=torch.float64)  # float32 could not hold their squares
    draws = noisy_draws() * scale * torch.tensor([1.0, -1.0, 0.2]).repeat(10)  # means of both signs and near the floor
    draws[:, 3] = 5.0
    seen = 0
    for t in range(700):
        closed = stream.draws - stream.opened
        last = stream.spread.last
        stream.update([draws[t]])
        if stream.spread.last is last or stream.opened:
            continue
        block = stream.draws - closed
        assert block == block_size(closed)
        parts = []
        for part in (draws[:closed], draws[closed : t + 1]):
            parts += [part.mean(0), (part - part.mean(0)).square().sum(0), len(part)]
        parts[1][3] = 0.0
        assert float(stream.spread.last) == pytest.approx(definitions.replicate(*parts), abs=2e-4)
        seen += 1
    assert seen == 64 - BURN_IN + 32 * 3 + (700 - 512) // 16


def test_block_sizes():
    assert [block_size(n) for n in (0, 63, 64, 127, 128, 10**7)] == [1, 1, 2, 2, 4, 2**18]


def test_chunks_of_large_parameters():
    g = torch.Generator().manual_seed(5)
    draws = torch.randn(12, 70_000 * max(1, torch.get_num_threads()), generator=g)
    mean, m2 = fed(draws).totals(0)
    torch.testing.assert_close(mean, draws.double().mean(0), rtol=0, atol=1e-14)
    torch.testing.assert_close(m2 / 11, draws.double().var(0), rtol=1e-12, atol=0)


def test_a_mean_that_dominates_costs_no_digits():
    row = noisy_draws()[:, :1].expand(-1, 3) + 1e8
    stream = fed(row)
    _, m2 = stream.totals(0)
    assert float(m2[0] / 699) == pytest.approx(float(row[:, 0].var()), rel=1e-6)


@pytest.mark.parametrize("draws", [25, 96])
@pytest.mark.parametrize("kind", ["independent", "one factor", "half shared"])
@pytest.mark.parametrize("mean", ["noise", "mixed", "clear"])
def test_snr_se_is_the_spread_of_repeated_experiments(kind, mean, draws):
    """Standard deviation of the SNR over 150 experiments against the root mean square of ``snr_se``, to 30 %.

    150 experiments know their standard deviation to 6-10 %, and the bound on the method's own error is about 20 %
    (``snr.replicate``); a method that takes parameters as independent is wrong by a factor of 5 here.
    """
    size, experiments = 60, 150
    g = torch.Generator().manual_seed(11)
    means = {"noise": torch.zeros(size), "mixed": torch.linspace(-0.2, 1.0, size), "clear": torch.full((size,), 2.0)}
    rows, errors = [], []
    for _ in range(experiments):
        common = torch.randn(draws, 1, generator=g, dtype=torch.float64)
        alone = torch.randn(draws, size, generator=g, dtype=torch.float64)
        kinds = {"independent": alone, "one factor": common.expand(-1, size), "half shared": (alone + common) / 2**0.5}
        noise = kinds[kind]
        stream = fed(noise + means[mean])
        group = definitions.tally(*stream.totals(0), draws)
        rows.append(definitions.snr(group))
        errors.append(stream.spread.standard_error(0, group.live, draws))
    ratio = math.sqrt(np.mean(np.square(errors))) / np.std(rows, ddof=1)
    assert 0.75 < ratio < 1.4, ratio


def test_recorded_snr_has_the_known_mean():
    """loss = w . (mu + sigma noise): the gradient is known, and mean/std is a t; z-tests on SNR and on the trace."""
    mu, sigma = torch.tensor([0.5, -1.0, 2.0]).double(), torch.tensor([1.0, 0.5, 4.0]).double()
    draws, experiments = 30, 250
    g = torch.Generator().manual_seed(12)
    weight = nn.Parameter(torch.zeros(3, dtype=torch.float64))
    rows = []
    for _ in range(experiments):
        recorder = GradientRecorder({"w": [weight]})
        with recorder:
            for _ in range(draws):
                (weight * (mu + sigma * torch.randn(3, generator=g, dtype=torch.float64))).sum().backward()
                recorder.step()
        rows.append(recorder.summary().iloc[0][["snr", "variance_trace"]].astype(float))
    rows = np.array(rows)
    # E|t|: all three are several standard errors from 0, so E[mean/std] = (mu/sigma) E[sigma/s] up to the fold of 0.5.
    f = draws - 1
    inverse = math.sqrt(f / 2) * math.exp(math.lgamma((f - 1) / 2) - math.lgamma(f / 2))
    x = (mu / sigma).abs() * math.sqrt(draws)
    fold = x * torch.erf(x / 2**0.5) + math.sqrt(2 / math.pi) * torch.exp(-x * x / 2)
    expected = [float(fold.mean()) / math.sqrt(draws) * inverse, float((sigma**2).sum())]
    z = (rows.mean(0) - expected) / (rows.std(0, ddof=1) / math.sqrt(experiments))
    assert np.abs(z).max() < 4.5


def updated(update, means, m2s, others, other_m2s, n, b, replicated):
    """The replicates of ``update``, which changes ``means`` and ``m2s``."""
    layout = Layout([m.shape for m in means], [m.device for m in means])
    into, other = Moments(layout), Moments(layout)
    for i, (mean, m2) in enumerate(zip(means, m2s, strict=True)):
        into.put(i, mean, m2)
        if other_m2s:
            other.put(i, others[i], other_m2s[i])
    values = update(into, other if other_m2s else others, n, b, replicated)
    for ours, theirs in zip((*means, *m2s), (*into.mean, *into.m2), strict=True):
        ours.copy_(theirs)
    return values


@pytest.fixture
def compiled():
    return pytest.importorskip("gradlab.snr.recorder.compiled", reason="compares with numba")


@pytest.mark.parametrize("b", [1, 4])
def test_loops_and_passes_are_one_arithmetic(b, compiled):
    """The compiled loops of a CPU against the passes of accelerators, pieces and scraps included."""
    g = torch.Generator().manual_seed(6)
    sizes = [3, 2 * compiled.PIECE + 2049]
    new = [torch.randn(size, generator=g) for size in sizes]
    new_m2 = [] if b == 1 else [torch.rand(size, generator=g, dtype=torch.float64) * b for size in sizes]
    results = []
    for update in (compiled.update, passes.update):
        g.manual_seed(7)
        mean = [torch.randn(size, generator=g, dtype=torch.float64) for size in sizes]
        m2 = [torch.rand(size, generator=g, dtype=torch.float64) * 9 for size in sizes]
        mean[0][0] = m2[0][0] = new[0][0] = 0.0
        for some in new_m2:
            some[0] = 0.0
        values = list(updated(update, mean, m2, new, new_m2, 10, b, replicated=True))
        first = ([mean[0].clone()], [m2[0].clone()], new[:1], new_m2[:1])
        assert not any(updated(update, *first, 10, b, replicated=False))
        results.append((values, mean, m2))
    (values, mean, m2), (other, other_mean, other_m2) = results
    assert values == pytest.approx(other, rel=1e-4)
    for ours, theirs in zip(mean + m2, other_mean + other_m2, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-14, atol=1e-15)


def test_loops_do_not_depend_on_threads(monkeypatch, compiled):
    draws = torch.randn(12, 3 * compiled.PIECE, generator=torch.Generator().manual_seed(8))
    results = []
    for threads in (1, 2, 5):
        monkeypatch.setattr(torch, "get_num_threads", lambda threads=threads: threads)
        stream = fed(draws)
        results.append((*stream.totals(0), stream.spread.last))
    for other in results[1:]:
        assert all(torch.equal(x, y) for x, y in zip(results[0], other, strict=True))


@pytest.mark.parametrize("large", [0, 2**40], ids=["compiled", "passes"])
def test_gradients_that_are_not_finite_are_dropped_whatever_the_size(large, monkeypatch):
    monkeypatch.setattr("gradlab.snr.recorder.stream.LARGE", large)
    weight = torch.zeros(300, requires_grad=True)
    recorder = GradientRecorder({"w": [weight]})
    with recorder:
        for values in (torch.ones(300), torch.full((300,), 3e38)):  # the sum of the second overflows
            (weight * values).sum().backward()
            recorder.step()
        before = recorder.state_dict()
        for bad in (math.nan, math.inf):
            (weight * torch.ones(300).index_fill(0, torch.tensor(299), bad)).sum().backward()
            with pytest.raises(NonFinite, match="draw 3"):
                recorder.step()
        for half in (3e38, 3e38):  # finite each, infinite together
            (weight * torch.full((300,), half)).sum().backward()
        with pytest.raises(NonFinite, match="draw 3"):
            recorder.step()
        same(before, recorder.state_dict())
        (weight * torch.ones(300)).sum().backward()
        recorder.step()
    assert recorder.draws == 3


class Operations(TorchDispatchMode):
    """Counts what is dispatched while it is entered."""

    def __init__(self):
        super().__init__()
        self.total = self.read = 0

    def __torch_dispatch__(self, func, types, args=(), kwargs=None):
        self.total += 1
        self.read += func is torch.ops.aten._local_scalar_dense.default
        return func(*args, **(kwargs or {}))


class Counted(GradientRecorder):
    """A recorder that counts its own operations, as on an accelerator, and not those of the draw."""

    def __init__(self, *args, **options):
        super().__init__(*args, **options)
        self.operations = Operations()
        self._stream.large = False

    def _take(self, parameter):
        with self.operations:
            super()._take(parameter)

    def step(self):
        with self.operations:
            super().step()


@pytest.mark.parametrize("chunk", [2**22, 2**14], ids=["one piece", "two pieces"])  # two at channels (128, 192)
def test_a_draw_costs_few_operations(chunk, monkeypatch):
    """They set the time on an accelerator, and depend on the number of parameters, not on their sizes."""
    monkeypatch.setattr("gradlab.snr.recorder.layout.CHUNK", chunk)
    codec = pytest.importorskip("gradlab.codecs").build("bmshj2018-hyperprior", (8, 12))
    recorder = Counted(codec.groups(), exclude=("quantiles",))
    parameters = list(recorder.parameters)
    assert len(parameters) == 54
    noise = torch.randn(1000, generator=torch.Generator().manual_seed(1)).tolist()
    with recorder:
        for t in range(1000):
            torch.autograd.backward(parameters, [torch.full_like(p, noise[t]) for p in parameters])
            recorder.step()
            assert recorder.operations.read == t + 1  # one number is read, to know that the draw is finite
            if recorder.draws in (200, 1000):
                assert recorder.operations.total <= 150 * recorder.draws
    assert len(recorder._stream.moments.layout.pieces) == (1 if chunk > 2**14 else 2)
    assert recorder.summary()["snr_se"].notna().all()
    # Only the sums behind the standard errors go by parameter.
    plain = Counted(codec.groups(), standard_errors=False, exclude=("quantiles",))
    counts = []
    with plain:
        for t in range(9):
            torch.autograd.backward(parameters, [torch.full_like(p, noise[t]) for p in parameters])
            plain.step()
            counts.append(plain.operations.total)
    assert max(np.diff(counts)) <= 20


def test_pieces_hold_whole_parameters_of_one_device(monkeypatch):
    monkeypatch.setattr("gradlab.snr.recorder.layout.CHUNK", 10)
    first, second = torch.device("cuda:0"), torch.device("cuda:1")
    cut = pieces([4, 6, 1, 10, 23, 2, 3, 3], [first] * 6 + [second, first])
    assert [(p.rows, p.sizes, p.start) for p in cut] == [
        ([0, 1], [4, 6], None),
        ([2], [1], None),
        ([3], [10], None),
        ([4], [10], 0),
        ([4], [10], 10),
        ([4], [3], 20),
        ([5], [2], None),
        ([6], [3], None),
        ([7], [3], None),
    ]
    assert [p.device for p in cut] == [first] * 7 + [second, first]
    layout = Layout([torch.Size([2, 2])], [torch.device("mps")])  # it has no float64
    assert layout.on_cpu and layout.pieces[0].device == torch.device("cpu")


def assorted(t):
    """Gradients of every float type and some strides, with some missing, by draw."""
    g = torch.Generator().manual_seed(t)
    shapes = [(3,), (4, 3, 5, 2), (), (7, 6), (2, 5), (4, 3, 5, 2), (11,), (90,)]
    types = [torch.float32] * 3 + [torch.float64, torch.bfloat16] + [torch.float32] * 2 + [torch.float16]
    gradients = [(torch.randn(s, generator=g) + 0.5).to(d) for s, d in zip(shapes, types, strict=True)]
    gradients[1] = gradients[1].to(memory_format=torch.channels_last)
    gradients[3] = gradients[3].t().contiguous().t()
    gradients[5] = gradients[5].to(memory_format=torch.channels_last)
    return [None if (t + i) % 7 == 0 else gradient for i, gradient in enumerate(gradients)]


PLACES = [torch.zeros(s) for s in ((3,), (4, 3, 5, 2), (), (7, 6), (2, 5), (4, 3, 5, 2), (11,), (90,))]
ROWS = [[0, 1, 2, 3, 4, 5, 6, 7], [1, 5], *([i] for i in range(8))]


def assortment(draws, large=False):
    stream = Stream(PLACES, ROWS, True)
    stream.large = large
    stream.allocate([torch.device("cpu")] * len(PLACES))
    for t in range(draws):
        stream.update(assorted(t))
    return stream


@pytest.mark.parametrize("draws", [30, 131])  # single draws; an open block
@pytest.mark.parametrize("chunk", [1, 50, 125, 2**22])  # parameters in parts, borders between them, one piece
def test_pieces_change_nothing(chunk, draws, monkeypatch):
    """Passes over pieces against the stored draws, against the compiled loops, and against passes over one piece."""
    whole, loops = assortment(draws), assortment(draws, large=kernels.compiles())
    monkeypatch.setattr("gradlab.snr.recorder.layout.CHUNK", chunk)
    cut = assortment(draws)
    rows = [assorted(t) for t in range(draws)]
    for i, place in enumerate(PLACES):
        kept = torch.stack(
            [torch.zeros(place.numel()) if r[i] is None else r[i].double().reshape(-1) for r in rows]
        ).double()
        mean, m2 = cut.totals(i)
        torch.testing.assert_close(mean, kept.mean(0), rtol=0, atol=1e-14)
        torch.testing.assert_close(m2 / (draws - 1), kept.var(0), rtol=1e-12, atol=0)
        assert all(torch.equal(x, y) for x, y in zip((mean, m2), whole.totals(i), strict=True))
    torch.testing.assert_close(cut.spread.last, whole.spread.last, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(cut.spread.last, loops.spread.last, rtol=1e-4, atol=1e-3)
    assert cut.spread.last[0] == pytest.approx(float(cut.spread.last[2:].sum()))
    assert cut.spread.last[1] == pytest.approx(float(cut.spread.last[[3, 7]].sum()))


def test_a_state_goes_from_one_cut_to_another(monkeypatch):
    net = model()
    whole = record(GradientRecorder(net), net, range(150)).state_dict()
    first = record(GradientRecorder(net), net, range(133))
    monkeypatch.setattr("gradlab.snr.recorder.layout.CHUNK", 9)
    second = GradientRecorder(net)
    second.load_state_dict(first.state_dict())
    merged = GradientRecorder(net)
    merged.merge(first)
    record(second, net, range(133, 150))
    for name in ("mean", "m2", "block_mean", "block_m2"):
        same(whole[name], second.state_dict()[name])
    for i in range(4):
        same(merged._stream.totals(i), first._stream.totals(i))


@pytest.mark.filterwarnings("ignore:Using backward.. with create_graph:UserWarning")
@pytest.mark.parametrize("large", [0, 2**40], ids=["compiled", "passes"])
def test_adding_gradients_is_a_backward_pass_and_a_step(large, monkeypatch):
    monkeypatch.setattr("gradlab.snr.recorder.stream.LARGE", large)
    net = Reused()
    stepped, added = GradientRecorder(net), GradientRecorder(net)
    with stepped:
        for t in range(70):
            reused_loss(net, t).backward(create_graph=t % 2 == 1)
            stepped.step()
    for t in range(70):
        gradients = torch.autograd.grad(
            reused_loss(net, t), added.parameters, allow_unused=True, create_graph=t % 2 == 0
        )
        added.add(gradients)
        for gradient in gradients:  # as the next replay of a graph overwrites them
            if gradient is not None:
                gradient.data.fill_(math.nan)
    same(stepped.state_dict(), added.state_dict())
    assert not any(v.requires_grad for r in (stepped, added) for v in r.state_dict()["mean"])
    # Inside of the context it is a draw of its own: what went backward still waits for its step.
    reused_loss(net, 70).backward()
    gradients = [p.grad for p in added.parameters]
    net.zero_grad()
    with added:
        reused_loss(net, 71).backward()
        added.add(gradients)
        added.step()
    same(record(stepped, net, (70, 71), reused_loss).state_dict(), added.state_dict())


def test_gradients_that_cannot_be_added():
    net = model()
    recorder = GradientRecorder({"net": net})
    good = [torch.ones_like(p) for p in recorder.parameters]
    recorder.add(good)
    before = recorder.state_dict()
    cases = [
        (dict(enumerate(good)), "gradients is a dict: give a list"),
        (good[0], "gradients is a Tensor .*: give a list"),
        (good[:-1], "3 gradients for 4 parameters"),
        ([*good, None], "None for a gradient of 0"),
        ([good[0].t(), *good[1:]], r"'0.weight' of group 'net' has shape \[5, 7\], the parameter \[7, 5\]: .* order"),
        ([good[0], 0.0, *good[2:]], "'0.bias' of group 'net' is a float: give a tensor of floats, or None"),
        ([good[0].long(), *good[1:]], r"'0.weight' of group 'net' is torch.int64: give a tensor of floats"),
        ([None] * 4, "every gradient is None"),
    ]
    for gradients, message in cases:
        with pytest.raises(GradlabError, match=message):
            recorder.add(gradients)
        same(before, recorder.state_dict())
    for bad in (math.nan, math.inf, -math.inf):
        with pytest.raises(NonFinite, match=r"'2.bias' of group 'net' is not finite in draw 2"):
            recorder.add([*good[:-1], torch.tensor([1.0, bad, 1.0])])
        same(before, recorder.state_dict())
    recorder.add([None, *good[1:]])
    recorder.add([good[0].to_sparse(), *good[1:]])
    assert recorder.draws == 3


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float32, torch.float64])
def test_finite_gradients_of_any_size_are_taken(dtype):
    weight = torch.zeros(9, dtype=dtype, requires_grad=True)
    other = torch.zeros(2, requires_grad=True)
    recorder = GradientRecorder({"w": [weight, other]})
    largest = torch.full((9,), torch.finfo(dtype).max, dtype=dtype)  # its norm is infinite
    recorder.add([largest, torch.ones(2)])
    with pytest.raises(NonFinite, match="'1' of group 'w'"):
        recorder.add([largest, torch.tensor([1.0, math.nan])])
    assert recorder.draws == 1
