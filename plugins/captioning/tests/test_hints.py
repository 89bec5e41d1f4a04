"""Words given with each vector (ViECap's hard prompt), against plain loops over items with transformers alone."""

from __future__ import annotations

import statistics
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from modbridge_captioning.prompt import filled
from transformers import AutoModelForCausalLM, AutoTokenizer

from modbridge.errors import ConfigError, DataError
from modbridge.interfaces import TextVectors
from modbridge.interfaces.fitting import Hints
from modbridge.testing import build, build_config

TEXTS = [f"a {colour} {animal} runs{end}" for colour in ("red", "blue") for animal in ("dog", "cat", "horse")
         for end in ("", " fast .")]  # fmt: skip
HINTS = [" ".join(["dog", ",", "cat", ",", "fish"][: 2 * (n % 3) + 1]) for n in range(len(TEXTS))]
HINTS[4] = ""
KEYS = [f"i{n}#0" for n in range(len(TEXTS))]
LENGTH = 2

TEMPLATES = {
    "soft_first": "{prefix}{hint}",
    "hard_first": "{hint}{prefix}",
    "hard_only": "a {hint} .",
    "words": "USER: a {hint} similar: {prefix} {prompt} ASSISTANT:",
}


def on(lm: Path, template: str, **changes: Any) -> dict[str, Any]:
    prompt = {"template": template} | ({"text": "Describe what you hear."} if "{prompt}" in template else {})
    block = {"type": "prefix_lm", "lm": str(lm), "prefix_length": LENGTH, "steps": 1, "batch_size": len(TEXTS)}
    return {**block, "prompt": prompt, "generate": {"max_new_tokens": 9}, **changes}


def fitted(kit: Any, block: dict[str, Any], fitting: Any = None) -> Any:
    decoder: Any = build("decoder", block)
    decoder.fit(kit.text_vectors(kit.embeddings_of(KEYS), HINTS), TEXTS, fitting or kit.Quick())
    return decoder


def write(decoder: Any, vectors: torch.Tensor, hints: Sequence[str]) -> list[Any]:
    with torch.inference_mode():
        found: list[Any] = decoder.decode_hinted(vectors, None, hints, [f"k{n}" for n in range(len(hints))], 0)
    return found


def lead(decoder: Any, tensors: dict[str, torch.Tensor], model: Any, tokenizer: Any, x: torch.Tensor, hint: str) -> Any:
    """One item's embeddings (T, E) in front of the caption, in float64: no padding, no mask."""
    said = decoder.config.prompt.template.replace("{prompt}", "Describe what you hear.").replace("{hint}", hint)
    table = model.get_input_embeddings()
    sides = [
        table(torch.tensor(tokenizer(side, add_special_tokens=False)["input_ids"], dtype=torch.long)).detach()
        for side in said.split("{prefix}")
    ]
    if len(sides) == 1:
        return sides[0]
    w1, b1, w2, b2 = (tensors[f"mapper.layers.{i}.{n}"].double().numpy() for i in (0, 2) for n in ("weight", "bias"))
    prefix = torch.from_numpy((np.tanh(x.double().numpy() @ w1.T + b1) @ w2.T + b2).reshape(LENGTH, -1))
    return torch.cat([sides[0], prefix, sides[1]])


def plain(lm: Path, tensors: dict[str, torch.Tensor]) -> tuple[Any, Any]:
    """The stored language model, with the decoder's weights where it was tuned."""
    model = AutoModelForCausalLM.from_pretrained(lm).double().eval()
    tuned = {name.removeprefix("lm."): tensor.double() for name, tensor in tensors.items() if name.startswith("lm.")}
    if tuned:
        assert not model.load_state_dict(tuned, strict=False).unexpected_keys
        model.tie_weights()
    return model, AutoTokenizer.from_pretrained(lm)


# What it learns


@pytest.mark.parametrize("kind", ["gpt2", "opt", "llama"])
@pytest.mark.parametrize("form", TEMPLATES)
def test_the_loss_is_that_of_the_captions_tokens_behind_the_hint(
    kit: Any, lms: dict[str, Path], kind: str, form: str
) -> None:
    embeddings, fitting = kit.embeddings_of(KEYS), kit.Quick()
    decoder: Any = build("decoder", on(lms[kind], TEMPLATES[form]))
    start = {name: tensor.clone() for name, tensor in decoder.tensors().items()}
    model, tokenizer = plain(lms[kind], {})
    before = decoder.text_loss(kit.text_vectors(embeddings, HINTS), TEXTS)
    decoder.fit(kit.text_vectors(embeddings, HINTS), TEXTS, fitting)
    losses, lengths = [], set()
    for x, hint, text in zip(embeddings.values, HINTS, TEXTS, strict=True):
        front = lead(decoder, start, model, tokenizer, x, hint)
        lengths.add(len(front))
        ids = [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
        words = model.get_input_embeddings()(torch.tensor(ids[:-1]))
        with torch.inference_mode():
            logs = model(inputs_embeds=torch.cat([front, words])[None]).logits[0, len(front) - 1 :].log_softmax(1)
        losses += [-float(log[token]) for log, token in zip(logs, ids, strict=True)]
    assert len(lengths) == 4  # so padding was at work
    assert fitting.logged[-1]["loss"] == pytest.approx(statistics.mean(losses), rel=1e-5)
    assert before == pytest.approx(statistics.mean(losses), rel=1e-5)


COLOURS, ANIMALS = ("red", "blue", "old", "fast"), ("dog", "cat", "horse", "fish")
PAIRS = [(colour, animal) for colour in COLOURS for animal in ANIMALS]
WORLD = {
    "type": "prefix_lm",
    "lm": {"n_layer": 2, "n_head": 2, "n_embd": 64, "resid_pdrop": 0.0, "embd_pdrop": 0.0, "attn_pdrop": 0.0},
    "tokenizer": "words",
    "prefix_length": 3,
    "steps": 200,
    "batch_size": 32,
    "lr": 5e-3,
    "generate": {"max_new_tokens": 8},
}


def hinted(kit: Any, count: int, seed: int, said: list[tuple[int, int]] | None = None) -> tuple[Any, list[str]]:
    """A world whose vectors say nothing of the captions, but hints do. `said`: (row, epoch) of every hint asked for."""
    embeddings = kit.embeddings_of([f"i{n}#0" for n in range(count)], seed=seed)
    pairs = [PAIRS[n % len(PAIRS)] for n in range(count)]

    def hint(row: int) -> str:
        return f"There are {pairs[row][1]}, {pairs[row][0]} in image."

    def batch(rows: Sequence[int], epoch: int) -> list[str]:
        if said is not None:
            said.extend((row, epoch) for row in rows)
        return [hint(row) for row in rows]

    hints = Hints(batch, ["There are zebra in image."], max(map(hint, range(count)), key=len), "world")
    plain_vectors = kit.text_vectors(embeddings)
    captions = [f"a {colour} {animal} runs." for colour, animal in pairs]
    return TextVectors(embeddings, plain_vectors.batch, hints), captions


@pytest.mark.parametrize("layout", ["soft_first", "hard_first", "hard_only"])
def test_where_only_the_hint_tells_the_caption_it_writes_by_the_hint(kit: Any, layout: Any, tmp_path: Path) -> None:
    config = build_config("decoder", WORLD).with_hints(layout)
    block = config.model_dump(exclude_unset=True)
    decoder: Any = build("decoder", block)
    said: list[tuple[int, int]] = []
    vectors, captions = hinted(kit, 64, seed=0, said=said)
    decoder.fit(vectors, captions, kit.Quick())
    assert len(said) == 200 * 32
    assert {epoch for _, epoch in said} == set(range(100))
    assert {row for row, _ in said} == set(range(64))

    held, expected = hinted(kit, 32, seed=5)
    hints = held.hints.batch(range(32), 0) if held.hints else []
    written = write(decoder, held.embeddings.values, hints)
    assert [decoded.text for decoded in written] == expected
    assert [decoded.key for decoded in written] == [f"k{n}" for n in range(32)]
    swapped = write(decoder, held.embeddings.values, hints[::-1])
    assert [decoded.text for decoded in swapped] == expected[::-1]

    likely = decoder.text_loss(held, expected)
    assert likely < 0.1
    assert decoder.text_loss(held, expected[1:] + expected[:1]) > 1.0

    again = kit.loaded(block, kit.saved(decoder, tmp_path))
    assert write(again, held.embeddings.values, hints) == written
    assert again.text_loss(held, expected) == likely
    assert "zebra" in again.tokenizer.get_vocab()  # a word of hints alone
    assert "hint" not in again.tokenizer.get_vocab()


def test_a_prompt_of_hints_alone_has_no_mapper(kit: Any, lms: dict[str, Path]) -> None:
    decoder = fitted(kit, on(lms["gpt2"], "{hint} .", prefix_length=60))  # no prefix, so there is room
    assert not [name for name in decoder.tensors() if not name.startswith("lm.")]
    stored = sum(p.numel() for p in AutoModelForCausalLM.from_pretrained(lms["gpt2"]).parameters())
    assert decoder.parameter_count() == decoder.trainable_count() == stored
    x = kit.embeddings_of(KEYS).values
    assert decoder.project(x) is None
    assert write(decoder, x, ["dog"] * len(x)) == write(decoder, -x, ["dog"] * len(x))

    def never(rows: Sequence[int], epoch: int) -> torch.Tensor:
        raise AssertionError("vectors were made that nothing reads")

    given = kit.text_vectors(kit.embeddings_of(KEYS), HINTS)
    vectors = TextVectors(given.embeddings, never, given.hints)
    assert decoder.text_loss(vectors, TEXTS) == decoder.text_loss(given, TEXTS)


# What it writes


@pytest.mark.parametrize("kind", ["gpt2", "opt"])
@pytest.mark.parametrize("train_lm", ["frozen", "full"])
@pytest.mark.parametrize("beams", [1, 5])
def test_a_padded_batch_writes_what_single_items_do_without_padding(
    kit: Any, lms: dict[str, Path], kind: str, train_lm: str, beams: int
) -> None:
    search = {"max_new_tokens": 9, "num_beams": beams}
    block = on(lms[kind], "{prefix}{hint}", train_lm=train_lm, generate=search, steps=25, lr=1e-2)
    decoder = fitted(kit, block)
    tensors = decoder.tensors()
    model, tokenizer = plain(lms[kind], tensors)
    vectors = kit.embeddings_of([f"t{n}" for n in range(len(HINTS))], seed=8).values
    written, lengths = write(decoder, vectors, HINTS), set()
    for x, hint, decoded in zip(vectors, HINTS, written, strict=True):
        front = lead(decoder, tensors, model, tokenizer, x, hint)
        lengths.add(len(front))
        ids = model.generate(
            inputs_embeds=front[None],
            attention_mask=torch.ones(1, len(front), dtype=torch.long),
            do_sample=False,
            use_cache=False,
            pad_token_id=tokenizer.eos_token_id,
            **search,
        )[0].tolist()
        assert decoded.text == tokenizer.decode(ids, skip_special_tokens=True)
        words = model.get_input_embeddings()(torch.tensor(ids[:-1], dtype=torch.long))
        with torch.inference_mode():
            logs = model(inputs_embeds=torch.cat([front, words])[None]).logits[0, len(front) - 1 :].log_softmax(1)
        score = statistics.mean(float(log[token]) for log, token in zip(logs, ids, strict=True))
        assert decoded.score == pytest.approx(score, abs=1e-4)
        assert write(decoder, x[None], [hint])[0].text == decoded.text
    assert len(lengths) == 4
    assert len({decoded.text for decoded in written}) > 3


def test_without_hints_they_are_empty_and_they_do_matter(kit: Any, lms: dict[str, Path]) -> None:
    decoder = fitted(kit, on(lms["gpt2"], TEMPLATES["words"]))
    embeddings = kit.embeddings_of([f"k{n}" for n in range(8)], seed=4)
    bare = decoder.decode(embeddings)
    assert bare == write(decoder, embeddings.values, [""] * 8)
    assert bare != write(decoder, embeddings.values, ["fish"] * 8)


def test_hints_stand_beside_retrieved_captions(kit: Any, lms: dict[str, Path]) -> None:
    retrieval = {"count": 1, "similarity": [-1.0, 1.0], "separator": " "}
    block = on(lms["gpt2"], "{captions} , {hint} {prefix}", retrieval=retrieval)
    decoder = fitted(kit, block)
    vectors = kit.embeddings_of([f"t{n}" for n in range(6)], seed=8).values
    written = write(decoder, vectors, HINTS[:6])
    for x, hint, decoded in zip(vectors, HINTS, written, strict=False):
        (found,) = decoded.details["retrieved"]
        same = build("decoder", on(lms["gpt2"], f"{found} , {{hint}} {{prefix}}"))
        same.load_tensors({name: tensor for name, tensor in decoder.tensors().items() if "retrieval" not in name})
        assert write(same, x[None], [hint])[0].text == decoded.text
    assert filled("{captions}: {hint}", "a {hint}", "{captions}") == "a {hint}: {captions}"


def test_viecaps_decoder_is_a_config(kit: Any, tmp_path: Path) -> None:
    lm = kit.save_gpt2(tmp_path / "gpt2", positions=96)
    block = {
        "type": "prefix_lm",
        "lm": str(lm),
        "mapper": {"type": "transformer", "layers": 2},
        "prompt": {"template": "{prefix}{hint}"},
        "end_of_sentence": "authors",
        "generate": {"num_beams": 5, "max_new_tokens": 64, "stop": "."},
        "steps": 60,
        "batch_size": 4,
        "lr": 5e-3,
    }
    captions = ["red dog runs .", "blue cat runs fast .", "old horse .", "red fish ."]
    hints = ["dog .", "cat , fast .", "horse .", "fish ."]  # their own full stops end nothing
    embeddings = kit.embeddings_of([f"i{n}" for n in range(4)])
    decoder: Any = build("decoder", block)
    decoder.fit(kit.text_vectors(embeddings, hints), captions, kit.Quick())
    other: Any = build("decoder", block)
    other.load_tensors(decoder.tensors())
    assert [decoded.text for decoded in write(other, embeddings.values, hints)] == captions


# Layouts


@pytest.mark.parametrize(
    ("layout", "template"),
    [("soft_first", "{prefix}{hint}"), ("hard_first", "{hint}{prefix}"), ("hard_only", "{hint}")],
)
def test_a_layout_is_a_template(layout: Any, template: str) -> None:
    plain_config = build_config("decoder", {**WORLD, "mapper": "linear"})
    assert (plain_config.reads_hints, plain_config.reads_vectors) == (False, True)
    config = plain_config.with_hints(layout)
    assert config.prompt.template == template
    assert (config.reads_hints, config.reads_vectors) == (True, layout != "hard_only")
    changed = {name for name in config.model_dump() if getattr(config, name) != getattr(plain_config, name)}
    assert changed == {"prompt"}
    assert config.model_fields_set == plain_config.model_fields_set | {"prompt"}
    for dumped in (config.model_dump(), config.model_dump(mode="json"), config.model_dump(exclude_unset=True)):
        assert build_config("decoder", {"type": "prefix_lm", **dumped}) == config
    assert config.with_hints(layout) is config
    assert config.with_hints(None) is config
    assert config.key_fields() != plain_config.key_fields()


def test_a_template_of_ones_own_is_kept() -> None:
    template = "{prefix} Seen: {hint} {prompt}"
    own = build_config("decoder", {**WORLD, "prompt": {"template": template}})
    assert own.with_hints(None) is own
    with pytest.raises(ValueError, match=r"layout 'soft_first' is the template '\{prefix\}\{hint\}'.*layout to null"):
        own.with_hints("soft_first")
    with pytest.raises(ValueError, match=r"layout null .* there is no prompt: put \{hint\} into prompt\.template"):
        build_config("decoder", WORLD).with_hints(None)
    bare = build_config("decoder", {**WORLD, "prompt": {}})
    with pytest.raises(ValueError, match=r"layout null .* prompt\.template is None"):
        bare.with_hints(None)
    with pytest.raises(ValueError, match=r"put \{hint\} into prompt\.template and set layout to null"):
        bare.with_hints("hard_first")


# What is refused


@pytest.mark.parametrize(
    ("prompt", "message"),
    [
        ({"template": "{hint} {hint} {prefix}"}, "{captions} and {hint} once at most"),
        ({"template": "{hint} {prefix} {prefix}"}, "must hold {prefix} exactly once"),
        ({"template": "say"}, "only beside {hint} may it be left out"),
        ({"template": "{hints} {prefix}"}, "template names {hints}"),
        ({"text": "Say {hint}."}, "place-holder"),
    ],
)
def test_templates_that_make_no_sense_are_told(prompt: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError) as found:
        build_config("decoder", {**WORLD, "prompt": prompt})
    assert message in str(found.value)


def test_nothing_to_train_is_told() -> None:
    frozen = {"type": "prefix_lm", "lm": "gpt2", "train_lm": "frozen"}
    message = r"train_lm 'frozen' trains the mapper alone.*'full' or 'lora'"
    with pytest.raises(ConfigError, match=message):
        build_config("decoder", {**frozen, "prompt": {"template": "{hint}"}})
    with pytest.raises(ValueError, match=f"^layout 'hard_only': {message}"):
        build_config("decoder", frozen).with_hints("hard_only")
    assert build_config("decoder", {**frozen, "train_lm": "lora"}).with_hints("hard_only").reads_hints


def test_hints_and_their_place_go_together(kit: Any, lms: dict[str, Path]) -> None:
    embeddings = kit.embeddings_of(KEYS)
    without: Any = build("decoder", {**on(lms["gpt2"], ""), "prompt": None})
    place: Any = build("decoder", on(lms["gpt2"], "{prefix}{hint}"))
    for call in (lambda d, v: d.fit(v, TEXTS, kit.Quick()), lambda d, v: d.text_loss(v, TEXTS)):
        with pytest.raises(ConfigError, match=r"no place for them: put \{hint\} into prompt\.template"):
            call(without, kit.text_vectors(embeddings, HINTS))
        with pytest.raises(ConfigError, match="no hints are given with the vectors"):
            call(place, kit.text_vectors(embeddings))
    with pytest.raises(ConfigError, match="no place for them"):
        write(without, embeddings.values[:1], ["dog"])
    with pytest.raises(DataError, match="1 hints for 2 vectors"):
        place.decode_hinted(embeddings.values[:2], None, ["dog"], KEYS[:2], 0)


def test_an_empty_hint_that_leaves_nothing_to_read_is_told(kit: Any, lms: dict[str, Path]) -> None:
    block = on(lms["gpt2"], "{hint}")
    with pytest.raises(DataError, match=r"the hint of 'i4#0' is empty.*or put words or \{prefix\} into"):
        fitted(kit, block)
    decoder: Any = build("decoder", block)
    x = kit.embeddings_of(KEYS).values[:2]
    with pytest.raises(DataError, match="the hint of 'k1' is empty"):
        write(decoder, x, ["dog", " "])
    with pytest.raises(DataError, match="the hint of 'i0#0' is empty"):
        decoder.decode(kit.embeddings_of(KEYS[:2]))


def test_hints_that_leave_no_room_are_told(kit: Any, lms: dict[str, Path]) -> None:
    """64 positions: 2 of the prefix, 1 of the prompt, 6 of the longest caption."""
    embeddings = kit.embeddings_of(KEYS)
    block = on(lms["gpt2"], "{prefix} a {hint}")
    decoder: Any = build("decoder", block)
    fits, long = ("dog " * 55).strip(), ("dog " * 56).strip()
    decoder.fit(kit.text_vectors(embeddings, [*HINTS[1:], fits]), TEXTS, kit.Quick())
    vectors = kit.text_vectors(embeddings, [*HINTS[1:], long])
    message = (
        r"the hint 'dog .*\.\.\.' has 56 tokens; with a prefix and prompt of 3 and captions of up to 6 it needs 65 "
        r"positions, and the language model has 64.*max_tokens to at most 5"
    )
    with pytest.raises(ConfigError, match=message):
        decoder.fit(vectors, TEXTS, kit.Quick())
    with pytest.raises(ConfigError, match=message):
        decoder.text_loss(vectors, TEXTS)
    shorter: Any = build("decoder", {**block, "max_tokens": 5})
    shorter.fit(vectors, TEXTS, kit.Quick())

    assert vectors.hints is not None
    wrong = TextVectors(embeddings, vectors.batch, Hints(vectors.hints.batch, HINTS, "dog", "toy"))
    with pytest.raises(DataError, match=r"the hint of 'i11#0' \('dog .* have 59 tokens with it, and 6 more need 65"):
        decoder.fit(wrong, TEXTS, kit.Quick())

    x = embeddings.values[:2]
    room = ("dog " * 52).strip()
    assert len(write(decoder, x, ["cat", room])) == 2
    message = (
        r"the hint of 'k1' \('dog .*prefix and prompt have 56 tokens with it, and 9 more need 65 positions; the "
        r"language model has 64.*generate\.max_new_tokens to at most 8"
    )
    with pytest.raises(DataError, match=message):
        write(decoder, x, ["cat", f"{room} dog"])
