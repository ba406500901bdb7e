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
# # 5. Direct-y
#
# A codec with a hyperprior has two latents, $x \leftarrow y \leftarrow z$. Nearly everyone computes $z$ from the *clean* $y$, although
# textbooks would have it drawn from the *noisy* one. The trick is called direct-y. It is two words of code; its effect on
# the gradients of five modules can be worked out exactly on a linear hierarchy, and then measured on a real codec, where
# it comes out differently.
#
# **After this notebook you can**
#
# - draw the hierarchy with and without direct-y, and say what the switch makes possible;
# - predict from formulas which module's SNR rises, which falls, and why it depends on where the latent is;
# - measure the same on a codec with nothing but the switch changed;
# - read a ratio of SNRs critically: is it the mean or the variance that moved?
#
# You need: notebooks 2 and 4.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 130, "bbox_inches": None}
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from ipywidgets import FloatSlider, interact

import gradlab as gl
from gradlab.evaluation.gradients import compare_direct_y
from gradlab.study import plots
from gradlab.training import TrainSettings, train

torch.set_num_threads(1)  # the same numbers on any number of cores

# %% [markdown]
# ## The hierarchy
#
# ```
# x --> g_a --> y --+--> y + u ----------> g_s --> x_hat        u, v: box noise
#                   |
#   direct-y:  y    |
#   2-level:  y + u +--> h_a --> z + v --> h_s --> p(y | z)
# ```
#
# The encoder says where the box of $y$ is; the hyper-encoder $h_a$ says where the box of $z$ is. A 2-level VAE, read from the
# textbook, hands the noisy sample $y + u$ to $h_a$. **Direct-y** (Balle et al. 2018) hands it $y$ itself.
#
# First consequence, before any gradient: with direct-y, samples of $y$ and of $z$ are independent given the image. Only
# then may each $y_i$ be combined with each $z_j$, as MS-NIC-MIX and DMS do. `gradlab` refuses the other case:

# %% tags=["setup"]
GROUPS = ["y infer", "y gen", "z infer", "z gen", "z prior"]


def toy(phi=0.1, a=0.15):
    """The linear hierarchy: phi is y, h_a is a y + 0.9, and p(y | z) = N(0.85 z + 0.35, 0.6^2)."""
    return gl.problems.TwoLevel(
        phi=phi, x=1.7, encode=(a, 0.9), decode=(0.85, 0.35, 0.6), likelihood_std=0.95, prior_std=1.6
    )


# %%
try:
    toy().switched(direct_y=False).exact_bound(4, objective="ms-nic-mix")
except gl.GradlabError as error:
    print(error)

# %% [markdown]
# ## The linear hierarchy, exactly
#
# In `TwoLevel` every module is linear: $g_a$ is the number $\varphi$ (`y infer`), $g_s$ a slope and an offset (`y gen`), $h_a$ is
# $z = a\,y + b$ (`z infer`), $h_s$ has the parameters $c, d$ (`z gen`), and $p(z)$ its width (`z prior`). Gradients are
# polynomials in the two noises, so their means and variances are closed forms. SNR without direct-y over SNR with it, beside
# the ratios in the paper's Table 3 (its earliest row):

# %%
exact = toy().exact_snr().pivot(index="group", columns="direct_y", values=["snr", "mean_norm", "variance_trace"])
printed = {
    method: {g: gl.paper.value(3, g, iteration="early", method=method) for g in GROUPS}
    for method in ("2-level VAE", "Balle et al. 2018")
}
summary = pd.DataFrame(
    {
        "SNR, 2-level": exact["snr"][False],
        "SNR, direct-y": exact["snr"][True],
        "ratio": exact["snr"][False] / exact["snr"][True],
        "ratio, paper": pd.Series(printed["2-level VAE"]) / pd.Series(printed["Balle et al. 2018"]),
    }
)
summary.loc[GROUPS].round(3)

# %% [markdown]
# At this point of the parameter space a model with one latent and no neural network has the pattern of the paper's table: `z
# infer` loses a third to a half of its SNR without direct-y, the others hardly move. (The point was chosen to show this. The
# next picture leaves it.)
#
# ## Why z infer
#
# The gradient of $h_a$'s slope is a product:
#
# $$\frac{\partial \log w}{\partial a} = \frac{\partial \log w}{\partial z} \times
# \begin{cases} \varphi & \text{direct-y} \\ \varphi + u & \text{2-level.} \end{cases}$$
#
# With direct-y the second factor is a constant, which leaves the ratio of mean and standard deviation alone. Without it the
# factor is noisy: harmless where $|\varphi|$ is large, ruinous where $\varphi$ is near zero, because then the noise is all
# there is. In a codec many latents are near zero: notebook 6 counts them.


# %%
def ratios(a=0.15):
    """SNR without over with direct-y, group by group, over the place of the latent."""
    rows = []
    for phi in np.linspace(0.02, 3, 40):
        snr = toy(phi, a).exact_snr().pivot(index="group", columns="direct_y", values="snr")
        rows += [{"phi": phi, "group": g, "ratio": snr[False][g] / snr[True][g]} for g in GROUPS]
    figure, ax = plots.figure(width="page", height=2.8)
    labels = {"xlabel": r"place of the latent $\varphi$", "ylabel": "SNR, 2-level / direct-y"}
    plots.curves(ax, pd.DataFrame(rows), "phi", "ratio", hue="group", mode="lines", **labels)
    with plots.style():
        ax.axhline(1, color="black", linewidth=0.8)
        ax.set(ylim=(0.3, 2.2), title=f"exact, slope of the hyper-encoder a = {a:g}")
        ax.legend(ncols=5, loc="upper center")
    return figure


ratios()

# %% [markdown]
# *Exact ratio of SNRs over the place of the latent. Below 1 direct-y helps.*
#
# `z infer` swings most. It loses where $\varphi$ is small and is even from $\varphi = 2$ on. Around $\varphi = 1.4$, where its mean
# gradients pass through zero, the ratio of two small numbers goes both ways. So "two noisy arguments give more variance" is
# not the whole story. Look at means and variances of $a$ and $b$ apart:

# %%
rows = []
for phi in (0.0, 0.1, 1.0, 3.0):
    for parameter in ("a", "b"):
        row = {"phi": phi, "parameter": parameter}
        for name, direct_y in (("2-level", False), ("direct-y", True)):
            mean, variance = toy(phi).switched(direct_y).exact_moments("pathwise", 1, parameter)
            row |= {f"mean, {name}": mean, f"variance, {name}": variance}
        rows.append(row)
pd.DataFrame(rows).set_index(["phi", "parameter"]).round(3) + 0.0

# %% [markdown]
# - The **bias** $b$ has the same mean either way, and *less* variance without direct-y: $z$ then follows $y$, so that
#   the two noises partly cancel in $y - c z - d$.
# - The **slope** $a$ is where the noisy factor bites. At $\varphi = 0$ its gradient is dead with direct-y (nothing comes in, so
#   nothing can be learned), and noise around a small mean without it.
#
# Pull at the slope of the hyper-encoder if a kernel is running.

# %% tags=["slider"]
_ = interact(ratios, a=FloatSlider(value=0.15, min=0.0, max=1.5, step=0.15, continuous_update=False))

# %% [markdown]
# ## A small codec
#
# Now a real one: the scale hyperprior with three stages, trained on the photographs that ship with scikit-image, with
# direct-y. Then we freeze it, draw the noise again and again on the same eight crops, and flip the switch: same weights, same
# noise, same images. Nothing differs but what $h_a$ reads.

# %%
photographs = gl.data.embedded("train")
settings = TrainSettings(codec="small-hyperprior", channels=(16, 24), crop=64, steps=300, learning_rate=2e-3)
with tempfile.TemporaryDirectory() as folder:
    codec = train(settings, photographs, Path(folder)).codec()

crops = gl.data.Crops(photographs, size=64, batch=8, seed=1).batch(0)
recorders = compare_direct_y(codec, crops, lam=settings.lam, draws=40)
tables = {name: recorder.summary().set_index("group").loc[GROUPS] for name, recorder in recorders.items()}
pd.concat({name: table[["snr", "snr_se", "noise_floor"]] for name, table in tables.items()}, axis=1).round(2)

# %%
parts = {"snr": "SNR", "mean_norm": "norm of the mean", "variance_trace": "variance"}
rows = [
    {"group": g, "quantity": name, "ratio": tables["2-level"][column][g] / tables["direct-y"][column][g]}
    for g in GROUPS
    for column, name in parts.items()
]
figure, ax = plots.figure(width="page", height=2.6)
plots.bars(ax, pd.DataFrame(rows), "group", "ratio", hue="quantity", xlabel="", ylabel="2-level / direct-y")
with plots.style():
    ax.axhline(1, color="black", linewidth=0.8)
figure

# %% [markdown]
# *A small codec after 300 steps with direct-y, the switch flipped at the same weights; 40 noise draws, one seed.*
#
# This is not the paper's Table 3. Here `z infer` and `z gen` have the *higher* SNR without direct-y, by a factor of two and
# more. Compare the three bars: their variance *falls*, against what "two noisy arguments" would have it, and their
# **mean** grows. With the noisy sample $h_a$ reads $|y + u|$ instead of $|y|$, which is larger on average where $y$ is near
# zero. The codec was trained for the one and is handed the other, so it is no longer where its gradient was small. `y gen` does
# not change by a digit: nothing that it reads or feeds has changed.
#
# Where does this leave the trick?
#
# - Compare `variance_trace` and `mean_norm` before you explain a ratio of SNRs.
# - An SNR at the same weights and one at each model's own weights answer different questions. `gradlab run table3` measures
#   both, over training; the published run is in `figures/quick/table3`, with its verdicts.
# - What a codec pays without direct-y in rate and distortion is Table 2. The paper's numbers:

# %%
rows = [
    {"method": m, **{c: gl.paper.value(2, c, method=m) for c in ("bpp", "MSE", "R-D cost")}}
    for m in ("2-level VAE", "Balle et al. 2018")
]
pd.DataFrame(rows).set_index("method")

# %% [markdown]
# *Numbers of the paper (Xu et al. 2022, Table 2), not ours.* `gradlab run table2` repeats the comparison.
#
# ## Exercises
#
# **1. When does noise help?** The variance of $b$'s gradient is $(\gamma^2 + \kappa^2)/12$ with direct-y and $((\gamma - a\kappa)^2 +
# \kappa^2)/12$ without, where $\gamma = c/\sigma_y^2$ and $\kappa = c^2/\sigma_y^2 + 1/\sigma_z^2$. For which slopes $a$ does
# direct-y have the larger variance? Check with `exact_moments`.
#
# <details><summary>Solution</summary>
#
# $(\gamma - a\kappa)^2 < \gamma^2$ means $0 < a < 2\gamma/\kappa$.
#
# ```python
# gamma, kappa = 0.85 / 0.6**2, 0.85**2 / 0.6**2 + 1 / 1.6**2
# print(f"2 gamma / kappa = {2 * gamma / kappa:.3f}")
# for a in (-0.5, 0.5, 1.9, 2.1):
#     two, direct = (toy(a=a).switched(switch).exact_moments("pathwise", 1, "b")[1] for switch in (False, True))
#     print(f"a = {a:4}: 2-level {two:.3f}, direct-y {direct:.3f}")
# ```
#
# ```
# 2 gamma / kappa = 1.970
# a = -0.5: 2-level 1.535, direct-y 0.944
# a =  0.5: 2-level 0.592, direct-y 0.944
# a =  1.9: 2-level 0.880, direct-y 0.944
# a =  2.1: 2-level 1.075, direct-y 0.944
# ```
#
# $\gamma/\kappa$ is the slope of the true posterior mean of $z$ given $y$: every hyper-encoder between "ignores $y$" and
# "overshoots by a factor of two" has less noise in its bias *without* direct-y.
#
# </details>

# %% [markdown]
# **2. Bounds.** Compare $\mathcal{L}_k$ of $k$ pairs with and without direct-y on `toy()` at $k = 1$ and $k = 8$. Which is tighter?
# Does the answer depend on $a$?
#
# <details><summary>Solution</summary>
#
# ```python
# for a in (0.15, 0.9):
#     for k in (1, 8):
#         two, direct = (toy(a=a).switched(switch).exact_bound(k, objective="iwae") for switch in (False, True))
#         print(f"a = {a}, k = {k}: 2-level {two:.4f}, direct-y {direct:.4f}")
#     two, direct = (toy(a=a).switched(switch).exact_limit("iwae") for switch in (False, True))
#     print(f"a = {a}, limit: 2-level {two:.4f}, direct-y {direct:.4f}")
# ```
#
# ```
# a = 0.15, k = 1: 2-level -5.9481, direct-y -5.9754
# a = 0.15, k = 8: 2-level -5.2303, direct-y -5.1781
# a = 0.15, limit: 2-level -5.1413, direct-y -5.0841
# a = 0.9, k = 1: 2-level -6.0947, direct-y -6.1909
# a = 0.9, k = 8: 2-level -5.6649, direct-y -5.3294
# a = 0.9, limit: 2-level -5.6021, direct-y -5.2249
# ```
#
# For both slopes the 2-level bound is tighter with one sample, and direct-y's with eight, and in the limit. The limit is the
# evidence inside the region where pairs can fall: with direct-y a square in the $(y, z)$ plane, without it a sheared one.
#
# </details>

# %% [markdown]
# **3. The switch is only a forward pass.** Show that a trained codec, its weights untouched, has the same `y gen` gradient with
# and without direct-y, and say why. (`codec.direct_y` is the switch; use `gl.codecs.build("small-hyperprior", (8, 12))`.)
#
# <details><summary>Solution</summary>
#
# $g_s$ reads $y + u$ and is read by the distortion alone. What $h_a$ does reaches only the rate.
#
# ```python
# codec = gl.codecs.build("small-hyperprior", (8, 12))
# crop = gl.data.Crops(gl.data.embedded("train"), size=32, batch=2, seed=0).batch(0)
# found = {name: r.summary().set_index("group") for name, r in compare_direct_y(codec, crop, 0.015, 5).items()}
# for group in ("y gen", "z infer"):
#     same = found["direct-y"].loc[group, "snr"] == found["2-level"].loc[group, "snr"]
#     print(f"{group}: the same SNR to the last digit? {same}")
# ```
#
# ```
# y gen: the same SNR to the last digit? True
# z infer: the same SNR to the last digit? False
# ```
#
# </details>

# %% [markdown]
# ## References
#
# - J. Balle, D. Minnen, S. Singh, S. J. Hwang, N. Johnston. *Variational image compression with a scale hyperprior.*
#   ICLR 2018. Direct-y, without the name.
# - T. Rainforth et al. *Tighter variational bounds are not necessarily better.* ICML 2018. SNR as a measure of gradients.
# - T. Xu et al. *Multi-sample training for neural image compression.* NeurIPS 2022. Section 2.3, Tables 2 and 3.
