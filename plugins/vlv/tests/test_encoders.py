"""Encoders that a teacher teaches: what is trained, what is kept, and how texts stand among images."""

from __future__ import annotations

import pickle
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from modbridge_vlv.plugin import TINY_FLORENCE, TINY_TEACHER, TINY_VIT
from modbridge_vlv.taught import TaughtEncoder
from modbridge_vlv.teacher import DiffusionTeacher
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    Florence2Config,
    Florence2ForConditionalGeneration,
    SiglipConfig,
    SiglipModel,
)
from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

from modbridge.assembly.build import build_component
from modbridge.config.kinds import SourceConfig
from modbridge.errors import ConfigError, DataError, PortError
from modbridge.interfaces import BuildContext, Source
from modbridge.noise import Draw
from modbridge.plugins.manager import Plugins
from modbridge.store.artefact import load_component, save_component
from modbridge.testing import MemoryFitting, build, build_config

Model = Callable[..., Path]
TRAIN = {"steps": 8, "batch_size": 4, "lr": 3e-3}


class Images(Source[SourceConfig]):
    """Images without captions."""

    def __init__(self, items: list[Any], modality: str = "image") -> None:
        super().__init__(SourceConfig(type="toy", modality=modality))
        self.items = items

    def keys(self) -> list[str]:
        return [str(row) for row in range(len(self.items))]

    def media(self, row: int) -> Any:
        return self.items[row]

    def texts(self, row: int) -> tuple[str, ...]:
        return ()

    def fingerprint(self) -> str:
        return f"{len(self.items)}"


def query_encoder(folder: Path, **fields: Any) -> dict[str, Any]:
    teacher = {"type": "diffusion_teacher", "model": str(folder)}
    block = {"type": "query_encoder", "backbone": TINY_VIT, "queries": 4, "layers": 1, "heads": 2, "train": TRAIN}
    return {**block, "objective": teacher, **fields}


def florence(folder: Path, **fields: Any) -> dict[str, Any]:
    teacher = {"type": "diffusion_teacher", "model": str(folder)}
    block = {"type": "florence2_query", "model": TINY_FLORENCE, "queries": 4, "train": TRAIN}
    return {**block, "objective": teacher, **fields}


def built(block: dict[str, Any], seed: int = 0) -> TaughtEncoder[Any]:
    found = build("encoder", block, ports={}, seed=seed)
    assert isinstance(found, TaughtEncoder)
    return found


def teacher_of(encoder: TaughtEncoder[Any]) -> DiffusionTeacher:
    found = encoder.context.parts["objective"]
    assert isinstance(found, DiffusionTeacher)
    return found


@pytest.fixture(scope="module")
def vit(tmp_path_factory: pytest.TempPathFactory, write_vit: Callable[[Path], Path]) -> Path:
    """A pretrained vision backbone's folder."""
    return write_vit(tmp_path_factory.mktemp("vit"))


@pytest.mark.parametrize("make", [query_encoder, florence])
def test_training_reaches_the_encoder_and_leaves_the_teacher(model: Model, images: list[Any], make: Any) -> None:
    encoder = built(make(model()))
    teacher = teacher_of(encoder)
    theirs = {k: v.clone() for m in teacher.modules().values() for k, v in m.state_dict().items()}
    own = {k: v.clone() for k, v in encoder.tensors().items()}
    encoder.fit(Images(images), MemoryFitting())
    after = encoder.tensors()
    changed = {name for name, value in own.items() if not torch.equal(value, after[name])}
    for word in ("queries", "projector.0.weight", "projector.2.weight", "attn"):
        assert any(word in name for name in changed), word
    assert all(torch.equal(v, theirs[k]) for m in teacher.modules().values() for k, v in m.state_dict().items())
    assert all(p.grad is None for m in teacher.modules().values() for p in m.parameters())


@pytest.mark.parametrize("make", [query_encoder, florence])
def test_gradients_reach_every_trained_part(model: Model, images: list[Any], make: Any) -> None:
    encoder = built(make(model()))
    pixels = torch.stack([encoder.prepare(item, "image") for item in images[:2]])
    batch = torch.stack([teacher_of(encoder).prepare(item) for item in images[:2]])
    torch.autograd.backward(teacher_of(encoder).loss(encoder.read(pixels), batch, Draw.of(["a", "b"], 0)).sum())
    reached = {name for name, module in encoder.modules().items() for p in module.parameters() if p.grad is not None}
    assert reached == set(encoder.modules())
    queries = next(p for m in encoder.modules().values() for n, p in m.named_parameters() if n == "queries")
    assert queries.grad is not None
    assert float(queries.grad.abs().min(dim=1).values.max()) > 0


@pytest.mark.parametrize("backbone", ["drawn", "pretrained"])
def test_spawned_workers_prepare_items(model: Model, vit: Path, images: list[Any], backbone: str) -> None:
    encoder = built(query_encoder(model(), **({} if backbone == "drawn" else {"backbone": str(vit)})))
    again = pickle.loads(pickle.dumps(encoder))
    assert torch.equal(again.prepare(images[0], "image"), encoder.prepare(images[0], "image"))
    assert torch.equal(again.prepare("a red circle", "text"), encoder.prepare("a red circle", "text"))


def test_learning_lowers_the_loss_that_it_is_taught_by(model: Model, images: list[Any]) -> None:
    encoder = built(query_encoder(model(), train={**TRAIN, "steps": 80, "batch_size": 6}))
    teacher = teacher_of(encoder)
    batch = torch.stack([teacher.prepare(item) for item in images])

    def loss() -> float:
        z = encoder.encode(images, "image").values
        draws = [Draw.of(Images(images).keys(), 11, epoch) for epoch in range(20)]
        with torch.no_grad():
            return sum(float(teacher.loss(z, batch, draw).mean()) for draw in draws) / 20

    before = loss()
    encoder.fit(Images(images), MemoryFitting())
    assert loss() < before


def test_texts_are_their_token_embeddings(model: Model) -> None:
    encoder = built(query_encoder(model()))
    found = encoder.encode(["a red circle", "a blue square"], "text")
    assert found.values.shape == (2, 8, 16)
    bundle = teacher_of(encoder).bundle
    ids = bundle.tokenizer(["a red circle", "a blue square"], padding="max_length", max_length=8, return_tensors="pt")
    table = bundle.text_encoder.get_input_embeddings().weight
    assert torch.equal(found.values, table[ids["input_ids"]])
    assert encoder.encode(["a square"], "text").port.conflict(found.port) is None


def test_a_frozen_backbone_is_named_and_not_kept(model: Model, vit: Path, images: list[Any], tmp_path: Path) -> None:
    block = query_encoder(model(), backbone=str(vit), freeze_backbone=True)
    encoder: Any = built(block)
    kept = {k: v.clone() for k, v in encoder.backbone.state_dict().items()}
    encoder.fit(Images(images), MemoryFitting())
    assert all(torch.equal(v, kept[k]) for k, v in encoder.backbone.state_dict().items())
    assert not any("backbone" in name or "patch" in name for name in encoder.tensors())
    assert encoder.frozen()["backbone"].startswith(f"{vit.name}-")
    save_component(encoder, tmp_path / "kept", {"kind": "encoder", "type": "query_encoder"})
    again = built(block, seed=1)
    load_component(again, tmp_path / "kept")
    assert torch.equal(again.encode(images, "image").values, encoder.encode(images, "image").values)


@pytest.mark.parametrize("pretrained", [False, True])
def test_a_trained_backbone_is_kept(
    model: Model, vit: Path, images: list[Any], tmp_path: Path, pretrained: bool
) -> None:
    block = query_encoder(model(), **({"backbone": str(vit)} if pretrained else {}))
    encoder = built(block)
    encoder.fit(Images(images), MemoryFitting())
    assert encoder.frozen() == {}
    save_component(encoder, tmp_path / "kept", {"kind": "encoder", "type": "query_encoder"})
    again = built(block, seed=1)
    load_component(again, tmp_path / "kept")
    assert torch.equal(again.encode(images, "image").values, encoder.encode(images, "image").values)


def test_a_trained_backbone_is_loaded_without_the_one_it_came_from(
    model: Model, vit: Path, images: list[Any], tmp_path: Path
) -> None:
    origin = Path(shutil.copytree(vit, tmp_path / "origin"))
    config = build_config("encoder", query_encoder(model(), backbone=str(origin)))
    ports = {modality: config.emits(modality) for modality in config.modalities}
    registry = Plugins.discover().registry
    encoder = build_component(config, "encoder", registry, BuildContext(ports=ports))
    encoder.fit(Images(images), MemoryFitting())
    save_component(encoder, tmp_path / "kept", {"kind": "encoder", "type": "query_encoder"})
    origin.rename(tmp_path / "gone")
    again = build_component(config, "encoder", registry, BuildContext(seed=1, ports=ports, artefact=tmp_path / "kept"))
    load_component(again, tmp_path / "kept")
    assert torch.equal(again.encode(images, "image").values, encoder.encode(images, "image").values)


def test_a_pretrained_backbone_prepares_images_its_own_way(model: Model, vit: Path, images: list[Any]) -> None:
    encoder = built(query_encoder(model(), backbone=str(vit)))
    expected = (torch.from_numpy(images[0]).permute(2, 0, 1) / 255 - 0.5) / 0.5
    assert torch.allclose(encoder.prepare(images[0], "image"), expected, atol=1e-5)


def test_a_convolutional_backbone(model: Model, images: list[Any]) -> None:
    settings = {
        "model_type": "resnet",
        "image_size": 16,
        "embedding_size": 8,
        "hidden_sizes": [8, 16],
        "depths": [1, 1],
    }
    encoder = built(query_encoder(model(), backbone={**settings, "layer_type": "basic"}))
    assert encoder.encode(images, "image").values.shape == (6, 4, 16)


@pytest.mark.parametrize("kind", ["clip", "siglip"])
def test_of_a_model_of_images_and_texts_the_vision_model_is_taken(
    model: Model, images: list[Any], tmp_path: Path, kind: str
) -> None:
    kinds: Any = {"clip": (CLIPConfig, CLIPModel), "siglip": (SiglipConfig, SiglipModel)}
    settings, network = kinds[kind]
    side = {name: value for name, value in TINY_VIT.items() if name != "model_type"}
    text = {"hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        both = network(settings(vision_config=side, text_config={**text, "vocab_size": 20})).eval()
    origin = tmp_path / "both"
    both.save_pretrained(origin)
    ViTImageProcessorPil(size={"height": 16, "width": 16}).save_pretrained(origin)
    config = build_config("encoder", query_encoder(model(), backbone=str(origin)))
    ports = {modality: config.emits(modality) for modality in config.modalities}
    registry = Plugins.discover().registry
    encoder: Any = build_component(config, "encoder", registry, BuildContext(ports=ports))
    pixels = torch.stack([encoder.prepare(item, "image") for item in images])
    with torch.no_grad():
        expected = both.vision_model(pixel_values=pixels).last_hidden_state
        assert torch.allclose(encoder.backbone(pixel_values=pixels).last_hidden_state, expected, atol=1e-6)
    encoder.fit(Images(images), MemoryFitting())

    save_component(encoder, tmp_path / "kept", {"kind": "encoder", "type": "query_encoder"})
    origin.rename(tmp_path / "gone")
    again = build_component(config, "encoder", registry, BuildContext(seed=1, ports=ports, artefact=tmp_path / "kept"))
    load_component(again, tmp_path / "kept")
    assert torch.equal(again.encode(images, "image").values, encoder.encode(images, "image").values)


@pytest.mark.parametrize(
    "backbone",
    [
        {**TINY_FLORENCE, "model_type": "florence2"},
        {"model_type": "bert", "image_size": 16, "hidden_size": 16, "intermediate_size": 32, "num_attention_heads": 2},
    ],
)
def test_backbones_that_images_alone_cannot_go_through(model: Model, backbone: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match="through which images alone cannot go"):
        built(query_encoder(model(), backbone=backbone))


def test_a_pretrained_florence_trains_its_language_model_alone(model: Model, images: list[Any], tmp_path: Path) -> None:
    settings = {name: value for name, value in TINY_FLORENCE.items() if name != "image_size"}
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        Florence2ForConditionalGeneration(Florence2Config(**settings)).save_pretrained(tmp_path / "florence")
    CLIPImageProcessor(size={"height": 32, "width": 32}, do_center_crop=False).save_pretrained(tmp_path / "florence")
    teacher_of(built(query_encoder(model()))).bundle.tokenizer.save_pretrained(tmp_path / "florence")
    encoder: Any = built(florence(model(), model=str(tmp_path / "florence"), prompt="a red circle"))
    before = {k: v.clone() for k, v in encoder.model.state_dict().items()}
    encoder.fit(Images(images), MemoryFitting())
    changed = {k for k, v in encoder.model.state_dict().items() if not torch.equal(v, before[k])}
    assert changed
    assert all(name.startswith("language_model.") for name in changed)
    assert set(encoder.modules()) == {"queries", "language_model"}
    assert list(encoder.frozen()) == ["vision tower"]
    assert encoder.encode(images, "image").values.shape == (6, 4, 16)


def test_two_spaces_though_of_one_shape(model: Model) -> None:
    encoder = build_config("encoder", query_encoder(model()))
    bridge = build_config("bridge", {"type": "soft_context", "teacher": encoder.objective.model_dump()})
    painter = build_config("decoder", {"type": "diffusion_painter", "teacher": encoder.objective.model_dump()})
    source, text = encoder.emits("image"), encoder.emits("text")
    behind = bridge.crosses(source, text)
    assert (source.tokens, text.tokens, behind.tokens) == (4, 8, 4)
    assert behind.space.id != source.space.id
    painter.check(behind)
    with pytest.raises(PortError, match="soft_context before it"):
        painter.check(source)
    with pytest.raises(PortError, match="soft tokens of its own teacher"):
        bridge.crosses(behind, text)


def test_another_teachers_tokens_are_refused(model: Model) -> None:
    source = build_config("encoder", query_encoder(model())).emits("image")
    other = {"type": "diffusion_teacher", "model": str(model("sample"))}
    with pytest.raises(PortError, match="the same teacher"):
        build_config("bridge", {"type": "soft_context", "teacher": other}).crosses(source, source)
    painter = build_config("decoder", {"type": "diffusion_painter", "teacher": other})
    with pytest.raises(PortError, match="the same teacher"):
        painter.check(source)


def test_more_queries_than_the_text_encoder_takes(model: Model, images: list[Any]) -> None:
    block = query_encoder(model(), queries=9)
    with pytest.raises(PortError, match=r"9 tokens.*8 at most.*fewer queries"):
        build_config("encoder", block).emits("image")
    with pytest.raises(PortError, match=r"9 queries.*8 tokens"):
        built(block).fit(Images(images), MemoryFitting())


def test_items_that_are_no_images(model: Model, images: list[Any]) -> None:
    encoder = built(query_encoder(model()))
    with pytest.raises(DataError, match="found audio items"):
        encoder.fit(Images(images, "audio"), MemoryFitting())
    with pytest.raises(DataError, match="a text was expected"):
        encoder.prepare(3, "text")


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"freeze_backbone": True}, "for pretrained backbones"),
        ({"backbone": {"hidden_size": 8}}, "model_type"),
        ({"backbone": "not a name"}, "an id on the hub"),
        ({"objective": {"type": "diffusion_painter"}}, "no such objective"),
    ],
)
def test_configs_that_cannot_be(model: Model, changes: dict[str, Any], told: str) -> None:
    with pytest.raises((ConfigError, DataError), match=told):
        build_config("encoder", query_encoder(model(), **changes))


def test_a_backbones_folder_that_is_not_there_is_told_by_the_plan(model: Model) -> None:
    config = build_config("encoder", query_encoder(model(), backbone="./nowhere"))
    with pytest.raises(DataError, match="no such folder"):
        config.emits("image")


def test_settings_of_small_models_that_the_library_does_not_know(model: Model) -> None:
    with pytest.raises(ConfigError, match=r"ViTConfig knows no setting hiden_size; .*hidden_size"):
        built(query_encoder(model(), backbone={**TINY_VIT, "hiden_size": 16}))
    words = {**TINY_FLORENCE["text_config"], "d_modle": 16}
    with pytest.raises(ConfigError, match=r"text_config: .*BartConfig knows no setting d_modle"):
        built(florence(model(), model={**TINY_FLORENCE, "text_config": words}))
    # Names that stand for another are settings too.
    words = {("num_hidden_layers" if k == "encoder_layers" else k): v for k, v in TINY_FLORENCE["text_config"].items()}
    built(florence(model(), model={**TINY_FLORENCE, "text_config": words}))


def test_heads_that_cannot_share_the_backbones_states(model: Model) -> None:
    with pytest.raises(ConfigError, match="16 wide, which 3 heads"):
        built(query_encoder(model(), heads=3))


def test_a_small_teacher_is_taught_first(images: list[Any]) -> None:
    encoder = built({**query_encoder(Path("x")), "objective": TINY_TEACHER})
    with pytest.raises(Exception, match="to be trained"):
        encoder.encode(["a text"], "text")
