"""Where language models come from: the hub's cache, a hub that does not answer, folders that change."""

from __future__ import annotations

import json
import shutil
import time
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import GPT2Config, GPT2LMHeadModel, OpenAIGPTConfig, OpenAIGPTLMHeadModel, PreTrainedTokenizerFast

from modbridge.errors import ArtefactError, SetupError
from modbridge.interfaces import TextVectors
from modbridge.testing import MemoryFitting, build, build_config, toy_embeddings

SPACE = "\N{LOWER ONE EIGHTH BLOCK}"  # SentencePiece's mark of a space
SHAPE = {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 32}


def save_tokenizer(folder: Path) -> int:
    """A tokenizer like SentencePiece's: a space is put before the text, and "." behind a word is another token."""
    names = ["</s>", *(SPACE + word for word in ("a", "cat", "dog", "runs", ".")), "."]
    backend = Tokenizer(models.Unigram([(name, -1.0) for name in names], unk_id=0))
    backend.pre_tokenizer = pre_tokenizers.Metaspace()
    backend.decoder = decoders.Metaspace()
    PreTrainedTokenizerFast(tokenizer_object=backend, eos_token="</s>").save_pretrained(folder)
    return len(names)


def save_lm(folder: Path, seed: int = 0) -> Path:
    size = save_tokenizer(folder)
    torch.manual_seed(seed)
    GPT2LMHeadModel(GPT2Config(vocab_size=size, bos_token_id=0, eos_token_id=0, **SHAPE)).save_pretrained(folder)
    return folder


def on(lm: Path | str, **changes: Any) -> dict[str, Any]:
    return {"type": "prefix_lm", "lm": str(lm), "prefix_length": 3, "generate": {"max_new_tokens": 9}, **changes}


@pytest.fixture
def deaf_hub(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A hub at which nothing listens, and an empty cache; gives the cache."""
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    return tmp_path / "hub"


def cache(hub: Path, names: str) -> None:
    """Put the files of a tiny LM into the cache, as the hub's client lays them out, as the model "some/tiny"."""
    model = hub / "models--some--tiny"
    whole = save_lm(hub / "made")
    (model / "refs").mkdir(parents=True)
    (model / "refs" / "main").write_text("abc")
    (model / "snapshots" / "abc").mkdir(parents=True)
    for path in whole.glob(names):
        shutil.copy(path, model / "snapshots" / "abc" / path.name)


@pytest.mark.parametrize("offline", [False, True])
def test_a_hub_that_does_not_answer_is_told_at_once(
    deaf_hub: Path, monkeypatch: pytest.MonkeyPatch, offline: bool
) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", offline)
    start = time.monotonic()
    for block in (on("some/tiny"), {**on(""), "lm": SHAPE, "tokenizer": "some/tiny"}):
        with pytest.raises(SetupError, match=r"'some/tiny'.*hf download some/tiny") as found:
            build("decoder", block)
        assert ("HF_HUB_OFFLINE" if offline else "does not answer") in str(found.value)
    assert time.monotonic() - start < 8  # the hub's client needs 23 s for the model, 46 s for the tokenizer


def test_what_is_cached_needs_no_hub(deaf_hub: Path) -> None:
    cache(deaf_hub, "*")
    start = time.monotonic()
    decoder: Any = build("decoder", on("some/tiny"))
    assert time.monotonic() - start < 8
    assert torch.equal(
        decoder.tensors()["lm.transformer.wte.weight"],
        GPT2LMHeadModel.from_pretrained(deaf_hub / "made").transformer.wte.weight,
    )


@pytest.mark.parametrize(("names", "what"), [("config.json", "language model"), ("[cm]*", "tokenizer")])
def test_what_is_cached_in_part_is_told(deaf_hub: Path, names: str, what: str) -> None:
    cache(deaf_hub, names)
    with pytest.raises(SetupError, match=f"the {what} 'some/tiny'.*does not answer"):
        build("decoder", on("some/tiny"))


def test_foreign_code_is_refused_without_a_question(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = save_lm(tmp_path / "lm")
    config = json.loads((folder / "config.json").read_text())
    config |= {"model_type": "homemade", "auto_map": {"AutoConfig": "code.C", "AutoModelForCausalLM": "code.M"}}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "code.py").write_text(f"open({str(tmp_path / 'ran')!r}, 'w')\nclass C: ...\nclass M: ...\n")
    with pytest.raises(ArtefactError, match="custom code"):
        build("decoder", on(folder))
    assert "y/N" not in "".join(capsys.readouterr())
    assert not (tmp_path / "ran").exists()


def test_an_lm_that_cannot_write_on_from_embeddings_is_refused_before_it_is_trained(tmp_path: Path) -> None:
    folder = tmp_path / "gpt1"
    size = save_tokenizer(folder)
    OpenAIGPTLMHeadModel(OpenAIGPTConfig(vocab_size=size, **SHAPE)).save_pretrained(folder)
    with pytest.raises(ArtefactError, match="inputs_embeds"):
        build("decoder", on(folder))


def test_a_changed_folder_asks_for_a_new_fit_and_a_moved_one_does_not(tmp_path: Path) -> None:
    folder = save_lm(tmp_path / "lm")
    first = build_config("decoder", on(folder)).key_fields()
    moved = build_config("decoder", on(shutil.copytree(folder, tmp_path / "elsewhere"))).key_fields()
    assert moved == first
    save_lm(folder, seed=1)
    assert build_config("decoder", on(folder)).key_fields() != first
    assert build_config("decoder", on("some/tiny")).key_fields()["lm"] == "some/tiny"


def test_stop_ends_a_caption_where_a_full_stop_behind_a_word_is_another_token(tmp_path: Path) -> None:
    folder = save_lm(tmp_path / "lm")
    captions = ["a dog. runs"] * 4
    embeddings = toy_embeddings(4)

    def batch(rows: Any, epoch: int) -> torch.Tensor:
        return embeddings.values[list(rows)]

    block = on(folder, steps=80, batch_size=4, lr=2e-2, generate={"max_new_tokens": 9, "stop": "."})
    decoder: Any = build("decoder", block)
    decoder.fit(TextVectors(embeddings, batch), captions, MemoryFitting())
    assert [found.text for found in decoder.decode(embeddings)] == ["a dog."] * 4
