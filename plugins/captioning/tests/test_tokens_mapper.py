"""Sequences into a language model, each token by itself (VLV's second stage), against plain loops over single items
with transformers alone."""

from __future__ import annotations

import itertools
import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from tokenizers import ByteLevelBPETokenizer
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    MistralConfig,
    MistralForCausalLM,
    Qwen2Config,
    Qwen2ForCausalLM,
    Qwen2Tokenizer,
)

from modbridge.errors import ArtefactError, ConfigError, DataError, PortError
from modbridge.interfaces import TextVectors
from modbridge.spaces import Embeddings, Port
from modbridge.testing import build, build_config, toy_port

DIM, TOKENS, NEW = 6, 5, 9
CAPTIONS = ["a red dog", "a cat runs fast .", "blue horse", "a old fish what", "dog", "a red red cat runs", "fish ."]
KEYS = [f"i{n}#0" for n in range(len(CAPTIONS))]
PROMPT = {"text": "Describe what", "template": "USER: a {prefix} {prompt} ASSISTANT:"}
FRESH = {"n_layer": 1, "n_head": 2, "n_embd": 16, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
SHAPE: dict[str, Any] = {
    "hidden_size": 16,
    "intermediate_size": 24,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "initializer_range": 0.4,
}
WORDS = "a red blue dog cat runs fast old horse fish USER: ASSISTANT: Describe what ."
KINDS = ["gpt2", "opt", "qwen2", "mistral"]


def save_qwen2(folder: Path) -> Path:
    """A Qwen2 with a tokenizer of its own kind, on bytes. As with Qwen2.5, padding is the token that ends a text."""
    bytes_ = ByteLevelBPETokenizer()
    bytes_.train_from_iterator([WORDS] * 3, vocab_size=300, special_tokens=["<|endoftext|>"], show_progress=False)
    model = json.loads(bytes_.to_str())["model"]
    merges: Any = [tuple(merge) for merge in model["merges"]]
    tokenizer: Any = Qwen2Tokenizer(vocab=model["vocab"], merges=merges)
    assert tokenizer.pad_token_id == tokenizer.eos_token_id
    tokenizer.save_pretrained(folder)
    torch.manual_seed(0)
    end = tokenizer.eos_token_id
    config: Any = Qwen2Config(vocab_size=len(tokenizer), eos_token_id=end, pad_token_id=end, **SHAPE)
    Qwen2ForCausalLM(config).save_pretrained(folder)
    return folder


def save_mistral(folder: Path, words: int) -> Path:
    """A Mistral that forgets what is far back, so that transformers' `generate` writes for it."""
    torch.manual_seed(0)
    config: Any = MistralConfig(vocab_size=words, eos_token_id=words - 1, sliding_window=6, **SHAPE)
    MistralForCausalLM(config).save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def tiny(kit: Any, lms: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """A tiny GPT-2, OPT, Qwen2 and Mistral, as save_pretrained writes them."""
    mistral = tmp_path_factory.mktemp("mistral")
    qwen2 = save_qwen2(tmp_path_factory.mktemp("qwen2"))
    return {**lms, "qwen2": qwen2, "mistral": save_mistral(mistral, kit.save_words(mistral))}


def on(lm: Any, **changes: Any) -> dict[str, Any]:
    block = {"type": "prefix_lm", "lm": lm if isinstance(lm, dict) else str(lm), "mapper": "tokens"}
    block |= {"tokenizer": "words"} if isinstance(lm, dict) else {}
    return {**block, "steps": 1, "batch_size": len(CAPTIONS), "generate": {"max_new_tokens": NEW}, **changes}


def port(ragged: bool = False) -> Port:
    return toy_port(DIM).changed(tokens=TOKENS, ragged=ragged)


def sequences(count: int, ragged: bool) -> Embeddings:
    """Sequences; ragged ones have gaps anywhere, and rubbish where there is no token."""
    generator = torch.Generator().manual_seed(3)
    values = torch.randn(count, TOKENS, DIM, generator=generator)
    keys = tuple(KEYS[n] if n < len(KEYS) else f"i{n}#0" for n in range(count))
    if not ragged:
        return Embeddings(values, port(), keys)
    order = torch.rand(count, TOKENS, generator=generator).argsort(1)
    mask = order <= (torch.arange(count) % TOKENS)[:, None]  # one token, two, and so on, anywhere
    values[~mask] = math.nan
    return Embeddings(values, port(ragged=True), keys, mask=mask)


def given(embeddings: Embeddings) -> TextVectors:
    return TextVectors(embeddings, lambda rows, epoch: embeddings.values[list(rows)], mask=embeddings.mask)


def made(block: dict[str, Any], ragged: bool = False) -> Any:
    return build("decoder", block, ports={"text": port(ragged)})


def prefixes(tensors: dict[str, torch.Tensor], embeddings: Embeddings) -> list[torch.Tensor]:
    """Linear, GELU, Linear of every token alone, in float64 and by the error function."""
    w1, b1, w2, b2 = (tensors[f"mapper.layers.{i}.{n}"].double().numpy() for i in (0, 2) for n in ("weight", "bias"))
    found = []
    for row, values in enumerate(embeddings.values.double().numpy()):
        tokens = values if embeddings.mask is None else values[embeddings.mask[row].numpy()]
        hidden = [x @ w1.T + b1 for x in tokens]
        bent = [0.5 * h * (1 + np.array([math.erf(each / math.sqrt(2)) for each in h])) for h in hidden]
        found.append(torch.from_numpy(np.stack([h @ w2.T + b2 for h in bent])))
    return found


def plain(lm: Path, precision: torch.dtype) -> tuple[Any, Any]:
    model: Any = AutoModelForCausalLM.from_pretrained(lm, dtype=precision)
    return model.eval(), AutoTokenizer.from_pretrained(lm)


def front(model: Any, tokenizer: Any, prefix: torch.Tensor, prompt: bool) -> torch.Tensor:
    """One item's embeddings in front of the caption: no padding, no mask."""
    if not prompt:
        return prefix
    table = model.get_input_embeddings()
    before, behind = (
        table(torch.tensor(tokenizer(side)["input_ids"])).detach() for side in ("USER: a ", " Describe what ASSISTANT:")
    )
    return torch.cat([before, prefix.to(before.dtype), behind])


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize("prompt", [False, True])
def test_the_loss_is_that_of_each_item_alone(
    kit: Any, tiny: dict[str, Path], kind: str, ragged: bool, prompt: bool
) -> None:
    embeddings, fitting = sequences(len(CAPTIONS), ragged), kit.Quick()
    decoder = made(on(tiny[kind], **({"prompt": PROMPT} if prompt else {})), ragged)
    model, tokenizer = plain(tiny[kind], torch.float64)
    losses = []
    for prefix, caption in zip(prefixes(decoder.tensors(), embeddings), CAPTIONS, strict=True):
        start = front(model, tokenizer, prefix, prompt)
        ids = [*tokenizer(caption)["input_ids"], tokenizer.eos_token_id]  # its end is taught
        words = model.get_input_embeddings()(torch.tensor(ids[:-1]))
        with torch.inference_mode():
            logs = model(inputs_embeds=torch.cat([start, words])[None]).logits[0, len(start) - 1 :].log_softmax(1)
        losses += [-float(log[token]) for log, token in zip(logs, ids, strict=True)]
    assert decoder.text_loss(given(embeddings), CAPTIONS) == pytest.approx(np.mean(losses), rel=1e-5)
    decoder.fit(given(embeddings), CAPTIONS, fitting)
    assert fitting.logged[-1]["loss"] == pytest.approx(np.mean(losses), rel=1e-5)
    assert all(bool(tensor.isfinite().all()) for tensor in decoder.tensors().values())  # no gradient saw the rubbish


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("ragged", [False, True])
@pytest.mark.parametrize(("beams", "prompt"), [(1, False), (3, True)])
def test_every_item_gets_what_plain_generate_writes_for_it_alone(
    tiny: dict[str, Path], kind: str, ragged: bool, beams: int, prompt: bool
) -> None:
    search = {"max_new_tokens": NEW, "num_beams": beams}
    block = on(tiny[kind], generate=search, decode_batch_size=4, **({"prompt": PROMPT} if prompt else {}))
    decoder, embeddings = made(block, ragged), sequences(20, ragged)
    model, tokenizer = plain(tiny[kind], torch.float32)
    texts = set()
    for prefix, found in zip(prefixes(decoder.tensors(), embeddings), decoder.decode(embeddings), strict=True):
        start = front(model, tokenizer, prefix.float(), prompt)
        said = model.generate(
            inputs_embeds=start[None],
            attention_mask=torch.ones(1, len(start), dtype=torch.long),
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
            **search,
        )[0]
        assert found.text == " ".join(tokenizer.decode(said, skip_special_tokens=True).split())
        texts.add(found.text)
    assert len(texts) > 5


@pytest.mark.parametrize("ragged", [False, True])
def test_learns_what_stands_where_and_where_a_caption_ends(kit: Any, ragged: bool) -> None:
    """The captions name the tokens in their order, so that nothing of a mean of them would do."""
    words = ["red", "blue", "dog", "cat", "fish"]
    orders = [[0, 1, 2], [2, 1, 0], [1, 0, 2], [3, 4], [4, 3], [2], [0, 3, 4, 1]]
    captions = [" ".join(words[i] for i in order) for order in orders]
    table = torch.eye(DIM)
    values, mask = torch.zeros(len(orders), TOKENS, DIM), torch.zeros(len(orders), TOKENS, dtype=torch.bool)
    for row, order in enumerate(orders):
        values[row, : len(order)], mask[row, : len(order)] = table[order], True
    embeddings = Embeddings(values, port(ragged), tuple(KEYS), mask=mask if ragged else None)
    decoder = made(on(FRESH, steps=200, lr=1e-2), ragged)
    decoder.fit(given(embeddings), captions, kit.Quick())
    assert [found.text for found in decoder.decode(embeddings)] == captions


def fitted(kit: Any, block: dict[str, Any], ragged: bool = True) -> Any:
    decoder = made(block, ragged)
    decoder.fit(given(sequences(len(CAPTIONS), ragged)), CAPTIONS, kit.Quick())
    return decoder


@pytest.mark.parametrize("train", ["frozen", "lora", "full"])
def test_the_mapper_alone_or_with_the_lm_is_trained_and_kept(
    kit: Any, tiny: dict[str, Path], tmp_path: Path, train: str
) -> None:
    block = on(tiny["qwen2"], train_lm=train, steps=5, lr=1e-2)
    decoder = made(block, ragged=True)
    before = {name: tensor.clone() for name, tensor in decoder.tensors().items()}
    decoder.fit(given(sequences(len(CAPTIONS), True)), CAPTIONS, kit.Quick())
    after = decoder.tensors()
    assert [name for name in before if torch.equal(before[name], after[name])] == []
    mapper = (DIM * 16 + 16) + (16 * 16 + 16)
    base = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(tiny["qwen2"]).parameters())
    assert decoder.parameter_count() - mapper == pytest.approx(base, rel=0.0 if train != "lora" else 0.2)
    if train != "lora":
        assert decoder.trainable_count() == mapper + (base if train == "full" else 0)
    if train == "frozen":
        kept = load_file(tiny["qwen2"] / "model.safetensors")
        state = decoder.lm.state_dict()
        assert kept
        assert all(torch.equal(state[name], tensor) for name, tensor in kept.items())

    folder, embeddings = kit.saved(decoder, tmp_path), sequences(12, True)
    names = {name.partition(".")[0] for name in load_file(folder / "model.safetensors")}
    assert names == {"mapper"} | {"frozen": set(), "lora": {"adapter"}, "full": {"lm"}}[train]
    again = made(block, ragged=True)
    again.load_extra(folder)
    again.load_tensors(load_file(folder / "model.safetensors"))
    assert again.decode(embeddings) == decoder.decode(embeddings)
    other = made({**block, "mapper": {"type": "tokens", "hidden": 7}}, ragged=True)
    with pytest.raises(ArtefactError, match="of another shape"):
        other.load_tensors(load_file(folder / "model.safetensors"))


def test_width_and_projection(tiny: dict[str, Path]) -> None:
    decoder = made(on(tiny["gpt2"], mapper={"type": "tokens", "hidden": 7}))
    assert {name: tuple(t.shape) for name, t in decoder.tensors().items() if name.startswith("mapper.")} == {
        "mapper.layers.0.weight": (7, DIM),
        "mapper.layers.0.bias": (7,),
        "mapper.layers.2.weight": (16, 7),
        "mapper.layers.2.bias": (16,),
    }
    embeddings = sequences(4, ragged=False)
    expected = torch.stack(prefixes(decoder.tensors(), embeddings)).flatten(1)
    with torch.inference_mode():
        np.testing.assert_allclose(decoder.project(embeddings.values).double(), expected, atol=1e-5)


def test_a_fresh_lm_reads_sequences_with_dropout_and_counts_the_same(kit: Any) -> None:
    decoder = fitted(kit, on({**FRESH, "attn_pdrop": 0.1}))
    n, words = 16, len(decoder.tokenizer)
    mapper, blocks = (DIM * n + n) + (n * n + n), 12 * n * n + 13 * n + 2 * n
    assert decoder.parameter_count() == decoder.trainable_count() == mapper + blocks + words * n + 64 * n


@pytest.mark.parametrize("prompt", [False, True])
def test_lower_precision_reads_ragged_sequences_too(tiny: dict[str, Path], prompt: bool) -> None:
    embeddings, losses = sequences(len(CAPTIONS), ragged=True), []
    for precision in ("float32", "bfloat16"):
        changes = {"precision": precision, **({"prompt": PROMPT} if prompt else {})}
        decoder = made(on(tiny["qwen2"], **changes), ragged=True)
        losses.append(decoder.text_loss(given(embeddings), CAPTIONS))
        assert len(decoder.decode(embeddings)) == len(CAPTIONS)
    assert losses[1] == pytest.approx(losses[0], rel=0.03)
    assert losses[1] != losses[0]


# What is refused


@pytest.mark.parametrize("mapper", ["mlp", "soft_prompt", "drcap", "linear", "transformer"])
def test_mappers_of_vectors_refuse_sequences_and_the_other_way_round(tiny: dict[str, Path], mapper: str) -> None:
    vectors = build_config("decoder", on(tiny["gpt2"], mapper=mapper))
    for ragged in (False, True):
        with pytest.raises(PortError, match=rf"'{mapper}' reads one vector.*5 x 6.*Set mapper to 'tokens'"):
            vectors.check(port(ragged))
    tokens = build_config("decoder", on(tiny["gpt2"]))
    with pytest.raises(PortError, match=r"'tokens' reads sequences.*raw 6-d text vectors of toy.*'mlp'"):
        tokens.check(toy_port(DIM))
    with pytest.raises(PortError, match="'tokens' reads sequences"):
        build("decoder", on(tiny["gpt2"]), ports={"text": toy_port(DIM)})
    tokens.check(port())
    tokens.check(port(ragged=True))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prefix_length": 4}, "leave prefix_length out"),
        ({"mapper": "mlp", "prefix_length": None}, "prefix_length is null"),
        ({"mapper": {"type": "tokens", "prompts": 3}}, "no such field"),
        ({"mapper": {"type": "tokens", "hidden": 0}}, "hidden"),
        ({"prompt": {}, "retrieval": {}}, "retrieval looks for captions by one vector an item"),
    ],
)
def test_contradictions_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_config("decoder", {"type": "prefix_lm", "mapper": "tokens", **changes})


def test_a_config_that_was_written_down_is_read_again() -> None:
    config = build_config("decoder", {"type": "prefix_lm", "mapper": "tokens"})
    assert (config.prefix_length, config.mapper.hidden) == (None, None)
    assert type(config).model_validate(config.model_dump()) == config


def test_what_has_no_room_is_told_before_anything_is_trained(tiny: dict[str, Path]) -> None:
    long = port().changed(tokens=60)
    fresh = build_config("decoder", on({**FRESH, "n_positions": 64}))
    with pytest.raises(PortError, match=r"sequences of 60 tokens and generate.max_new_tokens 9 take 69 positions.*64"):
        fresh.check(long)
    with pytest.raises(ConfigError, match=r"sequences of 60 tokens and generate.max_new_tokens 9 take 69 positions"):
        build("decoder", on(tiny["gpt2"]), ports={"text": long})
    with pytest.raises(ConfigError, match=r"sequences of 52 tokens, a prompt of 5 tokens and generate.max_new_tokens"):
        build("decoder", on(tiny["gpt2"], prompt=PROMPT), ports={"text": port().changed(tokens=52)})
    decoder = made(on(tiny["gpt2"]))
    with pytest.raises(DataError, match="behind a prefix of 5"):
        decoder.text_loss(given(sequences(1, ragged=False)), ["dog " * 60])


@pytest.mark.parametrize("template", [None, "{prefix}", "USER: {prefix}"])
def test_a_sequence_without_tokens_is_told_unless_a_prompt_stands_there(
    kit: Any, tiny: dict[str, Path], template: str | None
) -> None:
    decoder = made(on(tiny["gpt2"], **({"prompt": {"template": template}} if template else {})), ragged=True)
    embeddings = sequences(3, ragged=True)
    assert embeddings.mask is not None
    embeddings.mask[1] = False
    if template == "USER: {prefix}":
        assert len(decoder.decode(embeddings)) == 3
        return
    with pytest.raises(DataError, match="the sequence of 'i1#0' has no tokens"):
        decoder.decode(embeddings)
    with pytest.raises(DataError, match="the sequence of 'i1#0' has no tokens"):
        decoder.fit(given(embeddings), CAPTIONS[:3], kit.Quick())


# In a run


def stored(folder: Path, ragged: bool) -> Path:
    """A config over stored sequences of three tokens, each of which stands for a word of the caption. Ragged ones have
    two or three, behind rubbish."""
    words = ["red", "blue", "dog", "cat", "fish"]
    orders = [list(order) for order in itertools.permutations(range(5), 3)]
    if ragged:
        orders = [order[i % 3 == 0 :] for i, order in enumerate(orders)]
    values, mask = np.full((len(orders), 3, 5), 9.0, np.float32), np.zeros((len(orders), 3), bool)
    for row, order in enumerate(orders):
        values[row, 3 - len(order) :], mask[row, 3 - len(order) :] = np.eye(5)[order], True
    np.savez(folder / "sequences.npz", image=values, text=values, there=mask, ids=np.arange(len(orders)))
    lines = [{"key": str(i), "captions": [" ".join(words[w] for w in order)]} for i, order in enumerate(orders)]
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    more = ", mask: there" if ragged else ""
    arrays = f"{{image: {{array: image, keys: ids{more}}}, text: {{array: text, keys: ids{more}}}}}"
    items = f"type: precomputed, file: {folder}/sequences.npz, captions: {folder}/captions.jsonl, vectors: {arrays}"
    config = folder / "sequences.yaml"
    config.write_text(
        f"""\
name: sequences
data:
  train: {{{items}, rows: [0, 50]}}
  validation: {{{items}, rows: [50, 60]}}
  test: {{{items}, rows: [30, 50]}}
encoder: {{type: precomputed, file: {folder}/sequences.npz, space: toy, vectors: {arrays}}}
bridge: identity
decoder:
  type: prefix_lm
  mapper: tokens
  lm: {{n_layer: 1, n_head: 2, n_embd: 32, resid_pdrop: 0.0, embd_pdrop: 0.0, attn_pdrop: 0.0}}
  tokenizer: words
  steps: 300
  batch_size: 25
  lr: 2e-2
  generate: {{max_new_tokens: 6}}
metrics: [bleu]
""",
        encoding="utf-8",
    )
    return config


@pytest.mark.parametrize(("trained_on", "ragged"), [("text", False), ("source", True)])
def test_a_run_reads_sequences(call: Any, tmp_path: Path, trained_on: str, ragged: bool) -> None:
    run, config = tmp_path / "run", stored(tmp_path, ragged)
    result = call("run", config, "--set", f"decoder_input={trained_on}", "--out", run, "--json", toy=False)
    assert result.code == 0, result.err
    (row,) = result.json["rows"]
    assert row["bleu_2"] > 0.8  # pairs of words in their order
    assert row["select"] == "text_loss"


@pytest.mark.parametrize("ragged", [False, True])
def test_a_run_tells_which_mapper_reads_sequences(call: Any, tmp_path: Path, ragged: bool) -> None:
    result = call("check", stored(tmp_path, ragged), "--set", "decoder.mapper=mlp", toy=False)
    assert result.code != 0
    assert "decoder: the decoder 'prefix_lm' with the mapper 'mlp' reads one vector an item" in result.err
    assert "Set mapper to 'tokens'" in result.err
