"""SPICE: agreement of scene graphs."""

from __future__ import annotations

import json
import math
import tempfile
from pathlib import Path

from modbridge.interfaces.metric import Score
from modbridge_metrics.caption import CaptionMetric
from modbridge_metrics.config import SpiceConfig
from modbridge_metrics.environment import SPICE_FILES, bundle
from modbridge_metrics.java import JavaFailed, run_java


class Spice(CaptionMetric[SpiceConfig]):
    """SPICE 1.0 F-score over scene graph tuples, mean over items (Anderson et al. 2016), by pycocoevalcap's program.

    Run here, not through pycocoevalcap's class, which downloads when it is built, writes into its installed folder and
    passes Java's chatter to our standard output. Without its parse cache, which needs a native database and, since
    Java 16, reflection that Java refuses; scores are the same. An item for which the program gives no number is left
    out of the mean, as in the program's own, and the note counts them.
    """

    def measure(self, candidates: list[str], references: list[list[str]]) -> dict[str, Score]:
        folder = bundle()
        assert folder is not None, "callers ask config.missing() first"
        rows = [
            {"image_id": row, "test": candidate, "refs": texts}
            for row, (candidate, texts) in enumerate(zip(candidates, references, strict=True))
        ]
        jar = folder / SPICE_FILES[0]
        with tempfile.TemporaryDirectory(prefix="modbridge-spice-") as place:
            given, found = Path(place, "in.json"), Path(place, "out.json")
            given.write_text(
                json.dumps(rows), encoding="ascii"
            )  # escapes: the program reads in the platform's encoding
            run_java("SPICE", ["-Xmx8G", "-jar", str(jar), str(given), "-out", str(found), "-silent"], jar.parent)
            if not found.is_file():
                raise JavaFailed("SPICE: java ended without an error but wrote no result.")
            result = json.loads(found.read_text(encoding="utf-8"))
        items = _item_scores(result, len(rows))
        known = [score for score in items if not math.isnan(score)]
        if not known:
            return {"spice": Score(None, note="SPICE gave no number for any item")}
        left_out = len(items) - len(known)
        note = f"without {left_out} of {len(items)} items, for which SPICE gave no number" if left_out else ""
        return {"spice": Score(sum(known) / len(known), tuple(items), note=note)}


def _item_scores(result: list[dict[str, object]], count: int) -> list[float]:
    """The F-score of each row; NaN where the program wrote null or NaN. Raises JavaFailed unless each row is there."""
    by_row: dict[object, float] = {}
    for entry in result:
        scores = entry.get("scores")
        total = scores.get("All") if isinstance(scores, dict) else None
        value = total.get("f") if isinstance(total, dict) else None
        by_row[entry.get("image_id")] = float(value) if isinstance(value, int | float) else math.nan
    if sorted(map(str, by_row)) != sorted(map(str, range(count))):
        raise JavaFailed(f"SPICE: {count} items went in, results for {len(by_row)} came out.")
    return [by_row[row] for row in range(count)]
