"""Checks of the arguments of public functions: of their values always, of their types where beartype is installed.

===============  ===================================================================================================
``converters``   ``whole``, ``wholes``, ``real``, ``several``, ``known``: return what a function works with
``annotations``  ``checked``: compares arguments with annotations before the function runs, types by beartype and
                 shapes such as ``Float[Tensor, "batch k"]`` by jaxtyping
===============  ===================================================================================================
"""

from gradlab.validation.annotations import INSTALLED, check_fields, checked, describe
from gradlab.validation.converters import device, known, real, require_columns, several, whole, wholes

__all__ = [
    "INSTALLED",
    "check_fields",
    "checked",
    "describe",
    "device",
    "known",
    "real",
    "require_columns",
    "several",
    "whole",
    "wholes",
]
