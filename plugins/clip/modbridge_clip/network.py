"""open_clip's networks: made from their config, and where their weights come from."""

from __future__ import annotations

import difflib
from collections.abc import Mapping
from copy import deepcopy
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.pretrained import download_pretrained_from_url
from open_clip.transform import PreprocessCfg

from modbridge.errors import ArtefactError, ConfigError, SetupError
from modbridge.hub import hub_file, require_network
from modbridge_clip.open_clip_config import RANDOM, OpenClipConfig, clean_tag

_PREPROCESSING = ("mean", "std", "interpolation", "resize_mode")
_DEFAULT_FILES = ("open_clip_model.safetensors", "open_clip_pytorch_model.bin")


@dataclass(frozen=True)
class Weights:
    """A weights file, and what must be known to use it: how images were prepared in training, which activation."""

    path: Path | None
    preprocess: Mapping[str, Any] = field(default_factory=dict)
    quick_gelu: bool = False


def find_weights(config: OpenClipConfig) -> Weights:
    """The weights that `pretrained` names, fetched if need be; a path of None stands for random ones.

    Raises ConfigError for an unknown tag, SetupError if the file cannot be fetched.
    """
    path = config.checkpoint()
    if path is not None:
        return Weights(path, _common_preprocess(config.model) if isinstance(config.model, str) else {})
    if config.pretrained in (None, RANDOM):
        return Weights(None)
    assert isinstance(config.model, str)
    assert config.pretrained is not None
    known = open_clip.get_pretrained_cfg(config.model, config.pretrained)
    if not known:
        tags = open_clip.list_pretrained_tags_by_model(config.model)
        close = difflib.get_close_matches(clean_tag(config.pretrained), tags, n=3, cutoff=0.4)
        advice = f"did you mean {' or '.join(map(repr, close))}? " if close else ""
        raise ConfigError(
            f"pretrained: open_clip has no weights {config.pretrained!r} for {config.model}; {advice}"
            f"known: {', '.join(tags) or 'none'}; or the path of a checkpoint"
        )
    return Weights(_published(known), {key: known[key] for key in _PREPROCESSING if key in known}, _quick_gelu(known))


def build_network(architecture: Mapping[str, Any], seed: int, quick_gelu: bool = False) -> torch.nn.Module:
    """A network of open_clip's, its weights drawn from `seed`. Raises ConfigError if open_clip refuses the config."""
    values = deepcopy(dict(architecture))
    values["quick_gelu"] = bool(values.get("quick_gelu")) or quick_gelu
    text, vision = values["text_cfg"], values["vision_cfg"]
    custom = bool(values.pop("custom_text", False)) or "hf_model_name" in text
    if "hf_model_name" in text:
        text["hf_model_pretrained"] = False  # the whole network's weights follow
    if "timm_model_name" in vision:
        vision["timm_model_pretrained"] = False
    kind = open_clip.CoCa if "multimodal_cfg" in values else open_clip.CustomTextCLIP if custom else open_clip.CLIP
    try:
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(seed)
            network: torch.nn.Module = kind(**values)
    except (TypeError, ValueError, AssertionError, ArithmeticError, RuntimeError) as error:
        raise ConfigError(f"model: open_clip cannot build it: {type(error).__name__}: {error}") from error
    except OSError as error:
        raise SetupError(f"model: its text tower needs a config from the hub, which is not there: {error}") from error
    return network


def load_weights(network: torch.nn.Module, path: Path) -> None:
    """Put a checkpoint's weights into `network`. Raises ArtefactError if it is none, or another model's."""
    try:
        open_clip.load_checkpoint(network, str(path), strict=True, weights_only=True)
    except Exception as error:  # torch, safetensors and open_clip's conversions each raise their own
        reason = str(error).strip().split("\n")
        raise ArtefactError(
            f"the checkpoint {path} does not fit this model: {' '.join(line.strip() for line in reason)[:400]}. "
            f"Check that `model` names the architecture it was saved from."
        ) from error


def preprocess_config(network: torch.nn.Module, given: Mapping[str, Any]) -> dict[str, Any]:
    """How images are prepared for a network, as open_clip's own model files write it: CLIP's, overlaid with `given`."""
    size = getattr(network.visual, "image_size")  # noqa: B009 - a module's attributes have no type
    return {**asdict(PreprocessCfg(size=size)), **given}


def _published(known: Mapping[str, Any]) -> Path:
    if known.get("hf_hub"):
        repo, _, name = known["hf_hub"].rpartition("/")
        safe = [f"{name.rpartition('.')[0]}.safetensors"] if name.endswith((".bin", ".pth")) else []
        return hub_file(repo, [*safe, name] if name else _DEFAULT_FILES)
    cached = Path("~/.cache/clip").expanduser() / Path(known["url"]).name
    if not cached.is_file():
        require_network(known["url"], f"Download it beforehand to {cached}, or give its path.", known["url"])
    return Path(download_pretrained_from_url(known["url"]))


def _quick_gelu(known: Mapping[str, Any]) -> bool:
    """Whether the weights were trained with QuickGELU. open_clip 3 only warns when the model is not; results differ."""
    return bool(known.get("quick_gelu", False))


def _common_preprocess(model: str) -> dict[str, Any]:
    """The image preprocessing on which all published weights of a model agree; CLIP's where they do not.

    A local SigLIP checkpoint would otherwise get CLIP's mean and size rule without a word.
    """
    tags = open_clip.list_pretrained_tags_by_model(model)
    found = [
        {key: value for key, value in open_clip.get_pretrained_cfg(model, tag).items() if key in _PREPROCESSING}
        for tag in tags
    ]
    return found[0] if found and all(item == found[0] for item in found) else {}


def encode_texts(network: Any, tokens: torch.Tensor) -> torch.Tensor:
    """Vectors (B, D) of token ids (B, L), padded with zeros. A causal tower that reads its vector at the end token is
    given no more than the longest text of the batch: what stands behind the end changes nothing (most captions take a
    fifth of CLIP's 77 places)."""
    causal = isinstance(network, open_clip.CLIP) and network.attn_mask is not None
    values: torch.Tensor
    if causal and network.text_pool_type in ("argmax", "eos"):
        length = int(tokens.ne(0).any(dim=0).nonzero().max()) + 1
        shorter = {
            "positional_embedding": network.positional_embedding[:length],
            "attn_mask": network.attn_mask[:length, :length],
        }
        found = torch.func.functional_call(network, shorter, kwargs={"text": tokens[:, :length]})
        values = found["text_features"] if isinstance(found, dict) else found[1]
    else:
        values = network.encode_text(tokens)
    return values
