"""The `hf_clip` encoder against transformers, and against open_clip with the same weights."""

from __future__ import annotations

import gzip
import json
import os
import shutil
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from modbridge_clip.known import HUB_DIMENSIONS, SAME_WEIGHTS
from PIL import Image
from safetensors.torch import save_file
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from transformers import (
    BertConfig,
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    PreTrainedTokenizerFast,
    SiglipConfig,
    SiglipImageProcessor,
    SiglipModel,
)

from modbridge.errors import ArtefactError, ConfigError, DataError, SetupError
from modbridge.testing import build, build_config

TEXTS = ["a cat", "Two dogs, on a beach!", "it's 3 o'clock in köln", "a very long caption " * 10]
VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 2, "head_width": 16}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 2}
TINY = {"embed_dim": 16, "quick_gelu": True, "vision_cfg": VISION, "text_cfg": TEXT}


def pictures(count: int, height: int = 40, width: int = 48) -> list[Image.Image]:
    random = np.random.default_rng(0)
    return [Image.fromarray(random.integers(0, 255, (height, width, 3), dtype=np.uint8)) for _ in range(count)]


def clip_tokenizer_files(folder: Path) -> None:
    """CLIP's vocabulary as the hub ships it, from the merges that open_clip brings."""
    packed = Path(open_clip.tokenizer.default_bpe()).read_bytes()
    merges = gzip.decompress(packed).decode("utf-8").split("\n")[1 : 49152 - 256 - 2 + 1]
    encoder = open_clip.SimpleTokenizer().encoder
    renamed = {"<start_of_text>": "<|startoftext|>", "<end_of_text>": "<|endoftext|>"}
    vocabulary = {renamed.get(token, token): number for token, number in encoder.items()}
    (folder / "vocab.json").write_text(json.dumps(vocabulary), "utf-8")
    (folder / "merges.txt").write_text("#version: 0.2\n" + "\n".join(merges) + "\n", "utf-8")
    settings = {"tokenizer_class": "CLIPTokenizer", "model_max_length": 77, "do_lower_case": True}
    (folder / "tokenizer_config.json").write_text(json.dumps(settings))


def as_hugging_face(own: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """open_clip's names for a ViT CLIP's weights into transformers'."""
    found = {
        "logit_scale": own["logit_scale"],
        "visual_projection.weight": own["visual.proj"].T,
        "text_projection.weight": own["text_projection"].T,
        "text_model.embeddings.token_embedding.weight": own["token_embedding.weight"],
        "text_model.embeddings.position_embedding.weight": own["positional_embedding"],
        "vision_model.embeddings.class_embedding": own["visual.class_embedding"],
        "vision_model.embeddings.patch_embedding.weight": own["visual.conv1.weight"],
        "vision_model.embeddings.position_embedding.weight": own["visual.positional_embedding"],
    }
    norms = {"ln_final": "text_model.final_layer_norm", "visual.ln_pre": "vision_model.pre_layrnorm"}
    norms["visual.ln_post"] = "vision_model.post_layernorm"
    inside = {"ln_1": "layer_norm1", "ln_2": "layer_norm2", "attn.out_proj": "self_attn.out_proj"}
    inside |= {"mlp.c_fc": "mlp.fc1", "mlp.c_proj": "mlp.fc2"}
    for name, value in own.items():
        stem, _, kind = name.rpartition(".")
        if stem in norms:
            found[f"{norms[stem]}.{kind}"] = value
        elif ".resblocks." in f".{name}":
            tower = "vision_model" if name.startswith("visual.") else "text_model"
            number, _, rest = name.split("resblocks.")[1].partition(".")
            layer = f"{tower}.encoder.layers.{number}"
            if "in_proj" in rest:
                for part, piece in zip("qkv", value.chunk(3), strict=True):
                    found[f"{layer}.self_attn.{part}_proj.{rest.rpartition('_')[2]}"] = piece
            else:
                part, _, kind = rest.rpartition(".")
                found[f"{layer}.{inside[part]}.{kind}"] = value
    return {name: value.contiguous() for name, value in found.items()}


@pytest.fixture(scope="module")
def twins(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """One set of weights: open_clip's file, and transformers' folder."""
    root = tmp_path_factory.mktemp("twins")
    torch.manual_seed(0)
    own = open_clip.CLIP(**TINY)
    save_file(own.state_dict(), root / "open_clip.safetensors")
    config = CLIPConfig(
        projection_dim=16,
        text_config={
            "vocab_size": 49408, "hidden_size": 16, "intermediate_size": 64, "num_hidden_layers": 2,
            "num_attention_heads": 2, "max_position_embeddings": 12, "hidden_act": "quick_gelu", "eos_token_id": 49407,
            "bos_token_id": 49406,
        },
        vision_config={
            "image_size": 32, "patch_size": 16, "hidden_size": 32, "intermediate_size": 128, "num_hidden_layers": 2,
            "num_attention_heads": 2, "hidden_act": "quick_gelu",
        },
    )  # fmt: skip
    folder = root / "hf"
    model = CLIPModel(config)
    model.load_state_dict(as_hugging_face(own.state_dict()), strict=True)
    model.save_pretrained(folder)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(folder)
    clip_tokenizer_files(folder)
    return root / "open_clip.safetensors", folder


def hf(folder: Path, **options: Any) -> Any:
    return build("encoder", {"type": "hf_clip", "model": str(folder), **options})


def test_both_formats_of_the_same_weights_give_the_same_vectors(twins: tuple[Path, Path]) -> None:
    file, folder = twins
    ours: Any = build("encoder", {"type": "open_clip", "model": TINY, "pretrained": str(file)})
    theirs = hf(folder)
    for items, modality in ((TEXTS, "text"), (pictures(3), "image"), (pictures(2, 32, 32), "image")):
        a, b = ours.encode(items, modality).values, theirs.encode(items, modality).values
        torch.testing.assert_close(a, b, atol=1e-5, rtol=0)
        assert torch.pdist(a).min() > 1e-3


def test_photographs_in_both_formats(twins: tuple[Path, Path], requires_data: Path) -> None:
    """Resized and cropped from real sizes. The two libraries round an odd crop margin to different sides, so those
    photographs whose resized long side is odd are one pixel apart, and are left out."""
    file, folder = twins
    files = sorted((requires_data / "images" / "coco_val2017").glob("*.jpg"))
    sizes = [Image.open(path).size for path in files]
    even = [path for path, (w, h) in zip(files, sizes, strict=True) if int(32 * max(w, h) / min(w, h)) % 2 == 0][:6]
    assert even
    ours: Any = build("encoder", {"type": "open_clip", "model": TINY, "pretrained": str(file)})
    a, b = ours.encode(even, "image").values, hf(folder).encode(even, "image").values
    torch.testing.assert_close(a, b, atol=1e-5, rtol=0)


def test_batches_change_nothing(twins: tuple[Path, Path]) -> None:
    encoder = hf(twins[1])
    for items, modality in ((TEXTS[:3], "text"), (pictures(3), "image")):
        together = encoder.encode(items, modality).values
        assert together.shape == (3, 16)
        torch.testing.assert_close(together.norm(dim=1), torch.ones(3))
        alone = torch.cat([encoder.encode([item], modality).values for item in items])
        torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
        assert encoder.encode([], modality).values.shape == (0, 16)
    with pytest.raises(DataError, match="text"):
        encoder.encode([3], "text")


def test_a_folder_has_its_dimension_and_its_weights_in_the_space(twins: tuple[Path, Path], tmp_path: Path) -> None:
    folder = twins[1]
    config = build_config("encoder", {"type": "hf_clip", "model": str(folder)})
    assert config.emits("image").space == config.emits("text").space
    assert config.emits("image").space.dim == 16
    other = tmp_path / "hf"
    other.mkdir()
    for file in folder.iterdir():
        (other / file.name).write_bytes(file.read_bytes())
    copy = build_config("encoder", {"type": "hf_clip", "model": str(other)}).emits("image").space.id
    assert copy == config.emits("image").space.id
    data = bytearray((other / "model.safetensors").read_bytes())
    data[-1] ^= 1
    (other / "model.safetensors").write_bytes(bytes(data))
    assert build_config("encoder", {"type": "hf_clip", "model": str(other)}).emits("image").space.id != copy


def test_a_folder_without_its_tokenizer_or_of_another_kind_is_told(twins: tuple[Path, Path], tmp_path: Path) -> None:
    for file in twins[1].iterdir():
        if file.name not in ("vocab.json", "merges.txt"):
            (tmp_path / file.name).write_bytes(file.read_bytes())
    with pytest.raises(ArtefactError, match=r"(?i)tokenizer"):
        hf(tmp_path)
    BertConfig().save_pretrained(tmp_path)
    with pytest.raises(DataError, match="bert"):
        hf(tmp_path)


def siglip_folder(folder: Path) -> Path:
    torch.manual_seed(0)
    tower = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = SiglipConfig(
        text_config=tower | {"vocab_size": 8, "max_position_embeddings": 6, "projection_size": 16},
        vision_config=tower | {"image_size": 32, "patch_size": 16},
    )
    SiglipModel(config).save_pretrained(folder)
    SiglipImageProcessor(size={"height": 32, "width": 32}).save_pretrained(folder)
    words = {"<pad>": 0, "</s>": 1, "<unk>": 2, "a": 3, "cat": 4, "dog": 5, "red": 6, "the": 7}
    tokenizer = Tokenizer(WordLevel(words, unk_token="<unk>"))
    tokenizer.pre_tokenizer = Whitespace()
    fast: Any = PreTrainedTokenizerFast
    fast(tokenizer_object=tokenizer, pad_token="<pad>", unk_token="<unk>").save_pretrained(folder)
    return folder


def test_siglip_reads_padded_texts_without_a_mask_and_squashed_images(tmp_path: Path) -> None:
    folder = siglip_folder(tmp_path)
    encoder = hf(folder)
    model: Any = SiglipModel.from_pretrained(folder)
    with torch.inference_mode():
        text = model.get_text_features(input_ids=torch.tensor([[3, 4, 0, 0, 0, 0], [3, 6, 5, 3, 6, 5]]))
        squashed = [np.asarray(image.resize((32, 32), Image.Resampling.BICUBIC)) for image in pictures(2)]
        pixels = torch.tensor(np.stack(squashed)).permute(0, 3, 1, 2) / 127.5 - 1
        image = model.get_image_features(pixel_values=pixels)
    for found, wanted in (
        (encoder.encode(["a cat", "a red dog a red dog the the"], "text").values, text),
        (encoder.encode(pictures(2), "image").values, image),
    ):
        vectors = wanted if isinstance(wanted, torch.Tensor) else wanted.pooler_output
        torch.testing.assert_close(found, torch.nn.functional.normalize(vectors, dim=-1), atol=1e-5, rtol=0)
    assert encoder.config.emits("text").space.dim == 16


def test_models_of_the_hub_are_known_by_name() -> None:
    def space(model: str, **block: Any) -> Any:
        return build_config("encoder", {"type": "hf_clip", "model": model, **block}).emits("text").space

    same = build_config("encoder", {"type": "open_clip", "model": "ViT-B-32", "pretrained": "openai"})
    assert space("openai/clip-vit-base-patch32") == same.emits("text").space
    assert space("openai/clip-vit-base-patch32", revision="abc").id == "hf/openai/clip-vit-base-patch32@abc"
    assert space("google/siglip-base-patch16-224").dim == 768
    assert space("someone/something").dim is None


@pytest.mark.parametrize("repo", SAME_WEIGHTS)
def test_names_of_the_same_weights_agree_with_open_clips_own_table(repo: str) -> None:
    _, model, tag = SAME_WEIGHTS[repo].split("/")
    published = open_clip.get_pretrained_cfg(model, tag)
    assert open_clip.get_model_config(model)["embed_dim"] == HUB_DIMENSIONS[repo]
    if not repo.startswith("openai/"):  # LAION's repositories hold both formats
        assert published["hf_hub"].strip("/") == repo
    assert published["mean"] == open_clip.OPENAI_DATASET_MEAN  # transformers' files give CLIP's preprocessing


def test_the_hub_offline_fails_at_once_and_paths_are_told_apart(tmp_path: Path) -> None:
    start = time.monotonic()
    with pytest.raises(SetupError, match="hf download openai/clip-vit-base-patch32"):
        build("encoder", {"type": "hf_clip", "model": "openai/clip-vit-base-patch32"})
    assert time.monotonic() - start < 5
    with pytest.raises(DataError, match="no such folder"):
        build_config("encoder", {"type": "hf_clip", "model": str(tmp_path / "none")}).emits("text")
    with pytest.raises(DataError, match=r"config\.json"):
        build_config("encoder", {"type": "hf_clip", "model": str(tmp_path)}).emits("text")
    with pytest.raises(ConfigError, match="id on the hub"):
        build_config("encoder", {"type": "hf_clip", "model": "a b"})


def test_a_cached_model_is_used_offline(twins: tuple[Path, Path], tmp_path: Path) -> None:
    repo = tmp_path / "models--someone--tiny"
    shutil.copytree(twins[1], repo / "snapshots" / "abc")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("abc")
    code = (
        "from modbridge.testing import build\n"
        "from modbridge.hub import hub_file\n"
        "encoder = build('encoder', {'type': 'hf_clip', 'model': 'someone/tiny'})\n"
        "assert encoder.config.emits('text').space.dim == 16\n"
        "assert encoder.config.emits('text').space.id == 'hf/someone/tiny'\n"
        "assert encoder.encode(['a cat'], 'text').values.shape == (1, 16)\n"
        "assert hub_file('someone/tiny', ['absent.safetensors', 'model.safetensors']).is_file()\n"
    )
    environ = {**os.environ, "HF_HUB_OFFLINE": "1", "HF_HUB_CACHE": str(tmp_path)}
    subprocess.run([sys.executable, "-c", code], check=True, env=environ)

    (repo / "snapshots" / "abc" / "model.safetensors").unlink()  # cached in part
    partly = subprocess.run([sys.executable, "-c", code], env=environ, capture_output=True, text=True)
    assert "SetupError: someone/tiny cannot be loaded from what is cached" in partly.stderr
