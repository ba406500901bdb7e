"""``{tie}``: ties an equation to the function that computes it and to the test that checks it.

    ```{tie} bound, gradient
    gradlab.problems._oracle.moments.bound
    tests/problems/test_moments_small_k.py::test_published_bounds
    ```

The arguments are labels of equations, each line a name of gradlab or the id of a test. What does not exist is a
warning, and so an error: a name that does not import, a test that its file does not define, an equation without label.
"""

from __future__ import annotations

import ast
import importlib
from functools import cache
from pathlib import Path
from typing import Any

from docutils import nodes
from sphinx.application import Sphinx
from sphinx.util.docutils import SphinxDirective

ROOT = Path(__file__).resolve().parents[2]


def _value(name: str) -> Any:
    """What a dotted name leads to: a module, or a chain of attributes of one; None where it leads nowhere."""
    parts = name.split(".")
    for cut in range(len(parts), 0, -1):
        try:
            value: Any = importlib.import_module(".".join(parts[:cut]))
        except ImportError:
            continue
        try:
            for part in parts[cut:]:
                value = getattr(value, part)
        except AttributeError:
            return None
        return value
    return None


def resolves(name: str) -> bool:
    """Whether there is something of that name."""
    return _value(name) is not None


def defined_at(name: str) -> str:
    """Where the reference describes a name: an inherited method with the class that defines it."""
    owner, _, attribute = name.rpartition(".")
    parent = _value(owner) if owner else None
    if isinstance(parent, type) and attribute not in vars(parent):
        definer = next((c for c in parent.__mro__ if attribute in vars(c)), parent)
        return f"{definer.__module__}.{definer.__qualname__}.{attribute}"
    return name


def _link(name: str) -> str:
    """A link into the reference; private modules have no page there, so that their names are plain."""
    target = defined_at(name)
    return f"`{name}`" if "._" in target else f"{{py:obj}}`{name} <{target}>`"


@cache
def tests_in(path: Path) -> frozenset[str]:
    """Names of the test functions that a file defines."""
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_"))


class Tie(SphinxDirective):
    """See the module."""

    required_arguments = 1
    final_argument_whitespace = True
    has_content = True

    def run(self) -> list[nodes.Node]:
        """The nodes that stand in its place."""
        labels = [label.strip() for label in self.arguments[0].split(",")]
        paragraph = nodes.paragraph(classes=["tie"])
        computed, checked = [], []
        for line in filter(None, (line.strip() for line in self.content)):
            path, colons, test = line.partition("::")
            if colons:
                checked.append(line)
                good = test in tests_in(ROOT / path)
            else:
                computed.append(line)
                good = resolves(line)
            if not good:
                self._warn(f"tie of {', '.join(labels)}: there is no {line}")
        if not computed or not checked:
            self._warn(f"tie of {', '.join(labels)}: name a function and a test")
        source = "".join(f"{{eq}}`{label}` " for label in labels)
        source += "computed by " + ", ".join(map(_link, computed))
        source += "; checked by " + ", ".join(f"`{name}`" for name in checked) + "."
        children, _ = self.state.inline_text(source, self.lineno)
        paragraph += children
        return [paragraph]

    def _warn(self, message: str) -> None:
        self.state.document.reporter.warning(message, line=self.lineno)


def setup(app: Sphinx) -> dict[str, Any]:
    """Adds the directive."""
    app.add_directive("tie", Tie)
    return {"parallel_read_safe": True, "parallel_write_safe": True}
