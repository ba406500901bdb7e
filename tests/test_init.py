"""The root of the package: names load on first use, nothing heavy before, and a missing CompressAI is named."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

import gradlab as gl

HEAVY = ("torch", "pandas", "compressai", "matplotlib", "numba")


def python(code: str) -> str:
    """What a fresh interpreter prints."""
    environment = os.environ | {"PYTHONPATH": str(Path(gl.__file__).parents[1])}
    command = [sys.executable, "-W", "ignore", "-c", code]
    return subprocess.run(command, capture_output=True, text=True, env=environment, check=True, timeout=120).stdout


@pytest.mark.parametrize("module", ["gradlab", "gradlab.study"])
def test_nothing_heavy_is_loaded(module: str) -> None:
    code = f"import sys, {module}; dir(gradlab); print([name for name in {HEAVY!r} if name in sys.modules])"
    assert python(code).strip() == "[]"


def test_toys_and_the_recorder_load_no_pandas() -> None:
    """It takes a quarter of a second, and is wanted when there is a table to return."""
    code = "import sys, gradlab as gl; gl.compare, gl.GradientRecorder, gl.problems; print('pandas' in sys.modules)"
    assert python(code).strip() == "False"


def test_what_needs_compressai_says_so() -> None:
    code = """
import sys
sys.modules["compressai"] = None  # not installed
import gradlab as gl
for name in ("Loss", "train", "record", "TrainSettings"):
    try:
        getattr(gl, name)
    except gl.GradlabError as error:
        print(error)
gl.compare, gl.GradientRecorder, gl.testing  # these do without
"""
    names = ("Loss", "train", "record", "TrainSettings")
    assert python(code).splitlines() == [
        f"gl.{name} needs CompressAI, which is not installed: pip install compressai" for name in names
    ]
