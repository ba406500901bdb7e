"""What the baseline and MS-NIC-MIX make of a photograph at nearly the same rate, beside the original.

Of the models of Table 8 each method shows the one whose bitstream is nearest to the target rate on that image. What was
decoded is in ``pictures/``, without loss.
"""

from __future__ import annotations

import io
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pandas as pd
from torch import Tensor

from gradlab import cli, data, evaluation
from gradlab.runtime import files
from gradlab.study import Context, Verdict, plots
from gradlab.study.work import Work
from gradlab_studies import _models as models
from gradlab_studies import _sweep as sweep
from gradlab_studies import table8

ASSUMED = table8.ASSUMED
METHODS = (models.BASELINE, sweep.MIX)
ORIGINAL = "original"


@dataclass(frozen=True)
class Settings:
    """Models, images and crops.

    Attributes:
        models: those of Table 8.
        lams: the lambdas whose models are tried.
        target: rate, bits per pixel.
        images: places among the test images.
        centres: of the crop in each: shares of its height and width.
        side: of the crop, pixels.
    """

    models: sweep.Settings = field(default_factory=lambda: table8.PROFILES["quick"])
    lams: tuple[float, ...] = (0.0016, 0.0075, 0.03)
    target: float = 0.5
    images: tuple[int, ...] = (0, 2)
    centres: tuple[tuple[float, float], ...] = ((0.22, 0.43), (0.42, 0.47))
    side: int = 128
    seed: int = 0


PROFILES = {name: Settings(table8.PROFILES[name]) for name in ("quick", "gpu", "paper")}
SMALLEST = Settings(table8.SMALLEST, images=(2,), centres=((0.42, 0.47),))


def work(settings: Settings) -> list[Work]:
    """The models that it needs; coding a few images is not timed."""
    wanted = [(method, lam) for method in METHODS for lam in settings.lams]
    return models.work([(f"{name}, lambda {lam:g}", settings.models.trained(name, lam)) for name, lam in wanted])


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Code each image with every model of both methods, keep the nearest to the target."""
    swept = settings.models
    wanted = [(method, lam) for method in METHODS for lam in settings.lams]
    runs = models.train_all(context, [(f"{name}, lambda {lam:g}", swept.trained(name, lam)) for name, lam in wanted])
    pictures = models.test_pictures(context)
    shown = [pictures[place % len(pictures)] for place in settings.images]
    rows: list[dict[str, Any]] = []
    with context.progress.track("coding", len(shown) * len(wanted)) as advance:
        for picture, (down, across) in zip(shown, settings.centres, strict=True):
            height, width = picture.pixels.shape[1:]
            side = min(settings.side, height, width)
            place = {
                "top": min(max(0, round(down * height) - side // 2), height - side),
                "left": min(max(0, round(across * width) - side // 2), width - side),
                "side": side,
            }
            x = data.floats(picture.pixels)[None]
            stem = Path(picture.name).stem
            rows.append({"image": picture.name, "method": ORIGINAL, "picture": f"{stem}-original.png", **place})
            _keep(context.folder / "pictures" / f"{stem}-original.png", x)
            for method in METHODS:
                best: tuple[float, float, Any] | None = None
                for (name, lam), run in zip(wanted, runs, strict=True):
                    if name != method:
                        continue
                    coded = evaluation.bitstream(run.codec(device=context.device), x)
                    gap = abs(coded.bpp_y + coded.bpp_z - settings.target)
                    if best is None or gap < best[0]:
                        best = gap, lam, coded
                    advance(1, f"{picture.name}, {name}")
                assert best is not None
                _, lam, coded = best
                rows.append({
                    "image": picture.name, "method": method, "picture": f"{stem}-{method.lower()}.png", **place,
                    "lambda": lam, "bpp": coded.bpp_y + coded.bpp_z,
                    "psnr": evaluation.distortion(x, coded.x_hat)["psnr"],
                    "target_bpp": settings.target, "iterations": swept.points[-1], "seed": context.seed,
                })  # fmt: skip
                _keep(context.folder / "pictures" / f"{stem}-{method.lower()}.png", coded.x_hat)
    return {"reconstructions": pd.DataFrame(rows)}


def _keep(path: Path, x: Tensor) -> None:
    """``x [1, 3, H, W]`` in [0, 1] as an 8-bit PNG."""
    from PIL import Image

    files.ensure_folder(path.parent)
    content = io.BytesIO()
    array = evaluation.to_8_bit(x[0]).permute(1, 2, 0).byte().cpu().numpy()
    Image.fromarray(array).save(content, format="PNG", optimize=True)
    files.write_bytes(path, content.getvalue())


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """PSNR at nearly the same rate: undecided, as long as the rates differ by more than the PSNR could tell."""
    table = tables["reconstructions"]
    said = []
    for image, rows in table[table["method"] != ORIGINAL].groupby("image", sort=False):
        each = rows.set_index("method")
        said.append(
            f"{image}: " + ", ".join(f"{m} {each.loc[m, 'bpp']:.3f} bpp, {each.loc[m, 'psnr']:.2f} dB" for m in METHODS)
        )
    claim = "at nearly the same rate MS-NIC-MIX reconstructs better (two pictures to look at decide nothing)"
    return [Verdict(claim, "Table 8", None, "; ".join(said))]


def draw(folder: Path) -> None:
    """Each image whole, at half its size, with a frame around the crop; then the crop of original and methods."""
    table = files.read_csv(folder / "reconstructions.csv")
    names = list(dict.fromkeys(table["image"]))
    figure, axes = plots.figure(len(names), 2 + len(METHODS), width="page", height=2.15 * len(names), squeeze=False)
    for line, name in zip(axes, names, strict=True):
        rows = table[table["image"] == name].set_index("method")
        for ax, method in zip(line[1:], (ORIGINAL, *METHODS), strict=True):
            row = rows.loc[method]
            pixels = data.read_image(folder / "pictures" / row["picture"]).permute(1, 2, 0).numpy()
            frame = (int(row["top"]), int(row["left"]), int(row["side"]))
            if method == ORIGINAL:
                whole = f"{name}\n{pixels.shape[1]} x {pixels.shape[0]} pixels"
                plots.photograph(line[0], pixels, whole, frame, shrink=2)  # it shows where the crop lies
                text = f"original, crop of\n{frame[2]} x {frame[2]} pixels"
            else:
                text = f"{method}, $\\lambda$ = {row['lambda']:g}\n{row['bpp']:.3f} bpp, {row['psnr']:.2f} dB"
            plots.photograph(ax, pixels[frame[0] : frame[0] + frame[2], frame[1] : frame[1] + frame[2]], text)
    plots.save(figure, folder / "reconstructions")


cli.script(__name__)
