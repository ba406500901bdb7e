"""Provide differentiable proxies of rounding, one short file each. To add one, write the file and add its line here.

A codec rounds its latent, and rounding has no useful gradient. A proxy replaces it in training: it defines how a latent
is drawn from its mean and base noise of U(-1/2, 1/2), what the decoder reads, and which derivative autograd computes.
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
"""Name -> proxy of rounding, with its default parameter."""


@checked
def get_proxy(name: str | Proxy) -> Proxy:
    """Return a proxy of rounding by name.

    Args:
        name: a name from ``PROXIES``, optionally with a parameter after a colon, such as ``"soft-rounding:8"``; or a
            ``Proxy``, which is returned as it is.

    Returns:
        The proxy, with its default parameter unless another is given.

    Raises:
        GradlabError: if the name is unknown (the message suggests the nearest one), or the parameter is invalid.

    Example:
        >>> import gradlab as gl
        >>> gl.objectives.get_proxy("sga:0.25").temperature
        0.25
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
        raise GradlabError(f"the parameter of proxy {name!r} is {value!r}: give a number after the colon") from None
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
