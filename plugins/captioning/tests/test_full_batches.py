"""Batches that are kept full: what is written is what each item would get alone, and what is finished costs nothing."""

from __future__ import annotations

import statistics
from pathlib import Path
from typing import Any

import pytest
import torch
from modbridge_captioning.reading import keeps_rows_apart
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, MistralConfig, MistralForCausalLM

from modbridge.errors import SetupError
from modbridge.testing import build

WORDS = ["dog", "a red cat", "bird on the old mat", "horse and cow", "fish", "man with a blue hat by the river"]
HINTS = [" ".join(WORDS[(i * 5 + j) % 6] for j in range(i * 7 % 4)) for i in range(30)]
NEW = 9


def decoder_on(lm: Path, **changes: Any) -> Any:
    """A decoder that reads three vectors and then words, at most four items at once."""
    generate = {"max_new_tokens": NEW, **changes.pop("generate", {})}
    block = {"type": "prefix_lm", "lm": str(lm), "prefix_length": 3, "prompt": {"template": "{prefix}{hint}"}}
    return build("decoder", {**block, "generate": generate, "decode_batch_size": 4, **changes})


def vectors(kit: Any) -> torch.Tensor:
    found: torch.Tensor = kit.embeddings_of([f"t{n}" for n in range(len(HINTS))], seed=8).values
    return found


def written(decoder: Any, x: torch.Tensor) -> list[Any]:
    keys = [f"k{n}" for n in range(len(x))]
    with torch.inference_mode():
        found: list[Any] = decoder.decode_hinted(x, None, HINTS[: len(x)], keys, 0)
    assert [one.key for one in found] == keys
    return found


def uneven(lm: Path, folder: Path) -> Path:
    """The LM of a folder, made to end where it would have written a word that it often writes: captions of different
    lengths."""
    model, tokenizer = AutoModelForCausalLM.from_pretrained(lm).eval(), AutoTokenizer.from_pretrained(lm)
    prompts = torch.arange(30 * 4).view(30, 4) * 7 % len(tokenizer)
    said = model.generate(prompts, attention_mask=torch.ones_like(prompts), max_new_tokens=NEW, do_sample=False)
    often = said[:, 5:].flatten().bincount().argsort(descending=True).tolist()
    word = next(token for token in often if token != tokenizer.eos_token_id)
    with torch.no_grad():
        table = model.get_output_embeddings().weight
        table[tokenizer.eos_token_id] = table[word] * 1.05
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def sliding(lm: Path, folder: Path) -> Path:
    """A Mistral of the shape of a Llama, which forgets what is far back: transformers' `generate` writes for it."""
    shape = LlamaConfig.from_pretrained(lm).to_dict()
    names = "vocab_size", "hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads"
    names += "num_key_value_heads", "bos_token_id", "eos_token_id"
    torch.manual_seed(0)
    config = MistralConfig(**{name: shape[name] for name in names}, sliding_window=6, initializer_range=0.4)
    MistralForCausalLM(config).save_pretrained(folder)
    AutoTokenizer.from_pretrained(lm).save_pretrained(folder)
    return folder


@pytest.mark.parametrize("kind", ["gpt2", "llama", "opt", "mistral"])
@pytest.mark.parametrize("search", [{}, {"num_beams": 3, "length_penalty": 0.7}, {"num_beams": 2, "stop": "dog"}])
def test_every_item_gets_what_plain_generate_writes_for_it_alone(
    kit: Any, lms: dict[str, Path], kind: str, search: dict[str, Any], tmp_path: Path
) -> None:
    lm = sliding(lms["llama"], tmp_path / "sliding") if kind == "mistral" else uneven(lms[kind], tmp_path / "lm")
    decoder = decoder_on(lm, generate=search)
    model, tokenizer = AutoModelForCausalLM.from_pretrained(lm).eval(), AutoTokenizer.from_pretrained(lm)
    x = vectors(kit)
    ends = [tokenizer.eos_token_id]
    if "stop" in search:
        ends.append(tokenizer("dog", add_special_tokens=False)["input_ids"][0])
    options = {name: value for name, value in search.items() if name != "stop"}
    lengths = set()
    for vector, hint, found in zip(x, HINTS, written(decoder, x), strict=True):
        ids = torch.tensor(tokenizer(hint, add_special_tokens=False)["input_ids"], dtype=torch.long)
        with torch.inference_mode():
            front = torch.cat([decoder.mapper(vector[None])[0], model.get_input_embeddings()(ids)])
            said = model.generate(
                inputs_embeds=front[None],
                attention_mask=torch.ones(1, len(front), dtype=torch.long),
                do_sample=False,
                max_new_tokens=NEW,
                eos_token_id=ends,
                pad_token_id=tokenizer.eos_token_id,
                **options,
            )[0].tolist()
            inputs = torch.cat([front, model.get_input_embeddings()(torch.tensor(said[:-1], dtype=torch.long))])
            logs = model(inputs_embeds=inputs[None]).logits[0, len(front) - 1 :].log_softmax(1)
        assert found.text == tokenizer.decode(said, skip_special_tokens=True)
        total = sum(float(log[token]) for log, token in zip(logs, said, strict=True))
        assert found.score == pytest.approx(total / len(said) ** search.get("length_penalty", 1.0), abs=1e-4)
        lengths.add(len(said))
    assert len(lengths) > (1 if kind == "mistral" else 2)
    assert keeps_rows_apart(model) == (kind != "mistral")


def test_captions_that_are_finished_cost_nothing(kit: Any, lms: dict[str, Path], tmp_path: Path) -> None:
    decoder = decoder_on(uneven(lms["gpt2"], tmp_path / "lm"))
    read: list[tuple[int, int]] = []
    decoder.lm.register_forward_hook(
        lambda module, args, options, out: read.append(tuple(out.logits.shape[:2])), with_kwargs=True
    )
    found = written(decoder, vectors(kit))
    tokens = [min(len(decoder.tokenizer(one.text)["input_ids"]) + 1, NEW) for one in found]
    assert len(set(tokens)) > 2
    assert sum(rows * columns for rows, columns in read) == sum(tokens)  # the prompt gives the first, and so on
    assert statistics.mean(rows for rows, _ in read) > 2.5  # of four: the batch is kept full


@pytest.mark.parametrize("beams", [1, 3])
def test_a_batch_too_large_for_the_device_is_halved(kit: Any, lms: dict[str, Path], beams: int) -> None:
    x = vectors(kit)
    calm, tight = (decoder_on(lms["gpt2"], generate={"num_beams": beams}) for _ in range(2))
    memory = 2 * beams

    def look(module: Any, args: Any, options: Any) -> None:
        if len(options.get("inputs_embeds", options.get("input_ids"))) > memory:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")

    tight.lm.register_forward_pre_hook(look, with_kwargs=True)
    with pytest.warns(UserWarning, match="prefix_lm: out of memory on the device; going on with 2 items at once"):
        found = written(tight, x)
    for one, other in zip(found, written(calm, x), strict=True):
        assert (one.text, one.score) == (other.text, pytest.approx(other.score, abs=1e-4))
    memory = 0
    with pytest.warns(UserWarning, match="with 1 items"), pytest.raises(SetupError, match="memory to decode one item"):
        written(tight, x)
