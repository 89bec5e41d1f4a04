"""Files that examples read: a tiny language model with its tokenizer."""

from __future__ import annotations

from pathlib import Path
from typing import Any

WORDS = "a an the is it one red green blue purple circle square triangle cross picture shows on black colour what"


def lm_judge(folder: Path) -> dict[str, Any]:
    """A fresh GPT-2 that knows a few words, saved as any pretrained one is."""
    import torch
    from tokenizers import Tokenizer, models, pre_tokenizers
    from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

    names = ["<end>", "<unknown>", *WORDS.split(), ".", ":", "?"]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token="<unknown>"))
    backend.pre_tokenizer = pre_tokenizers.Whitespace()
    fast: Any = PreTrainedTokenizerFast
    tokenizer = fast(tokenizer_object=backend, eos_token="<end>", unk_token="<unknown>")
    tokenizer.save_pretrained(folder)
    shape: dict[str, Any] = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64, "initializer_range": 0.4}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        lm = GPT2LMHeadModel(GPT2Config(vocab_size=len(names), bos_token_id=0, eos_token_id=0, **shape))
    lm.save_pretrained(folder)
    return {"type": "lm_judge", "lm": str(folder), "max_new_tokens": 6, "batch_size": 4}
