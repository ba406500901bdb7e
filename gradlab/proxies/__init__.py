"""Proxies of rounding, differentiable: one short file each; to add one, write the file and its line here.

A codec rounds its latent, and rounding has no gradient. A proxy says what is trained instead: how a latent is drawn
from its mean and a base noise of U(-1/2, 1/2), what the decoder then reads, and what autograd takes for the derivative.
"""

from __future__ import annotations

from gradlab.errors import unknown
from gradlab.proxies._base import Proxy
from gradlab.proxies.noise import AdditiveNoise
from gradlab.proxies.sga import GumbelAnnealing
from gradlab.proxies.soft_rounding import SoftRounding
from gradlab.proxies.straight_through import StraightThrough
from gradlab.proxies.universal import UniversalQuantization

PROXIES: dict[str, Proxy] = {
    "noise": AdditiveNoise(),
    "universal": UniversalQuantization(),
    "straight-through": StraightThrough(),
    "soft-rounding": SoftRounding(),
    "sga": GumbelAnnealing(),
}


def proxy(name: str | Proxy) -> Proxy:
    """The proxy of that name, with its usual parameter.

    Raises:
        GradlabError: unknown name (with the nearest one).
    """
    if isinstance(name, Proxy):
        return name
    if name not in PROXIES:
        raise unknown("proxy", name, PROXIES)
    return PROXIES[name]


__all__ = [
    "PROXIES",
    "AdditiveNoise",
    "GumbelAnnealing",
    "Proxy",
    "SoftRounding",
    "StraightThrough",
    "UniversalQuantization",
    "proxy",
]
