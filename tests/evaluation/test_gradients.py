from __future__ import annotations

import math

import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.evaluation.gradients import compare_direct_y, record
from gradlab.noise import stream
from gradlab.training import Loss

LAM = 0.015
GROUPS = ["y infer", "y gen", "z infer", "z gen", "z prior"]


def small(direct_y=True):
    return gl.codecs.build("small-hyperprior", channels=(4, 6), direct_y=direct_y, seed=1)


def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


@pytest.mark.parametrize("direct_y", [True, False])
def test_snr_of_the_five_groups_is_that_of_stored_gradients(direct_y):
    codec, draws = small(direct_y), 12
    before = {n: p.clone() for n, p in codec.named_parameters()}
    table = record(codec, images(), LAM, draws, seed=4).summary().set_index("group")
    assert list(table.index) == GROUPS
    assert all(torch.equal(before[n], p) for n, p in codec.named_parameters())
    assert all(p.grad is None for p in codec.parameters())
    for group, module in codec.groups().items():
        weights = [p for n, p in module.named_parameters() if not n.endswith("quantiles")]
        stored = []
        for t in range(draws):
            terms, _ = codec.log_terms(images(), LAM, generator=stream(4, "recording", t))
            loss = -terms.log_w().mean() / (math.log(2) * 32 * 32)
            grads = torch.autograd.grad(loss, weights)
            stored.append(torch.cat([g.flatten() for g in grads]).double())
        g = torch.stack(stored)
        mean, std = g.mean(0), g.std(0)
        live = std > 0
        assert table.loc[group, "snr"] == pytest.approx(float((mean[live].abs() / std[live]).mean()), rel=1e-4)
        assert table.loc[group, "variance_trace"] == pytest.approx(float(g.var(0).sum()), rel=1e-4)
        assert table.loc[group, "parameters"] == g.shape[1]
        assert table.loc[group, "dead"] == int((~live).sum())


def test_the_switch_is_flipped_on_the_same_noise_and_put_back():
    codec = small()
    recorders = compare_direct_y(codec, images(), LAM, 6, seed=1)
    assert codec.direct_y is True
    alone = record(small(False), images(), LAM, 6, seed=1)
    a, b = (r.summary().set_index("group")["variance_trace"] for r in (recorders["2-level"], alone))
    assert torch.allclose(torch.tensor(a.values), torch.tensor(b.values))
    # g_s sees the same y in both, so that its gradient is the same draw by draw; h_a does not.
    one, two = (recorders[s].summary().set_index("group")["snr"] for s in ("direct-y", "2-level"))
    assert one["y gen"] == pytest.approx(two["y gen"], rel=1e-6)
    assert one["z infer"] != pytest.approx(two["z infer"], rel=1e-3)


def test_a_new_minibatch_in_every_draw_adds_variance():
    codec = small()
    crops = gl.data.Crops(gl.data.embedded("train"), 32, 2, 0)
    alone = record(codec, crops.batch(0), LAM, 8).summary().set_index("group")
    both = record(codec, crops.batch, LAM, 8).summary().set_index("group")
    assert both["variance_trace"].sum() > 2 * alone["variance_trace"].sum()


def test_multi_sample_objectives_and_estimators_are_recorded():
    table = record(
        small(), images(), LAM, 4, loss=Loss("ms-nic-mix", "dreg", "per-term", k=3, allow_biased=True)
    ).summary()
    assert table["snr"].notna().all()


def test_bad_input():
    with pytest.raises(GradlabError, match="at least 2"):
        record(small(), images(), LAM, 1)
    with pytest.raises(GradlabError, match="finite"):
        record(small(), images() * math.nan, LAM, 2)
