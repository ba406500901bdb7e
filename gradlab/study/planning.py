"""What studies need on a device, timed there item by item, and what fits a budget: ``gradlab plan``.

A study says what it needs by ``work(settings)``: models to train, and what is measured of them. A few steps, draws and
evaluations of each model are timed; models that studies share are counted once.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab import data
from gradlab.errors import GradlabError
from gradlab.runtime import files, provenance
from gradlab.runtime.progress import duration
from gradlab.study import evaluations, runner
from gradlab.study.assignments import assigned
from gradlab.study.status import iterations_of
from gradlab.study.work import UNITS, Timer, Work
from gradlab.training import Run, RunOptions, run_of

if TYPE_CHECKING:
    from rich.console import Console

    from gradlab.data import Picture

MARGIN = 0.9
"""The share of a budget that is planned; the rest is for the start, checkpoints, logs and drawing."""
VERSION = 1
OTHER, NOTHING = "trains no model: not timed", "nothing that is timed and not counted above"


@dataclass(frozen=True)
class Item:
    """A line of a plan.

    Attributes:
        study: that needs it first.
        kind: as of ``Work``; ``OTHER`` for a study that is not timed, ``NOTHING`` for one that needs no more.
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
        settings: study -> hash of its settings.
        budget_min: minutes, or None.
        profile, seed, device, precision, step, assignments: of ``gradlab run``.
        device_name: what was timed.
        folders: fingerprints of the training and test images.
        items: line by line; empty of a plan that was read.
    """

    studies: tuple[str, ...]
    left_out: tuple[str, ...]
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
    items: tuple[Item, ...] = ()


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
    if budget is not None and not 1 <= budget < math.inf:
        raise GradlabError(f"the budget is {budget:g} minutes: give at least 1")
    if out is not None and not out.is_dir():
        raise GradlabError(f"there is no folder {out}: give the --out of a run that goes on, or leave out --resume")
    device = device or runner.usual_device(profile)
    modules = runner.check(names, profile, seed, None, assignments)
    runner.options_of(RunOptions(device=device, step=step), profile, precision)  # type: ignore[arg-type]
    runner.use_all_cores()
    train, test = runner.images_of("train", train_images), runner.images_of("test", test_images)
    timer = Timer(train, test[0], device, step, say)
    there = _There(out, train, test)
    left = None if budget is None else MARGIN * 60 * budget
    items: list[Item] = []
    studies: list[str] = []
    left_out: list[str] = []
    hashes: dict[str, str] = {}
    for name, module in modules.items():
        settings = assigned(replace(module.PROFILES[profile], seed=seed), assignments)
        hashes[name] = provenance.settings_hash(settings)
        mine, before = [], there.known.copy()
        for work in module.work(settings) if hasattr(module, "work") else ():
            model = replace(work.settings, seed=seed, precision=precision or work.settings.precision)
            count = there.lacking(work._replace(settings=model))
            if count:
                unit = timer.seconds(work.kind, model, work.name)
                mine.append(Item(name, work.kind, work.name, count, unit, count * unit, True))
        total = sum(item.seconds for item in mine)
        fits = left is None or total <= left
        kind = NOTHING if hasattr(module, "work") else OTHER
        items += [replace(item, fits=fits) for item in mine or [Item(name, kind, "", 0, 0.0, 0.0, True)]]
        (studies if fits else left_out).append(name)
        if not fits:
            there.known = before
        elif left is not None:
            left -= total
    return Plan(
        tuple(studies), tuple(left_out), hashes, budget, profile, seed, device, precision, step,
        tuple(assignments), provenance.device_name(device), runner.fingerprints(train, test), tuple(items),
    )  # fmt: skip


def write(found: Plan, path: Path) -> None:
    """Write a plan for ``gradlab run --plan``.

    Raises:
        GradlabError: the disk or the folder refuses.
    """
    files.write_json(path, {"plan": VERSION, "gradlab": provenance.version("gradlab"), **asdict(found)})


def read(path: Path) -> Plan:
    """The plan that ``write`` wrote.

    Raises:
        GradlabError: not there, no plan, or a plan of studies or settings that are others now.
    """
    remedy = "make one with gradlab plan"
    try:
        content = files.read_json(path)
    except GradlabError as error:
        raise GradlabError(f"{str(error).partition(':')[0]}: {remedy}") from None
    known = {field.name for field in fields(Plan)} - {"items"}
    try:
        if content.get("plan") != VERSION or not known <= content.keys():
            raise GradlabError(f"{path} is no plan of this version: {remedy}")
        chosen = {name: content[name] for name in known}
        chosen |= {name: tuple(map(str, chosen[name])) for name in ("studies", "left_out", "assignments")}
        chosen |= {name: dict(chosen[name]) for name in ("settings", "folders")}
        found = Plan(**chosen)
        if not found.studies:
            raise GradlabError(f"{path} is a plan in which nothing fits: plan with a larger budget")
        modules = runner.check(found.studies, found.profile, found.seed, found.budget_min, found.assignments)
    except GradlabError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise GradlabError(f"{path} is no plan ({error}): {remedy}") from None
    for name, module in modules.items():
        settings = assigned(replace(module.PROFILES[found.profile], seed=found.seed), found.assignments)
        if found.settings.get(name) != provenance.settings_hash(settings):
            raise GradlabError(
                f"{path} is of other settings of {name} than profile {found.profile} has now: plan again"
            )
    return found


def agree(found: Plan, path: Path, given: dict[str, Any]) -> None:
    """Reject options that contradict a plan.

    Args:
        found: the plan.
        path: of it.
        given: by field of the plan, None where it was not given.

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


def agree_on_images(found: Plan, path: Path, folders: dict[str, str]) -> None:
    """Reject images that a plan was not made with.

    Args:
        found: the plan.
        path: of it.
        folders: fingerprints of the images (``gradlab.study.fingerprints``).

    Raises:
        GradlabError: they are others.
    """
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
        if item.kind in (OTHER, NOTHING):
            table.add_row(item.study, item.kind)
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


class _There:
    """What need not be done: in the folder that a run goes on in, or counted for an earlier study of the plan."""

    def __init__(self, out: Path | None, train: list[Picture], test: list[Picture]) -> None:
        self._out, self._test = out, test
        self._data = "" if out is None else data.fingerprint(train)
        self.known: set[tuple[object, ...]] = set()

    def lacking(self, work: Work) -> int:
        """Units of work that are still to be done, which are known from now on."""
        if work.kind == "train":
            ways = ("watched",) if work.watched else ("plain", "watched")
            if any(("train", work.settings, way) in self.known for way in ways):
                return 0
            self.known.add(("train", work.settings, ways[0]))
            return work.units - self._iterations(work)
        if work.kind == "evaluate":
            new = [p for p in work.points if ("evaluate", work.settings, p, work.crop) not in self.known]
            self.known |= {("evaluate", work.settings, p, work.crop) for p in new}
            return len(self._test) * sum(not self._evaluated(work, *point) for point in new)
        return work.units * (len(self._test) if work.kind == "round" else 1)

    def _run(self, work: Work) -> Run | None:
        if self._out is None:
            return None
        return run_of(replace(work.settings, data=self._data), self._out / "runs")

    def _iterations(self, work: Work) -> int:
        run = self._run(work)
        if run is None or (work.watched and not any(run.folder.glob("snr-*.csv"))):
            return 0
        return work.settings.steps if run.done else iterations_of(run.folder / "last.safetensors")

    def _evaluated(self, work: Work, iteration: int, hyper_input: str) -> bool:
        run = self._run(work)
        if run is None or not run.done or work.crop:
            return False
        try:
            return evaluations.is_done(run, iteration, self._test, hyper_input)
        except GradlabError:  # without the weights
            return False
