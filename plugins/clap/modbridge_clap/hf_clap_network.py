"""ClapModels of transformers: drawn anew, or read from their files with every weight accounted for."""

from __future__ import annotations

import difflib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoConfig, AutoTokenizer, ClapConfig, ClapFeatureExtractor, ClapModel

from modbridge.errors import ArtefactError, DataError, ModbridgeError
from modbridge.hub import from_hub
from modbridge_clap.hf_clap_config import HfClapConfig
from modbridge_clap.hf_clap_shapes import shape_problem

# Buffers that the library computes; older files lack some of them.
_COMPUTED = ("position_ids", "token_type_ids", "relative_position_index", "num_batches_tracked")


class Published:
    """A model's parts, from its folder or the hub. Raises DataError for one that is no CLAP, ArtefactError for damaged
    ones."""

    def __init__(self, config: HfClapConfig) -> None:
        self.name, self._revision, self._folder = str(config.model), config.revision, config.folder()
        self.settings = self._load(AutoConfig, "config.json")
        if self.settings.model_type != "clap":
            raise DataError(
                f"model {self.name} is of the kind {self.settings.model_type!r}; this encoder reads 'clap' models "
                f"(transformers' ClapModel). LAION's own .pt files go through the encoder 'laion_clap'."
            )
        self.extractor = self._load(ClapFeatureExtractor, "preprocessor_config.json")
        problem = shape_problem(self.settings.audio_config.to_dict(), self.extractor.to_dict())
        if problem is not None:
            raise DataError(f"model {self.name}: config.json and preprocessor_config.json do not fit: {problem}.")

    def tokenizer(self) -> Any:
        return self._load(AutoTokenizer, "tokenizer_config.json")

    def network(self) -> torch.nn.Module:
        """The model, float32. Raises ArtefactError if a weight is missing or of another shape: none is left random."""
        network, told = self._load(ClapModel, "config.json", dtype=torch.float32, output_loading_info=True)
        missing = sorted(key for key in told["missing_keys"] if not key.endswith(_COMPUTED))
        misshapen = sorted(str(key) for key in told["mismatched_keys"])
        if missing or misshapen:
            raise ArtefactError(
                f"model {self.name}: its weights are not those of the ClapModel that config.json describes: "
                f"{len(missing)} missing ({', '.join(missing[:3])}), {len(misshapen)} of another shape "
                f"({', '.join(misshapen[:3])}). Expected a whole checkpoint saved by ClapModel.save_pretrained."
            )
        found: torch.nn.Module = network
        return found

    def _load(self, part: Any, probe: str, **options: Any) -> Any:
        try:
            if self._folder is None:
                return from_hub(part.from_pretrained, self.name, probe, self._revision, **options)
            return part.from_pretrained(self._folder, local_files_only=True, **options)
        except ModbridgeError:
            raise
        except Exception as error:  # transformers raises OSError, ValueError, KeyError, RuntimeError ... for bad files
            raise ArtefactError(f"model {self.name}: {part.__name__} cannot load it: {error}") from error


def draw_network(model: dict[str, Any], text: dict[str, Any], seed: int) -> torch.nn.Module:
    """A ClapModel of an inline model's (filled) settings and its text tower's settings, its weights drawn from `seed`.

    Raises DataError for settings that transformers does not know, or cannot build.
    """
    top = {key: value for key, value in model.items() if key not in ("audio_config", "text_config", "features")}
    settings = {**top, "audio_config": model["audio_config"], "text_config": text}
    known = ClapConfig()
    for part in ("audio_config", "text_config"):
        _check_names(part, settings[part], getattr(known, part).to_dict())
    try:
        return network_of(ClapConfig(**settings), seed)
    except Exception as error:  # whatever torch and transformers say to sizes that do not fit
        raise DataError(f"the inline model cannot be built: {error}") from error


def network_of(config: Any, seed: int) -> torch.nn.Module:
    """A ClapModel of transformers' own config, in evaluation mode; global random streams are left alone."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        network: Any = ClapModel(config)
    found: torch.nn.Module = network.eval()
    return found


def draw_extractor(features: dict[str, Any]) -> Any:
    """A ClapFeatureExtractor of an inline model's (filled) features. Raises DataError for unknown settings."""
    _check_names("features", features, ClapFeatureExtractor().to_dict())
    return ClapFeatureExtractor(**features)


def read_network(folder: Path) -> tuple[torch.nn.Module, Any]:
    """The network, its weights still random, and the extractor of an artefact that `save_network` wrote."""
    try:
        config = ClapConfig.from_pretrained(folder, local_files_only=True)
        extractor = ClapFeatureExtractor.from_pretrained(folder, local_files_only=True)
        return network_of(config, 0), extractor
    except Exception as error:  # missing and damaged files, in many ways
        raise ArtefactError(f"the CLAP model in {folder} cannot be read: {error}") from error


def save_network(network: Any, extractor: Any, folder: Path) -> None:
    """config.json and preprocessor_config.json in transformers' format; the weights are the artefact's tensors."""
    network.config.save_pretrained(folder)
    extractor.save_pretrained(folder)


def vectors(found: Any) -> torch.Tensor:
    """What `get_audio_features` and `get_text_features` give, a tensor (transformers 4) or an object with it (5), as
    unit vectors (B, D), float32."""
    values: torch.Tensor = found if isinstance(found, torch.Tensor) else found.pooler_output
    return torch.nn.functional.normalize(values.float(), dim=-1)


def _check_names(part: str, given: dict[str, Any], known: dict[str, Any]) -> None:
    for name in given:
        if name not in known:
            near = difflib.get_close_matches(name, known, 1)
            hint = f"Did you mean {near[0]!r}?" if near else f"Known are {', '.join(sorted(known))}."
            raise DataError(f"the inline model's {part} has no setting {name!r}. {hint}")
