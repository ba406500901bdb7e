"""Every public function with bad arguments: a correct result or a ``GradlabError``, never a traceback from inside.

What is public is found by introspection. Each name has one good call here; the property takes it, puts bad values in for
one or two of its arguments, and looks at how it ends. A new public name without a good call fails the first test.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import pickle
import random
import subprocess
import sys
import types
import warnings
from collections.abc import Mapping
from fractions import Fraction
from pathlib import Path
from types import MappingProxyType
from typing import Literal

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from jaxtyping import Float, Int
from torch import Tensor

import gradlab as gl
from gradlab import noise, validation
from gradlab.errors import ArgumentError, GradlabError, NotExact
from gradlab.evaluation import container, gradients
from gradlab.problems import comparison
from gradlab.problems.budget import evaluations
from gradlab.problems.rainforth import RainforthModel
from gradlab.problems.scaling import rainforth_snr
from tests.codecs.codec_zoo import build

EXAMPLES = int(os.environ.get("GRADLAB_EXAMPLES", "25"))
MODULES = {name: getattr(gl, name) for name in gl.__all__ if inspect.ismodule(getattr(gl, name))}
MODULES |= {"gradients": gradients}

# ----------------------------------------------------------------------------------------------------- one good call


def picture(side=24, name="a.png", seed=0):
    pixels = torch.randint(0, 256, (3, side, side + 8), generator=torch.Generator().manual_seed(seed))
    return gl.data.Picture(name, pixels.to(torch.uint8), "0" * 64)


@functools.cache
def pictures():
    return [picture(), picture(32, "b.png", 1)]


@functools.cache
def pixels():
    return torch.rand(1, 3, 16, 32, generator=torch.Generator().manual_seed(0))


@functools.cache
def codec():
    """A trained codec that can code, one for all tests."""
    trained = build("small-hyperprior", trained=True)
    trained.finish()
    return trained.eval()


@functools.cache
def stream():
    return container.encode(codec(), pixels()[0])


BOX = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
SETTINGS = gl.training.TrainSettings(codec="small-hyperprior", channels=(6, 4), crop=16, batch=1, steps=1, seed=1)
RATE, QUALITY = [0.2, 0.4, 0.7, 1.1], [28.0, 30.0, 32.5, 35.0]
CURVES = dict(reference_rate=RATE, reference_quality=QUALITY, rate=[r * 0.9 for r in RATE], quality=QUALITY)
POINTS = pd.DataFrame({"method": ["a"] * 4 + ["b"] * 4, "bpp": RATE * 2, "PSNR": QUALITY * 2, "MS-SSIM": QUALITY * 2})
GAUSSIAN = dict(x=1.0, slope=1.0, offset=0.0, likelihood_std=0.5, prior_std=1.0)


def parabola(y):
    return -(y**2)


GOOD = {
    "compare": lambda: dict(
        problem=BOX, estimators=("pathwise",), k=2, draws=64, seed=0, allow_biased=False, objective="iwae", wrt="phi",
        noise="iid", dtype=torch.float64,
    ),
    **{name: lambda: dict(groups={"a": torch.nn.Linear(2, 2)}, standard_errors=True, exclude=())
       for name in ("GradientRecorder", "snr.GradientRecorder")},
    **{name: lambda: dict(model=torch.nn.Linear(2, 2), groups=None, every=5, draws=2, csv=None, tensorboard=None,
                          generators=(), seed=0)
       for name in ("SNRMonitor", "snr.SNRMonitor")},
    **{name: lambda: dict(log_lik=torch.zeros(2, 3, 1), log_py=torch.zeros(2, 3, 1), log_pz=0.0, log_q=0.0, pixels=1,
                          rate_weight=1.0)
       for name in ("LogTerms", "objectives.LogTerms")},
    "estimators.get_estimator": lambda: dict(name="pathwise"),
    "objectives.get_objective": lambda: dict(name="elbo"),
    "objectives.get_proxy": lambda: dict(name="sga:0.25"),
    "objectives.kl_annealing": lambda: dict(step=3, warmup=10),
    "objectives.soft_free_bits": lambda: dict(weight=0.5, rate=2.0, target=1.0, slack=0.05, change=0.1),
    "codecs.build": lambda: dict(name="small-hyperprior", channels=(6, 4), direct_y=True, seed=0),
    "codecs.load": lambda: dict(path="weights.pth", name="small-hyperprior", channels=(6, 4), direct_y=True),
    "data.VideoCrops": lambda: dict(pictures=pictures(), size=8, batch=2, shift=1, seed=0, device="cpu"),
    "data.Crops": lambda: dict(pictures=pictures(), size=8, batch=2, seed=0, flips=True, device="cpu"),
    "data.embedded": lambda: dict(split="test"),
    "data.fingerprint": lambda: dict(pictures=pictures()),
    "data.floats": lambda: dict(image=pictures()[0]),
    "data.load": lambda: dict(folder="images", split="test", minimum=1),
    "data.read_image": lambda: dict(path="images/a.png"),
    "evaluation.classical_curves": lambda: dict(table=classical()),
    "evaluation.classical_codecs": lambda: dict(images=pictures()[:1], names=("JPEG",), qualities=(10,)),
    "evaluation.available_codecs": dict,
    "evaluation.bd": lambda: dict(CURVES, method="pchip"),
    "evaluation.bd_quality": lambda: dict(CURVES, method="pchip"),
    "evaluation.bd_rate": lambda: dict(CURVES, method="pchip"),
    "evaluation.bd_table": lambda: dict(points=POINTS, reference="a", qualities=("PSNR",), rate="bpp"),
    "evaluation.bitstream": lambda: dict(codec=codec(), x=pixels()),
    "evaluation.decode": lambda: dict(codec=codec(), data=stream()),
    "evaluation.deterministic_rounding": lambda: dict(codec=codec(), images=pictures()[:1], lam=0.01),
    "evaluation.distortion": lambda: dict(x=pixels(), x_hat=pixels() / 2),
    "evaluation.encode": lambda: dict(codec=codec(), image=pixels()[0]),
    "evaluation.is_kodak": lambda: dict(names=["kodim01.png"]),
    "evaluation.check_lambdas": lambda: dict(values=(0.01, 0.02)),
    "evaluation.ms_ssim": lambda: dict(x=torch.zeros(1, 3, 161, 161), x_hat=torch.zeros(1, 3, 161, 161)),
    "evaluation.mse_255": lambda: dict(x=pixels(), x_hat=pixels() / 2),
    "evaluation.named_images": lambda: dict(images=pictures()),
    "evaluation.pack": lambda: dict(container=container.unpack(stream())),
    "evaluation.psnr": lambda: dict(mse=4.0),
    "evaluation.rate_distortion": lambda: dict(codec=codec(), images=pictures()[:1], lam=0.01),
    "evaluation.read": lambda: dict(path="a.glc"),
    "evaluation.reconstruction": lambda: dict(codec=codec(), images=pictures()[:1]),
    "evaluation.published_results": lambda: dict(model="mbt2018"),
    "evaluation.summary": lambda: dict(per_image=pd.DataFrame({"image": ["a"], "mse": [2.0], "bpp": [0.5]})),
    "evaluation.to_8_bit": lambda: dict(x=pixels()),
    "evaluation.universal_quantization": lambda: dict(codec=codec(), images=pictures()[:1], lam=0.01, seed=0),
    "evaluation.unpack": lambda: dict(data=stream()),
    "evaluation.write": lambda: dict(path="b.glc", data=stream()),
    "latents.moments_over_images": lambda: dict(codec=codec(), images=pictures()),
    "latents.statistics": lambda: dict(codec=codec(), images=pictures(), dead=1e-3),
    "latents.channel_statistics": lambda: dict(codec=codec(), images=pictures(), dead=1e-3),
    "latents.statistics_of": lambda: dict(latent_moments=gl.latents.moments_over_images(codec(), pictures()), dead=1e-3),
    "latents.channel_statistics_of": lambda: dict(latent_moments=gl.latents.moments_over_images(codec(), pictures()), dead=1e-3),
    "latents.residuals": lambda: dict(codec=codec(), images=pictures(), bins=4),
    "latents.align": lambda: dict(images=pictures(), multiple=16),
    "latents.tiles": lambda: dict(pictures=pictures(), size=8),
    "paper.table": lambda: dict(n=1),
    "paper.printed": lambda: dict(n=1),
    "paper.claims": dict,
    "paper.value": lambda: dict(n=4, column="PSNR BD-BR (%)", method="IWAE"),
    "problems.BoxExpectation": lambda: dict(f=parabola, theta=0.2),
    "problems.BoxGaussian": lambda: dict(phi=0.3, dim=1, **GAUSSIAN),
    "problems.BoxProblem": lambda: dict(log_w=parabola, phi=0.3),
    "problems.NormalGaussian": lambda: dict(mean=0.3, std=0.5, dim=1, **GAUSSIAN),
    "problems.RoundedGaussian": lambda: dict(phi=0.3, proxy="noise", **GAUSSIAN),
    "problems.TwoLevel": lambda: dict(
        phi=0.3, encode=(0.5, 0.1), decode=(0.8, 0.1, 0.6), direct_y=True, **GAUSSIAN
    ),
    "problems.compare": lambda: GOOD["compare"](),
    "problems.dimension_map": lambda: dict(problem=BOX, k=(1, 4), dim=(1, 10), temperature=(1.0,)),
    **{name: lambda: {f: getattr(SETTINGS, f) for f in SETTINGS.__dataclass_fields__} | {"warm_up": 0}
       for name in ("TrainSettings", "training.TrainSettings")},
    "training.RunOptions": lambda: dict(
        device="cpu", resume=False, deadline=None, checkpoint_seconds=1.0, log_every=1, snr_every=0, snr_draws=2,
        tensorboard=False, explosion=20.0, step="eager", progress=print,
    ),
    "training.build": lambda: dict(settings=SETTINGS),
    "training.run_of": lambda: dict(settings=SETTINGS.on(pictures()), runs=Path("runs")),
    **{name: lambda: dict(settings=SETTINGS, pictures=pictures(), runs=Path("runs"), options=None)
       for name in ("train", "training.train")},
    **{name: lambda: dict(objective="elbo", estimator="pathwise", weighting="joint", scale="bpp", k=1, l=1,
                          proxy="noise", allow_biased=False)
       for name in ("Loss", "codecs.Loss", "training.Loss")},
    **{name: dict for name in ("codecs.PlainLoss", "training.PlainLoss")},
    "testing.assert_moments": lambda: dict(estimator="pathwise", problem=BOX, k=2, draws=64, seed=0, wrt="phi", z=9.0),
    "testing.assert_unbiased": lambda: dict(
        estimator="pathwise", problem=BOX, k=2, draws=64, seed=0, objective="iwae", wrt="phi", z=9.0
    ),
    "testing.check": lambda: dict(
        estimator="pathwise", problem=BOX, k=2, draws=64, seed=0, objective="iwae", wrt="phi"
    ),
    **{name: lambda: dict(codec=codec(), batches=pixels(), lam=0.01, draws=2, loss=None, seed=0)
       for name in ("record", "gradients.record")},
    "gradients.mean_loss": lambda: dict(codec=codec(), x=pixels(), lam=0.01, draws=2, loss=None, seed=0),
    "gradients.compare_direct_y": lambda: dict(codec=codec(), batches=pixels(), lam=0.01, draws=2, settings=("direct-y",)),
}  # fmt: skip

# Classes of what these return -> how to make one.
INSTANCES = {
    "BoxGaussian": (gl.problems.BoxGaussian, lambda: BOX),
    "BoxProblem": (gl.problems.BoxProblem, lambda: gl.problems.BoxProblem(parabola, 0.3)),
    "NormalGaussian": (gl.problems.NormalGaussian, lambda: gl.problems.NormalGaussian(0.3, 0.5, 1.0)),
    "RoundedGaussian": (gl.problems.RoundedGaussian, lambda: gl.problems.RoundedGaussian(0.3, 1.0)),
    "TwoLevel": (gl.problems.TwoLevel, lambda: gl.problems.TwoLevel(0.3, 1.0, (0.5, 0.1), (0.8, 0.1, 0.6))),
    "BoxExpectation": (gl.problems.BoxExpectation, lambda: gl.problems.BoxExpectation(parabola, 0.2)),
    "Crops": (gl.data.Crops, lambda: gl.data.Crops(pictures(), 8, 2, 0)),
    "Codec": (gl.codecs.SmallHyperprior, codec),
}
# The rest of a codec is torch's and CompressAI's own interface, that of crops the training loop's.
ONLY = {"Codec": ("log_terms", "latents", "universal"), "Crops": ("batch",)}

# Names that take no argument of a user's, or only hold what they are given.
PASSIVE = {"codecs.Codec", "codecs.Hyperprior", "codecs.SmallHyperprior", "codecs.PFrame", "problems.Problem",
           "training.Run", "training.TrainState", "GradlabError", "estimators.Estimator", "estimators.Requirement",
           "objectives.Objective", "objectives.Proxy", "objectives.SurrogateLoss"}  # fmt: skip


def classical():
    return gl.evaluation.classical_codecs(pictures()[:1], ("JPEG",), (10,))


def public():
    """Name of everything public that can be called -> itself."""
    calls = {name: getattr(gl, name) for name in gl.__all__ if callable(getattr(gl, name))}
    for package, module in MODULES.items():
        defined = [n for n, v in vars(module).items() if not n.startswith("_") and vars_module(v) == module.__name__]
        for name in getattr(module, "__all__", defined):
            value = getattr(module, name)
            if callable(value) and not isinstance(value, types.GenericAlias):
                calls[f"{package}.{name}"] = value
    return {n: v for n, v in calls.items() if not hasattr(v, "_fields")}  # a NamedTuple is a record


def vars_module(value):
    return getattr(value, "__module__", None) if inspect.isfunction(value) or inspect.isclass(value) else None


def answers(name):
    """Arguments of the methods of a class, by their names."""
    noise = torch.full((3, 2), 0.1, dtype=torch.float64) if name != "BoxExpectation" else torch.zeros(3).double()
    return {"k": 2, "wrt": "phi", "estimator": "pathwise", "draws": 3, "generator": None, "dtype": torch.float64,
            "objective": "iwae", "noise": noise, "step": 0, "level": "group", "l": 1, "walls": False,
            "overrides": {}, "y": np.array([0.0, 0.3]), "x": pixels(), "lam": 0.01, "proxy": "noise",
            "direct_y": True, "wrts": ("phi",), "method": "pathwise", "words": np.arange(6).reshape(2, 3)}  # fmt: skip


@functools.cache
def instance(name):
    return INSTANCES[name][1]()


def methods():
    """``Class.method`` -> (the method of one instance, a good call)."""
    calls = {}
    for name, (cls, _) in INSTANCES.items():
        for method, value in inspect.getmembers(cls, lambda v: inspect.isfunction(v) or inspect.ismethod(v)):
            if method.startswith("_") or method not in ONLY.get(name, (method,)):
                continue
            parameters = inspect.signature(value).parameters
            calls[f"{name}.{method}"] = (
                lambda name=name, method=method, /, **call: getattr(instance(name), method)(**call),
                lambda name=name, names=parameters: {n: v for n, v in answers(name).items() if n in names},
            )
    return calls


CALLS = {name: (value, GOOD[name]) for name, value in public().items() if name in GOOD}
CALLS |= methods()


def test_every_public_name_has_a_good_call():
    assert set(public()) - set(GOOD) - PASSIVE == set()
    assert set(GOOD) - set(public()) == set()


@pytest.fixture
def files(tmp_path, monkeypatch):
    """The files that good calls read."""
    from PIL import Image

    monkeypatch.chdir(tmp_path)
    (tmp_path / "images").mkdir()
    Image.fromarray(pictures()[0].pixels.permute(1, 2, 0).numpy()).save(tmp_path / "images" / "a.png")
    torch.save(codec().state_dict(), tmp_path / "weights.pth")
    (tmp_path / "a.glc").write_bytes(stream())


# ------------------------------------------------------------------------------------------------------- bad values


@functools.cache
def bad_values():
    return {
        "None": None, "True": True, "empty text": "", "text": "nonsense", "out": "../../x", "zero byte": "a\0b",
        "bytes": b"\x00", "zero": 0, "one": 1, "minus one": -1, "huge": 2**63, "beyond floats": 10**400, "half": 0.5,
        "minus half": -0.5, "nan": math.nan, "inf": math.inf, "minus inf": -math.inf, "tiny": 5e-324, "large": 1e308,
        "complex": 1j, "empty list": [], "list of None": [None], "numbers": [1.0, 2.0], "texts": ["a", "b"], "nested": [[1]],
        "nan list": [math.nan] * 4, "inf list": [math.inf] * 4, "dict": {}, "dict of None": {"a": None}, "set": {1},
        "object": object(), "type": int, "function": lambda *a, **o: None, "raising": [].pop, "generator": iter(()),
        "array": np.zeros((0, 3)), "nan array": np.full(4, math.nan), "numpy int": np.int64(3), "int scalar": torch.tensor(3), "ints": np.array([1, 2]), "iterator": iter([1, 2]), "numpy float": np.float32(2),
        "scalar": torch.tensor(1.0), "empty tensor": torch.zeros(0), "no pixels": torch.zeros(1, 3, 0, 16),
        "vector": torch.zeros(3), "image": torch.zeros(3, 16, 16), "batch": torch.zeros(2, 3, 16, 16),
        "odd batch": torch.zeros(1, 3, 17, 16), "one channel": torch.zeros(1, 1, 16, 16), "nan image": pixels() * math.nan,
        "inf image": pixels() * math.inf, "bytes image": torch.zeros(1, 3, 16, 16, dtype=torch.uint8), "negative": -pixels(),
        "int tensor": torch.zeros(1, 3, 16, 16, dtype=torch.int64), "half tensor": pixels().half(), "double": pixels().double(),
        "complex tensor": torch.zeros(1, 3, 16, 16, dtype=torch.complex64),
        "bool tensor": torch.zeros(1, 3, 16, 16, dtype=torch.bool), "meta": torch.zeros(1, 3, 16, 16, device="meta"),
        "sparse": torch.zeros(3, 16, 16).to_sparse(), "frame": pd.DataFrame(), "other frame": pd.DataFrame({"a": [1]}),
        "text frame": pd.DataFrame({c: ["x"] for c in ("method", "bpp", "PSNR", "image", "mse", "codec")}),
        "picture": pictures()[0], "pictures": pictures(), "small picture": [picture(1)], "module": torch.nn.Linear(1, 1),
        "untrained": build("small-hyperprior"), "other codec": build("bmshj2018-factorized"), "problem": BOX,
        "settings": SETTINGS, "dtype": torch.float32, "int dtype": torch.int64, "device": "cuda:99", "stream": stream()[:-1],
        "foreign": "meta", "rng": torch.Generator(),
    }  # fmt: skip


# A large number of these is work that was asked for, and not an error.
LONG = {"draws", "k", "l", "dim", "batch", "size", "steps", "bins", "workers", "minimum", "multiple", "channels", "m"}
WORK = {"huge", "beyond floats"}
# Results of these are not finite by definition: two images that are equal, a bound that is not there.
INFINITE = {"evaluation.psnr", "evaluation.distortion", "evaluation.ms_ssim", "data.floats"}
# What goes straight into a network comes out as it went in: finding NaN there costs a copy from the accelerator.
STRAIGHT = {"Codec.latents", "Codec.log_terms", "Codec.universal", "gradients.mean_loss"}  # fmt: skip
INFINITE |= STRAIGHT
CONSTANT = {
    "other codec",
    "untrained",
    "large",
    "batch",
    "bytes image",
    "odd batch",
}  # zeros have no std / mean, nor PSNR
CALLBACKS = {"f", "log_w", "batches"}  # what a user's own function raises is the user's


def not_finite(value):
    """How many NaN and infinite numbers a result holds."""
    if isinstance(value, float):
        return int(not math.isfinite(value))
    if isinstance(value, torch.Tensor):
        real = value.device.type != "meta" and value.is_floating_point() and value.layout == torch.strided
        return int((~torch.isfinite(value)).sum()) if real else 0
    if isinstance(value, pd.DataFrame):
        return int((~np.isfinite(value.select_dtypes("number").to_numpy(float))).any(0).sum())  # columns
    if isinstance(value, dict):
        return sum(map(not_finite, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(not_finite, value))
    return 0


@pytest.fixture(autouse=True)
def quiet():
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@pytest.mark.parametrize("name", CALLS)
def test_bad_arguments_end_in_a_result_or_a_clear_error(name, files):
    function, good = CALLS[name]
    try:
        usual = not_finite(function(**good()))
    except NotExact:  # an answer that this problem does not have
        usual = 0
    arguments_of = sorted(good())
    if not arguments_of:
        return

    @settings(max_examples=EXAMPLES, deadline=None, derandomize=True, database=None,
              suppress_health_check=list(HealthCheck))  # fmt: skip
    @given(
        st.lists(
            st.tuples(st.sampled_from(arguments_of), st.sampled_from(sorted(bad_values()))), min_size=1, max_size=2
        )
    )
    def property_of(changes):
        call = good()
        for argument, kind in changes:
            if (argument in LONG and kind in WORK) or (argument in CALLBACKS and callable(bad_values()[kind])):
                continue
            call[argument] = bad_values()[kind]
        try:
            result = function(**call)
        except (GradlabError, AssertionError) as error:
            if isinstance(error, AssertionError) and not name.startswith("testing.assert"):
                raise
            sentence = str(error)
            assert len(sentence) > 10 and (len(sentence) < 1000 or isinstance(error, AssertionError)), sentence
            return
        finally:
            codec().eval()
        if name not in INFINITE and not CONSTANT & {kind for _, kind in changes}:
            assert not_finite(result) <= usual, f"{changes} gave {result}"

    property_of()


# ------------------------------------------------------------------------------------------------- types, by beartype

CALLED = []


def sample(
    a: int, b: float = 1.0, c: str | None = None, d: tuple[int, ...] = (), *, e: list[str] | None = None,
    f: tuple[int, str] = (1, ""), g: Literal["x", "y"] = "x", h: Mapping[str, float] = MappingProxyType({}),
):  # fmt: skip
    CALLED.append(a)
    return a


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"a": 1.5}, "a is 1.5: give a whole number"),
        ({"a": True}, "a is True: give a whole number"),
        ({"a": 1e4}, "a is 10000.0: give a whole number, e.g. 10000"),
        ({"a": torch.tensor(True)}, "a is a Tensor: give a whole number"),
        ({"a": torch.zeros(2, 3)}, r"a is a Tensor of shape \(2, 3\) and type torch.float32: give a whole number"),
        ({"a": 1, "b": "x"}, "b is 'x': give a number"),
        ({"a": 1, "b": True}, "b is True: give a number"),
        ({"a": 1, "b": 10**400}, "b is a number beyond all floats: give a number"),
        ({"a": 1, "c": 2}, "c is 2: give text or None"),
        ({"a": 1, "d": (1, "x")}, r"d\[1\] is 'x': give a whole number"),
        ({"a": 1, "d": [1] * 99 + [True]}, r"d\[99\] is True: give a whole number"),
        ({"a": 1, "e": "ab"}, "e is 'ab': give a sequence, each text or None"),
        ({"a": 1, "f": (1, "x", 2)}, r"f is \(1, 'x', 2\): give 2 values \(a whole number, text\)"),
        ({"a": 1, "g": "z"}, "g is 'z': give 'x' or 'y'"),
        ({"a": 1, "h": {"x": 1.0, "y": "1"}}, r"h\['y'\] is '1': give a number"),
        ({"a": object()}, "a is an object: give a whole number"),
        ({"a": "x" * 100}, "a is '" + "x" * 56 + r"\.\.\.: give"),
    ],
)
def test_another_type_is_refused_before_the_function_runs(call, sentence):
    CALLED.clear()
    for positional in (True, False):
        first, rest = (call["a"],) if positional else (), {k: v for k, v in call.items() if k != "a" or not positional}
        with pytest.raises(ArgumentError, match=sentence):
            validation.checked(sample)(*first, **rest)
    assert CALLED == []


@pytest.mark.parametrize(
    "a", [1, np.int64(1), np.uint8(1), np.array(1), torch.tensor(1), 10**400], ids=lambda a: type(a).__name__
)
def test_numbers_of_numpy_and_torch_are_numbers(a):
    call = {"a": a, "b": np.float32(2), "c": None, "d": np.array([1, 2]), "e": ("x",), "f": [1, "x"], "h": {"x": 1}}
    assert validation.checked(sample)(**call) is a
    assert math.isnan(validation.checked(lambda b: b)(b=math.nan))


def test_the_error_holds_function_argument_value_and_what_to_give():
    for call, argument, value, expected in (
        ({"allow_biased": 1}, "allow_biased", 1, "True or False"),  # by beartype
        ({"draws": "x"}, "draws", "x", "a whole number of at least 2"),  # by a converter
        ({"k": (1, 2.5)}, "k[1]", 2.5, "a whole number of samples, at least 1"),
        ({"estimators": ("pathwise", 3)}, "estimators[1]", 3, "text or an Estimator"),
    ):
        with pytest.raises(ArgumentError) as refused:
            gl.compare(BOX, **call)
        for error in (refused.value, pickle.loads(pickle.dumps(refused.value))):
            assert isinstance(error, GradlabError) and str(error) == f"{argument} is {value!r}: give {expected}"
            assert (error.function, error.argument, error.value) == ("compare", argument, value)
            assert error.expected == expected


def test_compare_is_refused_before_it_samples(monkeypatch):
    def sampled(*_):
        raise AssertionError("compare sampled")

    monkeypatch.setattr(gl.problems.BoxGaussian, "log_terms", sampled)
    for bad in ({"allow_biased": 1}, {"dtype": "float64"}, {"objective": 3}, {"k": (8, "x")}, {"draws": 1e4}):
        with pytest.raises(ArgumentError, match="give"):
            gl.compare(BOX, **{"estimators": "pathwise", **bad})


def test_checks_leave_the_random_stream_of_python_alone():
    """Beartype draws the item of a sequence that it looks at."""
    state = random.getstate()
    validation.checked(sample)(1, d=[1, 2, 3], e=["x", "y"], h={"x": 1.0, "y": 2.0})
    with pytest.raises(ArgumentError):
        validation.checked(sample)(1, d=[1, 2, "x"])
    assert random.getstate() == state


def test_what_only_a_type_checker_resolves_is_not_checked():
    def unresolved(a: NoSuchName, b: int, *rest: int, c: "list[" = 1, **options: int):  # noqa: F821
        return a

    assert validation.checked(unresolved)("x", 1, "y", c="z", d="w") == "x"
    with pytest.raises(ArgumentError, match="b is 'x': give a whole number"):
        validation.checked(unresolved)("x", "x")


def test_a_wrong_number_of_arguments_is_an_error_of_the_language():
    for args, options in (((), {}), ((1, 1.0, None, (), 5), {}), ((1,), {"z": 1})):
        with pytest.raises(TypeError, match="argument"):
            validation.checked(sample)(*args, **options)


@validation.checked
class Counter:
    def __init__(self, start: int) -> None:
        self.count = start

    def add(self, n: int) -> int:
        return self._add(n)

    def _add(self, n: int) -> int:
        return self.count + n


def test_the_public_methods_of_a_class_are_checked():
    with pytest.raises(ArgumentError, match="start is 'x'"):
        Counter("x")
    with pytest.raises(ArgumentError, match="n is 'x'") as refused:
        Counter(1).add("x")
    assert refused.value.function == "add"
    assert Counter(1).add(n=2) == 3
    with pytest.raises(TypeError):
        Counter(1)._add("x")


# ------------------------------------------------------------------------------------------------- shapes, by jaxtyping


@validation.checked
def shaped(
    x: Float[Tensor, "batch k"], y: Float[Tensor, "batch 1 k"] | float = 0.0, n: Int[Tensor, " batch"] | None = None
):
    return x


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ((torch.zeros(2),), r"x is a Tensor of shape \(2,\) and type torch.float32: give a float tensor \[batch k\]$"),
        ((torch.zeros(2, 3, dtype=torch.int64),), r"type torch.int64: give a float tensor \[batch k\]"),
        ((np.zeros((2, 3)),), r"x is an ndarray of shape \(2, 3\) and type float64: give a float tensor"),
        ((torch.zeros(2, 3), torch.zeros(2, 2, 3)), r"y is .*\(2, 2, 3\).*give a float tensor \[batch 1 k\] or a number$"),
        ((torch.zeros(2, 3), torch.zeros(4, 1, 3)), "y is .*, whose axes agree with the other arguments"),
        ((torch.zeros(2, 3), 0.0, torch.zeros(3).long()), r"n is .*an integer tensor \[batch\] or None, whose axes agree"),
        ((torch.zeros(2, 3), 0.0, torch.zeros(2)), r"n is .*type torch.float32: give an integer tensor \[batch\] or None$"),
    ],
)  # fmt: skip
def test_another_shape_is_refused(call, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        shaped(*call)


def test_axes_have_their_sizes_in_one_call_only():
    for batch in (2, 3):
        x = torch.zeros(batch, 4, dtype=torch.float64)
        assert shaped(x, torch.zeros(batch, 1, 4).half(), n=torch.zeros(batch).long()) is x
    assert shaped(shaped(torch.zeros(2, 3))[:1]).shape == (1, 3)


def test_gradients_take_noise_of_two_axes():
    gradients_of = comparison.gradients
    pathwise = gl.ESTIMATORS["pathwise"]
    assert gradients_of(BOX, pathwise, torch.zeros(3, 2).double()).shape == (3,)
    with pytest.raises(ArgumentError, match=r"noise is .* give a float tensor \[draws k \*dim\]"):
        gradients_of(BOX, pathwise, torch.zeros(3).double())


# ------------------------------------------------------------------------------------------------- values, always


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (1e4, "draws is 10000.0: give a whole number of draws, at least 2, e.g. 10000"),
        (2.5, "draws is 2.5: give a whole number of draws, at least 2$"),
        (1, "draws is 1: give a whole number of draws, at least 2$"),
        (True, "draws is True: give"),
        (np.True_, "draws is (np\.)?True_?: give"),
        (torch.tensor(True), "draws is a Tensor: give"),
        (torch.tensor(3.0), "draws is a Tensor: give"),
        (torch.zeros(3, device="meta"), "draws is a Tensor of shape"),
        (np.array([1, 2]), "draws is an ndarray of shape"),
        ("3", "draws is '3': give"),
        (None, "draws is None: give"),
        (math.nan, "draws is nan: give"),
    ],
)
def test_no_whole_number(value, sentence):
    with pytest.raises(ArgumentError, match=sentence):
        validation.whole("draws", value, 2, "draws")


@pytest.mark.parametrize(
    "given",
    [
        [1, 2, 4], (1, 2, 4), list(2 ** np.arange(3)), 2 ** np.arange(3), torch.tensor([1, 2, 4]), pd.Series([1, 2, 4]),
        {1: 0, 2: 0, 4: 0}.keys(), (2**n for n in range(3)), iter([1, 2, 4]), [np.uint8(1), torch.tensor(2), 4],
    ],
    ids=lambda given: type(given).__name__,
)  # fmt: skip
def test_whole_numbers_of_every_kind_become_ints(given):
    numbers = validation.wholes("k", given, 1)
    assert numbers == [1, 2, 4] and {type(n) for n in numbers} == {int}


@pytest.mark.parametrize("given", [8, np.int32(8), np.array(8), torch.tensor(8), [8]], ids=lambda g: type(g).__name__)
def test_one_number_is_a_list_of_one(given):
    assert validation.wholes("k", given) == [8]


@pytest.mark.parametrize(
    ("value", "sentence"),
    [
        (8.0, "k is 8.0: give a whole number of at least 1, e.g. 8"),
        (True, "k is True: give a whole number of at least 1"),
        (0, "k is 0: give a whole number of at least 1"),
        ([1, 2.0], r"k\[1\] is 2.0: give a whole number of at least 1, e.g. 2"),
        ([1] * 50 + ["x"], r"k\[50\] is 'x': give a whole number"),
        (np.array([1.0, 2.0]), r"k\[0\] is 1.0: give a whole number"),
        (np.array([[1, 2]]), r"k\[0\] is an ndarray of shape \(2,\)"),
        ("12", "k is '12': give a whole number, or several"),
        (b"12", "k is a bytes: give a whole number, or several"),
        ({1: 2}, "k is a dict: give a whole number, or several"),
        (torch.tensor(1.5), "k is a Tensor: give a whole number, or several"),
        (None, "k is None: give a whole number, or several"),
        ([], "k is empty: give at least one"),
        (iter(()), "k is empty: give at least one"),
    ],
)
def test_no_whole_numbers(value, sentence):
    with pytest.raises(GradlabError, match=sentence):
        validation.wholes("k", value, 1)


@pytest.mark.parametrize("value", ["1", True, None, 1j, math.nan, math.inf, 10**400, torch.tensor(1.0), [1.0]])
def test_no_real_number(value):
    with pytest.raises(ArgumentError, match=r"^x is .*: give a (finite )?number$"):
        validation.real("x", value)


def test_real_numbers_become_floats():
    for value in (2, 2.0, np.float32(2), np.int8(2), Fraction(2)):
        assert validation.real("x", value) == 2.0 and type(validation.real("x", value)) is float


@pytest.mark.parametrize("name", ["pathwis", 3, None, ["pathwise"], {}])
def test_a_name_that_is_not_known(name):
    with pytest.raises(GradlabError, match=r"unknown estimator .*known are .*pathwise"):
        validation.known("estimator", name, gl.ESTIMATORS)


# Functions that take sizes, numbers or names, and arguments that mean the same.
SAME = {
    "compare, k as an array": lambda: (gl.compare, dict(problem=BOX, draws=64, allow_biased=True), dict(k=[1, 2, 4]),
                               [dict(k=list(2 ** np.arange(3))), dict(k=2 ** np.arange(3)), dict(k=torch.tensor([1, 2, 4])),
                                dict(k=iter([1, 2, 4])), dict(k=(n for n in (1, 2, 4)))]),
    "compare, one": lambda: (gl.compare, dict(problem=BOX), dict(estimators=["pathwise"], k=[2], draws=64, seed=3),
                     [dict(estimators="pathwise", k=2, draws=64, seed=3),
                      dict(estimators=gl.ESTIMATORS["pathwise"], k=np.int64(2), draws=np.int64(64), seed=np.uint8(3)),
                      dict(estimators=iter(["pathwise"]), k=torch.tensor(2), draws=torch.tensor(64), seed=torch.tensor(3))]),
    "dimension_map": lambda: (gl.problems.dimension_map, dict(problem=BOX), dict(k=[1, 4], dim=[10], temperature=[1.0]),
                      [dict(k=np.array([1, 4]), dim=10, temperature=1), dict(k=iter([1, 4]), dim=np.int64(10), temperature=1.0),
                       dict(k=torch.tensor([1, 4]), dim=torch.tensor([10]), temperature=np.ones(1))]),
    "check": lambda: (gl.testing.check, dict(estimator="pathwise", problem=BOX), dict(k=2, draws=64, seed=1),
              [dict(k=np.int64(2), draws=np.int64(64), seed=np.int64(1)), dict(k=torch.tensor(2), draws=torch.tensor(64), seed=1)]),
    "evaluations": lambda: (evaluations, dict(problem=BOX, name="pathwise"), dict(k=4), [dict(k=np.int64(4))]),
    "exact_bound": lambda: (BOX.exact_bound, {}, dict(k=4), [dict(k=np.int64(4)), dict(k=torch.tensor(4))]),
    "rainforth_snr": lambda: (rainforth_snr, dict(model=RainforthModel(data=2, dim=2)),
                      dict(k=[2], m=[1], draws=32), [dict(k=2, m=np.int64(1), draws=np.int64(32))]),
    "classical_codecs": lambda: (gl.evaluation.classical_codecs, dict(images=pictures()[:1]), dict(names=["JPEG"], qualities=[10]),
                         [dict(names="JPEG", qualities=10), dict(names=iter(["JPEG"]), qualities=np.array([10])),
                          dict(names=np.array(["JPEG"]), qualities=iter([10]))]),
    "bd_table": lambda: (gl.evaluation.bd_table, dict(points=POINTS, reference="a"), dict(qualities=["PSNR"]),
                 [dict(qualities="PSNR"), dict(qualities=iter(["PSNR"]))]),
    "check_lambdas": lambda: (gl.evaluation.check_lambdas, {}, dict(values=[0.01]), [dict(values=0.01), dict(values=np.array([0.01])),
                                                                             dict(values=iter([0.01]))]),
    "is_kodak": lambda: (gl.evaluation.is_kodak, {}, dict(names=["a.png"]), [dict(names="a.png"), dict(names=iter(["a.png"]))]),
    "Loss": lambda: (gl.Loss, dict(objective="ms-nic-mix"), dict(k=3), [dict(k=np.int64(3)), dict(k=torch.tensor(3))]),
    "TrainSettings": lambda: (gl.TrainSettings, dict(codec="small-hyperprior"), dict(channels=(6, 4), snapshots=(5,), seed=1, steps=9),
                      [dict(channels=np.array([6, 4]), snapshots=[np.int64(5)], seed=np.int64(1), steps=torch.tensor(9))]),
    "seed_of": lambda: (noise.seed_of, dict(purpose="x"), dict(seed=1, index=2), [dict(seed=np.int64(1), index=torch.tensor(2))]),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_what_means_the_same_gives_the_same(name):
    function, common, plain, others = SAME[name]()
    expected = function(**common, **plain)
    for other in others:
        result = function(**common, **other)
        if isinstance(expected, pd.DataFrame):
            pd.testing.assert_frame_equal(result, expected)
            assert [type(v) for v in result.iloc[0]] == [type(v) for v in expected.iloc[0]]
        else:
            assert repr(result) == repr(expected)


def test_channels_and_settings_are_one_or_several():
    build_codec = gl.codecs.build
    assert (
        build_codec("cheng2020-anchor", 4, seed=np.int64(1)).state_dict().keys()
        == build_codec("cheng2020-anchor", (4,)).state_dict().keys()
    )
    assert list(gradients.compare_direct_y(codec(), pixels(), 0.01, np.int64(2), settings="direct-y")) == ["direct-y"]
    net = torch.nn.Linear(2, 2)
    assert gl.SNRMonitor(net, generators=torch.Generator(), every=np.int64(3), draws=torch.tensor(2)).every == 3
    assert [p.shape for p in gl.GradientRecorder({"a": net}, exclude="bias").parameters] == [net.weight.shape]


BARE = """
import sys
sys.modules["beartype"] = sys.modules["jaxtyping"] = None
import numpy as np, pytest, torch
import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.testing import assert_moments, assert_unbiased, check

box = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
table = gl.compare(box, "pathwise", k=2 ** np.arange(2), draws=64, allow_biased=1)
assert table["k"].tolist() == [1, 2]
check("pathwise", box, 2, 64)
assert_unbiased("pathwise", box, 2, 64, z=9.0)
assert_moments("pathwise", box, 2, 64, z=9.0)
assert gl.problems.dimension_map(box, 4, 10)["ess"].item() <= 4
gl.problems.TwoLevel(0.3, 1.0, (0.5, 0.1), (0.8, 0.1, 0.6)).exact_bound(2)
gl.problems.comparison.gradients(box, gl.ESTIMATORS["pathwise"], torch.zeros(3, 2).double())
net = torch.nn.Linear(2, 1)
recorder = gl.GradientRecorder({"a": net})
with recorder:
    for _ in range(3):
        net(torch.rand(4, 2)).sum().backward()
        recorder.step()
recorder.summary()
monitor = gl.SNRMonitor(net, every=1, draws=2)
assert monitor.step(lambda: net(torch.rand(4, 2)).sum()) is not None
for bad, sentence in [
    (lambda: gl.compare(box, draws=1e4), "draws is 10000.0: give a whole number of at least 2, e.g. 10000"),
    (lambda: gl.compare(box, k=8.0), "k is 8.0: give a whole number"),
    (lambda: gl.compare(box, k=(1, "x")), r"k\\[1\\] is 'x': give a whole number"),
    (lambda: gl.compare(box, seed=-1), "seed is -1: give a whole number of at least 0"),
    (lambda: gl.compare(box, 3), "estimators is 3: give names of estimators"),
    (lambda: gl.compare(box, [3]), "unknown estimator 3"),
    (lambda: gl.compare(box, [["pathwise"]]), "unknown estimator"),
    (lambda: gl.compare(box, "pathwise", wrt=3), "unknown parameter"),
    (lambda: gl.compare(box, "pathwise", objective=[]), "unknown objective"),
    (lambda: gl.compare(box, "pathwise", noise=[]), "unknown noise coupling"),
    (lambda: check("pathwise", box, k=1.5), "k is 1.5: give a whole number"),
    (lambda: assert_unbiased("pathwise", box, z="x"), "z is 'x': give a number"),
    (lambda: gl.problems.BoxGaussian(phi="x", x=1.0), "phi is 'x': give a number"),
    (lambda: gl.problems.BoxGaussian(phi=0.3, x=1.0, dim=1.0), "dim is 1.0: give a whole number"),
    (lambda: box.draw_noise(2.0, 3), "draws is 2.0: give a whole number"),
    (lambda: gl.SNRMonitor(net, every=1.5), "every is 1.5: give a whole number"),
    (lambda: gl.SNRMonitor(net, seed=0.5), "seed is 0.5: give a whole number"),
    (lambda: gl.GradientRecorder({"a": net}, exclude=3), "exclude is 3: give names"),
    (lambda: recorder.summary([]), "unknown level"),
    (lambda: gl.LogTerms(torch.zeros(1, 2, 1), pixels="x"), "pixels is 'x': give a whole number"),
]:
    with pytest.raises(GradlabError, match=sentence):
        bad()
assert not {name for name in sys.modules if name.partition(".")[0] in ("beartype", "jaxtyping") and sys.modules[name]}
"""


def test_without_beartype_nothing_fails_and_values_are_checked():
    subprocess.run([sys.executable, "-W", "ignore", "-c", BARE], check=True, timeout=120)


# ------------------------------------------------------------------------------------------------- words for values


@pytest.mark.parametrize(
    ("value", "words"),
    [
        (np.float64, "the class float64"),
        (torch.Tensor, "the class Tensor"),
        (gl.problems.BoxGaussian, "the class BoxGaussian"),
        (np.zeros((2, 3)), "an ndarray of shape (2, 3) and type float64"),
        (np.random.default_rng(0), "a Generator"),
    ],
)
def test_refused_values_are_described(value, words):
    assert str(ArgumentError("dtype", value, "a dtype")) == f"dtype is {words}: give a dtype"


def test_booleans_of_numpy_are_booleans():
    table = gl.compare(BOX, "dreg", 2, 64, allow_biased=np.True_)
    assert len(table) == 1


def test_an_objective_can_be_given_itself():
    by_name, itself = (gl.compare(BOX, "pathwise", 2, 64, objective=o) for o in ("elbo", gl.OBJECTIVES["elbo"]))
    pd.testing.assert_frame_equal(by_name, itself)


def test_a_generator_of_numpy_is_told_from_torchs():
    with pytest.raises(GradlabError, match=r"generator is a Generator: give a torch\.Generator or None"):
        BOX.draw_noise(3, 2, np.random.default_rng(0))


def test_problems_of_users_are_not_type_checked():
    class Mine(gl.problems.BoxGaussian):
        def scaled(self, by: int) -> object:
            return by

    assert Mine(0.3, 1.0).scaled("x") == "x"
    with pytest.raises(GradlabError, match="phi is 'x': give a number"):
        Mine("x", 1.0)


def test_a_state_that_is_none_is_refused():
    recorder = gl.GradientRecorder(torch.nn.Linear(2, 2))
    with pytest.raises(GradlabError, match=r"state is 5: give what state_dict\(\) returned"):
        recorder.load_state_dict(5)
    with pytest.raises(GradlabError, match="give a model, or a dict name -> module or parameters"):
        gl.GradientRecorder([torch.nn.Linear(2, 2)])
