"""The metric `clip_score`: whether a picture and a text say the same, by CLIP (Hessel et al. 2021)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from modbridge.errors import DataError
from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Metric, Reference, Score
from modbridge_vlv.clip_score_config import ClipScoreConfig
from modbridge_vlv.clip_score_network import Clip

SCALE = 100.0


class ClipScore(Metric[ClipScoreConfig]):
    """100 times the cosine of each item's picture and text, and the mean over items, as torchmetrics' CLIPScore; not
    cut off at 0, where a trained CLIP does not come."""

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        """None with a note where the CLIP is missing. Raises DataError for an item that is no picture, or has no
        caption to compare with."""
        lacks = self.config.missing()
        if lacks:
            return {"clip_score": Score(None, note=lacks)}
        clip = Clip(self.config.model, self.config.revision, self.device)
        painted = self.config.of == "image"
        texts = [captions(of) if painted else [one.text] for one, of in zip(predictions, references, strict=True)]
        with self.scoring.progress("clip_score", len(texts)) as progress:

            def picture(row: int) -> Any:
                return predictions[row].image if painted else references[row].media

            items = agreement(clip, picture, texts, self.config.batch_size, progress.advance)
        return {"clip_score": Score(sum(items) / len(items), tuple(items), note=clip.note())}


def captions(reference: Reference) -> list[str]:
    """What an item's picture is compared with. Raises DataError if it has none."""
    if not reference.texts:
        raise DataError(f"the item {reference.key!r} has no caption that its picture could be compared with.")
    return list(reference.texts)


def agreement(
    clip: Clip,
    picture: Callable[[int], Any],
    texts: Sequence[Sequence[str]],
    batch_size: int,
    seen: Callable[[int], None],
) -> list[float]:
    """Of each row 100 times the cosine of its picture with its texts, the mean of several."""
    found: list[float] = []
    for start in range(0, len(texts), batch_size):
        rows = range(start, min(start + batch_size, len(texts)))
        seen_as = clip.pictures([picture(row) for row in rows])
        said = clip.texts([text for row in rows for text in texts[row]])
        at = 0
        for vector, row in zip(seen_as, rows, strict=True):
            own = said[at : at + len(texts[row])]
            found.append(SCALE * float((own @ vector).mean()))
            at += len(own)
        seen(len(rows))
    return found
