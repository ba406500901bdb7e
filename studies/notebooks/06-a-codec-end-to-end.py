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
# # 6. A codec, end to end
#
# Train a small neural codec in less than a minute, write a real bitstream, decode it on the other side, and look: at the
# images, at where the bits go, and at the latents themselves.
#
# **After this notebook you can**
#
# - train a hyperprior codec on a CPU and read its training log;
# - turn an image into bytes and back, and check that the decoder sees what the encoder meant it to see;
# - compare rate and distortion honestly with JPEG;
# - say which latents carry the image, and what rounding does to them.
#
# You need: notebook 2 for what the loss is. Nothing here needs a GPU. The codec is small and trained for a few hundred
# steps; published numbers come from days of training.

# %%
# %matplotlib inline
# %config InlineBackend.print_figure_kwargs = {"dpi": 110, "bbox_inches": None}
import tempfile
from pathlib import Path

import numpy as np
import pandas as pd
import torch

import gradlab as gl
from gradlab.evaluation.bitstream import crop, pad
from gradlab.evaluation.classical import CLASSICAL_CODECS, classical_codecs, encode
from gradlab.evaluation.latents import channel_statistics, residuals, statistics
from gradlab.study import plots
from gradlab.training import TrainSettings, train

torch.set_num_threads(1)  # the same numbers on any number of cores

# %% [markdown]
# ## Train
#
# The loss is bits per pixel plus $\lambda$ times the mean squared error (on the 0-255 scale): minus the ELBO of notebook 2, in
# other units. The photographs are those that ship with scikit-image.

# %%
settings = TrainSettings(
    codec="small-hyperprior",  # three strides in g_a, one in h_a: Balle et al. 2018, for small images
    channels=(16, 24),  # of the hidden layers, of y
    lam=0.015,
    crop=64,
    steps=500,
    learning_rate=2e-3,
    cosine_steps=500,
    final_fraction=0.05,
)
photographs, test = gl.data.embedded("train"), gl.data.embedded("test")
with tempfile.TemporaryDirectory() as folder:
    run = train(settings, photographs, Path(folder))
    codec, log = run.codec(), pd.read_csv(run.folder / "log.csv")
print(f"{sum(p.numel() for p in codec.parameters())} parameters")
log[["iteration", "loss", "bpp", "mse", "learning_rate"]].iloc[::2].round(4)

# %% [markdown]
# The loss jumps about, because every step sees other crops: some are flat, some are hard. What tells is a fixed set of
# images. So beside the trained codec we keep an untrained one.
#
# ## Bytes
#
# `compress` runs the encoder, rounds $y$ and $z$, and codes both with a range coder whose probabilities are those that the
# model learned. What comes out is two strings. `decompress` gets the strings, the size of $z$ and nothing else.

# %%
photograph = test[2]
x = gl.data.floats(photograph)[None]  # [1, 3, H, W] in [0, 1]
padded, margins = pad(x, codec.downsampling_factor)
with torch.no_grad():
    stream = codec.compress(padded)
    decoded = crop(codec.decompress(**stream)["x_hat"], margins)

height, width = x.shape[-2:]
(y_string,), (z_string,) = stream["strings"]
print(f"{photograph.name}: {width} x {height} pixels, {x.numel()} bytes uncompressed")
bpp = 8 * len(y_string + z_string) / (height * width)
print(f"y: {len(y_string)} bytes, z: {len(z_string)} bytes, together {bpp:.3f} bits per pixel")
print("begins with", y_string[:8].hex(" "))

# %% [markdown]
# Does the decoder see what the encoder meant? The encoder can run the decoder's part itself, on its own rounded latents:

# %%
latents = codec.latents(padded)
with torch.no_grad():
    own = crop(codec.g_s(latents.y_hat).clamp(0, 1), margins)
gap = 255 * (own - decoded).abs().max().item()
assert gap < 0.5
estimate = float(latents.y_bits + latents.z_bits) / 8
print(f"largest difference {gap:.4f} of 255; the model's own estimate is {estimate:.0f} bytes")

# %% [markdown]
# Both agree, and the strings are about as long as the information content $-\log_2 p(\hat y, \hat z)$ says: the likelihood in the
# loss *is* the file size.
#
# ## Rate and distortion
#
# `rate_distortion` does all of this for each image, decodes and checks. Beside it JPEG, headers included.

# %%
untrained = gl.codecs.build(settings.codec, settings.channels)
untrained.finish()
shown = ["image", "bpp", "bpp_estimate", "mse", "psnr", "rd_cost"]
measured = pd.concat(
    {
        name: gl.evaluation.rate_distortion(model, test, settings.lam)[shown].set_index("image")
        for name, model in {"untrained": untrained, "trained": codec}.items()
    }
)
measured.round(3)

# %%
jpeg = classical_codecs(test, ["JPEG"], qualities=(5, 10, 20, 30, 50))
ours = measured.loc["trained"].reset_index()
points = pd.concat([ours.assign(codec="this codec"), jpeg])[["image", "codec", "bpp", "psnr"]]
figure, axes = plots.figure(1, len(test), width="page", height=2.3, sharey=True)
for ax, picture in zip(axes, test, strict=True):
    rows = points[points["image"] == picture.name]
    plots.curves(ax, rows, "bpp", "psnr", hue="codec", xlabel="bits per pixel", ylabel="PSNR (dB)")
    plots.title(ax, picture.name)
    ax.label_outer()
plots.shared_legend(figure, axes)
figure

# %% [markdown]
# *Rate and distortion on four photographs that were not trained on: one point of ours at $\lambda = 0.015$, JPEG at five
# qualities.*
#
# JPEG wins on every photograph, by far. That is worth seeing once: a neural codec is not better by birth. This one has 56 000
# parameters and saw 4000 small crops. The full model, trained for days, is another matter: `gl.evaluation.published_results` holds
# the published curves.
#
# ## Look
#
# Numbers are averages. Look at the pictures, at equal size, with JPEG at the quality whose rate is next to ours.

# %%
row = jpeg[jpeg["image"] == photograph.name]
ours_bpp = measured.loc[("trained", photograph.name), "bpp"]
nearest = row.iloc[(row["bpp"] - ours_bpp).abs().argmin()]
_, as_jpeg = encode((255 * x).round(), CLASSICAL_CODECS["JPEG"], int(nearest["quality"]))

views = {
    "original": x,
    f"this codec, {ours_bpp:.2f} bpp": decoded,
    f"JPEG {int(nearest['quality'])}, {nearest['bpp']:.2f} bpp": as_jpeg / 255,
}
figure, axes = plots.figure(1, 3, width="page", height=2.5)
with plots.style():
    for ax, (name, image) in zip(axes, views.items(), strict=True):
        ax.imshow(image[0, :, 60:172, 130:242].permute(1, 2, 0).clamp(0, 1), interpolation="nearest")
        ax.set_title(name)
        ax.axis("off")
figure

# %% [markdown]
# *A crop of 112 x 112 pixels.* The two codecs err differently. JPEG keeps most of the hairs.
# Ours has lost them, and with them the green of the eye.
#
# ## Where the bits go
#
# $-\log_2 p(\hat y \mid \hat z)$ is known for every single latent. Summed over channels it says what each position of the
# image cost.

# %%
with torch.no_grad():
    masses = codec.likelihoods(latents.y_hat, latents.z_hat)
bits = -masses["y"].log2().sum(dim=1)[0]
figure, axes = plots.figure(1, 2, width="page", height=2.5)
with plots.style():
    axes[0].imshow(padded[0].permute(1, 2, 0)[::3, ::3], interpolation="nearest")
    axes[0].set_title("the photograph")
    axes[0].axis("off")
    shown = axes[1].imshow(bits, cmap="cividis", interpolation="nearest")
    axes[1].set_title(f"bits of y per position, sum {float(bits.sum()):.0f}")
    axes[1].axis("off")
    figure.colorbar(shown, ax=axes[1], label="bits")
figure

# %% [markdown]
# *Each cell stands for 8 x 8 pixels.* Eyes, nose and mouth cost more than fur and background. But the most expensive cells
# are along the border: the black margin, padded up to a multiple of 16, makes an edge that is not in the photograph.
#
# ## The latents
#
# $y$ has 24 channels. Which of them work?

# %%
per_channel = channel_statistics(codec, test)
of_y = per_channel[per_channel["latent"] == "y"].sort_values("variance", ascending=False)
of_y[["channel", "variance", "dead"]].head(6).round(3)

# %%
figure, axes = plots.figure(1, 4, width="page", height=1.7)
with plots.style():
    for ax, channel in zip(axes, of_y["channel"], strict=False):
        values = latents.y_hat[0, int(channel)]
        ax.imshow(values, cmap="cividis", interpolation="nearest")
        ax.set_title(f"channel {channel}: {int(values.min())} to {int(values.max())}")
        ax.axis("off")
figure

# %% [markdown]
# *The four channels of $\hat y$ that vary most from photograph to photograph: small integers, which is all that the decoder
# gets.*

# %%
zeros = 100 * (latents.y_hat == 0).double().mean().item()
print(f"{zeros:.0f} % of the rounded latents of {photograph.name} are 0")
statistics(codec, test).set_index("latent").round(3)

# %% [markdown]
# Training added noise uniform on $(-\tfrac12, \tfrac12)$ in place of rounding. Is the error of rounding uniform?

# %%
rest = residuals(codec, test, bins=40).groupby(["kept", "low", "high"], as_index=False)["count"].sum()
figure, ax = plots.figure(height=2.4)
with plots.style():
    for number, (kept, rows) in enumerate(rest.groupby("kept")):
        edges = np.append(rows["low"], rows["high"].iloc[-1])
        style = ("-", "--")[number]
        ax.stairs(rows["count"] / rows["count"].sum() * len(rows), edges, label=kept, linestyle=style, linewidth=1.4)
    ax.axhline(1, color="black", linestyle=":", label="uniform")
    ax.set(xlabel="y - round(y)", ylabel="density")
    ax.legend()
figure

# %% [markdown]
# *Density of what rounding takes away, over four photographs.* Of all latents, more lie close to an integer
# than far from it, because many lie close to 0. Without those that round to 0 the density is near 1, and rises towards the
# ends. The noise of training is a model of rounding, not rounding itself: this is the subject of `gradlab run rounding`.
#
# ## Exercises
#
# **1. Bits by hand.** The prior of one latent is a Normal of mean 0 and of the standard deviation $s$ that $h_s$ gives; the
# integer $n$ gets the mass between $n - \tfrac12$ and $n + \tfrac12$. What do 0 and 3 cost at $s = 0.3$, and at $s = 3$? What does
# it cost to send $s$ wrong?
#
# <details><summary>Solution</summary>
#
# ```python
# from scipy.stats import norm
#
# for s in (0.3, 3.0):
#     bits = {n: -np.log2(norm.sf((n - 0.5) / s) - norm.sf((n + 0.5) / s)) for n in (0, 3)}
#     print(f"s = {s}: 0 costs {bits[0]:.2f} bits, 3 costs {bits[3]:.1f}")
# ```
#
# ```
# s = 0.3: 0 costs 0.14 bits, 3 costs 54.5
# s = 3.0: 0 costs 2.92 bits, 3 costs 3.6
# ```
#
# A narrow prior makes zeros almost free and a surprise ruinous. $z$ is the price of knowing where the surprises are.
#
# </details>

# %% [markdown]
# **2. Any size.** Images need not have sides that are multiples of 16. What do `pad` and `crop` do with 101 x 57 pixels, and what
# does the padding cost?
#
# <details><summary>Solution</summary>
#
# ```python
# image = torch.ones(1, 3, 57, 101)
# padded, margins = pad(image, 16)
# print(tuple(padded.shape), "margins left, right, top, bottom:", margins)
# print("the same again:", torch.equal(crop(padded, margins), image))
# print(f"{padded[0, 0].numel() / image[0, 0].numel() - 1:.0%} more pixels to code")
# ```
#
# ```
# (1, 3, 64, 112) margins left, right, top, bottom: (5, 6, 3, 4)
# the same again: True
# 25% more pixels to code
# ```
#
# Rates are over the unpadded pixels, so that small images pay for their padding.
#
# </details>

# %% [markdown]
# **3. Train with more samples.** Which settings train the same codec on MS-NIC-MIX with $k = 5$? On DMS with DReG gradients? One of
# the two is refused. Which, and why?
#
# <details><summary>Solution</summary>
#
# ```python
# from dataclasses import replace
#
# base = TrainSettings(codec="small-hyperprior", channels=(16, 24), crop=64, steps=500)
# mix = replace(base, loss=gl.Loss("ms-nic-mix", k=5))
# print(mix.loss.objective, mix.loss.k, mix.loss.estimator)
# try:
#     replace(base, loss=gl.Loss("ms-nic-dms", "dreg", k=5, l=5))
# except gl.GradlabError as error:
#     print(error)
# ```
#
# ```
# ms-nic-mix 5 pathwise
# estimator 'dreg' is biased for the unit box: it needs a support that does not move with the parameters; train with another, or with allow_biased=True
# ```
#
# DReG leaves out the flux through the walls of the box: notebook 3. `allow_biased=True` trains with it all the same.
#
# </details>

# %% [markdown]
# ## References
#
# - J. Balle, V. Laparra, E. P. Simoncelli. *End-to-end optimized image compression.* ICLR 2017.
# - J. Balle, D. Minnen, S. Singh, S. J. Hwang, N. Johnston. *Variational image compression with a scale hyperprior.*
#   ICLR 2018. The architecture.
# - J. Begaint, F. Racape, S. Feltman, A. Pushparaja. *CompressAI: a PyTorch library and evaluation platform for end-to-end
#   compression research.* arXiv 2020. The transforms, the entropy models and the range coder underneath.
# - T. Xu et al. *Multi-sample training for neural image compression.* NeurIPS 2022.
