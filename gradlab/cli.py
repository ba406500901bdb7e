"""Define the ``gradlab`` command line.

Subcommands: list, plan, run, status, report, claims, check, data, pack, unpack. Each imports heavy modules only when it
runs.
"""

from __future__ import annotations

import functools
import importlib
import shlex
import shutil
import sys
import textwrap
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gradlab.errors import GradlabError, needs, require_studies, unknown

if TYPE_CHECKING:
    from rich.console import Console

EXAMPLES = """\b
Examples:
  gradlab list                                list all studies and estimators
  gradlab plan table1 --budget 10             show which studies fit in ten minutes
  gradlab run toys table1 --profile quick     run two studies, a few minutes on a CPU
  gradlab report figures/quick                collect all results in one HTML page
  gradlab data prepare photos train           prepare training images from photographs
"""

app = typer.Typer(
    name="gradlab",
    help="Is this gradient estimator right, how noisy is it, and in which module of the model? "
    "Studies answer these questions with CSV tables and figures, and compare them with the paper's numbers.",
    epilog=EXAMPLES,
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command line and return its exit code.

    Bad input prints one sentence on standard error, without a traceback, and returns 2.

    Args:
        arguments: command-line arguments without the program name; ``sys.argv[1:]`` by default.

    Returns:
        0 on success, 2 on bad input; some commands define further codes.

    Example:
        >>> from gradlab.cli import main
        >>> main(["--version"])  # doctest: +ELLIPSIS
        gradlab ...
        0
    """
    # Users cannot act on warnings that other packages raise about their own imports.
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.|compressai\.|timm\.")
    warnings.filterwarnings("ignore", category=DeprecationWarning, module=r"torch\.|compressai\.|timm\.")
    try:
        given = sys.argv[1:] if arguments is None else list(arguments)
        with needs(" ".join(["gradlab", *given[:1]])):
            app(given, prog_name="gradlab")
    except GradlabError as error:
        typer.echo(f"error: {error}", err=True)
        return 2
    except SystemExit as end:
        return end.code if isinstance(end.code, int) else 0
    return 0


def script(module: str) -> None:
    """Run a study file as a script: ``python studies/table3.py`` takes the options of ``gradlab run table3``.

    Args:
        module: ``__name__`` of the study; the call does nothing unless it is ``"__main__"``.
    """
    if module == "__main__":
        sys.exit(main(["run", Path(sys.argv[0]).stem.replace("_", "-"), *sys.argv[1:]]))


def _console(quiet: bool = False) -> Console:
    """Return a console for standard output; 160 columns wide without a terminal, for whole tables in logs."""
    from rich.console import Console

    return Console(width=None if sys.stdout.isatty() else 160, quiet=quiet)


def _require_posix(command: str) -> None:
    """Refuse a command on Windows, before imports whose packages have no Windows build."""
    from gradlab.runtime.platforms import require_posix

    require_posix(f"gradlab {command}")


def _print_version(requested: bool) -> None:
    if requested:
        from gradlab.runtime.provenance import version

        typer.echo(f"gradlab {version('gradlab')}")
        raise typer.Exit


@app.callback()
def _options(
    show_version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None: ...


@app.command("list")
def list_() -> None:
    """List all studies, estimators, objectives and rounding proxies."""
    from gradlab.study import catalog

    width = max(60, shutil.get_terminal_size((100, 24)).columns)
    sections = {
        "studies": catalog.studies(),
        "estimators": catalog.estimators(),
        "objectives": catalog.objectives(),
        "rounding proxies": catalog.proxies(),
    }
    column = max((len(name) for entries in sections.values() for name in entries), default=0) + 4
    for section, entries in sections.items():
        typer.echo(f"{section}:")
        for name, line in entries.items():
            wrapped = textwrap.wrap(line, width - column) or [""]
            typer.echo(f"  {name:<{column - 2}}{wrapped[0]}".rstrip())
            for rest in wrapped[1:]:
                typer.echo(" " * column + rest)
    typer.echo("\nrun studies with: gradlab run STUDY... [--profile quick|stay|gpu|paper]")


# Options that 'plan' and 'run' share.
Device = Annotated[
    str | None, typer.Option(metavar="D", help="Torch device.", show_default="cpu for quick, otherwise cuda")
]
TrainImages = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of training images.", show_default="embedded photographs")
]
TestImages = Annotated[
    Path | None, typer.Option(metavar="DIR", help="Folder of test images.", show_default="embedded photographs")
]
Precision = Annotated[
    str | None,
    typer.Option(
        metavar="float32|tf32|bf16",
        help="Precision of the codec's transforms during training.",
        show_default="set by the profile",
    ),
]
Assignments = Annotated[
    list[str],
    typer.Option("--set", metavar="NAME=VALUE", help="Override a setting, e.g. base.crop=128; repeatable."),
]


@app.command()
def plan(
    studies: Annotated[
        list[str], typer.Argument(metavar="STUDY", help="Study names (see 'gradlab list'), most important first.")
    ],
    *,
    profile: Annotated[str, typer.Option(metavar="quick|stay|gpu|paper", help="Same as for 'gradlab run'.")] = "quick",
    device: Device = None,
    budget: Annotated[
        float | None, typer.Option(metavar="MINUTES", help="Time budget, at least 1.", show_default="unlimited")
    ] = None,
    out: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Save the plan to FILE for 'gradlab run --plan FILE'.", show_default="not saved"
        ),
    ] = None,
    resume: Annotated[
        Path | None,
        typer.Option(
            metavar="DIR", help="Output folder (--out) of a run to continue; work finished there is not counted."
        ),
    ] = None,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed, 0 or greater.")] = 0,
    train_images: TrainImages = None,
    test_images: TestImages = None,
    precision: Precision = None,
    step: Annotated[str, typer.Option(metavar="auto|eager|graph", help="Same as for 'gradlab run'.")] = "auto",
    set_: Assignments = [],  # noqa: B006
) -> None:
    """Estimate how long studies take, and show which fit a budget.

    Times a few training iterations, noise draws and coded images of each model. Models that several studies use count
    once. Selects studies in the given order; 'gradlab run --plan FILE' runs the selection within the budget.
    """
    _require_posix("plan")
    require_studies("gradlab plan")
    from gradlab.runtime import files
    from gradlab.study import Request, catalog, planning
    from gradlab.study.request import default_device
    from gradlab.training import RunOptions

    if out is not None:
        files.ensure_folder(out.parent)  # before minutes of timing
    request = Request(
        profile=profile,
        seed=seed,
        train_images=train_images,
        test_images=test_images,
        precision=precision,
        assignments=tuple(set_),
    )
    catalog.load(studies, request)  # a misspelt name is reported before a missing device
    options = RunOptions(device=device or default_device(profile), step=step)  # type: ignore[arg-type]
    request = replace(request, options=options)
    made = planning.plan(studies, request, budget, resume, say=lambda line: typer.echo(line, err=True))
    planning.show(_console(), made)
    if out is not None:
        planning.write(made, out)
        if made.studies:
            images = {"--train-images": train_images, "--test-images": test_images, "--out": resume}
            words = [word for name, value in images.items() if value is not None for word in (name, str(value))]
            words += ["--resume"] if resume else ["--out", "DIR"] if set_ else []
            typer.echo(f"run the studies that fit: {shlex.join(['gradlab', 'run', '--plan', str(out), *words])}")


@app.command()
def run(
    studies: Annotated[
        list[str] | None,
        typer.Argument(metavar="[STUDY]...", help="Study names (see 'gradlab list').", show_default=False),
    ] = None,
    *,
    plan: Annotated[
        Path | None,
        typer.Option(
            metavar="FILE", help="Run the studies that 'gradlab plan' selected, instead of STUDY.", show_default="none"
        ),
    ] = None,
    profile: Annotated[
        str | None,
        typer.Option(
            metavar="quick|stay|gpu|paper",
            help="quick: minutes on a CPU; stay: ten minutes on an accelerator; gpu: hours on an accelerator; "
            "paper: the settings of the paper.",
            show_default="quick",
        ),
    ] = None,
    out: Annotated[
        Path | None, typer.Option(metavar="DIR", help="Output folder.", show_default="figures/<profile>")
    ] = None,
    device: Device = None,
    seed: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Random seed, 0 or greater; the same seed gives the same numbers.", show_default="0"
        ),
    ] = None,
    resume: Annotated[
        bool, typer.Option("--resume", help="Skip finished studies and continue training from the last checkpoint.")
    ] = False,
    train_images: TrainImages = None,
    test_images: TestImages = None,
    time_limit: Annotated[
        float | None,
        typer.Option(
            metavar="MINUTES",
            help="Stop after this time and keep finished work.",
            show_default="none, or the plan's budget",
        ),
    ] = None,
    precision: Precision = None,
    step: Annotated[
        str | None,
        typer.Option(
            metavar="auto|eager|graph",
            help="How to run a training step; auto uses a CUDA graph if it can be captured.",
            show_default="auto",
        ),
    ] = None,
    set_: Assignments = [],  # noqa: B006
    commit: Annotated[
        str | None,
        typer.Option(metavar="SHA", help="Commit to record in the provenance if the code is not a git checkout."),
    ] = None,
    tensorboard: Annotated[
        bool, typer.Option("--tensorboard", help="Also write TensorBoard events during training.")
    ] = False,
    deterministic: Annotated[
        bool,
        typer.Option(
            "--deterministic", help="Use one thread and deterministic operations, for bitwise reproducible results."
        ),
    ] = False,
    jobs: Annotated[
        int | None,
        typer.Option(
            metavar="N", help="Number of models to train in parallel.", show_default="1; on Ray, as many as fit"
        ),
    ] = None,
    engine: Annotated[
        str, typer.Option(metavar="local|ray", help="Where to train models: on this machine or on a Ray cluster.")
    ] = "local",
    address: Annotated[
        str | None,
        typer.Option(
            metavar="A", help="Address of the Ray cluster, e.g. auto.", show_default="start one on this machine"
        ),
    ] = None,
    cpus: Annotated[
        float | None, typer.Option(metavar="N", help="CPU cores per model (Ray only).", show_default="1")
    ] = None,
    gpus: Annotated[
        float | None,
        typer.Option(
            metavar="X",
            help="Accelerators per model, fractions allowed (Ray only).",
            show_default="1 on CUDA, otherwise 0",
        ),
    ] = None,
) -> None:
    """Run studies and write their tables and figures."""
    _require_posix("run")
    require_studies("gradlab run")
    from gradlab.runtime import distributed
    from gradlab.study import Request, catalog, runner
    from gradlab.study.request import default_device
    from gradlab.training import RunOptions
    from gradlab.training.engines import Engine

    accept = None
    if plan is not None:
        from gradlab.study import planning

        if studies:
            raise GradlabError(f"studies are given both by name and by {plan}: give only one of the two")
        made = planning.read(plan)
        options = dict(
            profile=profile, seed=seed, device=device, precision=precision, step=step, assignments=tuple(set_) or None
        )
        planning.check_options(made, plan, options)
        accept = functools.partial(planning.check_images, made, plan)
        studies, profile, seed, device = list(made.studies), made.profile, made.seed, made.device
        precision, step, set_ = made.precision, made.step, list(made.assignments)
        time_limit = made.budget_min if time_limit is None else time_limit
    studies, profile = studies or [], profile or "quick"
    with distributed.initialized(device or default_device(profile)) as group:
        request = Request(
            profile=profile,
            seed=seed or 0,
            train_images=train_images,
            test_images=test_images,
            time_limit=time_limit,
            precision=precision,
            deterministic=deterministic,
            assignments=tuple(set_),
            commit=commit,
        )
        catalog.load(studies, request)  # a misspelt name is reported before a missing device
        place = {"name": engine, "jobs": jobs, "address": address, "cpus": cpus, "gpus": gpus}
        request = replace(
            request,
            options=RunOptions(
                device=group.device or device or default_device(profile),
                resume=resume,
                step=step or "auto",  # type: ignore[arg-type]
                tensorboard=tensorboard,
            ),
            engine=Engine(**{name: value for name, value in place.items() if value is not None}),  # type: ignore[arg-type]
        )
        code = runner.run(studies, request, out, console=_console(quiet=not group.is_main), accept=accept)
    raise typer.Exit(code)


@app.command()
def report(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of 'gradlab run'.")],
) -> None:
    """Collect all results of a run in one HTML page."""
    from gradlab.study.report import build

    typer.echo(f"wrote {build(folder)}")


@app.command()
def check(
    target: Annotated[
        str, typer.Argument(metavar="MODULE:ESTIMATOR", help="Your estimator, e.g. my_module:my_estimator.")
    ],
    posterior: Annotated[
        str, typer.Option("--on", metavar="box|normal|both", help="Posterior to check it on.")
    ] = "box",
    k: Annotated[list[int], typer.Option("--k", metavar="N", help="Samples per draw; repeatable.")] = [1, 8],  # noqa: B006
    draws: Annotated[int, typer.Option(metavar="N", help="Number of independent draws.")] = 100_000,
    seed: Annotated[int, typer.Option(metavar="N", help="Random seed of the noise.")] = 0,
) -> None:
    """Check your own gradient estimator against exact answers.

    The estimator is a function (log_weight, samples, noise) -> estimates that returns one estimate per draw; see
    gradlab.testing. The box is U(-0.2, 0.8); the Normal has the same mean (0.3) and variance (1/12). Exits with code 1
    if the estimator is biased.
    """
    from gradlab import problems, testing
    from gradlab.study.console import show_checks

    if posterior not in ("box", "normal", "both"):
        raise unknown("posterior", posterior, ("box", "normal", "both"))
    estimator = _load(target)
    toys: list[problems.Problem] = []
    if posterior != "normal":
        toys.append(problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5))
    if posterior != "box":
        toys.append(problems.NormalGaussian(mean=0.3, std=12**-0.5, x=1.0, likelihood_std=0.5))
    checks = [testing.check(estimator, toy, size, draws, seed) for toy in toys for size in k]
    rows = []
    for c in checks:
        biased = f"biased, like {', '.join(c.like)}" if c.like else "biased"
        rows.append((c.problem, c.k, c.exact, c.mean, c.se, c.z, "unbiased" if c.passed else biased))
    show_checks(_console(), rows)
    raise typer.Exit(0 if all(c.passed for c in checks) else 1)


@app.command()
def status(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of 'gradlab run'.")],
) -> None:
    """Show finished, running and failed work, and the time left."""
    from gradlab.study.status import show, survey

    show(_console(), survey(folder))


@app.command()
def claims(
    folder: Annotated[
        Path, typer.Argument(metavar="[DIR]", help="Output folder of 'gradlab run'.", show_default="figures/quick")
    ] = Path("figures/quick"),
) -> None:
    """List the paper's claims, each with a verdict."""
    from gradlab.study.claims import ledger
    from gradlab.study.console import show_ledger

    show_ledger(_console(), ledger(folder))


@app.command()
def pack(
    out: Annotated[Path, typer.Argument(metavar="DIR", help="Output folder of 'gradlab run'.")],
    target: Annotated[Path, typer.Argument(metavar="DST", help="A new folder, or one with an earlier pack.")],
    *,
    every: Annotated[
        float | None,
        typer.Option(metavar="SECONDS", help="Repack at this interval while studies run.", show_default="pack once"),
    ] = None,
    files: Annotated[
        int | None,
        typer.Option(metavar="N", help="Maximum number of files, including results.zip.", show_default="unlimited"),
    ] = None,
    limit: Annotated[float, typer.Option(metavar="MB", help="Maximum size of a file, in units of 2^20 bytes.")] = 15.0,
    total: Annotated[
        float | None, typer.Option(metavar="MB", help="Maximum size of all files together.", show_default="unlimited")
    ] = None,
    snapshots: Annotated[
        list[int],
        typer.Option("--snapshot", metavar="N", help="Also pack the weights after N iterations; repeatable."),
    ] = [],  # noqa: B006
    optimizer: Annotated[
        bool,
        typer.Option(
            "--optimizer", help="Also pack the optimizer state of unfinished runs, so that they continue exactly."
        ),
    ] = False,
    skip: Annotated[
        int,
        typer.Option(metavar="N", help="Skip the N most valuable sets of weights, e.g. those of an earlier pack."),
    ] = 0,
) -> None:
    """Pack results and trained weights into a few small files.

    results.zip holds tables, figures, logs and weights.csv, which lists the packed weights with their SHA-256. Weights
    are packed in order of value: finished models first, then unfinished models, then snapshots. Weights that do not fit
    are reported. Existing files are replaced atomically.

    With --every, packing ends on SIGTERM, SIGUSR1 or Ctrl-C, or once no process has worked in DIR for a minute (five
    minutes while DIR is empty). It packs a last time before it exits.
    """
    _require_posix("pack")
    from gradlab.study.console import show_packed
    from gradlab.training.packing import PackOptions, pack_every
    from gradlab.training.packing import pack as pack_

    options = PackOptions(limit, files, total, snapshots=tuple(snapshots), optimizer=optimizer, skip=skip)
    made = pack_(out, target, options) if every is None else pack_every(out, target, every, options, typer.echo)
    if made is None:
        typer.echo(f"{out} is empty: nothing was packed")
        return
    lines = [f"left out: {', '.join(names)}" for names in (made.left_out, made.notes) if names]
    contents = f"{len(made.sets)} sets of weights and the results are in {target}"
    show_packed(_console(), made.sets, [*lines, f"{contents}: {made.files} files, {made.megabytes:.1f} MB"])


@app.command()
def unpack(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Folder with all or some of the files that 'gradlab pack' wrote.")
    ],
    out: Annotated[
        Path, typer.Argument(metavar="DIR", help="Output folder to continue with 'gradlab run --out DIR --resume'.")
    ],
) -> None:
    """Unpack results and weights so that a run can continue.

    Keeps finished work in DIR, and replaces unfinished work with packed work that is further along. To continue, use
    the same profile and images: gradlab run STUDY --out DIR --resume. Unfinished runs that were packed without
    --optimizer restart with a new optimizer; their provenance records this.
    """
    _require_posix("unpack")
    from gradlab.study.console import show_packed
    from gradlab.training.packing import unpack as unpack_

    done = unpack_(source, out)
    lines = [f"kept unchanged in {out}: {', '.join(done.stayed)}"] if done.stayed else []
    lines += [f"incomplete because files are missing: {', '.join(done.incomplete)}"] if done.incomplete else []
    summary = f"unpacked into {out}: {len(done.sets)} sets of weights, {done.files} other files"
    show_packed(_console(), done.sets, [*lines, summary])


def _load(target: str) -> Callable[..., Any]:
    """Import the estimator ``module:name``; the working directory is on the search path.

    Raises:
        GradlabError: the target has another form, the module does not exist or fails to import, or it has no such
            function.
    """
    module_name, colon, name = target.partition(":")
    if not (colon and module_name and name.isidentifier()) or "/" in module_name or module_name.endswith(".py"):
        raise GradlabError(
            f"{target!r} is not of the form module:name: give it as Python imports it, e.g. my_module:my_estimator"
        )
    if "" not in sys.path:
        sys.path.insert(0, "")
    try:
        module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:  # whatever the user's module does at import
        raise GradlabError(f"{module_name} fails to import ({type(error).__name__}: {error}): fix it") from error
    estimator = getattr(module, name, None)
    if not callable(estimator) or isinstance(estimator, type):
        functions = [n for n, v in vars(module).items() if callable(v) and not isinstance(v, type)]
        raise unknown(f"estimator of {module_name}:", name, [n for n in functions if not n.startswith("_")])
    return estimator


data_app = typer.Typer(help="Prepare training images.", no_args_is_help=True, rich_markup_mode=None)
app.add_typer(data_app, name="data")


@data_app.command()
def prepare(
    source: Annotated[
        Path, typer.Argument(metavar="SRC", help="Folder of photographs; its subfolders are searched too.")
    ],
    target: Annotated[Path, typer.Argument(metavar="DST", help="Folder for the training images, outside SRC.")],
    count: Annotated[int, typer.Option(metavar="N", help="Number of images; the largest are used.")] = 8000,
    seed: Annotated[
        int, typer.Option(metavar="N", help="Random seed of sizes and noise; the same seed gives the same pixels.")
    ] = 0,
    workers: Annotated[
        int | None, typer.Option(metavar="N", help="Number of processes.", show_default="one per core")
    ] = None,
) -> None:
    """Downscale large photographs and add noise (Balle et al. 2018).

    Uses the largest photographs in SRC. Finished images are kept after an interruption; run the command again to
    continue. Then train with: gradlab run STUDY --train-images DST
    """
    from gradlab.data.prepare import images_in, prepare
    from gradlab.runtime.progress import Progress
    from gradlab.study.console import print_line, show_table

    console = _console()
    try:
        available, progress = images_in(source), Progress(console)
        sizes, pixels = progress.track("reading sizes", available), progress.track("preparing", min(count, available))
        with sizes as read, pixels as advance:
            done = prepare(source, target, count, seed, workers, advance, read=read)
    except KeyboardInterrupt:
        typer.echo("interrupted; finished images are kept: run the same command again to continue", err=True)
        raise typer.Exit(130) from None
    images, skipped = len(done.manifest), len(done.skipped)
    if skipped:
        show_table(console, done.skipped, target / "skipped.csv")
    line = f"{images} images are in {target}, {done.done_before} of them from an earlier run; {skipped} were skipped"
    line += f"; {count} were requested, but SRC has no more" if images < count else ""
    print_line(console, line)
    hint = f"train on them with: gradlab run STUDY --train-images {target}"
    print_line(console, hint if images else "there are no images to train on")


if __name__ == "__main__":
    sys.exit(main())
