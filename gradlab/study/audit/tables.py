"""Check table entries that follow from others of the same row, the previous row, or another table."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

import pandas as pd

from gradlab.evaluation.metrics import psnr
from gradlab.study import paper
from gradlab.study.audit.checks import NO, YES, Check, Rounded, at_least, at_most, equal, read

LAMBDA = 0.015
"""Lambda of Tables 1, 2, 6, 7 and 10, and of the rows of Table 8 that repeat them."""

COST = "R-D cost = bpp + lambda * MSE"
PSNR = "PSNR is at least that of the mean MSE"
SAME = "the same model has the same numbers in every table"
BITS = "the rates of y and z in Table 6 sum to the rate of the model"
OTHER = "the baseline of Table 9 is another model than that of Table 8"
ORDER = "rate and quality grow with lambda"
CHEAPEST = "the model trained for a lambda has the lowest cost at that lambda"
SAMPLES = "the R-D cost does not grow with the sample size"
ONE_LAMBDA = "one lambda gives both R-D costs of Table 11"

SWEEPS = (8, 9)


def rows(n: int) -> list[dict[str, str]]:
    """Return the rows of a table with every cell as printed."""
    return paper.printed(n).to_dict("records")


def row(n: int, **where: str) -> dict[str, Rounded]:
    """Return the numbers of the only row that matches."""
    matches = [r for r in rows(n) if where.items() <= r.items()]
    if len(matches) != 1:
        raise LookupError(f"table {n} has {len(matches)} rows with {where}")
    return {name: read(text) for name, text in matches[0].items() if name not in paper.KEYS}


def label(cells: dict[str, str]) -> str:
    """Return a label of a row: ``"IWAE, lambda 0.03"``, ``"MS-NIC-DMS, samples 16, 16"``."""
    extra = ""
    if cells.get("lambda"):
        extra = f", lambda {cells['lambda']}"
    if cells.get("sample_size", "-") != "-":
        extra = f", samples {cells['sample_size']}"
    return cells["method"] + extra


def costs() -> Iterator[Check]:
    """Check R-D costs against rate and MSE; averaging over images preserves the relation."""
    for n in (1, 2, 7):
        for cells in rows(n):
            bpp, mse, cost = (read(cells[name]) for name in ("bpp", "MSE", "R-D cost"))
            yield equal(COST, str(n), label(cells), "R-D cost", cost, bpp + LAMBDA * mse)
    implied = []
    for cells in rows(11):
        y, z, mse, cost = (read(cells[name]) for name in ("y bpp", "z bpp", "MSE", "RD Cost"))
        rate = y + z
        lam = (cost.value - rate.value) / mse.value
        implied.append(Rounded(lam, (cost.half + rate.half + lam * mse.half) / mse.value))
        note = f"the printed cost is that of lambda {lam:.5f}"
        yield equal(COST, "11", cells["method"], "RD Cost", cost, rate + LAMBDA * mse, note=note)
    rounding, uq = implied
    note = "implied by each row: (RD Cost - y bpp - z bpp) / MSE"
    yield equal(ONE_LAMBDA, "11", "Universal Quantization", "lambda", uq, rounding, note=note)


def qualities() -> Iterator[Check]:
    """Check that PSNRs are at least the PSNR of the mean MSE, as Jensen's inequality requires."""
    for n in (1, 2, 7, *SWEEPS):
        for cells in rows(n):
            mse, printed = read(cells["MSE"]), read(cells["PSNR"])
            of_mean = psnr(mse.value)
            bound = Rounded(of_mean, psnr(mse.low) - of_mean)
            note = f"{printed.value - of_mean:+.2f} dB over the PSNR of the mean MSE"
            yield at_least(PSNR, str(n), label(cells), "PSNR", printed, bound, note=note)


def agreement() -> Iterator[Check]:
    """Check that one model has the same numbers in two tables, and that two different models do not."""
    base = {"method": "Baseline"}
    pairs = [
        (2, {"method": "Balle et al. 2018"}, 1, base),
        (7, base, 1, base),
        (8, base | {"lambda": "0.015"}, 1, base),
        (7, {"method": "MS-NIC-MIX", "sample_size": "5"}, 1, {"method": "MS-NIC-MIX (pathwise gradient)"}),
        (8, {"method": "IWAE", "lambda": "0.015"}, 7, {"method": "IWAE", "sample_size": "5"}),
        (8, {"method": "MS-NIC-MIX", "lambda": "0.015"}, 7, {"method": "MS-NIC-MIX", "sample_size": "8"}),
        (8, {"method": "MS-NIC-DMS", "lambda": "0.015"}, 7, {"method": "MS-NIC-DMS", "sample_size": "16, 16"}),
    ]
    for n, where, other, other_where in pairs:
        a, b = row(n, **where), row(other, **other_where)
        note = f"Table {other}: {', '.join(other_where.values())}"
        for metric in ("bpp", "MSE", "PSNR", "R-D cost"):
            if metric in a and metric in b:
                yield equal(SAME, str(n), ", ".join(where.values()), metric, a[metric], b[metric], note=note)
    models = {"Balle et al. 2018": ("Baseline", "-"), "MS-NIC-MIX": ("MS-NIC-MIX", "8"),
              "MS-NIC-DMS": ("MS-NIC-DMS", "16, 16")}  # fmt: skip
    for name, (method, size) in models.items():
        six = row(6, method=name)
        total = six["bpp of y_bar"] + six["bpp of z_bar"]
        for n, where in ((7, {"method": method, "sample_size": size}), (8, {"method": method, "lambda": "0.015"})):
            yield equal(BITS, str(n), ", ".join(where.values()), "bpp", row(n, **where)["bpp"], total)
    eight, nine = ([r for r in rows(n) if r["method"] == "Baseline"] for n in SWEEPS)
    for of_nine, of_eight in zip(nine, eight, strict=True):
        rates = (float(of_nine["bpp"]), float(of_eight["bpp"]))
        holds, note = (NO, "all four numbers repeat Table 8's") if of_nine == of_eight else (YES, "")
        yield Check(OTHER, "9", label(of_nine), "bpp", "", *rates, 0.0, holds, note)


def order() -> Iterator[Check]:
    """Check that Tables 8 and 9 are ordered over lambda, and that each model is the best at its own lambda."""
    for n in SWEEPS:
        for method, group in paper.printed(n).groupby("method", sort=False):
            for metric, sign in (("bpp", 1), ("MSE", -1), ("PSNR", 1), ("MS-SSIM", 1)):
                yield _grows(n, str(method), group, metric, sign)
            records = group.to_dict("records")
            for cells in records:
                lam = float(cells["lambda"])
                costs = {r["lambda"]: read(r["bpp"]) + lam * read(r["MSE"]) for r in records}
                cheapest = min(costs, key=lambda key: costs[key].value)
                note = "" if cheapest == cells["lambda"] else f"the model of lambda {float(cheapest):g} is cheaper"
                cost = costs[cells["lambda"]]
                yield at_most(CHEAPEST, str(n), label(cells), "bpp + lambda * MSE", cost, costs[cheapest], note=note)


def _grows(n: int, method: str, group: pd.DataFrame, metric: str, sign: int) -> Check:
    """Check that a column is ordered; returns the first pair that is not, or the last pair."""
    grows = at_least if sign > 0 else at_most
    points = list(zip(group["lambda"], map(read, group[metric]), strict=True))
    for (lam, before), (next_lam, after) in itertools.pairwise(points):
        check = grows(ORDER, str(n), method, metric, after, before, strict=True, note=f"lambda {next_lam} after {lam}")
        if check.holds == NO:
            break
    return check


def samples() -> Iterator[Check]:
    """Check Table 7 over the sample size; the start is the baseline, and Table 2's 2-level VAE for IWAE."""
    baseline = row(7, method="Baseline")["R-D cost"]
    starts = {"IWAE": row(2, method="2-level VAE")["R-D cost"]}
    for method in ("Baseline-BigBatch", "IWAE", "MS-NIC-MIX", "MS-NIC-DMS"):
        before, size = starts.get(method, baseline), "1"
        for cells in [r for r in rows(7) if r["method"] == method]:
            cost = read(cells["R-D cost"])
            note = f"{cells['sample_size']} after {size}"
            yield at_most(SAMPLES, "7", label(cells), "R-D cost", cost, before, note=note)
            before, size = cost, cells["sample_size"]
