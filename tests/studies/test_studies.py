"""Every study at its smallest setting, through the runner and the report, as a user would run it."""

from __future__ import annotations

import importlib
import io
import itertools
import json
import os
import random
import shutil
import signal
from dataclasses import asdict

import numpy as np
import pytest
import torch
from matplotlib.figure import Figure
from rich.console import Console

from gradlab.runtime import digests, files, progress, signals
from gradlab.study import PROFILES, Request, catalog, paper, plots, plotstyle, report, runner
from gradlab.study.claims import ledger
from gradlab.training import RunOptions, TrainSettings
from tests.codecs.codec_zoo import nudge

STUDIES = list(catalog.studies())
pytestmark = pytest.mark.slow


def module(name):
    return importlib.import_module(f"gradlab_studies.{name.replace('-', '_')}")


def generators():
    """The state of every generator that is global."""
    numpy = np.random.get_state()  # noqa: NPY002
    return torch.get_rng_state().tolist(), numpy[1].tolist(), numpy[2:], random.getstate()


TOUCHED = {}
"""Whether a study used or set a global generator while it measured and drew."""


def watched(name, part, before):
    function = getattr(module(name), part)
    before[name, part] = function

    def wrapped(*arguments):
        state = generators()
        made = function(*arguments)
        TOUCHED[name, part] = generators() != state
        return made

    setattr(module(name), part, wrapped)


@pytest.fixture(scope="module", autouse=True)
def coarse():
    """Figures of few pixels: tests/study/test_plots.py looks at those of many."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(plotstyle.STYLE, "savefig.dpi", 60)
        yield


@pytest.fixture(scope="module")
def out(coarse, small_photographs, tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "smallest"
    before = {name: dict(module(name).PROFILES) for name in STUDIES}
    parts = {}
    for name in STUDIES:
        module(name).PROFILES["quick"] = module(name).SMALLEST
        for part in ("measure", "draw"):
            watched(name, part, parts)
    try:
        console = Console(file=io.StringIO(), width=200)
        assert runner.run(STUDIES, Request(test_images=small_photographs), folder, console=console) == 0
        (folder / "printed.txt").write_text(console.file.getvalue())
        yield folder
    finally:
        for name, profiles in before.items():
            module(name).PROFILES.update(profiles)
        for (name, part), function in parts.items():
            setattr(module(name), part, function)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_writes_table_figure_verdicts_and_provenance(out, name):
    folder = out / name
    table = files.read_csv(folder / f"{name}.csv")
    assert len(table) > 0
    assert list(folder.glob("*.png"))
    assert list(folder.glob("*.pdf"))
    found = files.read_csv(folder / "verdicts.csv")
    assert set(found["holds"]) <= {"yes", "no", "undecided"}
    assert found["evidence"].str.len().min() > 10
    provenance = json.loads((folder / "provenance.json").read_text())
    for key in ("settings", "settings_hash", "seed", "device", "wall_s", "assumed", "inputs"):
        assert key in provenance
    if hasattr(module(name).SMALLEST, "base"):  # a codec was trained
        assert provenance["assumed"]
        assert any("images" in key for key in provenance["inputs"])


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_neither_uses_nor_changes_a_global_generator(out, name):
    """Every stream derives from (seed, purpose, index), so that no study can change another's numbers."""
    assert TOUCHED[name, "measure"] is False and TOUCHED[name, "draw"] is False


@pytest.mark.parametrize("name", STUDIES)
def test_figures_are_drawn_from_what_was_measured_labelled_and_readable_in_grey(out, name, tmp_path, monkeypatch):
    for path in [*(out / name).glob("*.csv"), *(out / name).glob("pictures/*.png")]:  # what was measured
        copy = tmp_path / path.relative_to(out / name)
        copy.parent.mkdir(exist_ok=True)
        copy.write_bytes(path.read_bytes())
    figures, savefig = [], Figure.savefig
    monkeypatch.setattr(  # of the bytes only those of the raster are compared
        Figure, "savefig", lambda self, *to, **how: how["format"] == "pdf" or savefig(self, *to, **how)
    )
    save = plots.save
    monkeypatch.setattr(plots, "save", lambda figure, path: figures.append(figure) or save(figure, path))
    module(name).draw(tmp_path)
    for path in (out / name).glob("*.png"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()
    assert {p.stem for p in tmp_path.glob("*.png")} == {p.stem for p in tmp_path.glob("*.pdf")}
    assert len(figures) == len(list(tmp_path.glob("*.pdf")))
    for figure in figures:
        for ax in figure.axes:
            if ax.axison:
                labelled(ax, figure.axes)
                readable_in_grey(ax)


# What has no unit; everything else names its own in parentheses or after "nats per".
PURE = ("SNR", "samples", "iteration", "effective sample size", "estimator", "ratio", "over ", "density", "latent y",
        "checks", "holds", "training", "part", "same weights")  # fmt: skip


def labelled(ax, axes):
    """Each axis says what it shows and in which unit; names of categories and captions of photographs need none."""
    if ax.images:
        assert ax.get_xlabel()
        return
    row = [other.get_ylabel() for other in axes if other.get_subplotspec() and ax.get_subplotspec()
           and other.get_subplotspec().rowspan == ax.get_subplotspec().rowspan]  # fmt: skip
    for label, ticks in (
        (ax.get_xlabel(), ax.get_xticklabels()),
        (ax.get_ylabel() or "".join(row), ax.get_yticklabels()),
    ):
        named = any(any(letter.isalpha() for letter in tick.get_text().replace("mathdefault", "")) for tick in ticks)
        assert label or named or not ticks, ax.get_title()
        assert not label or "(" in label or "nats per" in label or any(word in label for word in PURE), label


def readable_in_grey(ax):
    """Colour never stands alone: lines differ in dash or marker, bars in hatch."""
    lines = {c.get_label(): (str(c[0]._unscaled_dash_pattern), c[0].get_marker()) for c in ax.containers
             if hasattr(c, "has_yerr") and c[0] is not None and c[0].get_linestyle() != "None"}  # fmt: skip
    assert len(set(lines.values())) == len(lines), lines
    bars = [c.patches[0].get_hatch() for c in ax.containers if hasattr(c, "patches") and c.patches]
    assert len(set(bars)) == len(bars), bars


@pytest.mark.parametrize("n", [1, 2, 3, 4, 6, 8, 9, 10, 11])
def test_the_papers_columns_and_numbers_stand_beside_ours(out, n):
    name = f"table{n}"
    table, printed = files.read_csv(out / name / f"{name}.csv"), paper.table(n)
    numbers = [c for c in printed.columns if c not in (*paper.KEYS, "lambda")]
    for column in numbers:
        assert column in table.columns
        ours = table[f"{column}_paper"].dropna()
        assert set(ours.round(6)) <= set(printed[column].round(6))
        assert len(ours) > 0


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_rate_distortion_rows_say_what_they_are_of(out, name):
    table = files.read_csv(out / name / f"{name}.csv")
    for column in ("method", "seed", "iterations", "images", "bpp_estimate"):
        assert table[column].notna().all(), column
    assert (table["R-D cost"] - table["bpp"] - 0.015 * table["MSE"]).abs().max() < 1e-9


def test_the_baseline_is_trained_once_for_all_studies(out):
    runs = sorted(p.name for p in (out / "runs").iterdir())
    settings = [json.loads((out / "runs" / name / "settings.json").read_text()) for name in runs]
    base = json.loads(json.dumps(asdict(module("table1").SMALLEST.base)))
    same = [s for s in settings if {**s, "seed": 0, "data": ""} == base]
    assert len(same) == 1


def test_a_sweep_trains_one_model_per_method_and_lambda_for_both_tables(out):
    found = [files.read_json(p / "settings.json") for p in (out / "runs").iterdir()]
    for codec, lams in (("small-hyperprior", 4), ("cheng2020-attn", 2)):
        swept = [made for made in found if made["codec"] == codec and made["lam"] != 0.015]
        assert len(swept) == 4 * lams
        wide = {made["lam"]: tuple(made["channels"]) for made in swept}
        assert len(set(wide.values())) == 2
        assert list(wide[lam] for lam in sorted(wide)) == sorted(wide.values())


def test_bd_figures_say_why_they_are_undefined(out):
    for name in ("table4", "table5"):
        table = files.read_csv(out / name / f"{name}.csv")
        assert list(table["interpolation"].unique()) == ["pchip", "cubic", "akima"]
        lost = table[table["PSNR BD-BR (%)"].isna()]
        assert lost["note"].str.len().min() > 10


def test_table3_measures_both_at_own_and_at_the_same_weights(out):
    groups = files.read_csv(out / "table3" / "table3_groups.csv")
    counts = groups.groupby(["iteration", "weights_of", "switch", "noise"]).size()
    assert (counts == 5).all()
    assert len(counts) == 3 * 2 * 2 * 2
    same = files.read_csv(out / "table3" / "table3_same_weights.csv")
    # g_s reads the same y whether or not h_a reads the noise: flipping the switch leaves its gradient as it was.
    decoder = same[(same["group"] == "y gen")]
    assert (decoder["variance_trace_ratio"] - 1).abs().max() < 1e-5


def unseen(figure, path):
    """``plots.save`` where only the tables are looked at."""
    progress.stop_if_requested()
    for suffix in ("png", "pdf"):
        files.write_bytes(f"{path}.{suffix}", b"")


@pytest.fixture(scope="module")
def trained(out, tmp_path_factory):
    """A folder with the models of all studies, and nothing that was measured of them."""
    folder = tmp_path_factory.mktemp("cut")
    shutil.copytree(out / "runs", folder / "runs", ignore=shutil.ignore_patterns("rate-distortion-*"))
    return folder


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_that_was_cut_says_so_and_goes_on_to_the_same_tables(
    out, trained, small_photographs, name, monkeypatch
):
    """Cut by the time limit in its first piece, and further on; then resumed."""

    def run(resume, after=None):
        asked, cause = itertools.count(), signals.stop_reason
        if after is not None:
            late = {False: None, True: "at the time limit"}
            monkeypatch.setattr(signals, "stop_reason", lambda deadline=None: late[next(asked) >= after])
        console = Console(file=io.StringIO(), width=200)
        request = Request(options=RunOptions(resume=resume), test_images=small_photographs)
        assert runner.run([name], request, trained, console=console) == 0
        monkeypatch.setattr(signals, "stop_reason", cause)
        return console.file.getvalue()

    monkeypatch.setattr(plots, "save", unseen)
    monkeypatch.setitem(module(name).PROFILES, "quick", module(name).SMALLEST)
    folder = trained / name
    steps = 0
    for after in (1, 5, 14):  # times that it was asked whether time is up
        said = run(resume=after > 1, after=after)
        if "results are in" in said:
            break
        steps += 1
        assert "stopped at the time limit; resume with" in said and not (folder / "provenance.json").exists()
        if (folder / "partial").exists():
            record = digests.read_record(folder / "partial")
            assert record["partial"].startswith("stopped at the time limit after ") and f"{name}: stopped at" in said
            for table in record["tables"]:
                assert len(digests.read_table(folder / "partial" / f"{table}.csv", record))
            assert not (folder / "partial" / "verdicts.csv").exists()
    assert steps
    said = run(resume=True)
    assert "results are in" in said and not (folder / "partial").exists() and not (folder / "parts").exists()
    written = {path.name: path.read_bytes() for path in folder.glob("*.csv")}
    whole = {path.name: path.read_bytes() for path in (out / name).glob("*.csv")}
    assert written.keys() == whole.keys() and {path.name for path in folder.iterdir()} == {
        path.name for path in (out / name).iterdir()
    }
    if name != "training-cost":  # which is made of times
        assert written == whole


@pytest.fixture
def table3(small_photographs, tmp_path, monkeypatch):
    """Runs Table 3 at its smallest, and counts its recordings: ``run(**options)`` and ``run.calls``."""
    study_module = module("table3")
    monkeypatch.setitem(study_module.PROFILES, "quick", study_module.SMALLEST)
    monkeypatch.setattr(plots, "save", unseen)
    record = study_module.gradients.compare_direct_y

    def run(cut_in=None, resume=True, **options):
        console, run.calls = Console(file=io.StringIO(), width=200), []

        def counted(codec, batches, lam, draws, switches, **how):
            run.calls.append(switches)
            if len(run.calls) == cut_in:
                draw = how["advance"]
                how["advance"] = lambda n=1, note="": (os.kill(os.getpid(), signal.SIGTERM), draw(n, note))
            return record(codec, batches, lam, draws, switches, **how)

        monkeypatch.setattr(study_module.gradients, "compare_direct_y", counted)
        request = Request(options=RunOptions(resume=resume), test_images=small_photographs, **options)
        assert runner.run(["table3"], request, tmp_path, console=console) == 0
        return console.file.getvalue()

    run.folder = tmp_path / "table3"
    run.parts = lambda: sorted((run.folder / "parts").glob("*.json"))
    run.tables = lambda: {path.name: path.read_bytes() for path in run.folder.glob("*.csv")}
    run.inputs = lambda: json.loads((run.folder / "provenance.json").read_text())["inputs"]
    return run


def test_table3_loses_no_finished_recording(table3):
    """Ended by a signal, by the time limit, then resumed: every recording once, and the tables of a run in one piece."""
    table3()
    whole = table3.tables()
    assert len(table3.calls) == 24 and len(whole) == 5 and not (table3.folder / "parts").exists()
    (table3.folder / "provenance.json").unlink()
    assert "stopped by SIGTERM; resume with" in table3(cut_in=6, resume=False)
    names = [path.name for path in table3.parts()]
    assert len(names) == 5 and all(name.endswith("-noise-4.json") for name in names)
    assert {"2-level-VAE-6-2-level-noise-4.json", "Baseline-6-direct-y-noise-4.json"} <= set(names)  # the end first
    assert "stopped at the time limit; resume with" in table3(time_limit=1e-9) and not table3.calls
    assert "results are in" in table3() and len(table3.calls) == 24 - 5
    assert table3.tables() == whole and not table3.parts() and "measured before" not in table3.inputs()


def test_table3_reads_no_recording_of_other_weights_or_of_an_earlier_run(table3):
    table3(cut_in=6, resume=False)
    before = table3.parts()
    for path in before:
        path.write_text(path.read_text().replace('"switch":', '"which":'))  # of something else, and its digest differs
    table3(cut_in=1)
    assert table3.parts() == before and len(table3.calls) == 1  # measured again, from the first
    # Without --resume what an earlier run kept is gone at once, not when its turn comes.
    table3(cut_in=2, resume=False)
    assert len(table3.parts()) == 1
    # The same settings with other weights, as after training on another machine.
    table3(cut_in=6, resume=False)
    for path in table3.folder.parent.glob("runs/*/final.safetensors"):
        nudge(path)
    kept = [path.name for path in table3.parts()]
    table3()
    assert len(table3.calls) == 24 - sum("-6-" not in name for name in kept) and any("-6-" in name for name in kept)


def test_table3_says_where_gradients_were_recorded_if_not_here(table3):
    table3(cut_in=3, resume=False)
    for path in table3.parts()[:1]:
        record = json.loads(path.read_text())
        record["made"]["device"] = "cuda (NVIDIA H200)"
        path.write_text(json.dumps(digests.sealed(record)))
    table3()
    told = table3.inputs()["measured before"]
    assert "device cuda (NVIDIA H200), commit " in told and "; " not in told and len(table3.calls) == 22


def test_figure3_counts_every_dimension(out):
    rows = files.read_csv(out / "figure3" / "figure3.csv")
    statistics = files.read_csv(out / "figure3" / "figure3_statistics.csv")
    counted = rows.groupby(["method", "latent"])["dimensions"].sum()
    for row in statistics[statistics["latent"].isin(["y", "z"])].itertuples():
        assert counted[row.method, row.latent] == row.dimensions


def test_tables_6_and_10_are_of_the_models_of_figure3(out):
    statistics = files.read_csv(out / "figure3" / "figure3_statistics.csv").set_index(["method", "latent"])
    for name, latent, column in (
        ("table6", "y_hat", "Var(y_bar)"),
        ("table10", "z", "Var(z)"),
        ("table10", "y", "Var(y)"),
    ):
        table = files.read_csv(out / name / f"{name}.csv")
        assert len(table) == 3
        for _, row in table.iterrows():
            assert row[column] == statistics.loc[(row["method"], latent), "variance"]
            assert row["images"] > 1 and row["iterations"] == 4


def test_table7_reads_every_method_after_the_same_iterations(out):
    table = files.read_csv(out / "table7" / "table7.csv")
    assert list(table["size"]) == [1, 2, 2, 2, 2]
    assert (table["iterations"] == 2).all()
    assert list(table["sample_size"]) == ["-", "x2", "2", "2", "2, 2"]
    assert list(table["batch"]) == [2, 4, 2, 2, 2]
    assert (table["R-D cost"] - table["bpp"] - 0.015 * table["MSE"]).abs().max() < 1e-9
    assert table["R-D cost_paper"].notna().tolist() == [True, False, False, False, False]  # the paper has no k = 2


def test_table11_says_of_what_each_rate_is(out):
    table = files.read_csv(out / "table11" / "table11.csv")
    assert list(table["rate"]) == ["bitstream", "likelihood", "likelihood"]
    assert table["RD Cost"].to_numpy() == pytest.approx(
        (table["y bpp"] + table["z bpp"] + 0.015 * table["MSE"]).to_numpy()
    )
    assert table["MSE"][0] == pytest.approx(table["MSE"][1], rel=1e-6)
    assert (table["RD Cost_spread"] > 0).tolist() == [False, False, True]


def test_figure4_counts_fewer_where_y_rounds_to_0(out):
    found = files.read_csv(out / "figure4" / "figure4_images.csv")
    counts = found.groupby(["image", "kept"])["count"].sum().unstack()
    assert (counts["all"] > counts["|y| >= 1/2"]).all() and (counts["all"] > 0).all()


def test_training_cost_is_over_the_baseline(out):
    table = files.read_csv(out / "training-cost" / "training-cost.csv")
    assert len(table) == 1 + 3 * 2
    assert table["ratio"][0] == 1
    assert (table["ratio_min"] <= table["ratio"]).all() and (table["ratio"] <= table["ratio_max"]).all()
    assert table["ratio"].to_numpy() == pytest.approx((table["seconds"] / table["seconds"][0]).to_numpy())


def test_autoencoders_are_trained_alike(out):
    table = files.read_csv(out / "autoencoders" / "autoencoders.csv")
    assert table.groupby("codec")["iterations"].apply(list).tolist() == [[2, 4], [2, 4]]
    assert table["PSNR"].between(3, 40).all()
    assert set(table["PSNR_paper"].dropna()) == {48.54, 43.27}


def test_the_report_holds_every_study(out):
    page = report.build(out).read_text()
    for name in STUDIES:
        assert f'id="{name}"' in page
    assert page.count("data:image/png;base64,") >= len(STUDIES)


def test_every_profile_has_valid_settings():
    for name in STUDIES:
        for profile, settings in module(name).PROFILES.items():
            assert profile in PROFILES
            base = getattr(settings, "base", None)
            assert base is None or isinstance(base, TrainSettings)


def test_the_ledger_finds_a_verdict_for_every_claim_that_a_study_decides(out):
    entries = ledger(out)
    claims = paper.claims()
    assert [e.number for e in entries] == list(range(1, len(claims) + 1))
    for entry in entries:
        assert not entry.study or entry.study in STUDIES
        assert (entry.verdict == "not tested") == (entry.study == ""), entry
        assert entry.budget == ("quick" if entry.study else "")
    first = next(e for e in entries if e.study == "toys")
    printed = files.read_csv(out / "toys" / "verdicts.csv")
    assert first.evidence in set(printed["evidence"])


def test_table7_shows_the_weights_of_the_equations_beside_those_of_the_listing(out):
    listing, equations = (files.read_csv(out / "table7" / f"{name}.csv") for name in ("table7", "table7_equations"))
    assert list(listing["weighting"]) == ["-", "-", "per-term", "per-term", "per-term"]
    assert list(equations["weighting"]) == ["joint", "joint"] and list(equations["size"]) == [2, 2]
    assert (equations["iterations"] == 2).all()


def test_snr_over_training_is_recorded_on_the_models_of_the_tables(out):
    table = files.read_csv(out / "snr-training" / "snr-training.csv")
    assert list(table["iteration"].unique()) == [2, 4, 6] and table["method"].nunique() == 2
    assert table.groupby(["iteration", "method"]).size().eq(5).all()
    # The baseline had been trained by another study: once more beside it, to the same weights.
    (again,) = (out / "runs").glob("*/snr-2x3/*/final.safetensors")
    assert again.read_bytes() == (again.parents[2] / "final.safetensors").read_bytes()


def test_reconstructions_are_kept_without_loss(out):
    from gradlab import data, evaluation

    folder = out / "reconstructions"
    table = files.read_csv(folder / "reconstructions.csv").set_index("method")
    pictures = {
        m: data.floats(data.read_image(folder / "pictures" / row["picture"]))[None] for m, row in table.iterrows()
    }
    for method in table.index.drop("original"):
        found = evaluation.distortion(pictures["original"], pictures[method])["psnr"]
        assert found == pytest.approx(table.loc[method, "psnr"], abs=1e-9)
