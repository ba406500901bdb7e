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


class NotExact(GradlabError):
    """A problem does not know the requested exact answer."""


class NonFinite(GradlabError):
    """A gradient holds NaN or Inf."""


class Stopped(Exception):
    """Training ended at a deadline or a signal and left a checkpoint: no error."""
