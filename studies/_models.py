"""The models that several studies share, so that each is trained once: methods by the paper's names, by profile."""

import functools
import math
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, NamedTuple

import pandas as pd
import torch

from gradlab import data, evaluation
from gradlab.data import Picture
from gradlab.errors import GradlabError
from gradlab.runtime import distributed, files, provenance
from gradlab.runtime.progress import Advance
from gradlab.study import Context, Piece, Tables, evaluations, paper, plots
from gradlab.study.work import Work
from gradlab.training import Loss, Run, TrainSettings, engines
from gradlab.training.engines import Sweep, Task
from gradlab.training.settings import WARM_UP

# Names of the methods as the tables print them.
BASELINE, TWO_LEVEL = "Baseline", "2-level VAE"
MIX, MIX_DREG = "MS-NIC-MIX (pathwise gradient)", "MS-NIC-MIX (DReG gradient)"
BIG_BATCH, IWAE, DMS = "Baseline-BigBatch", "IWAE", "MS-NIC-DMS"

QUICK = TrainSettings(
    codec="small-hyperprior",
    channels=(32, 48),
    crop=64,
    steps=3600,
    snapshots=(900, 1800, 2700),
    learning_rate=1e-3,
    scale_learning_rate=False,
    # At a constant 1e-3 the weights keep oscillating, and a gradient SNR is that of the oscillation.
    cosine_steps=3600,
    final_fraction=0.02,
)
# 8000 images in batches of 8: 1000 iterations an epoch; 2000 epochs, of which 200 on the cosine (Appendix A.5).
PAPER = TrainSettings(
    steps=2_000_000,
    snapshots=(50_000, 500_000, 1_000_000, 1_500_000),
    cosine_steps=200_000,
    precision="tf32",
)
# The paper's training, ended at its "early" point (Table 3): the first 40th of profile paper, iteration by iteration.
GPU = replace(PAPER, steps=50_000, snapshots=(2_500, 12_500, 25_000))
# All of Tables 1-3, 6, 10 and Figure 3 in ten minutes of one H200 (benchmarks/stay.sh). Crops stay at 256 pixels: with
# fewer than 4 x 4 positions of z its decoder hardly sees a neighbour, and the rate of whole images doubles.
STAY = replace(
    PAPER,
    batch=2,
    steps=16_800,
    snapshots=(4_200, 8_400),
    learning_rate=4e-4,
    scale_learning_rate=False,
    warm_up=WARM_UP,
    cosine_steps=16_800,
    final_fraction=0.02,
)

PAPER_METHODS = {BASELINE: "Balle et al. 2018", TWO_LEVEL: "2-level VAE"}
"""As Tables 2 and 3 print them."""
NAMES = {"MSE": "mse", "PSNR": "psnr", "MS-SSIM": "ms_ssim", "R-D cost": "rd_cost"}
"""Columns that ``gradlab.evaluation`` calls otherwise than the paper."""

# The smallest that still does everything: what the tests run.
SMALLEST = replace(QUICK, channels=(6, 8), batch=2, steps=6, snapshots=(2, 4), cosine_steps=6)

ASSUMED = {
    "batch size": "8, as Balle et al. 2018; the paper names none",
    "learning rate after the cosine": "stays at a tenth; the paper is silent about what follows the first 200 epochs",
    "sample size that scales the learning rate": "k, also for DMS k, l (not k times l)",
    "warm-up": f"{WARM_UP} iterations, linear, where the learning rate is scaled by the sample size or the batch; "
    "without it training explodes at k = 16",
    "precision": "profiles stay, gpu and paper: the transforms' convolutions in TF32, torch's default; all else in "
    "float32",
    "gradient clipping": "norm 1 in bits per pixel, as CompressAI's recipe; the paper names none",
    "quantiles": "solved by bisection after training, not trained by an auxiliary loss",
    "quick profile": "a three-stage model on 64-pixel crops; 1e-3 along one cosine to 2 % of it, the same for every k",
    "stay profile": "the paper's model and crops; batches of 2, 16800 iterations along one cosine from 4e-4 to 2 % "
    "of it, the same for every k; MS-NIC-DMS with 8 x 8 samples, not 16 x 16",
    "gpu profile": "the first 50000 iterations of profile paper: the learning rate is still near its start, and grows "
    "with k, so that a comparison of sample sizes is one of learning rates too, as in the paper's own training",
}


@dataclass(frozen=True)
class Settings:
    """Models that are compared during training.

    Attributes:
        base: the baseline.
        points: iterations at which all are compared; the last is the table's.
    """

    base: TrainSettings = QUICK
    points: tuple[int, ...] = (900, 1800, 3600)
    seed: int = 0

    def __post_init__(self) -> None:
        check_kept(self.base, *self.points)


def method(
    base: TrainSettings, name: str, k: int = 5, weighting: str = "per-term", scale: str = "bpp"
) -> TrainSettings:
    """The settings of a method: ``base`` with the objective and the estimator that the name stands for.

    ``k`` is the sample size of the tables: samples of y, for DMS of y and of z alike, for the big batch the factor of
    the batch (whose learning rate grows as that of k samples does: Appendix A.5).
    """
    if name == BASELINE:
        return base
    if name == TWO_LEVEL:
        return replace(base, direct_y=False)
    if name == BIG_BATCH:
        if not base.scale_learning_rate:
            return replace(base, batch=k * base.batch)
        return replace(base, batch=k * base.batch, learning_rate=k * base.learning_rate, warm_up=WARM_UP)
    loss = Loss("ms-nic-mix", weighting=weighting, scale=scale, k=k)
    if name == IWAE:
        return replace(base, loss=replace(loss, objective="iwae-2level"), direct_y=False)
    if name == DMS:
        return replace(base, loss=replace(loss, objective="ms-nic-dms", l=k))
    if name == MIX_DREG:
        loss = replace(loss, estimator="dreg-squared", allow_biased=True)
    return replace(base, loss=loss)


def shortened(settings: TrainSettings, steps: int) -> TrainSettings:
    """The same run, ended earlier (snapshots beyond are dropped)."""
    return replace(settings, steps=steps, snapshots=tuple(s for s in settings.snapshots if s < steps))


def printed_size(name: str, k: int) -> str:
    """The sample size as the paper prints it."""
    return {BASELINE: "-", BIG_BATCH: f"x{k}", DMS: f"{k}, {k}"}.get(name, str(k))


def same_epochs(settings: TrainSettings, k: int) -> TrainSettings:
    """A big batch for as many epochs as its baseline: a batch k times as large, a k-th of the iterations."""
    snapshots = tuple(max(1, s // k) for s in settings.snapshots)
    return replace(
        settings,
        steps=max(1, settings.steps // k),
        cosine_steps=settings.cosine_steps // k,
        snapshots=tuple(dict.fromkeys(snapshots)),
    )


def train_pictures(context: Context, settings: TrainSettings) -> list[Picture]:
    """Training images; their fingerprint goes to the provenance."""
    pictures = data.load(context.train_images, "train", settings.crop)
    context.inputs["training images"] = data.fingerprint(pictures)
    return pictures


def test_pictures(context: Context) -> list[Picture]:
    """Test images; their fingerprint goes to the provenance."""
    pictures = data.load(context.test_images, "test", 1)
    context.inputs["test images"] = data.fingerprint(pictures)
    return pictures


def train_all(
    context: Context,
    models: Iterable[tuple[str, TrainSettings]],
    snr: tuple[int, int] | None = None,
    *,
    pictures: Sequence[Picture] = (),
    points: Sequence[Sequence[tuple[int, str]]] = (),
) -> list[Run]:
    """Train every model that is not there yet, by the engine of the context.

    Args:
        context: where, on what and until when.
        models: name and settings of each.
        snr: record gradient SNR meanwhile: iterations between points, and draws of each. A model that was trained
            without is trained once more, inside its own folder, and what others have read of it stays.
        pictures: test images that will be coded with bitstreams; begun in the background where cores are free.
        points: of each model that will be, iterations and ``hyper_input`` ("": the codec's own).
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


def work(
    models: Iterable[tuple[str, TrainSettings]],
    *,
    record: int = 0,
    rounded: int = 0,
    watched: bool = False,
) -> list[Work]:
    """What a study needs that trains models and does the same with each, for ``gradlab plan``.

    Args:
        models: name and settings of each.
        record: gradients of noise draws.
        rounded: how often test images are rounded, without a bitstream.
        watched: whether the gradient SNR is recorded while they train.
    """
    items = []
    for name, settings in models:
        items.append(Work("train", name, settings, settings.steps, watched=watched))
        items += [Work("record", name, settings, record)] if record else []
        items += [Work("round", name, settings, rounded)] if rounded else []
    return items


def _free_cores(context: Context) -> int:
    """Cores that training leaves free, for evaluations beside it; none where a few would be shared."""
    if context.deterministic or context.engine.name != "local" or distributed.group().size > 1:
        return 0
    threads, cores = torch.get_num_threads(), provenance.cores()
    if not context.device.startswith("cpu"):
        free = min(cores - 1, threads)  # OMP_NUM_THREADS says what this process may take
    else:
        free = cores - threads if context.engine.jobs in (None, 1) else 0
    return free if free > 1 else 0


class Variant(NamedTuple):
    """A model in a table of rates and distortions.

    Attributes:
        name: of the model.
        settings: how it is trained.
        points: iterations after which it is evaluated; the last is compared with the paper.
        labels: columns of its rows that are not measured.
        paper: its row in the paper, as ``gradlab.study.paper.value`` takes it; empty where it has none.
        hyper_input: what h_a reads (``codec.hyper_input``); "": the codec's own.
    """

    name: str
    settings: TrainSettings
    points: tuple[int, ...]
    labels: Mapping[str, Any]
    paper: Mapping[str, object] = {}
    hyper_input: str = ""


def work_of(variants: Iterable[Variant]) -> list[Work]:
    """What ``rate_distortion`` needs, for ``gradlab plan``: each model once."""
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
    """Train models, evaluate them with real bitstreams, and make Table ``n`` and the table of its images.

    Args:
        context: of the study.
        n: of the paper's table.
        variants: the models.
        columns: labels and means over images, in order; those of the paper's table have its number beside them. Seed,
            iterations and the number of images follow.
        table: its name; ``table<n>`` by default.
        keys: columns that stand beside every image; without any there is no table of images.
        pictures: test images; those of the context by default.
    """
    pictures = test_pictures(context) if pictures is None else pictures
    trained = {(item.name, item.settings): item.points for item in work_of(variants) if item.kind == "evaluate"}
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
    """The rows after the last iterations beside the paper's numbers, and those after all iterations without them."""
    last = table[table["iterations"] == iterations].reset_index(drop=True)
    printed = [column for column in table.columns if column.endswith("_paper")]
    return {name: last, f"{name}_training": table.drop(columns=printed)}


def key_of(run: Run, iteration: int | None, context: Context) -> dict[str, Any]:
    """What rows depend on that are measured of a run's weights and the test images: the key of a piece."""
    return {
        "iteration": iteration,
        "run": run.folder.name,  # which names seed, lambda, training images and precision
        "weights": run.digest(iteration),
        "images": context.inputs.get("test images", ""),
        "deterministic": context.deterministic,
    }


def check_kept(base: TrainSettings, *iterations: int) -> None:
    """Refuse iterations that no weights are kept of, or that come twice, before anything is trained.

    Raises:
        GradlabError: none, one that is neither a snapshot nor the end, or one that was named before.
    """
    if twice := [i for i in iterations if iterations.count(i) > 1]:
        raise GradlabError(f"iteration {twice[0]} is named {iterations.count(twice[0])} times: give it once")
    kept = (*base.snapshots, base.steps)
    missing = [i for i in iterations if i not in kept]
    if missing or not iterations:
        raise GradlabError(
            f"no weights are kept after {missing[0] if missing else 'no'} iterations: "
            f"give some of {', '.join(map(str, kept))} (base.snapshots and base.steps)"
        )


def draw_costs(table: pd.DataFrame, hue: str, path: Path, order: Sequence[str] | None = None) -> None:
    """R-D cost of each method over training; of one point alone, the rate and the distortion behind it."""
    figure, ax = plots.figure(height=2.8)
    if table["iterations"].nunique() > 1:
        plots.curves(ax, table, "iterations", "R-D cost", None, hue, xlabel="iterations",
                     ylabel="R-D cost (bits per pixel)", order=order)  # fmt: skip
        when = ""
    else:
        cost = {row[hue]: f"{row[hue]}: cost {row['R-D cost']:.4g}" for row in table.to_dict("records")}
        plots.curves(ax, table.assign(**{hue: table[hue].map(cost)}), "bpp", "MSE", None, hue,
                     xlabel="rate (bits per pixel)", ylabel="MSE (0-255)",
                     order=None if order is None else [cost[name] for name in order])  # fmt: skip
        when = f" after {table['iterations'].iloc[0]} iterations, one seed"
    plots.shared_legend(figure, [ax])
    plots.title(ax, f"n = {table['images'].iloc[0]} images{when}")
    plots.save(figure, path)


def identified(settings: TrainSettings, context: Context) -> TrainSettings:
    """The settings with seed, precision and training images of the run; the images were read by ``train_pictures``."""
    precision = context.precision or settings.precision
    return replace(settings, seed=context.seed, precision=precision, data=context.inputs["training images"])


def _recorded(run: Run, every: int, draws: int) -> bool:
    """Whether the monitor saw the run to its end: a run may have been finished without it."""
    path = run.snr(every, draws)
    return path.exists() and files.read_csv(path)["iteration"].max() == run.settings.steps // every * every
