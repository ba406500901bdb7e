"""Every public function with bad arguments: a correct result or a ``GradlabError``, never a traceback from inside.

What is public is found by introspection. Each name has one good call here; the property takes it, puts bad values in for
one or two of its arguments, and looks at how it ends. A new public name without a good call fails the first test.
"""

from __future__ import annotations

import functools
import inspect
import math
import os
import types
import warnings
from pathlib import Path

import numpy as np
import pandas as pd
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import gradlab as gl
from gradlab import validation
from gradlab.errors import GradlabError, NotExact
from gradlab.evaluation import container, gradients
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
        "array": np.zeros((0, 3)), "nan array": np.full(4, math.nan), "numpy int": np.int64(3), "numpy float": np.float32(2),
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


# ------------------------------------------------------------------------------------------------- the check itself


def sample(a: int, b: float = 1.0, c: str | None = None, d: tuple[int, ...] = (), *, e: list[str] | None = None):
    return a


@pytest.mark.parametrize(
    ("call", "sentence"),
    [
        ({"a": 1.5}, "a is 1.5: give a whole number"),
        ({"a": True}, "a is True: give a whole number"),
        ({"a": 1, "b": "x"}, "b is 'x': give a number"),
        ({"a": 1, "b": 10**400}, "b is a number beyond all floats: give a number"),
        ({"a": 1, "c": 2}, "c is 2: give text or None"),
        ({"a": 1, "d": (1, "x")}, "d is a tuple: give a sequence, each a whole number"),
        ({"a": 1, "e": "ab"}, "e is 'ab': give a sequence, each text or None"),
        ({"a": object()}, "a is an object: give a whole number"),
    ],
)
def test_wrong_kinds_are_named(call, sentence):
    with pytest.raises(GradlabError, match=sentence.replace(", each text or None", "")):
        validation.checked(sample)(**call)


@pytest.mark.parametrize("a", [1, pytest.param(np.int64(1), id="numpy"), pytest.param(10**400, id="huge")])
def test_right_kinds_pass(a):
    call = {"a": a, "b": np.float32(2), "c": None, "d": np.array([1, 2]), "e": ("x",)}
    assert validation.checked(sample)(**call) is a
    assert math.isnan(validation.checked(lambda b: b)(b=math.nan))
