"""LAION's .pt checkpoints: read without running what a pickle may hold, and loaded with every weight accounted for."""

from __future__ import annotations

import pickle
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch

from modbridge.errors import ArtefactError, SetupError

_TRAINED_IN_PARALLEL = "module."
# A buffer that RoBERTa had before transformers 4.31; it is computed now.
_FORMER = "text_branch.embeddings.position_ids"
_WIDTHS = {96: "HTSAT-tiny", 128: "HTSAT-base"}
_PATCHES = "audio_branch.patch_embed.proj.weight"
_FUSED = "audio_branch.patch_embed.mel_conv2d."


def read_checkpoint(path: Path) -> dict[str, torch.Tensor]:
    """A checkpoint's tensors under the package's names.

    Raises ArtefactError for a file that is damaged, no checkpoint, or that holds more than tensors and numbers.
    """
    try:
        # the authors' training states hold numpy's numbers beside the weights
        with torch.serialization.safe_globals(_numbers()):
            content = torch.load(path, map_location="cpu", weights_only=True)
    except pickle.UnpicklingError as error:
        raise ArtefactError(
            f"checkpoint {path}: it cannot be read, or holds other things than tensors and numbers, which could run "
            f"code when loaded ({_first_line(error)}). Expected a .pt file as LAION publishes them: download it again."
        ) from error
    except (RuntimeError, ValueError, EOFError, KeyError) as error:
        raise ArtefactError(
            f"checkpoint {path}: the file is damaged or no checkpoint ({_first_line(error)}). Download it again."
        ) from error
    except OSError as error:
        raise SetupError(f"checkpoint {path} cannot be opened: {error}") from error
    state = content.get("state_dict", content) if isinstance(content, Mapping) else None
    if not isinstance(state, Mapping) or not state or not all(isinstance(v, torch.Tensor) for v in state.values()):
        raise ArtefactError(
            f"checkpoint {path}: found no tensors by name in it, nor under 'state_dict'. Expected a .pt file of "
            f"LAION's CLAP."
        )
    found = {str(name).removeprefix(_TRAINED_IN_PARALLEL): value for name, value in state.items()}
    found.pop(_FORMER, None)
    return found


def load_weights(network: torch.nn.Module, state: dict[str, torch.Tensor], path: Path, chosen: str) -> None:
    """Put all of a checkpoint's tensors into a network. `chosen`: how the config calls the network, for messages.

    Raises ArtefactError if a tensor is missing, unknown or of another shape: none is left random.
    """
    wanted = network.state_dict()
    missing = sorted(wanted.keys() - state.keys())
    unknown = sorted(state.keys() - wanted.keys())
    misshapen = sorted(name for name in wanted.keys() & state.keys() if wanted[name].shape != state[name].shape)
    if missing or unknown or misshapen:
        raise ArtefactError(
            f"checkpoint {path}: its weights are not those of {chosen}: {len(missing)} missing "
            f"({', '.join(missing[:3])}), {len(unknown)} unknown ({', '.join(unknown[:3])}), {len(misshapen)} of "
            f"another shape ({', '.join(misshapen[:3])}). {_advice(state)}"
        )
    broken = [name for name, value in state.items() if value.is_floating_point() and not torch.isfinite(value).all()]
    if broken:
        raise ArtefactError(
            f"checkpoint {path}: {len(broken)} of its tensors hold NaN or infinity ({', '.join(broken[:3])}). Download "
            f"it again."
        )
    network.load_state_dict(state)


def _advice(state: dict[str, torch.Tensor]) -> str:
    """What a checkpoint of another network is."""
    patches = state.get(_PATCHES)
    model = None if patches is None else _WIDTHS.get(patches.shape[0])
    if model is None or "text_branch.pooler.dense.weight" not in state:
        return (
            "Expected a .pt file of LAION's CLAP with HTSAT-tiny or HTSAT-base and RoBERTa. (Files in transformers' "
            "format go through the encoder 'hf_clap'.)"
        )
    fused = any(name.startswith(_FUSED) for name in state)
    return f"It looks like `audio_model: {model}` with `fusion: {str(fused).lower()}`."


def _numbers() -> list[Any]:
    multiarray: Any = np.core.multiarray if hasattr(np, "core") else np._core.multiarray  # type: ignore[attr-defined]
    kinds = {type(np.dtype(kind)) for kind in ("bool", "int32", "int64", "float32", "float64")}
    return [multiarray.scalar, np.dtype, *kinds]


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
