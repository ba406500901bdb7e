"""A step of MS-NIC-MIX and MS-NIC-DMS: the encoder once for all samples, beside a repeated batch and naive sharing."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from harness import Case, Contender, Options, Work

sys.path.insert(0, str(Path(__file__).parent))

from _codec import LAM, channels, clear, codec, crops, loss


def sampled(objective: str, k: int, l: int = 1) -> Any:
    """Ours."""

    def setup(options: Options) -> Work:
        model, x = codec(options), crops(options)

        def work() -> None:
            loss(model, x, 0, objective, k, l).backward()
            clear(model)

        return work

    return setup


def repeated(k: int, l: int = 1) -> Any:
    """Every image k times in the batch, everything computed anew for each (k l times for all combinations)."""

    def setup(options: Options) -> Work:
        model, x = codec(options), crops(options).repeat_interleave(k * l, 0)

        def work() -> None:
            loss(model, x, 0).backward()
            clear(model)

        return work

    return setup


def compressai(k: int) -> Any:
    """The same with CompressAI's own model and loss: what one does who has nothing else."""

    def setup(options: Options) -> Work:
        import math

        from compressai.models import ScaleHyperprior

        model, x = ScaleHyperprior(*channels(options)).train(), crops(options).repeat_interleave(k, 0)
        pixels = len(x) * x.shape[2] * x.shape[3]

        def work() -> None:
            out = model(x)
            bits = sum(mass.log().sum() for mass in out["likelihoods"].values()) / (-math.log(2) * pixels)
            (bits + LAM * 255**2 * (out["x_hat"] - x).square().mean()).backward()
            clear(model)

        return work

    return setup


def naive(k: int) -> Any:
    """The encoder once, then y repeated k times and all that follows k times: z and its prior as well."""

    def setup(options: Options) -> Work:
        import math

        import torch

        model, x = codec(options), crops(options)

        def work() -> None:
            y = model.g_a(x).repeat_interleave(k, 0)
            y = y + torch.rand_like(y) - 0.5
            z = model.h_a(y.abs())
            z = z + torch.rand_like(z) - 0.5
            mass = model.gaussian_conditional.likelihood(y, model.h_s(z))
            rate = mass.log().sum((1, 2, 3)) + model.entropy_bottleneck.likelihood(z).log().sum((1, 2, 3))
            mse = ((255 * (x.repeat_interleave(k, 0) - model.g_s(y))) ** 2).mean((1, 2, 3))
            bits = rate / (math.log(2) * 64 * 64) - LAM * mse
            (-torch.logsumexp(bits.view(-1, k), 1).mean()).backward()
            clear(model)

        return work

    return setup


def case(k: int) -> Case:
    """MIX at one k."""
    return Case(
        name=f"MS-NIC-MIX step, k = {k}",
        ours=Contender("ms-nic-mix", sampled("ms-nic-mix", k), peers=False),
        peers=(
            Contender(f"batch repeated {k} times", repeated(k), peers=False),
            Contender(f"batch repeated {k} times, CompressAI", compressai(k), peers=False),
            Contender("naive sharing", naive(k), peers=False),
            Contender("one step of k = 1", sampled("elbo", 1), peers=False),
        ),
        goal="0.45 of the batch repeated; below naive sharing",
        ratio=0.45,
        quick=k == 8,
    )


CASES = (
    case(8),
    case(16),
    Case(
        name="MS-NIC-DMS step, 8 x 8",
        ours=Contender("ms-nic-dms", sampled("ms-nic-dms", 8, 8), peers=False),
        peers=(Contender("MS-NIC-MIX step, k = 8", sampled("ms-nic-mix", 8), peers=False),),
        goal="1.1 of MIX k = 8",
        ratio=1.1,
        quick=False,
    ),
)
