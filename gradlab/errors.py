"""Exceptions that gradlab raises."""

from __future__ import annotations

import difflib
import importlib.util
from collections.abc import Iterable, Iterator
from contextlib import contextmanager


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


class MissingExtra(ModuleNotFoundError, GradlabError):
    """A package of one of gradlab's extras is not installed."""


EXTRAS = {
    "PIL": ("Pillow", "codecs"),
    "bjontegaard": ("bjontegaard", "codecs"),
    "compressai": ("CompressAI", "codecs"),
    "filelock": ("filelock", "codecs"),
    "jinja2": ("Jinja", "studies"),
    "lightning_fabric": ("Lightning Fabric", "cluster"),
    "matplotlib": ("Matplotlib", "studies"),
    "pytorch_msssim": ("pytorch-msssim", "codecs"),
    "ray": ("Ray", "cluster"),
    "safetensors": ("safetensors", "codecs"),
    "seaborn": ("seaborn", "studies"),
    "skimage": ("scikit-image", "codecs"),
    "tensorboard": ("TensorBoard", "tensorboard"),
    "torchvision": ("torchvision", "codecs"),
}
"""Module -> name of its project, and the extra of gradlab that installs it."""


@contextmanager
def needs(what: str) -> Iterator[None]:
    """Name the extra that is missing where an import inside the context fails.

    Args:
        what: what the import is for, as the user wrote it, e.g. ``"gl.codecs"``.

    Raises:
        MissingExtra: a module of ``EXTRAS`` is not installed.

    Example:
        >>> from gradlab.errors import needs
        >>> with needs("gl.codecs"):
        ...     from numpy import ndarray
    """
    try:
        yield
    except ImportError as error:
        module = (error.name or "").partition(".")[0]
        if isinstance(error, MissingExtra) or module not in EXTRAS:
            raise
        raise missing(what, module) from None


def missing(what: str, module: str, extra: str = "") -> MissingExtra:
    """Build the error for a module of ``EXTRAS`` that is not installed.

    Args:
        what: what needs the module, as the user wrote it.
        module: name of the module.
        extra: extra to install, if not the one in ``EXTRAS``.
    """
    project, smallest = EXTRAS[module]
    pythons = " (Python 3.10 to 3.12)" if module == "compressai" else ""
    return MissingExtra(f"{what} needs {project}: pip install 'gradlab[{extra or smallest}]'{pythons}", name=module)


def require_studies(what: str) -> None:
    """Refuse a command if a module that every study needs is not installed.

    Raises:
        MissingExtra: names the command and the extra.
    """
    for module in ("compressai", "matplotlib", "seaborn", "jinja2"):
        if importlib.util.find_spec(module) is None:
            raise missing(what, module, "studies")


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
    if isinstance(value, type):
        return f"the class {value.__name__}"
    name, shape = type(value).__name__, getattr(value, "shape", None)
    if shape == () and hasattr(value, "dtype") and hasattr(value, "tobytes"):
        return f"{value!r}"[:60]  # a number of numpy
    article = f"a{'n' * (name[0] in 'AEIOUaeiou' or name == 'ndarray')} {name}"
    return f"{article} of shape {tuple(shape)} and type {value.dtype}" if shape and hasattr(value, "dtype") else article


class NotExact(GradlabError):
    """Raised if the requested exact answer is not known."""


class NonFinite(GradlabError):
    """Raised if a gradient contains NaN or infinity."""


class Stopped(Exception):
    """Raised when training stops early, at a deadline or on a signal, after writing a checkpoint; not an error."""
