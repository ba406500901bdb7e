"""How time and memory grow: with the draws, with k, and with the noise draws of a recorder. Drawn as a curve."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from harness import Case, Contender, Options, Work

sys.path.insert(0, str(Path(__file__).parent))

from _codec import codec, crops, loss

DRAWS = (10**3, 10**4, 10**5, 10**6, 10**7, 10**8)
SIZES = (10, 100, 1000, 10_000)
STEPS = (1, 4, 16, 64)


def toy(k: int, draws: int) -> Any:
    """``compare`` at one size; small sizes with --quick."""

    def setup(options: Options) -> Work:
        import torch

        import gradlab as gl

        box = gl.problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)

        def work() -> None:
            gl.compare(box, ("pathwise",), k=k, draws=draws, dtype=torch.float32)

        return work

    return setup


def recorded(draws: int) -> Any:
    """So many noise draws of a small codec through the recorder."""

    def setup(options: Options) -> Work:
        import gradlab as gl

        model, x = codec(Options(quick=True)), crops(options)

        def work() -> None:
            recorder = gl.GradientRecorder(model.groups(), exclude=("quantiles",))
            with recorder:
                for t in range(draws):
                    loss(model, x, t).backward()
                    recorder.step()

        return work

    return setup


def case(axis: str, size: int, setup: Any, quick: bool) -> Case:
    """One point of a curve."""
    return Case(
        name=f"growth, {axis} = {size}",
        ours=Contender("gradlab", setup, peers=False),
        goal="time linear, memory flat",
        quick=quick,
        once=True,
    )


CASES = (
    *(case("draws (k = 8)", n, toy(8, n), n <= 10**4) for n in DRAWS),
    *(case("k (1000 draws)", k, toy(k, 1000), k <= 100) for k in SIZES),
    *(case("noise draws of the recorder", n, recorded(n), False) for n in STEPS),
)
