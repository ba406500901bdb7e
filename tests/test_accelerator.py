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
        "recipe", "eager", "tf32", "channels-last", "graph", "graph x 2", "bare draw", "recorder draw"
    ]  # fmt: skip
    ran = ["recipe", "eager", "tf32", "channels-last", "bare draw", "recorder draw"]
    assert (table.loc[ran, "images per second"] > 0).all()
    assert table.loc[["graph", "graph x 2"], "note"].str.contains("CUDA graphs need CUDA").all()
    errors = table.loc[["eager", "channels-last"], [c for c in table.columns if c.startswith("error ")]]
    assert errors.shape[1] == 5 and (errors < 1e-4).all().all() and (errors > 0).all().all()
    assert json.loads((tmp_path / "provenance.json").read_text())["device"]
