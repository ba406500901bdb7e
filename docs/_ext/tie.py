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

import public
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


def documented_at(name: str) -> str:
    """Where the reference describes a name: with the package that exports it; an inherited method with its class.

    Returns:
        The full name there; empty for what is private, which the reference leaves out.
    """
    if any(part.startswith("_") for part in name.split(".")):
        return ""
    owner, _, attribute = name.rpartition(".")
    parent = _value(owner) if owner else None
    if isinstance(parent, type):
        definer = next((c for c in parent.__mro__ if attribute in vars(c)), parent)
        home = documented_at(f"{definer.__module__}.{definer.__qualname__}")
        return home and f"{home}.{attribute}"
    value = _value(name)
    for module, names in public.homes().items():
        for exported in names:
            if exported == attribute and getattr(importlib.import_module(module), exported) is value:
                return f"{module}.{exported}"
    return name


@cache
def tests_in(path: Path) -> frozenset[str]:
    """Names of the test functions that a file defines."""
    if not path.is_file():
        return frozenset()
    tree = ast.parse(path.read_text(encoding="utf-8"))
    return frozenset(n.name for n in ast.walk(tree) if isinstance(n, ast.FunctionDef) and n.name.startswith("test_"))


def _linked(name: str) -> str:
    target = documented_at(name)
    return f"{{py:obj}}`{name} <{target}>`" if target else f"`{name}`"


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
        source += "computed by " + ", ".join(map(_linked, computed))
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
