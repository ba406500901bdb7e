"""Estimate how long studies take on a device, and select those that fit a budget: ``gradlab plan``.

``work(settings)`` of a study lists the models to train and their measurements. A few training steps, noise draws and
evaluations of each model are timed; models that several studies use count once.
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
from gradlab.study import catalog, evaluations
from gradlab.study.console import plain_table, print_line
from gradlab.study.request import Request, fingerprints
from gradlab.study.runner import use_all_cores
from gradlab.study.status import iterations_of
from gradlab.study.work import UNITS, Timer, Work
from gradlab.training import Run, run_of

if TYPE_CHECKING:
    from rich.console import Console

    from gradlab.data import Picture

MARGIN = 0.9
"""Share of the budget that is planned; the rest is left for startup, checkpoints, logs and drawing."""
VERSION = 1
OTHER, NOTHING = "trains no model: not timed", "nothing left to time: done, or counted above"


@dataclass(frozen=True)
class Item:
    """One line of a plan.

    Attributes:
        study: first study that needs it.
        kind: as in ``Work``; ``OTHER`` for a study that is not timed, ``NOTHING`` for one that needs nothing more.
        model: name of the model.
        count: number of units.
        unit_s: seconds per unit.
        seconds: seconds for all units.
        fits: whether it fits the budget.
    """

    study: str
    kind: str
    model: str = ""
    count: int = 0
    unit_s: float = 0.0
    seconds: float = 0.0
    fits: bool = True


@dataclass(frozen=True)
class Plan:
    """The studies that fit a budget, and the options to run them with.

    Attributes:
        studies: studies that fit, in the order of the request.
        left_out: studies that do not fit.
        settings: hash of the settings of each study.
        budget_min: budget in minutes, or None.
        profile: option of ``gradlab run``.
        seed: option of ``gradlab run``.
        device: option of ``gradlab run``.
        precision: option of ``gradlab run``.
        step: option of ``gradlab run``.
        assignments: values of the option ``--set`` of ``gradlab run``.
        device_name: device that was timed.
        folders: fingerprints of the training and test images.
        items: the lines; empty in a plan that was read from a file.
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
    request: Request | None = None,
    budget: float | None = None,
    out: Path | None = None,
    *,
    say: Callable[[str], object] = lambda line: None,
) -> Plan:
    """Estimate how long studies take, and select those that fit.

    Args:
        names: the studies, most important first.
        request: options that all studies share, as for ``gradlab run``; the profile ``quick`` by default.
        budget: budget in minutes; None if there is no limit.
        out: output folder of a run to continue; work that is finished there is not counted.
        say: called with a line before each timing.

    Returns:
        The plan.

    Raises:
        GradlabError: as for ``catalog.load`` and ``Request.resolved``; the budget is below one minute; or images are
            missing.
    """
    if budget is not None and not 1 <= budget < math.inf:
        raise GradlabError(f"the budget is {budget:g} minutes: give at least 1")
    if out is not None and not out.is_dir():
        raise GradlabError(f"there is no folder {out}: give the --out of an earlier run, or leave out --resume")
    request = request or Request()
    modules = catalog.load(names, request)
    options = request.resolved().options
    assert options is not None
    use_all_cores()
    train, test = request.pictures("train"), request.pictures("test")
    timer = Timer(train, test[0], options, say)
    remaining = _Remaining(out, train, test)
    seconds_left = math.inf if budget is None else MARGIN * 60 * budget
    items: list[Item] = []
    fitting: dict[str, bool] = {}
    hashes: dict[str, str] = {}
    for name, module in modules.items():
        settings = catalog.settings_of(module, request)
        hashes[name] = provenance.settings_hash(settings)
        needed, counted = [], remaining.counted.copy()
        for work in module.work(settings) if hasattr(module, "work") else ():
            model = replace(work.settings, seed=request.seed, precision=request.precision or work.settings.precision)
            count = remaining.units(work._replace(settings=model))
            if count:
                unit = timer.seconds(work.kind, model, work.name)
                needed.append(Item(name, work.kind, work.name, count, unit, count * unit))
        total = sum(item.seconds for item in needed)
        fitting[name] = total <= seconds_left
        kind = NOTHING if hasattr(module, "work") else OTHER
        items += [replace(item, fits=fitting[name]) for item in needed or [Item(name, kind)]]
        if fitting[name]:
            seconds_left -= total
        else:
            remaining.counted = counted
    return Plan(
        studies=tuple(name for name, fits in fitting.items() if fits),
        left_out=tuple(name for name, fits in fitting.items() if not fits),
        settings=hashes,
        budget_min=budget,
        profile=request.profile,
        seed=request.seed,
        device=options.device,
        precision=request.precision,
        step=options.step,
        assignments=request.assignments,
        device_name=provenance.device_name(options.device),
        folders=fingerprints(train, test),
        items=tuple(items),
    )


def write(plan: Plan, path: Path) -> None:
    """Write a plan for ``gradlab run --plan``.

    Args:
        plan: the plan.
        path: path of the file.

    Raises:
        GradlabError: the file cannot be written.
    """
    files.write_json(path, {"plan": VERSION, "gradlab": provenance.version("gradlab"), **asdict(plan)})


def read(path: Path) -> Plan:
    """Read a plan that ``write`` wrote, without its items.

    Args:
        path: path of the file.

    Raises:
        GradlabError: the file does not exist or is not a plan, or the studies or their settings have changed since.
    """
    remedy = "make a plan with gradlab plan"
    try:
        content = files.read_json(path)
    except GradlabError as error:
        raise GradlabError(f"{str(error).partition(':')[0]}: {remedy}") from None
    names = {field.name for field in fields(Plan)} - {"items"}
    try:
        if content.get("plan") != VERSION or not names <= content.keys():
            raise GradlabError(f"{path} is not a plan of this version: {remedy}")
        values = {name: content[name] for name in names}
        values |= {name: tuple(map(str, values[name])) for name in ("studies", "left_out", "assignments")}
        values |= {name: dict(values[name]) for name in ("settings", "folders")}
        plan = Plan(**values)
        if not plan.studies:
            raise GradlabError(f"{path} is a plan in which no study fits: plan again with a larger budget")
        request = Request(
            profile=plan.profile, seed=plan.seed, time_limit=plan.budget_min, assignments=plan.assignments
        )
        modules = catalog.load(plan.studies, request)
    except GradlabError:
        raise
    except (TypeError, ValueError, AttributeError) as error:
        raise GradlabError(f"{path} is not a plan ({error}): {remedy}") from None
    for name, module in modules.items():
        if plan.settings.get(name) != provenance.settings_hash(catalog.settings_of(module, request)):
            raise GradlabError(
                f"the settings of {name} in profile {plan.profile} differ from those in {path}: plan again"
            )
    return plan


def check_options(plan: Plan, path: Path, options: dict[str, Any]) -> None:
    """Reject options that contradict a plan.

    Args:
        plan: the plan.
        path: file of the plan.
        options: options by field of the plan; None for options that were not given.

    Raises:
        GradlabError: an option differs from the plan.
    """
    for name, value in options.items():
        if value is not None and value != getattr(plan, name):
            option = {"assignments": "--set"}.get(name, f"--{name}")
            raise GradlabError(
                f"{path} was made with {option} {_text(getattr(plan, name))}, not {_text(value)}: "
                f"leave out {option}, or plan again"
            )


def check_images(plan: Plan, path: Path, folders: dict[str, str]) -> None:
    """Reject images that differ from those of a plan.

    Args:
        plan: the plan.
        path: file of the plan.
        folders: fingerprints of the images (``gradlab.study.request.fingerprints``).

    Raises:
        GradlabError: the images differ.
    """
    for name, fingerprint in folders.items():
        if plan.folders.get(name) != fingerprint:
            raise GradlabError(
                f"--{name.replace('_', '-')} differs from the images that {path} was made with: give the same images, "
                "or plan again"
            )


def show(console: Console, plan: Plan) -> None:
    """Print a plan item by item, and which studies fit."""
    right = ("count", "ms each", "time", "total")
    table = plain_table("study", "", "model", "count", "unit", "ms each", "time", "total", "fits", right=right)
    spent = 0.0
    for item in plan.items:
        spent += item.seconds if item.fits else 0.0
        cells = [item.study, item.kind]
        if item.kind in UNITS:
            cells += [item.model, str(item.count), UNITS[item.kind], f"{1e3 * item.unit_s:.3g}"]
            cells += [duration(item.seconds), duration(spent) if item.fits else "", "yes" if item.fits else "no"]
        table.add_row(*cells)
    console.print(table, markup=False)
    if plan.budget_min is None:
        where = f"{duration(spent)} on {plan.device_name}"
        print_line(console, f"total: {where}; allow a tenth more for startup, checkpoints and drawing")
        return
    budget = f"{duration(60 * plan.budget_min)} on {plan.device_name}"
    fit = f"{', '.join(plan.studies)} ({duration(spent)})" if plan.studies else "nothing"
    print_line(console, f"fits in {budget}, less a tenth for startup and drawing: {fit}")
    seconds_left = MARGIN * 60 * plan.budget_min - spent
    for name in plan.left_out:
        seconds = sum(item.seconds for item in plan.items if item.study == name)
        needs = f"needs {duration(seconds)}, {duration(seconds - seconds_left)} more than is left"
        print_line(console, f"does not fit: {name} {needs}")


def _text(value: object) -> str:
    return " ".join(value) if isinstance(value, tuple) and value else "none" if value in (None, ()) else str(value)


class _Remaining:
    """Count work that is neither finished in the folder of a run to continue, nor counted for an earlier study."""

    def __init__(self, out: Path | None, train: list[Picture], test: list[Picture]) -> None:
        self._out, self._test = out, test
        self._data = "" if out is None else data.fingerprint(train)
        self.counted: set[tuple[object, ...]] = set()

    def units(self, work: Work) -> int:
        """Return the number of units that remain of some work, and mark it as counted."""
        if work.kind == "train":
            ways = ("watched",) if work.watched else ("plain", "watched")
            if any(("train", work.settings, way) in self.counted for way in ways):
                return 0
            self.counted.add(("train", work.settings, ways[0]))
            return work.units - self._iterations(work)
        if work.kind == "evaluate":
            new = [p for p in work.points if ("evaluate", work.settings, p, work.crop) not in self.counted]
            self.counted |= {("evaluate", work.settings, p, work.crop) for p in new}
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
        except GradlabError:  # the weights are missing
            return False
