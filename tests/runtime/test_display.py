"""What a session and a notebook show of the objects that users meet: what it is, sizes, draws; never a tensor."""

from __future__ import annotations

import functools
import html
import inspect
import re
import subprocess
import sys
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from torch import nn
from torch._subclasses.fake_tensor import FakeTensorMode

import gradlab as gl
from gradlab.estimators import Estimator
from gradlab.objectives.posteriors import Box, Normal
from gradlab.problems.rainforth import RainforthModel
from gradlab.runtime import display, heartbeat

LONGEST = 100
HOSTILE = "<script>alert('&')</script>"
NOT_SHOWN = {"SurrogateLoss"}  # a tensor, which torch shows


def density(y):
    return -(y**2)


def pictures():
    return [gl.data.Picture("a.png", torch.zeros(3, 40, 56, dtype=torch.uint8), "0" * 64)]


def network():
    return nn.Sequential(nn.Linear(3, 4), nn.Linear(4, 1))


def settings(**options):
    return gl.training.TrainSettings(codec="small-hyperprior", channels=(6, 4), crop=16, **options)


def of_problems():
    return [
        gl.problems.BoxProblem(density, 0.3),
        gl.problems.BoxGaussian(0.3, 1.0, likelihood_std=0.5),
        gl.problems.NormalGaussian(0, 1, 2, dim=3),
        gl.problems.RoundedGaussian(0.3, 1.0, "sga:0.25"),
        gl.problems.TwoLevel(0.1, 1.7, (0.15, 0.9), (0.85, 0.35, 0.6)),
        gl.problems.BoxExpectation(torch.sin, 0.2),
        RainforthModel(data=4),
    ]


def of_objectives():
    problem = gl.problems.BoxGaussian(0.3, 1.0)
    terms = problem.log_terms(problem.draw_noise(8, 5), walls=True)
    two = of_problems()[4]
    path = gl.objectives.PriorPath(torch.zeros(2, 3), torch.zeros(2, 3, 1))
    return [
        *(p.posterior for p in of_problems()[:5]),
        two.under("ms-nic-mix").posterior,
        Normal(torch.zeros(3, 2), torch.ones(())),
        *(terms, two.log_terms(two.draw_noise(8, 5)), terms.walls, terms.taps[0], path),
        *gl.OBJECTIVES.values(),
        *gl.PROXIES.values(),
    ]


def of_estimators():
    return [*gl.ESTIMATORS.values(), *gl.ESTIMATORS["vimco"].requires]


def of_snr():
    model = network()
    recorder = gl.GradientRecorder(model)
    monitor = gl.SNRMonitor(model)
    return [recorder, monitor, gl.snr.Moments.init((3, 2)), gl.snr.HigherMoments.init()]


def of_data():
    return [*pictures(), gl.data.Crops(pictures(), 16, 2, 0), gl.data.VideoCrops(pictures(), 16, 2, 3, 0)]


def of_testing():
    return [gl.testing.check(name, gl.problems.BoxGaussian(0.3, 1.0), draws=100) for name in ("pathwise", "dreg")]


def of_codecs():
    codec = gl.codecs.build("small-hyperprior", (6, 4))
    x = torch.zeros(1, 3, 16, 16)
    motion = gl.codecs.video.Frame(x, torch.zeros(1), torch.zeros(1))
    losses = [gl.Loss("ms-nic-mix", k=5), gl.codecs.PlainLoss()]
    return [codec, gl.codecs.video.build((4, 4)), codec.latents(x), motion, *losses, losses[1].parts(codec, x, 0.01)]


def of_training():
    run = gl.training.run_of(settings(data="0" * 64), Path("runs"))
    state = gl.training.TrainState.new(settings())
    return [run, state, settings(), gl.training.RunOptions(progress=density), *of_codecs()[4:6]]


def of_evaluation():
    stream = gl.evaluation.Container("0" * 16, (16, 16), (1, 1), (b"\0" * 5000, b"\0"))
    return [gl.evaluation.BD(-1.5, 0.2), stream, *gl.evaluation.CLASSICAL_CODECS.values()]


def of_latents():
    return [gl.latents.LatentMoments(torch.zeros(8), torch.ones(8), 0.5, 2)]


EXAMPLES = {name.removeprefix("of_"): make for name, make in dict(globals()).items() if name.startswith("of_")}
CODECS = {"codecs", "training", "evaluation", "latents"}  # packages that need CompressAI


def examples(package):
    if package in CODECS:
        pytest.importorskip("compressai")
    return EXAMPLES[package]()


class Cells(HTMLParser):
    """The tags and the texts of a table, as a browser sees them."""

    def __init__(self, text):
        super().__init__()
        self.tags, self.open, self.texts = set(), [], []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.add(tag)
        if tag != "br":
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.texts.append(data)


def check_table(text):
    """Return the texts of a table that holds nothing but a table, and closes what it opens."""
    cells = Cells(text)
    assert not cells.open
    assert cells.tags <= {"table", "caption", "b", "tr", "th", "td", "br"}
    assert "0x" not in text and "color" not in text  # readable on light and dark pages
    return " ".join(cells.texts)


@pytest.mark.parametrize("package", EXAMPLES)
def test_every_public_object_is_shown_by_what_it_is(package):
    for thing in examples(package):
        name, text = type(thing).__name__, repr(thing)
        assert text.startswith(f"{name}(") and text.endswith(")")
        assert "0x" not in text
        if not isinstance(thing, nn.Module):  # torch shows the tree of its modules
            assert len(text) <= LONGEST, text
            assert "\n" not in text and "tensor(" not in text
        if name != "BD":
            assert name in check_table(thing._repr_html_())


@pytest.mark.parametrize("package", EXAMPLES)
def test_no_public_class_is_left_out(package):
    made = {base for thing in examples(package) for base in type(thing).__mro__}
    module = getattr(gl, package)
    names = getattr(module, "__all__", ["LatentMoments"])
    public = {getattr(module, n) for n in names if inspect.isclass(getattr(module, n)) and n not in NOT_SHOWN}
    if package == "codecs":  # differs from an example in its layers alone
        public.discard(gl.codecs.Hyperprior)
    assert public - made == set()


def test_the_examples_are_of_every_package():
    pytest.importorskip("compressai")
    modules = {name for name in gl.__all__ if inspect.ismodule(getattr(gl, name))}
    assert modules - {"paper"} == set(EXAMPLES)


@pytest.mark.parametrize("package", EXAMPLES)
def test_half_built_objects_are_shown(package):
    """An exception in a constructor is reported by tools that show the object too."""
    for kind in {type(thing) for thing in examples(package)}:
        if not issubclass(kind, (nn.Module, tuple)):  # torch shows the one, and the other is never half-built
            half = kind.__new__(kind)
            assert repr(half).startswith(f"{kind.__name__}(")
            assert kind.__name__ in check_table(half._repr_html_())


def test_an_incomplete_object_says_so():
    half = gl.problems.BoxGaussian.__new__(gl.problems.BoxGaussian)
    assert repr(half) == "BoxGaussian(...)"
    half.phi = 0.3
    assert repr(half) == "BoxGaussian(phi=0.3, ...)"
    assert repr(gl.GradientRecorder.__new__(gl.GradientRecorder)) == "GradientRecorder(...)"


@pytest.mark.parametrize(
    "problem",
    [
        *of_problems()[:5],
        gl.problems.BoxGaussian(0.1 + 0.2, -1e-9, slope=2.0, offset=1e-20, dim=2),
        gl.problems.NormalGaussian(0.5, 2.0, 1.0, prior_std=3.0),
        gl.problems.TwoLevel(0.1, 1.7, (0.15, 0.9), (0.85, 0.35, 0.6), prior_std=2.0, direct_y=False, slope=0.5),
        gl.problems.TwoLevel(0.1, 1.7, (0.15, 0.9), (0.85, 0.35, 0.6)).under("ms-nic-mix"),
        gl.problems.TwoLevel(0.1, 1.7, (0.15, 0.9), (0.85, 0.35, 0.6)).under("ms-nic-dms", l=2),
    ],
    ids=repr,
)
def test_the_line_of_a_problem_builds_it_again(problem):
    names = vars(gl.problems) | {"density": density, "GumbelAnnealing": gl.objectives.proxies.GumbelAnnealing}
    again = eval(repr(problem), names)
    assert type(again) is type(problem)
    assert repr(again) == repr(problem)
    assert again.parameters == problem.parameters and again.dim == problem.dim
    assert again.exact_bound(2) == problem.exact_bound(2)


def test_the_line_of_settings_builds_them_again():
    pytest.importorskip("compressai")
    loss = gl.Loss("ms-nic-mix", k=5)
    names = {"TrainSettings": gl.TrainSettings, "Loss": gl.Loss, "RunOptions": gl.training.RunOptions}
    values = (loss, settings(loss=loss, warm_up=7, snapshots=(1,), steps=5), gl.training.RunOptions(log_every=3))
    for thing in (*values, settings(data="1" * 64)):
        assert eval(repr(thing), names) == thing
    assert repr(gl.TrainSettings()) == "TrainSettings()"
    assert repr(gl.TrainSettings(loss=loss)) == "TrainSettings(loss=Loss(objective='ms-nic-mix', k=5))"


def test_problems_are_described_by_what_differs_from_the_default():
    assert repr(of_problems()[1]) == "BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)"
    assert repr(RainforthModel(seed=3)) == "RainforthModel(seed=3)"
    assert "prior_std 1.0" in check_table(of_problems()[1]._repr_html_())
    assert repr(gl.problems.BoxProblem(lambda y: -y, 1)) == "BoxProblem(log_w=<lambda>, phi=1.0)"
    part = functools.partial(torch.mul, torch.tensor(2.0))
    assert repr(gl.problems.BoxProblem(part, 1)) == "BoxProblem(log_w=partial(mul, ...), phi=1.0)"


def test_a_recorder_shows_its_sizes_draws_and_whether_it_is_open():
    model = network()
    recorder = gl.GradientRecorder({"first": model[0], HOSTILE: model[1]})
    assert repr(recorder) == "GradientRecorder(2 groups, 4 tensors, 21 scalars, 0 draws, closed)"
    with recorder:
        model(torch.ones(5, 3)).sum().backward()
        recorder.step()
        assert repr(recorder) == "GradientRecorder(2 groups, 4 tensors, 21 scalars, 1 draw, open)"
        assert "context open" in check_table(recorder._repr_html_())
    text = check_table(recorder._repr_html_())
    assert "first: 2 tensors, 16 scalars" in text
    assert f"{HOSTILE}: 2 tensors, 5 scalars" in text


def test_a_monitor_shows_its_points(tmp_path):
    model = network()
    monitor = gl.SNRMonitor(model, every=2, draws=3, csv=tmp_path / "<i>.csv")
    for _ in range(5):
        monitor.step(lambda: model(torch.randn(5, 3)).sum())
    assert re.fullmatch(r"SNRMonitor\(every=2, draws=3, 2 points, cost \d+\.\d%\)", repr(monitor))
    text = check_table(monitor._repr_html_())
    assert str(tmp_path / "<i>.csv") in text and "GradientRecorder(2 groups" in text


def test_a_run_shows_how_far_it_is(tmp_path):
    pytest.importorskip("compressai")
    run = gl.training.run_of(settings(data="0" * 64), tmp_path / HOSTILE)
    name = run.folder.name
    assert repr(run) == f"Run('{name}', not begun, 1_000 iterations)"
    run.folder.mkdir(parents=True)
    assert repr(run) == f"Run('{name}', unfinished, 1_000 iterations)"
    heartbeat.write(run.folder, heartbeat.State("running", 1000, 250))
    assert repr(run) == f"Run('{name}', 250 of 1_000 iterations, running)"
    (run.folder / heartbeat.FILE).write_text("{")
    assert repr(run) == f"Run('{name}', unfinished, 1_000 iterations)"
    (run.folder / "final.safetensors").touch()
    assert repr(run) == f"Run('{name}', 1_000 of 1_000 iterations)"
    assert str(run.folder) in check_table(run._repr_html_())


def test_a_codec_is_torchs_tree_with_a_line_of_its_own():
    pytest.importorskip("compressai")
    codec = gl.codecs.build("small-hyperprior", (6, 4), direct_y=False)
    lines = repr(codec).splitlines()
    assert lines[:2] == ["SmallHyperprior(", "  channels=(6, 4), direct_y=False, precision='float32'"]
    assert any("(g_a): Sequential(" in line for line in lines)
    text = check_table(codec._repr_html_())
    parameters = sum(p.numel() for p in codec.parameters())
    for part in ("small-hyperprior", "N = 6, M = 4", f"{parameters:_}", "no: call finish() first"):
        assert part in text
    codec.finish()
    assert "bitstreams yes" in check_table(codec._repr_html_())


def test_what_an_estimator_needs_is_shown():
    assert repr(gl.ESTIMATORS["dreg"]) == "Estimator('dreg', needs a support that does not move with the parameters)"
    assert repr(Estimator("mine", density)) == "Estimator('mine')"
    assert "at least two samples (otherwise undefined)" in check_table(gl.ESTIMATORS["vimco"]._repr_html_())


def test_a_check_shows_its_verdict():
    passed, biased = of_testing()
    assert "100 draws: passed, z = " in repr(passed) and "biased" in repr(biased)
    assert "mean of dreg" in check_table(biased._repr_html_())


def test_tensors_that_lie_elsewhere_are_not_read():
    """On a device without values, to read one raises."""
    number = torch.zeros((), device="meta")
    assert repr(Box(number)) == "Box(center=Tensor[] on meta)"
    terms = gl.LogTerms(torch.zeros(2, 3, 1, device="meta"))
    assert repr(terms) == "LogTerms([2, 3, 1] on meta of log_lik)"
    recorder = gl.GradientRecorder(network().to("meta"))
    for thing in (Box(number), terms, recorder):
        assert "meta" in check_table(thing._repr_html_())
    if sys.modules.get("compressai"):
        codec = gl.codecs.build("small-hyperprior", (6, 4)).to("meta")
        assert "meta" in check_table(codec._repr_html_())


def test_tensors_without_values_are_shown_by_shape():
    with FakeTensorMode():
        assert repr(Box(torch.zeros(()))) == "Box(center=Tensor[])"
    shapes = []
    torch.vmap(lambda center: shapes.append(repr(Box(center))) or center)(torch.zeros(3))
    assert shapes == ["Box(center=Tensor[])"]


def test_users_problems_are_shown_too():
    class Mine(gl.problems.BoxProblem):
        def __init__(self, steepness, phi=0.0, name=HOSTILE):
            super().__init__(lambda y: -steepness * y, phi)
            self.name = name

    assert repr(Mine(2.0)) == "Mine(...)"
    assert repr(Mine(2.0, phi=1, name="b")) == "Mine(phi=1.0, name='b', ...)"
    assert HOSTILE in check_table(Mine(2.0)._repr_html_())


def test_values_are_brief():
    class Odd:
        def __eq__(self, other):
            raise ValueError("an array of truths")

        __hash__ = None

    array = np.zeros((3, 2))
    assert display.brief((array, [b"\0" * 1000, np.float64(0.5)], Odd())) == (
        "(array[3, 2], [<1_000 bytes>, 0.5], Odd)"
    )
    assert display.brief((1,)) == "(1,)"
    assert len(display.brief(dict.fromkeys(range(1000)))) == display.LONGEST
    assert display.brief("x" * 1000) == repr("x" * 1000)  # text stays exact

    @display.shown
    class Holder:
        def __init__(self, odd, also=None):
            self.odd, self.also = odd, also

    assert repr(Holder(Odd(), Odd())) == "Holder(odd=Odd, also=Odd)"


def test_long_cells_are_cut():
    text = check_table(display.table(HOSTILE, {HOSTILE: {f"{HOSTILE} {i}": i for i in range(1000)}}))
    assert html.escape(HOSTILE) not in text and HOSTILE in text
    assert "19: 19" in text and "20: 20" not in text and "... and 980 more" in text


def test_a_property_that_fails_and_a_folder_that_cannot_be_read_are_no_error():
    @display.shown
    class Unreadable(SimpleNamespace):
        def _repr_line_(self):
            raise PermissionError("not yours")

        _repr_rows_ = _repr_line_

    assert repr(Unreadable()) == "Unreadable(...)"
    assert "not complete" in check_table(Unreadable()._repr_html_())


def test_nothing_is_imported_to_show_an_object():
    code = """
import sys
import torch
import gradlab as gl
problem = gl.problems.BoxGaussian(0.3, 1.0)
model = torch.nn.Sequential(torch.nn.Linear(3, 1))
for thing in (problem, problem.posterior, gl.GradientRecorder(model), gl.SNRMonitor(model), gl.ESTIMATORS["dreg"]):
    repr(thing), thing._repr_html_()
assert not {"pandas", "matplotlib", "compressai", "IPython"} & sys.modules.keys()
"""
    subprocess.run([sys.executable, "-W", "ignore", "-c", code], check=True, timeout=120)


def test_an_object_that_holds_itself_or_cannot_be_written_is_shown():
    class Loop(gl.problems.BoxGaussian):
        def __init__(self, phi: float, x: float, other: object = None) -> None:
            super().__init__(phi, x)
            self.other = other

    class Broken:
        def __repr__(self) -> str:
            raise RuntimeError

        def __eq__(self, other: object) -> bool:
            raise RuntimeError

    loop = Loop(0.3, 1.0)
    loop.other = loop
    assert "..." in repr(loop)
    loop._repr_html_()
    loop.other = Broken()
    assert "Broken" in repr(loop) and "Broken" in loop._repr_html_()
