"""Every study at its smallest setting, through the runner and the report, as a user would run it."""

from __future__ import annotations

import importlib
import io
import json

import pytest
from rich.console import Console

from gradlab import paper, report, results, study
from gradlab.claims import ledger
from gradlab.training import TrainSettings

STUDIES = list(study.discover())


def module(name):
    return importlib.import_module(f"gradlab_studies.{name.replace('-', '_')}")


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    folder = tmp_path_factory.mktemp("figures") / "smallest"
    before = {name: dict(module(name).PROFILES) for name in STUDIES}
    for name in STUDIES:
        module(name).PROFILES["quick"] = module(name).SMALLEST
    try:
        console = Console(file=io.StringIO(), width=200)
        assert study.run(STUDIES, "quick", folder, console=console) == 0
        (folder / "printed.txt").write_text(console.file.getvalue())
        yield folder
    finally:
        for name, profiles in before.items():
            module(name).PROFILES.update(profiles)


@pytest.mark.parametrize("name", STUDIES)
def test_a_study_writes_table_figure_verdicts_and_provenance(out, name):
    folder = out / name
    table = results.read_csv(folder / f"{name}.csv")
    assert len(table) > 0
    assert list(folder.glob("*.png"))
    assert list(folder.glob("*.pdf"))
    found = results.read_csv(folder / "verdicts.csv")
    assert set(found["holds"]) <= {"yes", "no", "undecided"}
    assert found["evidence"].str.len().min() > 10
    provenance = json.loads((folder / "provenance.json").read_text())
    for key in ("settings", "settings_hash", "seed", "device", "wall_s", "assumed", "inputs"):
        assert key in provenance
    if hasattr(module(name).SMALLEST, "base"):  # a codec was trained
        assert provenance["assumed"]
        assert any("images" in key for key in provenance["inputs"])


@pytest.mark.parametrize("name", STUDIES)
def test_figures_are_drawn_from_the_csv_alone(out, name, tmp_path):
    for path in (out / name).glob("*.csv"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    module(name).draw(tmp_path)
    for path in (out / name).glob("*.png"):
        assert (tmp_path / path.name).read_bytes() == path.read_bytes()


@pytest.mark.parametrize(
    ("name", "n"), [("table1", 1), ("table2", 2), ("table3", 3), ("table4", 4), ("table8", 8), ("table9", 9)]
)
def test_the_papers_columns_and_numbers_stand_beside_ours(out, name, n):
    table, printed = results.read_csv(out / name / f"{name}.csv"), paper.table(n)
    numbers = [c for c in printed.columns if c not in (*paper.KEYS, "lambda")]
    for column in numbers:
        assert column in table.columns
        ours = table[f"{column}_paper"].dropna()
        assert set(ours.round(6)) <= set(printed[column].round(6))
        assert len(ours) > 0


@pytest.mark.parametrize("name", ["table1", "table2"])
def test_rate_distortion_rows_say_what_they_are_of(out, name):
    table = results.read_csv(out / name / f"{name}.csv")
    for column in ("method", "seed", "iterations", "images", "bpp_estimate"):
        assert table[column].notna().all(), column
    assert (table["R-D cost"] - table["bpp"] - 0.015 * table["MSE"]).abs().max() < 1e-9


def test_the_baseline_is_trained_once_for_all_studies(out):
    found = [(p.name, results.read_json(p / "settings.json")) for p in (out / "runs").iterdir()]
    runs = [name for name, made in found if (made["codec"], made["lam"]) == ("small-hyperprior", 0.015)]
    assert sum(name.startswith("direct-elbo-pathwise-k1-") for name in runs) == 1
    assert len(runs) == 4


def test_a_sweep_trains_one_model_per_method_and_lambda_for_both_tables(out):
    found = [results.read_json(p / "settings.json") for p in (out / "runs").iterdir()]
    for codec, lams in (("small-hyperprior", 4), ("cheng2020-attn", 2)):
        swept = [made for made in found if made["codec"] == codec and made["lam"] != 0.015]
        assert len(swept) == 4 * lams
        wide = {made["lam"]: tuple(made["channels"]) for made in swept}
        assert len(set(wide.values())) == 2
        assert list(wide[lam] for lam in sorted(wide)) == sorted(wide.values())


def test_bd_figures_say_why_they_are_undefined(out):
    for name in ("table4", "table5"):
        table = results.read_csv(out / name / f"{name}.csv")
        assert list(table["interpolation"].unique()) == ["pchip", "cubic", "akima"]
        lost = table[table["PSNR BD-BR (%)"].isna()]
        assert lost["note"].str.len().min() > 10


def test_table3_measures_both_at_own_and_at_the_same_weights(out):
    groups = results.read_csv(out / "table3" / "table3_groups.csv")
    counts = groups.groupby(["iteration", "weights_of", "switch", "noise"]).size()
    assert (counts == 5).all()
    assert len(counts) == 3 * 2 * 2 * 2
    same = results.read_csv(out / "table3" / "table3_same_weights.csv")
    # g_s reads the same y whether or not h_a reads the noise: flipping the switch leaves its gradient as it was.
    decoder = same[(same["group"] == "y gen")]
    assert (decoder["variance_trace_ratio"] - 1).abs().max() < 1e-5


def test_figure3_counts_every_dimension(out):
    rows = results.read_csv(out / "figure3" / "figure3.csv")
    statistics = results.read_csv(out / "figure3" / "figure3_statistics.csv")
    counted = rows.groupby(["method", "latent"])["dimensions"].sum()
    for row in statistics[statistics["latent"].isin(["y", "z"])].itertuples():
        assert counted[row.method, row.latent] == row.dimensions


def test_the_report_holds_every_study(out):
    page = report.build(out).read_text()
    for name in STUDIES:
        assert f'id="{name}"' in page
    assert page.count("data:image/png;base64,") >= len(STUDIES)


def test_every_profile_has_valid_settings():
    for name in STUDIES:
        for profile, settings in module(name).PROFILES.items():
            assert profile in study.PROFILES
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
    printed = results.read_csv(out / "toys" / "verdicts.csv")
    assert first.evidence in set(printed["evidence"])
