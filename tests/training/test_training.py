from __future__ import annotations

import json
import math
import time
from dataclasses import replace

import numpy as np
import pytest
import torch

from gradlab import data, training
from gradlab.errors import GradlabError, Stopped
from gradlab.noise import stream
from gradlab.runtime import checkpoints, files, provenance
from gradlab.training import Loss, PlainLoss, RunOptions, TrainSettings
from gradlab.training.settings import WARM_UP
from gradlab_studies import _methods as methods

TINY = TrainSettings(
    codec="small-hyperprior", channels=(4, 6), crop=32, batch=2, steps=6, learning_rate=1e-3, snapshots=(2, 4)
)


def tensors(path):
    return checkpoints.load(path).tensors


def same(a, b):
    return a.keys() == b.keys() and all(torch.equal(a[n], b[n]) for n in a)


def test_a_killed_run_resumes_to_the_same_bits(pictures, tmp_path):
    whole = training.train(TINY, pictures, tmp_path / "whole", RunOptions(log_every=1))

    class Killed(Exception):
        pass

    def kill(n=1, note="", count=[0]):  # noqa: B006
        count[0] += n
        if count[0] == 4:
            raise Killed

    with pytest.raises(Killed):
        training.train(
            TINY, pictures, tmp_path / "killed", RunOptions(progress=kill, checkpoint_seconds=0, log_every=1)
        )
    run = training.run_of(TINY.on(pictures), tmp_path / "killed")
    assert checkpoints.load(run.folder / "last.safetensors").iteration == 3
    resumed = training.train(
        TINY, pictures, tmp_path / "killed", RunOptions(resume=True, checkpoint_seconds=0, log_every=1)
    )
    for name in ("final", "snapshot-2", "snapshot-4"):
        assert same(tensors(whole.folder / f"{name}.safetensors"), tensors(resumed.folder / f"{name}.safetensors")), (
            name
        )
    assert (whole.folder / "log.csv").read_bytes() == (resumed.folder / "log.csv").read_bytes()
    assert not (resumed.folder / "last.safetensors").exists()


def test_one_step_is_adam_on_the_loss(pictures, tmp_path):
    """The first update, written out: clip, then Adam with bias correction."""
    settings = replace(TINY, steps=1, snapshots=(0,), clip=0.5)
    run = training.train(settings, pictures, tmp_path)
    codec = training.build(settings).train()
    x = data.Crops(pictures, 32, 2, 0).batch(0)
    terms, _ = codec.log_terms(x, settings.lam, generator=stream(0, "training noise", 0))
    loss = -terms.log_w().mean() / (math.log(2) * 32 * 32)
    weights = {n: p for n, p in codec.named_parameters() if not n.endswith("quantiles")}
    grads = dict(zip(weights, torch.autograd.grad(loss, list(weights.values())), strict=True))
    norm = torch.sqrt(sum((g**2).sum() for g in grads.values()))
    trained = tensors(run.folder / "final.safetensors")
    for name, p in weights.items():
        g = grads[name] * min(1.0, 0.5 / (norm + 1e-6))
        m, v = (1 - 0.90) * g, (1 - 0.95) * g**2
        step = 1e-3 * (m / (1 - 0.90)) / ((v / (1 - 0.95)).sqrt() + 1e-8)
        assert torch.allclose(trained[name], p - step, atol=2e-6), name
    assert same(tensors(run.folder / "snapshot-0.safetensors"), _finished(settings).state_dict())


def test_a_plain_autoencoder_descends_the_mse_of_its_transforms(pictures, tmp_path):
    settings = replace(TINY, steps=3, snapshots=(), clip=1e9, loss=PlainLoss())
    run = training.train(settings, pictures, tmp_path, RunOptions(log_every=1))
    codec = training.build(settings).train()
    adam = torch.optim.Adam(codec.parameters(), lr=1e-3, betas=(0.90, 0.95))
    for iteration in range(3):
        x = data.Crops(pictures, 32, 2, 0).batch(iteration)
        adam.zero_grad()
        loss = 0.015 * torch.nn.functional.mse_loss(255 * codec.g_s(codec.g_a(x)), 255 * x)
        loss.backward()
        adam.step()
    trained = tensors(run.folder / "final.safetensors")
    for name, p in codec.named_parameters():
        if name.startswith(("g_a", "g_s")):
            assert torch.allclose(trained[name], p, atol=1e-6), name
        elif not name.endswith("quantiles"):
            assert torch.equal(trained[name], p), name
    log = files.read_csv(run.folder / "log.csv")
    assert log["loss"].iloc[-1] == pytest.approx(loss.item(), rel=1e-4)
    assert (log["bpp"] == 0).all()
    assert run.folder.name.startswith("plain-")


def _finished(settings):
    codec = training.build(settings)
    codec.finish()
    return codec


def test_learning_rate_scales_with_k_and_follows_the_cosine():
    s = TrainSettings(
        steps=400, warm_up=0, cosine_steps=10, learning_rate=1e-4, final_fraction=0.1, loss=Loss("ms-nic-mix", k=5)
    )
    assert s.rate_at(0) == pytest.approx(5e-4)
    assert s.rate_at(5) == pytest.approx(5e-4 * (0.1 + 0.9 * 0.5))
    assert s.rate_at(10) == s.rate_at(99) == pytest.approx(5e-5)
    assert replace(s, scale_learning_rate=False).rate_at(0) == pytest.approx(1e-4)
    assert replace(s, cosine_steps=0).rate_at(77) == pytest.approx(5e-4)


def test_the_learning_rate_warms_up_where_it_is_scaled_by_k():
    scaled = TrainSettings(learning_rate=1e-4, loss=Loss("ms-nic-mix", k=16))
    assert scaled.rate_at(0) == pytest.approx(16e-4 / WARM_UP)
    assert scaled.rate_at(WARM_UP // 2 - 1) == pytest.approx(8e-4)
    assert scaled.rate_at(WARM_UP - 1) == scaled.rate_at(WARM_UP) == pytest.approx(16e-4)
    for constant in (replace(scaled, scale_learning_rate=False), TrainSettings(), replace(scaled, warm_up=0)):
        assert constant.rate_at(0) == constant.rate_at(WARM_UP)
    assert replace(TrainSettings(), warm_up=10).rate_at(4) == pytest.approx(0.5e-4)
    assert methods.method(methods.PAPER, methods.BIG_BATCH, 5).rate_at(0) == pytest.approx(5e-4 / WARM_UP)
    assert methods.method(methods.QUICK, methods.BIG_BATCH, 5).rate_at(0) == methods.QUICK.rate_at(0)


def test_runs_are_shared_by_settings(pictures, tmp_path):
    first = training.train(TINY, pictures, tmp_path)
    before = (first.folder / "final.safetensors").stat().st_mtime_ns
    again = training.train(TINY, pictures, tmp_path)
    assert (again.folder / "final.safetensors").stat().st_mtime_ns == before
    assert training.run_of(replace(TINY, seed=1).on(pictures), tmp_path).folder != first.folder
    assert json.loads((first.folder / "settings.json").read_text())["channels"] == [4, 6]


def test_the_time_limit_leaves_a_checkpoint(pictures, tmp_path):
    with pytest.raises(Stopped):
        training.train(TINY, pictures, tmp_path, RunOptions(deadline=time.monotonic() - 1))
    run = training.run_of(TINY.on(pictures), tmp_path)
    assert checkpoints.load(run.folder / "last.safetensors").iteration == 1
    resumed = training.train(TINY, pictures, tmp_path, RunOptions(resume=True))
    whole = training.train(TINY, pictures, tmp_path / "whole")
    assert same(tensors(resumed.folder / "final.safetensors"), tensors(whole.folder / "final.safetensors"))


@pytest.mark.parametrize(("objective", "k", "l", "direct_y"), [
    ("ms-nic-mix", 3, 1, True), ("ms-nic-dms", 2, 2, True), ("iwae-2level", 2, 1, False), ("elbo", 2, 1, True),
])  # fmt: skip
@pytest.mark.parametrize("scale", ["nats", "bpp"])
def test_every_objective_trains(pictures, tmp_path, objective, k, l, direct_y, scale):
    settings = replace(
        TINY,
        direct_y=direct_y,
        steps=3,
        snapshots=(),
        scale_learning_rate=objective != "elbo",
        loss=Loss(objective, k=k, l=l, scale=scale),
    )
    run = training.train(settings, pictures, tmp_path, RunOptions(log_every=1))
    log = files.read_csv(run.folder / "log.csv")
    assert list(log["iteration"]) == [1, 2, 3]
    assert log["loss"].between(1, 2000).all()  # bits per pixel, whatever the objective's unit
    codec = run.codec()
    assert codec.direct_y is direct_y
    assert len(codec.compress(torch.rand(1, 3, 32, 32))["strings"]) == 2


def test_a_non_finite_loss_stops_with_the_iteration_and_the_parameter(pictures, tmp_path):
    bad = [p._replace(pixels=p.pixels) for p in pictures]
    settings = replace(TINY, lam=1e38)
    with pytest.raises(GradlabError, match=r"broke down at iteration 1: .*lower the learning rate"):
        training.train(settings, bad, tmp_path)


def test_a_corrupt_checkpoint_is_refused(pictures, tmp_path):
    run = training.train(TINY, pictures, tmp_path)
    path = run.folder / "final.safetensors"
    whole = path.read_bytes()
    for damaged in (whole[: len(whole) // 2], whole[:-1] + bytes([whole[-1] ^ 1]), b"", b"not a checkpoint"):
        path.write_bytes(damaged)
        with pytest.raises(GradlabError, match=r"final.safetensors is corrupt .*delete it and train again"):
            run.codec()


def test_a_checkpoint_without_an_entry_is_refused(pictures, tmp_path):
    run = training.train(TINY, pictures, tmp_path)
    stored = checkpoints.load(run.folder / "final.safetensors")
    checkpoints.save(run.folder / "final.safetensors", stored.tensors, stored.settings_hash, 3, {"warm_restarts": []})
    with pytest.raises(GradlabError, match="has no entry 'step': delete the run and train it again"):
        run.record()


def test_a_checkpoint_of_other_settings_is_refused(pictures, tmp_path):
    run = training.train(TINY, pictures, tmp_path)
    other = training.run_of(replace(TINY, lam=0.03).on(pictures), tmp_path)
    other.folder.mkdir()
    (other.folder / "final.safetensors").write_bytes((run.folder / "final.safetensors").read_bytes())
    with pytest.raises(GradlabError, match="belongs to other settings"):
        other.codec()
    with pytest.raises(GradlabError, match="the weights after 3 iterations are not in"):
        run.codec(iteration=3)


@pytest.mark.parametrize(("change", "match"), [
    ({"codec": "bmshj2018-hyperpior"}, "unknown codec.*did you mean 'bmshj2018-hyperprior'"),
    ({"channels": (4,)}, r"channels of small-hyperprior are \(4\): give two positive integers"),
    ({"codec": "ssf2020", "channels": (4,)}, r"channels of ssf2020 are \(4\): give two positive integers"),
    ({"codec": "ssf2020", "loss": PlainLoss()}, "ssf2020 does not support PlainLoss"),
    ({"codec": "ssf2020", "loss": Loss("ms-nic-dms", k=2, l=2)}, "l is 2, but this codec draws at most one sample of z"),
    ({"codec": "bmshj2018-factorized", "direct_y": False}, "direct_y is False, but bmshj2018-factorized has no latent z"),
    ({"codec": "bmshj2018-factorized", "loss": Loss("ms-nic-dms", k=2, l=2)}, "l is 2, but this codec"),
    ({"direct_y": False, "loss": Loss("elbo", l=2)}, "l is 2, but without direct-y"),
    ({"direct_y": False, "loss": Loss("ms-nic-mix", k=2)}, "each y has its own z, but .*: use iwae-2level"),
    ({"loss": Loss("elbo", k=2)}, "the learning rate would grow 2-fold: set scale_learning_rate=False"),
    ({"shift": 4}, "only 'ssf2020' has motion"),
    ({"precision": "fp16"}, "unknown precision 'fp16'"),
    ({"warm_up": -1}, "warm_up is -1: give a whole number of at least 0"),
    ({"crop": 0}, "crop is 0"),
    ({"steps": -1}, "steps is -1"),
    ({"lam": -0.1}, "lambda must be positive"),
    ({"lam": float("nan")}, "lambda must be positive"),
    ({"learning_rate": 0.0}, "must be positive"),
    ({"snapshots": (7,)}, "snapshots is .*: give iterations from 0 to 6"),
])  # fmt: skip
def test_bad_settings(change, match):
    with pytest.raises(GradlabError, match=match):
        replace(TINY, **change)


@pytest.mark.parametrize(("change", "match"), [
    ({"k": 0}, "k is 0"),
    ({"l": -1}, "l is -1"),
    ({"k": 2.5}, "k is 2.5: give a whole number"),
    ({"estimator": "dreg"}, "'dreg' is biased for the unit box.*allow_biased=True"),
    ({"estimator": "drag"}, "did you mean 'dreg'"),
    ({"objective": "mix"}, "did you mean 'ms-nic-mix'"),
    ({"objective": "ms-nic-mix", "l": 2}, "l is 2, but ms-nic-mix takes one sample of z"),
    ({"objective": "iwae-2level", "k": 2, "l": 2}, "takes independent samples"),
    ({"objective": "jvi"}, "k is 1, but jvi leaves one sample out"),
    ({"weighting": "per term"}, "unknown weighting 'per term'"),
    ({"scale": "bits"}, "unknown scale 'bits'"),
    ({"proxy": "round"}, "unknown proxy 'round'"),
])  # fmt: skip
def test_bad_losses(change, match):
    with pytest.raises(GradlabError, match=match):
        Loss(**change)


@pytest.mark.parametrize(("change", "match"), [
    ({"device": "cuda:63"}, "there is no device 'cuda:63' here: give cpu"),
    ({"step": "graph"}, "step 'graph' needs CUDA, but the device is 'cpu'"),
    ({"step": "grpah"}, "unknown step 'grpah'.*did you mean 'graph'"),
    ({"log_every": 0}, "log_every is 0"),
    ({"snr_every": -1}, "snr_every is -1: give a whole number of at least 0"),
    ({"checkpoint_seconds": float("nan")}, "checkpoint_seconds is nan"),
    ({"explosion": 0.5}, "explosion is 0.5: give a factor above 1"),
])  # fmt: skip
def test_bad_options(change, match):
    with pytest.raises(GradlabError, match=match):
        RunOptions(**change)


def test_a_precision_that_the_device_lacks(pictures, tmp_path):
    with pytest.raises(GradlabError, match="precision 'tf32' is not available on device 'cpu': give float32"):
        training.train(replace(TINY, precision="tf32"), pictures, tmp_path)
    assert not list(tmp_path.glob("*/*.safetensors"))


def test_sizes_are_coerced_so_that_equal_settings_are_one_run():
    given = replace(TINY, channels=[np.int64(4), 6], steps=np.int32(6), snapshots=[2, np.int64(4)], betas=[0.9, 0.95],
                    lam=np.float64(0.015), loss=Loss("ms-nic-mix", k=np.int64(3)))  # fmt: skip
    plain = replace(TINY, loss=Loss("ms-nic-mix", k=3))
    assert given == plain and provenance.settings_hash(given) == provenance.settings_hash(plain)
    assert type(given.steps) is type(given.channels[0]) is type(given.loss.k) is int


def test_other_images_are_another_run(pictures, tmp_path):
    one = training.train(TINY, pictures, tmp_path)
    other = training.train(TINY, pictures[:1], tmp_path)
    assert one.folder != other.folder
    assert not same(tensors(one.folder / "final.safetensors"), tensors(other.folder / "final.safetensors"))
    with pytest.raises(GradlabError, match=r"fingerprint \w{12}, but the settings hold \w{12}: give the images"):
        training.train(one.settings, pictures[:1], tmp_path)
    with pytest.raises(GradlabError, match=r"have no fingerprint of training images: give settings\.on\(pictures\)"):
        training.run_of(TINY, tmp_path)
    # A checkpoint that was copied to the folder of other images is refused, not taken for theirs.
    third = training.run_of(TINY.on(pictures[1:]), tmp_path)
    third.folder.mkdir()
    (third.folder / "last.safetensors").write_bytes((one.folder / "final.safetensors").read_bytes())
    with pytest.raises(GradlabError, match="belongs to other settings"):
        training.train(TINY, pictures[1:], tmp_path, RunOptions(resume=True))


def test_images_smaller_than_a_crop(pictures, tmp_path):
    with pytest.raises(GradlabError, match=r"too small for crops of 500"):
        training.train(replace(TINY, crop=500), pictures, tmp_path)


def test_a_codec_records_its_five_groups_and_trains_as_without(tmp_path, pictures):
    plain = training.train(TINY, pictures, tmp_path / "plain")
    watched = training.train(TINY, pictures, tmp_path / "watched", RunOptions(snr_every=2, snr_draws=3))
    assert watched.folder.name == plain.folder.name
    for name in ("final.safetensors", "log.csv", "settings.json"):
        assert (plain.folder / name).read_bytes() == (watched.folder / name).read_bytes(), name
    table = files.read_csv(watched.snr(2, 3))
    groups = ["y infer", "y gen", "z infer", "z gen", "z prior"]
    assert list(table["group"]) == groups * 3 and list(table["iteration"]) == [i for i in (2, 4, 6) for _ in groups]
    assert (table["snr"] > 0).all()
