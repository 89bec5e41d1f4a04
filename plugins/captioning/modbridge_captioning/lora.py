"""Low-rank adapters beside layers of a language model, by peft. The base stays as it is, and only they are kept."""

from __future__ import annotations

from collections import Counter

import torch
from peft import LoraConfig, inject_adapter_in_model
from peft.tuners.lora import LoraLayer
from peft.utils.constants import TRANSFORMERS_MODELS_TO_LORA_TARGET_MODULES_MAPPING as USUAL
from transformers import PreTrainedModel
from transformers.pytorch_utils import Conv1D

from modbridge.errors import ConfigError, Problem
from modbridge.training import derived_seed
from modbridge_captioning.blocks import Lora

_NAME = "default"  # of the one adapter, inside peft's layers


class Adapter(torch.nn.Module):
    """The adapters that stand inside `lm`, as one module: the very layers, under the names of those they stand beside
    ("transformer.h.0.attn.c_attn.lora_A.weight"). Its mode is that of their dropout alone."""

    def __init__(self, lm: torch.nn.Module) -> None:
        super().__init__()
        for path, layer in lm.named_modules():
            if isinstance(layer, LoraLayer):
                node: torch.nn.Module = self
                for part in path.split("."):
                    if part not in dict(node.named_children()):
                        node.add_module(part, torch.nn.Module())
                    node = node.get_submodule(part)
                for name in ("lora_A", "lora_B", "lora_dropout"):
                    node.add_module(name, getattr(layer, name)[_NAME])


def add_adapters(lm: PreTrainedModel, config: Lora, *, name: str, seed: int) -> Adapter:
    """Put fresh adapters into `lm`, which changes in place and computes as before until they are trained.

    All weights of `lm` itself stop asking for gradients. Raises ConfigError, naming the layers that exist, for targets
    that do not, and for an LM whose kind has no usual ones where none are given.
    """
    layers = _layers(lm)
    targets = list(config.targets or USUAL.get(str(lm.config.model_type), ()))
    ends = {target: [path for path in layers if f".{path}".endswith(f".{target}")] for target in targets}
    unknown = [target for target, paths in ends.items() if not paths]
    if unknown or not targets:
        said = (
            f"names {unknown}, which are no linear layers of it"
            if config.targets
            else "is left out, and none are usual"
        )
        count = Counter(path.rsplit(".", 1)[-1] for path in layers)
        there = ", ".join(f"{layer} ({n})" for layer, n in sorted(count.items()))
        raise ConfigError(
            [
                Problem(
                    "decoder.lora.targets",
                    f"{said} for the language model {name!r} ({type(lm).__name__}); it has {there}",
                    hint="name some of these",
                )
            ]
        )
    chosen = sorted({path for paths in ends.values() for path in paths})
    transposed = isinstance(layers[chosen[0]], Conv1D)  # GPT-2 keeps its weights the other way round
    settings = LoraConfig(
        r=config.r,
        lora_alpha=config.alpha,  # type: ignore[arg-type]  # peft divides it by r, whole or not
        lora_dropout=config.dropout,
        target_modules=chosen,
        fan_in_fan_out=transposed,
    )
    mode = lm.training
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(derived_seed("prefix_lm", "lora", seed))
        inject_adapter_in_model(settings, lm, adapter_name=_NAME)
    lm.train(mode)
    return Adapter(lm).train(mode)


def base_name(name: str) -> str | None:
    """What a tensor was called before adapters were put in; None for an adapter's own."""
    return None if ".lora_" in name else name.replace(".base_layer.", ".")


def _layers(lm: PreTrainedModel) -> dict[str, torch.nn.Module]:
    """The linear layers that can have an adapter: all but the head, which often is the table of embeddings."""
    head = lm.get_output_embeddings()  # type: ignore[no-untyped-call]
    return {
        path: layer
        for path, layer in lm.named_modules()
        if isinstance(layer, torch.nn.Linear | Conv1D) and layer is not head
    }
