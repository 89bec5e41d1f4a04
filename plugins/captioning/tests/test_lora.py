"""Low-rank adapters: what they add, what stays as it was, what is kept."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from peft.tuners.lora import LoraLayer
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM, AutoTokenizer, BioGptConfig, BioGptForCausalLM

from modbridge.errors import ArtefactError, ConfigError
from modbridge.testing import build, build_config
from modbridge.testing.fitting import Interrupted

CAPTIONS = [
    f"{a} {b} {c}" for a in ("a red", "a blue") for b in ("dog", "cat runs") for c in ("fast", "old horse fish")
]
KEYS = [f"i{i}#0" for i in range(len(CAPTIONS))]
TARGETS = {"gpt2": ["c_attn"], "llama": ["q_proj", "v_proj"]}


def on(lm: Path, **changes: Any) -> dict[str, Any]:
    lora = {"r": 3, "alpha": 12, "dropout": 0.0, **changes.pop("lora", {})}
    block = {"type": "prefix_lm", "lm": str(lm), "train_lm": "lora", "lora": lora, "prefix_length": 2, "steps": 40}
    return {**block, "batch_size": 4, "lr": 2e-2, "generate": {"max_new_tokens": 9}, **changes}


def fitted(kit: Any, block: dict[str, Any], fitting: Any = None) -> Any:
    decoder: Any = build("decoder", block)
    decoder.fit(kit.text_vectors(kit.embeddings_of(KEYS)), CAPTIONS, fitting or kit.Quick())
    return decoder


def merged(lm: Path, tensors: dict[str, torch.Tensor], scale: float) -> Any:
    """The plain model of transformers with alpha / r * B A added to the layers by hand (GPT-2's are transposed)."""
    model = AutoModelForCausalLM.from_pretrained(lm).double().eval()
    for name in [n for n in tensors if n.endswith("lora_A.weight")]:
        path = name.removeprefix("adapter.").removesuffix(".lora_A.weight")
        a, b = (tensors[f"adapter.{path}.lora_{x}.weight"].double() for x in "AB")
        weight = model.get_submodule(path).weight
        with torch.no_grad():
            weight += scale * (b @ a if (b @ a).shape == weight.shape else (b @ a).T)
    return model


def prefixes(tensors: dict[str, torch.Tensor], x: torch.Tensor, length: int) -> torch.Tensor:
    w1, b1, w2, b2 = (tensors[f"mapper.layers.{i}.{n}"].double().numpy() for i in (0, 2) for n in ("weight", "bias"))
    return torch.from_numpy((np.tanh(x.double().numpy() @ w1.T + b1) @ w2.T + b2).reshape(len(x), length, -1))


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
@pytest.mark.parametrize("beams", [1, 3])
def test_what_is_kept_added_to_the_base_by_hand_writes_the_same(
    kit: Any, lms: dict[str, Path], tmp_path: Path, kind: str, beams: int
) -> None:
    block = on(lms[kind], generate={"max_new_tokens": 9, "num_beams": beams})
    decoder = fitted(kit, block)
    tensors = load_file(kit.saved(decoder, tmp_path) / "model.safetensors")
    adapters = {name for name in tensors if not name.startswith("mapper.")}
    assert {name.split(".lora_")[0].rsplit(".", 1)[1] for name in adapters} == set(TARGETS[kind])
    assert len(adapters) == 2 * 2 * len(TARGETS[kind])  # two layers, A and B
    assert all(float(tensors[name].abs().max()) > 0 for name in adapters)

    model, tokenizer = merged(lms[kind], tensors, 12 / 3), AutoTokenizer.from_pretrained(lms[kind])
    embeddings = kit.embeddings_of([f"t{i}" for i in range(12)], seed=5)
    for prefix, decoded in zip(prefixes(tensors, embeddings.values, 2), decoder.decode(embeddings), strict=True):
        found = model.generate(
            inputs_embeds=prefix[None],
            attention_mask=torch.ones(1, 2, dtype=torch.long),
            max_new_tokens=9,
            num_beams=beams,
            do_sample=False,
            pad_token_id=tokenizer.eos_token_id,
        )
        assert decoded.text == tokenizer.decode(found[0], skip_special_tokens=True)


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_the_base_stays_and_counts_are_those_of_the_shapes(kit: Any, lms: dict[str, Path], kind: str) -> None:
    fitting = kit.Quick()
    decoder = fitted(kit, on(lms[kind]), fitting)
    state, base = decoder.lm.state_dict(), AutoModelForCausalLM.from_pretrained(lms[kind])
    for name, tensor in base.state_dict().items():
        stem, _, last = name.rpartition(".")
        assert torch.equal(state.get(name, state.get(f"{stem}.base_layer.{last}")), tensor), name
    # A: r x in, B: out x r. GPT-2: 16 -> 48 in one. Llama: 16 -> 16 for q, 16 -> 8 for v (one head of two).
    adapters = 2 * {"gpt2": 3 * (16 + 48), "llama": 3 * (16 + 16) + 3 * (16 + 8)}[kind]
    mapper = (16 * 16 + 16) + (16 * 32 + 32)
    assert decoder.trainable_count() == mapper + adapters
    assert decoder.parameter_count() == mapper + adapters + sum(p.numel() for p in base.parameters())
    first = next(line for line in fitting.logged if "trainable" in line)
    assert (first["trainable"], first["parameters"]) == (decoder.trainable_count(), decoder.parameter_count())
    wanting = [name for name, p in decoder.lm.named_parameters() if p.requires_grad]
    assert wanting
    assert all("lora_" in name for name in wanting)


def test_untrained_adapters_change_nothing(kit: Any, lms: dict[str, Path]) -> None:
    vectors = kit.text_vectors(kit.embeddings_of(KEYS))
    lora: Any = build("decoder", on(lms["llama"]))
    plain = {name: value for name, value in on(lms["llama"]).items() if name != "lora"}
    frozen: Any = build("decoder", {**plain, "train_lm": "frozen"})
    assert lora.text_loss(vectors, CAPTIONS) == frozen.text_loss(vectors, CAPTIONS)


def test_learns_beside_a_real_pretrained_model_what_its_frozen_self_cannot(kit: Any, stories: Path) -> None:
    """stories260K: it knows English of some kind, so that adapters of it make sense."""
    tokenizer, model = AutoTokenizer.from_pretrained(stories), AutoModelForCausalLM.from_pretrained(stories).eval()
    story = "Once upon a time, there was a little girl named Lily. She loved to play with her toys."
    ids = torch.tensor([[1, *tokenizer(story)["input_ids"]]])
    with torch.inference_mode():
        assert float(model(ids, labels=ids).loss) < 2.0 < math.log(512)  # it is converted rightly
    captions = ["One day a big dog ran to the park.", "Lily saw a red ball.", "Tom was very sad and cried.", "The end."]
    embeddings = kit.embeddings_of([f"i{i}#0" for i in range(4)])
    vectors = kit.text_vectors(embeddings)
    losses = {}
    for how in ("frozen", "lora"):
        # Its </s> was never trained, so that the full stop has to end a caption.
        ends = {"end_of_sentence": "stop", "generate": {"max_new_tokens": 30, "stop": "."}}
        block = on(stories, steps=60, lr=1e-2, lora={"r": 8}, **ends)
        if how == "frozen":
            del block["lora"]
        decoder: Any = build("decoder", {**block, "train_lm": how})
        before = decoder.text_loss(vectors, captions)
        decoder.fit(vectors, captions, kit.Quick())
        losses[how] = decoder.text_loss(vectors, captions)
        assert losses[how] < 0.75 * before
    assert losses["lora"] < 0.5 * losses["frozen"]
    assert [decoded.text for decoded in decoder.decode(embeddings)] == captions


@pytest.mark.parametrize("kind", ["gpt2", "llama"])
def test_loaded_equals_saved_and_another_base_is_refused(
    kit: Any, lms: dict[str, Path], tmp_path: Path, kind: str
) -> None:
    decoder = fitted(kit, on(lms[kind]))
    folder = kit.saved(decoder, tmp_path / "one")
    assert sorted(path.name for path in folder.iterdir()) == ["language_model.json", "model.safetensors"]
    again = kit.loaded(on(lms[kind]), folder)
    other = kit.saved(again, tmp_path / "two")
    assert all((folder / p.name).read_bytes() == p.read_bytes() for p in other.iterdir())
    embeddings = kit.embeddings_of(KEYS)
    assert again.decode(embeddings) == decoder.decode(embeddings)
    save = {"gpt2": kit.save_gpt2, "llama": kit.save_llama}[kind]
    with pytest.raises(ArtefactError, match="frozen language model"):
        kit.loaded(on(save(tmp_path / "other", seed=1)), folder)
    with pytest.raises(ArtefactError, match="of another shape"):
        kit.loaded(on(lms[kind], lora={"r": 2}), folder)
    # The base's hash is that of the same model without adapters.
    plain = {name: value for name, value in on(lms[kind]).items() if name != "lora"}
    frozen = kit.saved(fitted(kit, {**plain, "train_lm": "frozen"}), tmp_path / "frozen")
    hashes = [json.loads((f / "language_model.json").read_text())["lm_sha256"] for f in (folder, frozen)]
    assert hashes[0] == hashes[1] is not None


def test_other_decoders_and_global_randomness_stay_untouched(kit: Any, lms: dict[str, Path]) -> None:
    plain = {name: value for name, value in on(lms["gpt2"]).items() if name != "lora"}
    frozen: Any = build("decoder", {**plain, "train_lm": "frozen"})
    embeddings = kit.embeddings_of(KEYS)
    before, state = frozen.decode(embeddings), torch.random.get_rng_state()
    one, two = fitted(kit, on(lms["gpt2"])), fitted(kit, on(lms["gpt2"]))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert all(torch.equal(tensor, two.tensors()[name]) for name, tensor in one.tensors().items())
    assert frozen.decode(embeddings) == before
    assert not any(isinstance(module, LoraLayer) for module in frozen.lm.modules())
    assert sum(isinstance(module, LoraLayer) for module in one.lm.modules()) == 2
    other: Any = build("decoder", on(lms["gpt2"]), seed=1)
    name = "adapter.transformer.h.0.attn.c_attn.lora_A.weight"
    assert not torch.equal(other.tensors()[name], build("decoder", on(lms["gpt2"])).tensors()[name])


def test_an_interrupted_fit_with_dropout_ends_with_the_same_bytes(kit: Any, lms: dict[str, Path]) -> None:
    block = on(lms["llama"], steps=9, lora={"dropout": 0.4})
    straight = fitted(kit, block).tensors()
    fitting = kit.Quick(stop_after=5)
    with pytest.raises(Interrupted):
        fitted(kit, block, fitting)
    resumed = fitted(kit, block, fitting).tensors()
    assert all(torch.equal(straight[name], resumed[name]) for name in straight)
    dry = fitted(kit, on(lms["llama"], steps=9)).tensors()
    assert any(not torch.equal(straight[name], dry[name]) for name in straight)  # dropout was at work
    decoder: Any = fitted(kit, block)
    vectors = kit.text_vectors(kit.embeddings_of(KEYS))
    assert decoder.text_loss(vectors, CAPTIONS) == decoder.text_loss(vectors, CAPTIONS)  # and is not any more


def test_targets_that_do_not_exist_are_told_with_those_that_do(lms: dict[str, Path], kit: Any, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"\['q_proj'\].*GPT2LMHeadModel.*c_attn \(2\), c_fc \(2\), c_proj \(4\)"):
        build("decoder", on(lms["gpt2"], lora={"targets": ["q_proj", "c_attn"]}))
    with pytest.raises(ConfigError, match=r"lm_head.*down_proj \(2\).*q_proj \(2\)"):
        build("decoder", on(lms["llama"], lora={"targets": ["lm_head"]}))
    size = kit.save_words(tmp_path)
    shape = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 16}
    BioGptForCausalLM(BioGptConfig(vocab_size=size, max_position_embeddings=64, **shape)).save_pretrained(tmp_path)
    with pytest.raises(ConfigError, match=r"none are usual.*k_proj \(1\)"):
        build("decoder", on(tmp_path))
    chosen: Any = build("decoder", on(tmp_path, lora={"targets": ["fc1", "self_attn.k_proj"]}))
    assert {n.split(".lora_")[0].rsplit(".", 1)[1] for n in chosen.tensors() if ".lora_" in n} == {"fc1", "k_proj"}


def test_an_adapter_on_top_of_another_model_is_no_language_model(lms: dict[str, Path], tmp_path: Path) -> None:
    from peft import LoraConfig, get_peft_model

    model = get_peft_model(AutoModelForCausalLM.from_pretrained(lms["gpt2"]), LoraConfig(fan_in_fan_out=True))
    model.save_pretrained(tmp_path)
    AutoTokenizer.from_pretrained(lms["gpt2"]).save_pretrained(tmp_path)
    with pytest.raises(ArtefactError, match="merge_and_unload"):
        build("decoder", on(tmp_path))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"train_lm": "full"}, "train_lm to 'lora'"),
        ({"lm": {"n_layer": 1, "n_head": 1, "n_embd": 8}, "tokenizer": "words"}, "random weights"),
        ({"lora": {"targets": []}}, "targets"),
        ({"lora": {"rank": 4}}, "no such field"),
        ({"lora": {"dropout": 1.0}}, "dropout"),
    ],
)
def test_contradictions_are_told(changes: dict[str, Any], message: str) -> None:
    block = {"type": "prefix_lm", "train_lm": "lora", "lora": {"r": 4}, **changes}
    with pytest.raises(ConfigError, match=message):
        build_config("decoder", block)


def test_defaults_are_drcaps() -> None:
    lora = build_config("decoder", {"type": "prefix_lm", "train_lm": "lora"}).lora
    assert (lora.r, lora.alpha, lora.dropout, lora.targets) == (8, 32, 0.05, None)
