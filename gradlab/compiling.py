"""Loops that are compiled when they are first called, for arithmetic that memory or the interpreter would bound.

Modules that hold such loops import numba, which takes half a second: import them where they are called.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeVar

import numba

Loop = TypeVar("Loop", bound=Callable[..., Any])

# Threads run beside each other; sums may be reordered and products fused, but NaN and Inf keep their meaning.
OPTIONS: dict[str, Any] = {
    "nogil": True,
    "error_model": "numpy",
    "fastmath": {"reassoc", "contract", "nsz", "arcp"},
}


def compiled(loop: Loop) -> Loop:
    """Compile a function of numpy arrays and numbers at its first call; later processes find it on disk.

    Where neither the package nor the user's cache can be written, every process compiles it anew (about a second).
    """
    try:
        made: Loop = numba.njit(cache=True, **OPTIONS)(loop)
    except RuntimeError:
        made = numba.njit(**OPTIONS)(loop)
    return made
