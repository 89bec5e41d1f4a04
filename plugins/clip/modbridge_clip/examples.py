"""Tiny files for the parts that read some, and configs that read them: what the conformance checks try them on."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from PIL import Image

from modbridge_clip.plugin import TINY_MODEL

_DIM = 16


def open_clip(at: Path) -> dict[str, Any]:
    """A tiny model that the run trains, on words that it learns."""
    text = {name: value for name, value in TINY_MODEL["text_cfg"].items() if name != "vocab_size"}
    train = {"epochs": 4, "batch_size": 8, "warmup": 1}
    return {"model": TINY_MODEL | {"text_cfg": text}, "train": train, "tokenizer": {"type": "words"}}


def hf_clip(at: Path) -> dict[str, Any]:
    """A folder of a tiny CLIP with random weights, as transformers saves it; its tokens are bytes."""
    import torch
    from tokenizers import Tokenizer
    from tokenizers.models import BPE
    from tokenizers.pre_tokenizers import ByteLevel
    from tokenizers.processors import TemplateProcessing
    from transformers import CLIPConfig, CLIPImageProcessor, CLIPModel, PreTrainedTokenizerFast

    start, end = "<|startoftext|>", "<|endoftext|>"
    tokens = [*sorted(ByteLevel.alphabet()), start, end]
    bytes_ = Tokenizer(BPE(vocab={token: number for number, token in enumerate(tokens)}, merges=[]))
    bytes_.pre_tokenizer = ByteLevel(add_prefix_space=False)
    ends = {token: tokens.index(token) for token in (start, end)}
    bytes_.post_processor = TemplateProcessing(single=f"{start} $A {end}", special_tokens=list(ends.items()))
    words: Any = PreTrainedTokenizerFast  # its constructor has no types
    words(tokenizer_object=bytes_, bos_token=start, eos_token=end, pad_token=end, model_max_length=48).save_pretrained(
        at
    )
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(at)
    tower = {"hidden_size": _DIM, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    ids = {"bos_token_id": ends[start], "eos_token_id": ends[end], "pad_token_id": ends[end]}
    config = CLIPConfig(
        projection_dim=_DIM,
        text_config={**tower, **ids, "vocab_size": len(tokens), "max_position_embeddings": 48},
        vision_config={**tower, "image_size": 32, "patch_size": 16},
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        CLIPModel(config).save_pretrained(at)
    return {"model": str(at)}


def coco_captions(at: Path) -> dict[str, Any]:
    """Captions one object a line, and their images."""
    lines = []
    for row in range(4):
        Image.new("RGB", (8, 8), (60 * row, 90, 120)).save(at / f"{row}.jpg")
        lines.append(
            json.dumps({"image": f"{row}.jpg", "captions": [f"photograph {row}", f"a photograph, the {row}th"]})
        )
    (at / "captions.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return {"captions": str(at / "captions.jsonl"), "images": str(at)}


def flickr30k(at: Path) -> dict[str, Any]:
    """Karpathy's file with four images of the test split."""
    images = []
    for row in range(4):
        Image.new("RGB", (8, 8), (60 * row, 120, 90)).save(at / f"{row}.jpg")
        said = [{"raw": f"photograph {row}, caption {number}"} for number in range(5)]
        images.append({"filename": f"{row}.jpg", "split": "test", "sentences": said})
    (at / "dataset.json").write_text(json.dumps({"images": images, "dataset": "flickr30k"}), encoding="utf-8")
    return {"captions": str(at / "dataset.json"), "images": str(at), "split": "test"}
