"""The root of the package: names load on first use, nothing heavy before, and a missing CompressAI is named."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import gradlab as gl
from gradlab.errors import EXTRAS, GradlabError, MissingExtra, needs

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

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
    remedy = "needs CompressAI: pip install 'gradlab[codecs]' (Python 3.10 to 3.12)"
    names = ("Loss", "train", "record", "TrainSettings")
    assert python(code).splitlines() == [f"gl.{name} {remedy}" for name in names]


def test_without_extras_help_and_dir_work_and_commands_name_what_they_need() -> None:
    code = """
import sys, inspect
sys.modules["compressai"] = sys.modules["matplotlib"] = None  # not installed
import gradlab as gl
from gradlab.cli import main
print("codecs" in dir(gl), "compare" in dir(gl), len(inspect.getmembers(gl)) > 10)
sys.stderr = sys.stdout
print(main(["run", "toys"]), main(["plan", "toys"]))
"""
    sentence = "error: gradlab {} needs CompressAI: pip install 'gradlab[studies]' (Python 3.10 to 3.12)"
    assert python(code).splitlines() == ["False True True", sentence.format("run"), sentence.format("plan"), "2 2"]


def test_an_import_error_of_the_users_own_is_not_renamed() -> None:
    with pytest.raises(ModuleNotFoundError, match="no_such_module"), needs("gl.codecs"):
        import no_such_module  # noqa: F401


def test_missing_extras_are_import_errors_too() -> None:
    """``pytest.importorskip`` and ``try: ... except ImportError`` work."""
    with (
        pytest.raises(MissingExtra, match=r"this needs Ray: pip install 'gradlab\[cluster\]'$") as caught,
        needs("this"),
    ):
        raise ModuleNotFoundError("No module named 'ray'", name="ray.util")
    assert isinstance(caught.value, ModuleNotFoundError) and isinstance(caught.value, GradlabError)
    with pytest.raises(MissingExtra, match=r"^this needs Ray"), needs("that"), needs("this"):
        raise ModuleNotFoundError("No module named 'ray'", name="ray")


def test_the_extras_that_messages_name_bring_those_packages() -> None:
    pyproject = Path(__file__).parents[1] / "pyproject.toml"
    if not pyproject.is_file():
        pytest.skip("outside of the repository")
    extras = tomllib.loads(pyproject.read_text())["project"]["optional-dependencies"]
    projects = {"PIL": "pillow", "skimage": "scikit-image"}
    for module, (_, extra) in EXTRAS.items():
        project = projects.get(module, module.replace("_", "-"))
        assert any(re.match(rf"{project}\b", line) for line in extras[extra]), module
