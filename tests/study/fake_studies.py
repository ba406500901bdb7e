"""Small studies for the tests of the runner, the command line and the report."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

TABLE = '''
"""A table <of> numbers.

What it measures & why.
"""
from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pandas as pd

from gradlab import cli
from gradlab.runtime import files
from gradlab.study import Verdict


@dataclass(frozen=True)
class Settings:
    rows: int = 3
    seed: int = 0


PROFILES = {"quick": Settings(), "gpu": Settings(rows=4)}
ASSUMED = {"crop": "64 pixels"}


def inputs(settings, context):
    return {"photographs": Path(__file__).with_suffix(".txt").read_text()}


def measure(settings, context):
    with context.progress.track("measuring", settings.rows) as advance:
        for _ in range(settings.rows):
            advance(1, "ok")
    context.inputs["training images"] = "def"
    bpp = [0.5 + settings.seed + i for i in range(settings.rows)]
    main = pd.DataFrame({"method": [f"[m{i}] <b>" for i in range(settings.rows)], "bpp": bpp, "bpp_se": 0.011})
    main["bpp_paper"] = 0.4
    with open(context.out / "log.txt", "a") as log:
        log.write("table1 ")
    return {"table1": main, "table1_more": pd.DataFrame({"x": [1, 2]})}


def verdicts(tables):
    return [
        Verdict("bpp is < 1", "Table 1", bool(tables["table1"]["bpp"].iloc[0] < 1), "It is [here] 0.5."),
        Verdict("MSE falls", "Section 5", None, "Not <measured>."),
    ]


def draw(folder):
    first = files.read_csv(folder / "table1.csv")["bpp"].iloc[0]
    (folder / "picture.txt").write_text(str(first))


cli.script(__name__)
'''

OTHER = '''
"""Another, with a hyphen."""
from dataclasses import dataclass

import pandas as pd

from gradlab.errors import GradlabError, Stopped


@dataclass(frozen=True)
class Settings:
    seed: int = 0


PROFILES = {"quick": Settings()}


def measure(settings, context):
    with open(context.out / "log.txt", "a") as log:
        log.write("other ")
    behaviour = context.out / "behaviour"
    if behaviour.exists():
        ends = {"error": GradlabError, "stop": Stopped, "interrupt": KeyboardInterrupt}
        raise ends[behaviour.read_text()]("a sentence")
    return {"an-other": pd.DataFrame({"k": [1, 10], "snr": [0.5, 2.0]})}
'''


def forget() -> None:
    """Forgets studies that were imported, so that the next test imports its own."""
    for name in [name for name in sys.modules if name.partition(".")[0] == "gradlab_studies"]:
        del sys.modules[name]


def write(root: Path) -> Path:
    """Writes the package of studies below ``root``."""
    folder = root / "gradlab_studies"
    folder.mkdir()
    (folder / "__init__.py").write_text("")
    (folder / "_helper.py").write_text('"""Not a study."""\nraise SystemExit\n')
    (folder / "table1.py").write_text(TABLE.lstrip())
    (folder / "table1.txt").write_text("abc")
    (folder / "an_other.py").write_text(OTHER.lstrip())
    return folder


@pytest.fixture
def studies(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The folder of the small studies, found as if they were installed; the working folder is empty."""
    (tmp_path / "path").mkdir()
    (tmp_path / "work").mkdir()
    folder = write(tmp_path / "path")
    forget()
    monkeypatch.syspath_prepend(tmp_path / "path")
    monkeypatch.chdir(tmp_path / "work")
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    yield folder
    forget()
