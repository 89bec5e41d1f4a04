"""`weights: DIR`: a part taken from an artefact instead of being fitted.

What the artefact was fitted with is written in it, so a config need not repeat it: `{type: ddpm, weights: DIR}` is
enough. Fields that a config does give must agree with the artefact's, except those that only say how to train.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modbridge.config.component import ComponentConfig, flat
from modbridge.errors import Problem
from modbridge.spaces import Port

MANIFEST = "modbridge.json"
# A list in the place of a bridge is short for this bridge, with the list in this field.
CHAIN, CHAINED = "chain", "bridges"


def chained(blocks: Sequence[Any]) -> dict[str, Any]:
    """The block that a list of bridges is short for."""
    return {"type": CHAIN, CHAINED: list(blocks)}


def weights_folder(weights: str) -> Path:
    return Path(weights).expanduser()


def manifest_hash(weights: str) -> str:
    """sha256 of an artefact's manifest, which holds the hashes of all its files; "missing" if there is none."""
    file = weights_folder(weights) / MANIFEST
    return hashlib.sha256(file.read_bytes()).hexdigest() if file.is_file() else "missing"


def has_weights(config: ComponentConfig) -> bool:
    """Whether a component, or one of its parts, is taken from an artefact."""
    return getattr(config, "weights", None) is not None or any(map(has_weights, config.parts().values()))


def require_ports(weights: str, component: str, ports: Mapping[str, Port]) -> None:
    """Raise PortError if an artefact was fitted in another space than that of `ports`, where it is to stand."""
    manifest = json.loads((weights_folder(weights) / MANIFEST).read_text(encoding="utf-8"))
    for name, port in manifest.get("ports", {}).items():
        if name in ports:
            Port.from_json(port).require(
                ports[name],
                what=f"the weights {weights} of {component!r} were fitted on other {name} vectors",
                remedy="Give weights of this encoder, or leave `weights` out to fit anew.",
            )


def kept_selection(weights: str) -> dict[str, Any]:
    """How the weights in an artefact were chosen while they were trained (`by`, `pairs`); empty if they were not."""
    manifest = json.loads((weights_folder(weights) / MANIFEST).read_text(encoding="utf-8"))
    return dict(manifest.get("selection") or {})


def kept_config(kind: str, block: Mapping[str, Any], path: str, problems: list[Problem]) -> dict[str, Any] | None:
    """The config in the artefact that `block["weights"]` names; None, and a problem, if it holds no such component."""
    weights, where = block["weights"], f"{path}.weights".lstrip(".")
    if not isinstance(weights, str):
        problems.append(Problem(where, f"expected a folder that modbridge wrote, found {weights!r}"))
        return None
    if "://" in weights:
        hint = "fetch it first: `hf download ORG/NAME --local-dir DIR`, then weights: DIR"
        problems.append(Problem(where, f"expected a local folder, found the address {weights}", hint=hint))
        return None
    file = weights_folder(weights) / MANIFEST
    hint = "a folder that `modbridge run` (under artefacts/) or `modbridge import-weights` wrote"
    try:
        manifest = json.loads(file.read_text(encoding="utf-8"))
        found, config = (manifest.get("kind"), manifest.get("type")), manifest["config"]
    except FileNotFoundError:
        problems.append(Problem(where, f"there is no artefact in {weights}: found no {MANIFEST}", hint=hint))
        return None
    except (OSError, ValueError, KeyError, AttributeError) as error:
        problems.append(Problem(where, f"{file} is damaged ({type(error).__name__}: {error})", hint=hint))
        return None
    if found != (kind, block["type"]) or not isinstance(config, dict):
        message = f"{weights} holds the {found[0]} {found[1]!r}, expected a {kind} {block['type']!r}"
        problems.append(Problem(where, message))
        return None
    kept: dict[str, Any] = without_weights(config)
    return kept


def laid_over(
    kept: Mapping[str, Any], given: Mapping[str, Any], training: Mapping[str, Sequence[str]]
) -> dict[str, Any]:
    """The artefact's config with the fields that are given. Those that only say how to train stay the artefact's:
    `training` names them, for the component itself under "" and for a nested part under its dotted name."""
    merged = dict(kept)
    for name, value in given.items():
        if name not in training.get("", ()):
            merged[name] = _over(merged.get(name), value, _below(training, name))
    return merged


def _over(kept: Any, given: Any, training: Mapping[str, Sequence[str]]) -> Any:
    """`laid_over` for the value of one field: of parts in a list, each over the one in its place."""
    if isinstance(kept, list) and isinstance(given, list) and len(kept) == len(given) and all(map(_is_block, kept)):
        pairs = enumerate(zip(kept, given, strict=True))
        return [_over(before, after, _below(training, str(number))) for number, (before, after) in pairs]
    if _is_block(kept) and isinstance(given, str):
        given = {"type": given}
    elif _is_block(kept) and kept["type"] == CHAIN and isinstance(given, list):
        given = chained(given)
    if isinstance(kept, Mapping) and isinstance(given, Mapping) and _one_type(kept, given):
        return laid_over(kept, given, training)
    return given


def _below(training: Mapping[str, Sequence[str]], name: str) -> dict[str, Sequence[str]]:
    """The training fields of what stands under a name."""
    deeper = {key.removeprefix(f"{name}."): fields for key, fields in training.items() if key.startswith(f"{name}.")}
    return {"": training.get(name, ()), **deeper}


def _is_block(value: Any) -> bool:
    return isinstance(value, Mapping) and "type" in value


def _one_type(kept: Mapping[str, Any], given: Mapping[str, Any]) -> bool:
    return bool(given.get("type", kept.get("type")) == kept.get("type"))


def disagreements(kept: ComponentConfig, wanted: ComponentConfig, path: str, weights: str) -> list[Problem]:
    """Fields in which what is wanted could not have come out of the artefact."""
    before, after = flat(kept.key_fields()), flat(wanted.key_fields())
    names = [name for name in {**before, **after} if name != "weights" and before.get(name) != after.get(name)]
    problems = [
        Problem(
            f"{path}.{name}".lstrip("."),
            f"is {after[name]!r}, but {weights} was fitted with {before[name]!r}",
            hint="leave it out, or leave `weights` out to fit anew",
        )
        for name in names
        if name in before and name in after
    ]
    alone = [name for name in names if (name in before) != (name in after)]
    if alone:
        here, there = ("here", f"in {weights}") if alone[0] in after else (f"in {weights}", "here")
        message = f"{', '.join(alone)}: part of the fit {here} but not {there}"
        hint = "what is left to fitting (`auto`) must be the same in both; or leave `weights` out to fit anew"
        problems.append(Problem(path, message, hint=hint))
    return problems


def without_weights(tree: Any) -> Any:
    """A dumped config that no longer says where weights came from: what it describes stands beside it."""
    if isinstance(tree, Mapping):
        given = "type" in tree and isinstance(tree.get("weights"), str | None)
        return {name: without_weights(value) for name, value in tree.items() if not (given and name == "weights")}
    if isinstance(tree, list):
        return [without_weights(value) for value in tree]
    return tree
