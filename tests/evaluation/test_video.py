from __future__ import annotations

import time
from dataclasses import replace

import pytest
import torch

from gradlab import data
from gradlab.codecs import PFrame
from gradlab.codecs import video as codecs
from gradlab.data import Picture, VideoCrops
from gradlab.errors import GradlabError, Stopped
from gradlab.evaluation import psnr
from gradlab.evaluation.video import rate_distortion
from gradlab.noise import stream
from gradlab.runtime import checkpoints
from gradlab.training import Loss, RunOptions, TrainSettings, train

SETTINGS = TrainSettings(codec="ssf2020", channels=(4, 6), crop=128, shift=4, batch=1, steps=2,
                         loss=Loss("ms-nic-mix", k=2))  # fmt: skip


def coordinates():
    """A picture whose bytes say where each pixel is."""
    rows, columns = torch.meshgrid(torch.arange(150), torch.arange(160), indexing="ij")
    return Picture("where", torch.stack([rows, columns, rows * 0]).to(torch.uint8), "")


def test_a_window_moves_over_the_picture_by_whole_pixels():
    shift, motions = 8, []
    videos = VideoCrops([coordinates()], 128, 16, shift, seed=1)
    for step in range(8):
        for first, second in (videos.batch(step) * 255).round().int():
            assert first.shape == (3, 128, 128)
            assert (first[0, 1:] - first[0, :-1] == 1).all()
            moved = second - first
            down, right = int(moved[0, 0, 0]), int(moved[1, 0, 0])
            assert (moved[0] == down).all() and (moved[1] == right).all()
            motions.append((down, right))
    motion = torch.tensor(motions)
    assert motion.min() == -shift and motion.max() == shift
    assert motion[:, 0].unique().numel() > 12 and motion[:, 1].unique().numel() > 12
    again = VideoCrops([coordinates()], 128, 16, shift, seed=1)
    assert torch.equal(videos.batch(3), again.batch(3))
    assert not torch.equal(videos.batch(3), VideoCrops([coordinates()], 128, 16, shift, seed=2).batch(3))


@pytest.mark.parametrize("gathers", [False, True])
def test_frames_are_windows_of_one_area_mirrored_or_not(gathers):
    """The area is cut and mirrored first, as ``Crops`` does, then both windows are taken from it."""
    pictures, shift, size, batch = data.embedded("train")[:3], 9, 64, 8
    videos = VideoCrops(pictures, size, batch, shift, seed=2)
    if gathers:
        videos._crops._gathers = True
        videos._crops._flatten()
    areas = data.Crops(pictures, size + shift, batch, 2)
    for step in range(4):
        motion = torch.randint(-shift, shift + 1, (batch, 2), generator=stream(2, "pans", step))
        assert {int(m) for m in areas.places(step)[:, 3]} == {0, 1}
        for area, (down, right), frames in zip(areas.batch(step), motion.tolist(), videos.batch(step), strict=True):
            for frame, top, left in ((0, max(0, -down), max(0, -right)), (1, max(0, down), max(0, right))):
                assert torch.equal(frames[frame], area[:, top : top + size, left : left + size])


def test_snapshots_of_a_p_frame(tmp_path):
    run = train(replace(SETTINGS, snapshots=(0, 1)), data.embedded("train")[:1], tmp_path)
    first, last = (run.codec(i).res_encoder[0].weight for i in (0, None))
    assert isinstance(run.codec(1), PFrame) and not torch.equal(first, last)


def test_without_motion_both_frames_are_one():
    frames = VideoCrops([coordinates()], 128, 2, 0, seed=1).batch(0)
    assert torch.equal(frames[:, 0], frames[:, 1])


def test_training_moves_what_a_p_frame_uses_and_nothing_else(tmp_path):
    pictures = data.embedded("train")
    codec = train(SETTINGS, pictures, tmp_path / "a").codec()
    assert isinstance(codec, PFrame)
    before = codecs.build(SETTINGS.channels, SETTINGS.seed).state_dict()
    used = tuple(f"{part}_" for part in ("res", "motion"))
    for name, value in codec.state_dict().items():
        if before[name].shape != value.shape or name.endswith(("quantiles", "bound", "pedestal", "target")):
            continue  # tables and quantiles, which finish() writes
        assert torch.equal(before[name], value) is not name.startswith(used), name
    again = train(SETTINGS, pictures, tmp_path / "b").codec()
    assert all(torch.equal(a, b) for a, b in zip(again.state_dict().values(), codec.state_dict().values(), strict=True))


def test_the_motion_is_part_of_the_run(tmp_path):
    settings = TrainSettings(codec="ssf2020", channels=(4, 6), crop=128, batch=1, steps=1)
    still, moving = (train(replace(settings, shift=s), data.embedded("train")[:1], tmp_path) for s in (0, 8))
    assert still.folder != moving.folder


def test_rate_and_distortion_add_up():
    codec = codecs.build((4, 6), seed=1)
    codec.finish()
    videos = VideoCrops(data.embedded("test"), 128, 3, 4, seed=0).batch(0)
    table = rate_distortion(codec, videos, 0.015)
    frame = codec.rounded(videos)
    for index, row in enumerate(table.itertuples()):
        assert row.bpp_residual == pytest.approx(float(frame.residual_bits[index]) / 128**2, rel=1e-5)
        assert row.bpp_motion == pytest.approx(float(frame.motion_bits[index]) / 128**2, rel=1e-5)
        ours = (frame.x_hat[index].clamp(0, 1) * 255).round()
        assert row.mse == pytest.approx(float(((ours - videos[index, 1] * 255) ** 2).mean()), rel=1e-4)
        repeated = float(((videos[index, 0] - videos[index, 1]) * 255).square().mean())
        assert row.mse_repeated == pytest.approx(repeated, rel=1e-4)
        assert row.psnr == psnr(row.mse)
        assert row.rd_cost == row.bpp + 0.015 * row.mse


@pytest.mark.parametrize(("call", "match"), [
    pytest.param(lambda: VideoCrops(data.embedded("test"), 128, 1, -1, 0), "shift is -1: give a whole number of pixels, at least 0", id="negative motion"),
    pytest.param(lambda: VideoCrops(data.embedded("test"), 320, 1, 8, 0), "too small for crops of 328", id="large crops"),
    pytest.param(lambda: rate_distortion(codecs.build((4, 6)), torch.rand(1, 2, 3, 128, 128), 0.0), "give a positive, finite lambda", id="no lambda"),
    pytest.param(lambda: rate_distortion(codecs.build((4, 6)), torch.rand(1, 1, 3, 128, 128), 0.1), "the video has one frame", id="one frame"),
])  # fmt: skip
def test_bad_input(call, match):
    with pytest.raises(GradlabError, match=match):
        call()


def test_the_deadline_ends_training_with_a_checkpoint_that_resumes_to_the_same_bits(tmp_path):
    pictures, late = data.embedded("train")[:1], time.monotonic() - 1
    with pytest.raises(Stopped, match="at the time limit after iteration 1 of 2"):
        train(SETTINGS, pictures, tmp_path / "a", RunOptions(deadline=late))
    (folder,) = (tmp_path / "a").iterdir()
    assert checkpoints.load(folder / "last.safetensors").iteration == 1
    counted = []
    options = RunOptions(resume=True, progress=lambda n=1, note="": counted.append(n))
    resumed = train(SETTINGS, pictures, tmp_path / "a", options).codec()
    assert counted == [1, 1]
    done = train(SETTINGS, pictures, tmp_path / "a", RunOptions(deadline=late)).codec()  # nothing left to do
    whole = train(SETTINGS, pictures, tmp_path / "b").codec()
    for name, value in whole.state_dict().items():
        assert torch.equal(resumed.state_dict()[name], value) and torch.equal(done.state_dict()[name], value), name


def test_a_breakdown_names_the_module(monkeypatch, tmp_path):
    build = codecs.build

    def spoilt(channels, seed):
        codec = build(channels, seed)
        codec.get_submodule("res_encoder.0").register_forward_hook(lambda module, x, y: y * float("nan"))
        return codec

    monkeypatch.setattr(codecs, "build", spoilt)
    with pytest.raises(
        GradlabError, match=r"iteration 1: the loss is nan; the first module .* is res_encoder\.0; lower"
    ):
        train(SETTINGS, data.embedded("train")[:1], tmp_path)
