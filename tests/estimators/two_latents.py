"""A Normal two-latent model, built from scratch: where DReG must be exact, on every hierarchical objective.

x <- y <- z with q(y) = N(phi_y, s_y^2) and q(z) = N(phi_z, s_z^2) ("direct") or q(z|y) = N(phi_z + a y, s_z^2) ("paired").
"""

from __future__ import annotations

import torch
from torch import Tensor

from gradlab.objectives.posteriors import Normal, log_normal
from gradlab.objectives.terms import LogTerms, Tap

X, S_Y, S_Z, A = 1.3, 0.8, 0.7, 0.6
PHI_Y, PHI_Z, C = 0.4, -0.5, 0.9


def t(value: float) -> Tensor:
    return torch.tensor(value, dtype=torch.float64)


def model(eps_y: Tensor, eps_z: Tensor, paired: bool) -> tuple[LogTerms, dict[str, Tensor]]:
    """Terms for noise ``[B, K]`` and ``[B, L]`` (paired: both ``[B, K]``), and leaf parameters ``[B]``."""
    b = eps_y.shape[0]
    leaves = {
        n: torch.full((b,), v, dtype=torch.float64, requires_grad=True)
        for n, v in {"phi_y": PHI_Y, "phi_z": PHI_Z, "c": C}.items()
    }
    phi_y, phi_z, c = (leaves[n][:, None] for n in ("phi_y", "phi_z", "c"))
    q_y = Normal(phi_y, t(S_Y))
    y = q_y.sample(eps_y)
    z_mean = phi_z + A * y if paired else phi_z
    z = z_mean + S_Z * eps_z
    y_lik, y_py, y_q, z_py, z_pz, z_q = (v.view_as(v) for v in (y, y, y, z, z, z))
    # The path of log q(z | y): the mean at detached phi_z, still a function of the sample y.
    z_mean_path = phi_z.detach() + A * y_q if paired else phi_z.detach()
    z_mean_score = phi_z + A * y.detach() if paired else phi_z

    def as_z(v: Tensor) -> Tensor:
        return v[:, :, None] if paired else v[:, None, :]

    log_q_y = q_y.detached().log_prob(y_q)[:, :, None]
    log_q_z = as_z(log_normal(z_q, z_mean_path, S_Z))
    score_y = q_y.log_prob(y.detach())[:, :, None]
    score_z = as_z(log_normal(z.detach(), z_mean_score, S_Z))
    mean = (c * z_py)[:, :, None] if paired else (c * z_py)[:, None, :]
    terms = LogTerms(
        log_lik=log_normal(t(X), y_lik, 1.0)[:, :, None],
        log_py=log_normal(y_py[:, :, None], mean, 1.0),
        log_pz=as_z(log_normal(z_pz, 0.0, 1.0)),
        log_q=log_q_y + log_q_z,
        samples=(y, z),
        scores=(score_y, score_z),
        taps=(
            Tap(y_lik, "y", "lik"),
            Tap(y_py, "y", "py"),
            Tap(y_q, "y", "q"),
            Tap(z_py, "z", "py"),
            Tap(z_pz, "z", "pz"),
            Tap(z_q, "z", "q"),
        ),
        prior_paths=(),
    )
    return terms, leaves


def log_joint(y: Tensor, z: Tensor, paired: bool) -> Tensor:
    """log w of one (y, z), written out once more with nothing of gradlab: elementwise."""

    def n(v: Tensor, m: Tensor | float, s: float) -> Tensor:
        return torch.distributions.Normal(torch.as_tensor(m, dtype=torch.float64), t(s)).log_prob(v)

    z_mean = PHI_Z + A * y if paired else t(PHI_Z)
    return n(t(X), y, 1.0) + n(y, C * z, 1.0) + n(z, 0.0, 1.0) - n(y, PHI_Y, S_Y) - n(z, z_mean, S_Z)
