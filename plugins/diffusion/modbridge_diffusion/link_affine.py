"""The closed form of Diffusion-Link's training (ours): at each noise level the best affine map to the text.

Source vectors with pairs alone give ridge regression, with the noise for a penalty; texts alone give the closed-form
Gaussian. Together each holds the other: few pairs move the map little away from what texts alone say.
"""

from __future__ import annotations

import torch

from modbridge_diffusion.closed_form import FIT_CHUNK, ClosedForm
from modbridge_diffusion.schedule import NoiseSchedule


class Affine(ClosedForm):
    """x_t = sqrt(ab) e + sqrt(1 - ab) noise, where e is a text or a source vector, and y the text to be guessed:
    E[y] + sqrt(ab) (x_t - sqrt(ab) E[e]) (ab Cov(e) + (1 - ab) I)^-1 Cov(e, y),
    the affine map of least mean square error. All means and covariances are over both halves, texts (e = y) with
    weight 1 and pairs with a weight of their own.
    """

    input_mean: torch.Tensor
    output_mean: torch.Tensor
    directions: torch.Tensor
    variances: torch.Tensor
    across: torch.Tensor

    def __init__(self, dim: int, schedule: NoiseSchedule) -> None:
        super().__init__(dim, schedule, None)
        for name in ("input_mean", "output_mean", "variances"):
            self.register_buffer(name, torch.full((dim,), torch.nan))
        for name in ("directions", "across"):
            self.register_buffer(name, torch.full((dim, dim), torch.nan))

    def fit(self, clean: torch.Tensor) -> None:
        """Take up texts (N, D) alone."""
        self.fit_halves(clean, clean[:0], clean[:0], 0.0)

    def fit_halves(self, texts: torch.Tensor, sources: torch.Tensor, targets: torch.Tensor, weight: float) -> None:
        """Take up texts (N, D) and source vectors (P, D) with their texts (P, D), which all together weigh `weight`
        where the texts weigh 1. Summed in float64 over chunks."""
        halves = [(texts, texts, 1.0 / (1.0 + weight))]
        if len(sources):
            halves.append((sources, targets, weight / (1.0 + weight)))
        first = torch.zeros(2, self.dim, dtype=torch.float64)
        within, across = (torch.zeros(self.dim, self.dim, dtype=torch.float64) for _ in range(2))
        for given, wanted, share in halves:
            for rows in torch.split(torch.arange(len(given)), FIT_CHUNK):
                e, y = given[rows].detach().cpu().double(), wanted[rows].detach().cpu().double()
                each = share / len(given)
                first += each * torch.stack([e.sum(dim=0), y.sum(dim=0)])
                within += each * (e.T @ e)
                across += each * (e.T @ y)
        mean_in, mean_out = first
        variances, directions = torch.linalg.eigh(within - torch.outer(mean_in, mean_in))
        self.input_mean.copy_(mean_in)
        self.output_mean.copy_(mean_out)
        self.variances.copy_(variances.clamp_min(0))
        self.directions.copy_(directions)
        self.across.copy_(directions.T @ (across - torch.outer(mean_in, mean_out)))

    def posterior(self, x: torch.Tensor, left: torch.Tensor) -> torch.Tensor:
        off = (x - left.sqrt() * self.input_mean) @ self.directions
        return self.output_mean + left.sqrt() * (off / (left * self.variances + 1 - left)) @ self.across
