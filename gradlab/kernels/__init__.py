"""Loops over draws: compiled by numba where it is installed (``pip install 'gradlab[fast]'``), otherwise in numpy.

``compiled`` and ``arrays`` define the same functions and give the same numbers up to rounding; random numbers are
equal. The first attribute that is used decides, because importing numba takes half a second.

Arrays of samples are ``[k, C]``, with the k samples of a draw along the first axis, so that the inner loops run over
draws. Their type is float64 or float32, and sums over samples keep it. See ``gradlab/estimators/_box.py``.
"""

from __future__ import annotations

import importlib
import importlib.util
from typing import Any

NAMES = ("central", "linear", "parabola", "sfc64", "squared", "walls")
"""Functions that both modules define."""

LANES = 16
"""Streams of random numbers that ``sfc64`` draws from."""


def compiles() -> bool:
    """Return whether numba is installed, without importing it."""
    return importlib.util.find_spec("numba") is not None


def __getattr__(name: str) -> Any:
    if name not in NAMES:
        raise AttributeError(f"module 'gradlab.kernels' has no attribute {name!r}")
    module = importlib.import_module(f"gradlab.kernels.{'compiled' if compiles() else 'arrays'}")
    function = globals()[name] = getattr(module, name)
    return function
