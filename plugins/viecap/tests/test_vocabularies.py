"""Lists of names: the packaged ones are the published ones, files of every form are read, wrong ones are told."""

from __future__ import annotations

import csv
import json
from pathlib import Path
from typing import Any

import pytest
from modbridge_viecap.matcher import Matcher
from modbridge_viecap.vocabulary import (
    AudioSetVocabulary,
    CocoVocabulary,
    NamesVocabulary,
    OpenImagesVocabulary,
    VinVLVocabulary,
    VisualGenomeVocabulary,
)
from modbridge_viecap.vocabulary_config import (
    AudioSetConfig,
    CocoConfig,
    NamesConfig,
    OpenImagesConfig,
    VinVLConfig,
    VisualGenomeConfig,
)
from pydantic import ValidationError

from modbridge.errors import DataError
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.vocabulary import Vocabulary
from modbridge.spaces import Port, Space

SPACE = Space(id="toy", dim=4, normalised=True)
TWO = NamesConfig(names=["red circle", "dog"])


def beside(modality: str) -> BuildContext:
    return BuildContext(
        ports={"text": Port(space=SPACE, modality="text"), "source": Port(space=SPACE, modality=modality)}
    )


def listed(config: NamesConfig, modality: str = "image") -> NamesVocabulary:
    return NamesVocabulary(config, beside(modality))


def file(folder: Path, name: str, text: str) -> str:
    (folder / name).write_text(text, encoding="utf-8")
    return str(folder / name)


def test_packaged_lists_are_the_published_ones(requires_data: Path) -> None:
    folder = requires_data / "vocabularies"
    coco = CocoVocabulary(CocoConfig(), beside("image")).names()
    assert coco == json.loads((folder / "coco_categories.json").read_text())
    assert len(coco) == 80
    whole = AudioSetVocabulary(AudioSetConfig(split_commas=False), beside("audio")).names()
    with (folder / "audioset_class_labels_indices.csv").open(newline="") as table:
        rows = list(csv.DictReader(table))
    assert whole == [row["display_name"].lower() for row in rows]
    assert len(whole) == 527


def test_published_files_are_read(requires_data: Path) -> None:
    folder = requires_data / "vocabularies"
    genome: Vocabulary[Any] = VisualGenomeVocabulary(
        VisualGenomeConfig(path=str(folder / "vg_1600_objects_vocab.txt")), beside("image")
    )
    assert len(genome.names()) == len(set(genome.names())) == 1600
    assert len(genome.synonyms()) == 24
    assert genome.synonyms()["tshirt"] == ("t-shirt", "t shirt")
    images = OpenImagesVocabulary(
        OpenImagesConfig(path=str(folder / "oidv7-class-descriptions-boxable.csv")), beside("image")
    )
    assert len(images.names()) == len(set(images.names())) == 601
    assert {"bat", "orange", "wine glass"} <= set(images.names())
    assert not any("(" in name for name in images.names())


def test_classes_of_sounds_are_their_names() -> None:
    split = AudioSetVocabulary(AudioSetConfig(), beside("audio"))
    assert len(split.names()) == len(set(split.names())) == 609
    assert split.names()[:3] == ["speech", "male speech", "man speaking"]
    assert "roaring cats (lions, tigers)" in split.names()
    whole = AudioSetVocabulary(AudioSetConfig(split_commas=False), beside("audio"))
    text = "A man speaks while a police car passes"
    assert Matcher(split.names(), split.synonyms()).find(text) == [
        "man speaking",
        "police car (siren)",
        "laughter",
    ] or (Matcher(split.names(), split.synonyms()).find(text)[:2] == ["man speaking", "police car (siren)"])
    assert Matcher(whole.names(), whole.synonyms()).find(text)[0] == "male speech, man speaking"


def test_an_ontology_says_which_names_are_broader(tmp_path: Path) -> None:
    nodes = [
        {"id": "/m/0dgw9r", "name": "Human sounds", "child_ids": ["/m/09l8g"]},
        {"id": "/m/09l8g", "name": "Human voice", "child_ids": ["/m/09x0r"]},
        {"id": "/m/09x0r", "name": "Speech", "child_ids": ["/m/05zppz", "/m/02zsn"]},
        {"id": "/m/05zppz", "name": "Male speech, man speaking", "child_ids": []},
        {"id": "/m/02zsn", "name": "Female speech, woman speaking", "child_ids": []},
    ]
    config = AudioSetConfig(ontology=file(tmp_path, "ontology.json", json.dumps(nodes)))
    assert AudioSetVocabulary(config, beside("audio")).parents() == {
        name: frozenset({"speech"}) for name in ("male speech", "man speaking", "female speech", "woman speaking")
    }
    assert AudioSetVocabulary(AudioSetConfig(), beside("audio")).parents() == {}
    bad = AudioSetConfig(ontology=file(tmp_path, "bad.json", "[1]"))
    with pytest.raises(DataError, match="child_ids"):
        AudioSetVocabulary(bad, beside("audio")).parents()


def test_other_words_for_cocos_names_are_found_as_these() -> None:
    vocabulary = CocoVocabulary(CocoConfig(), beside("image"))
    matcher = Matcher(vocabulary.names(), vocabulary.synonyms())
    assert matcher.find("Two women with phones on a sofa watch television") == ["person", "cell phone", "couch", "tv"]
    assert matcher.find("a baby elephant by a table with doughnuts") == ["elephant", "dining table", "donut"]
    for name, words in vocabulary.synonyms().items():
        assert all(matcher.find(word) == [name] for word in words)


def test_templates_go_by_the_modality_unless_they_are_given() -> None:
    image = listed(TWO).prompts()
    assert [len(texts) for texts in image] == [7, 7]
    assert image[0][0] == "itap of a red circle."
    assert image[1][6] == "a photo of the small dog."
    assert listed(TWO, "audio").prompts() == [["red circle"], ["dog"]]
    given = NamesConfig(names=["dog"], templates=["the sound of a {}", "{}"])
    assert listed(given).prompts() == listed(given, "audio").prompts() == [["the sound of a dog", "dog"]]


@pytest.mark.parametrize("template", ["a photo", "{} and {}", "{name}"])
def test_a_template_has_one_place_for_the_name(template: str) -> None:
    with pytest.raises(ValidationError, match=r"expected one \{\}") as told:
        NamesConfig(names=["dog"], templates=["{}", template])
    assert repr(template) in str(told.value)


def test_names_inline_are_normalised_and_each_once() -> None:
    assert listed(NamesConfig(names=[" Red  Circle", "dog"])).names() == ["red circle", "dog"]
    with pytest.raises(ValidationError, match="red circle, dog: found more than once"):
        NamesConfig(names=["Red circle", "red  circle", "dog", "cat", "Dog"])
    with pytest.raises(ValidationError, match="empty"):
        NamesConfig(names=["dog", " "])
    with pytest.raises(ValidationError, match="at least 1 item"):
        NamesConfig(names=[])
    for names, path in ((None, None), (["dog"], "names.txt")):
        with pytest.raises(ValidationError, match="either `names`"):
            NamesConfig(names=names, path=path)


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("names.txt", "Dog\n\n red  circle\n"),
        ("names.json", '["dog", "Red circle"]'),
        ("numbers.json", '{"red circle": 1, "dog": 0}'),
        ("names.csv", 'id,name\n1,Dog\n2,"red circle"\n'),
    ],
)
def test_names_are_read_from_files(tmp_path: Path, name: str, text: str) -> None:
    assert listed(NamesConfig(path=file(tmp_path, name, text))).names() == ["dog", "red circle"]


@pytest.mark.parametrize(
    ("name", "text", "told"),
    [
        ("names.txt", "dog\ncat\nDog\n", "1 names twice \\(dog\\)"),
        ("names.txt", "\n \n", "found no names"),
        ("names.json", "{", "is no JSON"),
        ("names.json", '[1, "dog"]', "a list of names"),
        ("names.csv", "label\ndog\n", "found the columns label"),
        ("names.yaml", "dog", "expected .txt, .json or .csv"),
    ],
)
def test_wrong_files_are_told(tmp_path: Path, name: str, text: str, told: str) -> None:
    with pytest.raises(DataError, match=told):
        listed(NamesConfig(path=file(tmp_path, name, text))).names()


def test_a_missing_file_is_told_when_its_names_are_needed(tmp_path: Path) -> None:
    path = str(tmp_path / "none.txt")
    for vocabulary in (
        listed(NamesConfig(path=path)),
        VisualGenomeVocabulary(VisualGenomeConfig(path=path), beside("image")),
        VinVLVocabulary(VinVLConfig(path=path), beside("image")),
        OpenImagesVocabulary(OpenImagesConfig(path=path), beside("image")),
    ):
        with pytest.raises(DataError, match=r"none\.txt: cannot be read .*; expected"):
            vocabulary.names()


def test_files_of_detectors_are_read_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    numbers = '{"Zebra": 2, "apple": 3, "__background__": 0, "hot dog": 1}'
    vinvl = VinVLVocabulary(VinVLConfig(path=file(tmp_path, "vinvl.json", numbers)), beside("image"))
    assert vinvl.names() == ["hot dog", "zebra", "apple"]
    graph = file(tmp_path, "dicts.json", f'{{"label_to_idx": {numbers}, "object_count": {{}}}}')
    genome = VisualGenomeVocabulary(VisualGenomeConfig(path=graph), beside("image"))
    assert genome.names() == vinvl.names()
    with pytest.raises(DataError, match="gives each name its number"):
        VinVLVocabulary(VinVLConfig(path=graph), beside("image")).names()


def test_a_suffix_stays_where_two_names_need_it(tmp_path: Path) -> None:
    text = "/m/1,Bat (Animal)\n/m/2,Bat (Sport)\n/m/3,Orange (fruit)\n"
    for name, head in (("bare.csv", ""), ("headed.csv", "LabelName,DisplayName\n")):
        config = OpenImagesConfig(path=file(tmp_path, name, head + text))
        assert OpenImagesVocabulary(config, beside("image")).names() == ["bat (animal)", "bat (sport)", "orange"]
    with pytest.raises(DataError, match="LabelName,DisplayName"):
        OpenImagesVocabulary(OpenImagesConfig(path=file(tmp_path, "no.csv", "a,b\nc,d\n")), beside("image")).names()


def test_a_file_counts_by_its_content(tmp_path: Path) -> None:
    one, same = file(tmp_path, "one.txt", "dog\n"), file(tmp_path, "same.txt", "dog\n")
    other = file(tmp_path, "other.txt", "cat\n")
    keys = [NamesConfig(path=path).key_fields() for path in (one, same, other)]
    assert keys[0] == keys[1] != keys[2]
    sounds = AudioSetConfig(ontology=one)
    assert sounds.key_fields() == AudioSetConfig().key_fields()  # broader names do not change vectors
    assert sounds.key_fields("decode") == AudioSetConfig(ontology=same).key_fields("decode")
    assert sounds.key_fields("decode") != AudioSetConfig(ontology=other).key_fields("decode")
