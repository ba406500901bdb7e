"""The unit-test kit, on estimators written by hand: right ones pass, each wrong one fails and is told what it became."""

from __future__ import annotations

import math

import pytest
import torch

import gradlab as gl
from gradlab import cli
from gradlab.errors import GradlabError
from gradlab.testing import assert_moments, assert_unbiased, check

BOX = gl.problems.BoxGaussian(0.3, 1.0, likelihood_std=0.5)
NORMAL = gl.problems.NormalGaussian(0.3, 0.4, 1.0, likelihood_std=0.5)
ANY = gl.problems.BoxProblem(lambda y: -4 * y**2, 0.3)


def pathwise(log_weight, samples, noise):
    log_w = log_weight(samples)
    (slope,) = torch.autograd.grad((log_w.softmax(1).detach() * log_w).sum(), samples)
    return slope.sum(1)


def squared(log_weight, samples, noise):
    log_w = log_weight(samples)
    (slope,) = torch.autograd.grad((log_w.softmax(1).detach() ** 2 * log_w).sum(), samples)
    return slope.sum(1)


def with_score(log_weight, samples, noise):
    """On a Normal of std 0.4 the score of each weight belongs to the derivative: w~_i (-noise/std)."""
    weights = log_weight(samples).softmax(1).detach()
    return pathwise(log_weight, samples, noise) - (weights * noise / 0.4).sum(1)


def walls(log_weight, samples, noise):
    """Measure-valued on the box, without a derivative."""
    samples, total = samples.detach(), 0.0
    for i in range(samples.shape[1]):
        ends = []
        for wall in (0.5, -0.5):
            moved = samples.clone()
            moved[:, i] = 0.3 + wall
            ends.append(torch.logsumexp(log_weight(moved), 1))
        total = total + ends[0] - ends[1]
    return total


def nothing(log_weight, samples, noise):
    return torch.zeros(len(samples), dtype=samples.dtype)


@pytest.mark.parametrize("problem", [BOX, ANY], ids=["gaussian", "any"])
@pytest.mark.parametrize("mine", [pathwise, walls])
@pytest.mark.parametrize("k", [1, 5])
def test_right_estimators_pass_on_the_box(mine, problem, k):
    result = assert_unbiased(mine, problem, k, draws=20_000)
    assert result.passed and result.like == () and result.exact == problem.exact_gradient(k)


@pytest.mark.parametrize("k", [1, 5])
def test_right_estimators_pass_on_a_normal(k):
    assert_unbiased(with_score, NORMAL, k, draws=20_000)
    assert_unbiased(squared, NORMAL, k, draws=20_000)  # DReG


@pytest.mark.parametrize(
    ("mine", "problem", "became"),
    [
        pytest.param(squared, BOX, "dreg, dreg-squared and gdreg", id="squared"),
        pytest.param(pathwise, NORMAL, "stl", id="pathwise on a Normal"),
        pytest.param(nothing, BOX, "score, nvil, vimco and rws", id="nothing"),
    ],
)
def test_a_wrong_one_fails_and_is_told_what_it_became(mine, problem, became):
    with pytest.raises(AssertionError, match="is biased on") as failure:
        assert_unbiased(mine, problem, 5, draws=20_000)
    message = str(failure.value)
    assert mine.__name__ in message and "exact gradient" in message and "z = " in message and "+-" in message
    assert f"this matches the mean of {became}:" in message


def test_a_bias_of_no_name_is_only_measured():
    def off(log_weight, samples, noise):
        return pathwise(log_weight, samples, noise) + 0.1

    result = check(off, BOX, 5, draws=20_000)
    assert not result.passed and result.like == ()
    assert result.mean - result.exact == pytest.approx(0.1, abs=5 * result.se)


def test_estimators_of_the_library_by_name():
    assert assert_unbiased("dreg-boundary", BOX, 4, draws=5000).estimator == "dreg-boundary"
    with pytest.raises(AssertionError, match="dreg is biased on BoxGaussian at k = 4 for phi"):
        assert_unbiased(gl.ESTIMATORS["dreg"], BOX, 4, draws=5000)


def test_moments_are_checked_on_mean_and_variance():
    assert_moments("pathwise", BOX, 4, draws=20_000)
    assert_moments(pathwise, BOX, 4, draws=20_000, like="pathwise")
    assert_moments(walls, BOX, 4, draws=20_000, like=BOX.exact_moments("measure-valued", 4))

    def noisy(log_weight, samples, noise):
        return pathwise(log_weight, samples, noise) + noise[:, 0]  # the right mean

    assert_unbiased(noisy, BOX, 4, draws=20_000)
    with pytest.raises(AssertionError, match=r"wrong moments.*\n.*\n  variance"):
        assert_moments(noisy, BOX, 4, draws=20_000, like="pathwise")


def test_the_outcome_is_that_of_the_seed_and_chunks_do_not_matter(monkeypatch):
    first, second = (check(pathwise, BOX, 4, 5000, seed=3) for _ in range(2))
    assert first == second and check(pathwise, BOX, 4, 5000, seed=4).mean != first.mean
    monkeypatch.setattr("gradlab.testing.CHUNK", 4000)
    assert abs(check(pathwise, BOX, 4, 5000, seed=3).z) < 4.5


@pytest.mark.parametrize(
    ("arguments", "match"),
    [
        pytest.param(
            (lambda w, y, e: y, BOX),
            r"returned torch.float64 \(100, 2\).*return one estimate per draw, a tensor \[100\] of floats",
            id="shape",
        ),
        pytest.param((lambda w, y, e: 1.0, BOX), "returned float", id="a number"),
        pytest.param((lambda w, y, e: y[:, 0].detach() * math.nan, BOX), "NaN or infinite", id="nan"),
        pytest.param((pathwise, gl.problems.BoxGaussian(0.3, 1.0, dim=3)), "with dim = 3", id="three coordinates"),
        pytest.param(
            (pathwise, gl.problems.RoundedGaussian(0.3, 1.0, "sga")), "of type RoundedGaussian", id="RoundedGaussian"
        ),
        pytest.param((pathwise, 3), "problem is 3: give a Problem", id="no problem"),
        pytest.param(("pathwize", BOX), "did you mean 'pathwise'", id="unknown name"),
        pytest.param((lambda w, y, e: y[:, 0].detach() > 0, BOX), "returned torch.bool", id="truth values"),
        pytest.param((lambda w, y: y[:, 0], BOX), "failed on .* with TypeError", id="too few arguments"),
        pytest.param((lambda w, y, e: y.mul_(2)[:, 0], BOX), "failed on .* with RuntimeError", id="in place"),
        pytest.param((None, BOX), "estimator is None: give text or an Estimator or a function", id="None"),
    ],
)
def test_bad_input(arguments, match):
    with pytest.raises(GradlabError, match=match):
        check(*arguments, k=2, draws=100)


def test_bad_options():
    with pytest.raises(GradlabError, match="wrt is 'slope', but a function estimates the gradient with respect to phi"):
        check(pathwise, BOX, wrt="slope")
    with pytest.raises(GradlabError, match="draws is 1"):
        check(pathwise, BOX, draws=1)
    with pytest.raises(GradlabError, match="k is"):
        check(pathwise, BOX, k=0)
    with pytest.raises(GradlabError, match="give like='pathwise'"):
        assert_moments(pathwise, BOX, 2, draws=100)
    for bad, match in (({"draws": 100.0}, "draws is 100.0"), ({"seed": -1}, "seed is -1"), ({"k": 2.5}, "k is 2.5")):
        for mine in (pathwise, "pathwise"):
            with pytest.raises(GradlabError, match=match):
                check(mine, BOX, **bad)
    for z in (0, -1, math.nan):
        with pytest.raises(GradlabError, match=r"z is .*: (give a positive number|give a finite number)"):
            assert_unbiased(pathwise, BOX, z=z)
    with pytest.raises(GradlabError, match="did you mean 'pathwise'"):
        assert_moments(pathwise, BOX, like="pathwize")
    with pytest.raises(GradlabError, match=r"like is \(1.0,\): give text or 2 values"):
        assert_moments(pathwise, BOX, like=(1.0,))
    with pytest.raises(GradlabError, match="give two finite numbers"):
        assert_moments(pathwise, BOX, like=(0.0, math.nan))
    with pytest.raises(GradlabError, match="dim = 1"):
        check(pathwise, gl.problems.TwoLevel(0.3, 1.0, (0.5, 0.1), (0.85, 0.2, 0.6)))


def test_a_function_that_draws_for_itself_has_the_same_outcome_and_leaves_the_generator_alone():
    def noisy(log_weight, samples, noise):
        return pathwise(log_weight, samples, noise) + torch.randn(len(samples))

    before = torch.get_rng_state()
    assert check(noisy, BOX, 4, 5000) == check(noisy, BOX, 4, 5000)
    assert torch.equal(torch.get_rng_state(), before)


def test_float32_estimates_without_variance_are_judged_to_their_own_digits():
    def constant(log_weight, samples, noise):
        return torch.full((len(samples),), BOX.exact_gradient(1), dtype=torch.float32)

    assert_unbiased(constant, BOX, 1, draws=100)


def test_the_command(tmp_path, monkeypatch, capsys):
    (tmp_path / "own_estimators.py").write_text(
        "import torch\n"
        "def right(log_weight, samples, noise):\n"
        "    log_w = log_weight(samples)\n"
        "    (slope,) = torch.autograd.grad((log_w.softmax(1).detach() * log_w).sum(), samples)\n"
        "    return slope.sum(1)\n"
    )
    (tmp_path / "broken_estimators.py").write_text("import nowhere\n")
    (tmp_path / "leaving_estimators.py").write_text("import sys\nsys.exit(0)\n")
    (tmp_path / "odd_estimators.py").write_text(
        "class A: pass\ndef few(a): pass\ndef leave(a, b, c): raise SystemExit(0)\ndef draws(w, y, e): return e[:, 0] * 0 + 1\n"
    )
    monkeypatch.chdir(tmp_path)
    monkeypatch.syspath_prepend("")
    options = ["--draws", "5000", "--k", "4"]
    assert cli.main(["check", "own_estimators:right", "--on", "box", *options]) == 0
    assert "unbiased" in capsys.readouterr().out
    assert (
        cli.main(["check", "own_estimators:right", "--on", "both", *options]) == 1
    )  # without its score it is STL on the Normal
    assert "biased, like stl" in capsys.readouterr().out
    for target, message in (
        ("own_estimators", "is not of the form module:name"),
        ("own_estimators:rigth", "did you mean 'right'"),
        ("broken_estimators:x", "fails to import (ModuleNotFoundError"),
        ("no_such_module_here:x", "fails to import"),
        ("leaving_estimators:x", "fails to import (SystemExit"),
        ("./own_estimators.py:right", "as Python imports it"),
        ("odd_estimators:A", "unknown estimator of odd_estimators"),
        ("odd_estimators:few", "few failed on"),
        ("odd_estimators:leave", "leave failed on"),
    ):
        assert cli.main(["check", target, *options]) == 2
        assert message in capsys.readouterr().err
    seeded = ["check", "own_estimators:right", "--on", "box", *options]
    printed = []
    for seed in ("0", "0", "1"):
        assert cli.main([*seeded, "--seed", seed]) == 0
        printed.append(capsys.readouterr().out)
    assert printed[0] == printed[1] != printed[2]
    assert cli.main(["check", "own_estimators:right", "--on", "boxes", *options]) == 2
    assert "did you mean 'box'" in capsys.readouterr().err
