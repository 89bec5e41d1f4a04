"""A language model as a judge: its answers are transformers' own, alone and in a batch, as chat and as plain text."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from transformers import AutoModelForCausalLM, AutoTokenizer

from modbridge.assembly.build import build_component
from modbridge.config.blocks import validate_block
from modbridge.errors import ArtefactError, ConfigError, DataError
from modbridge.interfaces import BuildContext, Question
from modbridge.plugins.manager import Plugins

from .conftest import save_gpt2, save_llama

ASKED = ["a red dog", "cat", "old horse runs fast . a blue fish", "USER: what a dog"]
TEMPLATE = "{% for m in messages %}USER: {{ m['content'] }} {% endfor %}ASSISTANT:"
REGISTRY = Plugins.discover(environ={}).registry


def judge(lm: Path, **fields: Any) -> Any:
    return build_component(validated(lm, **fields), "judge", REGISTRY, BuildContext())


def validated(lm: Path, **fields: Any) -> Any:
    block = {"type": "lm_judge", "lm": str(lm), "max_new_tokens": 7, **fields}
    return validate_block("judge", block, REGISTRY)


def asked(*texts: str) -> list[Question]:
    return [Question(text) for text in texts]


def by_transformers(lm: Path, text: str, limit: int = 7) -> str:
    """A greedy answer by `generate`, one question at a time and by token ids."""
    tokenizer, model = AutoTokenizer.from_pretrained(lm), AutoModelForCausalLM.from_pretrained(lm)
    given = tokenizer(text, return_tensors="pt", return_token_type_ids=False)
    out = model.generate(**given, max_new_tokens=limit, do_sample=False)
    return str(tokenizer.decode(out[0, given["input_ids"].shape[1] :], skip_special_tokens=True)).strip()


@pytest.mark.parametrize("save", [save_gpt2, save_llama])
def test_answers_are_those_of_transformers(tmp_path: Path, save: Any) -> None:
    lm = save(tmp_path / "lm")
    wanted = [by_transformers(lm, text) for text in ASKED]
    assert len(set(wanted)) > 1
    for size in (1, 3, 16):
        assert judge(lm, batch_size=size).ask(asked(*ASKED)) == wanted


def test_a_chat_template_is_used_where_there_is_one(tmp_path: Path) -> None:
    lm = save_gpt2(tmp_path / "lm")
    plain = judge(lm).ask(asked(*ASKED))
    file = lm / "tokenizer_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "chat_template": TEMPLATE}))
    wanted = [by_transformers(lm, f"USER: {text} ASSISTANT:") for text in ASKED]
    assert wanted != plain
    assert judge(lm).ask(asked(*ASKED)) == wanted
    assert judge(lm, chat=True).ask(asked(*ASKED)) == wanted
    assert judge(lm, chat=False).ask(asked(*ASKED)) == plain


def test_the_ends_that_a_model_names_end_an_answer(tmp_path: Path) -> None:
    """As of Gemma, whose turns end otherwise than its texts."""
    lm = save_gpt2(tmp_path / "lm")
    (before,) = judge(lm).ask(asked(ASKED[0]))
    words = before.split()
    second = AutoTokenizer.from_pretrained(lm).convert_tokens_to_ids(words[1])
    file = lm / "generation_config.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "eos_token_id": [second]}))
    (after,) = judge(lm).ask(asked(ASKED[0]))
    assert after.split() == words[: words.index(words[1])]


def test_half_the_memory(tmp_path: Path) -> None:
    lm = save_llama(tmp_path / "lm")
    small = judge(lm, precision="bfloat16")
    assert {weight.dtype for weight in small.lm.parameters()} == {torch.bfloat16}
    assert not any(weight.requires_grad for weight in small.lm.parameters())
    assert any(small.ask(asked(*ASKED)))


def test_a_folder_counts_by_its_files(tmp_path: Path) -> None:
    one, same, other = save_gpt2(tmp_path / "a"), save_gpt2(tmp_path / "b"), save_gpt2(tmp_path / "c", seed=1)
    keys = [judge(lm).config.key_fields()["lm"] for lm in (one, same, other)]
    assert keys[0] == keys[1] != keys[2]
    assert judge(one, batch_size=2).config.key_fields() == judge(one).config.key_fields()
    assert judge(one, max_new_tokens=2).config.key_fields() != judge(one).config.key_fields()


def test_a_chat_template_counts(tmp_path: Path) -> None:
    """transformers saves it as a file of its own, chat_template.jinja."""
    lm, of_its_own = save_gpt2(tmp_path / "lm"), tmp_path / "tokenizer"
    tokenizer = AutoTokenizer.from_pretrained(lm)
    keys = []
    for template in (None, TEMPLATE, TEMPLATE + " "):
        tokenizer.chat_template = template
        tokenizer.save_pretrained(lm)
        tokenizer.save_pretrained(of_its_own)
        fields = validated(lm, tokenizer=str(of_its_own)).key_fields()
        keys.append((fields["lm"], fields["tokenizer"]))
    assert len({lm for lm, _ in keys}) == len({own for _, own in keys}) == 3


def test_what_is_missing_is_known_beforehand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    registry = Plugins.discover(environ={}).registry

    def lacking(lm: str) -> str | None:
        found: str | None = validate_block("judge", {"type": "lm_judge", "lm": lm}, registry).missing()
        return found

    assert lacking(str(save_gpt2(tmp_path / "lm"))) is None
    assert "give an existing folder" in (lacking(str(tmp_path / "none")) or "")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "hf download some/lm" in (lacking("some/lm") or "")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert lacking("some/lm") is None  # it will be fetched


def test_what_cannot_be_is_told(tmp_path: Path) -> None:
    lm = save_gpt2(tmp_path / "lm", positions=16)
    with pytest.raises(ConfigError, match=r"judge.chat: .* has no chat template"):
        judge(lm, chat=True)
    with pytest.raises(DataError, match=r"10 tokens .* more than the 16 positions .* Give fewer examples"):
        judge(lm).ask(asked("a red dog", " ".join(["dog"] * 10)))
    with pytest.raises(ConfigError, match="sees no images"):
        judge(lm).ask([Question("a red dog", tmp_path / "x.png")])
    with pytest.raises(DataError, match="does not exist"):
        judge(tmp_path / "none" / "here")
    (lm / "model.safetensors").write_bytes(b"no weights")
    with pytest.raises(ArtefactError, match="no language model can be read"):
        judge(lm)
