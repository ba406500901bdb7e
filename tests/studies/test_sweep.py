"""What the R-D sweeps share: settings, what is coded once, when an ordering counts."""

from __future__ import annotations

import io
import math
from dataclasses import replace

import pandas as pd
import pytest
import torch
from rich.console import Console

from gradlab import evaluation
from gradlab.data import Picture
from gradlab.errors import GradlabError
from gradlab.runtime import provenance
from gradlab.runtime.progress import Progress
from gradlab.study import Context, models
from gradlab.study.verdicts import every, last_two
from gradlab.training import RunOptions
from gradlab_studies import _methods as methods
from gradlab_studies import _sweep as sweep
from gradlab_studies import table4, table5, table8, table9

NAN = math.nan


@pytest.fixture
def context(tmp_path):
    return Context(
        out=tmp_path, folder=tmp_path / "table8", profile="quick", seed=0,
        options=RunOptions(), train_images=None, test_images=None,
        progress=Progress(Console(file=io.StringIO())),
    )  # fmt: skip


def noise(*names):
    generator = torch.Generator().manual_seed(0)
    return [
        Picture(name, torch.randint(0, 256, (3, 40, 56), generator=generator, dtype=torch.uint8), "") for name in names
    ]


@pytest.mark.parametrize(("lams", "match"), [
    ((0.0016, 0.03, 0.0075, 0.08), "lambda 0.0075 follows 0.03: give the lambdas in ascending order"),
    ((-0.0016, 0.03), "a lambda is -0.0016: give positive, finite lambdas"),
])  # fmt: skip
def test_lambdas_out_of_order_or_negative(lams, match):
    with pytest.raises(GradlabError, match=match):
        sweep.Settings(base=methods.SMALLEST, lams=lams)


def test_the_paper_profile_is_the_papers():
    eight, nine = table8.PROFILES["paper"], table9.PROFILES["paper"]
    assert eight.lams == nine.lams == (0.0016, 0.0032, 0.0075, 0.015, 0.03, 0.045, 0.08)
    channels = [eight.trained(methods.BASELINE, lam).channels for lam in eight.lams]
    assert channels == [(128, 192)] * 5 + [(192, 320)] * 2
    assert [nine.trained("IWAE", lam).channels for lam in nine.lams] == [(128,)] * 3 + [(192,)] * 4
    assert nine.trained(methods.BASELINE, 0.03).codec == "cheng2020-attn"
    # Table 1's baseline is the sweep's at lambda 0.015: the same run.
    assert eight.trained(methods.BASELINE, 0.015) == methods.PAPER
    mix, dms, iwae = (eight.trained(name, 0.03) for name in (sweep.MIX, methods.DMS, methods.IWAE))
    assert (mix.loss.objective, mix.loss.k, mix.loss.l, mix.direct_y) == ("ms-nic-mix", 8, 1, True)
    assert (dms.loss.objective, dms.loss.k, dms.loss.l, dms.direct_y) == ("ms-nic-dms", 16, 16, True)
    assert (iwae.loss.objective, iwae.loss.k, iwae.direct_y) == ("iwae-2level", 5, False)
    assert {s.lam for s in (mix, dms, iwae)} == {0.03}
    assert [eight.size(name) for name in sweep.METHODS] == ["-", "5", "8", "16, 16"]


@pytest.mark.parametrize(("points", "deltas"), [(table8, table4), (table9, table5)])
def test_bd_studies_read_the_models_of_the_points(points, deltas):
    assert points.PROFILES == deltas.PROFILES
    assert points.SMALLEST == deltas.SMALLEST
    for settings in points.PROFILES.values():
        assert settings.points[-1] == settings.base.steps
        assert set(settings.points[:-1]) <= set(settings.base.snapshots)
        assert len(settings.lams) >= 4
        assert len(provenance.settings_hash(settings)) == 12


def test_crops_are_central_and_their_fingerprint_is_kept(context, monkeypatch):
    picture = noise("a.png")[0]
    monkeypatch.setattr(models, "test_pictures", lambda context: [picture])
    settings = replace(table8.SMALLEST, test_crop=16)
    assert torch.equal(sweep.pictures(settings, context)[0].pixels, picture.pixels[:, 12:28, 20:36])
    assert "test crops" in context.inputs
    assert torch.equal(sweep.pictures(replace(settings, test_crop=99), context)[0].pixels, picture.pixels)
    assert sweep.pictures(replace(settings, test_crop=0), context)[0] is picture


@pytest.mark.parametrize(("signs", "expected"), [
    ([[True, True]], True),
    ([[False, True, True]], True),
    ([[True, False, False]], False),
    ([[True, False]], None),
    ([[True, None]], None),
    ([[True, True], [False, False]], False),
    ([[True, True], [True, False]], None),
])  # fmt: skip
def test_an_ordering_counts_where_the_last_two_points_agree(signs, expected):
    assert every(map(last_two, signs)) is expected


def fake(rates):
    """A table of BD figures: method to BD-rates at iterations 1 and 2."""
    rows = [
        {"method": name, "interpolation": "pchip", "iterations": i, "PSNR BD-BR (%)": rate,
         "MS-SSIM BD-BR (%)": -rate, "note": "PSNR: the codec is not monotone (rate 1 follows 2): pchip is undefined, so"}
        for name, both in rates.items() for i, rate in enumerate(both, 1)
    ]  # fmt: skip
    return pd.DataFrame(rows)


@pytest.mark.parametrize(("rates", "expected"), [
    ({"MS-NIC-MIX": (-3, -4), "MS-NIC-DMS": (-4, -5), "IWAE": (50, 60)}, [True, True]),
    ({"MS-NIC-MIX": (-5, -5), "MS-NIC-DMS": (-4, -4), "IWAE": (5, 5)}, [False, False]),
    ({"MS-NIC-MIX": (-3, 4), "MS-NIC-DMS": (-4, -5), "IWAE": (50, 5)}, [None, None]),
    ({"MS-NIC-MIX": (-3, -4), "MS-NIC-DMS": (-4, -5), "IWAE": (50, NAN)}, [True, None]),
])  # fmt: skip
def test_verdicts_of_table_4(rates, expected):
    found = table4.verdicts({"table4_training": fake(rates)})
    assert [v.holds for v in found] == expected
    assert "paper -3.8 %" in found[0].evidence
    assert "paper +64.2 %" in found[1].evidence
    assert ("IWAE: the codec is not monotone (rate 1 follows 2)" in found[1].evidence) == (rates["IWAE"][1] is NAN)


def test_verdicts_of_table_5():
    better = {"MS-NIC-MIX": (-3, -4), "MS-NIC-DMS": (-4, -5), "IWAE": (50, 60)}
    first, second = table5.verdicts({"table5_training": fake(better)})
    assert (first.holds, second.holds) == (True, True)  # better in PSNR, worse in MS-SSIM
    assert "paper undefined" in second.evidence
    assert table5.verdicts({"table5_training": fake(better | {"MS-NIC-MIX": (3, 4)})})[0].holds is False


def test_published_curves_stand_beside_kodak_alone(context, monkeypatch):
    images = noise(*(f"kodim{n:02}.png" for n in range(1, 25)))
    frame = pd.DataFrame({"iterations": [6], "bpp": [0.1], "bpp_paper": [0.2]})
    monkeypatch.setattr(sweep, "points", lambda n, settings, context: (frame, frame, images))
    monkeypatch.setattr(evaluation, "classical_codecs", lambda images, advance: images)
    monkeypatch.setattr(evaluation, "classical_curves", lambda images: frame)
    whole = replace(table8.SMALLEST, test_crop=0)
    assert len(sweep.curves(8, whole, context)["table8_references"]) == 44
    assert len(sweep.curves(8, table8.SMALLEST, context)["table8_references"]) == 0
    images.pop()
    tables = sweep.curves(8, whole, context)
    assert len(tables["table8_references"]) == 0
    assert "bpp_paper" in tables["table8"] and "bpp_paper" not in tables["table8_training"]
