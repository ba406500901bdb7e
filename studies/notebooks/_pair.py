"""Executes the teaching notebooks: ``NN-name.py`` (jupytext's percent format) to ``NN-name.ipynb`` beside it.

    python studies/notebooks/_pair.py [NAME...]

What is written depends on the sources and on the installed versions alone: no times, no random ids, no paths. Sliders
need a kernel and a page that runs scripts, so their cells (tag ``slider``) keep no output; the cell before such a cell
draws the same picture once.
"""

from __future__ import annotations

import base64
import os
import sys
from pathlib import Path
from typing import Any

import jupytext
import nbformat
from nbclient import NotebookClient

from gradlab.study.palette import light

FOLDER = Path(__file__).resolve().parent
METADATA = {
    "jupytext": {"formats": "ipynb,py:percent"},
    "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
    "language_info": {"name": "python"},
}


def sources() -> list[Path]:
    """The halves that are edited, in their order."""
    return sorted(FOLDER.glob("[0-9][0-9]-*.py"))


def essence(notebook: Any) -> list[tuple[str, str, dict[str, Any]]]:
    """What both halves must agree on: type, text and metadata of each cell."""
    return [(cell.cell_type, cell.source.rstrip(), dict(cell.metadata)) for cell in notebook.cells]


def executed(source: Path) -> Any:
    """The notebook of a source, run from top to bottom.

    Raises:
        CellExecutionError: a cell fails.
        ValueError: a cell warns; a page that is read by students shows no warnings, and none are hidden.
    """
    notebook = jupytext.read(source)
    # jupytext makes random ones, and the client checks them.
    for number, cell in enumerate(notebook.cells, 1):
        cell["id"] = f"cell-{number:02d}"
    NotebookClient(
        notebook, timeout=300, kernel_name="python3", record_timing=False, resources={"metadata": {"path": FOLDER}}
    ).execute()
    for number, cell in enumerate(notebook.cells, 1):
        if "slider" in cell.metadata.get("tags", []):
            cell["outputs"] = []
        for output in cell.get("outputs", []):
            if output.get("name") == "stderr":
                raise ValueError(f"{source.name}, cell {number} warns: {output['text'].strip()}")
            _lighten(output)
    notebook.metadata = nbformat.from_dict(METADATA)
    notebook.nbformat, notebook.nbformat_minor = 4, 5
    return notebook


def _lighten(output: Any) -> None:
    """Compress the picture that a cell shows, if it shows one."""
    data = output.get("data", {})
    if "image/png" in data:
        data["image/png"] = base64.b64encode(light(base64.b64decode(data["image/png"]))).decode()


def main(names: list[str]) -> None:
    """Writes the notebooks whose names contain one of ``names``; all of them without any."""
    # As in the tests: the number of threads does not change what is written.
    os.environ["OMP_NUM_THREADS"] = "1"
    os.environ["PYTHONWARNINGS"] = "ignore::FutureWarning"  # as in pytest: one of torch, from importing compressai
    for source in sources():
        if not names or any(name in source.name for name in names):
            print(f"executing {source.name}", flush=True)
            nbformat.write(executed(source), source.with_suffix(".ipynb"))


if __name__ == "__main__":
    main(sys.argv[1:])
