"""Whether the models of FENSE and SPIDEr-FL are on this machine, and where. Downloads nothing, asks no server."""

from __future__ import annotations

import os
from pathlib import Path

DOWNLOAD = "with network, run once: aac-metrics-download (it fetches both models of FENSE)"
WEIGHTS = ("model.safetensors", "pytorch_model.bin")


def sbert_folder(name: str) -> Path | None:
    """The folder of a Sentence-BERT model: a path, or the hub's cache as sentence-transformers fills it."""
    folder = Path(name).expanduser()
    if not folder.is_dir():
        hub = name if "/" in name else f"sentence-transformers/{name}"
        folder = _snapshot(hub, "modules.json", os.environ.get("SENTENCE_TRANSFORMERS_HOME")) or folder
    return folder if (folder / "modules.json").is_file() and _has_weights(folder) else None


def sbert_lacking(name: str) -> str | None:
    """What is missing of a Sentence-BERT model and what to do; None if it is there."""
    if sbert_folder(name) is not None:
        return None
    return f"FENSE needs the Sentence-BERT model {name} (modules.json and weights), which is not here: {DOWNLOAD}"


def echecker_file(name: str) -> Path:
    """Where an error detector is expected: a path to a .ckpt, or a name in the folder that aac-metrics fills."""
    if name.endswith(".ckpt"):
        return Path(name).expanduser()
    hub = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
    home = os.environ.get("FENSE_DATA") or os.path.join(hub, "hub", "fense_data")
    return Path(home).expanduser() / f"{name}.ckpt"


def encoder_folder(model_type: str) -> Path | None:
    """The folder of the BERT that an error detector is built on (its shapes and its tokenizer), or None."""
    folder = Path(model_type).expanduser()
    if not folder.is_dir():
        folder = _snapshot(model_type, "config.json", None) or folder
    words = any((folder / name).is_file() for name in ("tokenizer.json", "vocab.txt"))
    return folder if (folder / "config.json").is_file() and words else None


def echecker_lacking(name: str) -> str | None:
    """What is missing of an error detector and what to do; None if its file and its BERT's are there.

    The name of the BERT stands in the checkpoint, of which only that is read (mapped, not loaded; tensors and plain
    values, no code).
    """
    path = echecker_file(name)
    if not path.is_file():
        return f"the error detector {name} of FENSE is not at {path}: {DOWNLOAD}, or set `echecker` to its .ckpt"
    import torch

    try:
        model_type = torch.load(path, map_location="cpu", weights_only=True, mmap=True)["model_type"]
    except Exception:
        try:  # files of torch before 1.6 cannot be mapped
            model_type = torch.load(path, map_location="cpu", weights_only=True)["model_type"]
        except Exception as error:
            return f"{path} is no checkpoint of an error detector ({error}). Remove it, and {DOWNLOAD}"
    if encoder_folder(str(model_type)) is None:
        return f"the error detector {name} needs config and tokenizer of {model_type}, not here: {DOWNLOAD}"
    return None


def _snapshot(hub: str, file: str, cache: str | None) -> Path | None:
    """The folder of a model in the hub's cache in which `file` lies."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        found = try_to_load_from_cache(hub, file, cache_dir=cache)
    except HFValidationError:  # a path that is not there
        return None
    return Path(found).parent if isinstance(found, str) else None


def _has_weights(folder: Path) -> bool:
    places = (folder, folder / "0_Transformer")
    return any((place / name).is_file() for place in places for name in WEIGHTS)
