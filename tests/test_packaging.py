from __future__ import annotations

import re
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 13_000_000  # of all tracked files


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


@pytest.mark.skipif(not (ROOT / ".git").exists(), reason="not a git checkout")
def test_the_tree_is_light():
    """A clone is quick to fetch; figures are compressed when they are saved, and reports are built, not tracked."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    names = [name for name in listed.split("\0") if name and (ROOT / name).is_file()]
    sizes = sorted(((ROOT / name).lstat().st_size, name) for name in names)[::-1]
    total = sum(size for size, _ in sizes)
    largest = ", ".join(f"{name} ({size / 1e6:.2f} MB)" for size, name in sizes[:5])
    assert len(names) > 100
    assert total < MOST_BYTES, (
        f"tracked files hold {total / 1e6:.2f} MB of {MOST_BYTES / 1e6:g}; the largest: {largest}"
    )
