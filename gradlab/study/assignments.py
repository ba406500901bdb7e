"""Change settings of a study from the command line by name, with type checks: ``--set base.crop=128``."""

from __future__ import annotations

import ast
import dataclasses
import math
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

from gradlab import validation
from gradlab.errors import GradlabError, unknown

T = TypeVar("T")


def assigned(settings: T, assignments: Iterable[str]) -> T:
    """Return a copy of frozen settings with some fields changed.

    Args:
        settings: frozen dataclass, whose fields may be dataclasses.
        assignments: ``"field=value"`` or ``"field.field=value"``. Values are Python literals (``128``, ``1e-4``,
            ``(1000, 2000)``, ``None``, ``True``); anything else is a string.

    Raises:
        GradlabError: a field is unknown; a value has the wrong type, is not finite or is rejected by the settings; a
            sequence is empty although its default is not; or an assignment has no ``=``.

    Example:
        >>> import gradlab as gl
        >>> from gradlab.study.assignments import assigned
        >>> settings = assigned(gl.TrainSettings(), ["crop=128", "loss.objective=ms-nic-mix", "loss.k=8"])
        >>> settings.crop, settings.loss.k
        (128, 8)
    """
    tree: dict[str, Any] = {}
    for assignment in assignments:
        path, equals, text = assignment.partition("=")
        if not equals or not path.strip():
            raise GradlabError(f"--set {assignment!r} assigns nothing: give NAME=VALUE, e.g. base.crop=128")
        *groups, name = path.strip().split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
            if not isinstance(node, dict):
                raise GradlabError(f"--set {path.strip()}: {group} is also set as a whole; give only one of the two")
        if isinstance(node.get(name), dict):
            raise GradlabError(f"--set {path.strip()}: parts of it are also set; give only one of the two")
        node[name] = text.strip()
    return cast(T, _with(settings, tree, ""))


def _with(settings: Any, tree: dict[str, Any], prefix: str) -> Any:
    """Change all fields of a group at once, because settings are validated together, e.g. snapshots against steps."""
    known = {f.name: f for f in dataclasses.fields(settings) if f.init}
    hints, changes = typing.get_type_hints(type(settings)), {}
    for name, new in tree.items():
        path = prefix + name
        if name not in known:
            raise unknown("setting", path, [prefix + field for field in known])
        old = getattr(settings, name)
        if isinstance(new, dict):
            if not dataclasses.is_dataclass(old):
                raise GradlabError(f"--set {path}.{next(iter(new))}: {path} is {old!r} and has no parts")
            changes[name] = _with(old, new, f"{path}.")
        elif dataclasses.is_dataclass(old):
            parts = ", ".join(f.name for f in dataclasses.fields(old) if f.init)
            raise GradlabError(f"--set {path}: this is a group of settings; set one of its parts ({parts})")
        else:
            changes[name] = _value(path, new, hints.get(name, Any))
            if changes[name] == () and old and known[name].default != ():
                example = old[0] if isinstance(old, tuple) else old
                raise GradlabError(f"--set {path} is empty: give at least one value, e.g. ({example!r},)")
    return dataclasses.replace(settings, **changes)


def _value(path: str, text: str, hint: Any) -> Any:
    value = _read(text)
    if not validation.fits(value, hint):
        value = text  # a name that looks like another literal
    validation.require(f"--set {path}", value, hint)
    value = _converted(value, hint)
    if any(isinstance(number, float) and not math.isfinite(number) for number in _flat(value)):
        raise GradlabError(f"--set {path} is {text}: give finite numbers")
    return value


def _converted(value: Any, hint: Any) -> Any:
    """Convert a value so that equal settings have one hash: 1 becomes 1.0 for a float, a list becomes a tuple."""
    if typing.get_origin(hint) in (typing.Union, types.UnionType):
        hint = next(option for option in typing.get_args(hint) if validation.fits(value, option))
    inner = typing.get_args(hint)
    if isinstance(value, (list, tuple)):
        hints = [inner[0]] * len(value) if len(inner) == 2 and inner[1] is ... else inner or [Any] * len(value)
        return tuple(map(_converted, value, hints))
    return float(value) if hint is float and isinstance(value, int) and not isinstance(value, bool) else value


def _flat(value: Any) -> Iterator[Any]:
    if isinstance(value, tuple):
        for item in value:
            yield from _flat(item)
    else:
        yield value


def _read(text: str) -> Any:
    try:
        return ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
