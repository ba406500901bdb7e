"""Check numbers in the text of the paper against its tables and against the sources that it cites."""

from __future__ import annotations

import itertools
from collections.abc import Iterator

from gradlab.study.audit.checks import Check, Rounded, at_least, at_most, equal
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
"""Number of stride-2 convolutions between image and latent in Balle et al. 2018: four in g_a, two more in h_a."""


def statements() -> Iterator[Check]:
    """Check all statements, in the order of the paper."""
    return itertools.chain(effects(), savings(), latents(), quantization(), gradients())


def effects() -> Iterator[Check]:
    """Check sections 2.2 and 2.3."""
    name = "MS-NIC-MIX (DReG gradient)"
    dreg = row(1, method=name)["R-D cost"]
    for other in ("MS-NIC-MIX (pathwise gradient)", "Baseline"):
        cost = row(1, method=other)["R-D cost"]
        yield at_least(DREG, "1", name, "R-D cost", dreg, cost, strict=True, note=f"against {other}")
    two_level, direct = (row(2, method=method)["R-D cost"] for method in ("2-level VAE", "Balle et al. 2018"))
    yield at_least(DIRECT_Y, "2", "2-level VAE", "R-D cost", two_level, direct, strict=True)
    for stage in ("early", "mid", "late"):
        two_level, direct = (
            row(3, iteration=stage, method=method)["z infer"] for method in ("2-level VAE", "Balle et al. 2018")
        )
        yield at_most(DIRECT_Y, "3", "2-level VAE", "z infer", two_level, direct, strict=True, note=stage)


def savings() -> Iterator[Check]:
    """Check section 5.2 and Appendix A.4."""
    four, five = ({r["method"]: row(n, method=r["method"]) for r in rows(n)} for n in (4, 5))
    column = "PSNR BD-BR (%)"
    for name, percent in (("MS-NIC-MIX", 4), ("MS-NIC-DMS", 5)):
        saved = Rounded(-four[name][column].value)
        yield equal(SAVES, "section 5.2", name, "rate saved (%)", Rounded(percent, 0.5), saved)
    zero = Rounded(0.0)
    for name in ("MS-NIC-MIX", "MS-NIC-DMS"):
        psnr, ssim = five[name][column], five[name]["MS-SSIM BD-BR (%)"]
        yield at_most(CHENG, "5", name, column, psnr, zero, strict=True)
        yield at_least(CHENG, "5", name, column, psnr, four[name][column], strict=True, note="Table 4")
        yield at_least(CHENG, "5", name, "MS-SSIM BD-BR (%)", ssim, zero, strict=True)
    costs = {key: {r["sample_size"]: float(r["R-D cost"]) for r in group} for key, group in
             itertools.groupby(rows(7), key=lambda r: r["method"])}  # fmt: skip
    for name, size in (("MS-NIC-MIX", 8), ("MS-NIC-DMS", 16)):
        best = min(costs[name], key=costs[name].__getitem__).split(",")[0]
        yield equal(BEST, "section 5.2", name, "sample size", Rounded(size), Rounded(int(best)), note="Table 7")
    name = "Baseline-BigBatch"
    lowest = Rounded(min(costs[name].values()))
    yield equal(BATCH, "A.4", name, "R-D cost", Rounded(1.013), lowest, note="Table 7")


def latents() -> Iterator[Check]:
    """Check section 5.3: latents in Table 10, rounded latents ("similar trend") in Table 6."""
    for n, y, z in ((10, "y", "z"), (6, "y_bar", "z_bar")):
        base = row(n, method="Balle et al. 2018")
        for name in ("MS-NIC-MIX", "MS-NIC-DMS"):
            cells = row(n, method=name)
            times = Rounded(cells[f"Cov({y})"].value / base[f"Cov({y})"].value)
            lower = Rounded(base[f"Cov({z})"].value / cells[f"Cov({z})"].value)
            note = f"Table {n}"
            # "About": what rounds to a whole number of the range.
            yield equal(COV_Y, "section 5.3", name, f"Cov({y})", Rounded(4.5, 1.0), times, note=note)
            yield equal(COV_Z, "section 5.3", name, f"Cov({z})", Rounded(2.0, 0.5), lower, note=note)
            for column in (f"Var({y})", f"Var({z})"):
                yield at_least(VARIANCE, str(n), name, column, cells[column], base[column], strict=True)


def quantization() -> Iterator[Check]:
    """Check Appendix A.8.2."""
    name = "Universal Quantization"
    rounding, uq = row(11, method="Deterministic Rounding"), row(11, method=name)
    yield at_most(UQ, "11", name, "MSE", uq["MSE"], rounding["MSE"], strict=True)
    for column in ("y bpp", "z bpp", "RD Cost"):
        yield at_least(UQ, "11", name, column, uq[column], rounding[column], strict=True)


def gradients() -> Iterator[Check]:
    """Check Appendix A.9 against what it cites, and the listing of A.5 against the model."""
    # Rainforth et al. 2018, Theorem 1: sqrt(M/K) for the inference network, sqrt(M K) for the generative one.
    for part, of_k, root in (("encoder", -0.5, "M/K"), ("decoder", 0.5, "M K")):
        note = f"cited is sqrt({root})"
        yield equal(RATES, "A.9", part, "exponent of M", Rounded(1.0), Rounded(0.5), note=note)
        yield equal(RATES, "A.9", part, "exponent of K", Rounded(-1.0), Rounded(of_k), note=note)
    metric = "training time at 16 samples, times one sample's"
    affine = Rounded(1 + (1.5 - 1) / (8 - 1) * (16 - 1), 0.05 * 15 / 7)
    note = "a cost affine in k through 1 at k = 1 and 1.5 at k = 8"
    yield equal(TIME, "A.9", "MS-NIC-MIX", metric, Rounded(3.0, 0.5), affine, note=note)
    for latent, printed in (("y", 8), ("z", 64)):
        metric = "pixels of the image per side of a latent"
        note = f"{STRIDES_OF_2[latent]} convolutions of stride 2"
        yield equal(SHAPES, "A.5", latent, metric, Rounded(printed), Rounded(2 ** STRIDES_OF_2[latent]), note=note)
