from __future__ import annotations

import os
import pickle
import re

import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.runtime import checkpoints
from tests.codecs.codec_zoo import LAM, NAMES, amplified, build, channels, compressai_model, generator, images


def finished(name, direct_y=True):
    codec = build(name, direct_y, trained=True)
    codec.finish()
    return codec


def older(state):
    """Names as CompressAI wrote them up to 1.2.6, and as its first releases did."""
    for old, new in (("_matrix", "matrices."), ("_bias", "biases."), ("_factor", "factors.")):
        state = {name.replace(f"bottleneck.{new}", f"bottleneck.{old}"): t for name, t in state.items()}
    return state


def oldest(state):
    for part in ("matrices", "biases", "factors"):
        state = {name.replace(f"bottleneck.{part}.", f"bottleneck._{part}."): t for name, t in state.items()}
    return {name.replace(".skip.", ".downsample."): t for name, t in state.items()}


WRITTEN = {
    "a state dict": lambda state: state,
    "of a training run": lambda state: {"epoch": 3, "state_dict": state, "loss": torch.tensor(1.0), "optimizer": {"lr": 1e-4}},
    "DataParallel": lambda state: {"state_dict": {f"module.{name}": t for name, t in state.items()}},
    "older names": older,
    "oldest names, DataParallel": lambda state: {f"module.{name}": t for name, t in oldest(state).items()},
}  # fmt: skip


@pytest.mark.parametrize(
    ("name", "written"),
    [(name, "of a training run") for name in NAMES]
    + [("bmshj2018-factorized", w) for w in WRITTEN if w != "of a training run"]
    + [("cheng2020-anchor", "oldest names, DataParallel")],
)
def test_compressais_checkpoints(tmp_path, name, written):
    codec = finished(name)
    path = tmp_path / "weights-3-6d87dff7.pth.tar"
    torch.save(WRITTEN[written](dict(compressai_model(codec).state_dict())), path)
    loaded = gl.codecs.load(path, name)
    assert type(loaded) is type(codec)
    assert not loaded.training
    assert all(torch.equal(loaded.state_dict()[n], t) for n, t in codec.state_dict().items())
    stream = amplified(codec).eval().compress(images())
    assert amplified(loaded).compress(images())["strings"] == stream["strings"]


@pytest.mark.parametrize("name", NAMES)
def test_our_checkpoints_and_compressais_class_read_each_other(tmp_path, name):
    codec = finished(name)
    checkpoints.save(tmp_path / "final.safetensors", codec.state_dict(), "hash", 4)
    training = {f"model.{n}": t for n, t in codec.state_dict().items()} | {"adam.step.g_a.0.bias": torch.tensor(4.0)}
    checkpoints.save(tmp_path / "last.safetensors", training, "hash", 4)
    for file in ("final", "last"):
        loaded = gl.codecs.load(str(tmp_path / f"{file}.safetensors"), name, channels(name))
        assert all(torch.equal(loaded.state_dict()[n], t) for n, t in codec.state_dict().items())
    model = compressai_model(loaded)
    torch.save(model.state_dict(), tmp_path / "compressai.pth")
    terms, _ = gl.codecs.load(tmp_path / "compressai.pth", name).log_terms(images(), LAM, generator=generator())
    assert torch.equal(terms.log_w(), codec.log_terms(images(), LAM, generator=generator())[0].log_w())


def test_the_switch_is_set_anew_and_a_codec_without_tables_can_be_finished(tmp_path):
    torch.save(build("mbt2018-mean").state_dict(), tmp_path / "raw.pth")
    loaded = gl.codecs.load(tmp_path / "raw.pth", "mbt2018-mean", direct_y=False)
    assert loaded.direct_y is False
    assert loaded.entropy_bottleneck.quantized_cdf.numel() == 0
    loaded.finish()
    assert loaded.compress(images())["strings"]


@pytest.mark.parametrize("true", NAMES)
def test_another_architecture_is_refused_and_named(tmp_path, true):
    path = tmp_path / "weights.pth"
    torch.save(build(true).state_dict(), path)
    for name in NAMES:
        if name != true:
            with pytest.raises(GradlabError, match=rf"weights\.pth do not fit {name}: give the name {true}$"):
                gl.codecs.load(path, name)


class Harmful:
    def __reduce__(self):
        return os.mkdir, ("executed",)


def write(path, content):
    path.write_bytes(content) if isinstance(content, bytes) else torch.save(content, path)


@pytest.mark.parametrize(("content", "match"), [
    pytest.param(b"no checkpoint at all", "is corrupt, or holds objects other than tensors", id="another file"),
    pytest.param(b"", "is corrupt, or holds objects other than tensors", id="empty"),
    pytest.param(pickle.dumps(Harmful()), "never executed", id="harmful"),
    pytest.param({"state_dict": {"g_a.0.weight": Harmful()}}, "never executed", id="harmful weights"),
    pytest.param({"epoch": 3}, "holds no state dict", id="no weights"),
    pytest.param({}, "holds no state dict", id="empty dict"),
    pytest.param([torch.ones(3)], "holds no state dict", id="a list"),
    pytest.param({"conv.weight": torch.ones(3)}, "it matches none of bmshj2018-factorized, ", id="another model"),
])  # fmt: skip
def test_bad_files(tmp_path, monkeypatch, content, match):
    monkeypatch.chdir(tmp_path)
    write(tmp_path / "bad.pth.tar", content)
    with pytest.raises(GradlabError, match=match):
        gl.codecs.load(tmp_path / "bad.pth.tar", "mbt2018")
    assert not (tmp_path / "executed").exists()


def test_damage_channels_and_names(tmp_path):
    with pytest.raises(GradlabError, match=r"no checkpoint .*missing\.pth"):
        gl.codecs.load(tmp_path / "missing.pth", "mbt2018")
    with pytest.raises(GradlabError, match="did you mean 'mbt2018-mean'"):
        gl.codecs.load(tmp_path / "missing.pth", "mbt2018-means")
    torch.save(build("bmshj2018-factorized").state_dict(), tmp_path / "factorized.pth")
    with pytest.raises(GradlabError, match="leave direct_y at True"):
        gl.codecs.load(tmp_path / "factorized.pth", "bmshj2018-factorized", direct_y=False)
    codec = finished("mbt2018-mean")
    path = tmp_path / "weights.pth.tar"
    torch.save(codec.state_dict(), path)
    with pytest.raises(GradlabError, match=re.escape("has channels (6, 4), not (4, 6)")):
        gl.codecs.load(path, "mbt2018-mean", (4, 6))
    cut = path.read_bytes()
    path.write_bytes(cut[: len(cut) // 2])
    with pytest.raises(GradlabError, match="is corrupt"):
        gl.codecs.load(path, "mbt2018-mean")
    ours = tmp_path / "ours.safetensors"
    checkpoints.save(ours, codec.state_dict(), "hash", 4)
    content = bytearray(ours.read_bytes())
    content[-1] ^= 1
    ours.write_bytes(bytes(content))
    with pytest.raises(GradlabError, match="is corrupt"):
        gl.codecs.load(ours, "mbt2018-mean")
    torch.save({n: t for n, t in codec.state_dict().items() if not n.startswith("h_s.4")}, path)
    with pytest.raises(GradlabError, match="do not fit mbt2018-mean"):
        gl.codecs.load(path, "mbt2018-mean")
