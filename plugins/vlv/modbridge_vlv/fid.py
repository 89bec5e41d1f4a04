"""The metric `fid`: how far a decoder's pictures are, as a crowd, from the test items (Heusel et al. 2017)."""

from __future__ import annotations

import math
from collections.abc import Sequence

from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Metric, Reference, Score
from modbridge_vlv.fid_config import FidConfig


class Fid(Metric[FidConfig]):
    """|m - m'|^2 + tr(S + S' - 2 (S S')^(1/2)) of the means and covariances of two sets of features. It has no scores
    of items."""

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        """None with a note where weights are missing, or for fewer than two pictures. Raises DataError for an item that
        is no picture."""
        column, count = self.config.distance, len(predictions)
        lacks = self.config.missing()
        if lacks or count < 2:
            return {column: Score(None, higher_is_better=False, note=lacks or "takes two pictures or more")}
        from modbridge_vlv.fid_features import Frechet  # torchmetrics is an extra

        frechet = Frechet(self.config, self.device)
        with self.scoring.progress(column, 2 * count) as progress:
            frechet.see((of.media for of in references), real=True, seen=progress.advance)
            frechet.see((one.image for one in predictions), real=False, seen=progress.advance)
        return {column: scored(frechet.distance(), frechet.note(count))}


def scored(distance: float, note: str) -> Score:
    """A distance as a score; rounding may take one of nothing a little below 0."""
    if not math.isfinite(distance):
        return Score(None, higher_is_better=False, note="; ".join(filter(None, ["it came out as no number", note])))
    return Score(max(distance, 0.0), higher_is_better=False, note=note)
