"""Exceptions that gradlab raises."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class GradlabError(ValueError):
    """Raised on bad input, with one sentence that names the problem and the remedy.

    The command line prints the message without a traceback and exits with code 2.

    Example:
        >>> import gradlab as gl
        >>> try:
        ...     gl.paper.table(12)
        ... except gl.GradlabError as error:
        ...     print(error)
        the paper has no table 12: give a number from 1 to 11
    """


def unknown(kind: str, name: object, known: Iterable[str]) -> GradlabError:
    """Build the error for an unknown name; it suggests the closest known name.

    Args:
        kind: kind of the name, e.g. ``"estimator"``.
        name: the unknown name.
        known: all known names.

    Example:
        >>> from gradlab.errors import unknown
        >>> print(unknown("estimator", "pathwize", ["pathwise", "dreg"]))
        unknown estimator 'pathwize': did you mean 'pathwise'? known are dreg, pathwise
    """
    names = sorted(known)
    close = difflib.get_close_matches(str(name), names, n=1, cutoff=0.4)
    hint = f"did you mean {close[0]!r}? " if close else ""
    return GradlabError(f"unknown {kind} {name!r}: {hint}known are {', '.join(names)}")


class NotExact(GradlabError):
    """Raised if the requested exact answer is not known."""


class NonFinite(GradlabError):
    """Raised if a gradient contains NaN or infinity."""


class Stopped(Exception):
    """Raised when training stops early, at a deadline or on a signal, after writing a checkpoint; not an error."""
