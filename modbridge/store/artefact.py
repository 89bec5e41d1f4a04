"""Artefacts: a folder that a person can read, holding one result.

`modbridge.json` names kind, type, config, ports, plugin and version, data fingerprint and the sha256 of every other
file; `model.safetensors` holds the tensors; README.md is the card. Nested parts are artefacts in folders of their own.
Frozen models that were taken from elsewhere, and parts that several components share, are named under `frozen` and not
written. Nothing pickled is ever written.
"""

from __future__ import annotations

import json
import os
import shutil
import uuid
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file

from modbridge.config.weights import MANIFEST, require_ports, weights_folder, without_weights
from modbridge.cost import parameters_of
from modbridge.errors import ArtefactError
from modbridge.interfaces.component import Component
from modbridge.interfaces.metric import Metric
from modbridge.interfaces.objective import Objective
from modbridge.store.keys import file_hash

SCHEMA = 1
MODEL = "model.safetensors"


def write_manifest(folder: Path, content: Mapping[str, Any], known: Mapping[str, str] | None = None) -> None:
    """Close an artefact: hash every file beneath it but those whose sha256 is `known`, and write `modbridge.json`."""
    names = [str(path.relative_to(folder)) for path in sorted(folder.rglob("*")) if path.is_file()]
    files = {name: (known or {}).get(name) or file_hash(folder / name) for name in names if name != MANIFEST}
    text = json.dumps({"schema": SCHEMA, **content, "files": files}, indent=1, sort_keys=True, ensure_ascii=False)
    (folder / MANIFEST).write_text(text + "\n", encoding="utf-8")


def read_manifest(folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """The manifest of an artefact, after checking its schema and, with `verify`, every file's hash."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise ArtefactError(
            f"{folder} is no modbridge artefact: found no {MANIFEST}. Expected a folder that modbridge wrote."
        ) from None
    except (ValueError, UnicodeDecodeError) as error:
        raise ArtefactError(f"{folder / MANIFEST} is damaged ({error}); make the artefact anew.") from None
    schema = manifest.get("schema") if isinstance(manifest, dict) else None
    if not isinstance(schema, int):
        raise ArtefactError(f"{folder / MANIFEST} names no schema; expected a file that modbridge wrote.")
    if schema > SCHEMA:
        raise ArtefactError(
            f"{folder} has schema {schema}, but this modbridge reads up to {SCHEMA}. It was written by a newer "
            f"version: upgrade modbridge."
        )
    if verify:
        for name, expected in manifest.get("files", {}).items():
            path = folder / name
            if not path.is_file():
                raise ArtefactError(f"{folder} is incomplete: {name} is missing. Remove the folder to make it anew.")
            if file_hash(path) != expected:
                raise ArtefactError(
                    f"{path} is not the file that was stored ({path.stat().st_size} bytes; its hash differs): cut "
                    f"short or altered. Remove {folder} to make it anew."
                )
    return dict(manifest)


def part_of(path: Path) -> Path:
    """Beside a file, while it is written: two writers of one file, of which one is given up for lost, do not meet."""
    return path.with_name(f".{path.name}.{uuid.uuid4().hex[:8]}.part")


def link(source: str | Path, target: str | Path) -> None:
    """A file under a second name, or a copy of it where the disk knows no such links."""
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def read_tensors(path: Path) -> dict[str, torch.Tensor]:
    """The tensors of a safetensors file; ArtefactError if it is missing, cut short or of another kind."""
    if not path.is_file():
        raise ArtefactError(f"{path} does not exist; expected a safetensors file.")
    try:
        return load_file(path)
    except (SafetensorError, ValueError, OSError) as error:
        raise ArtefactError(
            f"{path} cannot be read as safetensors ({error}); it is cut short or of another kind."
        ) from None


def save_component(component: Component[Any], folder: Path, content: Mapping[str, Any]) -> None:
    """Write a component and its nested parts. `content` goes into the manifest."""
    from modbridge.config.pipeline import dump

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {name: value.detach().cpu().contiguous().clone() for name, value in component.tensors().items()}
    if tensors:
        save_file(tensors, folder / MODEL)
    component.save_extra(folder)
    kinds = {name: kind for name, kind, _ in component.config.each_part()}
    for name, part in _own_parts(component):
        save_component(part, folder / name, {"kind": kinds[name], "type": part.config.type})
    frozen = _frozen(component)
    manifest = {
        "config": without_weights(dump(component.config)),
        "ports": {name: port.to_json() for name, port in component.context.ports.items()},
        **({"frozen": frozen} if frozen else {}),
        **content,
    }
    (folder / "README.md").write_text(_card(component, manifest), encoding="utf-8")
    write_manifest(folder, manifest)


def load_component(component: Component[Any], folder: Path, *, verify: bool = True) -> dict[str, Any]:
    """Fill a freshly built component with what `save_component` wrote; gives the manifest.

    Raises ArtefactError where the frozen models that it was fitted with are not those that it has now.
    """
    manifest = read_manifest(folder, verify=verify)
    if manifest.get("type") != component.config.type:
        raise ArtefactError(
            f"{folder} holds a {manifest.get('type')!r}, but the config asks for a {component.config.type!r}."
        )
    _same_frozen(component, manifest, folder)
    for name, part in _own_parts(component):
        load_component(part, folder / name, verify=False)
    component.load_extra(folder)
    component.load_tensors(read_tensors(folder / MODEL) if (folder / MODEL).is_file() else {})
    return manifest


def load_weights(component: Component[Any], weights: str) -> dict[str, Any]:
    """Fill a component with the fitted one that its config's `weights` names, instead of fitting it; gives where that
    came from (seed, data, how it was imported or chosen), for the new artefact's manifest.

    Raises ArtefactError for a damaged folder, PortError for one that was fitted in another space.
    """
    require_ports(weights, component.config.type, component.context.ports)
    manifest = load_component(component, weights_folder(weights))
    return {name: manifest[name] for name in ("seed", "data", "imported", "selection") if name in manifest}


def identities(component: Component[Any]) -> dict[str, str | None]:
    """Whose weights the shared parts inside a component are, at any depth, by their dotted names."""
    found: dict[str, str | None] = {}
    for name, part in component.context.parts.items():
        if part.config.shared:
            found[name] = part.identity()
        found |= {f"{name}.{inner}": identity for inner, identity in identities(part).items()}
    return found


def load_objectives(component: Component[Any] | Metric[Any], folder_of: Callable[[str], Path]) -> None:
    """Fill the objectives inside a component that a run trained, each from the folder that its dotted name has."""
    for name, part in component.context.parts.items():
        load_objectives(part, lambda inner, name=name: folder_of(f"{name}.{inner}"))  # type: ignore[misc]
        if isinstance(part, Objective) and part.config.needs_fit and part.fitted_as is None:
            load_objective(part, folder_of(name))


def load_objective(objective: Objective[Any], folder: Path) -> None:
    """Fill an objective that a run trained, ready to serve."""
    manifest = load_component(objective, folder)
    objective.freeze()
    objective.fitted_as = str(manifest["identity"])


def _own_parts(component: Component[Any]) -> Iterator[tuple[str, Component[Any]]]:
    """The nested components that belong to this one alone."""
    return ((name, part) for name, part in component.context.parts.items() if not part.config.shared)


def _frozen(component: Component[Any]) -> dict[str, str | None]:
    """Whose weights the models are that a component uses and its artefact does not keep."""
    shared = {name: part.identity() for name, part in component.context.parts.items() if part.config.shared}
    return {**component.frozen(), **shared}


def _same_frozen(component: Component[Any], manifest: Mapping[str, Any], folder: Path) -> None:
    now = _frozen(component)
    for name, before in manifest.get("frozen", {}).items():
        if now.get(name) != before:
            raise ArtefactError(
                f"{folder} was fitted with the frozen {name!r} {before or '(without weights)'}; found "
                f"{now.get(name) or 'none'}. Give the config that very model, or fit the {component.config.type} anew."
            )


def _card(component: Component[Any], manifest: Mapping[str, Any]) -> str:
    lines = [
        f"# {manifest.get('kind', 'component')} `{component.config.type}`",
        "",
        f"Written by modbridge. Plugin: {manifest.get('plugin', '?')} {manifest.get('version', '')}".rstrip(),
        f"Parameters: {parameters_of(component):,}. Seed: {manifest.get('seed', '?')}.",
        f"Data fingerprint: {manifest.get('data', '?')}.",
        "",
        "Config:",
        "",
        "```json",
        json.dumps(manifest["config"], indent=1, sort_keys=True, ensure_ascii=False),
        "```",
    ]
    return "\n".join(lines) + "\n"
