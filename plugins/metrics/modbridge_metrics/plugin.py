"""The caption metrics' place in modbridge's registry."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modbridge.plugins import ComponentSpec, hookimpl

METRICS = {
    "bleu": ("Bleu", "BLEU-1 to BLEU-4"),
    "rouge_l": ("RougeL", "ROUGE-L"),
    "cider": ("Cider", "CIDEr as papers print it (CIDEr-D)"),
    "meteor": ("Meteor", "METEOR 1.5 (needs Java)"),
    "spice": ("Spice", "SPICE 1.0 (needs Java 8 to 14 and CoreNLP files)"),
}

# Audio captioning's, as aac-metrics defines them: name, module, class, summary.
AAC_METRICS = (
    ("cider_d", "cider_d", "CiderD", "CIDEr-D by aac-metrics' code"),
    ("spider", "spider", "Spider", "SPIDEr, the mean of CIDEr-D and SPICE (needs what spice needs)"),
    ("spider_fl", "spider", "SpiderFl", "SPIDEr with a penalty for captions that are not fluent"),
    ("fense", "fense", "Fense", "FENSE, SBERT-sim and fluency error rate (two models to download)"),
    ("vocab", "vocab", "Vocab", "how many different words the predictions use"),
)


# Those that ask a judge. The example's key is in a variable that nobody has set: the checks do not ask a server.
_JUDGE: dict[str, Any] = {
    "type": "chat_judge",
    "url": "http://localhost:8000/v1",
    "model": "a-model",
    "key_env": "MODBRIDGE_EXAMPLE_KEY",
}
ASKING: tuple[tuple[str, str, str, dict[str, str]], ...] = (
    ("text_vqa", "TextVqa", "questions on images, answered from captions alone", {"questions": "questions.jsonl"}),
    ("judged", "Judged", "captions rated 0 to 6 by a judge: coverage, hallucination, layout", {}),
)


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    for name, (cls, summary) in METRICS.items():
        register(
            ComponentSpec(
                kind="metric",
                name=name,
                config=f"modbridge_metrics.config:{cls}Config",
                impl=f"modbridge_metrics.{name}:{cls}",
                summary=summary,
                example={"type": name},
            )
        )
    for name, module, cls, summary in AAC_METRICS:
        register(
            ComponentSpec(
                kind="metric",
                name=name,
                config=f"modbridge_metrics.aac_config:{cls}Config",
                impl=f"modbridge_metrics.{module}:{cls}",
                summary=summary,
                example={"type": name},
            )
        )
    for name, cls, summary, fields in ASKING:
        register(
            ComponentSpec(
                kind="metric",
                name=name,
                config=f"modbridge_metrics.judge_config:{cls}Config",
                impl=f"modbridge_metrics.{name}:{cls}",
                summary=summary,
                example={"type": name, "judge": _JUDGE, **fields},
            )
        )
    register(
        ComponentSpec(
            kind="metric",
            name="spatial_error",
            config="modbridge_metrics.spatial_config:SpatialErrorConfig",
            impl="modbridge_metrics.spatial_error:SpatialError",
            summary="where things are in painted images, beside where they were, as a judge sees them (ours)",
            example={"type": "spatial_error", "judge": {**_JUDGE, "images": True}},
        )
    )


@hookimpl
def modbridge_doctor() -> list[tuple[str, bool, str]]:
    from modbridge_metrics.aac_config import ECHECKER, SBERT
    from modbridge_metrics.environment import report
    from modbridge_metrics.fluency_files import echecker_lacking, sbert_lacking

    models = {
        "Sentence-BERT for FENSE is here": sbert_lacking(SBERT),
        "the error detector for FENSE and SPIDEr-FL is here": echecker_lacking(ECHECKER),
    }
    return report() + [(what, problem is None, problem or "") for what, problem in models.items()]
