"""What is public: the modules of gradlab and the names in them, for the reference and for the test that it is whole."""

from __future__ import annotations

import importlib
import inspect
import pkgutil
from functools import cache
from types import ModuleType

PACKAGE = "gradlab"


def modules() -> list[str]:
    """Full names of all public modules, packages before what is in them; a leading underscore says private."""
    found = pkgutil.walk_packages(importlib.import_module(PACKAGE).__path__, f"{PACKAGE}.")
    return sorted(m.name for m in found if not any(part.startswith("_") for part in m.name.split(".")))


def names(module: ModuleType) -> list[str]:
    """``__all__``, or where there is none the functions and classes that the module defines."""
    if hasattr(module, "__all__"):
        return list(module.__all__)
    return [
        name
        for name, value in vars(module).items()
        if not name.startswith("_")
        and (inspect.isfunction(value) or inspect.isclass(value))
        and value.__module__ == module.__name__
    ]


@cache
def homes() -> dict[str, list[str]]:
    """Module -> the names that are documented there, each object once.

    What a package exports of the modules in it is documented with the package; what a module exports of another public
    module, there.
    """
    everything = modules()
    found: dict[str, list[str]] = {name: [] for name in everything}
    taken: list[object] = []
    for name in everything:
        module = importlib.import_module(name)
        for n in names(module):
            value = getattr(module, n)
            defined = getattr(value, "__module__", None)
            elsewhere = isinstance(defined, str) and defined in found and not f"{defined}.".startswith(f"{name}.")
            if elsewhere or (_object(value) and any(value is t for t in taken)):
                continue
            found[name].append(n)
            taken += [value] if _object(value) else []
    return found


def _object(value: object) -> bool:
    """Whether identity says that two names are of one thing: of a number or a string it does not."""
    return inspect.isclass(value) or inspect.isfunction(value) or isinstance(value, dict)
