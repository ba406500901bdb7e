"""Writes the pages of the reference before each build: one for each module or package of gradlab, from docstrings."""

from __future__ import annotations

import importlib
import inspect
import logging
import re
import shutil
import types
from pathlib import Path
from typing import Any

import commandline
import public
import tie
from sphinx.application import Sphinx
from sphinx.pycode import ModuleAnalyzer

# Where a reader would look; a module that no line names is listed under the last.
SECTIONS = {
    "Estimators, objectives and what they are made of": ("estimators", "objectives", "noise"),
    "Toy problems and exact answers": ("problems", "testing"),
    "Signal-to-noise ratio": ("snr",),
    "Codecs": ("codecs", "data", "training", "evaluation"),
    "Studies, reports and the rest": (),
}  # fmt: skip


def write(app: Sphinx) -> None:
    """The pages of ``reference/api``, and copies of the notebooks, which lie outside of the documentation."""
    target = Path(app.srcdir) / "reference" / "api"
    target.mkdir(parents=True, exist_ok=True)
    homes = public.homes()
    pages = {name.split(".")[1] for name in homes}
    texts = {f"{page}.rst": _page(page, homes) for page in pages}
    texts |= {"index.rst": _index(pages), "gradlab.rst": _names()}
    texts |= {"command-line.md": commandline.command_page(), "studies-list.md": commandline.study_page()}
    for name, text in texts.items():
        _put(target / name, text)
    for stale in {p.name for p in target.iterdir()} - set(texts):
        (target / stale).unlink()
    shown = Path(app.srcdir) / "notebooks"
    for notebook in sorted((Path(app.srcdir).parent / "studies" / "notebooks").glob("*.ipynb")):
        shutil.copy2(notebook, shown / notebook.name)


def _put(path: Path, text: str) -> None:
    if not path.is_file() or path.read_text(encoding="utf-8") != text:
        path.write_text(text, encoding="utf-8")


def _page(page: str, homes: dict[str, list[str]]) -> str:
    lines = []
    shadowed = {f"{home}.{n}" for home, own in homes.items() for n in own} & set(homes)
    for name in sorted(n for n in homes if n.split(".")[1] == page):
        lines += _title(name, "=" if name.count(".") == 1 else "-")
        module = importlib.import_module(name)
        if name in shadowed:  # a function of that name is exported beside it
            lines += [f".. automodule:: {name}", "   :no-index:", ""]
            for n in homes[name]:
                kind = "class" if inspect.isclass(getattr(module, n)) else "function"
                lines += [f".. auto{kind}:: {name}.{n}", *([] if kind == "function" else ["   :members:"]), ""]
            continue
        lines += [f".. automodule:: {name}", "   :members:"]
        elsewhere = [n for n in public.names(module) if n not in homes[name]]
        data = [n for n in homes[name] if _is_data(getattr(module, n))]
        lines += [f"   :exclude-members: {', '.join(elsewhere + data)}"] if elsewhere or data else []
        lines += [""]
        for n in data:  # named whether it has a docstring or not; a table is no value to print
            large = isinstance(getattr(module, n), dict)
            lines += [f".. autodata:: {name}.{n}", *(["   :no-value:"] if large else []), ""]
    return "\n".join(lines)


def _index(pages: set[str]) -> str:
    named = {page for section in SECTIONS.values() for page in section}
    lines = [*_title("Python API", "="), "Everything public, from the docstrings.", ""]
    lines += [".. toctree::", "   :hidden:", "", "   gradlab", ""]
    lines += [":doc:`gradlab`", "   The names of ``import gradlab as gl``.", ""]
    for title, wanted in SECTIONS.items():
        section = [p for p in wanted if p in pages] or sorted(pages - named)
        lines += [*_title(title, "-"), ".. toctree::", "   :hidden:", "", *(f"   {p}" for p in section), ""]
        for page in section:
            lines += [f":doc:`{page}`", f"   {_first(importlib.import_module(f'{public.PACKAGE}.{page}'))}", ""]
    return "\n".join(lines)


def _names() -> str:
    """The names of the package itself, each with the module that documents it."""
    module = importlib.import_module(public.PACKAGE)
    lines = [*_title("gradlab", "="), (inspect.getdoc(module) or ""), ""]
    homes = public.homes()
    for name in sorted(module.__all__, key=str.lower):
        value = getattr(module, name)
        if inspect.ismodule(value):
            page = value.__name__.split(".")[1]
            lines += [f"``gl.{name}``: :doc:`{page}`", f"   {_first(value)}", ""]
            continue
        home = next(
            (h for h, own in homes.items() if name in own and getattr(importlib.import_module(h), name) is value), ""
        )
        if home:
            about = (
                f"   {_first(value)}"
                if inspect.isclass(value) or inspect.isfunction(value)
                else f"   See :mod:`{home}`."
            )
            lines += [f"``gl.{name}``: :py:obj:`{home}.{name}`", about, ""]
        else:
            lines += [f"``gl.{name}``", f"   The {name.strip('_')}.", ""]
    return "\n".join(lines)


def _is_data(value: Any) -> bool:
    """Whether a value has no docstring of its own: a number, a table, an alias of a type."""
    return isinstance(value, types.GenericAlias) or not (callable(value) or inspect.ismodule(value))


def _first(value: Any) -> str:
    return (inspect.getdoc(value) or "").strip().split("\n\n")[0].replace("\n", " ")


def _title(text: str, line: str) -> list[str]:
    return [text, line * len(text), ""]


def skip(app: Sphinx, what: str, name: str, value: Any, skipped: bool, options: Any) -> bool | None:
    """The fields of a named tuple are described by the class."""
    return True if str(getattr(value, "__doc__", "")).startswith("Alias for field number") else None


def tidy(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Plain docstrings as reStructuredText: indented formulas are literal, and |x| in prose is no substitution."""
    if what == "data":
        lines[:] = [*_described(name, value), ""]
    shown: list[str] = []
    section = ""
    before = ""  # the last line with text, if a blank line follows
    for i, line in enumerate(lines):
        section = line.strip() if re.fullmatch(r"\s*[A-Z]\w+:", line) else section
        if section == "Attributes:":  # several names with one description; what is before a blank would be a type
            line = re.sub(r"^(\s+)(\w+(?:, \w+)+):", lambda m: m[1] + m[2].replace(" ", "") + ":", line)
        if what == "module" and re.match(r"(Approximates|With|Requires|Biased when): ", line):
            line = re.sub(r"^([^:]+):", r"**\1:**", line)  # the contract of an estimator, a paragraph each
            shown.append("")
        opens = bool(before) and not lines[i - 1].strip() and _indent(line) > _indent(before)
        if opens and not before.endswith("::") and not re.match(r"\s*(\.\.|[-*] |\d+\. )", before):
            shown += [" " * _indent(before) + "::", ""]
        parts = re.split(r"(``.*?``)", line)
        shown.append("".join(p if p.startswith("``") else re.sub(r"(?<![\w)\\])\|(?=\S)", r"\|", p) for p in parts))
        before = line if line.strip() else before
    lines[:] = shown


def _described(name: str, value: Any) -> list[str]:
    """What the source says below a value, also where a package exports that of a module in it."""
    home, _, own = name.rpartition(".")
    for module in [home, *(m for m in public.modules() if m.startswith(f"{home}."))]:
        docs = ModuleAnalyzer.for_module(module).find_attr_docs()
        if ("", own) in docs and getattr(importlib.import_module(module), own) is value:
            return [*docs["", own]]
    return []


def keep(app: Sphinx, what: str, name: str, value: Any, options: Any, lines: list[str]) -> None:
    """Napoleon takes what stands before a colon for the type of a value: what it made of one is undone."""
    if what in ("data", "attribute", "property"):
        if app.env.temp_data.get("gradlab-plain", ("", []))[0] == name:
            lines[:] = app.env.temp_data.pop("gradlab-plain")[1]
        elif not any(re.match(r"(Raises|Returns|Args):", line) for line in lines):
            app.env.temp_data["gradlab-plain"] = name, list(lines)


def _indent(line: str) -> int:
    return len(line) - len(line.lstrip())


def unlisted(app: Sphinx, env: Any, node: Any, text: Any) -> Any:
    """A type that exists but is not public, such as a type variable, is shown without a link."""
    target = node.get("reftarget", "")
    known = node.get("reftype") == "class" and target.startswith(f"{public.PACKAGE}.") and tie.resolves(target)
    return text if known else None


def setup(app: Sphinx) -> dict[str, Any]:
    """Connects all of that."""
    # Pages and notebooks that a checkout may lack are named by a glob; Sphinx gives that warning no type to suppress.
    logging.getLogger("sphinx.sphinx.directives.other").addFilter(lambda r: getattr(r, "subtype", "") != "empty_glob")
    app.connect("builder-inited", write)
    app.connect("autodoc-skip-member", skip)
    app.connect("missing-reference", unlisted)
    app.connect("autodoc-process-docstring", tidy, priority=400)
    app.connect("autodoc-process-docstring", keep, priority=450)  # before napoleon
    app.connect("autodoc-process-docstring", keep, priority=550)  # and after
    return {"parallel_read_safe": True, "parallel_write_safe": True}
