"""Types of arguments by beartype and shapes of tensors by jaxtyping, before a function runs, where they are installed.

``SupportsIndex`` in an annotation marks an argument that the function itself converts by ``whole`` or ``wholes``.
"""

from __future__ import annotations

import dataclasses
import functools
import importlib
import inspect
import itertools
import sys
import types
import typing
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import nullcontext, suppress
from importlib.util import find_spec
from typing import Annotated, Any, NamedTuple, SupportsIndex, TypeVar

from gradlab.errors import ArgumentError
from gradlab.validation.converters import is_number, is_truth, is_whole, refused

F = TypeVar("F", bound="Callable[..., Any] | type")
INSTALLED = find_spec("beartype") is not None
ANNOTATION_MODULES = {"pd": "pandas", "np": "numpy"}
"""Names that modules import for type checkers only -> the module."""
PLAIN = {int: "a whole number", SupportsIndex: "a whole number", float: "a number", str: "text", bool: "True or False",
         bytes: "bytes", type(None): "None", None: "None"}  # fmt: skip
UNIONS = (typing.Union, types.UnionType)
SEQUENCES, MAPPINGS = (list, tuple, Sequence, Iterable), (dict, Mapping)
DTYPES = {"Shaped": "a", "Num": "a", "Float": "a float", "Float32": "a float32", "Float64": "a float64",
          "Int": "an integer", "Integer": "an integer", "UInt8": "a uint8", "Bool": "a bool"}  # fmt: skip
"""Names of jaxtyping in annotations -> their words."""


def checked(target: F) -> F:
    """Check the types of the arguments of each call before the function runs.

    Args:
        target: a function, or a class, of which the constructor and the public methods that it defines are checked.

    Raises:
        ArgumentError: when called with an argument of another type or shape than annotated.
    """
    if not INSTALLED:
        return target
    if not isinstance(target, type):
        return typing.cast(F, _guarded(target))
    for name, member in list(vars(target).items()):
        public = name == "__init__" or not name.startswith("_")
        if inspect.isfunction(member) and public and not getattr(member, "__isabstractmethod__", False):
            setattr(target, name, _guarded(member))
    return target


def check_fields(instance: Any) -> None:
    """Check the fields of a dataclass against their annotations, where beartype is installed.

    Raises:
        ArgumentError: a field of another type.
    """
    if INSTALLED:
        kind: Any = type(instance)
        hints = _hints_of_fields(kind)
        _compare(hints, ((name, getattr(instance, name)) for name in hints), kind.__name__)


class _Hint(NamedTuple):
    """An annotation and how values are compared with it.

    Attributes:
        written: the annotation.
        classes: whose direct instances agree with it, which is faster to see than to ask beartype.
        accepts: whether any other value agrees with it.
    """

    written: Any
    classes: frozenset[Any]
    accepts: Callable[[object], bool]


_Hints = dict[str, _Hint]


def _guarded(function: Callable[..., Any]) -> Callable[..., Any]:
    hints: _Hints | None = None
    names: list[str] = []
    axes: Callable[[], Any] = nullcontext

    @functools.wraps(function)
    def boundary(*args: Any, **options: Any) -> Any:
        nonlocal hints, names, axes
        if hints is None:  # at the first call, since an annotation may name what is defined below the function
            names, found = _hints_of_parameters(function)
            axes = _axes if any(_has_axes(hint.written) for hint in found.values()) else nullcontext
            hints = found  # last, for other threads
        with axes():
            _compare(hints, zip(names, args), function.__name__)  # noqa: B905  (of other lengths where some are left out)
            _compare(hints, options.items(), function.__name__)
        try:
            return function(*args, **options)
        except ArgumentError as error:  # of a converter
            error.function = error.function or function.__name__
            raise

    return boundary


def _compare(hints: _Hints, values: Iterable[tuple[str, object]], function: str) -> None:
    for name, value in values:
        hint = hints.get(name)
        if hint is None or type(value) in hint.classes or hint.accepts(value):
            continue
        name, value, written = _culprit(name, value, hint.written)
        expected = describe(written)
        if _has_axes(written):
            with _axes():
                expected += ", whose axes agree with the other arguments" * hint.accepts(value)
        raise refused(name, value, expected, function)


def _culprit(name: str, value: Any, hint: Any) -> tuple[str, Any, Any]:
    """Find the item that makes a sequence or a mapping disagree with its hint, else return the whole."""
    for option in _alternatives(hint):
        origin, inner = typing.get_origin(option), typing.get_args(option)
        items: Iterable[tuple[Any, Any]] = ()
        if origin in MAPPINGS and isinstance(value, Mapping):
            items, inner = value.items(), inner[1:]
        elif origin in SEQUENCES and _is_sequence(value) and (origin is not tuple or inner[-1] is ...):
            items = enumerate(value)
        for key, item in items:
            if not _tester(inner[0])(item):
                return _culprit(f"{name}[{key!r}]", item, inner[0])
    return name, value, hint


def _hints_of_parameters(function: Callable[..., Any]) -> tuple[list[str], _Hints]:
    """List the positional parameters of a function, and the hints of all."""
    parameters = inspect.signature(function).parameters.values()
    names = [p.name for p in parameters if p.kind in (p.POSITIONAL_ONLY, p.POSITIONAL_OR_KEYWORD)]
    written = {p.name: p.annotation for p in parameters if p.kind not in (p.VAR_POSITIONAL, p.VAR_KEYWORD)}
    return names, _hints(written, inspect.unwrap(function).__globals__)


@functools.cache
def _hints_of_fields(kind: Any) -> _Hints:
    return _hints({field.name: field.type for field in dataclasses.fields(kind)}, vars(sys.modules[kind.__module__]))


def _hints(annotations: Mapping[str, Any], module: Mapping[str, Any]) -> _Hints:
    """Resolve annotations, without those that only a type checker can resolve or that beartype does not know."""
    from beartype.roar import BeartypeException

    hints: _Hints = {}
    for name, annotation in annotations.items():
        if annotation is not inspect.Parameter.empty:
            with suppress(NameError, AttributeError, SyntaxError, TypeError, ImportError, BeartypeException):
                holder: Any = types.SimpleNamespace(__annotations__={name: annotation})
                hint = typing.get_type_hints(holder, {}, _Names(module))[name]
                if SupportsIndex in _alternatives(hint):
                    continue  # ``whole`` or ``wholes`` convert it first of all, and say more
                hints[name] = _Hint(hint, frozenset(_alternatives(hint)), _tester(hint))
    return hints


class _Names(dict[str, Any]):
    """Names in annotations: those of a module, and those that it imports for type checkers only."""

    def __missing__(self, name: str) -> Any:
        if name in ANNOTATION_MODULES:
            return importlib.import_module(ANNOTATION_MODULES[name])
        if name in DTYPES:
            return getattr(importlib.import_module("jaxtyping"), name)
        raise KeyError(name)


def _tester(hint: Any) -> Callable[[object], bool]:
    from beartype.door import is_bearable

    accepts = functools.partial(is_bearable, hint=_with_all_items(hint), conf=_configuration())
    accepts(None)  # raises for a hint that beartype does not know
    return accepts


@functools.cache
def _configuration() -> Any:
    """What counts as ``int`` and ``float``: the numbers of numpy too, whole ones of torch, and no bool."""
    from beartype import BeartypeConf, FrozenDict
    from beartype.vale import Is

    integer: Any = Annotated[object, Is[is_whole]]
    number: Any = Annotated[object, Is[is_number]]
    truth: Any = Annotated[object, Is[is_truth]]
    return BeartypeConf(hint_overrides=FrozenDict({int: integer, SupportsIndex: integer, float: number, bool: truth}))


def _with_all_items(hint: Any) -> Any:
    """Replace sequences and mappings in a hint by tests of all their items; arrays and tensors count as sequences.

    Beartype alone tests one item, which it draws from Python's global random stream.
    """
    from beartype.vale import Is

    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in UNIONS:
        return typing.Union[tuple(map(_with_all_items, inner))]  # noqa: UP007
    if getattr(origin, "__module__", "") == "numpy":
        return origin  # functions convert the numbers of arrays
    if not inner or origin not in (*SEQUENCES, *MAPPINGS):
        return hint
    tests = [_tester(item) for item in inner if item is not ...]
    length = len(tests) if origin is tuple and inner[-1] is not ... else None

    def all_accepted(value: Any) -> bool:
        if origin in MAPPINGS:
            return isinstance(value, Mapping) and all(map(tests[-1], value.values()))
        if origin is Iterable and isinstance(value, Iterator):
            return True  # it can be read only once
        if not _is_sequence(value) or len(value) != (length or len(value)):
            return False
        return all(test(item) for test, item in zip(itertools.cycle(tests), value))

    return Annotated[object, Is[all_accepted]]


def _is_sequence(value: Any) -> bool:
    if isinstance(value, (str, bytes, Mapping, type)) or getattr(value, "ndim", 1) == 0:
        return False
    return all(hasattr(value, part) for part in ("__len__", "__iter__"))


def _alternatives(hint: Any) -> tuple[Any, ...]:
    return typing.get_args(hint) if typing.get_origin(hint) in UNIONS else (hint,)


def _has_axes(hint: Any) -> bool:
    return getattr(hint, "__module__", "") == "jaxtyping" or any(map(_has_axes, typing.get_args(hint)))


def _axes() -> Any:
    """Begin a call: an axis has one size in all of its arguments."""
    from jaxtyping import jaxtyped

    return jaxtyped("context")


def describe(hint: Any) -> str:
    """Put a hint into words."""
    origin, inner = typing.get_origin(hint), typing.get_args(hint)
    if origin in UNIONS:
        return " or ".join(dict.fromkeys(map(describe, inner)))
    if origin is typing.Literal:
        return " or ".join(map(repr, inner))
    if hint in PLAIN:
        return PLAIN[hint]
    kind = origin or hint
    if _has_axes(kind):
        return f"{DTYPES[kind.__name__.partition('[')[0]]} tensor [{kind.dim_str}]"
    if kind in SEQUENCES and inner:
        if inner[-1] is not ... and len(inner) > 1:
            return f"{len(inner)} values ({', '.join(map(describe, inner))})"
        return f"a sequence, each {describe(inner[0])}"
    name = getattr(kind, "__name__", str(kind))
    if name == "Callable":
        return "a function"
    if name == "Generator":  # numpy has one too
        return "a torch.Generator"
    return f"a{'n' * (name[0] in 'AEIOU')} {name}"
