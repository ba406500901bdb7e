from __future__ import annotations

import itertools
import math

import numpy as np
import pytest
import torch
from scipy import integrate, stats

import gradlab as gl
from gradlab.errors import GradlabError
from gradlab.noise import stream, uniform
from gradlab.objectives.proxies import PROXIES, GumbelAnnealing, SoftRounding, get_proxy

MEANS = (-1.7, -0.5, 0.0, 0.3, 0.5, 0.999, 2.2)


def noise(draws, purpose="proxies"):
    return uniform((draws,), stream(0, purpose), torch.float64)


def z_of(values, expected):
    return float((values.mean() - expected) / (values.std() / math.sqrt(len(values))))


@pytest.mark.parametrize("name", list(PROXIES))
def test_a_proxy_has_its_own_name_and_keeps_the_shape_of_the_noise(name):
    p = get_proxy(name)
    assert p.name == name
    mean = torch.tensor([[0.3], [1.7]], dtype=torch.float64, requires_grad=True)
    y = p.sample(mean, noise(10).reshape(2, 5))
    assert y.shape == p.decode(y).shape == (2, 5)
    (grad,) = torch.autograd.grad(p.decode(y).sum(), mean)
    assert torch.isfinite(grad).all()


def test_the_straight_through_estimator_rounds_and_passes_the_gradient_on():
    mean = torch.tensor(MEANS, dtype=torch.float64, requires_grad=True)
    y = get_proxy("straight-through").sample(mean, torch.zeros(7, dtype=torch.float64))
    assert y.tolist() == [-2.0, -0.0, 0.0, 0.0, 0.0, 1.0, 2.0]
    (grad,) = torch.autograd.grad((y * torch.arange(7.0)).sum(), mean)
    assert grad.tolist() == [0, 1, 2, 3, 4, 5, 6]


@pytest.mark.parametrize("mean", MEANS)
def test_universal_quantization_is_uniform_around_the_mean_and_can_be_sent(mean):
    u = noise(100_000)
    y = get_proxy("universal").sample(torch.tensor(mean, dtype=torch.float64), u)
    sent = y - u
    assert torch.allclose(sent, sent.round(), rtol=0, atol=1e-12)  # an integer crosses the channel
    assert stats.kstest((y - mean + 0.5).numpy(), "uniform").pvalue > 1e-5


@pytest.mark.parametrize("alpha", [0.5, 3.0, 12.0])
def test_soft_rounding_is_a_staircase_that_keeps_integers_and_half_integers(alpha):
    soft = SoftRounding(alpha)
    half = torch.arange(-4, 5, dtype=torch.float64) / 2
    assert torch.allclose(soft.staircase(half), half, rtol=0, atol=1e-12)
    y = torch.linspace(-2, 2, 4001, dtype=torch.float64)
    s = soft.staircase(y)
    assert (s.diff() > 0).all()
    assert torch.allclose(soft.inverse(s), y, rtol=0, atol=1e-7)
    r = y.numpy() - np.floor(y.numpy()) - 0.5
    by_hand = np.floor(y.numpy()) + 0.5 + 0.5 * np.tanh(alpha * r) / np.tanh(alpha / 2)
    assert np.allclose(s.numpy(), by_hand, rtol=0, atol=1e-12)


@pytest.mark.parametrize("alpha", [0.5, 3.0, 8.0])
@pytest.mark.parametrize("z", [-0.83, 0.0, 0.2, 1.5])
def test_what_the_decoder_reads_after_soft_rounding_is_the_conditional_mean(alpha, z):
    """E[v | s(v) + u = z] for a flat law of v, by brute force over the v that can have led to z."""
    soft = SoftRounding(alpha)

    def staircase(v):
        r = v - math.floor(v) - 0.5
        return math.floor(v) + 0.5 + 0.5 * math.tanh(alpha * r) / math.tanh(alpha / 2)

    grid = np.linspace(z - 2, z + 2, 400_001)
    inside = np.array([abs(staircase(v) - z) < 0.5 for v in grid])
    assert float(soft.decode(torch.tensor(z, dtype=torch.float64))) == pytest.approx(grid[inside].mean(), abs=2e-5)


def test_soft_rounding_goes_from_noise_to_rounding():
    mean, u = torch.tensor(0.3, dtype=torch.float64), noise(1000)
    gentle, steep = SoftRounding(1e-3), SoftRounding(14.0)
    assert torch.allclose(gentle.decode(gentle.sample(mean, u)), mean + u, rtol=0, atol=1e-6)
    assert float(steep.staircase(mean)) == pytest.approx(0.0, abs=5e-3)


@pytest.mark.parametrize(
    ("temperature", "mean"),
    [*itertools.product([0.2, 0.5, 1.0], [-1.7, 0.3, 0.9]), (1.0, 0.002), (0.5, 0.01)],
)
def test_gumbel_annealing_is_a_relaxed_bernoulli_between_the_neighbours(temperature, mean):
    """Against torch's own two-way Gumbel softmax."""
    d = mean - math.floor(mean)
    logits = torch.tensor([-math.atanh(d), -math.atanh(1 - d)], dtype=torch.float64) / temperature
    with torch.random.fork_rng():
        torch.manual_seed(0)
        theirs = torch.distributions.RelaxedOneHotCategorical(torch.tensor(temperature), logits=logits).sample(
            (50_000,)
        )
    ours = GumbelAnnealing(temperature).sample(torch.tensor(mean, dtype=torch.float64), noise(50_000)) - math.floor(
        mean
    )
    for power in (1, 2, 3):
        a, b = ours**power, theirs[:, 1] ** power
        z = (a.mean() - b.mean()) / torch.sqrt(a.var() / len(a) + b.var() / len(b))
        assert abs(float(z)) < 4.5
    p_up = float(torch.softmax(logits, 0)[1])
    assert abs(z_of((ours > 0.5).double(), p_up)) < 4.5


@pytest.mark.parametrize("temperature", [0.1, 1.0])
@pytest.mark.parametrize("mean", [0.0, 3.0, -2.0])
def test_gumbel_annealing_of_an_integer_is_that_integer(mean, temperature):
    leaf = torch.full((1000,), mean, dtype=torch.float64, requires_grad=True)
    y = GumbelAnnealing(temperature).sample(leaf, noise(1000))
    assert torch.equal(y, leaf)
    (grad,) = torch.autograd.grad(y.sum(), leaf)
    assert (grad == 0).all()


@pytest.mark.parametrize("p", [SoftRounding(4.0), GumbelAnnealing(0.5), PROXIES["noise"]], ids=lambda p: p.name)
def test_the_derivative_by_the_mean_is_that_of_the_forward_pass(p):
    mean = torch.full((200,), 0.37, dtype=torch.float64, requires_grad=True)
    u, h = noise(200), 1e-6
    (grad,) = torch.autograd.grad(p.decode(p.sample(mean, u)).sum(), mean)
    with torch.no_grad():
        slope = (p.decode(p.sample(mean + h, u)) - p.decode(p.sample(mean - h, u))) / (2 * h)
    assert torch.allclose(grad, slope, rtol=1e-6, atol=1e-6)


def test_the_law_of_gumbel_annealing_by_quadrature():
    tau, mean = 0.5, 0.3
    shift = (math.atanh(mean) - math.atanh(1 - mean)) / tau
    by_hand, _ = integrate.quad(
        lambda g: 1 / (1 + math.exp(-(shift + g) / tau)) * math.exp(-g) / (1 + math.exp(-g)) ** 2, -40, 40
    )
    y = GumbelAnnealing(tau).sample(torch.tensor(mean, dtype=torch.float64), noise(200_000))
    assert abs(z_of(y, by_hand)) < 4.5


def test_the_derivative_of_soft_rounding_stays_finite_on_the_edge_of_a_cell():
    for dtype in (torch.float32, torch.float64):
        z = torch.tensor([0.5, 1.5, -0.5], dtype=dtype, requires_grad=True)  # inverse() reads z - 1/2, an integer
        (grad,) = torch.autograd.grad(SoftRounding(14.0).decode(z).sum(), z)
        assert torch.isfinite(grad).all()


def test_a_parameter_may_follow_the_name():
    assert get_proxy("soft-rounding:8") == SoftRounding(8.0) and get_proxy("sga:0.25") == GumbelAnnealing(0.25)
    with pytest.raises(GradlabError, match="the parameter is 1, but proxy 'noise' takes no parameter"):
        get_proxy("noise:1")
    with pytest.raises(GradlabError, match="give a number after the colon"):
        get_proxy("sga:cold")
    with pytest.raises(GradlabError, match="temperature of sga is 2"):
        get_proxy("sga:2")


def test_bad_parameters_are_refused():
    with pytest.raises(GradlabError, match=r"name is \['noise'\]: give text or a Proxy"):
        get_proxy(["noise"])
    for alpha in (0.0, -1.0, 15.0, math.nan, "4", 1e-300):
        with pytest.raises(GradlabError, match="alpha of soft rounding is"):
            SoftRounding(alpha)
    for temperature in (0.0, 1.1, math.nan):
        with pytest.raises(GradlabError, match="temperature of sga is"):
            GumbelAnnealing(temperature)
    with pytest.raises(GradlabError, match="did you mean 'sga'"):
        get_proxy("sgd")


def test_proxies_are_a_public_table():
    assert gl.PROXIES is PROXIES
