"""The README's examples run as they stand and print the tables that it shows."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

README = Path(__file__).parent.parent / "README.md"
BLOCKS = re.findall(r"```python\n((?:(?!```).)*)```\n\n```\n(.*?)```", README.read_text(), flags=re.DOTALL)


def test_there_is_an_example_of_each_scale():
    assert len(BLOCKS) == 3


def test_the_test_that_it_shows_passes_and_fails_where_it_says(tmp_path):
    (shown,) = [b for b in re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL) if "def test_" in b]
    names: dict = {}
    exec(shown, names)
    names["test_mine"]()
    exec(shown.replace(".detach()", ".detach() ** 2"), names)
    with pytest.raises(AssertionError, match="that is the mean of dreg"):
        names["test_mine"]()


def test_the_monitor_that_it_shows_watches_a_training():
    blocks = re.findall(r"```python\n(.*?)```", README.read_text(), flags=re.DOTALL)
    (at,) = [i for i, block in enumerate(blocks) if "SNRMonitor" in block]
    names: dict = {}
    exec(blocks[at - 1] + blocks[at], names)
    assert names["monitor"].iteration == 100 and 0 < names["monitor"].cost < 1


@pytest.mark.parametrize("number", range(len(BLOCKS)))
def test_examples_print_what_the_readme_shows(number, tmp_path):
    code, shown = BLOCKS[number]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", code], capture_output=True, text=True, cwd=tmp_path, env=environment
    )
    assert done.returncode == 0, done.stderr
    printed = done.stdout
    assert [line.split()[0] for line in printed.splitlines()] == [line.split()[0] for line in shown.splitlines()]
    # Training amplifies the last bit of a sum, which differs between processors: its numbers agree to a factor, others closely.
    tolerance = 1.0 if "train(" in code else 0.02
    for line, expected in zip(printed.splitlines(), shown.splitlines(), strict=True):
        ours, theirs = (re.findall(r"(?<![\w.])-?\d+\.\d+", text) for text in (line, expected))
        assert len(ours) == len(theirs)
        for a, b in zip(ours, theirs, strict=True):
            assert float(a) == pytest.approx(float(b), rel=tolerance, abs=0.005), (line, expected)
