"""The caption metrics' place in modbridge's registry."""

from __future__ import annotations

from collections.abc import Callable

from modbridge.plugins import ComponentSpec, hookimpl

METRICS = {
    "bleu": ("Bleu", "BLEU-1 to BLEU-4"),
    "rouge_l": ("RougeL", "ROUGE-L"),
    "cider": ("Cider", "CIDEr as papers print it (CIDEr-D)"),
    "meteor": ("Meteor", "METEOR 1.5 (needs Java)"),
    "spice": ("Spice", "SPICE 1.0 (needs Java 8 to 14 and CoreNLP files)"),
}


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


@hookimpl
def modbridge_doctor() -> list[tuple[str, bool, str]]:
    from modbridge_metrics.environment import report

    return report()
