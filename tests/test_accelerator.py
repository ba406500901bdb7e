"""The profile of a training step, rehearsed on a CPU: what an accelerator alone can run is listed with the reason."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

from gradlab import results

SCRIPT = Path(__file__).parents[1] / "benchmarks" / "accelerator.py"


def test_every_variant_is_timed_or_says_why_not(tmp_path):
    command = [
        sys.executable,
        str(SCRIPT),
        "--device",
        "cpu",
        "--tiny",
        "--without",
        "compiled",
        "--out",
        str(tmp_path),
    ]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    table = results.read_csv(tmp_path / "accelerator.csv").set_index("variant")
    assert list(table.index) == [
        "recipe", "eager", "tf32", "bf16", "graph", "graph x 2", "bare draw", "recorder draw"
    ]  # fmt: skip
    ran = ["recipe", "eager", "bf16", "bare draw", "recorder draw"]
    assert (table.loc[ran, "images per second"] > 0).all()
    assert table.loc[["graph", "graph x 2"], "note"].str.contains("CUDA graphs need CUDA").all()
    assert "precision 'tf32' is not available" in table.loc["tf32", "note"]
    errors = table[[c for c in table.columns if c.startswith("error ")]]
    assert errors.shape[1] == 5 and (errors.loc[["eager", "bf16"]] > 0).all().all()
    assert (errors.loc["eager"] < 1e-4).all() and errors.loc["bf16"].drop("error z prior").between(1e-4, 0.5).all()
    assert errors.loc["bf16", "error z prior"] < 1e-4  # likelihoods stay in float32
    assert json.loads((tmp_path / "provenance.json").read_text())["device"]
