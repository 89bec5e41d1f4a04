"""The package laion_clap, imported and used here only, so that it changes nothing around it and fetches nothing.

Left to itself it loads three tokenizers from the hub when imported, adds its own folder to sys.path, and fetches the
weights of roberta-base to build a network whose checkpoint holds them anyway.
"""

from __future__ import annotations

import random
import sys
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import torch
from transformers import BartTokenizer, BertTokenizer, RobertaConfig, RobertaModel, RobertaTokenizer

RATE, LENGTH = 48_000, 480_000  # Hz and samples: of all its audio towers
HOP = 480
TEXT_LENGTH = 77
VOCABULARY = 50_265
_FUSION = "aff_2d"
# roberta-base's config.json, where it differs from the library's defaults or might come to
_ROBERTA_BASE: dict[str, Any] = {
    "vocab_size": VOCABULARY, "hidden_size": 768, "num_hidden_layers": 12, "num_attention_heads": 12,
    "intermediate_size": 3072, "hidden_act": "gelu", "max_position_embeddings": 514, "type_vocab_size": 1,
    "layer_norm_eps": 1e-5, "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
}  # fmt: skip


@contextmanager
def _answering(cls: Any, answer: Callable[..., Any]) -> Iterator[None]:
    """Let `cls.from_pretrained` give `answer(name)`, for a while."""
    own = cls.__dict__.get("from_pretrained")
    cls.from_pretrained = staticmethod(answer)
    try:
        yield
    finally:
        if own is None:
            del cls.from_pretrained
        else:
            cls.from_pretrained = own


@contextmanager
def _as_before() -> Iterator[None]:
    """Leave sys.path and Python's random stream, from which something draws when imported, as they were."""
    path, stream = list(sys.path), random.getstate()
    try:
        yield
    finally:
        sys.path[:] = path
        random.setstate(stream)


def _no_tokenizer(name: str, *args: Any, **options: Any) -> None:
    """In place of the package's tokenizers, which only its training uses."""


with ExitStack() as _held:
    _held.enter_context(_as_before())
    for _cls in (BertTokenizer, RobertaTokenizer, BartTokenizer):
        _held.enter_context(_answering(_cls, _no_tokenizer))
    from laion_clap.clap_module.factory import create_model  # type: ignore[import-not-found,import-untyped,unused-ignore]
    from laion_clap.training.data import get_mel  # type: ignore[import-not-found,import-untyped,unused-ignore]


def draw_network(audio_model: str, fusion: bool) -> tuple[Any, dict[str, Any]]:
    """The package's CLAP network, its weights random (the caller must replace all), and its audio settings.

    Global random streams are left alone.
    """

    def roberta(name: str, *args: Any, **options: Any) -> Any:
        assert name == "roberta-base", name
        return RobertaModel(RobertaConfig(**_ROBERTA_BASE))

    with torch.random.fork_rng(devices=[]), _answering(RobertaModel, roberta):
        network, settings = create_model(
            audio_model,
            "roberta",
            device=torch.device("cpu"),
            enable_fusion=fusion,
            fusion_type=_FUSION if fusion else "None",
        )
    return network.eval(), settings["audio_cfg"]


def log_mel(samples: torch.Tensor, settings: dict[str, Any]) -> torch.Tensor:
    """What a fused network reads of (T,) samples: float32 (frames, bins), in dB."""
    found: torch.Tensor = get_mel(samples, settings)
    return found
