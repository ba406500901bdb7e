"""Do statistics survive a very long run? Memory and precision at each decade of draws, against exact moments.

Three runs, each of which goes on where it stopped (``--resume``) to the same numbers:

- ``recorder``: gradients go through ``GradientRecorder`` (its hooks, ``step`` and standard errors) one draw at a time.
  They are whole numbers about a large mean, so that Python's integers know the sample moments exactly, to the last
  digit; what differs is the rounding of the recorder's float64.
- ``moments``: the same oracle through ``gradlab.snr.moments.HigherMoments``, in chunks.
- ``toy``: the pathwise gradient of ``BoxGaussian`` at k = 2, in chunks, exactly as ``gradlab.compare`` computes it. Its
  moments come from ``exact_moments``: the distance in standard errors must stay that of chance at every size.

A gradient is ``offset + u``, u whole and uniform from 0 to 2^10 - 1. At an offset of 2^30 the mean is 3.6e6 standard
deviations: there ``E[g^2] - E[g]^2`` in float64 keeps three digits at best, even of sums without any rounding
(``naive_variance_error`` stands beside).

    python tests/trials/long_runs.py --recorder-draws 1e7 --moment-draws 1e9 --toy-draws 1e9 --resume
"""

from __future__ import annotations

import argparse
import io
import os
import resource
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from fractions import Fraction
from pathlib import Path
from typing import Any

import pandas as pd
import torch

from gradlab import GradientRecorder, problems
from gradlab.estimators import ESTIMATORS
from gradlab.noise import stream
from gradlab.problems.comparison import gradients
from gradlab.runtime import checkpoints, files, provenance
from gradlab.snr.moments import HigherMoments
from gradlab.study.catalog import natural

OFFSET, SPAN, PARAMETERS, CHUNK = 2**30, 2**10, 8, 2**18
NAME = "long_runs"


@dataclass(frozen=True)
class Settings:
    """How many draws of each run, the seed, and what the draws are."""

    recorder_draws: int
    moment_draws: int
    toy_draws: int
    seed: int = 0
    offset: int = OFFSET
    span: int = SPAN
    parameters: int = PARAMETERS


@dataclass
class Exact:
    """Sums of whole numbers u and u^2, as Python's integers: no rounding at any length."""

    count: int = 0
    total: int = 0
    squares: int = 0

    def add(self, u: torch.Tensor) -> None:
        """Take in int64 draws, few enough that their squares add up below 2^63."""
        self.count += u.numel()
        self.total += int(u.sum())
        self.squares += int((u * u).sum())

    @property
    def mean(self) -> Fraction:
        """Of offset + u."""
        return OFFSET + Fraction(self.total, self.count)

    @property
    def variance(self) -> Fraction:
        """With count - 1."""
        return (self.squares - Fraction(self.total**2, self.count)) / (self.count - 1)


def marks(last: int) -> list[int]:
    """1, 2 and 5 times each power of ten from 100 to ``last``, and ``last``."""
    steps = [m * 10**p for p in range(2, 19) for m in (1, 2, 5)]
    return [s for s in steps if s < last] + [last]


def memory() -> dict[str, float]:
    """Resident memory of this process now, and at most so far, MiB."""
    scale = 1 << (20 if sys.platform == "darwin" else 10)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / scale
    try:
        now = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE") / 2**20
    except OSError:
        now = peak
    return {"resident_mib": round(now, 1), "peak_mib": round(peak, 1)}


def relative(found: float, exact: Fraction) -> float:
    """|found - exact| / |exact|, the difference taken exactly."""
    return float(abs(Fraction(found) - exact) / abs(exact))


def naive(exact: Exact) -> float:
    """Relative error of E[g^2] - E[g]^2 where both are float64 (of exact sums: a lower bound of what it loses)."""
    n, mean = exact.count, exact.mean
    second = (exact.squares + 2 * OFFSET * exact.total) / Fraction(n) + OFFSET**2
    return relative((float(second) - float(mean) ** 2) * n / (n - 1), exact.variance)


def recorder_run(draws: int, seed: int, state: Path, resume: bool) -> Iterator[dict[str, Any]]:
    """Draws one at a time through the recorder; the sample moments of one parameter are known exactly."""
    one, rest = (torch.nn.Parameter(torch.zeros(n, dtype=torch.float64)) for n in (1, PARAMETERS - 1))
    recorder = GradientRecorder({"one": [one], "rest": [rest]})
    exact, start, spent = Exact(), 0, 0.0
    if resume and state.exists():
        # Nothing in the file is executed: tensors, numbers and lists of them alone.
        kept = torch.load(io.BytesIO(state.read_bytes()), weights_only=True)
        recorder.load_state_dict(kept["recorder"])
        exact, start, spent = Exact(*(int(v) for v in kept["exact"])), kept["done"], kept["seconds"]
    begin = time.monotonic() - spent
    block = 100  # divides every mark
    with recorder:
        for mark in (m for m in marks(draws) if m > start):
            for index in range(start // block, mark // block):
                u = torch.randint(SPAN, (block, PARAMETERS), generator=stream(seed, "long/recorder", index))
                exact.add(u[:, 0])
                for gradient in (u + OFFSET).double().unbind():
                    torch.autograd.backward((one, rest), (gradient[:1], gradient[1:]))
                    recorder.step()
            start = mark
            content = io.BytesIO()
            numbers = [str(exact.count), str(exact.total), str(exact.squares)]
            seconds = time.monotonic() - begin
            torch.save({"recorder": recorder.state_dict(), "exact": numbers, "done": mark, "seconds": seconds}, content)
            row = recorder.summary().iloc[0]
            yield {
                "run": "recorder",
                "draws": mark,
                "seconds": seconds,
                "mean_error": relative(row["mean_norm"], exact.mean),
                "variance_error": relative(row["variance_trace"], exact.variance),
                "naive_variance_error": naive(exact),
                "snr": row["snr"],
                "snr_se": row["snr_se"],
                "state_bytes": len(content.getvalue()),
            }
            files.write_bytes(state, content.getvalue())  # when the row is on disk: a killed run measures it again


def chunked(
    name: str,
    draws: int,
    state: Path,
    resume: bool,
    chunk: Callable[[int, int], torch.Tensor],
    judge: Callable[[HigherMoments], dict[str, float]],
) -> Iterator[dict[str, Any]]:
    """``HigherMoments`` of chunks, whose state is a checkpoint of ``gradlab.runtime.checkpoints``."""
    found, exact, start, index, spent = HigherMoments.init(), Exact(), 0, 0, 0.0
    key = f"{name}-{CHUNK}"
    if resume and state.exists():
        stored = checkpoints.load(state, key)
        found = HigherMoments(stored.iteration, *(stored.tensors[f] for f in HigherMoments._fields[1:]))
        exact, index = Exact(*(int(v) for v in stored.extra["exact"])), stored.extra["index"]
        start, spent = stored.iteration, stored.extra["seconds"]
    begin = time.monotonic() - spent
    for mark in (m for m in marks(draws) if m > start):
        while start < mark:
            size = min(CHUNK, mark - start)
            values = chunk(index, size)
            if not values.is_floating_point():
                exact.add(values)
                values = (values + OFFSET).double()
            found = found.update(values)
            start, index = start + size, index + 1
        seconds = time.monotonic() - begin
        tensors = {f: getattr(found, f) for f in HigherMoments._fields[1:]}
        extra = {"exact": [str(v) for v in (exact.count, exact.total, exact.squares)], "index": index}
        row: dict[str, Any] = {"run": name, "draws": mark, "seconds": seconds}
        if exact.count:
            row |= {
                "mean_error": relative(float(found.mean), exact.mean),
                "variance_error": relative(float(found.variance()), exact.variance),
                "naive_variance_error": naive(exact),
            }
        yield row | judge(found)
        checkpoints.save(state, tensors, key, mark, extra | {"seconds": seconds})


def runs(settings: Settings, out: Path, resume: bool) -> Iterator[dict[str, Any]]:
    """Every row, in the order in which it becomes known."""
    seed, kept = settings.seed, out / "runs"
    toy = problems.BoxGaussian(phi=0.3, x=1.0, likelihood_std=0.5)
    pathwise = ESTIMATORS["pathwise"]
    mean, variance = toy.exact_moments("pathwise", 2)

    def gradient(index: int, size: int) -> torch.Tensor:
        noise = toy.draw_noise(size, 2, stream(seed, "long/toy", index), torch.float64)
        return gradients(toy, pathwise, noise, "iwae")

    def whole(index: int, size: int) -> torch.Tensor:
        return torch.randint(SPAN, (size,), generator=stream(seed, "long/moments", index))

    def z_scores(found: HigherMoments) -> dict[str, float]:
        return {
            "mean_error": abs(float(found.mean) / mean - 1),
            "variance_error": abs(float(found.variance()) / variance - 1),
            "z_mean": (float(found.mean) - mean) / float(found.mean_se()),
            "z_variance": (float(found.variance()) - variance) / float(found.variance_se()),
        }

    yield from chunked("toy", settings.toy_draws, kept / f"toy-{seed}.safetensors", resume, gradient, z_scores)
    yield from chunked(
        "moments", settings.moment_draws, kept / f"moments-{seed}.safetensors", resume, whole, lambda _: {}
    )
    yield from recorder_run(settings.recorder_draws, seed, kept / f"recorder-{seed}.pt", resume)


def draw(folder: Path) -> None:
    """The picture, from the CSV alone: memory above, errors below."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    from gradlab.study import plotstyle

    table = files.read_csv(folder / f"{NAME}.csv")
    figure, (top, bottom) = plt.subplots(2, 1, figsize=(6.4, 6.4), sharex=True, layout="constrained")
    colours = {"toy": "C0", "moments": "C1", "recorder": "C2"}
    for name in sorted(set(table["run"]), key=natural):
        rows = table[table["run"] == name]
        top.plot(rows["draws"], rows["resident_mib"], "o-", ms=3, color=colours[name], label=name)
        shown = rows["variance_error"].where(rows["variance_error"] > 0)
        label = f"{name}: error of the variance" + (" (chance: 1/sqrt(draws))" if name == "toy" else " (rounding)")
        bottom.plot(rows["draws"], shown, "o-", ms=3, color=colours[name], label=label)
    lost = table[table["run"] == "moments"]
    bottom.plot(lost["draws"], lost["naive_variance_error"], "k--", lw=1, label=r"$E[g^2] - E[g]^2$ in float64")
    top.set(ylabel="resident memory (MiB)", ylim=(0, None))
    bottom.set(xscale="log", yscale="log", ylim=(1e-21, 1), xlabel="draws", ylabel="relative error")
    top.legend(fontsize=8)
    bottom.legend(fontsize=7, loc="lower right")
    files.write_bytes(folder / f"{NAME}.png", plotstyle.png(figure, dpi=200))
    vector = io.BytesIO()
    figure.savefig(vector, format="pdf", dpi=200)
    files.write_bytes(folder / f"{NAME}.pdf", vector.getvalue())
    plt.close(figure)


def main(arguments: list[str] | None = None) -> int:
    """Run, write ``long_runs.csv`` after every mark, then the picture and the provenance."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    for name, default in (("recorder", 1e6), ("moment", 1e8), ("toy", 1e8)):
        parser.add_argument(f"--{name}-draws", type=float, default=default, help=f"default {default:g}")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--out", type=Path, default=Path("figures/reliability"))
    parser.add_argument("--resume", action="store_true", help="go on where the last run stopped")
    given = parser.parse_args(arguments)
    settings = Settings(int(given.recorder_draws), int(given.moment_draws), int(given.toy_draws), given.seed)
    if any(n < 100 or n % 100 for n in (settings.recorder_draws, settings.moment_draws, settings.toy_draws)):
        parser.error("give draws in hundreds, at least 100")
    out = files.ensure_folder(given.out)
    files.ensure_folder(out / "runs")
    record = provenance.provenance(settings, settings.seed, "cpu", {}, 0.0, {})
    path, begin = out / f"{NAME}.csv", time.monotonic()
    before = files.read_csv(path).to_dict("records") if given.resume and path.exists() else []
    rows: list[dict[str, Any]] = [row for row in before if row["seed"] == settings.seed]
    for row in runs(settings, out, given.resume):
        rows = [r for r in rows if (r["run"], r["draws"]) != (row["run"], row["draws"])]
        rows.append({"seed": settings.seed} | row | memory())
        files.write_csv(path, pd.DataFrame(rows))
        print(
            f"{row['run']:>9} {row['draws']:>13,} draws  {row['seconds']:8.0f} s  {rows[-1]['resident_mib']:7.1f} MiB"
        )
    draw(out)
    record["wall_s"] = round(time.monotonic() - begin, 3)
    files.write_json(out / f"{NAME}.provenance.json", record)
    print(f"wrote {path}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
