"""Train all models of some studies side by side, for as many iterations as fit into the time that there is.

    python benchmarks/stay.py table3 table2 --profile gpu --device cuda --until 400 --out DIR --train-images FOLDER

times a step of all of them together first, and writes the number of iterations to ``DIR/steps`` and what each study is
to be told by ``--set``, a line each, to ``DIR/set/STUDY``: nothing where the profile's own number fits.
``benchmarks/stay.sh`` is the whole stay: then the studies read these models.
"""

from __future__ import annotations

import time
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any

import torch
import typer
from rich.console import Console

from gradlab import data
from gradlab.runtime import files
from gradlab.runtime.progress import Progress
from gradlab.study import Context, Request, catalog, models
from gradlab.study.assignments import assigned
from gradlab.training import RunOptions, TrainSettings, TrainState
from gradlab.training.engines import Engine
from gradlab.training.steps import make_step

catalog.studies_folder()
from gradlab_studies import _latents, table1, table2, table3  # noqa: E402

STUDIES: dict[str, Any] = {"table3": table3, "table2": table2, "table1": table1} | {
    name: _latents for name in ("figure3", "table6", "table10")
}
"""The studies that a stay can take, and the module that says which models each needs."""
SLACK = 0.92
"""Of the time, for what is no step: captures, logs, snapshots, checkpoints."""


def main(
    names: Annotated[list[str], typer.Argument(help="The studies.", metavar="STUDY...")],
    out: Annotated[Path, typer.Option(help="Output folder of the stay.")],
    until: Annotated[float, typer.Option(help="Seconds from now that the training is planned to take.")],
    profile: Annotated[str, typer.Option(help="Their profile.")] = "stay",
    device: Annotated[str, typer.Option(help="A torch device.")] = "cuda",
    train_images: Annotated[Path | None, typer.Option(help="Folder of images to train on.")] = None,
    most: Annotated[int | None, typer.Option(help="Iterations at most; the profile's by default.")] = None,
    round_to: Annotated[int, typer.Option(help="Iterations are a multiple of this.")] = 400,
    without: Annotated[list[str], typer.Option(help="A model to leave out, e.g. Baseline: trained before.")] = [],  # noqa: B006
    set_: Annotated[list[str], typer.Option("--set", help="Change a setting of every model, e.g. base.crop=64.")] = [],  # noqa: B006
) -> None:
    """Plan and train."""
    begin = time.monotonic()
    files.ensure_folder(out)
    if unknown := set(names) - set(STUDIES):
        raise typer.BadParameter(f"no study {unknown.pop()!r} here: there are {', '.join(STUDIES)}")
    catalog.load(names, Request(profile=profile, assignments=tuple(set_)))

    def models_of(steps: int | None) -> list[tuple[str, TrainSettings]]:
        every = planned(names, profile, steps, set_)
        if missing := set(without) - {name for name, _ in every}:
            raise typer.BadParameter(f"no model {missing.pop()!r}: there are {', '.join(dict(every))}")
        return [(name, s) for name, s in every if name not in without]

    wanted = models_of(most)
    pictures = data.load(train_images, "train", wanted[0][1].crop)
    took = together([s for _, s in wanted], pictures, device)
    left = until - (time.monotonic() - begin)
    most = most or max(s.steps for _, s in wanted)
    fit = int(SLACK * left / took)
    steps = min(most, max(round_to, fit if fit >= most else fit // round_to * round_to))
    print(f"{1e3 * took:.2f} ms for a step of all {len(wanted)} models; {steps} iterations in {left:.0f} s", flush=True)
    (out / "steps").write_text(f"{steps}\n")
    files.ensure_folder(out / "set")
    for name in names:
        changes = [*told(name, profile, steps), *set_]
        (out / "set" / name).write_text("".join(f"{change}\n" for change in changes))
    context = Context(
        out=out,
        folder=out / profile,
        profile=profile,
        options=RunOptions(device=device, resume=True, checkpoint_seconds=200.0, log_every=100),
        seed=0,
        train_images=train_images,
        test_images=None,
        progress=Progress(Console(width=160)),
        engine=Engine(jobs=len(wanted) if device.startswith("cuda") else 1),
    )
    models.train_all(context, models_of(steps))
    print(f"trained after {time.monotonic() - begin:.0f} s", flush=True)


def told(name: str, profile: str, steps: int | None) -> list[str]:
    """The ``--set`` arguments that end a study's training after so many iterations.

    Where the profile's learning rate has come down at its end, the cosine and the snapshots are shortened with it.
    """
    settings = STUDIES[name].PROFILES[profile]
    base: TrainSettings = settings.base
    if steps in (None, base.steps):
        return []
    cosine = base.cosine_steps == base.steps
    kept = [s * steps // base.steps if cosine else s for s in base.snapshots]
    kept = [s for s in kept if s < steps]
    found = [f"base.cosine_steps={steps}"] if cosine else []
    found += [f"base.steps={steps}", f"base.snapshots=({''.join(f'{s},' for s in kept)})"]
    if name not in ("table1", "table2", "table3"):
        return [*found, f"iterations={steps}"]
    points = [p * steps // base.steps if cosine else p for p in settings.points]
    points = [*(p for p in points if p < steps), steps]
    found.append(f"points={tuple(points)}")
    if name == "table3":
        found += [f"stages={('-',) * len(points)}", f"draws={settings.counts[-len(points) :]}"]
    return found


def planned(names: list[str], profile: str, steps: int | None, changes: list[str]) -> list[tuple[str, TrainSettings]]:
    """The models of some studies, each once, as the profile trains them or to ``steps`` iterations."""
    found = []
    for name in names:
        module = STUDIES[name]
        settings = assigned(module.PROFILES[profile], [*told(name, profile, steps), *changes])
        found += [(item.name, item.settings) for item in module.work(settings) if item.kind == "train"]
    return [(name, s) for s, name in {s: name for name, s in found}.items()]


def together(each: list[TrainSettings], pictures: list[data.Picture], device: str, rounds: int = 40) -> float:
    """Seconds of a step of every model, side by side as training takes them."""
    steps = []
    for settings in each:
        settings = replace(settings.on(pictures), snapshots=())
        state = TrainState.new(settings, device)
        steps.append(make_step(state, settings.batches(pictures, device), "auto", 2 * rounds)[0])

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
