"""How right the entities are that a decoder put into its prompt (ours)."""

from __future__ import annotations

from collections.abc import Sequence

from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Metric, Reference, Score
from modbridge_viecap.metrics_config import EntitiesConfig
from modbridge_viecap.truth import Truth, check_items, ratio


class EntityMetric(Metric[EntitiesConfig]):
    """Precision, recall and F1 of the names that came through (`details["entities"]`, those `kept`) against each item's
    true ones (`Truth.of`), counted over all items together (micro).

    Names are compared as they are, capitals aside, another word for a name counting as it; a name counts once an item.
    Names that the vocabulary lacks count too: right where facts say them, else wrong. An item's own value is its F1; 1
    where nothing is there and nothing came through.
    """

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        """Corpus None and a note where the decoder tells of no entities, where no name came through (precision), or
        where no item has a true name (recall).

        Raises DataError if there are no items, if rows do not belong together, or if nothing says what is in an item.
        """
        check_items(predictions, references)
        silent = sum("entities" not in one.details for one in predictions)
        problem = self.config.missing()
        if silent:
            problem = f"the decoder tells no entities of {silent} of {len(predictions)} items; it takes one like viecap"
        if problem:
            return {column: Score(None, note=problem) for column in self.config.columns}
        known = Truth(self.parts["vocabulary"])
        given = [
            {known.canonical(entity["name"]) for entity in one.details["entities"] if entity["kept"]}
            for one in predictions
        ]
        true = known.of(references)
        right = sum(len(names & there) for names, there in zip(given, true, strict=True))
        said, wanted = sum(map(len, given)), sum(map(len, true))
        items = tuple(
            2 * len(names & there) / (len(names) + len(there)) if names or there else 1.0
            for names, there in zip(given, true, strict=True)
        )
        no_name, no_truth = "no entity came through for any item", "no item has a true name that is known"
        return {
            "entity_precision": Score(ratio(right, said), note="" if said else no_name),
            "entity_recall": Score(ratio(right, wanted), note="" if wanted else no_truth),
            "entity_f1": Score(
                ratio(2 * right, said + wanted), items, note="" if said + wanted else f"{no_name}, and {no_truth}"
            ),
        }
