"""`fid`, `clip_score` and `repainted`, against the libraries' own classes and plain linear algebra."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

import modbridge_vlv.fid_features
import numpy as np
import pytest
import torch
import yaml
from diffusers import StableDiffusionPipeline
from modbridge_vlv.examples import LONGEST, SIDE, write_clip, write_pipeline, write_vit
from modbridge_vlv.plugin import TINY_TEACHER, TINY_VIT
from PIL import Image
from torchmetrics.functional.multimodal import clip_score as their_clip_score
from torchmetrics.image.fid import FrechetInceptionDistance
from transformers import AutoImageProcessor, AutoTokenizer, CLIPModel, ViTModel

from modbridge.assembly.build import build_metric
from modbridge.errors import ArtefactError, ConfigError, DataError
from modbridge.interfaces import Decoded, Reference, Scoring
from modbridge.plugins.manager import Plugins
from modbridge.testing import build_config
from modbridge.testing.conformance import toys
from modbridge.training import derived_seed

Row = dict[str, Any]
COUNT = 6


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Tiny models on disk, made when they are asked for, not to be changed."""
    made: dict[str, Path] = {}
    write = {"vit": write_vit, "clip": write_clip, "pipeline": write_pipeline}

    def find(name: str) -> Path:
        if name not in made:
            made[name] = write[name](tmp_path_factory.mktemp(name) / name)
        return made[name]

    return find


def metric(**block: Any) -> Any:
    return build_metric(build_config("metric", block), Plugins.discover().registry)


def noise(count: int, seed: int, size: tuple[int, int] = (SIDE, SIDE)) -> list[Any]:
    random = np.random.default_rng(seed)
    return [random.integers(0, 256, (*size, 3), dtype=np.uint8) for _ in range(count)]


def references(items: Sequence[Any] | None = None) -> list[Reference]:
    items = items or [np.asarray(toys.image(row)) for row in range(COUNT)]
    return [Reference(str(row), toys.captions(row), read=partial(items.__getitem__, row)) for row in range(len(items))]


def painted(items: Sequence[Any]) -> list[Decoded]:
    return [Decoded(str(row), "", image=item) for row, item in enumerate(items)]


def written(count: int = COUNT) -> list[Decoded]:
    return [Decoded(str(row), toys.captions(row)[0]) for row in range(count)]


def frechet(one: Any, other: Any) -> float:
    """The distance by the symmetric form of its trace: the roots of A B' are singular values of the centred rows."""
    a, b = (np.asarray(rows, dtype=np.float64) for rows in (one, other))
    x, y = ((rows - rows.mean(0)) / np.sqrt(len(rows) - 1) for rows in (a, b))
    cross = np.linalg.svd(x @ y.T, compute_uv=False).sum()
    return float(((a.mean(0) - b.mean(0)) ** 2).sum() + (x**2).sum() + (y**2).sum() - 2 * cross)


def vit_features(folder: Path, items: Sequence[Any]) -> Any:
    network: Any = ViTModel.from_pretrained(folder)
    pixels = torch.tensor(np.stack(items)).permute(0, 3, 1, 2) / 127.5 - 1
    with torch.no_grad():
        return network(pixel_values=pixels).last_hidden_state.mean(1).double().numpy()


def test_the_distance_of_pictures_from_the_items(folders: Callable[[str], Path]) -> None:
    one, other = noise(40, 1), [255 - item // 3 for item in noise(40, 2)]
    found = metric(type="fid", features=str(folders("vit")), batch_size=7).score(painted(one), references(other))
    assert set(found) == {"frechet_distance"}
    score = found["frechet_distance"]
    wanted = frechet(*(vit_features(folders("vit"), items) for items in (one, other)))
    assert score.corpus == pytest.approx(wanted, rel=1e-4)
    assert not score.higher_is_better
    assert not score.items
    assert "so no FID" in score.note
    assert "too few" not in score.note
    few = metric(type="fid", features=str(folders("vit"))).score(painted(one[:9]), references(other[:9]))
    assert "9 pictures for 16 features: too few" in few["frechet_distance"].note
    same = metric(type="fid", features=str(folders("vit"))).score(painted(one), references(one))
    assert same["frechet_distance"].corpus == pytest.approx(0, abs=1e-4)


def test_the_square_in_the_middle(folders: Callable[[str], Path]) -> None:
    wide, other = noise(20, 1, (SIDE, SIDE + 10)), noise(20, 2)
    crop = metric(type="fid", features=str(folders("vit")), crop=True).score(painted(wide), references(other))
    cut = [item[:, 5 : 5 + SIDE] for item in wide]
    wanted = frechet(*(vit_features(folders("vit"), items) for items in (cut, other)))
    assert crop["frechet_distance"].corpus == pytest.approx(wanted, rel=1e-4)
    whole = metric(type="fid", features=str(folders("vit"))).score(painted(wide), references(other))
    assert whole["frechet_distance"].corpus != pytest.approx(wanted, rel=1e-3)


class Mean(torch.nn.Module):
    """Stands in for Inception, which takes pictures of any size: their mean colour. It counts what it is given."""

    num_features, taken = 3, 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        self.taken += pixels.nbytes
        return pixels.float().mean((2, 3))


def test_large_pictures_of_many_sizes_do_not_wait_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """Photographs as they are, of which no two may have one size."""
    network = Mean()
    monkeypatch.setattr(modbridge_vlv.fid_features, "_inception", lambda _: FrechetInceptionDistance(feature=network))
    monkeypatch.setattr(modbridge_vlv.fid_features, "WAITING_BYTES", 10_000)
    seeing = modbridge_vlv.fid_features.Frechet(build_config("metric", {"type": "fid"}), torch.device("cpu"))
    before, given, most = network.taken, 0, 0
    pictures = [picture for width in range(20, 60) for picture in noise(1, width, (20, width))]

    def photographs() -> Any:
        nonlocal given, most
        for picture in pictures:
            given += picture.nbytes
            most = max(most, given - (network.taken - before))
            yield picture

    seeing.see(photographs(), real=True)
    assert network.taken - before == given
    assert most < 10_000 + max(picture.nbytes for picture in pictures)
    others = noise(9, 1)
    seeing.see(others, real=False)
    wanted = frechet(*([one.mean((0, 1)) for one in of] for of in (pictures, others)))
    assert seeing.distance() == pytest.approx(wanted, rel=1e-4)


def test_what_is_called_fid_is_inceptions(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """On random weights of Inception's own shape, pictures of two sizes; features by torch-fidelity's class."""
    theirs: Any = import_module("torch_fidelity.feature_extractor_inceptionv3")

    file = tmp_path / "inception.pth"
    with torch.random.fork_rng(devices=[]), monkeypatch.context() as patch:
        torch.manual_seed(0)
        patch.setattr(torch.nn.Module, "load_state_dict", lambda self, state: None)
        patch.setattr(theirs, "load_state_dict_from_url", lambda *_, **__: {})
        network = theirs.FeatureExtractorInceptionV3("inception-v3-compat", ["2048"])
    torch.save(network.state_dict(), file)
    told = metric(type="fid", inception_weights=str(file))
    one, other = noise(3, 1, (299, 299)), [item // 2 for item in noise(3, 2, (299, 299))]
    with pytest.raises(DataError, match=r"sha256 begins with .*, expected 6726825d\. Fetch https"):
        told.score(painted(one), references(other))
    monkeypatch.setattr(modbridge_vlv.fid_features, "INCEPTION_DIGEST", "")
    sizes: list[tuple[int, ...]] = []
    real: Any = torch.linalg.eigvals  # of 2048 features it takes half a minute; its roots are known otherwise

    def roots(product: torch.Tensor) -> Any:
        sizes.append(tuple(product.shape))
        return real(small(product))

    def small(product: torch.Tensor) -> Any:
        basis = torch.linalg.qr(torch.cat([x, y]).T).Q  # both covariances live in the span of the pictures
        return basis.T @ product @ basis

    with torch.no_grad():
        features = [network(torch.tensor(np.stack(items)).permute(0, 3, 1, 2))[0].double() for items in (one, other)]
    x, y = (rows - rows.mean(0) for rows in features)
    monkeypatch.setattr(torch.linalg, "eigvals", roots)
    found = told.score(painted(one), references(other))
    assert sizes == [(2048, 2048)]
    assert found["fid"].corpus == pytest.approx(frechet(*(rows.numpy() for rows in features)), rel=1e-3)
    assert "3 pictures for 2048 features" in found["fid"].note


def test_without_inception_the_column_says_what_to_do(
    call: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCH_HOME", str(tmp_path))
    found = metric(type="fid").score(painted(noise(2, 1)), references(noise(2, 2)))
    assert found["fid"].corpus is None
    assert "https://github.com/toshas/torch-fidelity" in found["fid"].note
    assert str(tmp_path / "hub" / "checkpoints") in found["fid"].note
    config: Any = build_config("metric", {"type": "fid"})
    (tmp_path / "hub" / "checkpoints").mkdir(parents=True)
    told = call("doctor", "--json", toy=False).out
    assert "Inception's weights for FID are here" in told
    assert "https://github.com/toshas/torch-fidelity" in told
    config.inception.write_bytes(b"")
    assert config.missing() is None


def their_clip(folder: Path) -> Callable[[], Any]:
    """A CLIP as torchmetrics wants it: transformers 5 gives objects where it expects vectors."""
    network: Any = CLIPModel.from_pretrained(folder)
    reader: Any = AutoImageProcessor
    pictures, words = reader.from_pretrained(folder), AutoTokenizer.from_pretrained(folder)
    for name in ("get_image_features", "get_text_features"):
        own = getattr(network, name)
        setattr(network, name, lambda *given, own=own: own(*given).pooler_output)

    def processor(text: Any = None, images: Any = None, **options: Any) -> Any:
        return pictures(images=images, return_tensors="pt") if text is None else words(text, **options)

    return lambda: (network, processor)


def test_captions_against_the_items(folders: Callable[[str], Path]) -> None:
    judged, said = references(), [Decoded(str(row), toys.captions(row % 4)[0]) for row in range(COUNT)]
    found = metric(type="clip_score", model=str(folders("clip")), batch_size=4).score(said, judged)["clip_score"]
    pictures = [torch.tensor(of.media).permute(2, 0, 1) for of in judged]
    for row, item in enumerate(found.items):
        theirs = their_clip_score(pictures[row], said[row].text, their_clip(folders("clip"))).item()
        assert max(item, 0.0) == pytest.approx(theirs, abs=1e-3)
    assert found.corpus == pytest.approx(np.mean(found.items))
    assert found.items[0] > 30  # it has learnt which goes with which
    assert not found.note


def test_painted_pictures_against_the_captions(folders: Callable[[str], Path]) -> None:
    judged, made = references(), [np.asarray(toys.image((row + 1) % COUNT)) for row in range(COUNT)]
    scored = metric(type="clip_score", of="image", model=str(folders("clip"))).score(painted(made), judged)
    for row, item in enumerate(scored["clip_score"].items):
        picture = torch.tensor(made[row]).permute(2, 0, 1)
        theirs = []
        for text in toys.captions(row):
            words = " ".join(text.split()[: LONGEST - 2])  # torchmetrics cuts the end token off, where CLIP looks
            theirs.append(their_clip_score([picture, picture], [words] * 2, their_clip(folders("clip"))).item())
        if min(theirs) > 0:
            assert item == pytest.approx(np.mean(theirs), abs=1e-3)
    with pytest.raises(DataError, match="'0' has no caption"):
        metric(type="clip_score", of="image", model=str(folders("clip"))).score(
            painted(made[:1]), [Reference("0", (), read=lambda: made[0])]
        )


def test_long_captions_keep_their_end(folders: Callable[[str], Path]) -> None:
    long = "a red circle on black picture shows one square"
    cut = " ".join(long.split()[: LONGEST - 2])
    clip = metric(type="clip_score", model=str(folders("clip")))
    one, other = (clip.score([Decoded("0", text)], references()[:1])["clip_score"] for text in (long, cut))
    assert one.corpus == pytest.approx(other.corpus, abs=1e-5)
    assert one.note == f"1 texts are longer than the {LONGEST} tokens that CLIP reads, and were cut"
    assert not other.note


def repainting(folders: Callable[[str], Path], **fields: Any) -> Any:
    block = {"model": str(folders("pipeline")), "features": str(folders("vit")), "clip": str(folders("clip"))}
    return metric(**{"type": "repainted", **block, "steps": 3, "guidance": [1, 2.5], "paint_batch_size": 4, **fields})


def test_captions_are_painted_by_the_pipeline(folders: Callable[[str], Path], tmp_path: Path) -> None:
    judged, keep = references(), tmp_path / "kept"
    found = repainting(folders, keep=str(keep), seed=5).score(written(), judged)
    assert list(found) == [
        "repainted_frechet_distance_g1",
        "repainted_frechet_distance_g2_5",
        "repainted_clip_score_g1",
        "repainted_clip_score_g2_5",
    ]
    files = list(keep.rglob("*.png"))
    assert len(files) == 2 * COUNT
    kind: Any = StableDiffusionPipeline
    pipeline = kind.from_pretrained(folders("pipeline"), safety_checker=None)
    kept = sorted(np.asarray(Image.open(file)).tobytes() for file in files)
    theirs, pictures = [], []
    for row in range(COUNT):
        draw = torch.Generator().manual_seed(derived_seed("repainted", 5, str(row)))
        made = pipeline(toys.captions(row)[0], num_inference_steps=3, guidance_scale=2.5, generator=draw).images[0]
        pictures.append(np.asarray(made))
        draw.manual_seed(derived_seed("repainted", 5, str(row)))
        plain = pipeline(toys.captions(row)[0], num_inference_steps=3, guidance_scale=1.0, generator=draw).images[0]
        theirs += [pictures[-1].tobytes(), np.asarray(plain).tobytes()]
    off = [
        np.abs(np.frombuffer(a, np.uint8).astype(int) - np.frombuffer(b, np.uint8)).max()
        for a, b in zip(kept, sorted(theirs), strict=True)
    ]
    assert max(off) <= 1  # of bytes, where batches differ in rounding
    items = [of.media for of in judged]
    resized = [np.asarray(Image.fromarray(item).resize((SIDE, SIDE), Image.Resampling.BILINEAR)) for item in items]
    wanted = frechet(*(vit_features(folders("vit"), of) for of in (pictures, resized)))
    assert found["repainted_frechet_distance_g2_5"].corpus == pytest.approx(wanted, rel=5e-3)
    agreed = metric(type="clip_score", of="image", model=str(folders("clip"))).score(painted(pictures), judged)
    assert found["repainted_clip_score_g2_5"].items == pytest.approx(agreed["clip_score"].items, abs=0.3)


def test_what_was_painted_is_not_painted_again(folders: Callable[[str], Path], tmp_path: Path) -> None:
    first = repainting(folders)
    first.judge(written(), references(), Scoring(tmp_path))
    files = {file: file.stat().st_mtime_ns for file in tmp_path.rglob("*.png")}
    gone = sorted(files)[:2]
    before = [file.read_bytes() for file in gone]
    for file in gone:
        file.unlink()
    told: list[tuple[str, int, int]] = []
    seen = Scoring().progress

    def progress(label: str, total: int, done: int = 0) -> Any:
        told.append((label, total, done))
        return seen(label, total, done)

    repainting(folders).judge(written(), references(), Scoring(tmp_path, progress))
    assert ("repainting", 2 * COUNT, 2 * COUNT - 2) in told
    assert [file.read_bytes() for file in gone] == before
    assert all(file.stat().st_mtime_ns == when for file, when in files.items() if file not in gone)
    # Another caption, seed or number of steps is another picture.
    repainting(folders, steps=2, clip=None).judge(written(), references(), Scoring(tmp_path))
    assert len(list(tmp_path.rglob("*.png"))) == 4 * COUNT
    assert not list(tmp_path.rglob("*.part"))


def test_two_runs_may_paint_into_one_folder(
    folders: Callable[[str], Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The second paints all while the first is between writing a picture and giving it its name."""
    save, second = Image.Image.save, repainting(folders, keep=str(tmp_path / "kept"), clip=None)

    def saved(self: Image.Image, *args: Any, **more: Any) -> None:
        save(self, *args, **more)
        monkeypatch.setattr(Image.Image, "save", save)
        second.score(written(), references())

    monkeypatch.setattr(Image.Image, "save", saved)
    found = repainting(folders, keep=str(tmp_path / "kept"), clip=None).score(written(), references())
    alone = repainting(folders, keep=str(tmp_path / "alone"), clip=None).score(written(), references())
    assert found == alone
    assert len(list((tmp_path / "kept").rglob("*"))) == len(list((tmp_path / "alone").rglob("*")))


@pytest.mark.parametrize(
    ("fields", "words"),
    [
        ({"guidance": []}, "guidance"),
        ({"guidance": [2, 2.0]}, "each guidance once"),
        ({"options": {"generator": 3}}, "generator are given by the metric's own fields"),
        ({"antialias": False}, "are of features: inception"),
        ({"features": "inception", "features_revision": "x"}, "not of inception"),
        ({"model": "no such/name/at all"}, "owner/name"),
    ],
)
def test_wrong_fields(folders: Callable[[str], Path], fields: Row, words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        repainting(folders, **fields)


def test_models_that_will_not_do(folders: Callable[[str], Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"options: StableDiffusionPipeline takes no hight .*height"):
        repainting(folders, options={"hight": 32}).score(written(), references())
    with pytest.raises(DataError, match=r"found no model_index\.json"):
        build_config("metric", {"type": "repainted", "model": str(folders("vit"))}).key_fields()
    with pytest.raises(ConfigError, match="ViTModel, which has no vectors of texts"):
        metric(type="clip_score", model=str(folders("vit"))).score(written(), references())
    with pytest.raises(DataError, match="no such folder"):
        metric(type="clip_score", model=str(tmp_path / "gone")).score(written(), references())
    with pytest.raises(ConfigError, match="ViTModel, which has no vectors of texts"):
        repainting(folders, clip=str(folders("vit"))).judge(written(), references(), Scoring(tmp_path / "work"))
    assert not (tmp_path / "work").exists()  # told before anything is painted
    broken = write_pipeline(tmp_path / "pipeline")
    next((broken / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(ArtefactError, match="cannot be loaded as a text-to-image pipeline"):
        repainting(folders, model=str(broken)).score(written(), references())


@pytest.mark.parametrize("block", [{"type": "clip_score"}, {"type": "repainted"}])
def test_models_of_the_hub_are_told_beforehand(block: Row, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    config: Any = build_config("metric", block)
    assert "hf download openai/clip-vit-large-patch14" in config.missing()
    found = metric(**block).score(written(), references())
    assert all(score.corpus is None and "hf download" in score.note for score in found.values())


def test_a_folder_counts_by_what_it_holds(folders: Callable[[str], Path], tmp_path: Path) -> None:
    def fields(**block: Any) -> Any:
        return build_config("metric", block).key_fields()

    first = fields(type="clip_score", model=str(folders("clip")))
    (tmp_path / "clip").symlink_to(folders("clip"))
    assert fields(type="clip_score", model=str(tmp_path / "clip")) == first
    other = write_clip(tmp_path / "other" / "clip")
    (other / "config.json").write_text((other / "config.json").read_text() + "\n")
    assert fields(type="clip_score", model=str(other)) != first
    few, many = (fields(type="repainted", model=str(folders("pipeline")), paint_batch_size=n) for n in (1, 9))
    assert few == many


def test_a_run_with_all_three(call: Callable[..., Any], folders: Callable[[str], Path], tmp_path: Path) -> None:
    teacher = {
        **TINY_TEACHER,
        "resolution": 32,
        "text_encoder": {**TINY_TEACHER["text_encoder"], "max_position_embeddings": 16},
    }
    clip, vit = str(folders("clip")), str(folders("vit"))
    taught = {"backbone": {**TINY_VIT, "image_size": 32}, "queries": 4, "layers": 1, "heads": 2, "objective": teacher}
    data = {"type": "drawn_scenes", "captions": 2}
    config = {
        "name": "pictures",
        "data": {"train": {**data, "split": "train", "count": 24}, "test": {**data, "split": "test", "count": 4}},
        "encoder": {"type": "query_encoder", **taught, "train": {"steps": 4, "batch_size": 8}},
        "bridge": {"type": "soft_context", "teacher": teacher},
        "decoder_input": "source",
        "decoder": {
            "type": "prefix_lm", "mapper": "tokens", "tokenizer": "words", "epochs": 1,
            "lm": {"n_layer": 1, "n_head": 2, "n_embd": 16, "n_positions": 64}, "generate": {"max_new_tokens": 8},
        },
        "decoders": {"image": {"type": "diffusion_painter", "teacher": teacher, "steps": 3}},
        "metrics": [
            {"type": "fid", "features": vit},
            {"type": "clip_score", "model": clip},
            {"type": "clip_score", "of": "image", "model": clip},
            {
                "type": "repainted", "model": str(folders("pipeline")), "features": vit, "steps": 2, "guidance": 2,
                "clip": None,
            },
        ],
    }  # fmt: skip
    path = tmp_path / "pictures.yaml"
    path.write_text(yaml.safe_dump(config), encoding="utf-8")
    done = call("run", path, "--out", tmp_path / "run", "--json", toy=False)
    assert done.code == 0, done.err
    row = done.json["rows"][0]
    made = [Image.open(file) for file in sorted((tmp_path / "run" / "images").rglob("*.png"))]
    assert len(made) == 4
    assert row["image_frechet_distance"] > 0
    assert np.isfinite([row["clip_score"], row["image_clip_score"], row["repainted_frechet_distance_g2"]]).all()
    assert "so no FID" in row["notes"]["image_frechet_distance"]
    lines = [json.loads(line) for line in (tmp_path / "run" / "predictions.jsonl").read_text().splitlines()]
    assert len(lines) == 4
    again = call("run", path, "--out", tmp_path / "run", "--set", "metrics.3.paint_batch_size=1", toy=False)
    assert "0 stages done" in again.err
