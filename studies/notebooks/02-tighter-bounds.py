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
# # 2. Tighter bounds
#
# A lossy codec is trained on a lower bound of a log-likelihood. More samples make the bound tighter: from the ELBO to
# IWAE, and, for codecs with two latents, to MS-NIC-MIX and MS-NIC-DMS. On toy problems every one of these bounds is known
# exactly, at any number of samples, so that we can see what $k$ samples buy and where it all ends.
#
# **After this notebook you can**
#
# - read the rate-distortion cost of a codec as an ELBO, and tighten it with $k$ samples;
# - put ELBO, IWAE, MIX and DMS in order, and say what each costs;
# - say where the bounds end under box noise, which is *not* $\log p(x)$, and compute by how much they fall short;
# - say what $k = 8$ samples are worth in one dimension and in ten thousand.
#
# You need: notebook 1, and what a Normal density is.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 130, "bbox_inches": None}
import math

import numpy as np
import pandas as pd
from ipywidgets import FloatSlider, interact
from scipy.stats import norm

import gradlab as gl
from gradlab.study import plots
from gradlab.study.plotstyle import COLOURS

# %% [markdown]
# ## From rate and distortion to the ELBO
#
# A codec turns an image $x$ into a latent $y$, adds box noise in place of rounding, pays $-\log p(y)$ nats to store it
# and $-\log p(x|y)$ for what the decoder gets wrong. The average cost is minus the **evidence lower bound**
#
# $$\mathcal{L}_1 = \mathbb{E}_{q(y)}[\log w(y)], \qquad w(y) = \frac{p(x|y)\,p(y)}{q(y)}, \qquad
# q = \mathcal{U}(\varphi - \tfrac12, \varphi + \tfrac12),$$
#
# where $q(y) = 1$ on the box. It bounds the log-evidence: $\mathbb{E}_q[w] \le p(x)$, and by Jensen's inequality
# $\mathbb{E}[\log w] \le \log \mathbb{E}[w]$.
#
# **IWAE** (Burda et al. 2016) takes the average *inside* the logarithm. With $k$ independent samples
#
# $$\mathcal{L}_k = \mathbb{E}\Big[\log \tfrac1k \sum_{i=1}^k w(y_i)\Big] .$$
#
# An average of $k$ weights fluctuates less than one weight, so Jensen's inequality loses less:
# $\mathcal{L}_1 \le \mathcal{L}_2 \le \dots$
#
# The toy: a scalar image $x = 1$ with $x|y \sim \mathcal{N}(y, 0.5^2)$, $y \sim \mathcal{N}(0, 1)$, an encoder that
# says $\varphi = 0.3$. Beside the box we keep a Normal posterior around the same place.

# %% tags=["setup"]
problems = {
    "box": gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5),
    "Normal": gl.problems.NormalGaussian(mean=0.3, std=0.5, x=1.0, likelihood_std=0.5),
}
box = problems["box"]
evidence = problems["Normal"].exact_limit()  # log p(x), nats

# %%
sizes = [1, 2, 4, 8, 16, 64, 256, 1024, 4096]
bounds = pd.DataFrame(
    [{"posterior": name, "k": k, "bound": p.exact_bound(k)} for name, p in problems.items() for k in sizes]
)
shown = bounds.pivot(index="k", columns="posterior", values="bound")
shown["box, gap to its limit x k"] = [k * (box.exact_limit() - value) for k, value in shown["box"].items()]
print(f"limit on the box {box.exact_limit():.4f},  log p(x) {evidence:.4f}")
shown.round(4)

# %%
figure, ax = plots.figure(height=2.6)
plots.curves(ax, bounds, "k", "bound", hue="posterior", xlabel="samples k", ylabel="bound (nats)", xscale="log")
with plots.style():
    ax.axhline(evidence, color="black", linestyle="--", linewidth=1)
    ax.axhline(box.exact_limit(), color="black", linestyle=":", linewidth=1)
    for value, text in ((evidence, r"$\log p(x)$"), (box.exact_limit(), "evidence inside the box")):
        ax.annotate(text, (300, value), (0, -5), textcoords="offset points", ha="center", va="top", fontsize=7)
    ax.get_legend().set_loc("center right")
figure

# %% [markdown]
# *Exact bounds over the number of samples; nothing is sampled here.*
#
# Three things to see.
#
# 1. **Both curves rise**, fast at first. More than half of what the box can gain is there at $k = 2$.
# 2. **Late gains go as $1/k$**: the last column settles. Far out
#    $\mathcal{L}_\infty - \mathcal{L}_k \approx \mathrm{Var}(w) / (2k\,\mathbb{E}[w]^2)$
#    (Maddison et al. 2017; Domke and Sheldon 2018; exercise 2). To halve the gap, double the samples.
# 3. **The box stops far below $\log p(x)$.** More samples do not help.
#
# ## Where the limit lies
#
# As $k \to \infty$ the average in the logarithm becomes its mean:
#
# $$\mathcal{L}_\infty = \log \mathbb{E}_q[w] = \log \int_{\varphi-1/2}^{\varphi+1/2} p(x, y)\,dy
# = \log p(x) + \log P(y \in \text{box} \mid x) .$$
#
# The samples only ever see the inside of the box. What the true posterior $p(y|x)$ has outside is lost for every $k$. A
# Normal reaches everywhere, so that the same argument gives $\log p(x)$.


# %%
def cut(phi=0.3, likelihood_std=0.5):
    """The true posterior with the box cut out of it, and the bounds over the place of the box."""
    problem = gl.problems.BoxGaussian(phi=phi, x=1.0, likelihood_std=likelihood_std)
    mean, variance = problem.model.true_posterior()
    figure, (left, right) = plots.figure(1, 2, width="page", height=2.5)
    y = np.linspace(-1.5, 3, 600)
    density = norm.pdf(y, mean, math.sqrt(variance))
    inside = np.abs(y - phi) <= 0.5
    share = np.diff(norm.cdf([phi - 0.5, phi + 0.5], mean, math.sqrt(variance))).item()
    places = np.linspace(mean - 1.2, mean + 1.2, 33)
    rows = []
    for place in places:
        p = gl.problems.BoxGaussian(phi=place, x=1.0, likelihood_std=likelihood_std)
        values = {"ELBO": p.exact_bound(1), "IWAE, k = 8": p.exact_bound(8), "limit": p.exact_limit()}
        rows += [{"phi": place, "bound": name, "nats": value} for name, value in values.items()]
    options = {"xlabel": r"place of the box $\varphi$", "ylabel": "bound (nats)", "mode": "lines"}
    plots.curves(right, pd.DataFrame(rows), "phi", "nats", hue="bound", **options)
    with plots.style():
        left.plot(y, density, color=COLOURS[0])
        left.fill_between(y, np.where(inside, density, 0), color=COLOURS[1], alpha=0.6, linewidth=0)
        left.set(xlabel="y", ylabel=r"$p(y \mid x)$", title=f"{100 * share:.1f} % inside: log = {math.log(share):.3f}")
        right.axhline(problem.model.evidence(), color="black", linestyle="--", linewidth=1)
        right.axvline(phi, color="0.5", linewidth=1)
        right.set_title(r"dashed: $\log p(x)$")
    return figure


cut()

# %%
print(f"limit on the box - log p(x) = {box.exact_limit() - evidence:.3f}")

# %% [markdown]
# *Left: the true posterior, and what the box cuts out of it. Right: ELBO, $\mathcal{L}_8$ and the limit for every place of
# the box (the grey line marks ours).*
#
# The box holds $48.7\,\%$ of the posterior, and the logarithm of that share is exactly what is missing. Moving the box helps
# (the curves peak at the middle of the posterior), widening it is not allowed: its width is the width of a rounding
# step. The same peak for every curve is no accident: notebook 3.

# %% tags=["slider"]
_ = interact(
    cut,
    phi=FloatSlider(value=0.3, min=-0.4, max=2, step=0.1, continuous_update=False),
    likelihood_std=FloatSlider(value=0.5, min=0.1, max=1.5, step=0.1, continuous_update=False),
)

# %% [markdown]
# ## Two latents: MIX and DMS
#
# Modern codecs have a second latent $z$ that tells the prior of $y$ how wide to be: $x \leftarrow y \leftarrow z$
# (Balle et al. 2018). Both get box noise, and $w(y, z) = p(x|y)\,p(y|z)\,p(z)$. Where $z$ is computed from the *mean* of
# $y$ and not from its noisy sample (direct-y, notebook 5), samples of $y$ and $z$ are independent given the image and may
# be combined freely (Xu et al. 2022):
#
# $$\text{MIX}_k = \mathbb{E}\log \tfrac1k \sum_i w(y_i, z), \qquad
# \text{DMS}_{k,l} = \mathbb{E}\log \tfrac{1}{kl} \sum_i \sum_j w(y_i, z_j) .$$
#
# | | samples | runs of $g_a$, $h_a$ | runs of $h_s$ | runs of $g_s$ |
# | --- | --- | --- | --- | --- |
# | ELBO | one $y$, one $z$ | 1 | 1 | 1 |
# | MS-NIC-MIX | $k$ of $y$, one $z$ | 1 | 1 | $k$ |
# | MS-NIC-DMS | $k$ of $y$ with each of $l$ of $z$ | 1 | $l$ | $k$ |
#
# `TwoLevel` is this hierarchy with linear transforms. Its bounds are exact too.

# %%
toy = gl.problems.TwoLevel(phi=0.3, x=1.2, encode=(0.5, 0.1), decode=(0.85, 0.2, 0.6), likelihood_std=0.5)
rows = []
for k in (1, 2, 4, 8, 32, 128, 1024):
    values = {
        "ELBO": toy.exact_bound(1, objective="elbo"),
        "MIX, k": toy.exact_bound(k, objective="ms-nic-mix"),
        "DMS, k x 3": toy.exact_bound(k, 3, objective="ms-nic-dms"),
        "IWAE, 3k pairs": toy.exact_bound(3 * k, objective="iwae"),
    }
    rows += [{"k": k, "bound": name, "nats": value} for name, value in values.items()]
chain = pd.DataFrame(rows)
print(f"evidence inside the boxes {toy.exact_limit('iwae'):.4f},  log p(x) {toy.evidence():.4f}")
print(f"limit of MIX {toy.exact_limit('ms-nic-mix'):.4f}")
chain.pivot(index="k", columns="bound", values="nats")[list(values)].round(4)

# %%
figure, ax = plots.figure(height=2.7)
plots.curves(ax, chain, "k", "nats", hue="bound", xlabel="samples k of y", ylabel="bound (nats)", xscale="log")
with plots.style():
    ax.axhline(toy.exact_limit("iwae"), color="black", linestyle=":", linewidth=1)
    ax.set_title("dotted: evidence inside the boxes")
figure

# %% [markdown]
# *Exact bounds of the linear hierarchy, $l = 3$ samples of $z$.*
#
# In every row ELBO $\le$ MIX $\le$ DMS $\le$ as many independent pairs. MIX has one $z$ and so a limit of its own. On
# this toy most of the gain comes from $y$: from $k = 1$ to $8$ MIX gains 0.47 nats, and three samples of $z$
# instead of one add 0.005 at $k = 8$. And none of them can pass the evidence *inside the boxes*, 1.7 nats below
# $\log p(x)$.
# The paper's statement that DMS converges to $\log p(x)$ has a condition on the support of the posterior, and the box
# does not meet it.
#
# ## What k buys where the latents are many
#
# A codec has not one latent but tens of thousands. $\log w$ is then a sum over all of them and fluctuates by
# $\sqrt{D}$ times as much. Take $D$ independent copies of the box problem:

# %%
rows = []
for dim in (1, 10, 100, 1000, 10_000):
    many = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5, dim=dim)
    gain, possible = many.exact_bound(8) - many.exact_bound(1), many.exact_limit() - many.exact_bound(1)
    rows.append(
        {
            "dimensions": dim,
            "ELBO": many.exact_bound(1),
            "gain of k = 8": gain,
            "of what is possible (%)": 100 * gain / possible,
            "effective samples of 8": many.exact_ess(8),
        }
    )
pd.DataFrame(rows).set_index("dimensions").round(3)

# %% [markdown]
# With one dimension eight samples collect 90 % of what there is. With ten thousand they collect less than 5 %, because the weights
# become one-hot: an effective sample size of 1.02 means that one of the eight has all the weight, and the "average"
# is the best of eight lottery tickets. In absolute numbers the gain still grows, about as $\sqrt{D}$; but the ELBO grows
# as $D$.
#
# This is why the paper's code does not use these weights as they are. Its listing divides $\log w$ by the number of
# pixels before the softmax, which makes the weights almost flat: another objective, and no bound on $\log p(x)$. The
# study `gradlab run weights` measures both on a codec.
#
# ## Exercises
#
# **1. Trust, but sample.** Estimate $\mathcal{L}_8$ on the box from 100 000 draws of eight samples and compare it with
# `exact_bound(8)`. (`box.draw_noise`, `box.log_terms` and `gl.OBJECTIVES["iwae"]` are what you need.)
#
# <details><summary>Solution</summary>
#
# ```python
# import torch
#
# noise = box.draw_noise(100_000, 8, torch.Generator().manual_seed(0))
# values = gl.OBJECTIVES["iwae"](box.log_terms(noise))
# error = values.std() / math.sqrt(len(values))
# print(f"sampled {values.mean():.4f} +- {error:.4f}, exact {box.exact_bound(8):.4f}")
# ```
#
# ```
# sampled -2.1709 +- 0.0007, exact -2.1710
# ```
#
# </details>

# %% [markdown]
# **2. The constant of $1/k$.** Show that far out $\mathcal{L}_\infty - \mathcal{L}_k \approx \mathrm{Var}(w)/(2k\,
# \mathbb{E}[w]^2)$, and check it on the box.
#
# <details><summary>Solution</summary>
#
# Write the average as $\mathbb{E}[w]\,(1 + \delta)$, where $\delta$ has mean 0 and variance
# $\mathrm{Var}(w)/(k\,\mathbb{E}[w]^2)$. Then $\log(1+\delta) \approx \delta - \delta^2/2$, and the mean of that is minus
# half the variance.
#
# ```python
# import torch
#
# w = box.log_terms(box.draw_noise(1_000_000, 1, torch.Generator().manual_seed(0))).log_w().exp()
# print(f"Var(w) / (2 E[w]^2) = {float(w.var() / w.mean() ** 2 / 2):.3f}")
# for k in (8, 64, 1024):
#     print(f"k = {k}: k x gap = {k * (box.exact_limit() - box.exact_bound(k)):.3f}")
# ```
#
# ```
# Var(w) / (2 E[w]^2) = 0.163
# k = 8: k x gap = 0.173
# k = 64: k x gap = 0.164
# k = 1024: k x gap = 0.163
# ```
#
# </details>

# %% [markdown]
# **3. The best box.** Put the box where the bound is highest. How much of $\log p(x)$ is then missing at $k = 1$, at
# $k = 8$ and in the limit? How wide would the box have to be to miss only 0.01 nats?
#
# <details><summary>Solution</summary>
#
# The best place is the middle of the true posterior, $\mathcal{N}(0.8, 0.2)$. The limit misses $-\log P$, with $P$ the share
# inside.
#
# ```python
# best = gl.problems.BoxGaussian(phi=0.8, x=1.0, likelihood_std=0.5)
# for name, value in {"k = 1": best.exact_bound(1), "k = 8": best.exact_bound(8), "limit": best.exact_limit()}.items():
#     print(f"{name}: {evidence - value:.4f} nats short")
# width = 2 * math.sqrt(0.2) * norm.ppf((1 + math.exp(-0.01)) / 2)
# print(f"a box of width {width:.2f} would miss 0.01")
# ```
#
# ```
# k = 1: 0.3226 nats short
# k = 8: 0.3079 nats short
# limit: 0.3059 nats short
# a box of width 2.31 would miss 0.01
# ```
#
# A codec cannot widen its boxes, since they stand for a rounding step. What training can choose is the scale of $y$, and
# there rate and distortion have their say.
#
# </details>

# %% [markdown]
# ## References
#
# - Y. Burda, R. Grosse, R. Salakhutdinov. *Importance weighted autoencoders.* ICLR 2016.
# - C. J. Maddison et al. *Filtering variational objectives.* NeurIPS 2017. The asymptotic gap.
# - J. Domke, D. Sheldon. *Importance weighting and variational inference.* NeurIPS 2018. The same, with conditions.
# - J. Balle, D. Minnen, S. Singh, S. J. Hwang, N. Johnston. *Variational image compression with a scale hyperprior.*
#   ICLR 2018. The hierarchy $x \leftarrow y \leftarrow z$.
# - T. Xu et al. *Multi-sample training for neural image compression.* NeurIPS 2022. MIX and DMS, sections 3.1 and 3.2.
