"""List the available studies, estimators, objectives and rounding proxies, and load the studies that a request names.

Names and descriptions are read from the source code: ``gradlab list`` imports no study, and neither torch nor pandas.
"""

from __future__ import annotations

import ast
import functools
import importlib
import importlib.util
import re
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

from gradlab.errors import GradlabError, unknown
from gradlab.study.assignments import assigned
from gradlab.study.request import Request

PACKAGE = "gradlab_studies"
LIBRARY = Path(__file__).parents[1]


def studies_folder() -> Path:
    """Return the folder of the study modules: the installed package, otherwise ``studies`` next to the library.

    Raises:
        GradlabError: neither exists.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    checkout = LIBRARY.parent / "studies"
    if not checkout.is_dir():
        raise GradlabError(
            f"no studies found: neither the package {PACKAGE} nor {checkout} exists; install gradlab from a checkout"
        )
    if PACKAGE not in sys.modules:
        # If the package is not installed, create it, so that studies can import one another by the same name.
        package = ModuleType(PACKAGE)
        package.__path__ = [str(checkout)]
        package.__spec__ = importlib.util.spec_from_loader(PACKAGE, loader=None, is_package=True)
        sys.modules[PACKAGE] = package
    return checkout


def studies() -> dict[str, str]:
    """Return the first line of the docstring of each study, by its name on the command line.

    Raises:
        GradlabError: there are no studies, or one cannot be parsed.
    """
    files = [path for path in studies_folder().glob("*.py") if not path.name.startswith("_")]
    described = {path.stem.replace("_", "-"): _first_line(path) for path in files}
    return {name: described[name] for name in sorted(described, key=natural)}


def estimators() -> dict[str, str]:
    """Return the first line of the file of each estimator, by name; files are named after estimators."""
    folder = LIBRARY / "estimators"
    return {name: _first_line(folder / f"{_module(name)}.py") for name in _dict(folder / "__init__.py", "ESTIMATORS")}


def objectives() -> dict[str, str]:
    """Return the ``summary`` of each objective, by name."""
    calls = _dict(LIBRARY / "objectives" / "bounds.py", "OBJECTIVES")
    return {name: next((ast.literal_eval(keyword.value) for keyword in call.keywords if keyword.arg == "summary"), "")
            for name, call in calls.items()}  # fmt: skip


def proxies() -> dict[str, str]:
    """Return the first line of the file of each rounding proxy, by name."""
    folder = LIBRARY / "objectives" / "proxies"
    return {name: _first_line(folder / f"{_module(name)}.py") for name in _dict(folder / "__init__.py", "PROXIES")}


def natural(name: str) -> list[tuple[int, str]]:
    """Return a sort key that places ``table10`` after ``table9``."""
    return [(int(part or 0), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def load(names: Sequence[str], request: Request) -> dict[str, ModuleType]:
    """Import the named studies, each once, in the given order.

    Args:
        names: names of studies.
        request: the request, whose profile and assignments are checked.

    Returns:
        The modules, by name.

    Raises:
        GradlabError: no study is named, or a study is unknown, is incomplete, lacks the profile or rejects an
            assignment.
    """
    known = studies()
    names = list(dict.fromkeys(name.replace("_", "-") for name in names))
    if not names:
        raise GradlabError(f"no study is given: give some of {', '.join(known)}")
    for name in names:
        if name not in known:
            raise unknown("study", name, known)
    modules = {name: importlib.import_module(f"{PACKAGE}.{_module(name)}") for name in names}
    for name, module in modules.items():
        for part in ("PROFILES", "measure"):
            if not hasattr(module, part):
                raise GradlabError(f"study {name} has no {part}: add it to {module.__file__}")
        if request.profile not in module.PROFILES:
            raise GradlabError(f"study {name} has no profile {request.profile!r}: it has {', '.join(module.PROFILES)}")
        try:
            _check_assignments(module.PROFILES[request.profile], request.assignments)
            settings_of(module, request)
        except GradlabError as error:
            raise GradlabError(f"{name}: {error}") from error
    return modules


def settings_of(module: ModuleType, request: Request) -> Any:
    """Return the settings of a study: those of the profile, with the seed and the assignments of the request."""
    return assigned(replace(module.PROFILES[request.profile], seed=request.seed), request.assignments)


def _check_assignments(settings: Any, assignments: Sequence[str]) -> None:
    """Reject assignments to fields that another option would silently overwrite."""
    from gradlab.training import TrainSettings

    for assignment in assignments:
        path = assignment.partition("=")[0].strip()
        *groups, name = path.split(".")
        group = functools.reduce(lambda parent, part: getattr(parent, part, None), groups, settings)
        options = {"seed": "--seed"} if group is settings else {}
        options |= {"seed": "--seed", "data": "--train-images"} if isinstance(group, TrainSettings) else {}
        if name in options:
            raise GradlabError(f"--set {path} would be overwritten: give {options[name]} instead")


def _module(name: str) -> str:
    return name.replace("-", "_")


def _dict(path: Path, name: str) -> dict[str, Any]:
    """Return the keys of the dict literal that a module assigns to ``name``, with the syntax trees of its values."""
    literal: Any = next(node.value for node in _parse(path).body
                        if isinstance(node, ast.AnnAssign) and ast.unparse(node.target) == name)  # fmt: skip
    return dict(zip(map(ast.literal_eval, literal.keys), literal.values, strict=True))


def _first_line(path: Path) -> str:
    return (ast.get_docstring(_parse(path)) or "").partition("\n")[0].strip()


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise GradlabError(f"{path} cannot be parsed ({error}): fix it") from None
