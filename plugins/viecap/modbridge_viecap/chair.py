"""CHAIR: how many of the objects that captions name are not there (Rohrbach et al., EMNLP 2018, section 2.1)."""

from __future__ import annotations

from collections.abc import Sequence

from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Metric, Reference, Score
from modbridge_viecap.metrics_config import ChairConfig
from modbridge_viecap.truth import Truth, check_items, ratio


class Chair(Metric[ChairConfig]):
    """CHAIR_i, hallucinated objects over all objects named; CHAIR_s, captions with a hallucinated object over all
    captions; and object recall (ours), true objects that are named over all true objects.

    Objects are names of the vocabulary. The paper counts each mention and knows objects from instance annotations
    together with the references; here a caption names an object once however often it says it, and the true objects
    are those of `Truth.of` (facts if there are any, else the references), without those that the vocabulary lacks,
    since no caption is searched for them. A caption that names no object hallucinates none.
    """

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        """Corpus None and a note where no caption names an object (chair_i), or where nothing is truly there (recall).

        Raises DataError if there are no items, if rows do not belong together, or if nothing says what is in an item.
        """
        check_items(predictions, references)
        problem = self.config.missing()
        if problem:
            return {
                column: Score(None, higher_is_better=column == "object_recall", note=problem)
                for column in self.config.columns
            }
        known = Truth(self.parts["vocabulary"])
        true = [there & known.names for there in known.of(references)]
        said = known.said([one.text for one in predictions])
        false = [len(names - there) for names, there in zip(said, true, strict=True)]
        named, wanted = sum(map(len, said)), sum(map(len, true))
        which = f"of the vocabulary {self.config.vocabulary.type!r}"
        no_name = "" if named else f"no caption names an object {which}"
        no_truth = "" if wanted else f"no item truly holds an object {which}"
        with_false = tuple(float(count > 0) for count in false)
        return {
            "chair_i": Score(ratio(sum(false), named), higher_is_better=False, note=no_name),
            "chair_s": Score(sum(with_false) / len(false), with_false, higher_is_better=False, note=no_name),
            "object_recall": Score(ratio(named - sum(false), wanted), note=no_truth),
        }
