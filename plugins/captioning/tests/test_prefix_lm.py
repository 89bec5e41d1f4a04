"""The prefix language-model decoder: what it learns, writes, keeps and refuses."""

from __future__ import annotations

import itertools
import json
import math
import shutil
import statistics
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modbridge_captioning.prefix_lm import PrefixLmDecoder
from modbridge_captioning.targets import Captions
from modbridge_captioning.words import learn_words
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    BertConfig,
    BertLMHeadModel,
    GPT2Config,
    GPT2LMHeadModel,
    GPT2TokenizerFast,
    PreTrainedTokenizerFast,
)

from modbridge.errors import ArtefactError, ConfigError, DataError, PortError, SetupError
from modbridge.interfaces import BuildContext, TextVectors, WeightsJudge
from modbridge.spaces import Embeddings
from modbridge.testing import MemoryFitting, build, build_config, toy_embeddings, toy_port
from modbridge.testing.fitting import Interrupted

CAPTIONS = [
    f"a {colour} {rest}"
    for colour in ("red", "blue")
    for rest in ("dog.", "cat runs fast!", "well-known bird on the old mat", "horse, a cow", "fish?")
]
FRESH = {"n_layer": 1, "n_head": 2, "n_embd": 32, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
TOY = {
    "type": "prefix_lm",
    "lm": FRESH,
    "tokenizer": "words",
    "prefix_length": 3,
    "steps": 120,
    "batch_size": 10,
    "lr": 5e-3,
    "generate": {"max_new_tokens": 16},
}


class Quick(MemoryFitting):
    """Keeps no checkpoints, which would be copied at every step."""

    def checkpoint(self, name: str, state: Any, *, force: bool = False) -> None:
        if self.stop_after is not None:
            super().checkpoint(name, state, force=force)


def vectors(count: int) -> TextVectors:
    """Text vectors as a bridge gives them: inference tensors."""
    embeddings = toy_embeddings(count)

    def batch(rows: Sequence[int], epoch: int) -> torch.Tensor:
        with torch.inference_mode():
            return embeddings.values[list(rows)] * 1.0

    return TextVectors(embeddings, batch)


def fitted(block: dict[str, Any], captions: Sequence[str] = CAPTIONS, fitting: MemoryFitting | None = None) -> Any:
    decoder: Any = build("decoder", block)
    decoder.fit(vectors(len(captions)), list(captions), fitting or Quick())
    return decoder


def texts(decoder: Any, count: int = len(CAPTIONS)) -> list[str]:
    return [decoded.text for decoded in decoder.decode(toy_embeddings(count))]


def saved(decoder: Any, folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    decoder.save_extra(folder)
    save_file({name: tensor.contiguous() for name, tensor in decoder.tensors().items()}, folder / "model.safetensors")
    return folder


def loaded(block: dict[str, Any], folder: Path) -> Any:
    decoder: Any = build("decoder", block)
    decoder.load_extra(folder)
    decoder.load_tensors(load_file(folder / "model.safetensors"))
    return decoder


def save_lm(folder: Path, *, seed: int = 0, names: str = "", **shape: Any) -> Path:
    """A tiny GPT-2 and a tokenizer of the toy captions' words, as save_pretrained writes them."""
    words = names.split() or sorted(set(" ".join(CAPTIONS).split()))
    vocabulary = {name: i for i, name in enumerate([*words, ".", "<|endoftext|>"])}
    backend = Tokenizer(models.WordLevel(vocabulary, unk_token="<|endoftext|>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="<|endoftext|>").save_pretrained(folder)
    end = len(vocabulary) - 1
    torch.manual_seed(seed)
    sizes = {"n_layer": 2, "n_head": 2, "n_embd": 16, "n_positions": 64, "initializer_range": 0.4, **shape}
    drop = {"resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    config = GPT2Config(vocab_size=end + 1, bos_token_id=end, eos_token_id=end, **sizes, **drop)
    model = GPT2LMHeadModel(config)
    with torch.no_grad():
        model.transformer.wte.weight[end] *= 5  # so that some captions end early
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_lm(tmp_path_factory.mktemp("lm") / "tiny")


@pytest.fixture(scope="module")
def toy() -> Any:
    return fitted(TOY)


def on(lm: Path, **changes: Any) -> dict[str, Any]:
    return {"type": "prefix_lm", "lm": str(lm), "prefix_length": 3, "generate": {"max_new_tokens": 9}, **changes}


def numpy_prefix(decoder: Any, x: torch.Tensor, length: int) -> torch.Tensor:
    """The Tanh-MLP in float64 numpy, from the artefact's tensors."""
    weights = {k: v.double().numpy() for k, v in decoder.tensors().items() if k.startswith("mapper.")}
    (w1, b1), (w2, b2) = ((weights[f"mapper.layers.{i}.weight"], weights[f"mapper.layers.{i}.bias"]) for i in (0, 2))
    hidden = np.tanh(x.double().numpy() @ w1.T + b1)
    return torch.from_numpy((hidden @ w2.T + b2).reshape(len(x), length, -1))


# What it learns


def test_learns_captions_and_where_they_end(toy: Any) -> None:
    assert texts(toy) == CAPTIONS


def test_beam_search_writes_them_too(toy: Any, tmp_path: Path) -> None:
    search = {"num_beams": 3, "max_new_tokens": 16, "length_penalty": 0.5}
    beams = loaded({**TOY, "generate": search}, saved(toy, tmp_path))
    assert texts(beams) == CAPTIONS


def test_bfloat16_learns_too() -> None:
    assert texts(fitted({**TOY, "precision": "bfloat16"})) == CAPTIONS


def test_gpt2_tokens_exclamation_mark_and_end_included(requires_data: Path, tmp_path: Path) -> None:
    files = requires_data / "lm" / "gpt2"
    merges = [tuple(line.split()) for line in (files / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]]
    tokenizer = GPT2TokenizerFast(vocab=json.loads((files / "encoder.json").read_text()), merges=merges)
    assert (len(tokenizer), tokenizer("!")["input_ids"]) == (50257, [0])
    tokenizer.save_pretrained(tmp_path)
    torch.manual_seed(0)
    GPT2LMHeadModel(GPT2Config(n_layer=1, n_head=2, n_embd=16, n_positions=32)).save_pretrained(tmp_path)
    captions = ["A cat sat!", "Two dogs; they're running!!", "naïve café", "A cat"]
    decoder = fitted(on(tmp_path, steps=120, batch_size=4, lr=2e-2, prefix_length=2), captions)
    assert texts(decoder, 4) == captions


def token_losses(lm: Path, prefixes: torch.Tensor, captions: Sequence[str], *, end: bool) -> list[tuple[int, float]]:
    """(token, its cross-entropy) in float64, one caption after the other: no padding, no mask."""
    model = AutoModelForCausalLM.from_pretrained(lm).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(lm)
    losses = []
    for prefix, caption in zip(prefixes, captions, strict=True):
        ids = tokenizer(caption)["input_ids"] + ([tokenizer.eos_token_id] if end else [])
        inputs = torch.cat([prefix, model.get_input_embeddings()(torch.tensor(ids[:-1], dtype=torch.long))])
        with torch.inference_mode():
            logits = model(inputs_embeds=inputs[None]).logits[0, len(prefix) - 1 :].numpy()
        for row, token in zip(logits, ids, strict=True):
            losses.append((token, float(np.log(np.exp(row - row.max()).sum()) + row.max() - row[token])))
    return losses


@pytest.mark.parametrize("ends", ["taught", "stop", "authors"])
def test_first_loss_is_the_cross_entropy_of_what_is_asked_for(lm: Path, ends: str) -> None:
    block = on(lm, steps=1, batch_size=len(CAPTIONS), end_of_sentence=ends)
    block["generate"] = {"max_new_tokens": 9, "stop": "."}
    decoder: Any = build("decoder", block)
    fitting = Quick()
    prefixes = numpy_prefix(decoder, toy_embeddings(len(CAPTIONS)).values, 3)
    held_out = decoder.text_loss(vectors(len(CAPTIONS)), CAPTIONS)
    decoder.fit(vectors(len(CAPTIONS)), CAPTIONS, fitting)

    losses = token_losses(lm, prefixes, CAPTIONS, end=ends == "taught")
    assert sum(token == 0 for token, _ in losses) > 5  # "a", which the authors' padding hides as it does GPT-2's "!"
    expected = np.mean([loss for token, loss in losses if token != 0 or ends != "authors"])
    assert fitting.logged[-1]["loss"] == pytest.approx(expected, rel=1e-5)
    assert held_out == pytest.approx(expected, rel=1e-5)


def test_held_out_loss_is_a_mean_over_tokens_whatever_the_batches(lm: Path) -> None:
    captions = CAPTIONS[:7]
    block = on(lm, batch_size=3)
    decoder: Any = build("decoder", block)
    losses = token_losses(lm, numpy_prefix(decoder, toy_embeddings(7).values, 3), captions, end=True)
    expected = np.mean([loss for _, loss in losses])
    assert decoder.text_loss(vectors(7), captions) == pytest.approx(expected, rel=1e-5)
    with pytest.raises(DataError, match="'text1' is empty"):
        decoder.text_loss(vectors(2), ["a red", " "])


def overfitted(fitting: MemoryFitting, block: dict[str, Any]) -> Any:
    """Fitted on three captions and judged by the loss on others, which soon gets worse."""
    decoder: Any = build("decoder", block)
    judge = WeightsJudge("text_loss", lambda: decoder.text_loss(vectors(10), CAPTIONS), every=2)
    fitting.judge = judge
    decoder.fit(vectors(3), ["a red dog.", "a blue cat runs fast!", CAPTIONS[2]], fitting)
    return decoder


def test_the_weights_with_the_best_held_out_loss_are_kept(lm: Path) -> None:
    block = on(lm, steps=30, batch_size=3, lr=2e-2)
    fitting = Quick()
    decoder = overfitted(fitting, block)
    judged = [line for line in fitting.logged if line.get("select") == "text_loss"]
    assert [line["step"] for line in judged] == [*range(2, 31, 2)]
    best = min(judged, key=lambda line: line["value"])
    assert best["step"] < 30
    assert judged[-1]["best_step"] == best["step"]
    assert decoder.text_loss(vectors(10), CAPTIONS) == best["value"] < judged[-1]["value"]


def test_an_interrupted_selection_ends_with_the_same_bytes() -> None:
    dropout = {**FRESH, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    block = {**TOY, "lm": dropout, "steps": 24, "batch_size": 3, "lr": 2e-2}
    calm, broken = MemoryFitting(), MemoryFitting(stop_after=17)
    straight = overfitted(calm, block).tensors()
    with pytest.raises(Interrupted):
        overfitted(broken, block)
    resumed = overfitted(broken, block).tensors()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    assert calm.logged[-1] == broken.logged[-1]
    assert calm.logged[-1]["best_step"] < 17  # the best weights were there before the interruption


def test_frozen_lm_keeps_its_weights_and_only_the_mapper_is_kept(lm: Path) -> None:
    decoder: Any = build("decoder", on(lm, train_lm="frozen", steps=5, batch_size=4, lr=1e-2))
    before = {name: tensor.clone() for name, tensor in decoder.tensors().items()}
    decoder.fit(vectors(len(CAPTIONS)), CAPTIONS, Quick())
    assert all(name.startswith("mapper.") for name in before)
    assert all(not torch.equal(tensor, before[name]) for name, tensor in decoder.tensors().items())
    stored = load_file(lm / "model.safetensors")
    assert stored
    for name, tensor in decoder.lm.state_dict().items():
        if name in stored:
            assert torch.equal(tensor, stored[name])


# What it writes


def argmax_caption(model: Any, tokenizer: Any, prefix: torch.Tensor, limit: int) -> tuple[list[int], list[float]]:
    """Greedy search without a cache: the whole sequence goes through the plain forward pass for every token."""
    ids: list[int] = []
    logs: list[float] = []
    while len(ids) < limit and (not ids or ids[-1] != tokenizer.eos_token_id):
        inputs = torch.cat([prefix, model.get_input_embeddings()(torch.tensor(ids, dtype=torch.long))])
        with torch.inference_mode():
            log = model(inputs_embeds=inputs[None], use_cache=False).logits[0, -1].log_softmax(0)
        ids.append(int(log.argmax()))
        logs.append(float(log.max()))
    return ids, logs


def test_greedy_equals_plain_argmax_whatever_the_checkpoint_says(lm: Path, tmp_path: Path) -> None:
    own = shutil.copytree(lm, tmp_path / "own")
    sampling = {"do_sample": True, "temperature": 9.0, "repetition_penalty": 5.0, "min_new_tokens": 7, "num_beams": 2}
    (own / "generation_config.json").write_text(json.dumps(sampling))
    decoder: Any = build("decoder", on(own))
    model = AutoModelForCausalLM.from_pretrained(lm).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(lm)
    embeddings = toy_embeddings(40, shift=0.0)
    lengths = set()
    prefixes = numpy_prefix(decoder, embeddings.values, 3)
    for prefix, decoded in zip(prefixes, decoder.decode(embeddings), strict=True):
        ids, logs = argmax_caption(model, tokenizer, prefix, 9)
        assert decoded.text == tokenizer.decode([i for i in ids if i != tokenizer.eos_token_id])
        assert decoded.score == pytest.approx(statistics.mean(logs), abs=1e-4)
        lengths.add(len(ids))
    assert len(lengths) > 1  # some captions end early, so padding was at work


def test_beams_and_their_scores_are_those_of_transformers(lm: Path) -> None:
    search = {"num_beams": 4, "max_new_tokens": 9, "length_penalty": 0.7}
    decoder: Any = build("decoder", on(lm, generate=search))
    model = AutoModelForCausalLM.from_pretrained(lm).eval()
    tokenizer = AutoTokenizer.from_pretrained(lm)
    embeddings = toy_embeddings(12, shift=0.0)
    prefixes = numpy_prefix(decoder, embeddings.values, 3).float()
    for prefix, decoded in zip(prefixes, decoder.decode(embeddings), strict=True):
        found = model.generate(
            inputs_embeds=prefix[None],
            attention_mask=torch.ones(1, 3, dtype=torch.long),
            pad_token_id=tokenizer.eos_token_id,
            return_dict_in_generate=True,
            output_scores=True,
            **search,
        )
        assert decoded.text == tokenizer.decode(found.sequences[0], skip_special_tokens=True)
        assert decoded.score == pytest.approx(float(found.sequences_scores[0]), abs=1e-4)


@pytest.mark.parametrize(("beams", "stop"), [(1, None), (3, None), (1, "blue"), (3, "dog.")])
def test_a_batch_writes_what_single_items_do(lm: Path, beams: int, stop: str | None) -> None:
    block = on(lm, generate={"max_new_tokens": 9, "num_beams": beams, "stop": stop})
    embeddings = toy_embeddings(20, shift=0.0)
    together: Any = build("decoder", block)
    alone: Any = build("decoder", {**block, "decode_batch_size": 1})
    first, second = together.decode(embeddings), alone.decode(embeddings)
    assert [d.text for d in first] == [d.text for d in second]
    assert [d.key for d in first] == list(embeddings.keys)
    assert len({d.text for d in first}) > 5
    if stop:
        assert {d.text.endswith(stop) for d in first} == {True, False}  # some stop early, so padding was at work
        assert all(stop not in d.text.split()[:-1] for d in first)


@pytest.mark.parametrize("penalty", [1.0, 0.0, 2.0])
def test_beam_search_with_a_stop_finds_the_best_of_all_captions(tmp_path: Path, penalty: float) -> None:
    """Five tokens, at most four of them: with 64 beams nothing is pruned, so the search must find the best of all
    captions that "." or the end-of-text token ends, or that are cut."""
    lm = save_lm(tmp_path / "lm", names="a b c", seed=7)
    search = {"num_beams": 64, "max_new_tokens": 4, "stop": ".", "length_penalty": penalty}
    decoder: Any = build("decoder", on(lm, generate=search))
    model = AutoModelForCausalLM.from_pretrained(lm).double().eval()
    tokenizer = AutoTokenizer.from_pretrained(lm)
    ends = {tokenizer.convert_tokens_to_ids("."), tokenizer.eos_token_id}
    others = [i for i in range(len(tokenizer)) if i not in ends]
    captions = [
        (*begin, last)
        for length in range(4)
        for begin in itertools.product(others, repeat=length)
        for last in (range(len(tokenizer)) if length == 3 else sorted(ends))
    ]
    embeddings = toy_embeddings(6, shift=0.0)
    prefixes = numpy_prefix(decoder, embeddings.values, 3)
    found = set()
    for prefix, decoded in zip(prefixes, decoder.decode(embeddings), strict=True):
        scores = {}
        for ids in captions:
            inputs = torch.cat([prefix, model.get_input_embeddings()(torch.tensor(ids[:-1], dtype=torch.long))])
            with torch.inference_mode():
                logs = model(inputs_embeds=inputs[None]).logits[0, 2:].log_softmax(1)
            total = sum(float(log[token]) for log, token in zip(logs, ids, strict=True))
            scores[ids] = total / len(ids) ** penalty
        best = max(scores, key=scores.__getitem__)
        assert decoded.text == tokenizer.decode([i for i in best if i != tokenizer.eos_token_id])
        assert decoded.score == pytest.approx(scores[best], abs=1e-4)
        found.add(len(best))
    assert len(found) > 1


@pytest.mark.parametrize("beams", [1, 5])
def test_captions_learnt_the_authors_way_end_at_the_full_stop(beams: int) -> None:
    captions = [f"{caption.rstrip('.!?')}." for caption in CAPTIONS]
    search = {"num_beams": beams, "max_new_tokens": 16, "stop": "."}
    assert texts(fitted({**TOY, "end_of_sentence": "authors", "generate": search}, captions)) == captions


def test_stop_ends_a_caption_and_stays_in_it() -> None:
    captions = ["a dog. a cat.", "a bird sings. it flies."]
    search = {"max_new_tokens": 16, "stop": "."}
    decoder = fitted({**TOY, "end_of_sentence": "stop", "generate": search}, captions)
    assert texts(decoder, 2) == ["a dog.", "a bird sings."]


def test_words_round_trip_and_order() -> None:
    tokenizer = learn_words(["don't stop, well-known café!", "stop it (now): go", "stop."])
    ids = tokenizer("don't stop, well-known café!")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["don't", "stop", ",", "well-known", "café", "!"]
    assert tokenizer.decode(ids) == "don't stop, well-known café!"
    assert tokenizer.convert_ids_to_tokens([0, 1, 2]) == ["<end>", "<unk>", "stop"]


# Captions as tokens


def test_captions_are_cut_as_the_authors_do_and_the_cut_ones_end_nowhere() -> None:
    captions = ["a b"] * 399 + ["c " * 200]
    tokenizer = learn_words(captions)
    lengths = [2] * 399 + [200]
    cap = int(statistics.mean(lengths) + 10 * statistics.stdev(lengths))
    found = Captions.encode(captions, [str(i) for i in range(400)], tokenizer, None)
    assert found.lengths.tolist() == [2] * 399 + [cap]
    assert found.cut == 1
    a, b, c = (tokenizer.convert_tokens_to_ids(word) for word in "abc")
    batch = found.batch(torch.tensor([399, 3]), teach_end=True)
    assert batch.labels[0].tolist() == [c] * cap + [-100]
    assert batch.labels[1].tolist() == [a, b, tokenizer.eos_token_id] + [-100] * (cap - 2)
    assert batch.tokens[1, :2].tolist() == [a, b]
    assert batch.mask.sum(1).tolist() == [cap, 2]
    untaught = found.batch(torch.tensor([3]), teach_end=False)
    assert untaught.labels.tolist() == [[a, b, -100]]


def test_gpt2_captions_are_plain_tokens_and_the_authors_lose_the_exclamation_mark(requires_data: Path) -> None:
    files = requires_data / "lm" / "gpt2"
    merges = [tuple(line.split()) for line in (files / "vocab.bpe").read_text(encoding="utf-8").split("\n")[1:-1]]
    tokenizer = GPT2TokenizerFast(vocab=json.loads((files / "encoder.json").read_text()), merges=merges)
    captions = Captions.encode(["A cat!", "A cat."], ["0", "1"], tokenizer, None)
    authors = captions.batch(torch.tensor([0, 1]), teach_end=False, ignored=0)
    # GPT-2's own numbers of "A", " cat", "!" and ".": nothing before, nothing between, nothing behind.
    assert authors.tokens.tolist() == [[32, 3797, 0], [32, 3797, 13]]
    assert authors.labels.tolist() == [[32, 3797, -100, -100], [32, 3797, 13, -100]]
    assert authors.mask.tolist() == [[1, 1, 1]] * 2  # read, though not asked for
    taught = captions.batch(torch.tensor([0]), teach_end=True)
    assert taught.labels.tolist() == [[32, 3797, 0, 50256]]


# What it keeps


@pytest.mark.parametrize("train_lm", ["words", "full", "frozen"])
def test_loaded_equals_saved(lm: Path, toy: Any, tmp_path: Path, train_lm: str) -> None:
    block = TOY if train_lm == "words" else on(lm, train_lm=train_lm, steps=3, batch_size=4, lr=1e-2)
    decoder = toy if train_lm == "words" else fitted(block)
    again = loaded(block, saved(decoder, tmp_path / "one"))
    saved(again, tmp_path / "two")
    one = tmp_path / "one"
    files = sorted(path.relative_to(one) for path in one.rglob("*") if path.is_file())
    assert [(tmp_path / "one" / n).read_bytes() for n in files] == [(tmp_path / "two" / n).read_bytes() for n in files]
    # Scores too: equal weights give equal numbers.
    embeddings = toy_embeddings(len(CAPTIONS))
    assert again.decode(embeddings) == decoder.decode(embeddings)
    heads = [name for name in decoder.tensors() if "lm_head" in name or "wte" in name]
    assert heads == ([] if train_lm == "frozen" else ["lm.transformer.wte.weight"])


def test_interrupted_fit_goes_on_to_the_same_bytes() -> None:
    dropout = {**FRESH, "resid_pdrop": 0.1, "embd_pdrop": 0.1, "attn_pdrop": 0.1}
    block = {**TOY, "lm": dropout, "steps": 7, "batch_size": 3}
    straight = fitted(block).tensors()
    fitting = MemoryFitting(stop_after=4)
    with pytest.raises(Interrupted):
        fitted(block, fitting=fitting)
    resumed = fitted(block, fitting=fitting).tensors()
    assert straight.keys() == resumed.keys()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)


def test_seed_decides_the_weights_and_global_randomness_stays_untouched(lm: Path) -> None:
    block = {**TOY, "steps": 2}
    state = torch.random.get_rng_state()
    one, two = fitted(block).tensors(), fitted(block).tensors()
    build("decoder", on(lm))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(one[name], two[name]) for name in one)
    other: Any = build("decoder", block, seed=1)
    assert not torch.equal(other.tensors()["mapper.layers.0.weight"], one["mapper.layers.0.weight"])


def test_another_frozen_lm_or_vocabulary_is_refused(lm: Path, tmp_path: Path) -> None:
    frozen = {"train_lm": "frozen", "steps": 1, "batch_size": 4}
    folder = saved(fitted(on(lm, **frozen)), tmp_path / "artefact")
    with pytest.raises(ArtefactError, match="frozen language model"):
        loaded(on(save_lm(tmp_path / "other", seed=1), **frozen), folder)
    words = " ".join(sorted(set(" ".join(CAPTIONS).split()), reverse=True))
    with pytest.raises(ArtefactError, match="another tokenizer"):
        loaded(on(save_lm(tmp_path / "renamed", names=words), **frozen), folder)


def test_artefact_without_its_files_or_with_other_tensors_is_refused(toy: Any, tmp_path: Path) -> None:
    folder = saved(toy, tmp_path)
    tensors = load_file(folder / "model.safetensors")
    decoder: Any = build("decoder", TOY)
    decoder.load_extra(folder)
    with pytest.raises(ArtefactError, match=r"wte"):
        decoder.load_tensors({k: v for k, v in tensors.items() if "wte" not in k})
    (folder / "tokenizer.json").write_text("{}")
    with pytest.raises(ArtefactError, match=r"tokenizer\.json"):
        loaded(TOY, folder)
    (folder / "language_model.json").unlink()
    with pytest.raises(ArtefactError, match=r"language_model\.json"):
        loaded(TOY, folder)


# What it refuses


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"lm": "gpt2"}, "knows its own"),
        ({"tokenizer": None}, "no tokenizer of its own"),
        ({"train_lm": "frozen"}, "random weights"),
        ({"end_of_sentence": "stop"}, "generate.stop"),
        ({"lm": {**FRESH, "n_head": 3}}, "n_embd 32 is not divisible by n_head 3"),
        ({"lm": {**FRESH, "n_heads": 2}}, "did you mean 'n_head'"),
        ({"lm": {**FRESH, "n_positions": 12}}, "raise lm.n_positions"),
        ({"generate": {"length_penalty": 2.0}}, "num_beams"),
        ({"end_of_sentence": "authors"}, "generate.stop"),
        ({"mapper": {"type": "perceiver"}}, "'mlp', 'soft_prompt'"),
        ({"mapper": {"type": "mlp", "prompts": 3}}, "no such field"),
        ({"mapper": "soft_prompt", "lm": {**FRESH, "n_positions": 28}}, "prompts 10 and generate.max_new_tokens 16"),
        ({"lr": float("nan")}, "lr"),
    ],
)
def test_contradictions_are_told_before_anything_is_built(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message.replace(".", r"\.")) as found:
        build_config("decoder", {**TOY, **changes})
    assert len(found.value.problems) == 1


def test_missing_language_models_are_told_by_name(tmp_path: Path) -> None:
    with pytest.raises(SetupError, match=r"'nobody/nothing'.*hf download nobody/nothing"):
        build("decoder", {"type": "prefix_lm", "lm": "nobody/nothing"})
    with pytest.raises(SetupError, match=r"tokenizer 'nobody/nothing'"):
        build("decoder", {**TOY, "tokenizer": "nobody/nothing"})
    with pytest.raises(DataError, match="does not exist"):
        build("decoder", {"type": "prefix_lm", "lm": str(tmp_path / "nowhere")})
    with pytest.raises(ArtefactError, match="save_pretrained"):
        build("decoder", {"type": "prefix_lm", "lm": str(tmp_path)})


def test_incomplete_or_unfit_language_models_are_refused(lm: Path, tmp_path: Path) -> None:
    holed = shutil.copytree(lm, tmp_path / "holed")
    weights = load_file(lm / "model.safetensors")
    save_file(
        {k: v for k, v in weights.items() if "h.1.mlp" not in k}, holed / "model.safetensors", metadata={"format": "pt"}
    )
    with pytest.raises(ArtefactError, match=r"lacks 4 weights"):
        build("decoder", on(holed))

    untokenised = shutil.copytree(lm, tmp_path / "untokenised")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (untokenised / name).unlink()
    with pytest.raises(ArtefactError, match="nothing else"):
        build("decoder", on(untokenised))

    foreign = save_lm(tmp_path / "foreign", names="a b c")
    with pytest.raises(ArtefactError, match="do not belong together"):
        build("decoder", on(lm, tokenizer=str(foreign)))

    bert = shutil.copytree(lm, tmp_path / "bert")
    size = len(AutoTokenizer.from_pretrained(lm))
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BertLMHeadModel(BertConfig(vocab_size=size, pad_token_id=0, **shape)).save_pretrained(bert)
    with pytest.raises(ArtefactError, match="looks at tokens ahead"):
        build("decoder", on(bert))


def test_lm_without_room_for_captions_is_refused(lm: Path) -> None:
    with pytest.raises(ConfigError, match="67 positions, and the language model has 64"):
        build("decoder", on(lm, generate={"max_new_tokens": 64}))
    with pytest.raises(DataError, match=r"'text1'.*62 tokens.*65 positions.*at most 61"):
        fitted(on(lm, steps=1), ["a red", "a " * 62])


def test_bad_captions_are_told_by_key() -> None:
    with pytest.raises(DataError, match="'text1' is empty"):
        fitted(TOY, ["a dog", "  "])
    with pytest.raises(DataError, match=r"'text0'.*<end>"):
        fitted(TOY, ["a <end> dog", "a cat"])
    with pytest.raises(DataError, match="no words"):
        fitted(TOY, ["", ""])
    decoder: Any = build("decoder", TOY)
    with pytest.raises(DataError, match="1 captions for 2 text vectors"):
        decoder.fit(vectors(2), ["a dog"], Quick())


def test_stop_that_is_no_token_is_told() -> None:
    with pytest.raises(ConfigError, match="not one token"):
        fitted({**TOY, "generate": {"max_new_tokens": 9, "stop": "zebra"}})


def test_sequences_and_unfitted_decoders_are_refused() -> None:
    config = build_config("decoder", TOY)
    with pytest.raises(PortError, match="sequences"):
        config.check(toy_port().changed(tokens=77))
    decoder: Any = build("decoder", TOY)
    with pytest.raises(ArtefactError, match="Fit it"):
        decoder.decode(toy_embeddings(2))
    centred = toy_embeddings(2)
    with pytest.raises(PortError, match="centred"):
        decoder.decode(Embeddings(centred.values, centred.port.changed(frame="centred"), centred.keys))


# What it says of itself


def test_defaults_are_the_authors() -> None:
    config = build_config("decoder", {"type": "prefix_lm"})
    assert (config.lm, config.prefix_length, config.train_lm) == ("gpt2", 10, "full")
    assert (config.epochs, config.batch_size, config.lr, config.weight_decay) == (10, 40, 2e-5, 0.01)
    assert (config.warmup, config.schedule) == (5000, "linear")
    assert (config.generate.num_beams, config.generate.max_new_tokens) == (1, 39)
    assert (config.mapper.type, config.end_of_sentence, config.generate.stop) == (
        "mlp",
        "taught",
        None,
    )  # the last: ours
    authors = {"end_of_sentence": "authors", "generate": {"stop": "."}}
    assert build_config("decoder", {"type": "prefix_lm", **authors}).end_of_sentence == "authors"


def test_authors_mapper_has_their_size(tmp_path: Path) -> None:
    """512 -> 3840 -> 7680 for a prefix of 10 in GPT-2's 768 dimensions: 31.5 million numbers."""
    shape = {**FRESH, "n_embd": 768, "n_head": 12}
    decoder: Any = build("decoder", {**TOY, "lm": shape, "prefix_length": 10}, ports={"text": toy_port(512)})
    assert {name: tuple(t.shape) for name, t in decoder.tensors().items()} == {
        "mapper.layers.0.weight": (3840, 512),
        "mapper.layers.0.bias": (3840,),
        "mapper.layers.2.weight": (7680, 3840),
        "mapper.layers.2.bias": (7680,),
    }
    assert math.isclose(sum(p.numel() for p in decoder.mapper.parameters()), 31.5e6, rel_tol=2e-3)


def test_soft_prompts_have_the_papers_sizes(tmp_path: Path) -> None:
    shape = {**FRESH, "n_embd": 768, "n_head": 12}
    block = {**TOY, "lm": shape, "prefix_length": 10, "mapper": "soft_prompt"}
    decoder: Any = build("decoder", block, ports={"text": toy_port(512)})
    linear, projector, prompts = 512 * 768 + 768, (768 * 768 + 768) + (768 * 7680 + 7680), 10 * 768
    assert sum(p.numel() for p in decoder.mapper.parameters()) == linear + projector + prompts == 6_898_176
    assert decoder.mapper(torch.zeros(2, 512)).shape == (2, 20, 768)


def test_soft_prompts_stand_behind_the_projected_vector() -> None:
    block = {**TOY, "mapper": {"type": "soft_prompt", "prompts": 2, "hidden": 40}, "steps": 160, "lr": 1e-2}
    decoder = fitted(block)
    assert texts(decoder) == CAPTIONS
    weights = {name: tensor.double().numpy() for name, tensor in decoder.tensors().items() if "mapper" in name}
    x = toy_embeddings(4).values
    y = x.double().numpy() @ weights["mapper.projection.weight"].T + weights["mapper.projection.bias"]
    y = np.tanh(y @ weights["mapper.projector.layers.0.weight"].T + weights["mapper.projector.layers.0.bias"])
    y = y @ weights["mapper.projector.layers.2.weight"].T + weights["mapper.projector.layers.2.bias"]
    with torch.inference_mode():
        prefix = decoder.mapper(x).double().numpy()
        projected = decoder.project(x).double().numpy()
    assert prefix.shape == (4, 5, FRESH["n_embd"])
    np.testing.assert_allclose(prefix[:, :3].reshape(4, -1), y, atol=1e-4)
    np.testing.assert_allclose(projected, y, atol=1e-4)  # without what is the same for every vector
    assert (prefix[:, 3:] == weights["mapper.prompts"]).all()
    fresh: Any = build("decoder", block)
    assert not torch.equal(fresh.mapper.prompts.cpu(), decoder.mapper.prompts.cpu())


def test_parameters_are_those_of_mapper_and_language_model(lm: Path) -> None:
    decoder: Any = build("decoder", TOY)
    before = decoder.parameter_count()
    decoder = fitted(TOY)
    table = decoder.lm.transformer.wte.weight.numel()  # tied to the output layer
    assert decoder.parameter_count() == before + table
    frozen: Any = build("decoder", on(lm, train_lm="frozen"))
    assert frozen.parameter_count() > sum(p.numel() for p in frozen.lm.parameters())


def test_generation_settings_do_not_ask_for_a_new_fit() -> None:
    one = build_config("decoder", TOY)
    two = build_config("decoder", {**TOY, "generate": {"num_beams": 5, "max_new_tokens": 16}, "decode_batch_size": 7})
    assert one.key_fields() == two.key_fields()
    assert one.key_fields("decode") != two.key_fields("decode")


def test_config_and_plugin_are_light() -> None:
    heavy = "{'torch', 'transformers', 'tokenizers', 'numpy'}"
    code = f"import sys, modbridge_captioning.plugin, modbridge_captioning.config; print({heavy} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_a_tuned_language_model_is_loaded_from_its_artefact_alone(tmp_path: Path) -> None:
    home = save_lm(tmp_path / "home")
    block = on(home, steps=5, batch_size=4)
    decoder = fitted(block)
    said = [(decoded.text, decoded.score) for decoded in decoder.decode(toy_embeddings(10))]
    folder = saved(decoder, tmp_path / "artefact")
    assert {path.suffix for path in folder.rglob("*") if path.is_file()} <= {".json", ".safetensors", ".txt", ".jinja"}
    shutil.rmtree(home)
    context = BuildContext(ports={"text": toy_port()}, artefact=folder)
    alone: Any = PrefixLmDecoder(build_config("decoder", block), context)
    alone.load_extra(folder)
    alone.load_tensors(load_file(folder / "model.safetensors"))
    assert [(decoded.text, decoded.score) for decoded in alone.decode(toy_embeddings(10))] == said
