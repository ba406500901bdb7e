"""The driver of long runs at its smallest: exact to rounding, flat in memory of the state, and resumed to the bit."""

from __future__ import annotations

import pytest
import torch

from gradlab.runtime import files
from tests.trials import long_runs

SIZES = ["--recorder-draws", "2000", "--moment-draws", "6e5", "--toy-draws", "6e5"]
MEASURED = ["mean_error", "variance_error", "naive_variance_error", "z_mean", "z_variance", "snr", "snr_se"]


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    out = tmp_path_factory.mktemp("long")
    assert long_runs.main([*SIZES, "--out", str(out)]) == 0
    assert (out / "long_runs.png").exists() and (out / "long_runs.provenance.json").exists()
    return files.read_csv(out / "long_runs.csv")


def test_exact_to_rounding_where_the_naive_formula_has_lost_its_digits(table):
    rows = table[table["run"] != "toy"]
    assert set(rows["run"]) == {"recorder", "moments"}
    assert (rows["mean_error"] < 1e-14).all()
    assert (rows["variance_error"] < 1e-8).all()
    assert rows["naive_variance_error"].max() > 1e-3


def test_toy_draws_agree_with_the_oracle(table):
    last = table[table["run"] == "toy"].iloc[-1]
    assert last["draws"] == 600_000
    assert abs(last["z_mean"]) < 4.5 and abs(last["z_variance"]) < 4.5


def test_a_run_that_was_cut_off_goes_on_to_the_same_numbers(table, tmp_path):
    shorter = ["--recorder-draws", "500", "--moment-draws", "2e5", "--toy-draws", "2e5", "--out", str(tmp_path)]
    long_runs.main(shorter)
    long_runs.main([*SIZES, "--out", str(tmp_path), "--resume"])
    keys = ["run", "draws"]
    found = files.read_csv(tmp_path / "long_runs.csv").sort_values(keys)[[*keys, *MEASURED]]
    assert found.equals(table.sort_values(keys)[[*keys, *MEASURED]].set_index(found.index))


def test_the_oracle_is_exact():
    u = torch.tensor([3, 1, 4, 1, 5])
    exact = long_runs.Exact()
    exact.add(u[:2])
    exact.add(u[2:])
    assert exact.mean - long_runs.OFFSET == pytest.approx(2.8, abs=1e-12)
    assert float(exact.variance) == pytest.approx(float(u.double().var()), rel=1e-15)
