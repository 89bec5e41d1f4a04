"""One set of random weights in two formats, and the vectors that `hf_clap` gives with them.

    uv run python plugins/laion_clap/parity/write_reference.py FOLDER [--data FOLDER] [--fusion]

Runs in the workspace's environment (transformers, numpy 2); laion-clap's own environment then compares. Writes
hf/ (transformers' format), learned.pt (the same weights under LAION's names), tokenizers/ (hub layout), sounds/,
inputs.json and vectors.npz (audio, text). About 1.3 GB: a network of the published size, HTSAT-tiny and roberta-base.
"""

from __future__ import annotations

import argparse
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import soundfile
import torch
from transformers import ClapConfig, ClapFeatureExtractor, ClapModel, ClapProcessor, RobertaTokenizer

from modbridge.testing import build

RATE = 48_000
RECORDINGS = 6
VOCABULARY = 50_265
# 75 bytes at most: LAION cuts texts after 77 tokens, transformers after 513.
TEXTS = ["a dog barks", "heavy rain on a tin roof", "sea waves, and a baby who cries", "Ünïcode & 3.5 kHz!", ""]
# What transformers sets otherwise than LAION: RoBERTa's epsilon is 1e-5 (ClapTextConfig: 1e-12), the mel filters begin
# at 50 Hz (ClapFeatureExtractor: 0).
TEXT = {"layer_norm_eps": 1e-5, "vocab_size": VOCABULARY, "max_position_embeddings": 514}
FEATURES = {"frequency_min": 50, "frequency_max": 14_000}


def write_reference(folder: Path, data: Path | None, fusion: bool) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    model = draw_model(fusion)
    tokenizer = roberta_tokenizer(data)
    extractor = ClapFeatureExtractor(**FEATURES, truncation="fusion" if fusion else "rand_trunc")
    model.save_pretrained(folder / "hf")
    ClapProcessor(feature_extractor=extractor, tokenizer=tokenizer).save_pretrained(folder / "hf")
    extractor.save_pretrained(folder / "hf")
    torch.save(laion_names(model.state_dict()), folder / "learned.pt")
    cache = folder / "tokenizers" / "models--roberta-base"
    tokenizer.save_pretrained(cache / "snapshots" / "parity")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("parity")
    sounds = write_sounds(folder / "sounds", data)
    (folder / "inputs.json").write_text(json.dumps({"sounds": [str(path) for path in sounds], "texts": TEXTS}))
    encoder: Any = build("encoder", {"type": "hf_clap", "model": str(folder / "hf")})
    vectors = {
        "audio": encoder.encode(sounds, "audio").values.numpy(),
        "text": encoder.encode(TEXTS, "text").values.numpy(),
    }
    np.savez(folder / "vectors.npz", **vectors)


def draw_model(fusion: bool) -> Any:
    """A ClapModel of the published shape whose vectors differ from input to input, as random ones hardly do when drawn
    as the library draws them."""
    generator = torch.Generator().manual_seed(0)
    audio = {"enable_fusion": fusion, "fusion_type": "aff_2d" if fusion else None}
    model: Any = ClapModel(ClapConfig(projection_dim=512, audio_config=audio, text_config=TEXT)).eval()
    with torch.no_grad():
        for name, value in model.named_parameters():
            noise = torch.randn(value.shape, generator=generator)
            if "embeddings." in name and value.ndim == 2:
                value.copy_(0.5 * noise)
            elif value.ndim >= 2 and "bias_table" not in name:
                value.copy_(noise / value[0].numel() ** 0.5)
            elif value.ndim == 1 and name.endswith("weight"):
                value.copy_(1 + 0.1 * noise)
            elif value.ndim >= 1:
                value.copy_(0.1 * noise)
        for name, value in model.named_buffers():
            if name.endswith("running_mean"):
                value.copy_((-30.0 if "batch_norm" in name else 0.0) + torch.randn(value.shape, generator=generator))
            elif name.endswith("running_var"):
                value.copy_(
                    (200.0 if "batch_norm" in name else 1.0) * (1 + torch.rand(value.shape, generator=generator))
                )
    return model


_TOWER = "audio_model.audio_encoder."
_RENAMED = (
    (r"\.batch_norm\.", ".bn0."),
    (r"\.attention\.self\.", ".attn."),
    (r"\.attention\.output\.dense\.", ".attn.proj."),
    (r"\.intermediate\.dense\.", ".mlp.fc1."),
    (r"\.output\.dense\.", ".mlp.fc2."),
    (r"\.layernorm_before\.", ".norm1."),
    (r"\.layernorm_after\.", ".norm2."),
)


def laion_names(state: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A ClapModel's weights as LAION's package names them: the way back of transformers' conversion script."""
    found: dict[str, torch.Tensor] = {}
    for name, value in state.items():
        if name.endswith(("position_ids", "token_type_ids", "relative_position_index")):
            continue
        if name.startswith(_TOWER):
            name = "audio_branch." + name.removeprefix(_TOWER)
            for pattern, new in _RENAMED:
                name = re.sub(pattern, new, name)
        name = re.sub(r"^text_model\.", "text_branch.", name)
        name = re.sub(r"^(audio|text)_projection\.linear1\.", r"\1_projection.0.", name)
        name = re.sub(r"^(audio|text)_projection\.linear2\.", r"\1_projection.2.", name)
        found[name] = value
    for name in [name for name in found if ".attn.query." in name]:
        parts = [found.pop(name.replace("query", part)) for part in ("query", "key", "value")]
        found[name.replace("query", "qkv")] = torch.cat(parts)
    return found


def roberta_tokenizer(data: Path | None) -> Any:
    """RoBERTa's tokenizer: GPT-2's pieces under RoBERTa's numbers; without GPT-2's files, bytes and fillers."""
    pieces, merges = _bytes_only(), []
    if data is not None:
        numbered = json.loads((data / "lm" / "gpt2" / "encoder.json").read_text("utf-8"))
        pieces = sorted(numbered, key=numbered.__getitem__)
        lines = (data / "lm" / "gpt2" / "vocab.bpe").read_text("utf-8").splitlines()[1:]
        merges = [tuple(line.split()) for line in lines if line]
    names = ["<s>", "<pad>", "</s>", "<unk>", *pieces]
    names += [f"madeupword{i:04d}" for i in range(VOCABULARY - 1 - len(names))] + ["<mask>"]
    tokenizer = RobertaTokenizer(vocab={name: i for i, name in enumerate(names)}, merges=merges)
    assert len(tokenizer) == VOCABULARY
    return tokenizer


def _bytes_only() -> list[str]:
    from tokenizers.pre_tokenizers import ByteLevel

    return sorted(ByteLevel.alphabet())


def write_sounds(folder: Path, data: Path | None) -> list[Path]:
    """Tones, noise, a short and a long clip; and recordings where there are any."""
    folder.mkdir()
    random = np.random.default_rng(0)
    seconds = np.arange(25 * RATE) / RATE
    sweep = 0.4 * np.sin(2 * np.pi * (200 + 150 * seconds) * seconds)
    made = {
        "tone": 0.5 * np.sin(2 * np.pi * 440 * seconds[: 3 * RATE]),
        "noise": 0.1 * random.standard_normal(10 * RATE),
        "short": 0.3 * np.sin(2 * np.pi * 1000 * seconds[: RATE // 10]),
        "long": sweep,
        "silence": np.zeros(RATE),
    }
    found = []
    for name, samples in made.items():
        found.append(folder / f"{name}.wav")
        soundfile.write(found[-1], samples.astype(np.float32), RATE, subtype="FLOAT")
    if data is not None:
        found += sorted((data / "audio" / "esc10").glob("*/*.ogg"))[:: 30 // RECORDINGS]
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--data", type=Path, help="the folder of test data (recordings, GPT-2's pieces)")
    parser.add_argument("--fusion", action="store_true", help="a fused network")
    given = parser.parse_args()
    write_reference(given.folder, given.data, given.fusion)


if __name__ == "__main__":
    main()
