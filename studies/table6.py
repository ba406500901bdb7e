"""Table 6: variance of the rounded latents over images, and their rate, for single-sample training and MS-NIC.

Uses the models of Table 10 and Figure 3. Dimensions with a mean near 0 dominate the mean coefficient of variation, so
the table also gives its median and the number of dead dimensions.
"""

from pathlib import Path

from gradlab import cli
from gradlab.study import Context, Tables, Verdict
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


def measure(settings: Settings, context: Context) -> Tables:
    """Measure one row per method."""
    return {"table6": shared.table(shared.measure(settings, context, "table6")["table6"], 6, COLUMNS)}


def verdicts(tables: Tables) -> list[Verdict]:
    """Decide the claims of section 5.3: the rounded latents vary more under MS-NIC, at nearly the same rate."""
    table, source = tables["table6"], "section 5.3, Table 6"
    bits = table.set_index("method")[["bpp of y_bar", "bpp of z_bar"]].sum(axis=1)
    changes = bits / bits[shared.methods.BASELINE] - 1
    multi = list(shared.PAPER_METHODS)[1:]
    evidence = ", ".join(f"{100 * changes[method]:+.1f} % {shared.PAPER_METHODS[method]}" for method in multi)
    return [
        shared.change(table, "the rounded latent y of MS-NIC has a higher variance", source, "Var(y_bar)",
                      "mean variance of rounded y"),
        shared.change(table, "the rounded latent z of MS-NIC has a higher variance", source, "Var(z_bar)",
                      "mean variance of rounded z"),
        shared.change(table, "the Cov of the rounded latent y is higher under MS-NIC", source, "Cov(y_bar)",
                      "mean Cov of rounded y"),
        Verdict("the rate of the latents varies only slightly between single-sample training and MS-NIC",
                "section 5.3", bool(changes.abs().max() < 0.05),
                f"bits per pixel of y and z together: {evidence}; slightly is read as below 5 %"),
    ]  # fmt: skip


def draw(folder: Path) -> None:
    """Draw every column relative to the baseline."""
    shared.draw(folder, "table6", list(COLUMNS))


cli.script(__name__)
