# ---
# jupyter:
#   jupytext:
#     formats: ipynb,py:percent
#     text_representation:
#       extension: .py
#       format_name: percent
#   kernelspec:
#     display_name: Python 3
#     language: python
#     name: python3
# ---

# %% [markdown]
# # 1. What is a gradient estimator?
#
# Training with noise means following the slope of an average that nobody can compute. A *gradient estimator* is a rule
# that turns random draws into a guess of that slope. Three families cover almost all of what is in use. All three are
# right for a Normal. For the unit box, the noise that neural image compression trains with, one of them returns **zero,
# always**, without a word of warning.
#
# **After this notebook you can**
#
# - say what a gradient estimator estimates, and what its bias and its variance are;
# - derive the pathwise, the score-function (REINFORCE) and the measure-valued estimator;
# - explain why the score estimator returns zero for a box, and where the gradient went;
# - tell which estimator you may use where, and let `gradlab` check it.
#
# You need: derivatives, expectations, and a little Python. No machine learning.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 130, "bbox_inches": None}
import math

import numpy as np
import pandas as pd
from ipywidgets import FloatLogSlider, FloatSlider, interact
from scipy.stats import norm

import gradlab as gl
from gradlab.study import plots
from gradlab.study.plotstyle import COLOURS

rng = np.random.default_rng(0)
DRAWS = 100_000

# %% [markdown]
# ## The problem
#
# A random number $y$ is drawn from a density $q(y;\theta)$ with a knob $\theta$ that moves it left and right. Each
# draw costs $f(y)$. The average cost is
#
# $$F(\theta) = \mathbb{E}_{q(y;\theta)}[f(y)] = \int q(y;\theta)\, f(y)\, dy ,$$
#
# and to turn the knob the right way we need $F'(\theta)$. In a real model the integral has a million dimensions and $f$
# is a neural network: all that we can do is draw a $y$ and look at $f(y)$.
#
# An **estimator** is a function $G$ of the draw with which we hope that $\mathbb{E}[G] = F'(\theta)$.
# Its **bias** is $\mathbb{E}[G] - F'(\theta)$: no number of draws averages it away. Its **variance** is what averaging
# over $n$ draws divides by $n$.
#
# Here the cost is $f(y) = (y-1)^2$ and $\theta = 0.3$. The noise is one of two, of the same mean and the same variance
# $1/12$:
#
# - the **Normal** $y \sim \mathcal{N}(\theta, \sigma^2)$ with $\sigma = 1/\sqrt{12}$;
# - the **box** $y \sim \mathcal{U}(\theta - \tfrac12, \theta + \tfrac12)$. A codec rounds, rounding has no useful
#   derivative, and this noise is what stands in for it in training (Balle et al. 2017).
#
# For this cost $F(\theta) = (\theta-1)^2 + \tfrac{1}{12}$ under both, so that the right answer is known:
# $F'(0.3) = -1.4$.

# %% tags=["setup"]
theta, sigma = 0.3, 1 / math.sqrt(12)


def f(y):
    """The cost."""
    return (y - 1) ** 2


def slope(y):
    """Its derivative."""
    return 2 * (y - 1)


exact = 2 * (theta - 1)
print(f"F'({theta}) = {exact:.4f}")

# %% [markdown]
# ## Three estimators for the Normal
#
# **Pathwise** (the reparameterisation trick; Kingma and Welling 2014). Write the draw as a fixed noise, moved:
# $y = \theta + \sigma\epsilon$ with $\epsilon \sim \mathcal{N}(0,1)$. The density of $\epsilon$ does not depend on
# $\theta$, and the derivative may go inside:
#
# $$F'(\theta) = \mathbb{E}_\epsilon\!\left[\tfrac{d}{d\theta} f(\theta + \sigma\epsilon)\right]
# = \mathbb{E}[f'(y)] .$$
#
# It needs the derivative of $f$.
#
# **Score function** (REINFORCE; Williams 1992). Leave the points where they are and move the density:
#
# $$F'(\theta) = \int \tfrac{d}{d\theta} q(y;\theta)\, f(y)\, dy
# = \int q\, \tfrac{d \log q}{d\theta}\, f\, dy = \mathbb{E}\!\left[f(y)\, \tfrac{d}{d\theta}\log q(y;\theta)\right].$$
#
# It needs no derivative of $f$. In words: *did this draw cost much? Then make it less probable.* For the Normal the
# score $\frac{d}{d\theta}\log q$ is $(y-\theta)/\sigma^2$.
#
# **Measure-valued** (weak derivative; Pflug 1989). The derivative of a density integrates to zero, hence it is a
# multiple of the difference of two densities: $\frac{d}{d\theta} q = c\,(q^+ - q^-)$. So draw from each:
#
# $$F'(\theta) = c\;\mathbb{E}\left[f(y^+) - f(y^-)\right] .$$
#
# For the Normal's mean $c = 1/(\sigma\sqrt{2\pi})$ and $y^\pm = \theta \pm \sigma W$ with
# $W = \sqrt{-2\ln U}$, $U$ uniform on $(0, 1)$.

# %%
eps = rng.standard_normal(DRAWS)
y = theta + sigma * eps
weibull = np.sqrt(-2 * np.log(rng.random(DRAWS)))

normal = {
    "pathwise": slope(y),
    "score": f(y) * (y - theta) / sigma**2,
    "measure-valued": (f(theta + sigma * weibull) - f(theta - sigma * weibull)) / (sigma * math.sqrt(2 * math.pi)),
}


def table(estimates):
    """One row per estimator: the mean with its standard error, and the spread of a single draw."""
    rows = {
        name: {
            "mean": g.mean(),
            "standard error": g.std() / math.sqrt(DRAWS),
            "exact": exact,
            "std of one draw": g.std(),
        }
        for name, g in estimates.items()
    }
    return pd.DataFrame(rows).T.round(4) + 0.0  # no minus before a zero


table(normal)

# %% [markdown]
# All three means are $-1.4$ within a few standard errors: all three are unbiased. They differ in the spread of one
# draw. The score estimator pays for not looking at the slope of $f$: its single draws scatter several times as widely
# as those of the pathwise estimator.


# %%
def histograms(estimates):
    """Single draws of each estimator, with what their mean should be."""
    figure, axes = plots.figure(1, 3, width="page", height=2.2, sharex=True)
    with plots.style():
        for ax, (name, g) in zip(axes, estimates.items(), strict=True):
            ax.hist(g, np.linspace(-10, 3, 66), weights=np.full(DRAWS, 100 / DRAWS), histtype="stepfilled")
            ax.axvline(exact, color="black", linestyle="--")
            ax.set(xlabel="one draw", title=name)
        axes[0].set_ylabel("share of draws (%)")
    return figure


histograms(normal)

# %% [markdown]
# *Single draws of the three estimators under the Normal ($n = 100\,000$ each). Dashed: the exact derivative.*
#
# ## The same three for the box
#
# **Pathwise** is as before, with $y = \theta + u$, $u \sim \mathcal{U}(-\tfrac12, \tfrac12)$.
#
# **Measure-valued**: the derivative of the box's density is $+1$ at the right wall and $-1$ at the left one,
# and nothing between. Both "densities" are single points: $F'(\theta) = f(\theta+\tfrac12) - f(\theta-\tfrac12)$.
#
# **Score**: the density of the box is 1 wherever a draw can fall. So $\log q = 0$ there, its derivative is 0, and the
# recipe says: multiply each cost by zero.

# %%
u = rng.random(DRAWS) - 0.5
y = theta + u

box = {
    "pathwise": slope(y),
    "score": f(y) * 0.0,  # the score of the box is 0 wherever a draw falls
    "measure-valued": np.full(DRAWS, f(theta + 0.5) - f(theta - 0.5)),
}
table(box)

# %% [markdown]
# Look at the second row. The mean is zero and so is its standard error. A noisy estimator would make you draw more;
# this one looks *perfectly certain*, of a number that is wrong by all of $-1.4$. Nothing in a training run would complain.
# The encoder just never learns.
#
# ## Where did the gradient go?
#
# Move both densities by a small $h$, and ask where probability comes and goes. That is what the integral
# $\int \frac{d}{d\theta}q\,f\,dy$ is about.


# %%
def moved(theta=0.3, h=0.1):
    """Above: the densities at theta and theta + h. Below: their difference over h, which is what f is weighted with."""
    grid = np.linspace(-1.2, 1.8, 3001)
    cases = {
        "Normal": (lambda t: norm.pdf(grid, t, sigma), sigma * eps[:60]),
        "box": (lambda t: (np.abs(grid - t) <= 0.5).astype(float), u[:60]),
    }
    figure, axes = plots.figure(2, 2, width="page", height=3.6, sharex=True)
    with plots.style():
        for (above, below), (name, (q, noise)) in zip(axes.T, cases.items(), strict=True):
            above.plot(grid, q(theta), color=COLOURS[0], label=r"$q(y;\theta)$")
            above.plot(grid, q(theta + h), color=COLOURS[1], linestyle="--", label=r"$q(y;\theta+h)$")
            above.set(title=name, ylim=(0, 1.6))
            above.legend(loc="upper left")
            below.fill_between(grid, (q(theta + h) - q(theta)) / h, step="mid", color=COLOURS[2], linewidth=0)
            below.plot(theta + noise, np.zeros(60), "|", color="black", markersize=7)
            below.set(xlabel="y")
        axes[1, 0].set_ylabel("change of q per unit of h")
        axes[0, 0].set_ylabel("density")
    return figure


moved()

# %% [markdown]
# *Above: density before (solid) and after a step $h = 0.1$ (dashed). Below: what came and went, divided by $h$. Black
# ticks: 60 draws.*
#
# Under the **Normal** the density changes everywhere, most of all where draws are plentiful. Every draw can be asked
# "are you becoming more or less probable?" and gives an answer.
#
# Under the **box** nothing changes inside. All of the change sits in two strips of width $h$ and height $1/h$: area $1$
# each, for every $h$. As $h \to 0$ they become two infinitely thin spikes on the walls. The score estimator asks only
# those points that were drawn, and a draw lies *on* a wall with probability zero. So each of them answers, truthfully:
# "my density is not changing".
#
# The formula went wrong at one step: $\frac{d}{d\theta}\int q f\,dy = \int \frac{dq}{d\theta} f\,dy$. Where the limits
# of an integral move, Leibniz' rule has two more terms:
#
# $$\frac{d}{d\theta}\int_{\theta-1/2}^{\theta+1/2} q\, f\, dy
# = \underbrace{\int_{\theta-1/2}^{\theta+1/2} \frac{dq}{d\theta}\, f\, dy}_{\text{what the score estimates: } 0}
# \;+\; \underbrace{f(\theta+\tfrac12) - f(\theta-\tfrac12)}_{\text{what it leaves out: all of it}} .$$
#
# If a kernel is running, pull at $h$: make it small, and watch the strips.

# %% tags=["slider"]
_ = interact(
    moved,
    theta=FloatSlider(value=0.3, min=-0.3, max=0.8, step=0.05, continuous_update=False),
    h=FloatLogSlider(value=0.1, min=-2, max=-0.3, step=0.1, continuous_update=False),
)

# %% [markdown]
# ## From right to zero without a jump
#
# Is the box a pathological case? Soften its walls: $y = \theta + u + s\,n$ with $n \sim \mathcal{N}(0,1)$. For every
# $s > 0$, however small, the density is smooth and the score estimator is **unbiased**. What happens as $s \to 0$?


# %%
def score_of_soft_box(s, draws=DRAWS):
    """Single draws of the score estimator for a box whose walls have the width s."""
    y = theta + u[:draws] + s * eps[:draws]
    right, left = (y - theta + 0.5) / s, (y - theta - 0.5) / s
    return f(y) * (norm.pdf(left) - norm.pdf(right)) / (s * (norm.cdf(right) - norm.cdf(left)))


rows = []
for s in (0.3, 0.1, 0.01, 1e-3, 1e-4, 1e-5, 1e-7):
    g = score_of_soft_box(s)
    rows.append(
        {
            "s": f"{s:g}",
            "mean": g.mean(),
            "standard error": g.std() / math.sqrt(DRAWS),
            "exact": exact,
            "draws that feel a wall (%)": 100 * np.mean(np.abs(g) > 1e-6),
        }
    )
pd.DataFrame(rows).set_index("s").round(4) + 0.0

# %% [markdown]
# The sharper the walls, the fewer draws feel them, and the louder each of those few shouts: the share of draws falls
# like $s$ and their answer grows like $1/s$, so that the mean stays and the variance grows like $1/s$. At some point
# not one of our $100\,000$ draws falls near a wall. The estimate is then exactly zero with a standard error of exactly
# zero, although the estimator is still unbiased on paper. The box is the end of this road: **its score is the limit in
# which all of the signal has gone into events that never happen.**
#
# ## Let the library check it
#
# `gradlab` knows the exact derivative, mean and variance on problems of this kind. There $f$ is a log-weight
# $\log w(y) = \log p(x|y) + \log p(y) - \log q(y)$: minus the cost in nats of coding $x$ through $y$ (notebook 2).

# %%
problems = {
    "box": gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5),
    "Normal": gl.problems.NormalGaussian(mean=0.3, std=sigma, x=1.0, likelihood_std=0.5),
}
columns = ["estimator", "exact", "mean", "bias", "bias_se", "variance", "exact_variance"]
found = {
    name: gl.compare(problem, ("pathwise", "score", "measure-valued"), k=1, draws=DRAWS, allow_biased=True)
    for name, problem in problems.items()
}
pd.concat({name: frame[columns].set_index("estimator") for name, frame in found.items()}).round(3) + 0.0

# %% [markdown]
# The same picture: on the Normal three unbiased estimators with very different variances, on the box two and a zero.
# `allow_biased=True` was needed to see it. Without it `compare` asks the posterior whether its support moves, and
# refuses:

# %%
try:
    gl.compare(problems["box"], ("score",), k=1)
except gl.GradlabError as error:
    print(error)

# %% [markdown]
# ## What to remember
#
# | | needs | on the Normal | on the box |
# | --- | --- | --- | --- |
# | pathwise | the derivative of $f$ | unbiased | unbiased |
# | score (REINFORCE) | $\log q$ only | unbiased, high variance here | **zero**: the walls move, the inside does not |
# | measure-valued | two evaluations of $f$ per parameter | unbiased | unbiased; in one dimension without variance |
#
# An estimator that uses the score of a density whose support moves leaves out the boundary. On the box the boundary is
# everything. NVIL, VIMCO and wake-phi are refinements of the score, so that they return zero as well, and DReG, which
# trades a score for a path on the way, is biased: notebook 3.
#
# ## Exercises
#
# **1. A constant that should not matter.** Replace $f$ by $f + 100$. The derivative does not change. What happens to
# each of the three estimators on the Normal? Find a remedy that needs no derivative of $f$.
#
# <details><summary>Solution</summary>
#
# Pathwise and measure-valued are differences or derivatives of $f$: nothing changes. The score estimator multiplies
# $f + 100$ by a score of mean zero. Its mean stays, its spread explodes.
#
# ```python
# rng = np.random.default_rng(1)
# y = 0.3 + sigma * rng.standard_normal(DRAWS)
# score, cost = (y - 0.3) / sigma**2, (y - 1) ** 2 + 100
# for name, g in {"plain": cost * score, "baseline": (cost - 100) * score}.items():
#     print(f"{name}: mean {g.mean():.2f} +- {g.std() / math.sqrt(DRAWS):.2f}, std of one draw {g.std():.1f}")
# ```
#
# ```
# plain: mean -2.99 +- 1.10, std of one draw 347.8
# baseline: mean -1.40 +- 0.01, std of one draw 3.3
# ```
#
# The remedy is a *baseline*: take a number off the cost that does not depend on the draw. Since the score has mean
# zero, this costs no bias. On the box no baseline helps: zero times anything is zero.
#
# </details>

# %% [markdown]
# **2. A cost without a derivative.** Let $f(y) = \mathrm{round}(y)^2$ and $\theta = 0.3$ under the box. Which of the
# three estimators gives the right answer? Work it out, then check with `gl.problems.BoxExpectation`.
#
# <details><summary>Solution</summary>
#
# Only the measure-valued one. $f$ is flat almost everywhere, so that the pathwise estimate is $f'(y) = 0$; the score is
# zero anyway. The difference at the walls is $\mathrm{round}(0.8)^2 - \mathrm{round}(-0.2)^2 = 1 - 0$.
#
# ```python
# import torch
#
# problem = gl.problems.BoxExpectation(lambda y: torch.round(y) ** 2, theta=0.3)
# noise = torch.rand(1000, dtype=torch.float64, generator=torch.Generator().manual_seed(0)) - 0.5
# print("exact   ", problem.exact_gradient())
# print("pathwise", problem.pathwise(noise).mean().item())
# print("score   ", problem.score(noise).mean().item())
# ```
#
# ```
# exact    1.0
# pathwise 0.0
# score    0.0
# ```
#
# </details>

# %% [markdown]
# **3. Right by accident.** For which costs is the score estimator on the box right? Give one that is not constant.
#
# <details><summary>Solution</summary>
#
# Where the boundary term vanishes: $f(\theta+\tfrac12) = f(\theta-\tfrac12)$. Every cost of period 1 does it for every
# $\theta$: the box covers exactly one period wherever it stands, and $F$ is constant. Our $(y-1)^2$ does it at
# $\theta = 1$ alone, its minimum.
#
# ```python
# import torch
#
# for name, f in {"sin(2 pi y)": lambda y: torch.sin(2 * math.pi * y), "(y - 1)^2": lambda y: (y - 1) ** 2}.items():
#     values = [gl.problems.BoxExpectation(f, theta).exact_gradient() for theta in (0.3, 0.7, 1.0)]
#     print(name, [round(abs(value), 6) for value in values])
# ```
#
# ```
# sin(2 pi y) [0.0, 0.0, 0.0]
# (y - 1)^2 [1.4, 0.6, 0.0]
# ```
#
# </details>

# %% [markdown]
# ## References
#
# - R. J. Williams. *Simple statistical gradient-following algorithms for connectionist reinforcement learning.* Machine
#   Learning 8, 1992. The score estimator as REINFORCE.
# - G. C. Pflug. *Sampling derivatives of probabilities.* Computing 42, 1989. Measure-valued derivatives.
# - D. P. Kingma, M. Welling. *Auto-encoding variational Bayes.* ICLR 2014. The pathwise estimator.
# - S. Mohamed, M. Rosca, M. Figurnov, A. Mnih. *Monte Carlo gradient estimation in machine learning.* Journal of Machine
#   Learning Research 21, 2020. The survey of all three, with the condition that the box violates.
# - J. Balle, V. Laparra, E. P. Simoncelli. *End-to-end optimized image compression.* ICLR 2017. The box as a proxy of
#   rounding.
# - T. Xu et al. *Multi-sample training for neural image compression.* NeurIPS 2022. Section 2.2: the score estimator
#   on the box.
