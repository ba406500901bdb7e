"""Transforms that run once give the numbers of transforms that run anew."""

from __future__ import annotations

import pandas as pd
import pytest
import torch

import gradlab as gl
from gradlab.evaluation import bitstream
from gradlab.evaluation.gradients import record


@pytest.fixture(scope="module")
def codec():
    made = gl.codecs.build("small-hyperprior", (4, 6))
    made.finish()
    return made


@pytest.mark.parametrize(
    "loss", [pytest.param(gl.Loss(), id="elbo"), pytest.param(gl.Loss("ms-nic-mix", k=3), id="ms-nic-mix")]
)
def test_draws_that_share_the_encoder_are_those_that_do_not(codec, loss):
    x = torch.rand(2, 3, 32, 32, generator=torch.Generator().manual_seed(0))
    calls = []
    handle = codec.g_a.register_forward_hook(lambda *_: calls.append(1))
    shared = record(codec, x, 0.01, 5, loss=loss).summary("parameter")
    assert len(calls) == 1
    anew = record(codec, lambda t: x, 0.01, 5, loss=loss).summary("parameter")
    handle.remove()
    assert len(calls) == 6
    pd.testing.assert_frame_equal(shared, anew, rtol=1e-10, atol=0)


def test_each_transform_runs_once_for_a_bitstream(codec):
    calls = []
    handles = [m.register_forward_hook(lambda m, *_: calls.append(m)) for m in (codec.g_a, codec.g_s)]
    coded = bitstream(codec, torch.rand(1, 3, 30, 40, generator=torch.Generator().manual_seed(0)))
    for handle in handles:
        handle.remove()
    assert calls == [codec.g_a, codec.g_s]
    assert coded.x_hat.shape == (1, 3, 30, 40)
    assert len(codec.g_a._forward_hooks) == len(codec.g_s._forward_hooks) == 0


def test_a_decoder_that_reads_other_latents_is_still_found_out(monkeypatch):
    codec = gl.codecs.build("small-hyperprior", (4, 6))
    with torch.no_grad():
        codec.g_a[-1].weight.mul_(100)  # latents that do not all round to 0
        codec.g_s[0].weight.mul_(10)
    codec.finish()
    decompress = codec.decompress

    def of_another_image(**stream):
        return decompress(**codec.compress(torch.ones(1, 3, 32, 48)))

    x = torch.rand(1, 3, 32, 48, generator=torch.Generator().manual_seed(0))
    bitstream(codec, x)
    monkeypatch.setattr(codec, "decompress", of_another_image)
    with pytest.raises(gl.GradlabError, match="differs from the encoder's reconstruction"):
        bitstream(codec, x)
