"""The pipeline that comes with a new plugin: its parts, and stand-ins of the core for the others."""

from __future__ import annotations

from collections.abc import Mapping

# Parts of the core that need no weights and no downloads, and what one would take in earnest.
STAND_INS = {
    "encoder": ("named_colours", "stands in; in earnest open_clip (pip install modbridge-clip)"),
    "bridge": ("mean_shift", "any other: modbridge components bridge"),
    "decoder": ("nearest_caption", "stands in; in earnest prefix_lm (pip install modbridge-captioning)"),
}
INSIDE = {"bridge": "prior", "decoder": "vocabulary", "encoder": "objective"}


def pipeline(parts: Mapping[str, str], name: str) -> str:
    """The YAML of a pipeline. `parts`: the names of the plugin's own parts by kind."""
    train, test = "{type: drawn_scenes, split: train, count: 300}", "{type: drawn_scenes, split: test, count: 60}"
    if "source" in parts:
        train, test = (f"{{type: {parts['source']}, split: {split}, count: 60}}" for split in ("train", "test"))
    lines = [
        "# modbridge run pipeline.yaml           runs at once: nothing is downloaded",
        "# modbridge init --encoder NAME ...     writes one with every field, for data of your own",
        f"name: {name}",
        "",
        "data:",
        f"  train: {train}",
        f"  test: {test}",
        "",
    ]
    for kind, (word, remark) in STAND_INS.items():
        inner = INSIDE.get(kind, "")
        if kind not in parts:
            lines.append(f"{kind}: {word}  # {remark}")
        elif inner in parts:
            lines.append(f"{kind}: {{type: {parts[kind]}, {inner}: {parts[inner]}}}")
        else:
            lines.append(f"{kind}: {parts[kind]}")
    metrics = []
    if "metric" in parts:
        metrics += [f"{{type: {parts['metric']}, judge: {parts['judge']}}}" if "judge" in parts else parts["metric"]]
    metrics += [] if "source" in parts else ["objects_exact"]
    return "\n".join([*lines, f"metrics: [{', '.join(metrics)}]", ""])
