"""Checks of arguments against annotations, at public functions only.

``checked`` refuses an argument whose kind differs from the signature, and a whole number that no float holds where a
float is expected; the error names the argument. Further conditions (finite, positive, shapes) are checked by the
function itself.
"""

from __future__ import annotations

import builtins
import functools
import importlib
import inspect
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from numbers import Integral, Real
from typing import Any, TypeVar, cast

from gradlab.errors import GradlabError

F = TypeVar("F", bound=Callable[..., Any])
LONGEST_MESSAGE = 300
ANNOTATION_MODULES = {"pd": "pandas", "pandas": "pandas", "np": "numpy", "numpy": "numpy"}
"""Names that modules import for type checkers only -> the module."""
SHAPED = ("Float", "Int", "Bool", "Shaped")


def checked(function: F, *, own_error: bool = False) -> F:
    """Check the kinds of the arguments before each call of the function.

    Args:
        function: to be checked.
        own_error: prefer the error that the function itself raises for an argument of another kind; for functions
            without side effects whose errors say more.

    Raises:
        GradlabError: when called with an argument of another kind.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def boundary(*args: Any, **options: Any) -> Any:
        try:
            for name, values in _arguments(signature, args, options):
                for value in values:
                    require(name, value, _hints(function).get(name, Any))
        except GradlabError:
            if own_error:
                _raise_own_error(function, args, options)
            raise
        return function(*args, **options)

    return boundary  # type: ignore[return-value]


def checked_after(function: F) -> F:
    """Apply ``checked`` with ``own_error``, for pure functions whose errors say more."""
    return checked(function, own_error=True)


def checked_class(cls: type) -> None:
    """Apply ``checked_after`` to the constructor and the public methods that a class defines itself."""
    for name, member in list(vars(cls).items()):
        public = name == "__init__" or not name.startswith("_")
        if inspect.isfunction(member) and public and not getattr(member, "__isabstractmethod__", False):
            setattr(cls, name, checked_after(member))


def _raise_own_error(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
    try:
        function(*args, **options)
    except GradlabError as error:
        if len(str(error)) < LONGEST_MESSAGE:  # it may quote a whole tensor
            raise
    except Exception:  # the caller raises a sentence instead
        return


def _arguments(
    signature: inspect.Signature, args: tuple[Any, ...], options: dict[str, Any]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Yield name and values of each argument of a call, without those that go into ``**options``."""
    for name, value in signature.bind(*args, **options).arguments.items():
        kind = signature.parameters[name].kind
        if kind is not inspect.Parameter.VAR_KEYWORD:
            yield name, value if kind is inspect.Parameter.VAR_POSITIONAL else (value,)


def check_fields(instance: Any) -> None:
    """Check the fields of a dataclass against their annotations.

    Raises:
        GradlabError: a field of another kind.
    """
    for name, hint in _hints(cast(Any, type(instance))).items():
        if name in instance.__dataclass_fields__:
            require(name, getattr(instance, name), hint)


def require(name: str, value: object, hint: Any) -> None:
    """Refuse a value of another kind than the hint.

    Raises:
        GradlabError: names the argument, its value and the kind to give.
    """
    if not fits(value, hint):
        raise GradlabError(f"{name} is {_short(value)}: give {describe(hint)}")


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of the kind of a hint; parts of a hint that are not understood fit everything."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, (TypeVar, str)) or hint is _Unknown:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, part) for part in inner)
    if origin is typing.Literal:
        return value in inner
    if hint is None or hint is type(None):
        return value is None
    if hint is float:
        return isinstance(value, Real) and not isinstance(value, bool) and _is_number(value)
    if hint is int:
        return isinstance(value, Integral) and not isinstance(value, bool)
    kind = origin or hint
    if kind is Callable or kind is typing.get_origin(Callable[..., Any]):
        return callable(value)
    if not isinstance(kind, type):
        return True
    if issubclass(kind, tuple) and origin is not None and inner and inner[-1] is not ...:
        return _is_sequence(value) and len(value) == len(inner) and all(map(fits, list(value), inner))  # type: ignore[arg-type, call-overload]
    if issubclass(kind, (Sequence, list, tuple)) and origin is not None:
        return _is_sequence(value) and all(fits(item, inner[0]) for item in value)  # type: ignore[attr-defined]
    if kind is typing.get_origin(Iterable[int]):
        return isinstance(value, Iterable) and not isinstance(value, bytes) and getattr(value, "ndim", 1) > 0
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (len(inner) < 2 or all(fits(item, inner[1]) for item in value.values()))
    if not getattr(kind, "__module__", "").startswith("jaxtyping"):
        return isinstance(value, kind)
    return True


def require_columns(table: Any, columns: Iterable[str], what: str) -> None:
    """Refuse a table without rows or without one of the columns.

    Raises:
        GradlabError: names the column and what the table should be.
    """
    missing = [column for column in columns if column not in table.columns]
    if missing or not len(table):
        lacks = f"no column {missing[0]!r}" if missing else "no rows"
        raise GradlabError(f"the table has {lacks}: give {what}")


def device(name: Any) -> Any:
    """Return an available ``torch.device``.

    Raises:
        GradlabError: no such device.
    """
    import torch

    try:
        chosen = torch.device(name)
        torch.zeros(1, device=chosen).item()
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError):
        available = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        available += ["mps"] if torch.backends.mps.is_available() else []
        raise GradlabError(f"there is no device {_short(name)} here: give {' or '.join(available)}") from None
    return chosen


def describe(hint: Any) -> str:
    """Put a hint into words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in (typing.Union, types.UnionType):
        return " or ".join(dict.fromkeys(map(describe, inner)))
    plain = {float: "a number", int: "a whole number", str: "text", bool: "True or False", bytes: "bytes"}
    if hint in plain:
        return plain[hint]
    if hint is None or hint is type(None):
        return "None"
    kind = origin or hint
    if isinstance(kind, type) and issubclass(kind, (Sequence, Iterable)) and inner and not issubclass(kind, Mapping):
        if inner[-1] is not ... and len(inner) > 1:
            return f"{len(inner)} values ({', '.join(map(describe, inner))})"
        return f"a sequence, each {describe(inner[0])}"
    name = getattr(kind, "__name__", str(kind))
    return "a function" if name == "Callable" else f"a{'n' * (name[0] in 'AEIOU')} {name}"


class _Names(dict[str, Any]):
    """Names in annotations: those of the function's module, and those that it imports for type checkers only."""

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        if name in ANNOTATION_MODULES:
            return importlib.import_module(ANNOTATION_MODULES[name])
        if name in SHAPED:
            return _Shaped
        return importlib.import_module("pandas").DataFrame if name == "DataFrame" else _Unknown


class _Shaped:
    """A shaped tensor of jaxtyping: only the type of the array is checked."""

    def __class_getitem__(cls, item: tuple[Any, str]) -> Any:
        return item[0]


class _UnknownType(type):
    def __getattr__(cls, name: str) -> Any:
        return _Unknown


class _Unknown(metaclass=_UnknownType):
    """A name that only a type checker can resolve, and its attributes: every value fits."""


@functools.lru_cache(None)
def _hints(function: Any) -> dict[str, Any]:
    owner = importlib.import_module(str(function.__module__))
    hints = typing.get_type_hints(function, localns=_Names(vars(owner)))
    return {name: hint for name, hint in hints.items() if name != "return"}


def _is_number(value: Real) -> bool:
    try:
        float(value)
    except OverflowError:
        return False
    return True


def _is_sequence(value: object) -> bool:
    # Arrays and series count, although they are no ``Sequence``: they have a length and an order.
    if isinstance(value, (str, bytes, Mapping, set)) or getattr(value, "ndim", 1) == 0:
        return False
    return all(hasattr(value, part) for part in ("__len__", "__iter__", "__getitem__")) and not isinstance(value, type)


def _short(value: object) -> str:
    if isinstance(value, (int, float, str, bool, type(None))):
        text = f"{value!r}" if not isinstance(value, int) or abs(value) < 10**30 else "a number beyond all floats"
        return text if len(text) <= 60 else text[:57] + "..."
    name = type(value).__name__
    return f"a{'n' * (name[0] in 'AEIOUaeiou')} {name}"
