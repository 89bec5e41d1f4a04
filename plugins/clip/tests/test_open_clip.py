"""The `open_clip` encoder against open_clip itself, at toy size."""

from __future__ import annotations

import json
import pickle
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from modbridge_clip import network
from open_clip.transform import image_transform
from PIL import Image
from safetensors.torch import save_file

from modbridge.config.kinds import SourceConfig
from modbridge.contrastive import Captions
from modbridge.errors import ArtefactError, ConfigError, DataError, SetupError
from modbridge.interfaces.source import Source
from modbridge.testing import MemoryFitting, build, build_config
from modbridge.testing.fitting import Interrupted

VISION = {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16}
TEXT = {"context_length": 12, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1}
TINY = {"embed_dim": 16, "vision_cfg": VISION, "text_cfg": TEXT}
RANDOM = {"type": "open_clip", "model": TINY, "pretrained": "random"}
TEXTS = ["a cat", "two dogs on a beach", "a very long caption " * 10]


def pictures(count: int, size: int = 32) -> list[np.ndarray]:
    return list(np.random.default_rng(0).integers(0, 255, (count, size, size, 3), dtype=np.uint8))


def encoder_of(block: dict[str, Any], seed: int = 0) -> Any:
    return build("encoder", block, seed=seed)


def reference(model: dict[str, Any], **options: Any) -> Any:
    torch.manual_seed(3)
    kind = open_clip.CustomTextCLIP if model.get("custom_text") else open_clip.CLIP
    values = {key: value for key, value in model.items() if key != "custom_text"}
    if values["text_cfg"].get("pool_type") == "eos":
        values["text_cfg"] = values["text_cfg"] | {"eos_id": 49407}  # the end of CLIP's tokenizer
    return kind(**values, **options).eval()


# --- config -----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("block", "says"),
    [
        ({"model": "ViT-B-32"}, "neither"),
        ({"model": "ViT-B-32", "pretrained": "openai", "train": {}}, "both"),
        ({"model": "ViT-B/32", "pretrained": "openai"}, "'ViT-B-32'"),
        ({"model": {"embed_dim": 4, "vision_cfg": {}}, "pretrained": "random"}, "text_cfg"),
        ({"model": {"vision_cfg": {}, "text_cfg": {}}, "pretrained": "random"}, "embed_dim"),
        ({"model": TINY, "pretrained": "openai"}, "no published weights"),
        ({"model": TINY, "pretrained": "random", "tokenizer": {"type": "words"}}, "needs `train`"),
        ({"model": TINY, "train": {}, "tokenizer": {"type": "words"}}, "vocab_size"),
        ({"model": TINY | {"text_cfg": TEXT | {"vocab_size": 500}}, "train": {}}, "49408"),
        ({"model": TINY | {"text_cfg": TEXT | {"hf_model_name": "x/y"}}, "train": {}}, "hf_model_name"),
        ({"model": TINY, "train": {"logit_scale": 0}}, "logit scale"),
    ],
)
def test_mistakes_in_the_config_are_told(block: dict[str, Any], says: str) -> None:
    with pytest.raises(ConfigError, match=says):
        build_config("encoder", {"type": "open_clip", **block})


@pytest.mark.parametrize(("model", "dim"), [("ViT-B-32", 512), ("ViT-L-14", 768), ("RN50", 1024)])
def test_a_named_model_has_its_dimension_and_its_weights_in_the_space(model: str, dim: int) -> None:
    config = build_config("encoder", {"type": "open_clip", "model": model, "pretrained": "openai"})
    for modality in ("image", "text"):
        port = config.emits(modality)
        assert (port.space.id, port.space.dim, port.space.normalised) == (f"open_clip/{model}/openai", dim, True)
        assert port.modality == modality


def test_one_space_has_one_id_and_another_has_another() -> None:
    def space(**block: Any) -> str:
        return str(build_config("encoder", {"type": "open_clip", **block}).emits("image").space.id)

    plain = space(model="ViT-B-32", pretrained="laion2b_s34b_b79k")
    assert space(model="ViT-B-32", pretrained="laion2b-s34b-b79K") == plain
    assert space(model="ViT-B-32", pretrained="laion2b_s34b_b79k", batch_size=2, workers=3) == plain
    assert space(model="ViT-B-32-quickgelu", pretrained="openai") == space(model="ViT-B-32", pretrained="openai")
    assert space(model="ViT-B-32", pretrained="laion2b_s34b_b79k", image_size=64) != plain
    assert space(model=TINY, pretrained="random").endswith("/random")
    assert space(model=TINY, pretrained="random") != space(model=TINY | {"embed_dim": 8}, pretrained="random")
    assert space(model=TINY, train={}) != space(model=TINY, train={"epochs": 2})
    assert space(model=TINY, train={}).endswith("/trained")


def test_configs_are_light() -> None:
    code = (
        "import sys\n"
        "from modbridge_clip.open_clip_config import OpenClipConfig\n"
        "from modbridge_clip.hf_clip_config import HfClipConfig\n"
        "from modbridge_clip.coco_config import CocoCaptionsConfig\n"
        "import modbridge_clip.plugin\n"
        "assert OpenClipConfig(model='ViT-B-32', pretrained='openai').emits('text').space.dim == 512\n"
        "assert HfClipConfig(model='google/siglip-base-patch16-224').emits('text').space.dim == 768\n"
        "heavy = {'torch', 'open_clip', 'transformers', 'numpy'} & set(sys.modules)\n"
        "assert not heavy, heavy\n"
    )
    subprocess.run([sys.executable, "-c", code], check=True)


# --- weights ----------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "model",
    [
        TINY,
        TINY | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 8}},
        TINY | {"custom_text": True, "text_cfg": TEXT | {"pool_type": "eos"}},
        TINY | {"quick_gelu": True},
    ],
    ids=["vit", "resnet", "custom text", "quick gelu"],
)
def test_a_checkpoint_gives_the_vectors_of_open_clip(model: dict[str, Any], tmp_path: Path) -> None:
    own = reference(model)
    save_file(own.state_dict(), tmp_path / "weights.safetensors")
    encoder = encoder_of(RANDOM | {"model": model, "pretrained": str(tmp_path / "weights.safetensors")})
    images = [Image.fromarray(array) for array in pictures(3, size=48)]
    with torch.inference_mode():
        transform = image_transform(32, is_train=False)
        image = own.encode_image(torch.stack([transform(picture) for picture in images]), normalize=True)
        text = own.encode_text(open_clip.tokenize(TEXTS, 12), normalize=True)
    torch.testing.assert_close(encoder.encode(images, "image").values, image, atol=1e-5, rtol=0)
    torch.testing.assert_close(encoder.encode(TEXTS, "text").values, text, atol=1e-5, rtol=0)


def test_the_space_names_the_very_checkpoint(tmp_path: Path) -> None:
    ids = set()
    for name, value in (("a.pt", 0.0), ("b.pt", 1.0)):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        torch.save({"x": torch.full((40000,), value)}, tmp_path / name)
        target = tmp_path / "same.pt"
        target.write_bytes((tmp_path / name).read_bytes())
        config = build_config("encoder", RANDOM | {"pretrained": str(target)})
        ids.add(config.emits("text").space.id)
        assert config.emits("text").space.id == config.emits("image").space.id
    assert len(ids) == 2


def test_wrong_and_missing_checkpoints_are_told(tmp_path: Path) -> None:
    other = TINY | {"embed_dim": 8}
    save_file(reference(other).state_dict(), tmp_path / "other.safetensors")
    (tmp_path / "noise.pt").write_bytes(b"no checkpoint")
    for name in ("other.safetensors", "noise.pt"):
        with pytest.raises(ArtefactError, match=name):
            encoder_of(RANDOM | {"pretrained": str(tmp_path / name)})
    with pytest.raises(DataError, match="no such file"):
        build_config("encoder", RANDOM | {"pretrained": str(tmp_path / "none.pt")}).emits("image")


def test_an_impossible_inline_model_is_told() -> None:
    with pytest.raises(ConfigError, match="colour"):
        encoder_of(RANDOM | {"model": TINY | {"colour": 3}})
    with pytest.raises(ConfigError, match="model"):
        encoder_of(RANDOM | {"model": TINY | {"vision_cfg": VISION | {"head_width": 64}}})


def test_published_weights_offline_fail_at_once_and_unknown_tags_are_told() -> None:
    start = time.monotonic()
    with pytest.raises(SetupError, match="hf download laion/CLIP-ViT-B-32-laion2B-s34B-b79K"):
        encoder_of({"type": "open_clip", "model": "ViT-B-32", "pretrained": "laion2b_s34b_b79k"})
    assert time.monotonic() - start < 5
    with pytest.raises(ConfigError, match="laion2b_s34b_b79k"):
        encoder_of({"type": "open_clip", "model": "ViT-B-32", "pretrained": "laion2b_s34b"})


def test_no_network_is_found_out_quickly(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", False)
    monkeypatch.setattr("huggingface_hub.constants.ENDPOINT", "http://127.0.0.1:9")
    start = time.monotonic()
    with pytest.raises(SetupError, match=r"127\.0\.0\.1:9 does not answer"):
        encoder_of({"type": "open_clip", "model": "ViT-B-32", "pretrained": "openai"})
    assert time.monotonic() - start < 5


def test_a_tag_brings_its_activation_and_its_image_preparation(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(network, "hub_file", lambda repo, names, revision=None: Path(repo))
    openai = build_config("encoder", {"type": "open_clip", "model": "ViT-B-32", "pretrained": "openai"})
    assert network.find_weights(openai).quick_gelu
    siglip = build_config("encoder", {"type": "open_clip", "model": "ViT-B-16-SigLIP", "pretrained": "webli"})
    weights = network.find_weights(siglip)
    assert not weights.quick_gelu
    assert tuple(weights.preprocess["mean"]) == (0.5, 0.5, 0.5)
    assert weights.preprocess["resize_mode"] == "squash"
    quick = network.build_network(TINY, seed=0, quick_gelu=True)
    assert any(isinstance(module, open_clip.transformer.QuickGELU) for module in quick.modules())


# --- encoding ---------------------------------------------------------------------------------------------------------


def test_batches_change_nothing_and_inputs_do() -> None:
    encoder = encoder_of(RANDOM)
    for items, modality in ((pictures(3), "image"), (TEXTS, "text")):
        together = encoder.encode(items, modality)
        assert together.values.shape == (3, 16)
        torch.testing.assert_close(together.values.norm(dim=1), torch.ones(3))
        alone = torch.cat([encoder.encode([item], modality).values for item in items])
        torch.testing.assert_close(together.values, alone, atol=1e-5, rtol=0)
        assert torch.pdist(together.values).min() > 1e-3
        assert encoder.encode([], modality).values.shape == (0, 16)


def test_random_weights_are_the_same_in_every_process_and_leave_the_global_stream_alone() -> None:
    torch.manual_seed(1)
    first = encoder_of(RANDOM).encode(TEXTS, "text").values
    drawn = torch.rand(1)
    torch.manual_seed(2)
    second = encoder_of(RANDOM, seed=9).encode(TEXTS, "text").values
    assert torch.equal(first, second)
    torch.manual_seed(1)
    assert torch.equal(drawn, torch.rand(1))


def test_prepared_items_are_cpu_tensors_and_the_encoder_can_be_sent_to_a_worker() -> None:
    encoder = pickle.loads(pickle.dumps(encoder_of(RANDOM)))
    assert encoder.prepare(pictures(1)[0], "image").shape == (3, 32, 32)
    assert encoder.prepare(TEXTS[2], "text").tolist()[-1] == 49407  # cut, but ended
    with pytest.raises(DataError, match="text"):
        encoder.prepare(7, "text")


def test_lower_precision_is_close() -> None:
    exact, rough = encoder_of(RANDOM), encoder_of(RANDOM | {"precision": "bf16"})
    a, b = exact.encode(pictures(3), "image").values, rough.encode(pictures(3), "image").values
    assert b.dtype == torch.float32
    assert not torch.equal(a, b)
    assert torch.cosine_similarity(a, b).min() > 0.999


def test_another_image_size(tmp_path: Path) -> None:
    encoder = encoder_of(RANDOM | {"image_size": 48})
    assert encoder.prepare(pictures(1)[0], "image").shape == (3, 48, 48)
    assert encoder.encode(pictures(2), "image").values.shape == (2, 16)


def test_a_damaged_photograph_is_named(tmp_path: Path) -> None:
    Image.fromarray(pictures(1, size=64)[0]).save(tmp_path / "whole.jpg")
    (tmp_path / "cut.jpg").write_bytes((tmp_path / "whole.jpg").read_bytes()[:1000])
    with pytest.raises(DataError, match=r"cut\.jpg"):
        encoder_of(RANDOM).encode([tmp_path / "whole.jpg", tmp_path / "cut.jpg"], "image")


def test_photographs(requires_data: Path) -> None:
    files = sorted((requires_data / "images" / "coco_val2017").glob("*.jpg"))[:6]
    encoder = encoder_of(RANDOM)
    together = encoder.encode(files, "image").values
    alone = torch.cat([encoder.encode([file], "image").values for file in files])
    torch.testing.assert_close(together, alone, atol=1e-5, rtol=0)
    assert torch.pdist(together).min() > 1e-3


# --- training ---------------------------------------------------------------------------------------------------------

COLOURS = {
    "red": (255, 0, 0), "green": (0, 255, 0), "blue": (0, 0, 255), "yellow": (255, 255, 0),
    "white": (255, 255, 255), "black": (0, 0, 0), "pink": (255, 0, 255), "cyan": (0, 255, 255),
}  # fmt: skip


class Squares(Source[SourceConfig]):
    """Squares of one colour and some noise, with two captions each."""

    def __init__(self, per_colour: int, seed: int = 0) -> None:
        super().__init__(SourceConfig(type="squares"))
        random = np.random.default_rng(seed)
        self.names = [name for name in COLOURS for _ in range(per_colour)]
        noise = random.normal(0, 12, (len(self.names), 16, 16, 3))
        self.pixels = np.clip([COLOURS[name] for name in self.names], 0, 255)[:, None, None] + noise
        self.pixels = np.clip(self.pixels, 0, 255).astype(np.uint8)

    def keys(self) -> list[str]:
        return [f"s{i}" for i in range(len(self.names))]

    def media(self, row: int) -> Any:
        return self.pixels[row]

    def texts(self, row: int) -> tuple[str, ...]:
        return (f"A {self.names[row]} square.", f"here is something {self.names[row]}")

    def fingerprint(self) -> str:
        return "squares"


TRAINED = {
    "type": "open_clip",
    "model": {
        "embed_dim": 16,
        "vision_cfg": VISION | {"image_size": 16, "patch_size": 8},
        "text_cfg": {"width": 32, "heads": 2, "layers": 1},
    },
    "tokenizer": {"type": "words"},
    "train": {"epochs": 12, "batch_size": 8, "lr": 2e-3, "warmup": 5, "logit_scale": 20.0},
}


def test_training_learns_colours_and_the_artefact_brings_them_back(tmp_path: Path) -> None:
    encoder = encoder_of(TRAINED)
    with pytest.raises(ArtefactError, match="not yet"):
        encoder.encode(["a red square"], "text")
    fitting = MemoryFitting()
    encoder.fit(Squares(8), fitting)
    fresh = Squares(4, seed=1)
    images = encoder.encode([fresh.media(row) for row in range(len(fresh))], "image").values
    texts = encoder.encode([f"a {name} square" for name in COLOURS], "text").values
    nearest = [list(COLOURS)[i] for i in (images @ texts.T).argmax(dim=1).tolist()]
    hits = sum(a == b for a, b in zip(nearest, fresh.names, strict=True)) / len(fresh)
    assert hits > 0.8  # chance: 0.125
    assert fitting.logged[-1]["loss"] < 1.0

    encoder.save_extra(tmp_path)
    stored = json.loads((tmp_path / "open_clip_config.json").read_text())
    words = json.loads((tmp_path / "vocabulary.json").read_text())["words"]
    assert words == sorted({"a", "square", "here", "is", "something", *COLOURS})
    assert stored["model_cfg"]["text_cfg"]["vocab_size"] == len(words) + 4
    again = encoder_of(TRAINED, seed=5)
    again.load_extra(tmp_path)
    again.load_tensors(encoder.tensors())
    assert torch.equal(again.encode([fresh.media(row) for row in range(len(fresh))], "image").values, images)
    assert torch.equal(again.encode([f"a {name} square" for name in COLOURS], "text").values, texts)
    # what was saved is a model folder that open_clip reads without modbridge
    state = {name.removeprefix("network."): value for name, value in encoder.tensors().items()}
    save_file(state, tmp_path / "open_clip_model.safetensors")
    own, _, transform = open_clip.create_model_and_transforms(f"local-dir:{tmp_path}")
    with torch.inference_mode():
        vector = own.eval().encode_image(transform(Image.fromarray(fresh.media(0)))[None], normalize=True)
    torch.testing.assert_close(vector, images[:1], atol=1e-5, rtol=0)


@pytest.mark.parametrize("scale", ["learned", 40.0])
def test_an_interrupted_training_ends_with_the_same_bytes(scale: float | str) -> None:
    block = TRAINED | {"train": {"epochs": 2, "batch_size": 8, "logit_scale": scale, "warmup": 2}}
    block |= {"model": TRAINED["model"] | {"vision_cfg": {"image_size": 32, "layers": [1, 1, 1, 1], "width": 4}}}  # type: ignore[operator]
    source = Squares(4)

    def fitted(stop: int | None) -> dict[str, torch.Tensor]:
        fitting = MemoryFitting(stop_after=stop)
        encoder = encoder_of(block)
        if stop is not None:
            with pytest.raises(Interrupted):
                encoder.fit(source, fitting)
            encoder = encoder_of(block)
        encoder.fit(source, fitting)
        return dict(encoder.tensors())

    whole, resumed = fitted(None), fitted(3)
    assert whole.keys() == resumed.keys()
    assert all(torch.equal(whole[name], resumed[name]) for name in whole)
    assert any("running_mean" in name for name in whole)
    learned = whole["network.logit_scale"].exp().item()
    assert (learned == pytest.approx(40.0, rel=1e-5)) == (scale == 40.0)


def test_texts_that_were_never_seen_and_too_long_ones() -> None:
    encoder = encoder_of(TRAINED | {"train": {"epochs": 1, "batch_size": 8}})
    encoder.fit(Squares(1), MemoryFitting())
    ids = [encoder.prepare(text, "text").tolist() for text in ("a zebra", "A  RED, square!", "red " * 50)]
    pad, unknown, start, end = 0, 1, 2, max(ids[0])
    assert ids[0][:4] == [start, ids[1][1], unknown, end]
    assert ids[1][4:] == [end] + [pad] * (len(ids[1]) - 5)
    assert ids[2][-1] == end
    assert len({len(row) for row in ids}) == 1


class Uncaptioned(Squares):
    """Squares of which the first few have no caption."""

    def __init__(self, bare: int) -> None:
        super().__init__(1)
        self.bare = bare

    def texts(self, row: int) -> tuple[str, ...]:
        return () if row < self.bare else super().texts(row)


@pytest.mark.parametrize(("bare", "says"), [(8, "no word"), (2, r"2 items have no caption \(s0, s1\)")])
def test_training_without_captions_is_told(bare: int, says: str) -> None:
    encoder = encoder_of(TRAINED)
    with pytest.raises(DataError, match=says):
        encoder.fit(Uncaptioned(bare), MemoryFitting())


def test_captions_are_drawn_by_item_and_epoch() -> None:
    keys = [f"k{i}" for i in range(300)]
    texts = [tuple(str(3 * i + k) for k in range(i % 3 + 1)) for i in range(300)]
    captions = Captions.of(texts, keys, lambda text: torch.tensor([int(text)]))
    rows = torch.arange(300)
    drawn = torch.stack([captions.drawn(rows, keys, 1, epoch)[:, 0] for epoch in range(40)])
    assert torch.equal(drawn // 3, rows.expand(40, 300))  # every item's own caption
    for count in (1, 2, 3):
        numbers = (drawn % 3)[:, rows % 3 == count - 1].flatten()
        shares = torch.bincount(numbers, minlength=3) / len(numbers)
        torch.testing.assert_close(shares[:count], torch.full((count,), 1 / count), atol=0.03, rtol=0)
    some = torch.tensor([7, 200, 31])
    assert torch.equal(captions.drawn(some, keys, 1, 5)[:, 0], drawn[5, some])  # whatever else is in the batch
    assert not torch.equal(captions.drawn(rows, keys, 2, 5)[:, 0], drawn[5])


def test_many_images_are_read_batch_by_batch(monkeypatch: pytest.MonkeyPatch) -> None:
    block = TRAINED | {"train": {"epochs": 2, "batch_size": 8}}

    def fitted() -> dict[str, torch.Tensor]:
        encoder = encoder_of(block)
        encoder.fit(Squares(2), MemoryFitting())
        return dict(encoder.tensors())

    kept = fitted()
    monkeypatch.setattr("modbridge.training_media.KEPT_BYTES", 10)
    assert all(torch.equal(kept[name], value) for name, value in fitted().items())


@pytest.mark.parametrize("pool", ["argmax", "eos"])
def test_short_texts_are_not_read_to_the_end_of_the_context(pool: str, monkeypatch: pytest.MonkeyPatch) -> None:
    block = RANDOM | {"model": TINY | {"text_cfg": TEXT | {"pool_type": pool}}}
    encoder = encoder_of(block)
    network: Any = encoder._network
    lengths: list[int] = []
    monkeypatch.setattr(network, "token_embedding", Watched(network.token_embedding, lengths))
    texts = ["a", "a red car by the sea", "a dog"]
    together = encoder.encode(texts, "text").values
    alone = torch.cat([encoder.encode([text], "text").values for text in texts])
    assert lengths == [8, 3, 8, 4]
    tokens = torch.stack([encoder.prepare(text, "text") for text in texts])
    assert tokens.shape == (3, 12)
    with torch.inference_mode():
        whole = network.encode_text(tokens, normalize=True)
    torch.testing.assert_close(together, whole, atol=1e-6, rtol=0)
    torch.testing.assert_close(alone, whole, atol=1e-6, rtol=0)


class Watched(torch.nn.Module):
    """Notes the length of the token ids that pass."""

    def __init__(self, inner: torch.nn.Module, lengths: list[int]) -> None:
        super().__init__()
        self.inner, self.lengths = inner, lengths

    def forward(self, tokens: torch.Tensor) -> torch.Tensor:
        self.lengths.append(tokens.shape[1])
        return self.inner(tokens)  # type: ignore[no-any-return]
