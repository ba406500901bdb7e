"""The teaching notebooks: they run, both halves agree, outputs are clean, and the hidden solutions do what they say."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import os
import re
from pathlib import Path

import jupytext
import nbformat
import pytest

from tests.processes import Process

FOLDER = Path(__file__).resolve().parents[2] / "studies" / "notebooks"
_spec = importlib.util.spec_from_file_location("_pair", FOLDER / "_pair.py")
pair = importlib.util.module_from_spec(_spec)
_spec.loader.exec_module(pair)

SOURCES = pair.sources()
NAMES = [path.stem for path in SOURCES]
SOLUTION = re.compile(r"<details><summary>Solution.*?</summary>\n(.*?)</details>", flags=re.DOTALL)
BLOCK = re.compile(r"```python\n((?:(?!```).)*)```\n\n```\n(.*?)```", flags=re.DOTALL)


def both(name):
    source = FOLDER / f"{name}.py"
    return jupytext.read(source), nbformat.read(source.with_suffix(".ipynb"), 4)


def test_every_half_has_its_other_half():
    assert [path.stem for path in sorted(FOLDER.glob("*.ipynb"))] == NAMES
    assert [name[:2] for name in NAMES] == [f"{number:02d}" for number in range(1, len(NAMES) + 1)]


def run(path):
    """Runs the code cells one after the other, in a kernel of this process; the exit code."""
    from ipykernel.inprocess import InProcessKernelManager

    os.chdir(FOLDER)
    manager = InProcessKernelManager()
    manager.start_kernel()
    for cell in nbformat.read(path, 4).cells:
        if cell.cell_type == "code" and not manager.kernel.shell.run_cell(cell.source, store_history=True).success:
            return 1
    return 0


@pytest.mark.slow
@pytest.mark.parametrize("name", NAMES)
def test_it_runs_from_top_to_bottom(name, tmp_path):
    """In a process of its own, and in well under a minute."""
    log = tmp_path / "log.txt"
    assert Process(run, FOLDER / f"{name}.ipynb", log=log).wait(120) == 0, log.read_text()[-4000:]


@pytest.mark.parametrize("name", NAMES)
def test_both_halves_agree(name):
    source, notebook = both(name)
    assert pair.essence(source) == pair.essence(notebook), "run 'make notebooks'"


@pytest.mark.parametrize("name", NAMES)
def test_outputs_are_there_and_clean(name):
    path = FOLDER / f"{name}.ipynb"
    _, notebook = both(name)
    nbformat.validate(notebook)
    assert notebook.metadata == pair.METADATA
    text = path.read_text()
    assert len(text) < 400_000
    for trace in ("/home/", "/root/", "/tmp/", "/usr/", "site-packages", "Warning", "object at 0x"):
        assert trace not in text, trace
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in code] == list(range(1, len(code) + 1))
    assert all(output.get("name") != "stderr" for cell in code for output in cell.outputs)
    assert sum("image/png" in output.get("data", {}) for cell in code for output in cell.outputs) >= 2


@pytest.mark.parametrize("name", NAMES)
def test_a_slider_has_its_picture_beside_it(name):
    """A code host runs no widgets: what a slider draws was drawn once, by a cell before it."""
    _, notebook = both(name)
    for number, cell in enumerate(notebook.cells):
        if "interact(" not in cell.source or cell.cell_type != "code" or "import" in cell.source:
            continue
        assert cell.metadata.tags == ["slider"] and not cell.outputs
        drawn = re.search(r"interact\(\s*(\w+)", cell.source)[1]
        before = [c for c in notebook.cells[:number] if re.search(rf"^{drawn}\(.*\)$", c.source, flags=re.MULTILINE)]
        assert any("image/png" in output.get("data", {}) for c in before for output in c.outputs)


@pytest.mark.parametrize("name", NAMES)
def test_the_parts_that_each_has(name):
    source, _ = both(name)
    text = "\n".join(cell.source for cell in source.cells if cell.cell_type == "markdown")
    assert text.startswith(f"# {int(name[:2])}. ")
    assert "**After this notebook you can**" in text
    assert "## Exercises" in text and "## References" in text
    assert len(SOLUTION.findall(text)) == 3
    assert re.findall(r"^\*\*(\d)\. ", text, flags=re.MULTILINE) == ["1", "2", "3"]


@pytest.mark.parametrize("name", NAMES)
def test_the_hidden_solutions_print_what_they_show(name):
    """Each runs after the code cells tagged ``setup`` and the first one, with the imports."""
    source, _ = both(name)
    code = [cell for cell in source.cells if cell.cell_type == "code"]
    names: dict = {}
    for number, cell in enumerate(code):
        if number == 0 or "setup" in cell.metadata.get("tags", []):
            exec(re.sub(r"^%.*$", "", cell.source, flags=re.MULTILINE), names)
    text = "\n".join(cell.source for cell in source.cells if cell.cell_type == "markdown")
    found = [block for solution in SOLUTION.findall(text) for block in BLOCK.findall(solution)]
    assert len(found) == text.count("```python\n") >= 1
    for solution, shown in found:
        printed = io.StringIO()
        with contextlib.redirect_stdout(printed):
            exec(solution, dict(names))
        assert [line.rstrip() for line in printed.getvalue().splitlines()] == shown.splitlines()
