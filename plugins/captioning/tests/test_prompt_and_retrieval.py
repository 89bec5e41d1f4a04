"""Words and retrieved captions around the prefix, against plain loops over single items with transformers alone."""

from __future__ import annotations

import json
import statistics
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import AutoModelForCausalLM, AutoTokenizer

from modbridge import datastore
from modbridge.datastore import Datastore
from modbridge.errors import ArtefactError, ConfigError, DataError, PortError, SetupError
from modbridge.spaces import Embeddings
from modbridge.testing import build, build_config, toy_port

TEXTS = [
    f"a {colour}{old} {animal} runs{fast}"
    for colour in ("red", "blue")
    for old in ("", " old")
    for animal in ("dog", "cat", "horse")
    for fast in ("", " fast fast .")
]
TEXTS[5], TEXTS[17] = TEXTS[2], "a fish ."
KEYS = [f"i{n // 2}#{n % 2}" for n in range(len(TEXTS))]  # two captions an item
LOW, HIGH = 0.25, 0.8
TEMPLATE = "USER: similar: {captions} {prefix} {prompt} ASSISTANT:"
TEXT = "Describe what you hear."


def on(lm: Path, retrieve: bool = True, **changes: Any) -> dict[str, Any]:
    block = {"type": "prefix_lm", "lm": str(lm), "prefix_length": 2, "steps": 1, "batch_size": len(TEXTS)}
    template = TEMPLATE if retrieve else TEMPLATE.replace("{captions}", "a cat")
    block |= {"prompt": {"text": TEXT, "template": template}, "generate": {"max_new_tokens": 9}}
    if retrieve:
        block["retrieval"] = {"count": 2, "similarity": [LOW, HIGH], "separator": " , "}
    return {**block, **changes}


def fitted(kit: Any, block: dict[str, Any], fitting: Any = None) -> Any:
    decoder: Any = build("decoder", block)
    decoder.fit(kit.text_vectors(kit.embeddings_of(KEYS)), TEXTS, fitting or kit.Quick())
    return decoder


def unit(x: torch.Tensor) -> Any:
    y = x.double().numpy()
    return y / np.linalg.norm(y, axis=1, keepdims=True)


def store_of(embeddings: Embeddings, texts: Sequence[str]) -> dict[str, tuple[Any, set[str]]]:
    """text -> (its first vector, rounded to half precision, the items that have it), by a plain loop."""
    halves = unit(torch.from_numpy(unit(embeddings.values).astype(np.float16)))
    found: dict[str, tuple[Any, set[str]]] = {}
    for key, text, vector in zip(embeddings.keys, texts, halves, strict=True):
        found.setdefault(text, (vector, set()))[1].add(key.split("#")[0])
    return found


def similar(store: dict[str, Any], key: str, text: str, x: Any, count: int, low: float, high: float) -> list[str]:
    item = key.split("#")[0]
    cosines = {t: float(x @ v) for t, (v, items) in store.items() if t != text and item not in items}
    inside = [t for t, cosine in cosines.items() if low < cosine < high]
    return sorted(inside, key=lambda t: -cosines[t])[:count]


def nearest(store: dict[str, Any], x: Any, count: int) -> list[str]:
    return sorted(store, key=lambda t: -float(x @ store[t][0]))[:count]


def sides(captions: Sequence[str] | None) -> tuple[str, str]:
    middle = "a cat" if captions is None else "".join(f"{caption} , " for caption in captions)
    return f"USER: similar: {middle} ", f" {TEXT} ASSISTANT:"


def lead(model: Any, tokenizer: Any, prefix: torch.Tensor, captions: Sequence[str] | None) -> torch.Tensor:
    """One item's embeddings (T, E) in front of the caption: no padding, no mask."""
    table = model.get_input_embeddings()
    before, behind = (
        table(torch.tensor(tokenizer(side)["input_ids"], dtype=torch.long)).detach() for side in sides(captions)
    )
    return torch.cat([before, prefix, behind])


def prefixes(tensors: dict[str, torch.Tensor], x: torch.Tensor, length: int = 2) -> torch.Tensor:
    w1, b1, w2, b2 = (tensors[f"mapper.layers.{i}.{n}"].double().numpy() for i in (0, 2) for n in ("weight", "bias"))
    return torch.from_numpy((np.tanh(x.double().numpy() @ w1.T + b1) @ w2.T + b2).reshape(len(x), length, -1))


def plain(lm: Path) -> tuple[Any, Any]:
    return AutoModelForCausalLM.from_pretrained(lm).double().eval(), AutoTokenizer.from_pretrained(lm)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("retrieve", [True, False])
def test_the_loss_is_that_of_the_captions_tokens_alone(
    kit: Any, lms: dict[str, Path], kind: str, retrieve: bool
) -> None:
    embeddings, fitting = kit.embeddings_of(KEYS), kit.Quick()
    model, tokenizer = plain(lms[kind])
    decoder: Any = build("decoder", on(lms[kind], retrieve))
    starts = prefixes(decoder.tensors(), embeddings.values)
    decoder.fit(kit.text_vectors(embeddings), TEXTS, fitting)
    store, losses, leads = store_of(embeddings, TEXTS), [], set()
    for key, text, prefix, x in zip(KEYS, TEXTS, starts, unit(embeddings.values), strict=True):
        found = similar(store, key, text, x, 2, LOW, HIGH) if retrieve else None
        front = lead(model, tokenizer, prefix, found)
        leads.add(len(front))
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        words = model.get_input_embeddings()(torch.tensor(ids[:-1]))
        with torch.inference_mode():
            logs = model(inputs_embeds=torch.cat([front, words])[None]).logits[0, len(front) - 1 :].log_softmax(1)
        losses += [-float(log[token]) for log, token in zip(logs, ids, strict=True)]
    assert (len(leads) > 3) == retrieve  # fewer than two captions for some, so padding was at work
    assert fitting.logged[-1]["loss"] == pytest.approx(statistics.mean(losses), rel=1e-5)


def held_out(kit: Any) -> tuple[Any, list[str]]:
    keys = [f"v{n}#0" for n in range(8)]
    texts = ["a fish .", "a red fish", "blue", *TEXTS[:5]]
    return kit.embeddings_of(keys, seed=3), texts


def test_held_out_texts_look_for_others_among_the_training_captions(kit: Any, lms: dict[str, Path]) -> None:
    decoder = fitted(kit, on(lms["llama"], train_lm="frozen", batch_size=3))
    model, tokenizer = plain(lms["llama"])
    embeddings, texts = held_out(kit)
    store, losses = store_of(kit.embeddings_of(KEYS), TEXTS), []
    starts = prefixes(decoder.tensors(), embeddings.values)
    for key, text, prefix, x in zip(embeddings.keys, texts, starts, unit(embeddings.values), strict=True):
        front = lead(model, tokenizer, prefix, similar(store, key, text, x, 2, LOW, HIGH))
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        words = model.get_input_embeddings()(torch.tensor(ids[:-1]))
        with torch.inference_mode():
            logs = model(inputs_embeds=torch.cat([front, words])[None]).logits[0, len(front) - 1 :].log_softmax(1)
        losses += [-float(log[token]) for log, token in zip(logs, ids, strict=True)]
    assert decoder.text_loss(kit.text_vectors(embeddings), texts) == pytest.approx(statistics.mean(losses), rel=1e-5)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize(("beams", "train_lm"), [(1, "frozen"), (3, "frozen"), (1, "lora"), (3, "lora")])
def test_a_padded_batch_writes_what_single_items_do_without_padding(
    kit: Any, lms: dict[str, Path], kind: str, beams: int, train_lm: str
) -> None:
    block = on(lms[kind], train_lm=train_lm, generate={"max_new_tokens": 9, "num_beams": beams}, steps=20, lr=1e-2)
    decoder = fitted(kit, block)
    model, tokenizer = plain(lms[kind])
    tensors = decoder.tensors()
    for name in [n for n in tensors if n.endswith("lora_A.weight")]:
        path = name.removeprefix("adapter.").removesuffix(".lora_A.weight")
        product = tensors[f"adapter.{path}.lora_B.weight"].double() @ tensors[name].double() * 32 / 8
        weight = model.get_submodule(path).weight
        with torch.no_grad():
            weight += product if product.shape == weight.shape else product.T
    store = store_of(kit.embeddings_of(KEYS), TEXTS)
    texts, sources = (kit.embeddings_of([f"t{n}" for n in range(14)], seed=seed) for seed in (8, 9))
    starts = prefixes(tensors, texts.values)
    leads, written = set(), decoder.decode(texts, source=sources)
    for prefix, x, decoded in zip(starts, unit(sources.values), written, strict=True):
        found = nearest(store, x, 2)
        assert list(decoded.details["retrieved"]) == found
        front = lead(model, tokenizer, prefix, found)
        leads.add(len(front))
        said = model.generate(
            inputs_embeds=front[None],
            attention_mask=torch.ones(1, len(front), dtype=torch.long),
            max_new_tokens=9,
            num_beams=beams,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
            return_dict_in_generate=True,
            output_scores=True,
        )
        assert decoded.text == tokenizer.decode(said.sequences[0], skip_special_tokens=True)
        ids = said.sequences[0].tolist()
        words = model.get_input_embeddings()(torch.tensor(ids[:-1], dtype=torch.long))
        with torch.inference_mode():
            logs = model(inputs_embeds=torch.cat([front, words])[None]).logits[0, len(front) - 1 :].log_softmax(1)
        score = statistics.mean(float(log[token]) for log, token in zip(logs, ids, strict=True))
        assert decoded.score == pytest.approx(score, abs=1e-4)
    assert len(leads) > 2
    assert len({decoded.text for decoded in written}) > 3


@pytest.mark.parametrize("retrieve", [False, True])
def test_learns_words_of_its_own_with_a_prompt(kit: Any, retrieve: bool) -> None:
    shape = {"n_layer": 1, "n_head": 2, "n_embd": 32, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0}
    block = {**on(Path(), retrieve, tokenizer="words", steps=300, lr=5e-3, batch_size=12), "lm": shape}
    decoder = fitted(kit, {**block, "generate": {"max_new_tokens": 12}})
    assert {"USER", "ASSISTANT", "Describe", ":"} <= set(decoder.tokenizer.get_vocab())
    embeddings = kit.embeddings_of(KEYS)
    assert decoder.text_loss(kit.text_vectors(embeddings), TEXTS) < 0.05
    if not retrieve:  # with it, a caption finds itself only where captions are written
        written = [decoded.text for decoded in decoder.decode(embeddings)]
        assert written == [text.replace(" .", ".") for text in TEXTS]


def test_the_templates_default_is_drcaps_order(kit: Any, lms: dict[str, Path]) -> None:
    block = on(lms["gpt2"], prompt={}, retrieval={})
    config = build_config("decoder", block)
    asked = config.retrieval
    assert (asked.count, asked.similarity, asked.query, asked.separator) == (3, (0.75, 0.85), "source", ". ")
    said = "USER: Describe the audio you hear. \n ASSISTANT:"
    assert config.prompt.sides(True) == ("{captions}", said)
    assert build_config("decoder", on(lms["gpt2"], False, prompt={})).prompt.sides(False) == ("", said)


def test_an_index_that_cannot_be_had_is_told_before_anything_is_fitted(
    lms: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "faiss", None)
    config = build_config("decoder", on(lms["gpt2"], retrieval={"count": 2, "search": "faiss"}))
    with pytest.raises(SetupError, match=r"modbridge\[faiss\]"):
        config.check(toy_port())


# The datastore


def test_what_is_found_is_what_a_plain_loop_finds_whatever_the_blocks(
    kit: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = [f"text {n % 37}" for n in range(60)]  # every caption but some is there twice, for different items
    keys = [f"i{n // 3}#{n % 3}" for n in range(60)]
    embeddings = kit.embeddings_of(keys)
    expected = store_of(embeddings, texts)
    queries = kit.embeddings_of([f"q{n}" for n in range(23)], seed=4)
    rows = zip(keys, texts, unit(embeddings.values), strict=True)
    found = [similar(expected, key, text, x, 4, 0.4, 0.7) for key, text, x in rows]
    assert {len(each) for each in found} == {0, 1, 2, 3, 4} or len({len(each) for each in found}) > 2
    for sizes in ((1024, 16384), (7, 5), (1, 1)):
        monkeypatch.setattr(datastore, "_QUERIES", sizes[0])
        monkeypatch.setattr(datastore, "_BLOCK", sizes[1])
        store = Datastore.of(embeddings, texts, torch.device("cpu"))
        assert len(store.texts) == 37
        assert store.nearest(queries.values, 5) == [nearest(expected, x, 5) for x in unit(queries.values)]
        assert store.similar(embeddings, texts, 4, (0.4, 0.7)) == found
        assert all(len(each) == 37 for each in store.nearest(queries.values[:3], 50))


def test_equal_vectors_are_found_in_the_stores_order_and_the_length_of_a_query_is_nothing(kit: Any) -> None:
    embeddings = kit.embeddings_of([f"i{n}#0" for n in range(4)])
    values = embeddings.values[torch.tensor([0] * 8 + [1] * 23)]
    level = Embeddings(values, embeddings.port, tuple(f"i{n}#0" for n in range(31)))
    store = Datastore.of(level, [f"text {n}" for n in range(31)], torch.device("cpu"))
    assert store.nearest(values[:1] * 7, 3) == store.nearest(values[:9], 3)[:1] == [["text 0", "text 1", "text 2"]]


def test_never_all_cosines_at_once() -> None:
    """6,000 captions: all their cosines would be 36 million numbers."""

    class Largest(TorchDispatchMode):
        size = 0

        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            out = func(*args, **(kwargs or {}))
            for tensor in out if isinstance(out, tuple | list) else [out]:
                if isinstance(tensor, torch.Tensor):
                    self.size = max(self.size, tensor.numel())
            return out

    generator = torch.Generator().manual_seed(0)
    keys = tuple(f"i{n}#0" for n in range(6000))
    embeddings = Embeddings(torch.randn(6000, 16, generator=generator), toy_port(16), keys)
    with Largest() as largest:
        store = Datastore.of(embeddings, list(keys), torch.device("cpu"))
        store.similar(embeddings, list(keys), 3, (0.5, 0.9))
    assert 0 < largest.size <= 1024 * 6000


def test_what_looks_for_captions_can_be_chosen_and_texts_look_for_themselves(kit: Any, lms: dict[str, Path]) -> None:
    decoder = fitted(kit, on(lms["llama"]))
    store = store_of(kit.embeddings_of(KEYS), TEXTS)
    bridged, source = (kit.embeddings_of([f"t{n}" for n in range(6)], seed=seed) for seed in (8, 9))

    def retrieved(one: Any, source: Any) -> list[list[str]]:
        return [list(decoded.details["retrieved"]) for decoded in one.decode(bridged, source=source)]

    by_source, by_bridged = ([nearest(store, x, 2) for x in unit(e.values)] for e in (source, bridged))
    assert by_source != by_bridged
    assert retrieved(decoder, source) == by_source
    assert retrieved(decoder, None) == by_bridged
    wide = Embeddings(torch.randn(6, 24), toy_port(24, "image"), bridged.keys)
    with pytest.raises(PortError, match=r"vectors of 16 numbers.*\(24,\).*retrieval.query"):
        decoder.decode(bridged, source=wide)
    broken = Embeddings(source.values * torch.tensor([1.0] * 15 + [float("nan")]), source.port, source.keys)
    with pytest.raises(DataError, match="NaN"):
        decoder.decode(bridged, source=broken)


def test_loaded_equals_saved_and_decodes_with_other_counts(kit: Any, lms: dict[str, Path], tmp_path: Path) -> None:
    block = on(lms["llama"], train_lm="lora", steps=4)
    decoder = fitted(kit, block)
    folder = kit.saved(decoder, tmp_path / "one")
    tensors = load_file(folder / "model.safetensors")
    assert tensors["retrieval.vectors"].shape == (len(set(TEXTS)), 16)
    assert json.loads((folder / "captions.json").read_text())["texts"] == list(dict.fromkeys(TEXTS))
    again = kit.loaded(block, folder)
    other = kit.saved(again, tmp_path / "two")
    assert all((folder / p.name).read_bytes() == p.read_bytes() for p in other.iterdir())
    bridged, source = (kit.embeddings_of([f"t{n}" for n in range(6)], seed=seed) for seed in (8, 9))
    assert again.decode(bridged, source=source) == decoder.decode(bridged, source=source)
    held, texts = held_out(kit)
    assert again.text_loss(kit.text_vectors(held), texts) == decoder.text_loss(kit.text_vectors(held), texts)

    more = {**block, "retrieval": {**block["retrieval"], "decode_count": 3, "query": "bridged"}}
    store = store_of(kit.embeddings_of(KEYS), TEXTS)
    wider = kit.loaded(more, folder).decode(bridged, source=source)
    found = [nearest(store, x, 3) for x in unit(bridged.values)]
    assert [list(decoded.details["retrieved"]) for decoded in wider] == found
    one, two = build_config("decoder", block), build_config("decoder", more)
    assert one.key_fields() == two.key_fields()
    assert one.key_fields("decode") != two.key_fields("decode")
    indexed = {**more, "retrieval": {**more["retrieval"], "search": {"probes": 99}}}
    assert kit.loaded(indexed, folder).decode(bridged, source=source) == wider
    three = build_config("decoder", indexed)
    assert three.key_fields() == one.key_fields()
    assert three.key_fields("decode") != two.key_fields("decode")
    assert "search" not in two.key_fields("decode")["retrieval"]
    trained = {**block, "retrieval": {**block["retrieval"], "count": 3}}
    assert one.key_fields() != build_config("decoder", trained).key_fields()

    del tensors["retrieval.vectors"]
    decoder = build("decoder", block)
    decoder.load_extra(folder)
    with pytest.raises(ArtefactError, match="found none"):
        decoder.load_tensors(tensors)
    (folder / "captions.json").unlink()
    with pytest.raises(ArtefactError, match=r"captions\.json"):
        kit.loaded(block, folder)


# What is refused


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": {"template": "USER: {prompt}"}}, "must hold {prefix} exactly once"),
        ({"prompt": {"template": "{prefix} {prefix} {captions}"}}, "exactly once"),
        ({"prompt": {"template": "{prefix} {captions} {answer}"}}, "template names {answer}"),
        ({"prompt": {"template": "{prefix} {prompt}"}}, "put {captions} into it"),
        ({"prompt": {"text": "Say it.", "template": "{prefix} {captions}"}}, "stands nowhere"),
        ({"prompt": {"text": "{captions}"}}, "place-holder"),
        ({"retrieval": None}, "but nothing retrieves"),
        ({"prompt": None}, "there is none: add"),
        ({"retrieval": {"similarity": [0.8, 0.5]}}, "lower bound first"),
        ({"retrieval": {"similarity": [0.8, 1.5]}}, "similarity"),
        ({"retrieval": {"count": 0}}, "count"),
    ],
)
def test_contradictions_are_told(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as found:
        build_config("decoder", on(Path("gpt2"), **changes))
    assert message in str(found.value)


def test_prompts_that_leave_no_room_are_told(kit: Any, lms: dict[str, Path], tmp_path: Path) -> None:
    """USER: similar: Describe what you hear. ASSISTANT: are 7 tokens, a longest caption and a comma 9 more each."""
    long = "a " * 60
    with pytest.raises(ConfigError, match=r"a prompt of 61 tokens and generate\.max_new_tokens 9 take 72 positions"):
        build("decoder", on(lms["gpt2"], False, prompt={"template": f"{long}{{prefix}} a"}))
    narrow = kit.save_gpt2(tmp_path / "narrow", positions=34)
    tokens = 7 + 2 * (max(len(text.split()) for text in TEXTS) + 1)
    with pytest.raises(
        ConfigError, match=rf"with the longest captions of {tokens} tokens and generate\.max_new_tokens"
    ):
        fitted(kit, on(narrow))
    folder = kit.saved(fitted(kit, on(lms["gpt2"])), tmp_path / "kept")
    many = on(lms["gpt2"])
    many["retrieval"]["decode_count"] = 9
    with pytest.raises(ConfigError, match="the language model has 64"):
        kit.loaded(many, folder)


def test_vectors_that_a_bridge_has_centred_retrieve_nothing() -> None:
    config = build_config("decoder", on(Path("gpt2")))
    config.check(toy_port())
    with pytest.raises(PortError, match="retrieves training captions by the vectors as the encoder gives them"):
        config.check(toy_port().changed(frame="centred"))
    build_config("decoder", on(Path("gpt2"), False)).check(toy_port().changed(frame="centred"))


def test_bfloat16_reads_prompts_too(kit: Any, lms: dict[str, Path]) -> None:
    vectors, losses = kit.text_vectors(kit.embeddings_of(KEYS)), {}
    for precision in ("float32", "bfloat16"):
        decoder = fitted(kit, on(lms["llama"], train_lm="lora", lr=1e-6, precision=precision))
        assert len(decoder.decode(kit.embeddings_of(KEYS))) == len(TEXTS)
        losses[precision] = decoder.text_loss(vectors, TEXTS)
    assert losses["bfloat16"] == pytest.approx(losses["float32"], rel=0.02)
    assert losses["bfloat16"] != losses["float32"]
