"""The exception that gradlab raises for bad input, and its kinds."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GradlabError(ValueError):
    """Bad input: one sentence that names the offender and the remedy.

    The command line prints the message without a traceback and exits with code 2.
    """


def unknown(kind: str, name: object, known: Iterable[str]) -> GradlabError:
    """Build the error for a name that is not known, with the nearest known name."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return GradlabError(f"unknown {kind} {name!r}: {hint}known are {', '.join(names)}")


class ArgumentError(GradlabError):
    """An argument of the wrong type or shape, or out of range.

    Attributes:
        argument: its name; ``"k[1]"`` is an item of ``k``.
        value: the refused value.
        expected: what to give instead.
        function: name of the function that was called; empty if not known.
    """

    def __init__(self, argument: str, value: object, expected: str, function: str = "") -> None:
        super().__init__(argument, value, expected, function)  # as args, so that it can be pickled
        self.argument, self.value, self.expected, self.function = argument, value, expected, function

    def __str__(self) -> str:
        return f"{self.argument} is {brief(self.value)}: give {self.expected}"


def brief(value: object) -> str:
    """Describe a value in a few words."""
    if isinstance(value, int) and abs(value) >= 10**30:
        return "a number beyond all floats"
    plain = (int, float, str, type(None))
    short = isinstance(value, (list, tuple)) and len(value) <= 10 and all(isinstance(item, plain) for item in value)
    if short or isinstance(value, plain):
        text = repr(value)
        return text if len(text) <= 60 else text[:57] + "..."
    name, shape = type(value).__name__, getattr(value, "shape", None)
    article = f"a{'n' * (name[0] in 'AEIOUaeiou')} {name}"
    return f"{article} of shape {tuple(shape)} and type {value.dtype}" if shape and hasattr(value, "dtype") else article


class NotExact(GradlabError):
    """A problem does not know the requested exact answer."""


class NonFinite(GradlabError):
    """A gradient holds NaN or Inf."""


class Stopped(Exception):
    """Training ended at a deadline or a signal and left a checkpoint: no error."""
