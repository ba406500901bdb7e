"""Train the models of a study and evaluate them with bitstreams, once for all studies of an output folder."""

from __future__ import annotations

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import pandas as pd
import torch

from gradlab import data, evaluation
from gradlab.data import Picture
from gradlab.errors import GradlabError
from gradlab.runtime import distributed, files, provenance
from gradlab.runtime.progress import Advance
from gradlab.study import evaluations, paper
from gradlab.study.context import Context
from gradlab.study.pieces import Piece, Tables
from gradlab.study.work import Work
from gradlab.training import Run, TrainSettings, engines
from gradlab.training.engines import Sweep, Task

NAMES = {"MSE": "mse", "PSNR": "psnr", "MS-SSIM": "ms_ssim", "R-D cost": "rd_cost"}
"""Names in ``gradlab.evaluation`` of columns that the paper names differently."""


def train_pictures(context: Context, settings: TrainSettings) -> list[Picture]:
    """Load the training images, and record their fingerprint for the provenance.

    Args:
        context: context of the study.
        settings: training settings, whose crop size the images must cover.
    """
    pictures = data.load(context.train_images, "train", settings.crop)
    context.inputs["training images"] = data.fingerprint(pictures)
    return pictures


def test_pictures(context: Context) -> list[Picture]:
    """Load the test images, and record their fingerprint for the provenance."""
    pictures = data.load(context.test_images, "test", 1)
    context.inputs["test images"] = data.fingerprint(pictures)
    return pictures


def check_kept(base: TrainSettings, *iterations: int) -> None:
    """Reject iterations without saved weights, or duplicates, before anything is trained.

    Args:
        base: training settings.
        *iterations: iterations whose weights a study reads.

    Raises:
        GradlabError: there is no iteration, one is neither a snapshot nor the last, or one occurs twice.
    """
    if twice := [i for i in iterations if iterations.count(i) > 1]:
        raise GradlabError(f"iteration {twice[0]} is given {iterations.count(twice[0])} times: give it once")
    kept = (*base.snapshots, base.steps)
    missing = [i for i in iterations if i not in kept]
    if missing or not iterations:
        raise GradlabError(
            f"no weights are saved after {missing[0] if missing else 'no'} iterations: "
            f"give some of {', '.join(map(str, kept))} (base.snapshots and base.steps)"
        )


def identified(settings: TrainSettings, context: Context) -> TrainSettings:
    """Return the settings with seed, precision and training images of the run; call ``train_pictures`` first.

    Args:
        settings: settings without them.
        context: context of the study.
    """
    precision = context.precision or settings.precision
    return replace(settings, seed=context.seed, precision=precision, data=context.inputs["training images"])


def train_all(
    context: Context,
    models: Iterable[tuple[str, TrainSettings]],
    snr: tuple[int, int] | None = None,
    *,
    pictures: Sequence[Picture] = (),
    points: Sequence[Sequence[tuple[int, str]]] = (),
) -> list[Run]:
    """Train every model that is not trained yet, with the engine of the context.

    Args:
        context: context of the study.
        models: name and settings of each model.
        snr: iterations between recordings of the gradient SNR, and draws per recording; None records nothing. A model
            that was trained without recording is trained again inside its own folder, and its original weights are
            kept.
        pictures: test images to code with bitstreams later; evaluation starts in the background if cores are free.
        points: for each model, the iterations and ``hyper_input`` to evaluate ("" for the codec's own).

    Returns:
        The runs, in the order of the models.
    """
    models = list(models)
    training_images = train_pictures(context, models[0][1])
    tasks = []
    for name, settings in models:
        task = Task(name, identified(settings, context))
        if snr:
            run = task.run(context.runs)
            again = run.done and not _recorded(run, *snr)
            task = task._replace(snr=snr, within=f"{run.folder.name}/snr-{snr[0]}x{snr[1]}" if again else "")
        tasks.append(task)
    points_of = dict(zip(tasks, points, strict=True)) if points else {}
    background = evaluations.Background(pictures, _free_cores(context), context.parts.made)

    def finished(task: Task) -> None:
        for iteration, hyper_input in points_of.get(task, ()):
            background.begin(task.run(context.runs), iteration, hyper_input)

    sweep = Sweep(
        tasks=tuple(tasks),
        runs=context.runs,
        images=context.train_images,
        pictures=training_images,
        progress=context.progress,
        study=context.folder.name,
        options=context.options,
        deterministic=context.deterministic,
        finished=finished,
    )
    with background:
        runs = engines.train(sweep, context.engine)
        if background.left:
            with context.progress.track("evaluating models", background.left) as advance:
                background.wait(advance)
    for (name, _), run in zip(models, runs, strict=True):
        made = run.record()
        if made.warm_restarts:
            at = ", ".join(map(str, made.warm_restarts))
            context.inputs[f"warm_restart of {name}"] = f"new optimizer after iterations {at}"
        if made.device != "cpu":
            context.inputs[f"training of {name}"] = f"{made.step} on {made.device}"
    return runs


def _recorded(run: Run, every: int, draws: int) -> bool:
    """Return whether the gradient SNR was recorded to the end of the run."""
    path = run.snr(every, draws)
    return path.exists() and files.read_csv(path)["iteration"].max() == run.settings.steps // every * every


def _free_cores(context: Context) -> int:
    """Return the number of cores that training leaves free for parallel evaluations; 0 if there are too few."""
    if context.deterministic or context.engine.name != "local" or distributed.group().size > 1:
        return 0
    threads, cores = torch.get_num_threads(), provenance.cores()
    if not context.device.startswith("cpu"):
        free = min(cores - 1, threads)  # respect OMP_NUM_THREADS
    else:
        free = cores - threads if context.engine.jobs in (None, 1) else 0
    return free if free > 1 else 0


def training_work(
    models: Iterable[tuple[str, TrainSettings]],
    *,
    record: int = 0,
    rounded: int = 0,
    watched: bool = False,
) -> list[Work]:
    """Return the work of a study that trains models and measures each in the same way, for ``gradlab plan``.

    Args:
        models: name and settings of each model.
        record: number of gradients of noise draws, per model.
        rounded: number of passes in which test images are rounded, without a bitstream.
        watched: whether the gradient SNR is recorded during training.
    """
    items = []
    for name, settings in models:
        items.append(Work("train", name, settings, settings.steps, watched=watched))
        items += [Work("record", name, settings, record)] if record else []
        items += [Work("round", name, settings, rounded)] if rounded else []
    return items


class Variant(NamedTuple):
    """A model in a table of rates and distortions.

    Attributes:
        name: name of the model.
        settings: training settings.
        points: iterations after which it is evaluated; the last is compared with the paper.
        labels: columns of its rows that are not measured.
        paper: conditions that select its row in the paper, as for ``gradlab.study.paper.value``; empty if it has none.
        hyper_input: input of h_a (``codec.hyper_input``); "" for the codec's own.
    """

    name: str
    settings: TrainSettings
    points: tuple[int, ...]
    labels: Mapping[str, Any]
    paper: Mapping[str, object] = {}
    hyper_input: str = ""


def evaluation_work(variants: Iterable[Variant]) -> list[Work]:
    """Return the work that ``rate_distortion`` needs, for ``gradlab plan``; each model occurs once."""
    points: dict[tuple[str, TrainSettings], list[tuple[int, str]]] = {}
    for variant in variants:
        model = points.setdefault((variant.name, variant.settings), [])
        model += [(iteration, variant.hyper_input) for iteration in variant.points]
    items = []
    for (name, settings), evaluated in points.items():
        items.append(Work("train", name, settings, settings.steps))
        items.append(Work("evaluate", name, settings, points=tuple(sorted(evaluated))))
    return items


def rate_distortion(
    context: Context,
    n: int,
    variants: Sequence[Variant],
    columns: Sequence[str],
    *,
    table: str = "",
    keys: Sequence[str] = (),
    pictures: Sequence[Picture] | None = None,
) -> dict[str, pd.DataFrame]:
    """Train models, evaluate them with real bitstreams, and return Table ``n`` and the table of its images.

    Args:
        context: context of the study.
        n: number of the paper's table.
        variants: the models.
        columns: labels and means over images, in order; a column of the paper's table is followed by the paper's
            number. Seed, iterations and number of images are added at the end.
        table: name of the table; ``table<n>`` by default.
        keys: columns to repeat for every image; without any there is no table of images.
        pictures: test images; those of the context by default.
    """
    pictures = test_pictures(context) if pictures is None else pictures
    trained = {(item.name, item.settings): item.points for item in evaluation_work(variants) if item.kind == "evaluate"}
    models = train_all(context, trained, pictures=pictures, points=list(trained.values()))
    runs = dict(zip(trained, models, strict=True))
    table, printed = table or f"table{n}", paper.printed(n).columns

    def measure(variant: Variant, run: Run, iteration: int, advance: Advance) -> Tables:
        images = evaluations.rate_distortion(
            run, iteration, pictures, advance, hyper_input=variant.hyper_input, parts=context.parts
        )
        conditions = {"seed": context.seed, "iterations": iteration, "images": len(pictures)}
        values = {**evaluation.summary(images), **variant.labels, **conditions}
        known = variant.paper if iteration == variant.points[-1] else {}
        row: dict[str, Any] = {}
        for column in (*columns, *conditions):
            row[column] = values[NAMES.get(column, column)]
            if column in printed and column not in variant.labels:
                row[f"{column}_paper"] = paper.value(n, column, **known) if known else math.nan
        beside = {f"{table}_images": images.assign(**{key: row[key] for key in keys})} if keys else {}
        return {table: pd.DataFrame([row]), **beside}

    pieces = []
    for variant in variants:
        run = runs[variant.name, variant.settings]
        for iteration in variant.points:
            name = f"{run.folder.name}-{iteration}-{variant.hyper_input}"
            pieces.append(Piece(name, functools.partial(measure, variant, run, iteration), units=len(pictures)))
    return context.measure("evaluating", pieces)


def last_and_training(name: str, table: pd.DataFrame, iterations: int) -> dict[str, pd.DataFrame]:
    """Split a table into the rows of the last iterations with the paper's numbers, and all rows without them.

    Args:
        name: name of the first table; the second is ``<name>_training``.
        table: rows of all iterations.
        iterations: the last iterations.
    """
    last = table[table["iterations"] == iterations].reset_index(drop=True)
    printed = [column for column in table.columns if column.endswith("_paper")]
    return {name: last, f"{name}_training": table.drop(columns=printed)}


def key_of(run: Run, iteration: int | None, context: Context) -> dict[str, Any]:
    """Return the key of a piece that is measured from a run's weights and the test images.

    Args:
        run: the run.
        iteration: iteration of the weights; None for the final weights.
        context: context of the study.
    """
    return {
        "iteration": iteration,
        "run": run.folder.name,  # determines seed, lambda, training images and precision
        "weights": run.digest(iteration),
        "images": context.inputs.get("test images", ""),
        "deterministic": context.deterministic,
    }
