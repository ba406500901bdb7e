"""Reconstructions of a photograph by the baseline and MS-NIC-MIX at nearly the same rate, next to the original.

Each method shows the model of Table 8 whose bitstream is closest to the target rate on that image. The decoded images
are in ``pictures/``, without loss.
"""

import functools
import io
import itertools
from dataclasses import dataclass, field
from pathlib import Path

import pandas as pd
from PIL import Image
from torch import Tensor

from gradlab import cli, data, evaluation
from gradlab.data import Picture
from gradlab.runtime import files
from gradlab.study import Advance, Context, Piece, Tables, Verdict, models, plots
from gradlab.study.work import Work
from gradlab.training import TrainSettings
from gradlab_studies import _methods as methods
from gradlab_studies import _sweep as sweep
from gradlab_studies import table8

ASSUMED = table8.ASSUMED
METHODS = (methods.BASELINE, sweep.MIX)
ORIGINAL = "original"


@dataclass(frozen=True)
class Settings:
    """Models, images and crops.

    Attributes:
        models: settings of Table 8's models.
        lams: lambdas of the models to try.
        target: target rate in bits per pixel.
        images: indices of the test images.
        centres: centre of the crop in each image, as fractions of its height and width.
        side: side of the crop in pixels.
        seed: random seed.
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


def trained(settings: Settings) -> list[tuple[str, TrainSettings]]:
    """Return the models of both methods, by name."""
    pairs = itertools.product(METHODS, settings.lams)
    return [(f"{method}, lambda {lam:g}", settings.models.trained(method, lam)) for method, lam in pairs]


def work(settings: Settings) -> list[Work]:
    """Return the models of this study; coding a few images is not timed."""
    return models.training_work(trained(settings))


def measure(settings: Settings, context: Context) -> dict[str, pd.DataFrame]:
    """Code each image with every model of both methods, and keep the one closest to the target rate."""
    pairs = itertools.product(METHODS, settings.lams)
    runs = dict(zip(pairs, models.train_all(context, trained(settings)), strict=True))
    pictures = models.test_pictures(context)

    def rows(picture: Picture, centre: tuple[float, float], advance: Advance) -> Tables:
        sides = picture.pixels.shape[1:]
        side = min(settings.side, *sides)
        top, left = (
            min(max(0, round(share * whole) - side // 2), whole - side)
            for share, whole in zip(centre, sides, strict=True)
        )
        crop = {"top": top, "left": left, "side": side}
        x = data.floats(picture.pixels)[None]
        kept = [_keep(context.folder, picture, ORIGINAL, x) | crop]
        for method in METHODS:
            coded = {}
            for lam in settings.lams:
                coded[lam] = evaluation.bitstream(runs[method, lam].codec(device=context.device), x)
                advance(1, f"{picture.name}, {method}")
            bpp = {lam: image.bpp_y + image.bpp_z for lam, image in coded.items()}
            lam = min(bpp, key=lambda lam: abs(bpp[lam] - settings.target))
            x_hat = coded[lam].x_hat
            kept.append({
                **_keep(context.folder, picture, method, x_hat), **crop, "lambda": lam, "bpp": bpp[lam],
                "psnr": evaluation.distortion(x, x_hat)["psnr"], "target_bpp": settings.target,
                "iterations": settings.models.points[-1], "seed": context.seed,
            })  # fmt: skip
        return {"reconstructions": pd.DataFrame(kept)}

    shown = [pictures[place % len(pictures)] for place in settings.images]
    pieces = [
        Piece(picture.name, functools.partial(rows, picture, centre), units=len(runs))
        for picture, centre in zip(shown, settings.centres, strict=True)
    ]
    return context.measure("coding", pieces)


def _keep(folder: Path, picture: Picture, method: str, x: Tensor) -> dict[str, str]:
    """Write ``x [1, 3, H, W]`` in [0, 1] as an 8-bit PNG, and return the columns that describe it."""
    name = f"{Path(picture.name).stem}-{method.lower()}.png"
    content = io.BytesIO()
    array = evaluation.to_8_bit(x[0]).permute(1, 2, 0).byte().cpu().numpy()
    Image.fromarray(array).save(content, format="PNG", optimize=True)
    files.write_bytes(files.ensure_folder(folder / "pictures") / name, content.getvalue())
    return {"image": picture.name, "method": method, "picture": name}


def verdicts(tables: dict[str, pd.DataFrame]) -> list[Verdict]:
    """Report PSNR at nearly the same rate; undecided, because the rates differ more than the PSNR could resolve."""
    table = tables["reconstructions"]
    decoded = table[table["method"] != ORIGINAL]
    decoded = decoded.assign(
        text=[f"{row.method} {row.bpp:.3f} bpp, {row.psnr:.2f} dB" for row in decoded.itertuples()]
    )
    texts = decoded.groupby("image", sort=False)["text"].agg(", ".join)
    claim = "at nearly the same rate MS-NIC-MIX reconstructs better (two pictures to look at decide nothing)"
    return [Verdict(claim, "Table 8", None, "; ".join(f"{image}: {text}" for image, text in texts.items()))]


def draw(folder: Path) -> None:
    """Draw each image at half size with a frame around the crop, then the crops of the original and of each method."""
    table = files.read_csv(folder / "reconstructions.csv")
    names = table["image"].unique()
    figure, axes = plots.figure(len(names), 2 + len(METHODS), width="page", height=2.15 * len(names), squeeze=False)
    for line, name in zip(axes, names, strict=True):
        rows = table[table["image"] == name].set_index("method")
        for ax, method in zip(line[1:], (ORIGINAL, *METHODS), strict=True):
            row = rows.loc[method]
            pixels = data.read_image(folder / "pictures" / row["picture"]).permute(1, 2, 0).numpy()
            top, left, side = frame = (int(row["top"]), int(row["left"]), int(row["side"]))
            if method == ORIGINAL:
                whole = f"{name}\n{pixels.shape[1]} x {pixels.shape[0]} pixels"
                plots.photograph(line[0], pixels, whole, frame, shrink=2)  # shows the position of the crop
                text = f"original, crop of\n{side} x {side} pixels"
            else:
                text = f"{method}, $\\lambda$ = {row['lambda']:g}\n{row['bpp']:.3f} bpp, {row['psnr']:.2f} dB"
            plots.photograph(ax, pixels[top : top + side, left : left + side], text)
    plots.save(figure, folder / "reconstructions")


cli.script(__name__)
