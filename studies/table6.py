"""Table 6: how much the rounded latents vary from image to image, and what they cost, single-sample beside MS-NIC.

Reuses the models of Table 10 and Figure 3. The mean of the coefficient of variation is driven by dimensions whose mean
is near 0; its median and the number of dead dimensions stand beside it.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pandas as pd

from gradlab import cli
from gradlab.codecs import Codec
from gradlab.evaluation import latents
from gradlab.runtime.progress import Advance
from gradlab.study import Context, Verdict
from gradlab.study.pieces import Tables
from gradlab_studies import _latents as shared
from gradlab_studies._latents import Settings

ASSUMED = shared.ASSUMED
COLUMNS = {
    "Var(y_bar)": ("y_hat", "variance"),
    "Var(z_bar)": ("z_hat", "variance"),
    "Cov(y_bar)": ("y_hat", "cov"),
    "Cov(z_bar)": ("z_hat", "cov"),
    "bpp of y_bar": ("y_hat", "bpp"),
    "bpp of z_bar": ("z_hat", "bpp"),
}
PROFILES = dict(shared.PROFILES)
SMALLEST = shared.SMALLEST
work = shared.work


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """One row per method."""

    def read(name: str, codec: Codec, images: Sequence[Any], advance: Advance) -> Tables:
        spread = latents.moments_over_images(codec, images, advance)
        return {"table6": shared.statistics(settings, context, name, spread, len(images))}

    return {"table6": shared.table(shared.each(settings, context, read)["table6"], 6, COLUMNS)}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Section 5.3: the rounded latents vary more under MS-NIC, at nearly the same rate."""
    table, source = tables["table6"], "section 5.3, Table 6"
    found = [
        shared.change(table, f"the rounded latent {v} of MS-NIC has a higher variance", source, f"Var({v}_bar)", 1,
                      f"mean variance of rounded {v}")
        for v in ("y", "z")
    ]  # fmt: skip
    found.append(
        shared.change(table, "the Cov of the rounded latent y is higher under MS-NIC", source, "Cov(y_bar)", 1,
                      "mean Cov of rounded y")
    )  # fmt: skip
    total = table.set_index("method")[["bpp of y_bar", "bpp of z_bar"]].sum(axis=1)
    changes = total / total[shared.models.BASELINE] - 1
    said = ", ".join(f"{100 * changes[m]:+.1f} % {shared.PAPER_METHODS[m]}" for m in list(shared.PAPER_METHODS)[1:])
    found.append(
        Verdict(
            "the rate of the latents varies only slightly between single-sample training and MS-NIC",
            "section 5.3",
            bool(changes.abs().max() < 0.05),
            f"bits per pixel of y and z together: {said}; slightly is read as below 5 %",
        )
    )
    return found


def draw(folder: Path) -> None:
    """Every column over the baseline's."""
    shared.draw(folder, "table6", list(COLUMNS))


cli.script(__name__)
