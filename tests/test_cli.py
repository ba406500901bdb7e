"""The command line: quick, light, and one sentence for bad input."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from pathlib import Path

import pytest

import gradlab
from gradlab import cli
from tests.study.fake_studies import studies

__all__ = ["studies"]  # a fixture

HEAVY = ("torch", "pandas", "matplotlib", "compressai", "seaborn", "scipy", "numpy")
ROOT = Path(gradlab.__file__).parents[1]


def fresh(code: str, **environment: str) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), **environment}
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=environment)


@pytest.mark.parametrize(
    "arguments",
    [["--help"], ["run", "--help"], ["list"], ["--version"], ["data", "--help"], ["data", "prepare", "--help"]],
)
def test_light_commands_load_nothing_heavy(studies: Path, arguments: list[str]) -> None:
    code = (
        f"import sys; from gradlab.cli import main; code = main({arguments!r})\n"
        f"assert code == 0, code\nloaded = [name for name in {HEAVY!r} if name in sys.modules]\nassert not loaded, loaded"
    )
    done = fresh(code, PYTHONPATH=f"{studies.parent}:{ROOT}")
    assert done.returncode == 0, done.stderr
    assert done.stdout and not done.stderr


def test_import_gradlab_loads_nothing_heavy() -> None:
    done = fresh(f"import sys, gradlab; dir(gradlab); assert not [n for n in {HEAVY!r} if n in sys.modules]")
    assert done.returncode == 0, done.stderr


def test_lazy_names() -> None:
    assert set(gradlab.__all__) <= set(dir(gradlab))
    assert issubclass(gradlab.GradlabError, ValueError)
    assert gradlab.paper.value(1, "bpp", method="Baseline") == 0.5273
    assert isinstance(gradlab.__version__, str)
    with pytest.raises(AttributeError, match="no attribute 'codec'"):
        gradlab.codec  # noqa: B018


def test_help_shows_a_newcomer_what_to_do(capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["--help"]) == 0
    said = capsys.readouterr().out
    assert "gradlab run toys table1 --profile quick" in said and "gradlab report figures/quick" in said
    assert "..." not in said.replace("ARGS]...", "")  # no description is cut


def test_list(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["list"]) == 0
    said = capsys.readouterr().out
    for words in (
        "studies:",
        "table1",
        "A table <of> numbers.",
        "an-other",
        "estimators:",
        "pathwise",
        "objectives:",
        "elbo",
    ):
        assert words in said
    assert "_helper" not in said


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        (["run", "tabel1"], "error: unknown study 'tabel1': did you mean 'table1'?"),
        (["run", "table1", "--profile", "papr"], "error: unknown profile 'papr': did you mean 'paper'?"),
        (["run", "table1", "--profile", "paper"], "error: study table1 has no profile 'paper': it has quick, gpu"),
        (["run", "table1", "--set", "rows=few"], "error: table1: --set rows is 'few': give a whole number"),
        (["run", "table1", "--set", "rows"], "error: table1: --set 'rows' assigns nothing: give NAME=VALUE"),
        (["run", "table1", "--seed", "-1"], "error: the seed is -1: give"),
        (["run", "table1", "--out", "file/out"], "error: cannot write to file/out"),
        (["run", "table1", "--step", "graph"], "error: step 'graph' needs CUDA, but the device is 'cpu': give 'auto'"),
        (["run", "table1", "--step", "fast"], "error: unknown step 'fast': did you mean 'auto'?"),
        (["run", "table1", "--precision", "tf32"], "error: precision 'tf32' is not available on device 'cpu': give"),
        (["run", "table1", "--precision", "fp8"], "error: unknown precision 'fp8'"),
        (["run", "table1", "--device", "cuda:63"], "error: there is no device 'cuda:63' here: give cpu"),
        (["run", "table1", "--test-images", "gone"], "error: --test-images: there is no folder gone"),
        (["run", "table1", "--time-limit", "-2"], "error: the time limit is -2 minutes"),
        (["report", "empty"], "error: no results in empty: give an output folder of 'gradlab run'"),
        (["report", "gone"], "error: no such folder: gone"),
    ],
)
def test_bad_input_is_one_sentence_and_code_2(
    studies: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], sentence: str
) -> None:
    Path("file").write_text("x")
    Path("empty").mkdir()
    assert cli.main(arguments) == 2
    said = capsys.readouterr()
    assert said.err.startswith(sentence) and said.err.count("\n") == 1 and not said.out


@pytest.mark.parametrize("arguments", [["run"], ["run", "table1", "--seed", "x"], ["rum"], ["list", "--nonsense"]])
def test_wrong_usage_is_code_2(arguments: list[str]) -> None:
    assert cli.main(arguments) == 2


def test_run_and_report(studies: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert cli.main(["run", "table1", "an_other", "--out", "out", "--seed", "2"]) == 0
    assert cli.main(["run", "table1", "--out", "out", "--seed", "2", "--resume"]) == 0
    assert cli.main(["report", "out"]) == 0
    said = capsys.readouterr()
    assert "already done" in said.out and "wrote out/report.html" in said.out and not said.err
    assert Path("out/report.html").is_file()


@pytest.mark.parametrize(("behaviour", "code"), [("error", 2), ("stop", 0), ("interrupt", 130)])
def test_ends_of_a_run(studies: Path, behaviour: str, code: int) -> None:
    Path("out").mkdir()
    Path("out/behaviour").write_text(behaviour)
    assert cli.main(["run", "an-other", "--out", "out"]) == code


def test_from_the_shell_there_is_no_traceback(studies: Path) -> None:
    command = [sys.executable, "-m", "gradlab", "run", "nonsense"]
    done = subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})
    assert done.returncode == 2 and "Traceback" not in done.stderr and done.stderr.startswith("error: unknown study")


def test_warnings_of_other_packages_imports_are_silent(capsys: pytest.CaptureFixture[str]) -> None:
    with warnings.catch_warnings():
        warnings.resetwarnings()
        cli.main(["--version"])
        capsys.readouterr()
        for module in ("torch.jit._script", "compressai.models"):
            warnings.warn_explicit("old", FutureWarning, "x.py", 1, module=module, registry={})
        assert not capsys.readouterr().err
