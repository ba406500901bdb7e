"""Run studies: settings -> rows (CSV) -> verdicts -> figures, with their provenance.

A study is a module in the folder ``studies`` (installed as ``gradlab_studies``) that defines these names::

    \"\"\"One line that ``gradlab list`` shows.

    A description of the measurement.
    \"\"\"
    @dataclass(frozen=True)
    class Settings: ...; seed: int = 0
    PROFILES: dict[str, Settings]                    # keys: some of quick, stay, gpu, paper
    ASSUMED: dict[str, str]                          # optional: choices that the paper leaves open
    def inputs(settings, context) -> dict[str, str]  # optional: fingerprints of its inputs, for --resume
    def measure(settings, context) -> dict[str, pandas.DataFrame]   # rows by CSV name, the study's main table first;
                                                     # long measurements go through context.measure
    def work(settings) -> list[Work]                 # optional: training and measurements, for gradlab plan
    def verdicts(tables) -> list[Verdict]            # optional: claims of the paper, and whether they hold here
    def draw(folder: Path) -> None                   # draws figures from the CSVs alone
"""

from __future__ import annotations

import contextlib
import os
import shlex
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.errors import GradlabError, Stopped
from gradlab.runtime import (
    determinism,
    digests,
    distributed,
    files,
    heartbeat,
    locks,
    platforms,
    provenance,
    signals,
)
from gradlab.runtime.progress import Progress, duration
from gradlab.study import catalog
from gradlab.study.console import print_line, show_table, show_verdicts
from gradlab.study.context import Context
from gradlab.study.pieces import Parts, stop_together
from gradlab.study.request import Request, fingerprints
from gradlab.study.verdicts import Verdict

if TYPE_CHECKING:
    from types import ModuleType

    from pandas import DataFrame
    from rich.console import Console

__all__ = ["run", "use_all_cores"]

READ = {"training images": "train_images", "test images": "test_images"}
"""Folder of images, by the name of the input that a study records when it reads them."""


def run(
    names: Sequence[str],
    request: Request | None = None,
    out: str | Path | None = None,
    *,
    console: Console | None = None,
    accept: Callable[[dict[str, str]], object] | None = None,
) -> int:
    """Run studies one after the other, after validating the whole request.

    Args:
        names: names of the studies, as in ``catalog.studies``.
        request: options that all studies share; the profile ``quick`` by default.
        out: output folder; ``figures/<profile>`` by default.
        console: where to print.
        accept: called with the fingerprints of the images before anything is written; raises an error to reject them.

    Returns:
        The exit code: 0 (also after a stop at the time limit or by SIGTERM), or 130 after an interruption.

    Raises:
        GradlabError: the request cannot be met, another process works in ``out``, or a study failed. Results of earlier
            studies are kept. On Windows.

    Example::

        run(["toys", "table1"], Request(profile="quick", seed=1), "out")
    """
    from rich.console import Console

    platforms.require_posix("gradlab run")
    begin = time.monotonic()
    console, request = console or Console(), request or Request()
    if request.assignments and out is None:
        raise GradlabError(f"--set changes the settings of profile {request.profile}: give another folder with --out")
    out = Path(out) if out is not None else Path("figures") / request.profile
    deadline = None if request.time_limit is None else begin + 60 * request.time_limit
    with contextlib.ExitStack() as stack:
        stack.enter_context(signals.handled(deadline))
        try:
            modules = catalog.load(names, request)
            resolved = request.resolved(deadline)
            folders = fingerprints(request.pictures("train"), request.pictures("test"))
            if accept is not None:
                accept(folders)
            files.ensure_folder(out)
            if distributed.group().is_main:
                remedy = "wait until it has finished, stop it, or choose another folder with --out"
                stack.enter_context(locks.hold(out, remedy))
                locks.tidy(out)
            use_all_cores()
            for position, (name, module) in enumerate(modules.items(), 1):
                console.rule(f"{name} ({position} of {len(modules)})", align="left", style="none", characters="-")
                context = Context(**vars(resolved), out=out, folder=out / name, progress=Progress(console))
                stop_together()
                try:
                    with determinism.deterministic_mode(request.deterministic):
                        _run_one(name, module, context, folders, console)
                except GradlabError as error:
                    raise GradlabError(f"{name}: {error}") from error
        except Stopped:
            reason = signals.stop_reason() or "at the time limit"
            print_line(console, f"stopped {reason}; resume with: {request.command(names, out)}")
            return 0
        except KeyboardInterrupt:
            print_line(console, f"interrupted; finished work is kept; resume with: {request.command(names, out)}")
            return 130
    took = duration(time.monotonic() - begin)
    page = f"gradlab report {shlex.quote(str(out))}"
    print_line(console, f"\nresults are in {out} ({took}); collect them in one page with: {page}")
    return 0


def _run_one(name: str, module: ModuleType, context: Context, folders: dict[str, str], console: Console) -> None:
    settings = catalog.settings_of(module, context)
    if hasattr(module, "inputs"):
        context.inputs.update(module.inputs(settings, context))
    assumed = getattr(module, "ASSUMED", {})
    record = provenance.provenance(settings, context.seed, context.device, {}, 0.0, assumed, commit=context.commit)
    if context.assignments:
        record |= {"set": list(context.assignments)}
    record |= {"study": name, "description": (module.__doc__ or "").strip(), "profile": context.profile}
    record |= {"folders": folders, "deterministic": context.deterministic, "precision": context.precision}
    group = distributed.group()
    context = replace(context, parts=Parts(context.folder, {k: record[k] for k in ("device", "commit")}))
    if group.broadcast(context.options.resume and _is_finished(context.folder, record, context.inputs)):
        heartbeat.clear(context.folder)  # left by a process that was killed right after writing its last file
        context.parts.clear()
        print_line(console, f"already done with these settings, seed and inputs: {context.folder} is kept")
        return
    if not context.options.resume:
        context.parts.clear()
    with heartbeat.running(context.folder) as pulse:
        try:
            tables, verdicts = _write(name, module, settings, context, record)
        except Stopped as stopped:
            pulse(0, _write_partial(name, str(stopped), context, record, console))
            raise
    show_table(console, tables[name], context.folder / f"{name}.csv")
    show_verdicts(console, verdicts)
    group.barrier()


def _write(
    name: str, module: ModuleType, settings: Any, context: Context, record: dict[str, Any]
) -> tuple[dict[str, DataFrame], list[Verdict]]:
    """Measure, then write tables, verdicts, figures and, last, the provenance."""
    group, begin = distributed.group(), time.monotonic()
    tables: dict[str, DataFrame] = module.measure(settings, context)
    if before := context.parts.elsewhere():
        context.inputs["measured before"] = before
    if name not in tables:
        raise GradlabError(f"measure() returned no table {name!r}: name the main table after the study")
    for table in tables:
        if Path(table).name != table or table.startswith("."):
            raise GradlabError(f"the table name {table!r} is not a plain file name: give a name without folders")
    # From here on the folder mixes old and new results; without provenance it does not count as finished.
    if group.is_main:
        files.remove(context.folder / digests.RECORD)
        for figure in (one for kind in ("*.png", "*.pdf") for one in context.folder.glob(kind)):
            files.remove(figure)
    for table, rows in tables.items():
        files.write_csv(context.folder / f"{table}.csv", rows)
    verdicts = _judge(module, tables, context)
    if hasattr(module, "draw") and group.is_main:
        module.draw(context.folder)
    wall_s = round(time.monotonic() - begin, 3)
    record |= {"inputs": dict(context.inputs), "wall_s": wall_s, "tables": list(tables)}
    if group.is_main:
        written = [f"{table}.csv" for table in tables] + ["verdicts.csv"] * hasattr(module, "verdicts")
        digests.write_record(context.folder, record, written)
        context.parts.clear()
    return tables, verdicts


def _write_partial(name: str, why: str, context: Context, record: dict[str, Any], console: Console) -> str:
    """Write the tables measured so far of an interrupted study; verdicts and figures are written only at the end.

    Returns:
        The reason for the stop, and how much was measured.
    """
    tables, pieces = context.parts.so_far()
    if pieces:
        why += f" after {pieces} piece{'s' * (pieces > 1)}"
        folder = context.parts.write_partial(tables, record | {"partial": why, "inputs": dict(context.inputs)})
        print_line(console, f"{name}: {why}; partial tables are in {folder}")
    return why


def _judge(module: ModuleType, tables: dict[str, DataFrame], context: Context) -> list[Verdict]:
    if not hasattr(module, "verdicts"):
        return []
    import pandas

    verdicts: list[Verdict] = module.verdicts(tables)
    if context.profile == "stay":  # one seed of a few minutes of training does not decide a claim of the paper
        verdicts = [v._replace(holds=None) for v in verdicts]
    rows = [v._replace(holds=v.answer) for v in verdicts]  # type: ignore[arg-type]
    files.write_csv(context.folder / "verdicts.csv", pandas.DataFrame(rows, columns=list(Verdict._fields)))
    return verdicts


def _is_finished(folder: Path, record: dict[str, Any], inputs: dict[str, str]) -> bool:
    """Return whether a folder contains the complete study with these settings, seed, version and inputs.

    Only image folders that the study read are compared. Device and commit are not compared.
    """
    try:
        before = digests.read_record(folder)
        read = before["inputs"]
        return (
            all(before[key] == record[key] for key in ("settings_hash", "seed", "precision"))
            and provenance.same_version(before["gradlab"], record["gradlab"])
            and before["deterministic"] >= record["deterministic"]
            and all(before["folders"][key] == record["folders"][key] for name, key in READ.items() if name in read)
            and digests.of_files(folder, before[digests.FILES]) == before[digests.FILES]
            and all(read.get(key) == value for key, value in inputs.items())
        )
    except (GradlabError, AttributeError, KeyError, TypeError):
        return False  # missing or damaged: measure the study again


def use_all_cores() -> None:
    """Let torch use all cores available to this process, unless ``OMP_NUM_THREADS`` is set."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(provenance.cores())
