"""Canonical correlations in closed form."""

from __future__ import annotations

import torch


def canonical_maps(
    x: torch.Tensor, y: torch.Tensor, dim: int, ridge: float
) -> tuple[tuple[torch.Tensor, torch.Tensor], torch.Tensor]:
    """The directions in which paired rows of x (N, P) and y (N, Q) correlate most.

    Gives matrices (P, dim) and (Q, dim) and the correlations (dim,), the strongest first; directions that the pairs do
    not determine are zero. `ridge`: a share of the mean variance that is added to all.
    """
    x, y = x - x.mean(dim=0), y - y.mean(dim=0)
    white_x, white_y = _whitening(x, ridge), _whitening(y, ridge)
    left, strengths, right = torch.linalg.svd(white_x @ (x.T @ y / len(x)) @ white_y, full_matrices=False)
    kept = min(dim, len(strengths))
    # Either sign of a direction is right; the one with the greater sum is taken, so that every machine finds the same.
    signs = torch.where(left[:, :kept].sum(dim=0) < 0, -1.0, 1.0).to(x)
    maps = [x.new_zeros(len(white), dim) for white in (white_x, white_y)]
    maps[0][:, :kept], maps[1][:, :kept] = white_x @ left[:, :kept] * signs, white_y @ right[:kept].T * signs
    return (maps[0], maps[1]), torch.cat([strengths[:kept], x.new_zeros(dim - kept)])


def _whitening(x: torch.Tensor, ridge: float) -> torch.Tensor:
    """(P, P): what gives the centred rows x (N, P) the identity for their covariance, but for the ridge."""
    covariance = x.T @ x / len(x)
    covariance += ridge * covariance.diagonal().mean() * torch.eye(len(covariance)).to(x)
    values, axes = torch.linalg.eigh(covariance)
    found: torch.Tensor = axes / values.clamp_min(1e-12).sqrt() @ axes.T
    return found
