"""What studies need on a device, timed there item by item, and what fits a budget: ``gradlab plan``.

A study says what it needs by ``work(settings)``: models to train, and what is measured of them. A few steps, draws and
evaluations of each model are timed; models that studies share are counted once.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab import data, results, study
from gradlab.assignments import assigned
from gradlab.errors import GradlabError
from gradlab.progress import duration
from gradlab.status import iterations_of
from gradlab.timing import UNITS, Clock
from gradlab.training import TrainSettings, run_of

if TYPE_CHECKING:
    from rich.console import Console

MARGIN = 0.9
"""The share of a budget that is planned; the rest is for the start, checkpoints, logs and drawing."""
VERSION = 1


@dataclass(frozen=True)
class Item:
    """A line of a plan.

    Attributes:
        study: that needs it first.
        kind: as of ``Work``; ``"other"`` for a study that says nothing of its work, which is not timed.
        model: its name.
        count: units.
        unit_s: seconds of one.
        seconds: of all.
        fits: whether it is within the budget.
    """

    study: str
    kind: str
    model: str
    count: int
    unit_s: float
    seconds: float
    fits: bool


@dataclass(frozen=True)
class Plan:
    """What fits, and how it is to be run.

    Attributes:
        studies: that fit, in the order asked for.
        left_out: that do not.
        items: line by line.
        settings: study -> hash of its settings.
        budget_min: minutes, or None.
        profile, seed, device, precision, step, assignments: of ``gradlab run``.
        device_name: what was timed.
        folders: fingerprints of the training and test images.
    """

    studies: tuple[str, ...]
    left_out: tuple[str, ...]
    items: tuple[Item, ...]
    settings: dict[str, str]
    budget_min: float | None
    profile: str
    seed: int
    device: str
    precision: str | None
    step: str
    assignments: tuple[str, ...]
    device_name: str
    folders: dict[str, str]


def plan(
    names: Sequence[str],
    profile: str = "quick",
    device: str | None = None,
    budget: float | None = None,
    *,
    seed: int = 0,
    train_images: Path | None = None,
    test_images: Path | None = None,
    precision: str | None = None,
    step: str = "auto",
    assignments: Sequence[str] = (),
    out: Path | None = None,
    say: Callable[[str], object] = lambda line: None,
) -> Plan:
    """Time what studies need, and choose what fits.

    Args:
        names: the studies, the most wanted first.
        profile: as for ``gradlab run``.
        device: a torch device.
        budget: minutes; None: everything fits.
        seed, train_images, test_images, precision, step, assignments: as for ``gradlab run``.
        out: an output folder that a run would go on in: the iterations that are there need no time.
        say: told what is timed.

    Raises:
        GradlabError: as ``gradlab.study.check``; a budget below a minute; a device or images that are not there.
    """
    if budget is not None and not budget >= 1:
        raise GradlabError(f"the budget is {budget:g} minutes: give at least 1")
    device = device or study.usual_device(profile)
    modules = study.check(names, profile, seed, None, assignments)
    study.options_of(device, step, profile, precision)  # refuses what is not there
    study.use_all_cores()
    folders = study.folders_of(train_images, test_images)
    test = data.load(test_images, "test", 1)
    clock = Clock(train_images, test[0], device, step, say)
    left = None if budget is None else MARGIN * 60 * budget
    items: list[Item] = []
    studies: list[str] = []
    left_out: list[str] = []
    hashes: dict[str, str] = {}
    there: set[tuple[str, TrainSettings]] = set()
    for name, module in modules.items():
        settings = assigned(replace(module.PROFILES[profile], seed=seed), assignments)
        hashes[name] = results.settings_hash(settings)
        mine, new = [], set()
        for work in module.work(settings) if hasattr(module, "work") else ():
            model = replace(work.settings, seed=seed, precision=precision or work.settings.precision)
            key = work.kind, model
            if work.kind == "train" and (key in there or key in new):
                continue
            new.add(key)
            count = work.units
            if work.kind == "train" and out is not None:
                count -= _done(model, out, clock)
            elif work.kind in ("evaluate", "read"):
                count *= len(test)
            unit = clock.seconds(work.kind, model, work.name) if count else 0.0
            mine.append(Item(name, work.kind, work.name, count, unit, count * unit, True))
        total = sum(item.seconds for item in mine)
        fits = left is None or total <= left
        items += [replace(item, fits=fits) for item in mine or [Item(name, "other", "", 0, 0.0, 0.0, True)]]
        (studies if fits else left_out).append(name)
        if fits:
            there |= new
            left = None if left is None else left - total
    return Plan(
        tuple(studies), tuple(left_out), tuple(items), hashes, budget, profile, seed, device, precision, step,
        tuple(assignments), results.device_name(device), folders,
    )  # fmt: skip


def write(found: Plan, path: Path) -> None:
    """Write a plan for ``gradlab run --plan``.

    Raises:
        GradlabError: the disk or the folder refuses.
    """
    results.write_json(path, {"plan": VERSION, "gradlab": results.version("gradlab"), **asdict(found)})


def read(path: Path) -> Plan:
    """The plan that ``write`` wrote.

    Raises:
        GradlabError: not there, no plan, or a plan of studies or settings that are others now.
    """
    remedy = "make one with gradlab plan"
    try:
        content = results.read_json(path)
    except GradlabError as error:
        raise GradlabError(f"{str(error).partition(':')[0]}: {remedy}") from None
    known = {field.name for field in fields(Plan)}
    try:
        if content.get("plan") != VERSION or not known <= content.keys():
            raise GradlabError(f"{path} is no plan of this version: {remedy}")
        chosen = {name: content[name] for name in known}
        chosen |= {name: tuple(map(str, chosen[name])) for name in ("studies", "left_out", "assignments")}
        chosen |= {name: dict(chosen[name]) for name in ("settings", "folders")}
        found = Plan(**chosen | {"items": tuple(Item(**item) for item in chosen["items"])})
        if not found.studies:
            raise GradlabError(f"{path} is a plan in which nothing fits: plan with a larger budget")
        modules = study.check(found.studies, found.profile, found.seed, found.budget_min, found.assignments)
    except (TypeError, ValueError, AttributeError) as error:
        raise GradlabError(f"{path} is no plan ({error}): {remedy}") from None
    for name, module in modules.items():
        settings = assigned(replace(module.PROFILES[found.profile], seed=found.seed), found.assignments)
        if found.settings.get(name) != results.settings_hash(settings):
            raise GradlabError(
                f"{path} is of other settings of {name} than profile {found.profile} has now: plan again"
            )
    return found


def agree(found: Plan, path: Path, given: dict[str, Any], folders: dict[str, str]) -> None:
    """Refuse what a user gives beside a plan and what the plan is not of.

    Args:
        found: the plan.
        path: of it.
        given: by field of the plan, None where it was not given.
        folders: fingerprints of the images that were given.

    Raises:
        GradlabError: something is another than in the plan.
    """
    for name, value in given.items():
        if value is not None and value != getattr(found, name):
            option = {"assignments": "--set"}.get(name, f"--{name}")
            raise GradlabError(
                f"{path} was made with {option} {_shown(getattr(found, name))}, not {_shown(value)}: "
                "leave it out, or plan again"
            )
    for name, fingerprint in folders.items():
        if found.folders.get(name) != fingerprint:
            raise GradlabError(
                f"{path} was made with other images than --{name.replace('_', '-')}: give the same, or plan again"
            )


def show(console: Console, found: Plan) -> None:
    """Print a plan: item by item, and what fits."""
    from rich.markup import escape
    from rich.table import Table

    table = Table(box=None, pad_edge=False, header_style="bold")
    heads = ("study", "", "model", "count", "of", "ms each", "time", "in all", "fits")
    for head in heads:
        table.add_column(head, justify="right" if head in ("count", "ms each", "time", "in all") else "left")
    spent = 0.0
    for item in found.items:
        spent += item.seconds if item.fits else 0.0
        if item.kind == "other":
            table.add_row(item.study, "trains no model: not timed")
            continue
        table.add_row(
            item.study, item.kind, escape(item.model), str(item.count), UNITS[item.kind], f"{1e3 * item.unit_s:.3g}",
            duration(item.seconds), duration(spent) if item.fits else "", "yes" if item.fits else "no",
        )  # fmt: skip
    console.print(table)

    def say(line: str) -> None:
        console.print(line, markup=False, highlight=False, soft_wrap=True)

    if found.budget_min is None:
        say(f"all of it: {duration(spent)} on {found.device_name}; a tenth more for start, checkpoints and drawing")
        return
    fit = f"{', '.join(found.studies)}: {duration(spent)}" if found.studies else "nothing"
    say(f"of {duration(60 * found.budget_min)} on {found.device_name}, a tenth kept for start and drawing, fits {fit}")
    for name in found.left_out:
        needs = sum(item.seconds for item in found.items if item.study == name)
        rest = MARGIN * 60 * found.budget_min - spent
        say(f"left out: {name} needs {duration(needs)}, {duration(needs - rest)} more than there is left")


def _shown(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) and value else "none" if value in (None, ()) else str(value)


def _done(model: TrainSettings, out: Path, clock: Clock) -> int:
    """Iterations of a model that are in an output folder."""
    run = run_of(model.on(clock.pictures(model.crop)), out / "runs")
    return model.steps if run.done else iterations_of(run.folder / "last.safetensors")
