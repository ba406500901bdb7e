"""Docstrings: every example runs, and every public name documents its arguments, its errors and how it is used.

Examples start from an empty namespace, so that a reader can paste them: each imports what it uses, and rounds what it
prints.
"""

from __future__ import annotations

import ast
import doctest
import functools
import importlib
import inspect
import re
import textwrap
import types
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

import gradlab as gl
from gradlab.errors import GradlabError

ROOT = Path(gl.__file__).parent
FILES = sorted(ROOT.rglob("*.py"))
ERRORS = {"ArgumentError", "GradlabError", "NotExact", "NonFinite", "unknown"}
"""The errors of gradlab, and the function that builds one."""


# ---------------------------------------------------------------------------------------------------------- examples


def module_name(file: Path) -> str:
    """The name under which a source file is imported."""
    parts = file.relative_to(ROOT.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def docstrings(tree: ast.Module, module: str) -> Iterator[tuple[str, str, int]]:
    """Name, docstring and line of a module and of everything in it, decorated functions included."""

    def visit(node: ast.AST, name: str) -> Iterator[tuple[str, str, int]]:
        if isinstance(node, (ast.Module, ast.ClassDef, ast.FunctionDef)):
            text = ast.get_docstring(node)
            if text:
                yield name, text, node.body[0].lineno
            for child in node.body:
                yield from visit(child, f"{name}.{getattr(child, 'name', '')}")

    return visit(tree, module)


def failures(text: str, name: str, file: str, line: int) -> str:
    """What doctest reports of the examples in a docstring: nothing where they hold."""
    test = doctest.DocTestParser().get_doctest(text, {"__name__": "__main__"}, name, file, line)
    said: list[str] = []
    runner = doctest.DocTestRunner(optionflags=doctest.ELLIPSIS | doctest.NORMALIZE_WHITESPACE)
    with torch.random.fork_rng():  # many draw their inputs by torch.rand: the same ones in every run
        torch.manual_seed(0)
        runner.run(test, out=said.append)
    return "".join(said)


@pytest.mark.parametrize("file", [f for f in FILES if ">>>" in f.read_text(encoding="utf-8")], ids=module_name)
def test_examples(file, tmp_path, monkeypatch):
    """The examples of one module print what they show."""
    load(module_name(file)) or pytest.skip("an extra is not installed")
    monkeypatch.chdir(tmp_path)
    tree = ast.parse(file.read_text(encoding="utf-8"))
    found = [failures(text, name, str(file), line) for name, text, line in docstrings(tree, module_name(file))]
    assert not any(found), "\n".join(filter(None, found))


@pytest.mark.parametrize(("text", "report"), [
    (">>> 1 + 1\n2", ""),
    (">>> 1 + 1\n3", "Expected:"),
    (">>> import gradlab as gl\n>>> gl.nothing\n", "AttributeError"),
    (">>> gl\n", "NameError"),
])  # fmt: skip
def test_a_wrong_example_is_reported(text, report):
    assert (report in failures(text, "a", "a.py", 0)) and (bool(report) == bool(failures(text, "a", "a.py", 0)))


# ------------------------------------------------------------------------------------------------------ public names


@functools.cache
def load(name: str) -> types.ModuleType | None:
    """A module of gradlab, or None where it needs an extra that is not installed."""
    try:
        return importlib.import_module(name)
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("gradlab"):
            raise
    except GradlabError as error:
        if "needs" not in str(error):
            raise
    return None


def exported() -> Iterator[Any]:
    """What the names in ``gl.__all__`` are, and the public names of those that are modules."""
    homes = [getattr(gl, name, None) for name in gl.__all__ if extra_is_installed(name)]
    for value in [*homes, load("gradlab.evaluation.gradients")]:
        if not inspect.ismodule(value):
            yield value
            continue
        own = [n for n, v in vars(value).items() if getattr(v, "__module__", None) == value.__name__ and n[0] != "_"]
        yield from (getattr(value, name) for name in getattr(value, "__all__", own))


def extra_is_installed(name: str) -> bool:
    """Whether a name of the package loads."""
    try:
        getattr(gl, name)
    except GradlabError:
        return False
    return True


@functools.cache
def public() -> dict[str, tuple[Any, type | None]]:
    """Where it is defined -> each public class, function and method once, and the class that a method is taken from."""
    found: dict[str, tuple[Any, type | None]] = {}
    for value in exported():
        if not (inspect.isclass(value) or inspect.isfunction(value)) or isinstance(value, types.GenericAlias):
            continue
        if hasattr(value, "_fields") or not value.__module__.startswith("gradlab"):
            continue  # a NamedTuple is a record
        found.setdefault(path(value), (value, None))
        for name in dir(value) if inspect.isclass(value) else ():
            method = inspect.unwrap(getattr(inspect.getattr_static(value, name), "__func__", getattr(value, name)))
            field = name[0] == "_" or name == "extra_repr" or name in getattr(value, "__dataclass_fields__", ())
            if not field and inspect.isfunction(method) and method.__module__.startswith("gradlab"):
                found.setdefault(path(method), (getattr(value, name), value))
    return dict(sorted(found.items()))


def path(value: Any) -> str:
    """The module and the name of a definition."""
    return f"{value.__module__}.{value.__qualname__}".removeprefix("gradlab.")


def documentation(value: Any, owner: type | None) -> list[str]:
    """The docstring, then that of the same method of each base class."""
    texts = [inspect.getdoc(value) or ""]
    for base in owner.__mro__ if owner else ():
        if base.__module__.startswith("gradlab") and value.__name__ in vars(base):
            texts.append(inspect.getdoc(getattr(base, value.__name__)) or "")
    return texts


def entries(text: str, sections: tuple[str, ...] = ("Args", "Attributes")) -> list[str]:
    """The names that a docstring describes, in their order."""
    names: list[str] = []
    for section in re.findall(rf"^(?:{'|'.join(sections)}):\n((?:(?: +.*)?\n)+)", f"{text}\n", flags=re.MULTILINE):
        names += re.findall(r"^(\w+)(?: \(.*?\))?:", textwrap.dedent(section).replace("*", ""), flags=re.MULTILINE)
    return names


def parameters(value: Any) -> tuple[set[str], set[str]]:
    """The names of the parameters, and those of them that a docstring may leave out."""
    try:
        found = inspect.signature(inspect.unwrap(value)).parameters.values()
    except ValueError:
        return set(), set()
    named = {p.name for p in found} - {"self", "cls"}
    rest = {p.name for p in found if p.kind in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return named, rest if inspect.isclass(value) else set()


def raises(value: Any) -> bool:
    """Whether the source of a function, or of the constructor of a class, raises an error of gradlab."""
    if inspect.isclass(value):
        return any(raises(vars(value)[name]) for name in ("__init__", "__post_init__") if name in vars(value))
    value = inspect.unwrap(value)
    if not value.__module__.startswith("gradlab") or not value.__code__.co_filename.endswith(".py"):
        return False  # the constructor that a dataclass writes
    tree = ast.parse(textwrap.dedent(inspect.getsource(value)))
    raised = [node.exc for node in ast.walk(tree) if isinstance(node, ast.Raise) and node.exc]
    return any(isinstance(n, ast.Name) and n.id in ERRORS for exc in raised for n in ast.walk(exc))


def faults(value: Any, owner: type | None) -> list[str]:
    """What the docstring of a public name lacks or should not have."""
    texts = documentation(value, owner)
    named, optional = parameters(value)
    known = {name for text in texts for name in entries(text)}
    own = entries(texts[0], ("Args",))
    found = [f"{name} is not described" for name in sorted(named - optional - known)]
    found += [f"{name} is no argument" for name in sorted(set(own) - named)]
    found += [f"{name} is described twice" for name in sorted({n for n in own if own.count(n) > 1})]
    if raises(value) and not any("Raises:\n" in text for text in texts):
        found.append("Raises is missing")
    return found


def has_example(value: Any, owner: type | None) -> bool:
    """Whether a docstring shows a use: its own, that of an interface, or that of the class, which calls the method."""
    if any(">>>" in text for text in documentation(value, owner)):
        return True
    classes = [base for base in owner.__mro__ if base.__module__.startswith("gradlab")] if owner else []
    shown = re.findall(r"^\s*(?:>>>|\.\.\.) (.*)", "\n".join(c.__doc__ or "" for c in classes), flags=re.MULTILINE)
    called = getattr(value, "__name__", "")
    return any(f".{called}(" in line for line in shown) or getattr(value, "__isabstractmethod__", False)


def test_every_public_name_has_an_example():
    assert [name for name, (value, owner) in public().items() if not has_example(value, owner)] == []


def test_every_public_name_describes_its_arguments_and_errors():
    wrong = {name: faults(value, owner) for name, (value, owner) in public().items()}
    assert {name: found for name, found in wrong.items() if found} == {}


def refuse(a: int, *rest: int) -> None:
    """Refuse.

    Args:
        a: of two lines,
            b: which is none.
        rest: more.

    Raises:
        GradlabError: always.
    """
    raise GradlabError("no")


@pytest.mark.parametrize(("old", "new", "fault"), [
    ("", "", None),
    ("        a: of", "        c: of", "a is not described"),
    ("        a: of", "        c: of", "c is no argument"),
    ("        rest: more", "        a: more", "a is described twice"),
    ("Raises:", "Returns:", "Raises is missing"),
])  # fmt: skip
def test_a_fault_is_found(old, new, fault, monkeypatch):
    monkeypatch.setattr(refuse, "__doc__", refuse.__doc__.replace(old, new))
    monkeypatch.setattr(refuse, "__module__", "gradlab")
    assert (fault in faults(refuse, None)) if fault else faults(refuse, None) == []
