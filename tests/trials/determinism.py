"""How far one thread and two come apart, and whether every study writes the same bytes twice.

    python tests/trials/determinism.py --iterations 200     # training, evaluation of the same weights, a toy problem
    python tests/trials/determinism.py --studies            # every study at its smallest, twice with --deterministic

The first prints the largest relative difference up to an iteration: sums over threads are added in another order;
training amplifies the difference of the last digit, evaluation and toy problems do not. The second prints the tables
that differ, which should be those of measured seconds.
"""

from __future__ import annotations

import argparse
import importlib
import io
import tempfile
from dataclasses import replace
from pathlib import Path

import torch
from rich.console import Console

from gradlab import compare, data, evaluation, problems, training
from gradlab.runtime import files
from gradlab.study import Request, catalog, runner
from gradlab.training import RunOptions

COLUMNS = ["loss", "bpp", "mse", "gradient_norm"]


def main() -> None:
    """One of the two comparisons."""
    parser = argparse.ArgumentParser(description="Compare runs that should be the same, or nearly.")
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--studies", action="store_true", help="the studies twice, in place of the threads")
    asked = parser.parse_args()
    if asked.studies:
        twice()
    else:
        threads_apart(asked.iterations)


def twice() -> None:
    """Runs every study at its smallest twice, and prints which tables differ."""
    names = list(catalog.studies())
    for name in names:
        module = importlib.import_module(f"gradlab_studies.{name.replace('-', '_')}")
        module.PROFILES["quick"] = module.SMALLEST
    tables = []
    with tempfile.TemporaryDirectory() as folder:
        for out in (Path(folder) / "once", Path(folder) / "again"):
            runner.run(names, Request(deterministic=True), out, console=Console(file=io.StringIO()))
            tables.append({path.relative_to(out).as_posix(): path.read_bytes() for path in out.glob("*/*.csv")})
    once, again = tables
    apart = sorted(name for name in {*once, *again} if once.get(name) != again.get(name))
    print(f"{len(names)} studies, {len(once)} tables, {len(apart)} differ:", *apart)


def threads_apart(steps: int) -> None:
    """Trains and evaluates with one thread and with two, and prints what differs."""
    pictures = [p for p in data.embedded("train") if p.name in ("coffee.png", "rocket.jpg")]
    settings = training.TrainSettings(
        codec="small-hyperprior", channels=(16, 24), crop=64, batch=2, steps=steps, learning_rate=1e-3
    )
    toy = problems.BoxGaussian(phi=0.3, x=1.0)
    logs, qualities, toys = [], [], []
    with tempfile.TemporaryDirectory() as folder:
        codec = training.train(replace(settings, steps=10), pictures, Path(folder) / "weights").codec()
        for threads in (1, 2):
            torch.set_num_threads(threads)
            run = training.train(settings, pictures, Path(folder) / str(threads), RunOptions(log_every=1))
            logs.append(files.read_csv(run.folder / "log.csv")[COLUMNS])
            qualities.append(evaluation.rate_distortion(codec, pictures[:1], settings.lam).drop(columns="image"))
            found = compare(toy, ("pathwise", "dreg"), k=(1, 8), draws=20_000, allow_biased=True)
            toys.append(found[["mean", "variance", "exact_mean"]])
    apart = (logs[0] / logs[1] - 1).abs()
    for iterations in [n for n in (1, 2, 5, 10, 20, 50, 100, 200, 500, 1000) if n <= steps]:
        print(f"training, {iterations} iterations:", _told(apart.iloc[:iterations].max().to_dict()))
    print("evaluation:", _told((qualities[0] / qualities[1] - 1).abs().max().to_dict()))
    print("toy problem:", _told((toys[0] / toys[1] - 1).abs().max().to_dict()))


def _told(differences: dict[str, float]) -> str:
    return ", ".join(f"{name} {value:.1e}" for name, value in differences.items())


if __name__ == "__main__":
    main()
