"""Samples and log-weights of the toy problems in D dimensions: coordinates are independent, their log-weights add up.

``wrt`` of the posterior (phi, mean, std) is of the first coordinate; the model's parameters are shared by all.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import replace

import torch
from torch import Tensor

from gradlab.objectives.posteriors import Box, Normal, log_normal
from gradlab.objectives.terms import LogTerms, PriorPath, Tap, Walls
from gradlab.problems.linear_gaussian import LinearGaussian

Values = Mapping[str, Tensor | float]


def box_terms(model: LinearGaussian, values: Values, base: Tensor, walls: bool) -> LogTerms:
    """Log-weights ``[B, K, 1]`` under the unit box.

    Args:
        model: of each coordinate.
        values: parameters that broadcast with ``base``.
        base: noise ``[B, K, D]``.
        walls: also give the log-weights with the first coordinate on its walls.
    """
    center = _each(values["phi"], base)
    y = Box(center).sample(base)
    paths = _prior_paths(y, values)
    lik, py = y.view_as(y), y.view_as(y)
    terms = LogTerms(
        log_lik=_summed(model.log_lik(lik, values)),
        log_py=_summed(model.log_prior(py, values)),
        samples=(y, None),
        taps=(Tap(lik, "y", "lik"), Tap(py, "y", "py")),
        prior_paths=paths,
    )
    if not walls:
        return terms
    first = center[..., :1]
    signs = torch.tensor([1.0, -1.0], dtype=base.dtype, device=base.device)
    ends = (first + 0.5 * signs).detach()
    log_w = _moved(terms, _joint(model, y[..., :1].detach(), values), _joint(model, ends, values))
    return replace(terms, walls=Walls(log_w, signs, first))


def normal_terms(model: LinearGaussian, values: Values, base: Tensor, walls: bool, live: frozenset[str]) -> LogTerms:
    """Log-weights ``[B, K, 1]`` under a Normal posterior, arguments as in :func:`box_terms`.

    Args:
        live: names of the overrides, which say whose measure-valued pairs ``walls`` are.
    """
    mean, std = _each(values["mean"], base), _each(values["std"], base)
    q = Normal(mean, std)
    y = q.sample(base)
    paths = _prior_paths(y, values)
    lik, py, own = y.view_as(y), y.view_as(y), y.view_as(y)
    terms = LogTerms(
        log_lik=_summed(model.log_lik(lik, values)),
        log_py=_summed(model.log_prior(py, values)),
        log_q=_summed(q.detached().log_prob(own)),
        samples=(y, None),
        scores=(_summed(q.log_prob(y.detach())),),
        taps=(Tap(lik, "y", "lik"), Tap(py, "y", "py"), Tap(own, "y", "q")),
        prior_paths=paths,
    )
    if not walls:
        return terms
    first = Normal(mean[..., 0], std[..., 0])
    fixed, noise = first.detached(), base[..., 0]
    pairs = []
    if "std" not in live or len(live) > 1:
        pairs.append((first.mean_pair(noise), 1 / (math.sqrt(2 * math.pi) * fixed.std), first.mean))
    if "std" in live or not live:
        pairs.append((first.std_pair(noise), 1 / fixed.std, first.std))
    points = torch.stack([point for both, _, _ in pairs for point in both], dim=-1)
    at = Normal(fixed.mean[..., None], fixed.std[..., None])
    before = y[..., :1].detach()
    log_w = _moved(
        terms,
        _joint(model, before, values) - at.log_prob(before),
        _joint(model, points, values) - at.log_prob(points),
    )
    scale = [sign * c.expand_as(noise) for _, c, _ in pairs for sign in (1, -1)]
    moves = [parameter.expand_as(noise) for _, _, parameter in pairs for _ in range(2)]
    return replace(terms, walls=Walls(log_w, torch.stack(scale, -1), torch.stack(moves, -1), boundary=False))


def _each(value: Tensor | float, base: Tensor) -> Tensor:
    """A parameter of the posterior for each coordinate, ``[B or 1, 1, D]``."""
    if isinstance(value, Tensor):
        return value
    return torch.full((1, 1, base.shape[-1]), value, dtype=base.dtype, device=base.device)


def _summed(values: Tensor) -> Tensor:
    """``[B, K, D]`` -> ``[B, K, 1]``."""
    return values.sum(dim=-1, keepdim=True)


def _joint(model: LinearGaussian, y: Tensor, values: Values) -> Tensor:
    return model.log_lik(y, values) + model.log_prior(y, values)


def _moved(terms: LogTerms, before: Tensor, after: Tensor) -> Tensor:
    """``[B, K, M]`` log-weights with the first coordinate's share ``[B, K, 1]`` replaced by ``[..., M]``."""
    return terms.log_w().detach() - before.detach() + after


def _prior_paths(y: Tensor, values: Values) -> tuple[PriorPath, ...]:
    """The prior's path in every coordinate; see :meth:`LinearGaussian.prior_paths`."""
    std = values["prior_std"]
    if not isinstance(std, Tensor) or not std.requires_grad:
        return ()
    fixed = y.detach()
    y.requires_grad_()
    return (PriorPath(std * (fixed / std.detach()), _summed(log_normal(fixed, 0.0, std))),)
