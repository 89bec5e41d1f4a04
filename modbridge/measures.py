"""How wide the gap between two modalities is, and what crossing it costs.

All measures are taken in float64 on unit vectors, whatever they are given; a vector of length 0 raises DataError. They
go through memory in pieces, so 50,000 rows need no matrix of 50,000 x 50,000.

Two ways to look at one pair of sets:
- *uncentred*: unit vectors as they are. Retrieval among them makes hubs of the texts near the text mean.
- *centred*: each side minus its own mean over the training split, then normalised again. It tells a bridge that lost
  detail from one that only moved the mean.
A bridge is judged by centred cosine and centred recall together.
"""

from __future__ import annotations

from collections.abc import Sequence

import torch

from modbridge.errors import DataError
from modbridge.geometry import Statistics, centre, to_text_frame, unit
from modbridge.spaces import Frame

TIE = 1e-9  # cosines nearer than this count as equal: below it, float64 matrix products depend on their blocking
CELLS = 2**23  # similarities held at once


def gap_norm(a: torch.Tensor, b: torch.Tensor) -> float:
    """|mean n(a) - mean n(b)| of two sets (N, D), (M, D), from 0 to 2. Source: Liang et al. (2022), section 2."""
    return float((exact(a).mean(0) - exact(b).mean(0)).norm())


def paired_cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """The mean cosine of row i of `a` with row i of `b`, both (N, D)."""
    return float(paired_cosines(a, b).mean())


def paired_cosines(a: torch.Tensor, b: torch.Tensor) -> torch.Tensor:
    """The cosine of row i of `a` with row i of `b`, both (N, D): float64 (N,)."""
    _same_rows(a, b)
    return (exact(a) * exact(b)).sum(1)


def unpaired_cosine(a: torch.Tensor, b: torch.Tensor) -> float:
    """The mean cosine of row i of `a` with row j of `b` over all i != j, both (N, D), N at least 2.

    With `b` the same as `a` it is the mean cosine within one set.
    """
    _same_rows(a, b)
    count = len(a)
    if count < 2:
        raise DataError(f"unpaired cosines need at least 2 rows; found {count}.")
    x, y = exact(a), exact(b)
    return float((x.sum(0) @ y.sum(0) - (x * y).sum()) / (count * (count - 1)))


def harmonic_mean(cosine: float, recall: float) -> float:
    """2 c r / (c + r) of a cosine and a recall; 0 where either is not above 0.

    Of the centred cosine and the centred R@1 it is one number for what a bridge must do both of: come near its own text
    and stay apart from the others'. Ours.
    """
    return 2 * cosine * recall / (cosine + recall) if cosine > 0 and recall > 0 else 0.0


def cosine_counts(a: torch.Tensor, b: torch.Tensor, bins: int = 100) -> tuple[torch.Tensor, torch.Tensor]:
    """Histograms of the cosines of row i of `a` with row i of `b`, and with all other rows, both (N, D).

    Two int64 (bins,) over [-1, 1] in equal bins.
    """
    _same_rows(a, b)
    x, y = exact(a), exact(b)

    def count(cosines: torch.Tensor) -> torch.Tensor:
        places = ((cosines + 1) * (bins / 2)).floor().long().clamp(0, bins - 1)
        return torch.bincount(places.flatten(), minlength=bins)

    paired, every = count((x * y).sum(1)), torch.zeros(bins, dtype=torch.int64)
    own = torch.zeros(bins, dtype=torch.int64)
    step = max(1, CELLS // len(y))
    for start in range(0, len(x), step):
        cosines = x[start : start + step] @ y.T
        every += count(cosines)
        own += count(cosines.diagonal(start))  # of the same product, so that it falls into the same bin
    return paired, every - own


def centred(x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """n(n(x) - mean), float64 (N, D); `mean` (D,) is that of the unit vectors of the training split."""
    return centre(x.double(), mean)


def recall_at(
    queries: torch.Tensor,
    gallery: torch.Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    query_items: torch.Tensor | None = None,
    gallery_items: torch.Tensor | None = None,
) -> dict[int, float]:
    """The share of queries (N, D) with a right answer among the k nearest of the gallery (M, D) by cosine, for each k:
    the mean of `hits_at`, which says what a right answer is."""
    hits = hits_at(queries, gallery, ks, query_items=query_items, gallery_items=gallery_items)
    return dict(zip(ks, hits.mean(1).tolist(), strict=True))


def hits_at(
    queries: torch.Tensor,
    gallery: torch.Tensor,
    ks: Sequence[int] = (1, 5, 10),
    *,
    query_items: torch.Tensor | None = None,
    gallery_items: torch.Tensor | None = None,
) -> torch.Tensor:
    """Whether each query (N, D) has a right answer among the k nearest of the gallery (M, D) by cosine, for each k:
    float64 (len(ks), N), 1 or 0, or between where ties decide.

    Row i of the gallery answers query i, unless items are given: int64 (N,) and (M,), and then every gallery row of the
    query's item is right. Swap the two for the other direction. Ties (within 1e-9) are resolved as a fair draw among
    the equal ones would on average, so constant vectors score k/M, and the order of rows changes nothing.
    """
    if not ks or min(ks) < 1:
        raise DataError(f"recall at {list(ks)}: expected whole numbers from 1 on.")
    if (query_items is None) != (gallery_items is None):
        raise DataError("recall needs the items of both sides or of neither; found those of one.")
    if query_items is None:
        _same_rows(queries, gallery)
    if len(queries) == 0:
        raise DataError("recall of 0 queries; expected at least one.")
    x, y = exact(queries), exact(gallery)
    hits = torch.empty(len(ks), len(x), dtype=torch.float64)
    step = max(1, CELLS // len(y))
    for start in range(0, len(x), step):
        rows = slice(start, start + step)
        cosines = x[rows] @ y.T
        if query_items is None or gallery_items is None:
            best = cosines.diagonal(start)[:, None]
            level_right = torch.ones(len(cosines))
        else:
            right = query_items[rows, None].cpu() == gallery_items[None, :].cpu()
            best = cosines.masked_fill(~right, -torch.inf).amax(1, keepdim=True)
            level_right = ((cosines >= best - TIE) & right).sum(1)
        above = (cosines > best + TIE).sum(1)
        level = (cosines >= best - TIE).sum(1) - above
        hits[:, rows] = _hits(above, level, level_right, ks)
    return hits


def comparable(
    bridged: torch.Tensor, *, frame: Frame, text_mean: torch.Tensor, text_radius: torch.Tensor | float
) -> torch.Tensor:
    """Bridged vectors (N, D) as they may be compared with raw text vectors: unit vectors, float64.

    Vectors of the frame "centred" get the text mean back at its usual distance, n(r z + mean).
    """
    x = bridged.double()
    return to_text_frame(x, text_mean, text_radius) if frame == "centred" else unit(x)


def fit_mean(
    bridged_fit: torch.Tensor, *, frame: Frame, text_mean: torch.Tensor, text_radius: torch.Tensor | float
) -> torch.Tensor:
    """The mean of the training split's bridged vectors, made comparable, float64 (D,): `gap_row` centres by it."""
    return Statistics.of(comparable(bridged_fit, frame=frame, text_mean=text_mean, text_radius=text_radius)).mean


def gap_row(
    bridged: torch.Tensor,
    text: torch.Tensor,
    *,
    bridged_fit_mean: torch.Tensor,
    text_fit_mean: torch.Tensor,
    text_fit_radius: torch.Tensor | float,
    frame: Frame = "raw",
    items: torch.Tensor | None = None,
) -> dict[str, float]:
    """One line of a gap table, from bridged vectors and the text of each, row by row, both (N, D), N at least 2.

    `frame` is that of the bridged vectors' port. `bridged_fit_mean`: from `fit_mean`; `text_fit_mean` and
    `text_fit_radius`: `Statistics` of the training texts. `items`: int64 (N,) where several rows are of one item, so
    that any of its texts is a right answer. Recall is from bridged vectors to texts.
    """
    x = comparable(bridged, frame=frame, text_mean=text_fit_mean, text_radius=text_fit_radius)
    z, t = centred(x, bridged_fit_mean), centred(text, text_fit_mean)
    plain = recall_at(x, text, query_items=items, gallery_items=items)
    return {
        "gap_norm": gap_norm(x, text),
        "paired_cosine": paired_cosine(x, text),
        "unpaired_cosine": unpaired_cosine(x, text),
        "centred_paired_cosine": paired_cosine(z, t),
        "r_at_1": plain[1],
        "r_at_5": plain[5],
        "r_at_10": plain[10],
        "centred_r_at_1": recall_at(z, t, (1,), query_items=items, gallery_items=items)[1],
    }


def exact(x: torch.Tensor) -> torch.Tensor:
    """Unit vectors in float64 on the CPU. Raises DataError for NaN, infinity and vectors of length 0."""
    if not bool(torch.isfinite(x).all()):
        raise DataError("found vectors with NaN or infinity; they cannot be compared with others. Embed them anew.")
    return unit(x.cpu().double())


def _same_rows(a: torch.Tensor, b: torch.Tensor) -> None:
    if a.shape != b.shape or a.ndim != 2 or len(a) == 0:
        raise DataError(
            f"found vectors of shape {tuple(a.shape)} and {tuple(b.shape)}; expected two sets of as many rows, (N, D), "
            f"row i of one with row i of the other."
        )


def _hits(above: torch.Tensor, level: torch.Tensor, right: torch.Tensor, ks: Sequence[int]) -> torch.Tensor:
    """Whether each query has a right answer among the k best, in expectation over ties (len(ks), N).

    By query, of the gallery: how many lie above its best right answer, how many are level with that (itself included),
    and how many of those are right. A query misses at k if the k - above places left all go to wrong ones among the
    level: a product of (wrong - i) / (level - i).
    """
    wrong = level - right
    hits = torch.empty(len(ks), len(above), dtype=torch.float64)
    for place, k in enumerate(ks):
        miss = torch.ones(len(above), dtype=torch.float64)
        for i in range(k):
            drawn = (i < k - above) & (right > 0)
            miss *= torch.where(drawn, (wrong - i).clamp(min=0).double() / (level - i).clamp(min=1), 1.0)
        hits[place] = 1 - miss
    return hits
