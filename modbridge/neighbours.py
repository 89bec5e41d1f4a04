"""Who is nearest to whom: hubs among the answers, and how near the training texts are.

As `measures`: float64 on unit vectors, in pieces, cosines within 1e-9 of each other count as equal.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from modbridge.errors import DataError
from modbridge.geometry import centre, unit
from modbridge.measures import CELLS, TIE, exact


def occurrences(queries: torch.Tensor, gallery: torch.Tensor, ks: Sequence[int]) -> dict[int, torch.Tensor]:
    """N_k: how often each gallery row (M, D) is among the k nearest of a query (N, D), for each k, float64 (M,).

    k is at most M. Rows that are level at the last place share it, so each query gives k votes in all and the order of
    rows changes nothing.
    """
    if len(queries) == 0 or len(gallery) == 0 or min(ks) < 1:
        raise DataError(f"neighbours of {len(queries)} queries among {len(gallery)} rows: expected some of each.")
    x, y = exact(queries), exact(gallery)
    votes = {k: torch.zeros(len(y), dtype=torch.float64) for k in ks}
    step = max(1, CELLS // len(y))
    for start in range(0, len(x), step):
        cosines = x[start : start + step] @ y.T
        best = cosines.topk(min(max(ks), len(y)), dim=1).values
        for k, total in votes.items():
            places = min(k, len(y))
            last = best[:, places - 1 : places]
            above = cosines > last + TIE
            level = (cosines >= last - TIE) & ~above
            left = (places - above.sum(1, keepdim=True)) / level.sum(1, keepdim=True)
            total += above.sum(0) + (level * left).sum(0)
    return votes


def skewness(counts: torch.Tensor) -> float:
    """E[(N - mean)^3] / std^3 of counts (M,); 0 where all are equal.

    Of N_10 it is the usual measure of hubness: 0 for even answers, well above 1 where a few rows answer everything.
    Source: Radovanovic et al. (2010), Hubs in space, there within one set; here of the texts among the
    neighbours of bridged vectors.
    """
    off = counts.double() - counts.double().mean()
    spread = off.pow(2).mean().sqrt()
    return float(off.pow(3).mean() / spread**3) if spread > 1e-9 else 0.0


def hubs(queries: torch.Tensor, gallery: torch.Tensor, k: int = 10) -> tuple[float, float]:
    """(skewness of N_k, share of the queries whose nearest row is the one that is nearest most often)."""
    votes = occurrences(queries, gallery, (k, 1))
    return skewness(votes[k]), float(votes[1].max()) / len(queries)


def nearest_cosine(x: torch.Tensor, gallery: torch.Tensor, mean: torch.Tensor, chunk: int = 16384) -> torch.Tensor:
    """The cosine of each row (N, D) to the nearest of a gallery (M, D) that is centred on `mean` (D,), float64 (N,).

    `x` is centred already. The nearest is looked for in float32, its cosine taken in float64: the gallery may be all
    texts of a training split, `chunk` of which are held at once.
    """
    if len(gallery) == 0:
        raise DataError("the nearest of 0 vectors; expected at least one training text.")
    queries = exact(x)
    rough = queries.float()
    best = torch.full((len(rough),), -torch.inf)
    found = torch.zeros_like(queries)
    for start in range(0, len(gallery), chunk):
        part = centre(gallery[start : start + chunk].cpu().double(), mean.cpu())
        light = part.float()
        step = max(1, CELLS // len(part))
        for row in range(0, len(rough), step):
            rows = slice(row, row + step)
            cosine, at = (rough[rows] @ light.T).max(1)
            nearer = cosine > best[rows]
            best[rows] = torch.where(nearer, cosine, best[rows])
            found[rows] = torch.where(nearer[:, None], part[at], found[rows])
    return (queries * unit(found)).sum(1)
