"""Change settings of a study from the command line by name, with type checks: ``--set base.crop=128``."""

from __future__ import annotations

import ast
import contextlib
import dataclasses
import math
import sys
import types
import typing
from collections.abc import Iterable, Iterator
from typing import Any, TypeVar, cast

from gradlab.errors import ArgumentError, GradlabError, unknown
from gradlab.validation import describe

T = TypeVar("T")


def assigned(settings: T, assignments: Iterable[str]) -> T:
    """Return a copy of frozen settings with some fields changed.

    Args:
        settings: frozen dataclass, whose fields may be dataclasses.
        assignments: ``"field=value"`` or ``"field.field=value"``. Values are Python literals (``128``, ``1e-4``,
            ``(1000, 2000)``, ``None``, ``True``); anything else is a string. One number or name
            is a sequence of one.

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
                raise GradlabError(f"--set gives both {group} and {path.strip()}: give only one")
        if isinstance(node.get(name), dict):
            raise GradlabError(f"--set gives both {path.strip()} and parts of it: give only one")
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
    for given in (_read(text), text):  # a name may read as something else
        with contextlib.suppress(TypeError):
            value = _fitted(given, hint, single=True)
            break
    else:
        raise ArgumentError(f"--set {path}", text, describe(hint))
    if any(isinstance(number, float) and not math.isfinite(number) for number in _flat(value)):
        raise GradlabError(f"--set {path} is {text}: give finite numbers")
    return value


def _fitted(value: Any, hint: Any, single: bool = False) -> Any:
    """Return a value as its hint has it, so that equal settings have one hash: a list as a tuple, 1 as 1.0.

    Args:
        value: a Python literal.
        hint: of the setting.
        single: take one number or one name for a tuple of one.

    Raises:
        TypeError: a value of another type.
    """
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        for option in inner:
            with contextlib.suppress(TypeError):
                return _fitted(value, option, single)
        raise TypeError
    if origin is tuple:
        endless = inner[-1] is ...
        if single and endless and not isinstance(value, (list, tuple)) and not set(str(value)) & set("([,"):
            value = (value,)
        if not isinstance(value, (list, tuple)) or not (endless or len(value) == len(inner)):
            raise TypeError
        return tuple(map(_fitted, value, inner[:1] * len(value) if endless else inner))
    if hint is float and type(value) is int and abs(value) < sys.float_info.max:
        return float(value)
    if origin is typing.Literal:
        fits = value in inner
    elif hint in (int, float):
        fits = type(value) is hint  # no bool
    else:
        fits = hint is Any or (isinstance(hint, type) and isinstance(value, hint))
    if not fits:
        raise TypeError
    return value


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
