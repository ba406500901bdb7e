from __future__ import annotations

import re
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]


def test_the_wheel_holds_every_package():
    """The list in pyproject.toml is explicit (studies are installed under another name), so it can go stale."""
    text = (ROOT / "pyproject.toml").read_text()
    listed = set(re.findall(r'"(gradlab[\w.]*)"', text.split("[tool.setuptools]")[1].split("]")[0]))
    there = {".".join(p.parent.relative_to(ROOT).parts) for p in (ROOT / "gradlab").rglob("__init__.py")}
    assert listed == there | {"gradlab_studies"}


def test_every_data_file_of_a_package_is_shipped():
    text = (ROOT / "pyproject.toml").read_text().split("[tool.setuptools.package-data]")[1].split("\n[")[0]
    patterns = {
        (line.split("=")[0].strip(' "'), p)
        for line in text.splitlines()
        if "=" in line
        for p in re.findall(r'"([^"]+\.\w+)"', line.split("=")[1])
    }
    shipped = {f for package, pattern in patterns for f in (ROOT / package.replace(".", "/")).glob(pattern)}
    files = {f for f in (ROOT / "gradlab").rglob("*") if f.is_file() and "__pycache__" not in f.parts}
    assert {f for f in files if f.suffix != ".py"} - {ROOT / "gradlab" / "py.typed"} <= shipped
