"""Finds studies and runs them: settings -> rows (CSV) -> verdicts -> figures, with provenance beside.

A study is a module of the folder ``studies`` (installed as ``gradlab_studies``) with these names::

    \"\"\"One line that ``gradlab list`` shows.

    What it measures.
    \"\"\"
    @dataclass(frozen=True)
    class Settings: ...; seed: int = 0
    PROFILES: dict[str, Settings]                    # some of quick, stay, gpu, paper
    ASSUMED: dict[str, str]                          # optional: what was chosen where the paper is silent
    def inputs(settings, context) -> dict[str, str]  # optional: fingerprints of what it reads, for --resume
    def measure(settings, context) -> dict[str, pandas.DataFrame]   # CSV name -> rows, the study's own first;
                                                     # what takes long goes through context.measure
    def work(settings) -> list[Work]                 # optional: what it needs, for gradlab plan
    def verdicts(tables) -> list[Verdict]            # optional: claims of the paper, and whether they hold here
    def draw(folder: Path) -> None                   # figures, from the CSVs alone
"""

from __future__ import annotations

import contextlib
import functools
import importlib
import os
import re
import shlex
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gradlab.errors import GradlabError, Stopped, unknown
from gradlab.runtime import (
    determinism,
    digests,
    distributed,
    files,
    heartbeat,
    locks,
    provenance,
    signals,
)
from gradlab.runtime.progress import Progress, duration
from gradlab.study import catalog
from gradlab.study.assignments import assigned
from gradlab.study.catalog import studies as discover
from gradlab.study.console import show_table, show_verdicts
from gradlab.study.pieces import Parts, Piece, joined, stop_together
from gradlab.study.verdicts import Verdict

if TYPE_CHECKING:
    from types import ModuleType

    from pandas import DataFrame
    from rich.console import Console

    from gradlab.data import Picture
    from gradlab.training import RunOptions
    from gradlab.training.engines import Engine

__all__ = ["PROFILES", "Context", "check", "discover", "run", "usual_device"]

PROFILES = ("quick", "stay", "gpu", "paper")
READ = {"training images": "train_images", "test images": "test_images"}
"""What a study writes among its inputs that has read a folder of images."""


def _local() -> Engine:
    from gradlab.training.engines import Engine

    return Engine()


@dataclass(frozen=True)
class Context:
    """What a study needs to know besides its settings.

    Attributes:
        out: the output folder.
        folder: this study's own in it.
        runs: in it too, the training runs that studies share.
        profile: one of ``PROFILES``.
        options: how training runs are done: device, resume, deadline and so on.
        seed: the user's seed, also in the settings.
        train_images: folder of images, or None for the embedded photographs; ``test_images`` likewise.
        progress: shows how far a task has come.
        precision: of the transforms in training, where another than the settings' was asked for.
        deterministic: whether ``--deterministic`` was given; for the provenance.
        engine: where models are trained (``gradlab.training.engines.Engine``).
        assignments: settings that were changed by ``--set``.
        commit: of the code, where git is not to be asked.
        inputs: name -> fingerprint of what the study read; the study fills it, for its provenance.
        parts: measures piece by piece, and keeps what takes long until the study is complete.
    """

    out: Path
    folder: Path
    runs: Path
    profile: str
    options: RunOptions
    seed: int
    train_images: Path | None
    test_images: Path | None
    progress: Progress
    precision: str | None = None
    deterministic: bool = False
    engine: Engine = field(default_factory=_local)
    assignments: tuple[str, ...] = ()
    commit: str | None = None
    inputs: dict[str, str] = field(default_factory=dict)
    parts: Parts = field(default_factory=Parts)

    @property
    def device(self) -> str:
        """The torch device that the study runs on."""
        return self.options.device

    def measure(self, description: str, pieces: Sequence[Piece]) -> dict[str, DataFrame]:
        """Measure the pieces of a study, or read what was kept of them, and join their rows.

        Args:
            description: what the progress bar shows.
            pieces: in order; each ``measure`` is called with the keyword ``advance``, which counts its units.

        Raises:
            Stopped: as ``Parts.each``.
        """
        with self.progress.track(description, sum(piece.units for piece in pieces)) as advance:
            bound = [piece._replace(measure=functools.partial(piece.measure, advance=advance)) for piece in pieces]
            return joined(self.parts.each(bound, advance))


def run(
    names: Sequence[str],
    profile: str = "quick",
    out: str | Path | None = None,
    options: RunOptions | None = None,
    *,
    seed: int = 0,
    train_images: str | Path | None = None,
    test_images: str | Path | None = None,
    time_limit: float | None = None,
    precision: str | None = None,
    console: Console | None = None,
    deterministic: bool = False,
    engine: Mapping[str, Any] | None = None,
    assignments: Sequence[str] = (),
    commit: str | None = None,
    accept: Callable[[dict[str, str]], object] = lambda folders: None,
) -> int:
    """Runs studies one after the other; all that is asked for is checked before the first begins.

    Args:
        names: the studies, as ``discover`` names them.
        profile: how large: one of ``PROFILES``.
        out: where results go; ``figures/<profile>`` by default.
        options: how training runs are done; with ``resume`` studies that are done with these settings, seed and inputs
            are left out. By default on the CPU for ``quick`` and on CUDA otherwise.
        seed: 0 or more.
        train_images: a folder of images; the embedded photographs by default. ``test_images`` likewise.
        time_limit: minutes after which training, measuring and drawing stop; what was done is kept.
        precision: of the transforms in training, in place of the profile's (``gradlab.codecs.precision``).
        console: where to print.
        deterministic: one thread, and of each operation an implementation that gives the same bits every time.
        engine: the arguments of ``gradlab.training.engines.Engine``; by default one model after the other.
        assignments: settings to change in every study, e.g. ``"base.crop=128"`` (``gradlab.study.assignments``).
        commit: of the code (``gradlab.runtime.provenance.provenance``).
        accept: called with the fingerprints of the images before anything is written; may refuse them by an error.

    Returns:
        The exit code: 0 (also when stopped at the time limit or by SIGTERM) or 130 (interrupted).

    Raises:
        GradlabError: something asked for is not there, another process works in ``out``, or a study failed; what
            earlier ones wrote stays.
    """
    from rich.console import Console

    from gradlab.training.engines import Engine

    begin = time.monotonic()
    console = console or Console()
    if assignments and out is None:
        raise GradlabError(f"--set changes what profile {profile} is: say with --out where the results go")
    out = Path(out) if out is not None else Path("figures") / profile
    words: dict[str, Any] = {"--profile": profile, "--out": out}
    if options and options.device not in (usual_device(profile), distributed.here().device):
        words |= {"--device": options.device}
    words |= {"--seed": seed, "--time-limit": time_limit, "--precision": precision}
    words |= {"--step": options.step if options and options.step != "auto" else None}
    words |= {"--train-images": train_images, "--test-images": test_images}
    words |= {"--commit": commit}
    words |= {"--engine" if name == "name" else f"--{name}": value for name, value in (engine or {}).items()}
    given = [str(part) for word, value in words.items() if value is not None for part in (word, value)]
    given += [part for one in assignments for part in ("--set", one)]
    given += ["--deterministic"] if deterministic else []
    given += ["--tensorboard"] if options and options.tensorboard else []
    again = shlex.join(["gradlab", "run", *names, *given, "--resume"])
    held = contextlib.ExitStack()
    deadline = None if time_limit is None else begin + 60 * time_limit
    try:
        held.enter_context(signals.listening(deadline))
        modules = check(names, profile, seed, time_limit, assignments)
        if commit is not None and not re.fullmatch("[0-9a-f]{7,64}", commit):
            raise GradlabError(f"the commit is {commit!r}: give its hash, 7 hexadecimal digits or more")
        if precision is not None and any(_path(one).endswith("precision") for one in assignments):
            raise GradlabError("the precision is given twice, by --precision and by --set: give one of the two")
        options = options_of(options, profile, precision)
        folders = fingerprints(images_of("train", train_images), images_of("test", test_images))
        accept(folders)
        files.ensure_folder(out)
        if distributed.here().first:
            held.enter_context(locks.hold(out, "wait until it has ended, stop it, or choose another folder with --out"))
            locks.tidy(out)
        use_all_cores()
        where = Engine(**(engine or {}))
        options = replace(options, deadline=deadline)
        for position, (name, module) in enumerate(modules.items(), 1):
            console.rule(f"{name} ({position} of {len(modules)})", align="left", style="none", characters="-")
            context = Context(
                out=out,
                folder=out / name,
                runs=out / "runs",
                profile=profile,
                options=options,
                seed=seed,
                train_images=Path(train_images) if train_images else None,
                test_images=Path(test_images) if test_images else None,
                progress=Progress(console),
                precision=precision,
                deterministic=deterministic,
                engine=where,
                assignments=tuple(assignments),
                commit=commit,
            )
            stop_together()
            try:
                with determinism.enforced() if deterministic else contextlib.nullcontext():
                    _run_one(name, module, context, folders, console)
            except GradlabError as error:
                raise GradlabError(f"{name}: {error}") from error
    except Stopped:
        _say(console, f"stopped {signals.cause() or 'at the time limit'}; resume with: {again}")
        return 0
    except KeyboardInterrupt:
        _say(console, f"interrupted; what was finished stays, resume with: {again}")
        return 130
    finally:
        held.close()
    took = duration(time.monotonic() - begin)
    _say(console, f"\nresults are in {out} ({took}); one page with all of them: gradlab report {shlex.quote(str(out))}")
    return 0


def _run_one(name: str, module: ModuleType, context: Context, folders: dict[str, str], console: Console) -> None:
    settings = assigned(replace(module.PROFILES[context.profile], seed=context.seed), context.assignments)
    if hasattr(module, "inputs"):
        context.inputs.update(module.inputs(settings, context))
    assumed = getattr(module, "ASSUMED", {})
    record = provenance.provenance(settings, context.seed, context.device, {}, 0.0, assumed, commit=context.commit)
    if context.assignments:
        record |= {"set": list(context.assignments)}
    record |= {"study": name, "description": (module.__doc__ or "").strip(), "profile": context.profile}
    record |= {"folders": folders, "deterministic": context.deterministic, "precision": context.precision}
    path = context.folder / "provenance.json"
    here = distributed.here()
    context = replace(context, parts=Parts(context.folder, {k: record[k] for k in ("device", "commit")}))
    if here.agreed(context.options.resume and _done(path, record, context.inputs)):
        heartbeat.clear(context.folder)  # of a process that was killed right after the last file
        context.parts.clear()
        _say(console, f"done before with these settings, seed and inputs: {context.folder} is kept")
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
    here.wait()


def _write(
    name: str, module: ModuleType, settings: Any, context: Context, record: dict[str, Any]
) -> tuple[dict[str, DataFrame], list[Verdict]]:
    """Measure, and write tables, verdicts, figures and, last, the provenance."""
    path, here = context.folder / "provenance.json", distributed.here()
    begin = time.monotonic()
    tables: dict[str, DataFrame] = module.measure(settings, context)
    if before := context.parts.elsewhere():
        context.inputs["measured before"] = before
    if name not in tables:
        raise GradlabError(f"measure() returned no table {name!r}: name its main table after the study")
    for table in tables:
        if Path(table).name != table or table.startswith("."):
            raise GradlabError(f"a table is called {table!r}: give it the plain name of a file, without folders")
    # From here to the end the folder is neither the old results nor the new ones, and says so by having no provenance.
    if here.first:
        files.remove(path)
        for figure in (one for kind in ("*.png", "*.pdf") for one in context.folder.glob(kind)):
            files.remove(figure)
    for table, rows in tables.items():
        files.write_csv(context.folder / f"{table}.csv", rows)
    verdicts = _judge(module, tables, context)
    if hasattr(module, "draw") and here.first:
        module.draw(context.folder)
    wall_s = round(time.monotonic() - begin, 3)
    record |= {"inputs": dict(context.inputs), "wall_s": wall_s, "tables": list(tables)}
    if here.first:
        written = [f"{table}.csv" for table in tables] + ["verdicts.csv"] * hasattr(module, "verdicts")
        digests.write_record(context.folder, record, written)
        context.parts.clear()
    return tables, verdicts


def _write_partial(name: str, why: str, context: Context, record: dict[str, Any], console: Console) -> str:
    """Write what was measured of a study that was cut, marked as such; verdicts and figures wait for the rest.

    Returns:
        Why it was cut, and how much was measured.
    """
    tables, pieces = context.parts.so_far()
    if pieces:
        why += f" after {pieces} piece{'s' * (pieces > 1)}"
        folder = context.parts.write_partial(tables, record | {"partial": why, "inputs": dict(context.inputs)})
        _say(console, f"{name}: {why}; partial tables are in {folder}")
    return why


def _judge(module: ModuleType, tables: dict[str, DataFrame], context: Context) -> list[Verdict]:
    if not hasattr(module, "verdicts"):
        return []
    import pandas

    verdicts: list[Verdict] = module.verdicts(tables)
    if context.profile == "stay":  # one seed of a training cut to minutes decides no claim of the paper
        verdicts = [v._replace(holds=None) for v in verdicts]
    said = {True: "yes", False: "no", None: "undecided"}
    rows = [(v.claim, v.source, said[None if v.holds is None else bool(v.holds)], v.evidence) for v in verdicts]
    files.write_csv(context.folder / "verdicts.csv", pandas.DataFrame(rows, columns=list(Verdict._fields)))
    return verdicts


def _done(path: Path, record: dict[str, Any], inputs: dict[str, str]) -> bool:
    """Whether ``path`` is the provenance of a finished study with these settings, seed, version and inputs.

    Of the folders of images those count that it read. Where it was done, and from which commit, is not compared.
    """
    try:
        before = digests.read_record(path.parent)
        same = all(before.get(key) == record[key] for key in ("settings_hash", "seed", "precision"))
        same = same and provenance.same_version(before.get("gradlab"), record["gradlab"])
        same = same and before.get("deterministic", False) >= record["deterministic"]
        read = before.get("inputs", {})
        same = same and all(
            before["folders"].get(folder) == record["folders"][folder] for what, folder in READ.items() if what in read
        )
        whole = all((path.parent / f"{table}.csv").is_file() for table in before.get("tables", ["?"]))
        listed = before.get(digests.FILES, {})
        whole = whole and digests.of_files(path.parent, listed) == listed
        return same and whole and all(read.get(key) == value for key, value in inputs.items())
    except (GradlabError, AttributeError, KeyError, TypeError):
        return False  # absent or damaged: the study is measured again


def check(
    names: Sequence[str],
    profile: str = "quick",
    seed: int = 0,
    time_limit: float | None = None,
    assignments: Sequence[str] = (),
) -> dict[str, ModuleType]:
    """The modules of the studies asked for, each once, in that order.

    Raises:
        GradlabError: no study or an unknown one, a profile that one of them lacks, a seed or a time limit out of range,
            or an assignment that the settings of one of them refuse.
    """
    known = discover()
    wanted = list(dict.fromkeys(name.replace("_", "-") for name in names))
    if not wanted:
        raise GradlabError(f"no study named: name some of {', '.join(known)}")
    for name in wanted:
        if name not in known:
            raise unknown("study", name, known)
    if profile not in PROFILES:
        raise unknown("profile", profile, PROFILES)
    if not 0 <= seed < 2**63:
        raise GradlabError(f"the seed is {seed}: give a whole number from 0 to 2^63 - 1")
    if time_limit is not None and not time_limit > 0:
        raise GradlabError(f"the time limit is {time_limit:g} minutes: give more than 0")
    modules = {name: importlib.import_module(f"{catalog.PACKAGE}.{name.replace('-', '_')}") for name in wanted}
    for name, module in modules.items():
        for part in ("PROFILES", "measure"):
            if not hasattr(module, part):
                raise GradlabError(f"study {name} has no {part}: add it to {module.__file__}")
        if profile not in module.PROFILES:
            raise GradlabError(f"study {name} has no profile {profile!r}: it has {', '.join(module.PROFILES)}")
        try:
            _check_own_options(module.PROFILES[profile], assignments)
            assigned(module.PROFILES[profile], assignments)
        except GradlabError as error:
            raise GradlabError(f"{name}: {error}") from error
    return modules


def _check_own_options(settings: Any, assignments: Sequence[str]) -> None:
    """Refuse what an option of its own decides, and would decide silently."""
    from gradlab.training import TrainSettings

    for assignment in assignments:
        *groups, name = _path(assignment).split(".")
        group = functools.reduce(lambda at, part: getattr(at, part, None), groups, settings)
        own = {"seed": "--seed"} if group is settings else {}
        own |= {"seed": "--seed", "data": "--train-images"} if isinstance(group, TrainSettings) else {}
        if name in own:
            raise GradlabError(f"--set {_path(assignment)}: {own[name]} decides it, give that")


def _path(assignment: str) -> str:
    return assignment.partition("=")[0].strip()


def fingerprints(train: Sequence[Picture], test: Sequence[Picture]) -> dict[str, str]:
    """Fingerprints of the images that a run reads, as its provenance has them."""
    from gradlab import data

    return {"train_images": data.fingerprint(train)[:12], "test_images": data.fingerprint(test)[:12]}


def images_of(purpose: str, folder: str | Path | None) -> list[Picture]:
    """The images to ``"train"`` or to ``"test"`` on; every one is read, so that a damaged one is told before training.

    Raises:
        GradlabError: no images there, or a damaged one.
    """
    from gradlab import data

    try:
        return data.load(folder, purpose)
    except GradlabError as error:
        raise GradlabError(f"--{purpose}-images: {error}") from error


def usual_device(profile: str) -> str:
    """Where a profile runs unless told otherwise."""
    return "cpu" if profile == "quick" else "cuda"


def options_of(options: RunOptions | None, profile: str, precision: str | None) -> RunOptions:
    """Options for a device and a precision that are there.

    Raises:
        GradlabError: one is not.
    """
    from gradlab.training import RunOptions

    options = options or RunOptions(device=distributed.here().device or usual_device(profile))
    if precision is not None:
        from gradlab.codecs import precision as precisions

        precisions.check(precision, options.device)
    return options


def use_all_cores() -> None:
    """As many threads as cores that this process may use, unless OMP_NUM_THREADS says otherwise."""
    import torch

    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(provenance.cores())


def _say(console: Console, line: str) -> None:
    console.print(line, markup=False, highlight=False, soft_wrap=True)
