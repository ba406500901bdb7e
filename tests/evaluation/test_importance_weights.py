from __future__ import annotations

import math

import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.evaluation.importance_weights import weight_statistics
from gradlab.noise import stream

LAM = 0.015


def codec():
    return gl.codecs.build("small-hyperprior", channels=(4, 6), seed=1)


def images():
    return torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(2))


def test_statistics_are_those_of_softmaxes_written_out():
    table = weight_statistics(codec(), images(), LAM, (3,), 2, seed=5).set_index(["weighting", "scale", "term"])
    values = {"all": [], "distortion": [], "y rate": []}
    for t in range(2):
        with torch.no_grad():
            terms, _ = codec().log_terms(images(), LAM, 3, 1, stream(5, "weights/k=3", t))
        values["distortion"].append(terms.log_lik[:, :, 0])
        values["y rate"].append(terms.log_py[:, :, 0])
        values["all"].append((terms.log_lik + terms.log_py)[:, :, 0])
    for (_, scale, term), row in table.iterrows():
        unit = 1.0 if scale == "nats" else math.log(2) * 32 * 32
        w = torch.softmax(torch.cat(values[term]).double() / unit, dim=1)
        ess = 1 / (w**2).sum(1)
        assert row["ess"] == pytest.approx(float(ess.mean()), rel=1e-5)
        assert row["ess_se"] == pytest.approx(float(ess.std() / 2), rel=1e-3, abs=1e-9)
        assert row["entropy"] == pytest.approx(
            float(torch.distributions.Categorical(w).entropy().mean()), rel=1e-4, abs=1e-6
        )
        assert row["largest"] == pytest.approx(float(w.max(1).values.mean()), rel=1e-5)
    assert len(table) == 6


def test_nats_are_sharper_than_bits_per_pixel():
    table = weight_statistics(codec(), images(), LAM, (8,), 2).set_index(["weighting", "scale", "term"])["ess"]
    assert 1 <= table["joint", "nats", "all"] < table["joint", "bpp", "all"] <= 8


@pytest.mark.parametrize(("k", "draws"), [((1,), 2), ((2,), 0), (1, 2), ((2.0,), 2)])
def test_bad_input(k, draws):
    with pytest.raises(
        GradlabError, match=r"(k|k\[0\]|draws) is .*: give a whole number (of samples, at least 2|of at least 1)"
    ):
        weight_statistics(codec(), images(), LAM, k, draws)
