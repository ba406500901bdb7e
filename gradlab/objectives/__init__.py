"""Define log-weights, the objectives that reduce them to a bound, posteriors, and proxies of rounding.

``terms``       ``LogTerms``: the log-weight of each image, factor by factor
``bounds``      ``OBJECTIVES``: ELBO, IWAE and the MS-NIC objectives
``posteriors``  posteriors that declare their properties: support, score, boundary
``proxies``     ``PROXIES``: differentiable replacements of rounding in training
"""

from gradlab.objectives.bounds import (
    OBJECTIVES,
    Objective,
    SurrogateLoss,
    get_objective,
    kl_annealing,
    soft_free_bits,
)
from gradlab.objectives.proxies import PROXIES, Proxy, get_proxy
from gradlab.objectives.terms import LogTerms, PriorPath, Tap, Walls

__all__ = [
    "OBJECTIVES",
    "PROXIES",
    "LogTerms",
    "Objective",
    "PriorPath",
    "Proxy",
    "SurrogateLoss",
    "Tap",
    "Walls",
    "get_objective",
    "get_proxy",
    "kl_annealing",
    "soft_free_bits",
]
