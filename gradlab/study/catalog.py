"""What there is to run, read from the source text: nothing is imported, so that ``gradlab list`` answers at once."""

from __future__ import annotations

import ast
import importlib.util
import re
import sys
from pathlib import Path
from types import ModuleType

from gradlab.errors import GradlabError

PACKAGE = "gradlab_studies"


def studies_folder() -> Path:
    """Where the study modules lie: the installed package, else ``studies`` beside the library.

    Raises:
        GradlabError: neither is there.
    """
    spec = importlib.util.find_spec(PACKAGE)
    if spec is not None and spec.submodule_search_locations:
        return Path(next(iter(spec.submodule_search_locations)))
    beside = Path(__file__).resolve().parents[2] / "studies"
    if not beside.is_dir():
        raise GradlabError(f"no studies: neither the package {PACKAGE} nor {beside} is there; install from a checkout")
    if PACKAGE not in sys.modules:
        # Not installed: the same name for the same modules, so that studies can import one another.
        package = ModuleType(PACKAGE)
        package.__path__ = [str(beside)]
        package.__spec__ = importlib.util.spec_from_loader(PACKAGE, loader=None, is_package=True)
        sys.modules[PACKAGE] = package
    return beside


def studies() -> dict[str, str]:
    """Name of each study, as on the command line, to the first line of its docstring.

    Raises:
        GradlabError: no studies, or one that does not parse.
    """
    files = [path for path in studies_folder().glob("*.py") if not path.name.startswith("_")]
    described = {path.stem.replace("_", "-"): _first_line(_parse(path)) for path in files}
    return {name: described[name] for name in sorted(described, key=natural)}


def estimators() -> dict[str, str]:
    """Name of each estimator to the first line of its file's docstring; the files are named after the estimators."""
    return _entries(Path(__file__).parents[1] / "estimators" / "__init__.py", "ESTIMATORS")


def objectives() -> dict[str, str]:
    """Name of each objective to its value, from the table in the docstring of ``objectives``."""
    return _entries(Path(__file__).parents[1] / "objectives" / "bounds.py", "OBJECTIVES")


def proxies() -> dict[str, str]:
    """Name of each proxy of rounding to the first line of its file's docstring."""
    return _entries(Path(__file__).parents[1] / "objectives" / "proxies" / "__init__.py", "PROXIES")


def natural(name: str) -> list[tuple[int, str]]:
    """Sort key under which ``table10`` follows ``table9``."""
    return [(int(part or 0), "") if part.isdigit() else (0, part) for part in re.split(r"(\d+)", name)]


def _entries(path: Path, table: str) -> dict[str, str]:
    """Keys of the dict literal ``table`` in ``path``, each with what its file or the docstring there says of it."""
    if not path.is_file():
        return {}
    module = _parse(path)
    rows = (ast.get_docstring(module) or "").splitlines()
    entries = {}
    for key in _keys(module, table):
        file = path.with_name(f"{key.replace('-', '_')}.py")
        if path.name == "__init__.py" and file.is_file():
            entries[key] = _first_line(_parse(file))
        else:  # a table in the docstring: name, two blanks or more, meaning, two blanks or more, ...
            cells = (re.split(r"\s{2,}", row.strip("-* ").replace("``", "")) for row in rows)
            entries[key] = next((row[1] for row in cells if len(row) > 1 and row[0] == key), "")
    return entries


def _keys(module: ast.Module, table: str) -> list[str]:
    for node in module.body:
        if not isinstance(node, (ast.Assign, ast.AnnAssign)) or not isinstance(node.value, ast.Dict):
            continue
        targets = node.targets if isinstance(node, ast.Assign) else [node.target]
        if any(isinstance(target, ast.Name) and target.id == table for target in targets):
            return [str(key.value) for key in node.value.keys if isinstance(key, ast.Constant)]
    return []


def _parse(path: Path) -> ast.Module:
    try:
        return ast.parse(path.read_text("utf-8"))
    except (SyntaxError, UnicodeDecodeError, ValueError) as error:
        raise GradlabError(f"{path} does not parse ({error}): correct it") from None


def _first_line(module: ast.Module) -> str:
    return (ast.get_docstring(module) or "").partition("\n")[0].strip()
