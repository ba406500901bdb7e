"""The tree: its packages, layers and signatures, what the wheel ships, and the size of a clone."""

from __future__ import annotations

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib  # pytest brings it

ROOT = Path(__file__).resolve().parents[1]
MOST_BYTES = 13_000_000  # of all tracked files
ROOT_MODULES = {"__init__", "__main__", "cli", "errors", "noise", "testing"}
PACKAGES = {
    "codecs", "data", "estimators", "evaluation", "kernels", "objectives", "problems", "runtime", "snr", "study", "training",
    "validation"
}  # fmt: skip

# Signatures are limited to these, `self` and `cls` aside; the command line (cli.py) is exempt.
MOST_POSITIONAL, MOST_PARAMETERS = 6, 8
PUBLIC_CONTRACT = {
    "gradlab/problems/box.py: BoxGaussian.__init__",
    "gradlab/problems/comparison.py: compare",
    "gradlab/problems/normal.py: NormalGaussian.__init__",
    "gradlab/problems/rounded.py: RoundedGaussian.__init__",
    "gradlab/problems/two_level.py: TwoLevel.__init__",
}


@pytest.fixture(scope="module")
def tools():
    """The tables ``[tool.*]`` of pyproject.toml."""
    return tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]


@pytest.fixture(scope="module")
def layers(tools):
    """The import layers, top first, one line of names each."""
    (contract,) = (c for c in tools["importlinter"]["contracts"] if c["type"] == "layers")
    return contract["layers"]


def test_the_root_holds_the_modules_and_packages_of_the_design():
    entries = {p.name for p in (ROOT / "gradlab").iterdir() if p.name != "__pycache__"}
    assert entries == {f"{name}.py" for name in ROOT_MODULES} | PACKAGES | {"py.typed"}


def test_every_module_and_package_is_in_one_layer(layers):
    names = [name.strip() for line in layers for name in re.split(r"[|:]", line)]
    assert sorted(names) == sorted((ROOT_MODULES - {"__init__"}) | PACKAGES)
    assert len(layers) <= 11


def test_the_map_in_contributing_shows_the_layers(layers):
    (block,) = re.findall(r"```\n(__main__.*?)```", (ROOT / "CONTRIBUTING.md").read_text(), flags=re.DOTALL)
    assert [re.split(r"\s{2,}", line)[0] for line in block.splitlines()] == layers


def test_the_paths_that_contributing_names_exist():
    text = (ROOT / "CONTRIBUTING.md").read_text()
    paths = re.findall(r"`((?:gradlab|studies|tests|benchmarks|docs|figures)/[^`\s]*)`", text)
    assert len(paths) > 50
    assert [path for path in paths if not any(ROOT.glob(re.sub(r"<\w+>", "*", path)))] == []


def parameters_of(path: Path):
    """``Class.function`` -> number of positional parameters, and of all, of each function of a file."""

    def visit(node, prefix):
        for child in ast.iter_child_nodes(node):
            name = prefix
            if isinstance(child, (ast.ClassDef, ast.FunctionDef, ast.AsyncFunctionDef)):
                name = f"{prefix}{child.name}."
            if isinstance(child, (ast.FunctionDef, ast.AsyncFunctionDef)):
                arguments = child.args
                positional = [a.arg for a in (*arguments.posonlyargs, *arguments.args) if a.arg not in ("self", "cls")]
                yield name[:-1], (len(positional), len(positional) + len(arguments.kwonlyargs))
            yield from visit(child, name)

    return visit(ast.parse(path.read_text("utf-8")), "")


def test_signatures_are_short():
    """Beyond the limits: keyword-only parameters, or a record of options."""
    paths = [*(ROOT / "gradlab").rglob("*.py"), *(ROOT / "studies").glob("*.py")]
    beyond = {
        f"{path.relative_to(ROOT).as_posix()}: {name}": counts
        for path in sorted(paths)
        if path != ROOT / "gradlab" / "cli.py"
        for name, counts in parameters_of(path)
        if counts[0] > MOST_POSITIONAL or counts[1] > MOST_PARAMETERS
    }
    assert set(beyond) == PUBLIC_CONTRACT


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
