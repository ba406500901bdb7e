"""The one exception that gradlab raises for bad input."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GradlabError(ValueError):
    """Bad input: one sentence that names the offender and the remedy.

    The command line prints the message without a traceback and exits with code 2.
    """


def unknown(kind: str, name: object, known: Iterable[str]) -> GradlabError:
    """The error for a name that is not in a table, with the nearest name that is."""
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return GradlabError(f"unknown {kind} {name!r}: {hint}known are {', '.join(names)}")


class NotExact(GradlabError):
    """An exact answer that is asked of a problem but is not known to it."""


class NonFinite(GradlabError):
    """A gradient with NaN or Inf in it."""


class Stopped(Exception):
    """A deadline or a signal asked for the end, and training left a checkpoint behind: orderly, not an error."""
