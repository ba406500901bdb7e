"""Train all models of profile ``stay`` side by side, for as many iterations as fit into the time that there is.

    python benchmarks/stay.py --device cuda --until 400 --out DIR --train-images FOLDER

times a step of all of them together first, and writes the number of iterations to ``DIR/steps`` and what each study is
to be told by ``--set``, a line each, to ``DIR/set/STUDY``. ``benchmarks/stay.sh`` is the whole stay: then the studies
read these models.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from gradlab import catalog, data, results, study
from gradlab.assignments import assigned
from gradlab.progress import Progress
from gradlab.study import Context
from gradlab.training import RunOptions, TrainSettings, TrainState
from gradlab.training.engines import Engine
from gradlab.training.steps import step_of

catalog.studies_folder()
from gradlab_studies import _latents, table1, table3  # noqa: E402
from gradlab_studies import _models as models  # noqa: E402

STUDIES = ("table3", "figure3", "table6", "table10", "table1", "table2")
SLACK = 0.92
"""Of the time, for what is no step: captures, logs, snapshots, checkpoints."""


def main(
    out: Annotated[Path, typer.Option(help="Output folder of the stay.")],
    until: Annotated[float, typer.Option(help="Seconds from now that the training is planned to take.")],
    device: Annotated[str, typer.Option(help="A torch device.")] = "cuda",
    train_images: Annotated[Path | None, typer.Option(help="Folder of images to train on.")] = None,
    most: Annotated[int, typer.Option(help="Iterations at most.")] = models.STAY.steps,
    round_to: Annotated[int, typer.Option(help="Iterations are a multiple of this.")] = 400,
    set_: Annotated[list[str], typer.Option("--set", help="Change a setting of every model, e.g. base.crop=64.")] = [],  # noqa: B006
) -> None:
    """Plan and train."""
    begin = time.monotonic()
    results.ensure_folder(out)
    study.check(STUDIES, "stay", assignments=set_)
    wanted = planned(models.STAY.steps, set_)
    pictures = data.load(train_images, "train", wanted[0][1].crop)
    took = together([s for _, s in wanted], pictures, device)
    left = until - (time.monotonic() - begin)
    steps = max(round_to, min(most, int(SLACK * left / took / round_to) * round_to))
    print(f"{1e3 * took:.2f} ms for a step of all {len(wanted)} models; {steps} iterations in {left:.0f} s", flush=True)
    (out / "steps").write_text(f"{steps}\n")
    results.ensure_folder(out / "set")
    for name in STUDIES:
        (out / "set" / name).write_text("\n".join([*told(name, steps), *set_]) + "\n")
    context = Context(
        out=out,
        folder=out / "stay",
        runs=out / "runs",
        profile="stay",
        options=RunOptions(device=device, resume=True, checkpoint_seconds=200.0, log_every=100),
        seed=0,
        train_images=train_images,
        test_images=None,
        progress=Progress(Console(width=160)),
        engine=Engine(jobs=len(wanted) if device.startswith("cuda") else 1),
    )
    models.train_all(context, planned(steps, set_))
    print(f"trained after {time.monotonic() - begin:.0f} s", flush=True)


def told(name: str, steps: int) -> list[str]:
    """What a study of so many iterations is told by ``--set``."""
    snapshots = f"{steps // 4},{steps // 2}"
    points = {"table1": f"points=({steps},)", "table2": f"points=({steps},)", "table3": f"points=({snapshots},{steps})"}
    base = [f"base.steps={steps}", f"base.cosine_steps={steps}", f"base.snapshots=({snapshots})"]
    return [*base, points.get(name, f"iterations={steps}")]


def planned(steps: int, changes: list[str]) -> list[tuple[str, TrainSettings]]:
    """The models of ``STUDIES``, each once."""

    def of(name: str, module: Any) -> Any:
        return assigned(module.PROFILES["stay"], [*told(name, steps), *changes])

    found = [
        *table3.trained(of("table3", table3)),
        *((name, s) for name, _, _, s in table1.trained(of("table1", table1))),
        *_latents.trained(of("figure3", _latents)),
    ]
    return [(name, s) for s, name in {s: name for name, s in found}.items()]


def together(each: list[TrainSettings], pictures: list[data.Picture], device: str, rounds: int = 40) -> float:
    """Seconds of a step of every model, side by side as training takes them."""
    steps = []
    for settings in each:
        settings = replace(settings.on(pictures), snapshots=())
        state = TrainState.new(settings, device)
        steps.append(step_of(state, settings.batches(pictures, device), "auto", 2 * rounds)[0])

    def took() -> float:
        begin = time.perf_counter()
        for _ in range(rounds):
            for step in steps:
                with step.placed():
                    step()
        if device.startswith("cuda"):
            torch.cuda.synchronize()
        return (time.perf_counter() - begin) / rounds

    took()
    found = took()
    for step in steps:
        step.close()
    return found


if __name__ == "__main__":
    typer.run(main)
