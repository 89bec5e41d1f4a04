"""What components promise of their artefacts: what was saved is what is loaded, in files that anyone can read."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from modbridge.store.artefact import load_component, save_component
from modbridge.testing.conformance.compare import difference, tensor_difference
from modbridge.testing.conformance.outcome import Check, Failed, NotForIt
from modbridge.testing.conformance.state import all_tensors
from modbridge.testing.conformance.subject import FITTED_KINDS, Subject
from modbridge.testing.conformance.views import views

READABLE = (".json", ".safetensors", ".md", ".txt")  # .txt: the merges and words of tokenizers


def saved(subject: Subject, component: Any, folder: Path) -> None:
    """Write it as a run would."""
    save_component(component, folder, {"kind": subject.kind, "type": subject.spec.name})


def copied(subject: Subject, component: Any, *, device: str = "cpu") -> Any:
    """Another one, with what `component` keeps: built with another seed, and loaded from its artefact."""
    if not subject.is_fitted:
        return subject.build(device=device)
    folder = subject.folder(f"artefact-{device}")  # stays: some components read from it while they are used
    saved(subject, component, folder)
    other = subject.build(seed=1, device=device, artefact=folder)
    load_component(other, folder)
    return other


def save_load(subject: Subject) -> None:
    component = _kept(subject)
    other = copied(subject, component)
    told = tensor_difference(all_tensors(component), all_tensors(other))
    if told:
        raise Failed(
            f"saved and loaded, it keeps other tensors: {told}",
            "the same tensors, bit for bit",
            "let `load_tensors` take up all that `tensors` gives, and nothing depend on the seed of the loading",
        )
    for view in views(subject):
        rows = list(range(view.count))
        here, there = (view.rows_of(view.call(one, rows, 0)) for one in (component, other))
        told = difference(here, there)
        if told:
            raise Failed(
                f"saved and loaded, its {view.name} gives something else ({told})",
                "the same result as before it was saved",
                "keep everything that fitting finds: tensors in `tensors` (or modules in `modules`), the rest in "
                "`save_extra`; nothing that is only an attribute is kept",
            )


def artefact_files(subject: Subject) -> None:
    component = _kept(subject)
    folder = subject.folder("artefact-files")
    saved(subject, component, folder)
    files = [path for path in folder.rglob("*") if path.is_file()]
    strange = sorted(str(path.relative_to(folder)) for path in files if path.suffix not in READABLE)
    if strange:
        raise Failed(
            f"its artefact holds {', '.join(strange[:3])}",
            f"files of the kinds {', '.join(READABLE)} only: nothing pickled, nothing that runs code when it is read",
            "put tensors into `tensors`, everything else into JSON by `save_extra`",
        )
    for path in files:
        if path.suffix == ".json":
            try:
                json.loads(path.read_text(encoding="utf-8"))
            except ValueError as error:
                name = path.relative_to(folder)
                raise Failed(f"{name} is no JSON: {error}", "JSON", "write it by json.dumps") from error


def _kept(subject: Subject) -> Any:
    if not subject.is_fitted:
        raise NotForIt("it is not fitted, so no artefact of it is kept")
    return subject.component


CHECKS = (
    Check("save_load", FITTED_KINDS, "what was saved is what is loaded", save_load),
    Check("artefact_files", FITTED_KINDS, "its artefact holds JSON, safetensors and text only", artefact_files),
)
