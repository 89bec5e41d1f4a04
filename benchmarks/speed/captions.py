"""Writing captions by a model of GPT-2's shape: batched with a KV cache, as the decoder does, against other ways.

Research code writes one caption at a time and, for every token, runs the model over all that stands there already
(ClipCap's and CapDec's `generate2`). Weights are random and no caption ends early, so every caption is as long as may
be on both sides.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, PreTrainedTokenizerFast

from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.testing import build, toy_port
from speed.measure import Row, fastest

NAMES = ("captions-greedy", "captions-generate", "captions-beams")
END = "<|endoftext|>"
SHAPES: dict[bool, dict[str, Any]] = {
    True: {"n_layer": 12, "n_head": 12, "n_embd": 768, "vocab_size": 50257},
    False: {"n_layer": 2, "n_head": 2, "n_embd": 32, "vocab_size": 300},
}
DIM, PREFIX, NEW = 512, 10, 20


def rows(full: bool) -> Iterator[Row]:
    """GPT-2 small, or a tiny one of the same kind."""
    count, few, rounds = (32, 3, 3) if full else (8, 4, 2)
    shape = SHAPES[full]
    with TemporaryDirectory(prefix="modbridge-speed-") as name:
        folder = save_lm(Path(name) / "lm", shape)
        greedy, beams = decoder(folder, 1, count), decoder(folder, 5, count)
        lm: Any = GPT2LMHeadModel.from_pretrained(folder)  # as it comes: for use, not for training
    keys = tuple(f"item{i}" for i in range(count))
    x = Embeddings(Draw.of(keys, 0).normal(DIM), toy_port(DIM), keys)
    prefix = greedy.project(x.values).detach().view(count, PREFIX, -1)
    size = f"GPT-2 of {shape['n_layer']} x {shape['n_embd']}, prefix {PREFIX}, {NEW} tokens"

    said: dict[str, list[str]] = {}

    def keep(way: str, texts: list[str]) -> None:
        said[way] = texts

    def generated() -> list[str]:
        with torch.inference_mode():
            found = lm.generate(
                inputs_embeds=prefix, attention_mask=torch.ones(prefix.shape[:2], dtype=torch.int64),
                max_new_tokens=NEW, do_sample=False, eos_token_id=0, pad_token_id=0,
            )  # fmt: skip
        return [words(row) for row in found.tolist()]

    ways = {
        "decode": lambda: keep("decode", [one.text for one in greedy.decode(x)]),
        "research": lambda: keep("research", [plain(lm, prefix[i : i + 1]) for i in range(few)]),
        "generate": lambda: keep("generate", generated()),
    }
    seconds = fastest(ways, rounds, warm=not full)
    rate = count / seconds["decode"]
    ours = f"decode, batches of {count} ({size})"

    def different(way: str) -> dict[str, str]:
        pairs = list(zip(said["decode"], said[way], strict=False))
        return {"captions that differ": f"{sum(a != b for a, b in pairs)} of {len(pairs)}"}

    whole, cached = sum(range(PREFIX, PREFIX + NEW)), PREFIX + NEW - 1
    yield Row(
        name="captions-greedy", unit="captions", rate=rate, rate_of=ours, other=few / seconds["research"],
        other_of="one by one, the whole text through the model for every token", goal=10.0, rounds=rounds,
        limit=f"without a cache {whole} places a caption go through the model, with it {cached}: "
        f"{whole / cached:.1f} times, by operations alone", more=different("research"),
    )  # fmt: skip
    yield Row(
        name="captions-generate", unit="captions", rate=rate, rate_of=ours, other=count / seconds["generate"],
        other_of="transformers' generate on the same batch", goal=0.95, rounds=rounds, more=different("generate"),
    )  # fmt: skip

    some, rounds = (8 if full else 4), 2

    def written(at_once: int) -> None:
        parts = [range(i, i + at_once) for i in range(0, some, at_once)]
        keep(f"beams {at_once}", [one.text for part in parts for one in beams.decode(x.select(part))])

    seconds = fastest({"together": lambda: written(some), "apart": lambda: written(1)}, rounds, warm=False)
    differ = sum(a != b for a, b in zip(said[f"beams {some}"], said["beams 1"], strict=True))
    yield Row(
        name="captions-beams", unit="captions", rate=some / seconds["together"],
        rate_of=f"decode with 5 beams, a batch of {some}", other=some / seconds["apart"], other_of="one by one",
        goal=None, rounds=rounds, more={"captions that differ": f"{differ} of {some}"},
    )  # fmt: skip


def decoder(folder: Path, beams: int, batch: int) -> Any:
    """A prefix decoder that is not trained: its mapper is random too."""
    block = {
        "type": "prefix_lm", "lm": str(folder), "train_lm": "frozen", "prefix_length": PREFIX,
        "generate": {"num_beams": beams, "max_new_tokens": NEW}, "decode_batch_size": batch,
    }  # fmt: skip
    return build("decoder", block, ports={"text": toy_port(DIM)})


def plain(lm: Any, prefix: torch.Tensor) -> str:
    """One caption (prefix (1, P, E)) as research code writes it: no cache, the likeliest token each time."""
    tokens: list[int] = []
    with torch.inference_mode():
        while len(tokens) < NEW:
            logits = lm(inputs_embeds=prefix, use_cache=False).logits[:, -1]
            token = int(logits.argmax())
            if token == 0:
                break
            tokens.append(token)
            prefix = torch.cat([prefix, lm.transformer.wte(torch.tensor([[token]]))], dim=1)
    return words(tokens)


def words(tokens: list[int]) -> str:
    return " ".join(f"w{token}" for token in tokens if token)


def save_lm(folder: Path, shape: dict[str, Any]) -> Path:
    """A GPT-2 with random weights and a word for every token, of which the end is one of very many."""
    names = [END, *(f"w{i}" for i in range(1, shape["vocab_size"]))]
    backend = Tokenizer(models.WordLevel({name: i for i, name in enumerate(names)}, unk_token=END))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    tokenizer: Any = PreTrainedTokenizerFast
    tokenizer(tokenizer_object=backend, eos_token=END).save_pretrained(folder)
    torch.manual_seed(0)
    more: dict[str, Any] = {"n_positions": 64, "bos_token_id": 0, "eos_token_id": 0, "initializer_range": 0.1}
    config = GPT2Config(**shape, **more)
    GPT2LMHeadModel(config).save_pretrained(folder)
    return folder
