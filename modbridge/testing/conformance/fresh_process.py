"""A program of its own, run by `fresh.looked_at`: loads one plugin step by step and writes down which heavy modules
each step loaded. Imports nothing that a listing of plugins does not import either."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from modbridge.plugins.manager import Plugins, from_file, installed
from modbridge.plugins.registry import ComponentSpec

HEAVY = (
    "torch", "torchvision", "torchaudio", "transformers", "diffusers", "open_clip", "peft", "tensorflow", "jax",
    "numpy", "scipy", "sklearn", "pandas", "librosa", "soundfile", "PIL",
)  # fmt: skip


class Steps:
    """What each step loaded for the first time, and how it failed."""

    def __init__(self) -> None:
        self.seen: dict[str, dict[str, Any]] = {}

    def take(self, name: str, step: Callable[[], Any]) -> Any:
        before = set(sys.modules)
        error, found = None, None
        try:
            found = step()
        except (Exception, SystemExit) as problem:  # whatever a stranger's code raises is what is looked for
            error = f"{type(problem).__name__}: {problem}"
        self.seen[name] = {"heavy": [m for m in HEAVY if m in sys.modules and m not in before], "error": error}
        return found


def announced(plugin: str, file: str | None) -> list[ComponentSpec]:
    """The components that the plugin registers."""
    candidate = from_file(Path(file)) if file else next(c for c in installed() if c.name == plugin)
    module, specs = candidate.load(), list[ComponentSpec]()
    hook = getattr(module, "modbridge_components", None)
    if hook is not None:
        hook(register=specs.append)
    return specs


def main(plugin: str, file: str | None, given: dict[str, dict[str, Any]]) -> dict[str, Any]:
    steps = Steps()
    specs = steps.take("import", lambda: announced(plugin, file)) or []
    for spec in specs:
        # By itself, since a component's own loading keeps whatever is printed off stdout.
        steps.take(f"{spec.kind}:{spec.name} config", partial(import_module, spec.config.partition(":")[0]))
    # Examples may name components of other plugins.
    registry = Plugins.discover([file] if file else []).registry
    from modbridge.config.blocks import validate_block

    for spec in specs:
        name = f"{spec.kind}:{spec.name}"
        if name in given:
            steps.take(f"{name} ports", partial(asked, spec.kind, given[name], validate_block, registry))
    return steps.seen


def asked(kind: str, block: dict[str, Any], validate: Callable[..., Any], registry: Any) -> None:
    """Everything that a plan asks of a config before any weight is loaded."""
    from modbridge.errors import PortError
    from modbridge.spaces import Port, Space

    config = validate(kind, block, registry)
    config.key_fields()
    if kind == "encoder":
        for modality in config.modalities:
            config.emits(modality)
        return
    if kind in ("source", "metric", "engine", "objective", "judge"):
        told = {
            "source": ("captioned", "brings_texts"),
            "metric": ("columns", "judges", "reads_media"),
            "objective": ("needs_fit", "takes"),
            "judge": ("sees_images",),
        }
        _ = [getattr(config, name) for name in told.get(kind, ())]
        return
    space = Space(id="conformance", dim=16)
    text, source = Port(space=space, modality="text"), Port(space=space, modality="image")
    try:
        if kind == "bridge":
            config.crosses(source, text)
            config.augments(text)
        else:
            config.check(text)
    except PortError:
        pass  # a refusal is an answer too


if __name__ == "__main__":
    out, examples = Path(sys.argv[1]), json.loads(Path(sys.argv[2]).read_text(encoding="utf-8"))
    seen = main(examples["plugin"], examples["file"], examples["examples"])
    out.write_text(json.dumps(seen), encoding="utf-8")
