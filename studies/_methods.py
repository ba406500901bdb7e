"""Define the paper's training methods and the settings of each profile.

Studies share them, so that each model is trained once.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pandas as pd

from gradlab.study import plots
from gradlab.study.models import check_kept
from gradlab.training import Loss, TrainSettings
from gradlab.training.settings import WARM_UP

# Method names as printed in the tables.
BASELINE, TWO_LEVEL = "Baseline", "2-level VAE"
MIX, MIX_DREG = "MS-NIC-MIX (pathwise gradient)", "MS-NIC-MIX (DReG gradient)"
BIG_BATCH, IWAE, DMS = "Baseline-BigBatch", "IWAE", "MS-NIC-DMS"

QUICK = TrainSettings(
    codec="small-hyperprior",
    channels=(32, 48),
    crop=64,
    steps=3600,
    snapshots=(900, 1800, 2700),
    learning_rate=1e-3,
    scale_learning_rate=False,
    # At a constant 1e-3 the weights keep oscillating, and the oscillation dominates the gradient SNR.
    cosine_steps=3600,
    final_fraction=0.02,
)
# 8000 images in batches of 8: 1000 iterations an epoch; 2000 epochs, of which 200 on the cosine (Appendix A.5).
PAPER = TrainSettings(
    steps=2_000_000,
    snapshots=(50_000, 500_000, 1_000_000, 1_500_000),
    cosine_steps=200_000,
    precision="tf32",
)
# The paper's training up to its "early" point (Table 3): the first 40th of profile paper, iteration by iteration.
GPU = replace(PAPER, steps=50_000, snapshots=(2_500, 12_500, 25_000))
# Tables 1-3, 6, 10 and Figure 3 in ten minutes on one H200 (benchmarks/stay.sh). Crops stay at 256 pixels: with fewer
# than 4 x 4 positions of z, its decoder sees almost no neighbours, and the rate of whole images doubles.
STAY = replace(
    PAPER,
    batch=2,
    steps=16_800,
    snapshots=(4_200, 8_400),
    learning_rate=4e-4,
    scale_learning_rate=False,
    warm_up=WARM_UP,
    cosine_steps=16_800,
    final_fraction=0.02,
)

PAPER_METHODS = {BASELINE: "Balle et al. 2018", TWO_LEVEL: "2-level VAE"}
"""Names printed in Tables 2 and 3."""

# The smallest settings that still do everything; the tests run them.
SMALLEST = replace(QUICK, channels=(6, 8), batch=2, steps=6, snapshots=(2, 4), cosine_steps=6)

ASSUMED = {
    "batch size": "8, as Balle et al. 2018; the paper names none",
    "learning rate after the cosine": "stays at a tenth; the paper is silent about what follows the first 200 epochs",
    "sample size that scales the learning rate": "k, also for DMS k, l (not k times l)",
    "warm-up": f"{WARM_UP} iterations, linear, where the learning rate is scaled by the sample size or the batch; "
    "without it training explodes at k = 16",
    "precision": "profiles stay, gpu and paper: the transforms' convolutions in TF32, torch's default; all else in "
    "float32",
    "gradient clipping": "norm 1 in bits per pixel, as CompressAI's recipe; the paper names none",
    "quantiles": "solved by bisection after training, not trained by an auxiliary loss",
    "quick profile": "a three-stage model on 64-pixel crops; 1e-3 along one cosine to 2 % of it, the same for every k",
    "stay profile": "the paper's model and crops; batches of 2, 16800 iterations along one cosine from 4e-4 to 2 % "
    "of it, the same for every k; MS-NIC-DMS with 8 x 8 samples, not 16 x 16",
    "gpu profile": "the first 50000 iterations of profile paper: the learning rate is still near its start, and grows "
    "with k, so that a comparison of sample sizes is one of learning rates too, as in the paper's own training",
}


@dataclass(frozen=True)
class Settings:
    """Models to compare during training.

    Attributes:
        base: settings of the baseline.
        points: iterations at which all models are compared; the table shows the last.
        seed: random seed.
    """

    base: TrainSettings = QUICK
    points: tuple[int, ...] = (900, 1800, 3600)
    seed: int = 0

    def __post_init__(self) -> None:
        check_kept(self.base, *self.points)


def method(
    base: TrainSettings, name: str, k: int = 5, weighting: str = "per-term", scale: str = "bpp"
) -> TrainSettings:
    """Return the settings of a method: ``base`` with the objective and the estimator of the method.

    Args:
        base: settings of the baseline.
        name: name of the method.
        k: sample size of the tables: samples of y; for DMS samples of y and of z; for the big batch the factor of the
            batch, whose learning rate grows as for k samples (Appendix A.5).
        weighting: as in ``gl.Loss``.
        scale: as in ``gl.Loss``.
    """
    if name == BASELINE:
        return base
    if name == TWO_LEVEL:
        return replace(base, direct_y=False)
    if name == BIG_BATCH:
        if not base.scale_learning_rate:
            return replace(base, batch=k * base.batch)
        return replace(base, batch=k * base.batch, learning_rate=k * base.learning_rate, warm_up=WARM_UP)
    loss = Loss("ms-nic-mix", weighting=weighting, scale=scale, k=k)
    if name == IWAE:
        return replace(base, loss=replace(loss, objective="iwae-2level"), direct_y=False)
    if name == DMS:
        return replace(base, loss=replace(loss, objective="ms-nic-dms", l=k))
    if name == MIX_DREG:
        loss = replace(loss, estimator="dreg-squared", allow_biased=True)
    return replace(base, loss=loss)


def shortened(settings: TrainSettings, steps: int) -> TrainSettings:
    """Return the settings of the same run, ended earlier; later snapshots are dropped."""
    return replace(settings, steps=steps, snapshots=tuple(s for s in settings.snapshots if s < steps))


def printed_size(name: str, k: int) -> str:
    """Return the sample size as printed in the paper."""
    return {BASELINE: "-", BIG_BATCH: f"x{k}", DMS: f"{k}, {k}"}.get(name, str(k))


def same_epochs(settings: TrainSettings, k: int) -> TrainSettings:
    """Return the settings of a big batch that trains for as many epochs as its baseline, in 1/k of the iterations."""
    snapshots = tuple(max(1, s // k) for s in settings.snapshots)
    return replace(
        settings,
        steps=max(1, settings.steps // k),
        cosine_steps=settings.cosine_steps // k,
        snapshots=tuple(dict.fromkeys(snapshots)),
    )


def draw_costs(table: pd.DataFrame, hue: str, path: Path, order: Sequence[str] | None = None) -> None:
    """Draw the R-D cost of each method over training; for a single point, its rate and distortion."""
    figure, ax = plots.figure(height=2.8)
    if table["iterations"].nunique() > 1:
        plots.curves(ax, table, "iterations", "R-D cost", None, hue, xlabel="iterations",
                     ylabel="R-D cost (bits per pixel)", order=order)  # fmt: skip
        when = ""
    else:
        cost = {row[hue]: f"{row[hue]}: cost {row['R-D cost']:.4g}" for row in table.to_dict("records")}
        plots.curves(ax, table.assign(**{hue: table[hue].map(cost)}), "bpp", "MSE", None, hue,
                     xlabel="rate (bits per pixel)", ylabel="MSE (0-255)",
                     order=None if order is None else [cost[name] for name in order])  # fmt: skip
        when = f" after {table['iterations'].iloc[0]} iterations, one seed"
    plots.shared_legend(figure, [ax])
    plots.title(ax, f"n = {table['images'].iloc[0]} images{when}")
    plots.save(figure, path)
