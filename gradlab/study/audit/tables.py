"""Numbers of the tables that follow from others of the same row, of the row before, or of another table."""

from __future__ import annotations

from typing import TYPE_CHECKING

from gradlab.evaluation.metrics import psnr
from gradlab.study import paper
from gradlab.study.audit.checks import NO, YES, Check, Printed, at_least, at_most, equal, read

if TYPE_CHECKING:
    import pandas as pd

LAMBDA = 0.015
"""Of Tables 1, 2, 6, 7 and 10: the lambda of the rows of Table 8 that repeat them."""

COST = "R-D cost = bpp + lambda * MSE"
PSNR = "PSNR is at least that of the mean MSE"
SAME = "the same model has the same numbers in every table"
BITS = "the rates of y and z in Table 6 sum to the rate of the model"
OTHER = "the baseline of Table 9 is another model than that of Table 8"
ORDER = "rate and quality grow with lambda"
CHEAPEST = "the model trained for a lambda has the lowest cost at that lambda"
SAMPLES = "the R-D cost does not grow with the sample size"
ONE_LAMBDA = "one lambda gives both R-D costs of Table 11"

BASELINES = ("Baseline", "Balle et al. 2018")
SWEEPS = (8, 9)


def rows(n: int) -> list[dict[str, str]]:
    """The rows of a table, every cell as printed."""
    return paper.printed(n).to_dict("records")


def row(n: int, **where: str) -> dict[str, Printed]:
    """The numbers of the one row that matches."""
    match = [r for r in rows(n) if all(r[key] == wanted for key, wanted in where.items())]
    if len(match) != 1:
        raise LookupError(f"table {n} has {len(match)} rows with {where}")
    return {name: read(text) for name, text in match[0].items() if name not in paper.KEYS}


def label(cells: dict[str, str]) -> str:
    """``"IWAE, lambda 0.03"``, ``"MS-NIC-DMS, samples 16, 16"``."""
    extra = ""
    if cells.get("lambda"):
        extra = f", lambda {cells['lambda']}"
    if cells.get("sample_size", "-") != "-":
        extra = f", samples {cells['sample_size']}"
    return cells["method"] + extra


def costs() -> list[Check]:
    """R-D costs from rate and MSE, which averaging over images leaves as it is."""
    found = []
    for n in (1, 2, 7):
        for cells in rows(n):
            bpp, mse, cost = (read(cells[name]) for name in ("bpp", "MSE", "R-D cost"))
            slack = bpp.half + LAMBDA * mse.half
            recomputed = bpp.value + LAMBDA * mse.value
            found.append(equal(COST, str(n), label(cells), "R-D cost", cost, recomputed, slack=slack))
    implied = []
    for cells in rows(11):
        y, z, mse, cost = (read(cells[name]) for name in ("y bpp", "z bpp", "MSE", "RD Cost"))
        rate = y.value + z.value
        lam = (cost.value - rate) / mse.value
        implied.append((lam, (cost.half + y.half + z.half + lam * mse.half) / mse.value))
        slack = y.half + z.half + LAMBDA * mse.half
        found.append(
            equal(COST, "11", cells["method"], "RD Cost", cost, rate + LAMBDA * mse.value, slack=slack,
                  note=f"the printed cost is that of lambda {lam:.5f}")
        )  # fmt: skip
    (first, slack_first), (second, slack_second) = implied
    fine = abs(first - second) <= slack_first + slack_second
    found.append(
        Check(ONE_LAMBDA, "11", "Universal Quantization", "lambda", second, first, slack_first + slack_second,
              YES if fine else NO, note="implied by each row: (RD Cost - y bpp - z bpp) / MSE")
    )  # fmt: skip
    return found


def qualities() -> list[Check]:
    """PSNR beside that of the mean MSE: by Jensen's inequality the mean of PSNRs is not below it."""
    found = []
    for n in (1, 2, 7, *SWEEPS):
        for cells in rows(n):
            mse, given = read(cells["MSE"]), read(cells["PSNR"])
            of_mean = psnr(mse.value)
            bound = Printed(of_mean, psnr(mse.low) - of_mean)
            gap = given.value - of_mean
            note = f"{gap:+.2f} dB over the PSNR of the mean MSE"
            found.append(at_least(PSNR, str(n), label(cells), "PSNR", given, bound, note=note))
    return found


def agreement() -> list[Check]:
    """The same model in two tables; and two models that should not be the same."""
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
    found = []
    for n, where, other, there in pairs:
        a, b = row(n, **where), row(other, **there)
        for metric in [name for name in ("bpp", "MSE", "PSNR", "R-D cost") if name in a and name in b]:
            note = f"Table {other}: {', '.join(there.values())}"
            found.append(
                equal(SAME, str(n), ", ".join(where.values()), metric, a[metric], b[metric].value, slack=b[metric].half,
                      note=note)
            )  # fmt: skip
    models = {"Balle et al. 2018": ("Baseline", "-"), "MS-NIC-MIX": ("MS-NIC-MIX", "8"),
              "MS-NIC-DMS": ("MS-NIC-DMS", "16, 16")}  # fmt: skip
    for name, (method, size) in models.items():
        six = row(6, method=name)
        parts = [six["bpp of y_bar"], six["bpp of z_bar"]]
        total = Printed(sum(p.value for p in parts), sum(p.half for p in parts))
        for n, where in ((7, {"method": method, "sample_size": size}), (8, {"method": method, "lambda": "0.015"})):
            whole = row(n, **where)["bpp"]
            found.append(equal(BITS, str(n), ", ".join(where.values()), "bpp", whole, total.value, slack=total.half))
    eight, nine = ([r for r in rows(n) if r["method"] == "Baseline"] for n in SWEEPS)
    for mine, theirs in zip(nine, eight, strict=True):
        rate, eights = read(mine["bpp"]).value, read(theirs["bpp"]).value
        holds, note = (NO, "all four numbers repeat Table 8's") if mine == theirs else (YES, "")
        found.append(Check(OTHER, "9", label(mine), "bpp", rate, eights, 0.0, holds, note=note))
    return found


def order() -> list[Check]:
    """Tables 8 and 9 over lambda: rates, errors and qualities in order, each model best at what it was trained for."""
    found = []
    for n in SWEEPS:
        table = paper.printed(n)
        for method, group in table.groupby("method", sort=False):
            for metric, sign in (("bpp", 1), ("MSE", -1), ("PSNR", 1), ("MS-SSIM", 1)):
                found.append(_grows(n, str(method), group, metric, sign))
            numbers = [{name: read(text) for name, text in r.items() if name != "method"}
                       for r in group.to_dict("records")]  # fmt: skip
            for own, cells in zip(numbers, group.to_dict("records"), strict=True):
                lam = own["lambda"].value
                cost, slack = zip(*((r["bpp"].value + lam * r["MSE"].value, r["bpp"].half + lam * r["MSE"].half)
                                    for r in numbers), strict=True)  # fmt: skip
                best = min(range(len(cost)), key=cost.__getitem__)
                mine = numbers.index(own)
                note = "" if best == mine else f"the model of lambda {numbers[best]['lambda'].value:g} is cheaper"
                found.append(
                    at_most(CHEAPEST, str(n), label(cells), "bpp + lambda * MSE", Printed(cost[mine], slack[mine]),
                            Printed(cost[best], slack[best]), note=note)
                )  # fmt: skip
    return found


def _grows(n: int, method: str, group: pd.DataFrame, metric: str, sign: int) -> Check:
    """One check of a column: the first pair out of order, or the last pair."""
    lams, values = list(group["lambda"]), [read(text) for text in group[metric]]
    check = at_least if sign > 0 else at_most
    for place in range(1, len(values)):
        before, after = values[place - 1], values[place]
        note = f"lambda {lams[place]} after {lams[place - 1]}"
        made = check(ORDER, str(n), method, metric, after, before, strict=True, note=note)
        if made.holds == NO:
            return made
    return made


def samples() -> list[Check]:
    """Table 7 over the sample size, starting where one sample is: the baseline, for IWAE Table 2's 2-level VAE."""
    table = paper.printed(7)
    one = row(7, method="Baseline")["R-D cost"]
    starts = {"IWAE": row(2, method="2-level VAE")["R-D cost"]}
    found = []
    for method in ("Baseline-BigBatch", "IWAE", "MS-NIC-MIX", "MS-NIC-DMS"):
        before, size = starts.get(method, one), "1"
        for cells in table[table["method"] == method].to_dict("records"):
            now = read(cells["R-D cost"])
            note = f"{cells['sample_size']} after {size}"
            found.append(at_most(SAMPLES, "7", label(cells), "R-D cost", now, before, note=note))
            before, size = now, cells["sample_size"]
    return found
