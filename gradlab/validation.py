"""Arguments of public functions are held against their annotations, at the boundary and nowhere else.

``checked`` refuses what is of another kind than the signature says, and whole numbers that no float holds where one is
asked for, by a sentence that names the argument. What a value must be beyond its kind (finite, positive, of a shape)
the function says itself.
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
LONGEST = 300
LATE = {"pd": "pandas", "pandas": "pandas", "np": "numpy", "numpy": "numpy"}  # imported for annotations alone


def checked(function: F, *, own_first: bool = False) -> F:
    """The function, with a check of the kinds of its arguments before it begins.

    Args:
        function: to be checked.
        own_first: where a kind is wrong let the function say so, if it does; for functions without side effects whose
            own words say more.

    Raises:
        GradlabError: when called with an argument of another kind.
    """
    signature = inspect.signature(function)

    @functools.wraps(function)
    def boundary(*args: Any, **options: Any) -> Any:
        try:
            for name, values in _given(signature, args, options):
                for value in values:
                    require(name, value, _hints(function).get(name, Any))
        except GradlabError:
            if own_first:
                _own_words(function, args, options)
            raise
        return function(*args, **options)

    return boundary  # type: ignore[return-value]


def checked_after(function: F) -> F:
    """``checked`` with ``own_first``: for pure functions that explain themselves."""
    return checked(function, own_first=True)


def checked_class(cls: type) -> None:
    """The same, own words first, for what a class defines itself: its constructor and its public methods."""
    for name, member in list(vars(cls).items()):
        if inspect.isfunction(member) and (name == "__init__" or not name.startswith("_")):
            abstract = getattr(member, "__isabstractmethod__", False)
            setattr(cls, name, member if abstract else checked_after(member))


def _own_words(function: Callable[..., Any], args: tuple[Any, ...], options: dict[str, Any]) -> None:
    try:
        function(*args, **options)
    except GradlabError as error:
        if len(str(error)) < LONGEST:  # it may have quoted a whole tensor
            raise
    except Exception:  # whatever it stumbles over: the caller has the sentence
        return


def _given(
    signature: inspect.Signature, args: tuple[Any, ...], options: dict[str, Any]
) -> Iterator[tuple[str, tuple[Any, ...]]]:
    """Name and values of each argument that was given; what goes into ``**options`` has no kind."""
    for name, value in signature.bind(*args, **options).arguments.items():
        kind = signature.parameters[name].kind
        if kind is not inspect.Parameter.VAR_KEYWORD:
            yield name, value if kind is inspect.Parameter.VAR_POSITIONAL else (value,)


def check_fields(instance: Any) -> None:
    """Hold the fields of a dataclass against their annotations.

    Raises:
        GradlabError: a field of another kind.
    """
    for name, hint in _hints(cast(Any, type(instance))).items():
        if name in instance.__dataclass_fields__:
            require(name, getattr(instance, name), hint)


def require(name: str, value: object, hint: Any) -> None:
    """Refuse a value of another kind than the hint.

    Raises:
        GradlabError: names the argument, what it is and what it should be.
    """
    if not fits(value, hint):
        raise GradlabError(f"{name} is {_short(value)}: give {describe(hint)}")


def fits(value: object, hint: Any) -> bool:
    """Whether a value is of the kind that a hint names; what the hint does not say is taken."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if hint is Any or isinstance(hint, (TypeVar, str)) or hint is _Unknown:
        return True
    if origin in (typing.Union, types.UnionType):
        return any(fits(value, one) for one in inner)
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
        return _is_sequence(value) and all(fits(one, inner[0]) for one in value)  # type: ignore[attr-defined]
    if kind is typing.get_origin(Iterable[int]):
        return isinstance(value, Iterable) and not isinstance(value, bytes) and getattr(value, "ndim", 1) > 0
    if issubclass(kind, Mapping):
        return isinstance(value, Mapping) and (len(inner) < 2 or all(fits(one, inner[1]) for one in value.values()))
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
    """A ``torch.device`` that is there.

    Raises:
        GradlabError: no such device.
    """
    import torch

    try:
        found = torch.device(name)
        torch.zeros(1, device=found).item()
    except (RuntimeError, TypeError, ValueError, AssertionError, NotImplementedError):
        there = ["cpu", *(f"cuda:{index}" for index in range(torch.cuda.device_count()))]
        there += ["mps"] if torch.backends.mps.is_available() else []
        raise GradlabError(f"there is no device {_short(name)} here: give {' or '.join(there)}") from None
    return found


def describe(hint: Any) -> str:
    """A hint in words."""
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
    """Where annotations are looked up: the function's module, and what it imports for annotations alone."""

    def __missing__(self, name: str) -> Any:
        if hasattr(builtins, name):
            return getattr(builtins, name)
        if name in LATE:
            return importlib.import_module(LATE[name])
        return importlib.import_module("pandas").DataFrame if name == "DataFrame" else _Unknown


class _Nothing(type):
    def __getattr__(cls, name: str) -> Any:
        return _Unknown


class _Unknown(metaclass=_Nothing):
    """A name that only a type checker sees: anything is taken."""


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
    # Arrays and series too: they have a length and an order, and are no ``Sequence``.
    if isinstance(value, (str, bytes, Mapping, set)) or getattr(value, "ndim", 1) == 0:
        return False
    return all(hasattr(value, part) for part in ("__len__", "__iter__", "__getitem__")) and not isinstance(value, type)


def _short(value: object) -> str:
    if isinstance(value, (int, float, str, bool, type(None))):
        text = f"{value!r}" if not isinstance(value, int) or abs(value) < 10**30 else "a number beyond all floats"
        return text if len(text) <= 60 else text[:57] + "..."
    name = type(value).__name__
    return f"a{'n' * (name[0] in 'AEIOUaeiou')} {name}"
