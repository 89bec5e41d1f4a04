"""The names that captions give: extractors, filters, each by itself, masks that batches leave alone."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest
from modbridge_viecap.entities_config import Entities
from modbridge_viecap.extractors import Extractor, build_extractor
from modbridge_viecap.filters import PEOPLE, EntityFilter, masked, shuffled, stop_words
from modbridge_viecap.name_files import packaged
from pydantic import ValidationError

from modbridge.errors import SetupError

NAMES = ["dog", "couch", "glasses", "hot dog", "stand", "red circle"]
SYNONYMS = {"couch": ["sofa"]}
CAPTIONS = ["Two men sit on a sofa by their dogs", "a woman with glasses runs", "quickly and slowly"]


def extractor(kind: str, **more: Any) -> Extractor:
    return build_extractor(Entities.model_validate({"extractor": kind, **more}), NAMES, SYNONYMS)


def keep(words: list[str], **config: Any) -> list[str]:
    return EntityFilter(Entities(**config), NAMES, SYNONYMS).keep(words)


def test_the_vocabulary_extractor_finds_names_and_synonyms_in_order() -> None:
    assert extractor("vocabulary").extract([*CAPTIONS, "hot dogs on a couch, a Sofa"]) == [
        ["couch", "dog"],
        ["glasses"],
        [],
        ["hot dog", "couch"],
    ]


def test_a_vocabulary_of_people_knows_all_common_words_for_them() -> None:
    texts = ["a guy and a male lion"]
    with_people = build_extractor(Entities(), ["woman", "lion"], {})
    assert with_people.extract(texts) == [["guy", "lion"]]
    assert build_extractor(Entities(people=False), ["woman", "lion"], {}).extract(texts) == [["lion"]]
    assert build_extractor(Entities(), ["lion"], {}).extract(texts) == [["lion"]]


def test_textblob_finds_nouns_and_their_lemmas() -> None:
    pytest.importorskip("textblob")
    assert extractor("textblob").extract(CAPTIONS) == [["man", "sofa", "dog"], ["woman", "glasses"], []]


def test_nltk_says_which_data_it_lacks(monkeypatch: pytest.MonkeyPatch) -> None:
    nltk = pytest.importorskip("nltk")
    monkeypatch.setattr(nltk.data, "path", [])
    with pytest.raises(SetupError, match=r"punkt_tab, averaged_perceptron_tagger_eng and wordnet.*nltk\.downloader"):
        extractor("nltk")


def test_nltk_keeps_common_nouns_as_the_authors_do(monkeypatch: pytest.MonkeyPatch) -> None:
    nltk, stem = pytest.importorskip("nltk"), pytest.importorskip("nltk.stem")

    tags = {"Dogs": "NNS", "Paris": "NNP", "run": "VBP", "dog": "NN"}
    monkeypatch.setattr(nltk, "word_tokenize", str.split)
    monkeypatch.setattr(nltk, "pos_tag", lambda words: [(word, tags.get(word, "IN")) for word in words])
    monkeypatch.setattr(stem.WordNetLemmatizer, "lemmatize", lambda self, word: word.removesuffix("s"))
    assert extractor("nltk").extract(["Dogs run in Paris by a dog"]) == [["dog"]]


def test_spacy_takes_the_lemmas_of_a_pipelines_nouns(tmp_path: Path) -> None:
    spacy = pytest.importorskip("spacy")
    pipeline = spacy.blank("en")
    ruler = pipeline.add_pipe("attribute_ruler")
    ruler.add([[{"LOWER": "dogs"}]], {"POS": "NOUN", "LEMMA": "dog"})
    ruler.add([[{"LOWER": "sofa"}]], {"POS": "NOUN"})
    ruler.add([[{"LOWER": "sit"}]], {"POS": "VERB"})
    pipeline.to_disk(tmp_path / "pipeline")
    found = extractor("spacy", spacy_model=str(tmp_path / "pipeline")).extract(["Dogs sit on a Sofa", "dogs", ""])
    assert found == [["dog", "sofa"], ["dog"], []]
    with pytest.raises(SetupError, match="finds no pipeline 'no_such_model'"):
        extractor("spacy", spacy_model="no_such_model")


@pytest.mark.parametrize(
    ("kind", "module"), [("textblob", "textblob.en.taggers"), ("nltk", "nltk"), ("spacy", "spacy")]
)
def test_a_missing_package_is_told_with_its_extra(monkeypatch: pytest.MonkeyPatch, kind: str, module: str) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(SetupError, match=rf"pip install 'modbridge-viecap\[{kind}\]'"):
        extractor(kind)


def test_words_become_names_of_the_vocabulary() -> None:
    found = ["sofa", "dogs", "glass", "truck", "circle", "hot dog", "man", "couch", "women"]
    assert keep(found) == ["couch", "dog", "glasses", "hot dog", "person"]


def test_each_step_of_the_filter_is_independent_of_the_others() -> None:
    found = ["men", "stand", "photo", "truck", "dog", "x", "woman"]
    assert keep(found) == ["person", "dog"]
    assert keep(found, people=False) == ["dog"]
    assert keep(found, stop_words=False) == ["person", "stand", "dog"]
    assert keep(found, in_vocabulary=False) == ["person", "truck", "dog"]
    assert keep(found, people=False, stop_words=False, in_vocabulary=False) == found
    assert keep(found, mask=0.0) == keep(found, mask=1.0) == keep(found)  # masking is another step
    assert keep(found, in_vocabulary=False, most=2) == ["person", "truck"]


def test_every_word_for_people_is_one_person_whatever_the_vocabulary() -> None:
    assert keep(sorted(PEOPLE)) == ["person"]
    assert EntityFilter(Entities(), ["man", "dog"]).keep(["dog", "man", "guy"]) == ["dog", "person"]
    assert EntityFilter(Entities(people=False), ["man", "dog"]).keep(["dog", "man", "guy"]) == ["dog", "man"]


def test_stop_words_leave_cocos_names_and_people_alone() -> None:
    assert {"photo", "image", "picture", "pic", "side", "part", "background", "top", "bottom", "front"} <= stop_words()
    assert not stop_words() & ({*packaged("coco.json")} | PEOPLE)


def test_masks_depend_on_seed_epoch_and_key_alone() -> None:
    keys = [f"{i}" for i in range(500)]
    named = [[f"a{i}", f"b{i}", f"c{i}", f"d{i}"][: i % 5] for i in range(500)]
    whole = masked(named, keys, prob=0.4, seed=7, epoch=3)
    back = masked(named[::-1], keys[::-1], prob=0.4, seed=7, epoch=3)[::-1]
    single = [masked([names], [key], prob=0.4, seed=7, epoch=3)[0] for names, key in zip(named, keys, strict=True)]
    assert whole == back == single
    assert whole != masked(named, keys, prob=0.4, seed=7, epoch=4)
    assert whole != masked(named, keys, prob=0.4, seed=8, epoch=3)
    assert all(names == [n for n in of if n in names] for names, of in zip(whole, named, strict=True))  # order is kept


@pytest.mark.parametrize("prob", [0.0, 0.2, 0.4, 1.0])
def test_masks_leave_names_out_with_their_probability(prob: float) -> None:
    keys = [str(i) for i in range(4000)]
    kept = masked([["a", "b", "c"]] * 4000, keys, prob=prob, seed=0, epoch=0)
    for name in "abc":
        rate = sum(name not in names for names in kept) / 4000
        assert abs(rate - prob) <= 4 * (prob * (1 - prob) / 4000) ** 0.5
    both = sum("a" not in names and "b" not in names for names in kept) / 4000
    assert abs(both - prob**2) < 0.03  # the names of one caption are masked independently
    assert masked([], [], prob=prob, seed=0, epoch=0) == []
    assert masked([[]], ["k"], prob=prob, seed=0, epoch=0) == [[]]


def test_orders_depend_on_seed_epoch_and_key_alone_and_favour_none() -> None:
    keys = [f"{i}" for i in range(3000)]
    named = [["a", "b", "c"][: 1 + i % 3] for i in range(3000)]
    whole = shuffled(named, keys, seed=7, epoch=3)
    assert [shuffled([n], [k], seed=7, epoch=3)[0] for n, k in zip(named, keys, strict=True)] == whole
    assert [sorted(names) for names in whole] == named
    assert whole != shuffled(named, keys, seed=7, epoch=4)
    orders = ["".join(names) for names in whole if len(names) == 3]
    assert all(abs(orders.count(order) / 1000 - 1 / 6) < 0.05 for order in ("abc", "acb", "bac", "bca", "cab", "cba"))


@pytest.mark.parametrize("wrong", [{"mask": 1.2}, {"most": 0}, {"extractor": "regex"}, {"masking": 0.4}])
def test_wrong_settings_are_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ValidationError):
        Entities.model_validate(wrong)
