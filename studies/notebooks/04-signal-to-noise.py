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
# # 4. Signal to noise
#
# How noisy is my gradient, and in which part of my model? One number answers: the signal-to-noise ratio (SNR) of repeated
# draws at frozen weights. It is easily measured and easily misread.
#
# **After this notebook you can**
#
# - measure the gradient SNR of any torch model, module by module, in ten lines;
# - tell a small SNR from none at all: the noise floor, and what to do about it;
# - state Rainforth's law (more samples in the bound ruin the SNR of the encoder), and reproduce it;
# - show that on the box of a codec the law turns around, and say where.
#
# You need: notebooks 1 and 2, and to have seen a torch training loop.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 130, "bbox_inches": None}
import math

import numpy as np
import pandas as pd
import torch
from ipywidgets import FloatSlider, interact
from torch import nn

import gradlab as gl
from gradlab.problems import scaling
from gradlab.problems.rainforth import RainforthModel
from gradlab.study import plots

torch.set_num_threads(1)  # the same numbers on any number of cores

# %% [markdown]
# ## Your own model in ten lines
#
# Freeze the weights and the minibatch. Draw the noise again and again. Each scalar parameter then has a gradient with a mean
# and a standard deviation over draws, and the SNR of a group of parameters is the average of
#
# $$\frac{|\text{mean}|}{\text{standard deviation}}$$
#
# over its scalars. `GradientRecorder` keeps the running moments of every parameter (its memory does not grow with the
# draws), takes the gradients out of `.grad`, and leaves the weights alone. Here a tiny codec: four latents, box noise.

# %%
torch.manual_seed(0)
encoder, decoder = nn.Linear(16, 4), nn.Linear(4, 16)
x = torch.randn(64, 4) @ torch.randn(4, 16)

recorder = gl.GradientRecorder({"encoder": encoder, "decoder": decoder})
with recorder:
    for _ in range(200):
        y = encoder(x)
        x_hat = decoder(y + torch.rand_like(y) - 0.5)
        (x_hat - x).square().mean().backward()
        recorder.step()
recorder.summary().round(3)

# %% [markdown]
# Both groups have plenty of signal: these weights are untrained, and far from an optimum every draw points the same way.
# Train for a while and look again.

# %%
adam = torch.optim.Adam([*encoder.parameters(), *decoder.parameters()], lr=0.03)


def loss():
    """The distortion of one noise draw, and a little rate so that the latents do not grow without end."""
    y = encoder(x)
    return (decoder(y + torch.rand_like(y) - 0.5) - x).square().mean() + 0.01 * y.square().mean()


rows = []
for step in range(801):
    if step in (0, 50, 200, 800):
        recorder = gl.GradientRecorder({"encoder": encoder, "decoder": decoder})
        with recorder:
            for _ in range(200):
                loss().backward()
                recorder.step()
        rows.append(recorder.summary().assign(step=step, loss=loss().item()))
    adam.zero_grad()
    loss().backward()
    adam.step()
training = pd.concat(rows)
training[["step", "loss", "group", "snr", "snr_se", "mean_norm", "variance_trace"]].set_index("step").round(4)

# %% [markdown]
# After 50 steps the SNR has fallen by more than a factor of ten, because the mean gradient (`mean_norm`) is all but gone:
# near an optimum what is left of a gradient is its noise. An SNR belongs to a point in training, so compare models at the
# same point.
#
# ## The noise floor
#
# An SNR of 0.06 from 200 draws: is that a weak signal, or none? Take a gradient that is *pure noise*, and one that has a true
# SNR of 0.1, each for 1000 parameters, and record more and more draws.


# %% tags=["setup"]
def record(true_snr, draws, seed=0):
    """A recorder that has seen gradients of a known SNR: a constant plus standard normal noise."""
    torch.manual_seed(seed)
    weights = nn.Parameter(torch.zeros(1000))
    recorder = gl.GradientRecorder({"weights": [weights]})
    with recorder:
        for _ in range(draws):
            (weights * (true_snr + torch.randn(1000))).sum().backward()
            recorder.step()
    return recorder.summary()


# %%
rows = []
for draws in (10, 30, 100, 300, 1000, 3000):
    for true_snr in (0.0, 0.1):
        row = record(true_snr, draws).iloc[0]
        values = {"snr": row.snr, "noise_floor": row.noise_floor, "snr_corrected": row.snr_corrected}
        rows.append({"draws": draws, "true SNR": f"true SNR {true_snr}", **values})
floor = pd.DataFrame(rows)
floor.pivot(index="draws", columns="true SNR", values=["snr", "snr_corrected"]).round(3)

# %%
figure, ax = plots.figure(height=2.7)
scales = {"xscale": "log", "yscale": "log"}
plots.curves(ax, floor, "draws", "snr", hue="true SNR", xlabel="draws T", ylabel="measured SNR", **scales)
with plots.style():
    ax.plot(floor["draws"], floor["noise_floor"], color="black", linestyle=":", label=r"floor $\sqrt{2/(\pi T)}$")
    ax.legend()
figure

# %% [markdown]
# *Measured SNR of two gradients whose SNR is known, over the number of draws.*
#
# The mean of $T$ draws of pure noise is not zero: it is of the order $1/\sqrt{T}$, and its absolute value averages to
# $\sqrt{2/(\pi T)}$. That is the **floor**: pure noise shows it, and with 10 or 30 draws a true SNR of 0.1 can hardly be
# told from none. `snr_corrected` takes the floor off, by subtracting from the squared mean what noise alone would put
# there. It comes out as 0 or close to it where there is no signal, and near 0.1 from 30 draws on where there is.
#
# Two more rules. The SNR says how well the *mean* is seen, not that the mean is right: at $k = 8$ notebook 3 has an
# estimator with an SNR of 3 and a bias of 87 %. And an average over parameters hides the dead ones, hence the column `dead`.
#
# ## Rainforth's law
#
# Bounds become tighter with $k$ (notebook 2). Rainforth et al. (2018) asked what becomes of the gradient. Averaging the
# gradient of $M$ bounds of $k$ samples each:
#
# $$\text{SNR of the encoder} = O\!\left(\sqrt{M/k}\right), \qquad \text{SNR of the decoder} = O\!\left(\sqrt{M k}\right).$$
#
# The bound forgives a bad encoder, and the better it forgives, the less it has to say about the encoder. Their model: 20
# latents, Normal everywhere. We measure the gradient of $b$ (encoder) and of $\mu$ (decoder).

# %%
model = RainforthModel(data=8)
law = scaling.rainforth_snr(model, k=(1, 4, 16, 64, 256), m=(1,), draws=128)
law["part"] = law["parameter"].map({"b": "encoder", "mu": "decoder"})
for part, frame in law.groupby("part"):
    late = scaling.slope(frame[frame["k"] >= 16], "k")
    print(f"{part}: slope of log SNR over log k {late.value:+.2f}, 95 % interval {late.low:+.2f} to {late.high:+.2f}")
law.pivot(index="k", columns="part", values="snr").round(3)

# %% [markdown]
# Slopes of about $-\tfrac12$ and $+\tfrac12$: the law. (The signal of $b$ is taken from DReG, which is unbiased here and
# has little noise; the plug-in SNR would run into its floor and flatten the slope.)
#
# ## The law turns around on the box
#
# The proof needs the gradient of the bound to vanish as $k \to \infty$: all encoders lead to the same $\log p(x)$. On the box
# they do not. The limit is the evidence *inside the box*, which depends on where the box is; its derivative is a flux
# through the walls, which vanishes at the optimum alone. The noise does, like $1/\sqrt{k}$. So in the end the SNR *grows* like $\sqrt{k}$.
# All of this is exact:


# %%
def reversal(likelihood_std=0.2, x=1.0):
    """Exact SNR of the pathwise gradient by phi, on the box and on a Normal posterior of the same variance."""
    problems = {
        "box": gl.problems.BoxGaussian(0.3, x, likelihood_std=likelihood_std),
        "Normal": gl.problems.NormalGaussian(0.3, 1 / math.sqrt(12), x, likelihood_std=likelihood_std),
    }
    rows = []
    for k in np.unique(np.geomspace(1, 10**6, 19).round().astype(int)).tolist():
        for name, problem in problems.items():
            mean, variance = problem.exact_moments("pathwise", k)
            rows.append({"posterior": name, "k": k, "snr": abs(mean) / math.sqrt(variance)})
    figure, ax = plots.figure(height=2.7)
    options = {"xscale": "log", "yscale": "log", "mode": "lines", "hue": "posterior"}
    plots.curves(ax, pd.DataFrame(rows), "k", "snr", xlabel="samples k", ylabel="exact SNR of the encoder", **options)
    plots.title(ax, f"likelihood_std = {likelihood_std:g}, x = {x:g}")
    return figure


reversal()

# %%
reversal(likelihood_std=0.1, x=0.5)

# %% [markdown]
# *Exact SNR of the pathwise gradient of $\varphi$ over $k$. Above: far from the optimum. Below: a narrow likelihood, close to its
# optimum.*
#
# Above, the box dips at $k = 2$ and grows from there. Below, it first falls, from 0.68 down to 0.013 at $k = 10$, even
# faster than the Normal, and then turns: as long as the few samples do not see the walls, a better bound has less and less
# to say about $\varphi$, as for any other posterior. The Normal falls all the way.
#
# ## And in a codec?
#
# Growth needs samples that resolve the *whole* box, walls included: $k \gg \exp(\mathrm{Var}\log w)$. With $D$ latents
# $\mathrm{Var}\log w$ grows like $D$. The exact SNR of one latent's $\varphi$ among $D$ equal ones:

# %%
rows = []
for dim in (1, 8, 64, 512):
    many = gl.problems.BoxGaussian(phi=0.3, x=0.5, likelihood_std=0.3, dim=dim)
    for k in (1, 8, 64, 4096, 10**6):
        mean, variance = many.exact_moments("pathwise", k)
        rows.append({"dimensions": dim, "k": k, "snr": abs(mean) / math.sqrt(variance)})
pd.DataFrame(rows).pivot(index="dimensions", columns="k", values="snr").round(3)

# %% [markdown]
# One latent gains a factor of hundreds from a million samples. With 512 latents a million samples take the SNR from 0.550
# to 0.515: the weights are one-hot (notebook 2), and $k$ samples are worth little more than one. Neither
# Rainforth's slope nor its reversal is to be seen there. A codec has tens of thousands of latents; which way its SNR goes
# is a matter of measurement, not of a theorem.

# %% tags=["slider"]
_ = interact(
    reversal,
    likelihood_std=FloatSlider(value=0.2, min=0.1, max=1.0, step=0.05, continuous_update=False),
    x=FloatSlider(value=1.0, min=0.4, max=2.0, step=0.1, continuous_update=False),
)

# %% [markdown]
# ## Exercises
#
# **1. How many draws?** You expect an SNR of 0.05. How many draws put the floor at half of that? Check with `record`.
#
# <details><summary>Solution</summary>
#
# $\sqrt{2/(\pi T)} = 0.025$ gives $T = 2/(\pi \cdot 0.025^2)$.
#
# ```python
# draws = math.ceil(2 / (math.pi * 0.025**2))
# row = record(0.05, draws).iloc[0]
# print(f"{draws} draws: floor {row.noise_floor:.4f}, snr {row.snr:.4f}, corrected {row.snr_corrected:.4f}")
# ```
#
# ```
# 1019 draws: floor 0.0250, snr 0.0514, corrected 0.0495
# ```
#
# </details>

# %% [markdown]
# **2. Spend 64 samples.** You can afford 64 evaluations of $\log w$: one bound with $k = 64$, or the average of eight gradients
# with $k = 8$, or of 64 with $k = 1$. Which has the best SNR of $\varphi$, on a Normal of standard deviation 0.5 and on the
# box? ($x = 1$, `likelihood_std=0.5`.) What does this not tell you?
#
# <details><summary>Solution</summary>
#
# Averaging $M$ independent draws divides the variance by $M$.
#
# ```python
# normal = gl.problems.NormalGaussian(mean=0.3, std=0.5, x=1.0, likelihood_std=0.5)
# box = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
# for name, problem in {"Normal": normal, "box": box}.items():
#     for k in (1, 8, 64):
#         mean, variance = problem.exact_moments("pathwise", k)
#         print(f"{name}, k = {k}, M = {64 // k}: {abs(mean) / math.sqrt(variance / (64 // k)):.2f}")
# ```
#
# ```
# Normal, k = 1, M = 64: 8.00
# Normal, k = 8, M = 8: 1.02
# Normal, k = 64, M = 1: 0.12
# box, k = 1, M = 64: 13.86
# box, k = 8, M = 8: 10.91
# box, k = 64, M = 1: 11.27
# ```
#
# $k = 1$ wins on both. But each $k$ has a bound of its own: these are SNRs of *different* gradients, and a looser bound may
# pull elsewhere. An SNR alone does not choose an objective.
#
# </details>

# %% [markdown]
# **3. A dead layer.** Put `nn.ReLU()` behind a linear layer whose bias is $-100$, record its gradient, and explain `dead`, `snr`
# and `snr_corrected`.
#
# <details><summary>Solution</summary>
#
# ```python
# torch.manual_seed(0)
# model = nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Linear(8, 1))
# nn.init.constant_(model[0].bias, -100.0)
# recorder = gl.GradientRecorder({"first": model[0], "last": model[2]})
# with recorder:
#     for _ in range(50):
#         model(torch.randn(32, 4)).square().mean().backward()
#         recorder.step()
# print(recorder.summary()[["group", "parameters", "dead", "snr", "snr_corrected"]].to_string(index=False))
# ```
#
# ```
# group  parameters  dead  snr  snr_corrected
# first          40    40  NaN            NaN
#  last           9     9  NaN            NaN
# ```
#
# No unit of the first layer ever fires. Its gradient is 0 in every draw, without spread: all 40 parameters are dead, and
# there is nothing to take a ratio of (NaN, not 0). In the last layer the eight weights see only zeros and are dead too; the
# bias has a gradient, but it is the same in every draw, so that it does not move either.
#
# </details>

# %% [markdown]
# ## References
#
# - T. Rainforth, A. R. Kosiorek, T. A. Le, C. J. Maddison, M. Igl, F. Wood, Y. W. Teh. *Tighter variational bounds are not
#   necessarily better.* ICML 2018. The law.
# - Y. Burda, R. Grosse, R. Salakhutdinov. *Importance weighted autoencoders.* ICLR 2016. The bound.
# - G. Tucker, D. Lawson, S. Gu, C. J. Maddison. *Doubly reparameterized gradient estimators for Monte Carlo objectives.*
#   ICLR 2019. A remedy where the support does not move.
# - T. Xu et al. *Multi-sample training for neural image compression.* NeurIPS 2022. Table 3: the SNR of a codec, group by
#   group.
