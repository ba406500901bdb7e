"""What the text says in numbers, against the tables and against what it cites."""

from __future__ import annotations

import math

from gradlab.study import paper
from gradlab.study.audit.checks import Check, Printed, at_least, at_most, equal
from gradlab.study.audit.tables import row, rows

SAVES = "on Balle et al. 2018 MIX saves about 4 % and DMS about 5 % of the rate"
CHENG = "on Cheng et al. 2020 MIX and DMS win in PSNR, by less than on Balle et al. 2018, and lose in MS-SSIM"
BEST = "MIX works best with 8 samples and DMS with 16"
BATCH = "a batch 3 to 16 times as large lowers the R-D cost from 1.017 to 1.013 only"
DREG = "DReG has a higher R-D cost than the pathwise gradient and than the baseline"
DIRECT_Y = "without direct-y the R-D cost is higher, and the SNR of z infer lower at all three stages"
COV_Y = "Cov(y) of MS-NIC is about 4 to 5 times that of single-sample training"
COV_Z = "Cov(z) of MS-NIC is about 2 times lower than that of single-sample training"
VARIANCE = "the latents of MS-NIC have a higher variance"
UQ = "universal quantization lowers the MSE, raises the rate, and has the higher R-D cost"
RATES = "the gradient SNR of encoder and decoder scales with M/K, as Rainforth et al. 2018 state"
TIME = "the training time of MIX grows at one rate from 1 sample over 8 to 16"
SHAPES = "the shapes in the listing are those of the model of Balle et al. 2018"

STRIDES_OF_2 = {"y": 4, "z": 6}
"""Convolutions of stride 2 between image and latent in Balle et al. 2018: four in g_a, two more in h_a."""


def said() -> list[Check]:
    """All of them, in the order of the paper."""
    return [*effects(), *savings(), *latents(), *quantization(), *gradients()]


def effects() -> list[Check]:
    """Sections 2.2 and 2.3."""
    one = {r["method"]: row(1, method=r["method"])["R-D cost"] for r in rows(1)}
    dreg = one["MS-NIC-MIX (DReG gradient)"]
    found = [
        at_least(
            DREG, "1", "MS-NIC-MIX (DReG gradient)", "R-D cost", dreg, one[other], strict=True, note=f"against {other}"
        )
        for other in ("MS-NIC-MIX (pathwise gradient)", "Baseline")
    ]
    two = [row(2, method=name)["R-D cost"] for name in ("2-level VAE", "Balle et al. 2018")]
    found.append(at_least(DIRECT_Y, "2", "2-level VAE", "R-D cost", two[0], two[1], strict=True))
    for stage in ("early", "mid", "late"):
        snr = [row(3, iteration=stage, method=name)["z infer"] for name in ("2-level VAE", "Balle et al. 2018")]
        found.append(at_most(DIRECT_Y, "3", "2-level VAE", "z infer", snr[0], snr[1], strict=True, note=stage))
    return found


def savings() -> list[Check]:
    """Section 5.2 and Appendix A.4."""
    found = []
    four, five = ({r["method"]: row(n, method=r["method"]) for r in rows(n)} for n in (4, 5))
    for name, percent in (("MS-NIC-MIX", 4), ("MS-NIC-DMS", 5)):
        saved = -four[name]["PSNR BD-BR (%)"].value
        found.append(equal(SAVES, "section 5.2", name, "rate saved (%)", Printed(percent, 0.5), saved, slack=0.0))
    zero = Printed(0.0, 0.0)
    for name in ("MS-NIC-MIX", "MS-NIC-DMS"):
        won, lost = five[name]["PSNR BD-BR (%)"], five[name]["MS-SSIM BD-BR (%)"]
        found.append(at_most(CHENG, "5", name, "PSNR BD-BR (%)", won, zero, strict=True))
        found.append(
            at_least(CHENG, "5", name, "PSNR BD-BR (%)", won, four[name]["PSNR BD-BR (%)"], strict=True, note="Table 4")
        )
        found.append(at_least(CHENG, "5", name, "MS-SSIM BD-BR (%)", lost, zero, strict=True))
    seven = paper.table(7)
    for name, size in (("MS-NIC-MIX", 8), ("MS-NIC-DMS", 16)):
        mine = seven[seven["method"] == name]
        best = int(mine.loc[mine["R-D cost"].idxmin(), "sample_size"].split(",")[0])
        found.append(
            equal(BEST, "section 5.2", name, "sample size", Printed(size, 0.0), best, slack=0.0, note="Table 7")
        )
    lowest = seven[seven["method"] == "Baseline-BigBatch"]["R-D cost"].min()
    found.append(
        equal(BATCH, "A.4", "Baseline-BigBatch", "R-D cost", Printed(1.013, 0.0), lowest, slack=0.0, note="Table 7")
    )
    return found


def latents() -> list[Check]:
    """Section 5.3: latents in Table 10, rounded latents ("similar trend") in Table 6."""
    found = []
    for n, y, z in ((10, "y", "z"), (6, "y_bar", "z_bar")):
        base = row(n, method="Balle et al. 2018")
        for name in ("MS-NIC-MIX", "MS-NIC-DMS"):
            mine = row(n, method=name)
            times = mine[f"Cov({y})"].value / base[f"Cov({y})"].value
            lower = base[f"Cov({z})"].value / mine[f"Cov({z})"].value
            source = f"Table {n}"
            # "About": what rounds to a whole number of the range.
            found.append(
                equal(COV_Y, "section 5.3", name, f"Cov({y})", Printed(4.5, 1.0), times, slack=0.0, note=source)
            )
            found.append(
                equal(COV_Z, "section 5.3", name, f"Cov({z})", Printed(2.0, 0.5), lower, slack=0.0, note=source)
            )
            for latent in (y, z):
                column = f"Var({latent})"
                found.append(at_least(VARIANCE, str(n), name, column, mine[column], base[column], strict=True))
    return found


def quantization() -> list[Check]:
    """Appendix A.8.2."""
    rounding, uq = (row(11, method=r["method"]) for r in rows(11))
    name = "Universal Quantization"
    found = [at_most(UQ, "11", name, "MSE", uq["MSE"], rounding["MSE"], strict=True)]
    for column in ("y bpp", "z bpp", "RD Cost"):
        found.append(at_least(UQ, "11", name, column, uq[column], rounding[column], strict=True))
    return found


def gradients() -> list[Check]:
    """Appendix A.9 against what it cites, and the listing of A.5 against the model."""
    found = []
    # Rainforth et al. 2018, Theorem 1: sqrt(M/K) for the inference network, sqrt(M K) for the generative one.
    for part, of_k in (("encoder", -0.5), ("decoder", 0.5)):
        note = f"cited is sqrt({'M/K' if of_k < 0 else 'M K'})"
        for symbol, printed, stated in (("M", 1.0, 0.5), ("K", -1.0, of_k)):
            metric = f"exponent of {symbol}"
            found.append(equal(RATES, "A.9", part, metric, Printed(printed, 0.0), stated, slack=0.0, note=note))
    per_sample = (1.5 - 1) / (8 - 1)
    found.append(
        equal(TIME, "A.9", "MS-NIC-MIX", "training time at 16 samples, times one sample's", Printed(3.0, 0.5),
              1 + per_sample * (16 - 1), slack=0.05 * 15 / 7,
              note="a cost affine in k through 1 at k = 1 and 1.5 at k = 8")
    )  # fmt: skip
    for latent, printed in (("y", 8), ("z", 64)):
        sides = 2 ** STRIDES_OF_2[latent]
        note = f"{STRIDES_OF_2[latent]} convolutions of stride 2"
        found.append(
            equal(SHAPES, "A.5", latent, "pixels of the image per side of a latent", Printed(printed, 0.0), sides,
                  slack=0.0, note=note)
        )  # fmt: skip
    assert not any(math.isnan(check.recomputed) for check in found)
    return found
