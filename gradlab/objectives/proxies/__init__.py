"""Differentiable proxies of rounding, one short file each; to add one, write the file and its line here.

A codec rounds its latent, and rounding has no gradient. A proxy replaces it in training: it defines how a latent is
drawn from its mean and base noise of U(-1/2, 1/2), what the decoder reads, and the derivative that autograd takes.
"""

from __future__ import annotations

from gradlab.errors import GradlabError, unknown
from gradlab.objectives.proxies._base import Proxy
from gradlab.objectives.proxies.noise import AdditiveNoise
from gradlab.objectives.proxies.sga import GumbelAnnealing
from gradlab.objectives.proxies.soft_rounding import SoftRounding
from gradlab.objectives.proxies.straight_through import StraightThrough
from gradlab.objectives.proxies.universal import UniversalQuantization
from gradlab.validation import checked

PROXIES: dict[str, Proxy] = {
    "noise": AdditiveNoise(),
    "universal": UniversalQuantization(),
    "straight-through": StraightThrough(),
    "soft-rounding": SoftRounding(),
    "sga": GumbelAnnealing(),
}
"""Name -> proxy of rounding, with its usual parameter."""


@checked
def get_proxy(name: str | Proxy) -> Proxy:
    """Return the proxy of that name, with its usual parameter or the one after a colon, ``"soft-rounding:8"``.

    Raises:
        GradlabError: unknown name (with the nearest one), or a parameter that does not fit.
    """
    if isinstance(name, Proxy):
        return name
    plain, colon, value = str(name).partition(":")
    if plain not in PROXIES:
        raise unknown("proxy", name, PROXIES)
    if not colon:
        return PROXIES[plain]
    try:
        number = float(value)
    except ValueError:
        raise GradlabError(f"proxy {name!r} has the parameter {value!r}: give a number after the colon") from None
    return PROXIES[plain].at(number)


__all__ = [
    "PROXIES",
    "AdditiveNoise",
    "GumbelAnnealing",
    "Proxy",
    "SoftRounding",
    "StraightThrough",
    "UniversalQuantization",
    "get_proxy",
]
