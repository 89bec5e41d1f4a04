"""Announces vocabularies, the ViECap decoder and its metrics. Light: parts are imported when they are asked for."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modbridge.plugins import ComponentSpec, hookimpl

EXAMPLE_NAMES = {"type": "names", "names": ["red", "green", "blue", "picture"]}
# (name, class, summary, example): the config is <class>Config in vocabulary_config, the rest <class>Vocabulary. One
# without an example reads a file, which the function of its name in `examples` writes.
VOCABULARIES: tuple[tuple[str, str, str, dict[str, Any]], ...] = (
    ("coco", "Coco", "COCO's 80 object categories (packaged)", {"type": "coco"}),
    ("audioset", "AudioSet", "AudioSet's 527 classes of sound (packaged)", {"type": "audioset"}),
    ("visual_genome", "VisualGenome", "Visual Genome's objects, from a file", {}),
    ("vinvl", "VinVL", "VinVL's 1,848 objects, from a file", {}),
    ("open_images", "OpenImages", "OpenImages' 601 boxable classes, from a file", {}),
    ("names", "Names", "names of one's own, listed or from a file", EXAMPLE_NAMES),
)


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    for name, cls, summary, example in VOCABULARIES:
        register(
            ComponentSpec(
                kind="vocabulary",
                name=name,
                config=f"modbridge_viecap.vocabulary_config:{cls}Config",
                impl=f"modbridge_viecap.vocabulary:{cls}Vocabulary",
                summary=summary,
                example=example,
                example_from="" if example else f"modbridge_viecap.examples:{name}",
            )
        )
    register(
        ComponentSpec(
            kind="decoder",
            name="viecap",
            revision=2,
            config="modbridge_viecap.config:ViecapConfig",
            impl="modbridge_viecap.decoder:ViecapDecoder",
            summary="entities found in the item, given as words to a language model beside the vector (ViECap)",
            example={
                "type": "viecap",
                "writer": {
                    "type": "prefix_lm",
                    "lm": {"n_layer": 1, "n_head": 2, "n_embd": 16},
                    "tokenizer": "words",
                    "prefix_length": 2,
                    "steps": 4,
                    "batch_size": 4,
                    "lr": 1e-3,
                    "generate": {"max_new_tokens": 8},
                },
                "vocabulary": EXAMPLE_NAMES,
                "retrieval": {"type": "softmax", "threshold": 0.0},
            },
            importer="modbridge_viecap.import_weights:command",
        )
    )
    register(
        ComponentSpec(
            kind="metric",
            name="entities",
            config="modbridge_viecap.metrics_config:EntitiesConfig",
            impl="modbridge_viecap.entity_metric:EntityMetric",
            summary="precision and recall of the entities that came through into the prompt",
            example={"type": "entities"},
        )
    )
    register(
        ComponentSpec(
            kind="metric",
            name="chair",
            config="modbridge_viecap.metrics_config:ChairConfig",
            impl="modbridge_viecap.chair:Chair",
            summary="share of named objects that are not there (CHAIR), and of objects there that are named",
            example={"type": "chair"},
        )
    )
