"""Small codecs of every architecture for the tests, and CompressAI's own class beside each."""

from __future__ import annotations

import copy
import functools
import math

import torch
from compressai.layers import GDN

import gradlab as gl
from gradlab.codecs import CODECS
from gradlab.runtime import checkpoints

LAM = 0.015
NAMES = list(CODECS)
HIERARCHICAL = [name for name in NAMES if name != "bmshj2018-factorized"]
# Every codec, with and without direct-y where it has the switch.
SWITCHED = [(name, True) for name in NAMES] + [(name, False) for name in HIERARCHICAL]


def channels(name):
    return (6, 4)[: len(CODECS[name].channel_names)]


def generator(seed=0):
    return torch.Generator().manual_seed(seed)


def images(b=2, seed=3):
    return torch.rand(b, 3, 64, 64, generator=generator(seed))


def build(name, direct_y=True, trained=False, double=False):
    """An untrained codec, or one after a few Adam steps on noise at a rate that moves every weight."""
    return copy.deepcopy(_built(name, direct_y, trained, double))


@functools.cache
def _built(name, direct_y, trained, double):
    codec = gl.codecs.build(name, channels(name), direct_y=direct_y, seed=1)
    codec = codec.double() if double else codec
    if trained:
        weights = [p for n, p in codec.named_parameters() if not n.endswith("quantiles")]
        adam = torch.optim.Adam(weights, lr=3e-3)
        x = images().to(weights[0].dtype)
        for step in range(4):
            adam.zero_grad()
            terms, _ = codec.log_terms(x, LAM, generator=generator(step))
            (-terms.log_w().mean() / (math.log(2) * terms.pixels)).backward()
            adam.step()
    return codec


def amplified(model, factor=10.0):
    """Latents of several units, so that rounding matters: g_a gives so many times its output."""
    model.g_a.register_forward_hook(lambda module, inputs, output: factor * output)
    return model


def nudge(path):
    """Other weights in a checkpoint of the same settings, by 1e-6 each."""
    stored = checkpoints.load(path)
    moved = {name: t + 1e-6 if t.is_floating_point() else t for name, t in stored.tensors.items()}
    checkpoints.save(path, moved, stored.settings_hash, stored.iteration, stored.extra)


def compressai_class(codec):
    return next(c for c in type(codec).__mro__ if c.__module__.startswith("compressai.models"))


def compressai_model(codec):
    """CompressAI's own model with these weights; of the small hyperprior, with its four transforms put in."""
    cls = compressai_class(codec)
    model = cls(*channels(next(n for n in NAMES if CODECS[n] is type(codec))))
    if type(codec) is CODECS["small-hyperprior"]:
        for part in ("g_a", "g_s", "h_a", "h_s"):
            setattr(model, part, copy.deepcopy(getattr(codec, part)))
        model.g_a._forward_hooks.clear()  # of ``amplified``
    model = model.to(next(codec.parameters()).dtype)
    model.load_state_dict(codec.state_dict())
    return model


def off_the_bounds(codec):
    """Move scales well above 0.11 and GDN's parameters off theirs, where CompressAI's gradients are derivatives."""
    with torch.no_grad():
        for module in codec.modules():
            if isinstance(module, GDN):
                module.beta += 0.1
                module.gamma += 0.05
        if hasattr(codec, "h_s"):
            last = getattr(codec, "entropy_parameters", codec.h_s)
            last = [m for m in last.modules() if hasattr(m, "bias")][-1]
            last.bias[: codec.M] += 3.0
    return codec
