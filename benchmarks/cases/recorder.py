"""The recorder over 20 draws of ScaleHyperprior(128, 192) on 8 crops of 64 x 64, beside the bare loop and the list.

Memory: subtract the peer's peak from ours; a float64 copy of the parameters of this model is 38.8 MB.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from harness import Case, Contender, Options, Work

sys.path.insert(0, str(Path(__file__).parent))

from _codec import clear, codec, crops, loss


def draws(options: Options) -> int:
    """How many."""
    return 3 if options.quick else 20


def recorder(standard_errors: bool) -> Any:
    """Ours."""

    def setup(options: Options) -> Work:
        import gradlab as gl

        model, x = codec(options), crops(options)

        def work() -> None:
            found = gl.GradientRecorder(model.groups(), standard_errors, exclude=("quantiles",))
            with found:
                for t in range(draws(options)):
                    loss(model, x, t).backward()
                    found.step()

        return work

    return setup


def bare(options: Options) -> Work:
    """Forward and backward, the gradients thrown away: the floor."""
    model, x = codec(options), crops(options)

    def work() -> None:
        for t in range(draws(options)):
            loss(model, x, t).backward()
            clear(model)

    return work


def stacked(options: Options) -> Work:
    """A list of cloned gradients, then ``torch.stack``: what one writes by hand."""
    import torch

    model, x = codec(options), crops(options)
    parameters = [p for n, p in model.named_parameters() if not n.endswith("quantiles")]

    def work() -> None:
        found: list[list[Any]] = [[] for _ in parameters]
        for t in range(draws(options)):
            loss(model, x, t).backward()
            for one, parameter in zip(found, parameters, strict=True):
                one.append(parameter.grad.clone())
            clear(model)
        for one in found:
            both = torch.stack(one).double()
            both.mean(0), both.var(0)

    return work


def backpack(options: Options) -> Work:
    """BackPACK's variance of the gradient over a batch: draws as rows of the batch."""
    import torch
    from backpack import backpack as context
    from backpack import extend
    from backpack.extensions import Variance
    from compressai.models import ScaleHyperprior

    model = extend(ScaleHyperprior(16, 24))
    x = torch.rand(2, 3, 64, 64)

    def work() -> None:
        out = model(x)
        with context(Variance()):
            (out["x_hat"] - x).square().mean().backward()
        if not hasattr(next(model.g_a.parameters()), "variance"):
            raise RuntimeError("no variance for g_a: BackPACK has no extension for it")

    return work


def opacus(options: Options) -> Work:
    """Opacus' gradients per sample: draws as rows of the batch."""
    import torch
    from compressai.models import ScaleHyperprior
    from opacus import GradSampleModule

    model = GradSampleModule(ScaleHyperprior(16, 24))
    x = torch.rand(2, 3, 64, 64)

    def work() -> None:
        out = model(x)
        (out["x_hat"] - x).square().sum().backward()

    return work


BARE = Contender("bare forward and backward", bare, peers=False)
CASES = (
    Case(
        name="recorder, with standard errors",
        ours=Contender("GradientRecorder", recorder(True), peers=False),
        peers=(
            BARE,
            Contender("list of clones, torch.stack", stacked, peers=False),
            Contender("BackPACK", backpack),
            Contender("Opacus", opacus),
        ),
        goal="1.05 of the bare loop; 4.1 float64 copies above it",
        ratio=1.05,
    ),
    Case(
        name="recorder, without standard errors",
        ours=Contender("GradientRecorder", recorder(False), peers=False),
        peers=(BARE,),
        goal="1.05 of the bare loop; 2.1 float64 copies above it",
        ratio=1.05,
        quick=False,
    ),
)
