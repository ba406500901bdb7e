"""Log-weights, the objectives that reduce them to a bound, posteriors and proxies of rounding.

``terms``       ``LogTerms``: the log-weight of each image, factor by factor
``bounds``      ``OBJECTIVES``: ELBO, IWAE and the MS-NIC objectives
``posteriors``  what a posterior declares: support, score, boundary
``proxies``     ``PROXIES``: what stands for rounding in training
"""

from gradlab.objectives.bounds import (
    OBJECTIVES,
    SCALES,
    WEIGHTINGS,
    Factors,
    Objective,
    Scale,
    SurrogateLoss,
    Weighting,
    kl_annealing,
    log_sum_of_others,
    objective,
    score_share,
    soft_free_bits,
    softmax,
    unit,
)
from gradlab.objectives.posteriors import Box, Normal, Posterior, Quantized
from gradlab.objectives.proxies import PROXIES, Proxy
from gradlab.objectives.terms import LogTerms, PriorPath, Tap, Walls

__all__ = [
    "OBJECTIVES",
    "PROXIES",
    "SCALES",
    "WEIGHTINGS",
    "Box",
    "Factors",
    "LogTerms",
    "Normal",
    "Objective",
    "Posterior",
    "PriorPath",
    "Proxy",
    "Quantized",
    "Scale",
    "SurrogateLoss",
    "Tap",
    "Walls",
    "Weighting",
    "kl_annealing",
    "log_sum_of_others",
    "objective",
    "score_share",
    "soft_free_bits",
    "softmax",
    "unit",
]
