"""How far one thread and two come apart: training, evaluation of the same weights, a toy problem.

    python benchmarks/threads.py --iterations 200

Prints the largest relative difference up to an iteration. Sums over threads are added in another order; training
amplifies the difference of the last digit, evaluation and toy problems do not.
"""

from __future__ import annotations

import argparse
import tempfile
from dataclasses import replace
from pathlib import Path

import torch

from gradlab import compare, data, evaluation, problems, results, training

COLUMNS = ["loss", "bpp", "mse", "gradient_norm"]


def main() -> None:
    """Trains and evaluates with either number of threads, and prints what differs."""
    parser = argparse.ArgumentParser(description="Compare one thread with two.")
    parser.add_argument("--iterations", type=int, default=200)
    steps = parser.parse_args().iterations
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
            run = training.train(settings, pictures, Path(folder) / str(threads), log_every=1)
            logs.append(results.read_csv(run.folder / "log.csv")[COLUMNS])
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
