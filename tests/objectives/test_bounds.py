from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch

from gradlab.errors import GradlabError
from gradlab.objectives import OBJECTIVES, SurrogateLoss, get_objective, kl_annealing, soft_free_bits
from gradlab.objectives.terms import LogTerms, Walls

B, K, L, PIXELS = 3, 4, 5, 64


def terms(k=K, l=L, paired=False):
    g = torch.Generator().manual_seed(1)
    n = lambda *s: torch.randn(*s, generator=g, dtype=torch.float64) * 3  # noqa: E731
    return LogTerms(n(B, k, 1), n(B, k, l), n(B, k, 1) if paired else n(B, 1, l), pixels=PIXELS)


def by_hand(t, tempered=1.0):
    """log mean exp of every combination, one number at a time."""
    b, k, l = t.shape
    result = []
    for i in range(b):
        ws = []
        for a in range(k):
            for c in range(l):
                pz = t.log_pz[i, a, 0] if t.paired else t.log_pz[i, 0, c]
                ws.append(math.exp(float(t.log_lik[i, a, 0] + t.log_py[i, a, c] + pz) * tempered))
        result.append(math.log(sum(ws) / len(ws)))
    return torch.tensor(result, dtype=torch.float64)


@pytest.mark.parametrize(
    ("name", "shape"),
    [
        ("ms-nic-dms", {}),
        ("ms-nic-mix", {"l": 1}),
        ("iwae", {"l": 1}),
        ("iwae-2level", {"l": 1, "paired": True}),
    ],
)
@pytest.mark.parametrize("scale", ["nats", "bpp"])
def test_bounds_are_log_mean_exp(name, shape, scale):
    t = terms(**shape)
    unit = 1.0 if scale == "nats" else 1 / (math.log(2) * PIXELS)
    assert torch.allclose(OBJECTIVES[name](t, scale=scale), by_hand(t, unit), rtol=0, atol=1e-10)


def test_elbo_is_the_mean_log_weight():
    t = terms()
    assert torch.allclose(OBJECTIVES["elbo"](t), (t.log_lik + t.log_py + t.log_pz).mean((1, 2)))


@pytest.mark.parametrize("name", [n for n, o in OBJECTIVES.items() if not o.jackknife])
def test_one_sample_makes_every_objective_the_elbo(name):
    t = terms(1, 1)
    assert torch.allclose(OBJECTIVES[name](t), t.log_w()[:, 0, 0], atol=1e-12)
    assert torch.allclose(OBJECTIVES[name](t, scale="bpp"), t.log_w()[:, 0, 0] / (math.log(2) * PIXELS), atol=1e-12)


@pytest.mark.parametrize("k", [2, 3, 6])
def test_jvi_is_the_jackknife(k):
    """k L_k - (k-1) mean_i L_(k-1) without i, one subset at a time, and its gradient by autograd through that."""
    lik = (torch.randn(B, k, 1, generator=torch.Generator().manual_seed(k), dtype=torch.float64) * 3).requires_grad_()
    ours = OBJECTIVES["jvi"](LogTerms(lik))
    mean_exp = lambda v: torch.logsumexp(v, 1) - math.log(v.shape[1])  # noqa: E731
    rows = lik[:, :, 0]
    without = [mean_exp(rows[:, [j for j in range(k) if j != i]]) for i in range(k)]
    by_hand = k * mean_exp(rows) - (k - 1) * sum(without) / k
    assert torch.allclose(ours, by_hand, rtol=0, atol=1e-12)
    (grad,), (expected,) = torch.autograd.grad(ours.sum(), lik), torch.autograd.grad(by_hand.sum(), lik)
    assert torch.allclose(grad, expected, rtol=0, atol=1e-12)


def test_jvi_keeps_its_digits_where_one_sample_has_all_the_weight():
    lik = torch.tensor([[[0.0], [-500.0], [-501.0]]], dtype=torch.float64, requires_grad=True)
    value = OBJECTIVES["jvi"](LogTerms(lik))
    rest = -500 + math.log1p(math.exp(-1)) - math.log(2)
    assert float(value.detach()) == pytest.approx(3 * -math.log(3) - 2 / 3 * (rest - 2 * math.log(2)), rel=1e-13)
    (grad,) = torch.autograd.grad(value.sum(), lik)
    share = 1 / (1 + math.exp(-1))
    expected = [3 - 2 / 3 * 2, -2 / 3 * share, -2 / 3 * (1 - share)]
    assert grad.flatten().tolist() == pytest.approx(expected, rel=1e-12)


def test_log_sum_of_others():
    from gradlab.objectives.bounds import log_sum_of_others

    v = torch.randn(4, 5, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) * 5
    expected = torch.stack([torch.logsumexp(v[:, [j for j in range(5) if j != i]], 1) for i in range(5)], 1)
    assert torch.allclose(log_sum_of_others(v), expected, rtol=0, atol=1e-12)
    assert log_sum_of_others(v[:, :1]).tolist() == [[-math.inf]] * 4
    lonely = torch.tensor([[0.0, -800.0, -801.0]], dtype=torch.float64)  # S - w_1 would be 0
    assert float(log_sum_of_others(lonely)[0, 0]) == pytest.approx(-800 + math.log1p(math.exp(-1)), rel=1e-14)


def test_jvi_is_no_lower_bound():
    """On a Normal of its own evidence: above log p(x) in expectation, where every other objective is below."""
    g = torch.Generator().manual_seed(0)
    log_w = 1.5 * torch.randn(200_000, 2, 1, generator=g, dtype=torch.float64)  # E w = exp(1.5^2 / 2)
    evidence = 1.5**2 / 2
    assert float(OBJECTIVES["iwae"](LogTerms(log_w)).mean()) < evidence - 0.3
    closer = float(OBJECTIVES["jvi"](LogTerms(log_w)).mean())
    assert abs(closer - evidence) < abs(float(OBJECTIVES["iwae"](LogTerms(log_w)).mean()) - evidence)
    two_point = torch.where(torch.rand(200_000, 2, 1, generator=g, dtype=torch.float64) < 0.9, 0.0, math.log(1e-4))
    value = OBJECTIVES["jvi"](LogTerms(two_point)).mean()
    assert float(value) > math.log(0.9 + 0.1 * 1e-4) + 0.1


@pytest.mark.parametrize("name", ["elbo", "ms-nic-dms"])
def test_the_rate_weight_multiplies_the_rate(name):
    t = terms()
    lighter = LogTerms(t.log_lik, 0.3 * t.log_py, 0.3 * t.log_pz, pixels=PIXELS)
    for weighting in ("joint", "per-term"):
        ours = OBJECTIVES[name](t.annealed(0.3), weighting=weighting)
        assert torch.allclose(ours, OBJECTIVES[name](lighter, weighting=weighting), atol=1e-12)
    assert torch.equal(OBJECTIVES[name](t.annealed(1.0)), OBJECTIVES[name](t))
    score = torch.zeros(B, K, 1, dtype=torch.float64, requires_grad=True)
    (grad,) = torch.autograd.grad(LogTerms(t.log_lik, scores=(score,)).annealed(0.3).log_w().sum(), score)
    assert torch.equal(grad, torch.full_like(grad, -0.3))


def test_kl_annealing_is_a_ramp():
    assert [kl_annealing(s, 4) for s in (0, 1, 4, 9)] == [0.0, 0.25, 1.0, 1.0]
    assert kl_annealing(torch.tensor(1), 4) == 0.25


def test_soft_free_bits_keep_the_rate_at_its_target():
    assert soft_free_bits(0.5, rate=10.6, target=10) == 0.55
    assert soft_free_bits(0.5, rate=10.4, target=10) == 0.5
    assert soft_free_bits(0.5, rate=torch.tensor(10.6), target=10) == 0.55  # as training has it
    assert soft_free_bits(0.55, rate=9.9, target=10) == pytest.approx(0.5)
    assert soft_free_bits(0.99, rate=11, target=10) == 1.0
    weight, rate = 1.0, 0.0
    for _ in range(200):  # a model whose rate falls with the weight on it
        rate = 12 - 8 * weight
        weight = soft_free_bits(weight, rate, target=8)
    assert 7.5 < rate < 8.5


@pytest.mark.parametrize(("make", "match"), [
    pytest.param(lambda: kl_annealing(-1, 10), "step is -1, warmup is 10", id="negative step"),
    pytest.param(lambda: kl_annealing(torch.zeros(2), 10), "step is a tensor of shape \\(2,\\): give a real number", id="steps"),
    pytest.param(lambda: kl_annealing(1, 0), "warmup of at least 1", id="no warmup"),
    pytest.param(lambda: soft_free_bits(0.0, 1.0, 1.0), "weight is 0.0", id="no weight"),
    pytest.param(lambda: soft_free_bits(0.5, 1.0, 0.0), "target is 0.0", id="no target"),
    pytest.param(lambda: terms().annealed(-0.1), "rate_weight is -0.1", id="negative rate"),
    pytest.param(lambda: terms().annealed(math.nan), "rate_weight is nan", id="rate nan"),
    pytest.param(lambda: replace(terms(), walls=Walls(torch.zeros(1), torch.zeros(1))).annealed(0.5), "were evaluated with rate_weight 1.0: .* evaluate them again", id="walls"),
])  # fmt: skip
def test_bad_rate_weights(make, match):
    with pytest.raises(GradlabError, match=match):
        make()


def test_per_term_is_the_papers_listing():
    """Appendix A.5, typed in from the paper: three IWAELoss terms in bits per pixel."""

    def listing(minus_elbo):
        weights = torch.nn.functional.softmax(-minus_elbo.detach(), dim=1)
        return torch.sum(minus_elbo * weights, dim=1)

    t = terms()
    bpp = lambda v: -v.reshape(B, -1) / (math.log(2) * PIXELS)  # noqa: E731
    expected = listing(bpp(t.log_lik)) + listing(bpp(t.log_py)) + listing(bpp(t.log_pz))
    ours = OBJECTIVES["ms-nic-dms"](t, weighting="per-term", scale="bpp")
    assert isinstance(ours, SurrogateLoss)
    assert not isinstance(OBJECTIVES["ms-nic-dms"](t), SurrogateLoss)
    assert torch.allclose(-ours.as_subclass(torch.Tensor), expected, atol=1e-12)


def test_no_gradient_reaches_a_per_term_weight():
    lik = torch.randn(1, 3, 1, dtype=torch.float64, requires_grad=True)
    OBJECTIVES["iwae"](LogTerms(lik), weighting="per-term").sum().backward()
    assert torch.allclose(lik.grad.flatten(), torch.softmax(lik.detach().flatten(), 0))


@pytest.mark.parametrize(
    ("name", "shape", "match"),
    [
        ("iwae", {}, "use ms-nic-dms"),
        ("iwae-2level", {}, "use ms-nic-dms"),
        ("ms-nic-mix", {}, "one sample of z"),
        ("ms-nic-mix", {"l": 1, "paired": True}, "use iwae-2level"),
        ("ms-nic-dms", {"l": 1, "paired": True}, "use iwae-2level"),
        ("jvi", {}, "l is 5, but jvi"),
        ("jvi", {"k": 1, "l": 1}, "k is 1, but jvi .*: use at least two samples"),
    ],
)
def test_shapes_that_an_objective_refuses(name, shape, match):
    with pytest.raises(GradlabError, match=match):
        OBJECTIVES[name](terms(**shape))


def test_jvi_is_no_weighting():
    with pytest.raises(GradlabError, match="weighting is 'per-term', but jvi is not a weighted sum of terms"):
        OBJECTIVES["jvi"](terms(l=1), weighting="per-term")


def test_unknown_names():
    with pytest.raises(GradlabError, match="did you mean 'iwae'"):
        get_objective("iwea")
    with pytest.raises(GradlabError, match=r"unknown weighting 'jont'.*joint"):
        OBJECTIVES["iwae"](terms(l=1), weighting="jont")
    with pytest.raises(GradlabError, match="unknown scale"):
        OBJECTIVES["iwae"](terms(l=1), scale="bits")


def test_per_term_weighting_needs_a_box():
    t = LogTerms(torch.zeros(1, 2, 1), log_q=torch.ones(1, 2, 1))
    with pytest.raises(GradlabError, match="unit box"):
        OBJECTIVES["iwae"](t, weighting="per-term")


@pytest.mark.parametrize(
    ("kwargs", "match"),
    [
        ({"log_lik": torch.zeros(2, 3)}, "three axes"),
        ({"log_lik": torch.zeros(1, 2, 1), "pixels": 0}, "pixels is 0"),
        ({"log_lik": torch.zeros(1, 2, 1), "log_py": torch.zeros(1, 3, 1)}, "do not broadcast"),
        ({"log_lik": 0.0}, r"\[batch, k, 1\]"),
    ],
)
def test_bad_terms_are_named(kwargs, match):
    with pytest.raises(GradlabError, match=match):
        LogTerms(**kwargs)
