"""The entity-prompt decoder in memory: what it compares, what its writer learns from, and what it keeps."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from modbridge.errors import ArtefactError, ConfigError, DataError, PortError
from modbridge.interfaces import FitData, TextVectors
from modbridge.spaces import Embeddings
from modbridge.store.artefact import load_component, load_weights, save_component
from modbridge.store.keys import stable_hash
from modbridge.testing import MemoryFitting, build, build_config, toy_embeddings, toy_port, toy_texts
from modbridge.testing.fitting import Interrupted

NAMES = ["dog", "cat", "bird", "fish", "horse"]
PAIRS = [(a, b) for a in NAMES[:4] for b in NAMES[:4]]
TEXTS = [f"a {a} and a {b}" if a != b else f"only a {a}" for a, b in PAIRS]
KEYS = tuple(f"i{n}#0" for n in range(len(TEXTS)))
WRITER = {
    "type": "prefix_lm",
    "lm": {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 40, "resid_pdrop": 0, "embd_pdrop": 0,
           "attn_pdrop": 0},
    "tokenizer": "words",
    "prefix_length": 2,
    "steps": 30,
    "batch_size": 8,
    "lr": 1e-2,
    "generate": {"max_new_tokens": 8},
}  # fmt: skip
VOCABULARY = {"type": "names", "names": NAMES, "templates": ["a {}"]}
PRIOR = {"type": "ddpm", "denoiser": {"type": "residual_mlp", "width": 16, "num_blocks": 1}, "steps": 20}
# Of any length, for encoders need not normalise.
TEXT = Embeddings(toy_embeddings(len(TEXTS)).values * torch.linspace(0.5, 3, len(TEXTS))[:, None], toy_port(), KEYS)
IMAGE = toy_embeddings(12, modality="image", shift=0.9)
IMAGE = Embeddings(IMAGE.values * torch.linspace(2, 0.7, 12)[:, None], IMAGE.port, IMAGE.keys)


class Heard(MemoryFitting):
    """Keeps what the writer would be fitted on, and the texts that were embedded, and fits no writer."""

    def __init__(self, **more: Any) -> None:
        super().__init__(**more)
        self.embedded: list[str] = []

    def embed_texts(self, texts: Sequence[str]) -> Embeddings:
        self.embedded += texts
        return super().embed_texts(texts)

    def fit_decoder(self, decoder: Any, vectors: TextVectors, targets: Sequence[str]) -> None:
        self.hints = vectors.hints


def block(**changes: Any) -> dict[str, Any]:
    return {"type": "viecap", "writer": WRITER, "vocabulary": VOCABULARY, **changes}


def made(modality: str = "image", frame: Any = "raw", **changes: Any) -> Any:
    ports = {"text": toy_port().changed(frame=frame), "source": toy_port(modality=modality)}
    return build("decoder", block(**changes), ports=ports)


def fitted(
    fitting: Any = None,
    vectors: TextVectors | None = None,
    texts: Sequence[str] = TEXTS,
    modality: str = "image",
    frame: Any = "raw",
    **changes: Any,
) -> Any:
    decoder = made(modality, frame, **changes)
    given = vectors or TextVectors(TEXT, lambda rows, epoch: TEXT.values[list(rows)].clone())
    decoder.fit(given, texts, fitting or MemoryFitting())
    return decoder


def saved(decoder: Any, folder: Path) -> Path:
    save_component(decoder, folder, {"kind": "decoder", "type": "viecap", "seed": 0})
    return folder


def n(x: Any) -> Any:
    return x / np.linalg.norm(x, axis=-1, keepdims=True)


def double(x: Any) -> Any:
    return getattr(x, "values", x).double().numpy()


# What is compared


@cache
def bridge(frame: str) -> Any:
    ports = {"text": toy_port(), "source": toy_port(modality="image")}
    config = {"type": "diffusion_bridge", "prior": PRIOR, "start_step": 200, "frame": frame}
    built: Any = build("bridge", config, ports=ports)
    built.fit(FitData(TEXT, IMAGE), MemoryFitting())
    return built


def under_the_bridge(frame: str, **changes: Any) -> Any:
    across = bridge(frame)

    def batch(rows: Sequence[int], epoch: int) -> torch.Tensor:
        values: torch.Tensor = across.augment(TEXT, 0, epoch).values
        return values[list(rows)].clone()

    writer = {**WRITER, "steps": 1, "generate": {"max_new_tokens": 1}}
    frame = across.config.augments(TEXT.port).frame
    return fitted(None, TextVectors(TEXT, batch), frame=frame, writer=writer, **changes)


def found_under(frame: str, retrieval: dict[str, Any]) -> list[list[dict[str, Any]]]:
    decoder = under_the_bridge(frame, retrieval=retrieval)
    return [one.details["entities"] for one in decoder.decode(bridge(frame).cross(IMAGE, 0), source=IMAGE)]


MEAN = n(double(TEXT)).mean(0)
RADIUS = np.linalg.norm(n(double(TEXT)) - MEAN, axis=1).mean()
SAID = n(double(toy_texts([f"a {name}" for name in NAMES])))


def compared(frame: str) -> tuple[Any, Any]:
    """Cosines of raw image vectors with names, and of bridged ones with names, without the captions' mean both."""
    z = n(double(bridge("centred").cross(IMAGE, 0)))
    if frame == "text":
        back = n(RADIUS * z + MEAN)
        np.testing.assert_allclose(double(bridge("text").cross(IMAGE, 0)), back, atol=1e-6)
        z = n(back - MEAN)
    return n(double(IMAGE)) @ SAID.T, z @ n(SAID - MEAN).T


@pytest.mark.parametrize("frame", ["centred", "text"])
@pytest.mark.parametrize("source", ["raw", "bridged", "mix"])
def test_items_are_compared_in_the_frame_of_their_side(frame: str, source: str) -> None:
    raw, bridged = compared(frame)
    expected = {"raw": raw, "bridged": bridged, "mix": (raw + bridged) / 2}[source]
    found = found_under(frame, {"type": "cosine", "source": source, "top_k": len(NAMES)})
    for entities, row in zip(found, expected, strict=True):
        assert [one["name"] for one in entities] == [NAMES[i] for i in (-row).argsort()]
        np.testing.assert_allclose([one["score"] for one in entities], np.sort(row)[::-1], atol=1e-6)
    assert np.abs(raw - bridged).max() > 0.1


@pytest.mark.parametrize("frame", ["centred", "text"])
def test_a_mix_averages_probabilities(frame: str) -> None:
    shares = [np.exp(x / 0.1) / np.exp(x / 0.1).sum(1, keepdims=True) for x in compared(frame)]
    retrieval = {"type": "softmax", "source": "mix", "temperature": 0.1, "threshold": 0.3, "top_k": 5}
    found = found_under(frame, retrieval)
    for entities, row in zip(found, sum(shares) / 2, strict=True):
        assert {one["name"]: one["kept"] for one in entities} == dict(zip(NAMES, row >= 0.3, strict=True))
        np.testing.assert_allclose([one["score"] for one in entities], np.sort(row)[::-1], atol=1e-6)
    assert {one["kept"] for entities in found for one in entities} == {True, False}


@pytest.mark.parametrize("frame", ["centred", "text"])
@pytest.mark.parametrize("source", ["raw", "bridged", "mix"])
def test_captions_are_looked_up_in_the_frame_of_their_side(frame: str, source: str) -> None:
    texts, z = n(double(TEXT)), n(double(bridge(frame).cross(IMAGE, 0)))
    z = z if frame == "centred" else n(z - MEAN)
    raw, bridged = n(double(IMAGE)) @ texts.T, z @ n(texts - MEAN).T
    near = {"raw": raw, "bridged": bridged, "mix": raw + bridged}[source]
    found = found_under(frame, {"type": "frequency", "source": source, "captions": 3, "min_count": 1})
    for entities, row in zip(found, near, strict=True):
        said = [{name for name in NAMES if name in TEXTS[i]} for i in (-row).argsort()[:3]]
        counts = {name: sum(name in names for names in said) / 3 for name in set().union(*said)}
        assert {one["name"]: one["score"] for one in entities} == pytest.approx(counts)


def test_without_a_source_vector_the_bridged_one_is_looked_at() -> None:
    decoder = fitted(retrieval={"type": "cosine", "top_k": 5})
    found = decoder.decode(TEXT)
    for one, row in zip(found, n(double(TEXT)) @ SAID.T, strict=True):
        assert [entity["name"] for entity in one.details["entities"]] == [NAMES[i] for i in (-row).argsort()]


def test_texts_among_source_vectors_cannot_be_compared_with_names() -> None:
    moved = toy_port().changed(frame="source")
    for source in ("bridged", "mix"):
        config = build_config("decoder", block(retrieval={"type": "softmax", "source": source}))
        config.check(toy_port())
        with pytest.raises(PortError, match=r"'viecap' compares bridged vectors.*Set retrieval\.source to raw"):
            config.check(moved)
    build_config("decoder", block()).check(moved)


@pytest.mark.parametrize(("layout", "ragged"), [("soft_first", False), ("soft_first", True), ("soft_only", True)])
def test_sequences_are_refused(layout: str, ragged: bool) -> None:
    """Those of one length may go through to a writer that reads them, where no entity is looked for."""
    config = build_config("decoder", block(layout=layout))
    with pytest.raises(PortError, match="found"):
        config.check(toy_port().changed(tokens=4, ragged=ragged))


# What the writer learns from


def hints_of(texts: Sequence[str] = TEXTS, entities: Any = None, **changes: Any) -> Any:
    heard = Heard()
    fitted(heard, texts=texts, entities={"order": "caption", **(entities or {})}, **changes)
    return heard.hints


def said(names: Sequence[str]) -> str:
    return f"There are {', '.join(names) or 'something'} in image."


EVERY = [said(list(dict.fromkeys(pair))) for pair in PAIRS]


def test_without_masks_every_name_is_given() -> None:
    hints = hints_of(entities={"mask": 0.0})
    assert hints.batch(range(16), 0) == hints.batch(range(16), 5) == EVERY
    assert set(hints.words) == {said([name]) for name in NAMES} | {said([])}
    assert len(hints.longest) == max(map(len, EVERY))


def test_with_all_masked_every_prompt_is_the_empty_word() -> None:
    hints = hints_of(entities={"mask": 1.0})
    assert hints.batch(range(16), 0) == hints.batch(range(16), 3) == [said([])] * 16


def test_masks_go_by_epoch_and_caption_not_by_batch() -> None:
    hints = hints_of(entities={"mask": 0.5})
    epochs = [hints.batch(range(16), epoch) for epoch in range(40)]
    assert len(set(map(tuple, epochs))) > 30
    backwards = [hints.batch([row], 7)[0] for row in reversed(range(16))]
    assert backwards[::-1] == epochs[7]
    assert hints.batch([3, 3, 9], 7) == [epochs[7][row] for row in (3, 3, 9)]
    for row, pair in enumerate(PAIRS):
        every = list(dict.fromkeys(pair))
        possible = [every, [], *([[name] for name in every] if len(every) > 1 else [])]
        assert {prompts[row] for prompts in epochs} == {said(names) for names in possible}
    left = sum(prompt.count(name) for prompts in epochs for prompt in prompts for name in NAMES)
    assert left / (40 * sum(prompt.count(name) for prompt in EVERY for name in NAMES)) == pytest.approx(0.5, abs=0.06)


def test_the_order_is_drawn_by_epoch_and_caption() -> None:
    drawn = hints_of(entities={"order": "shuffled", "mask": 0.0})
    epochs = [drawn.batch(range(16), epoch) for epoch in range(60)]
    for row, (first, second) in enumerate(PAIRS):
        prompts = [of[row] for of in epochs]
        assert set(prompts) == {said(list(dict.fromkeys(pair))) for pair in ((first, second), (second, first))}
        assert first == second or 12 < prompts.count(said([first, second])) < 48
    assert [drawn.batch([row], 7)[0] for row in range(16)] == epochs[7]
    both = hints_of(entities={"order": "shuffled", "mask": 0.5})
    ordered = hints_of(entities={"mask": 0.5})
    assert [sorted(prompt) for prompt in both.batch(range(16), 3)] == [
        sorted(prompt) for prompt in ordered.batch(range(16), 3)
    ]


@pytest.mark.parametrize("mask", [0.0, 1e-9])
def test_filters_work_with_and_without_masks(mask: float) -> None:
    names = {**VOCABULARY, "names": ["person", "man", "red", "dog"]}
    texts = ["a man and a red dog"] * 16
    both = hints_of(texts, vocabulary=names, entities={"mask": mask})
    none = hints_of(texts, vocabulary=names, entities={"mask": mask, "people": False, "stop_words": False})
    few = hints_of(texts, vocabulary=names, entities={"mask": mask, "most": 1})
    assert both.batch([0], 0) == ["There are person, dog in image."]
    assert none.batch([0], 0) == ["There are man, red, dog in image."]
    assert few.batch([0], 0) == ["There are person in image."]


def test_training_names_may_be_others() -> None:
    training = {**VOCABULARY, "names": ["dog", "horse", "bird"]}
    hints = hints_of(vocabulary={**VOCABULARY, "names": ["lion", "cat"]}, training_vocabulary=training)
    unmasked = hints_of(training_vocabulary=training, entities={"mask": 0.0})
    assert unmasked.batch([1, 5], 0) == [said(["dog"]), said([])]  # a dog and a cat; only a cat
    assert set(hints.words) == {said([name]) for name in ("dog", "horse", "bird", "lion", "cat")} | {said([])}


def test_the_template_is_of_the_modality_or_ones_own() -> None:
    mask = {"mask": 0.0}
    assert hints_of(modality="audio", entities=mask).batch([1, 0], 0) == [
        "There are sounds of dog, cat.",
        "There are sounds of dog.",
    ]
    own = {"template": "Seen: {entities}!", "joiner": " + ", "empty": "nothing"}
    assert hints_of(prompt=own, entities=mask).batch([1, 0], 0) == ["Seen: dog + cat!", "Seen: dog!"]
    assert hints_of(["nobody"] * 16, prompt=own).batch([0], 0) == ["Seen: nothing!"]


@pytest.mark.parametrize(("modality", "count", "first"), [("image", 7, "itap of a dog."), ("audio", 1, "dog")])
def test_names_are_embedded_bare_for_sounds(modality: str, count: int, first: str) -> None:
    heard = Heard()
    fitted(heard, modality=modality, vocabulary={"type": "names", "names": NAMES})
    assert len(heard.embedded) == count * len(NAMES)
    assert heard.embedded[0] == first


def test_the_key_of_hints_tells_what_they_depend_on() -> None:
    same = hints_of()
    assert (
        hints_of(retrieval="oracle").key == same.key == hints_of(retrieval={"type": "softmax", "source": "bridged"}).key
    )
    assert hints_of(vocabulary={**VOCABULARY, "names": NAMES[::-1]}, training_vocabulary=VOCABULARY).key == same.key
    others = [
        hints_of(entities={"mask": 0.3}),
        hints_of(entities={"order": "shuffled"}),
        hints_of(modality="audio"),
        hints_of(prompt={"empty": "nothing"}),
        hints_of(prompt={"joiner": " "}),
        hints_of(["only a horse", *TEXTS[1:]]),
    ]
    assert len({same.key, *(other.key for other in others)}) == 7


def test_no_entities_give_the_empty_word_and_no_entity_at_all_ends_a_calibration() -> None:
    texts = ["nobody is there"] * 16
    decoder = fitted(texts=texts, retrieval={"type": "softmax", "threshold": 1.0, "temperature": 1.0})
    assert {one.details["prompt"] for one in decoder.decode(TEXT)} == {"There are something in image."}
    for auto in ({"type": "softmax", "threshold": "auto"}, {"type": "softmax", "temperature": "auto"}):
        with pytest.raises(DataError, match=r"none of 16 training texts says a name.*numbers in place of 'auto'"):
            fitted(texts=texts, retrieval=auto)


def test_prompts_that_leave_no_room_are_told() -> None:
    lm: Any = WRITER["lm"]
    tight = {**WRITER, "lm": {**lm, "n_positions": 14}}
    with pytest.raises(ConfigError, match=r"the hint 'There are .*' has \d+ tokens.*the language model has 14"):
        fitted(writer=tight)
    decoder = fitted(writer={**tight, "lm": {**lm, "n_positions": 18}}, retrieval={"type": "softmax", "threshold": 0.0})
    with pytest.raises(DataError, match=r"the hint of 'i0#0' .* is too long.*the language model has 18"):
        decoder.decode(TEXT)


# Batches, interruption, storage


def test_a_batch_gives_what_its_items_give_alone() -> None:
    writer = {**WRITER, "generate": {"max_new_tokens": 8, "num_beams": 3}, "steps": 60}
    retrieval = {"type": "softmax", "source": "mix", "temperature": 0.3, "threshold": 0.3}
    decoder = fitted(writer=writer, retrieval=retrieval)
    source = Embeddings(IMAGE.values, IMAGE.port, IMAGE.keys)
    bridged = Embeddings(IMAGE.values, toy_port(), IMAGE.keys)
    together = decoder.decode(bridged, source=source, seed=3)
    alone = [
        decoder.decode(bridged.select([row]), source=source.select([row]), seed=3)[0] for row in range(len(bridged))
    ]
    assert [(one.key, one.text, one.details) for one in together] == [(o.key, o.text, o.details) for o in alone]
    assert [one.score for one in together] == pytest.approx([one.score for one in alone], abs=1e-5)
    assert len({one.details["prompt"].count(",") for one in together}) > 1  # so there was padding


def test_an_interrupted_fit_ends_with_the_same_weights() -> None:
    calm = fitted(MemoryFitting(3))
    fitting = MemoryFitting(3, stop_after=12)
    with pytest.raises(Interrupted):
        fitted(fitting)
    again = fitted(fitting)
    first, second = calm.writer.tensors(), again.writer.tensors()
    assert all(torch.equal(first[name], second[name]) for name in first)
    assert calm.decode(TEXT) == again.decode(TEXT)


CALIBRATED = {"type": "softmax", "source": "mix", "temperature": "auto", "threshold": "auto"}


@pytest.mark.parametrize("retrieval", [CALIBRATED, "frequency", {"type": "memory", "source": "bridged"}, "cosine"])
def test_what_is_saved_and_loaded_says_the_same(tmp_path: Path, retrieval: Any) -> None:
    decoder = fitted(retrieval=retrieval)
    other = made(retrieval=retrieval)
    load_component(other, saved(decoder, tmp_path / "kept"))
    assert other.decode(TEXT) == decoder.decode(TEXT)
    assert other.finder.calibrated == decoder.finder.calibrated
    again = saved(other, tmp_path / "again")
    for path in (tmp_path / "kept").rglob("*"):
        assert path.is_dir() or path.read_bytes() == (again / path.relative_to(tmp_path / "kept")).read_bytes()


def test_calibration_needs_no_second_fit(tmp_path: Path) -> None:
    """Another retrieval than it was fitted under, over the same artefact."""
    folder = saved(fitted(), tmp_path / "kept")
    late, early = made(retrieval=CALIBRATED), fitted(retrieval=CALIBRATED)
    load_component(late, folder)
    assert late.decode(TEXT) == early.decode(TEXT)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"prompt": {"template": "Seen: {entities}."}}, "learnt to read 'There are {entities} in image.'"),
        ({"modality": "audio"}, "is to be given 'There are sounds of {entities}.'"),
        ({"vocabulary": {**VOCABULARY, "names": [*NAMES, "lion"]}}, "has other names now (6)"),
        ({"retrieval": "frequency"}, "captions.json cannot be read"),
    ],
)
def test_what_does_not_fit_the_artefact_is_refused(tmp_path: Path, changes: Any, message: str) -> None:
    folder = saved(fitted(), tmp_path / "kept")
    load_component(made(), folder)
    with pytest.raises(ArtefactError) as caught:
        load_component(made(**changes), folder)
    assert message in str(caught.value)


def test_weights_of_another_space_or_frame_are_refused(tmp_path: Path) -> None:
    folder = str(saved(fitted(), tmp_path / "kept"))
    load_weights(made(), folder)
    for port, message in (
        (toy_port(space="other"), "another space"),
        (toy_port().changed(frame="centred"), "centred vectors where raw ones are expected"),
    ):
        other: Any = build("decoder", block(), ports={"text": port, "source": port.changed(modality="image")})
        with pytest.raises(PortError, match=message):
            load_weights(other, folder)


@pytest.mark.parametrize(
    "damage",
    [
        lambda text: text[:20],
        lambda text: "[]",
        lambda text: "{}",
        lambda text: json.dumps({**json.loads(text), "truth": 3}),
        lambda text: json.dumps({**json.loads(text), "truth": [["dog"]] * 16}),
        lambda text: json.dumps({**json.loads(text), "truth": [[5]] * 16}),
        lambda text: json.dumps({**json.loads(text), "truth": [[0]] * 15}),
        None,
    ],
)
def test_a_damaged_note_is_told(tmp_path: Path, damage: Any) -> None:
    folder = saved(fitted(), tmp_path / "kept")
    note = folder / "entities.json"
    if damage is None:
        note.unlink()
    else:
        note.write_text(damage(note.read_text(encoding="utf-8")), encoding="utf-8")
    with pytest.raises(ArtefactError, match=r"entities\.json|own vectors are"):
        load_component(made(), folder, verify=False)
    with pytest.raises(ArtefactError, match=r"entities\.json"):
        load_component(made(), folder)


# Configs


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"vocabulary": {"type": "names", "names": []}}, "decoder.vocabulary.names"),
        ({"vocabulary": {"type": "names", "names": ["dog", "Dog"]}}, "dog: found more than once"),
        ({"prompt": {"template": "There are things."}}, "must hold {entities} exactly once"),
        ({"prompt": {"template": "{entities} or {entities}"}}, "must hold {entities} exactly once"),
        ({"prompt": {"template": "{entities} and {prefix}"}}, "no other place-holder"),
        ({"prompt": {"empty": " "}}, "empty must be a word"),
        ({"layout": None}, "put {hint} into prompt.template"),
        ({"entities": {"mask": 1.1}}, "entities.mask"),
    ],
)
def test_configs_that_make_no_sense_are_told(changes: Any, message: str) -> None:
    with pytest.raises(ConfigError) as caught:
        build_config("decoder", block(**changes))
    assert message.removeprefix("decoder.") in str(caught.value)


def test_retrieval_without_a_type_is_the_softmax() -> None:
    said_out = build_config("decoder", block(retrieval={"type": "softmax", "source": "mix", "threshold": 0.4}))
    assert build_config("decoder", block(retrieval={"source": "mix", "threshold": 0.4})) == said_out
    with pytest.raises(ConfigError, match=r"retrieval.*captions"):
        build_config("decoder", block(retrieval={"captions": 3}))  # a field of other types


def test_without_entities_it_is_the_writer_alone() -> None:
    alone: Any = made(layout="soft_only")
    plain: Any = build("decoder", WRITER)
    vectors = TextVectors(TEXT, lambda rows, epoch: TEXT.values[list(rows)].clone())
    for decoder in (alone, plain):
        decoder.fit(vectors, TEXTS, MemoryFitting())
    assert alone.decode(TEXT) == plain.decode(TEXT)
    assert "entities" not in alone.decode(TEXT)[0].details
    keys = {
        stable_hash(build_config("decoder", block(layout="soft_only", **more)).key_fields())
        for more in ({}, {"entities": {"mask": 0.1}}, {"prompt": {"empty": "it"}}, {"retrieval": "frequency"})
    }
    assert len(keys) == 1
