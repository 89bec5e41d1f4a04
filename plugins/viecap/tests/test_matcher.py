"""Finding names in texts: longest first, words before lemmas, in order; slower searches agree."""

from __future__ import annotations

import gzip
import json
import re
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lemminflect import getAllLemmas, getLemma
from modbridge_viecap.matcher import Matcher

WORDS = ["red", "circle", "hot", "dog", "man", "glass", "fire", "truck", "engine"]
FILLING = ["a", "near", "quickly", ",", "of"]
name_lists = st.lists(
    st.lists(st.sampled_from(WORDS), min_size=1, max_size=3).map(" ".join), min_size=1, max_size=8, unique=True
)


def test_longest_names_come_first_and_take_their_words() -> None:
    matcher = Matcher(["dog", "hot dog", "hot dog stand"])
    assert matcher.find("A dog ate a hot dog") == ["dog", "hot dog"]
    assert matcher.find("the hot dog stands near a house") == ["hot dog stand"]
    assert matcher.find("a hot, dog") == ["dog"]


def test_a_name_of_two_words_is_found_only_where_they_adjoin() -> None:
    matcher = Matcher(["red circle"])
    assert matcher.find("a RED Circle") == matcher.find("two red circles") == ["red circle"]
    assert matcher.find("a red big circle") == matcher.find("red. circle") == matcher.find("circle red") == []


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("man", "two men talk"),
        ("woman", "the women's room"),
        ("bark", "a dog is barking"),
        ("clapping", "a crowd claps"),
        ("scissors", "pair of Scissors"),
        ("skis", "one ski"),
        ("traffic light", "several traffic lights"),
        ("computers", "a computer"),
        ("frisbee", "many frisbees"),
        ("leaf", "falling leaves"),
        ("t-shirt", "in a t shirt"),
        ("Knife", "some knives"),
    ],
)
def test_forms_of_a_word_are_the_same_name(name: str, text: str) -> None:
    assert Matcher([name, "zebra"]).find(text) == [name]


def test_a_verb_is_not_the_thing_called_after_it() -> None:
    assert Matcher(["building", "painting"]).find("she builds a wall and paints it") == []


def test_the_word_itself_comes_before_its_lemma() -> None:
    both = Matcher(["glass", "glasses"])
    assert both.find("wearing glasses") == ["glasses"]
    assert both.find("a glass") == ["glass"]
    assert Matcher(["glass"]).find("wearing glasses") == ["glass"]


def test_synonyms_give_the_name_and_names_come_before_synonyms() -> None:
    matcher = Matcher(["couch", "bed", "cell phone"], {"couch": ["sofa", "bed", "love seat"], "cell phone": ["phone"]})
    assert matcher.find("sofas, a bed, a love seat and a cell phone by a phone") == ["couch", "bed", "cell phone"]
    with pytest.raises(ValueError, match="'tree', which is not among the 1 names"):
        Matcher(["couch"], {"tree": ["oak"]})


def test_names_come_in_order_of_first_appearance_each_once() -> None:
    assert Matcher(["man", "dog", "circle"]).find("a dog, a man, dogs and men") == ["dog", "man"]
    assert Matcher([]).find("a dog") == Matcher(["dog", "&"]).find("& :") == []


@settings(max_examples=100, deadline=None)
@given(name_lists, st.lists(st.sampled_from(WORDS + FILLING), max_size=15))
def test_what_is_found_stands_in_the_text_side_by_side(names: list[str], words: list[str]) -> None:
    matcher = Matcher(names)
    found = matcher.find(" ".join(words))
    assert all(matcher.find(name) == [name] for name in names)
    assert matcher.find(" , ".join(found)) == found
    # Independent: at every place the longest name that the words there spell, by plain comparison.
    expected, place = [], 0
    while place < len(words):
        here = [name for name in names if words[place : place + len(name.split())] == name.split()]
        longest = max(here, key=lambda name: len(name.split()), default=None)
        expected += [longest] if longest is not None else []
        place += len(longest.split()) if longest is not None else 1
    assert found == list(dict.fromkeys(expected))


def test_agrees_with_regular_expressions_on_real_captions(requires_data: Path) -> None:
    names = json.loads((requires_data / "vocabularies" / "coco_categories.json").read_text())
    with gzip.open(requires_data / "captions" / "captions_val2017.json.gz", "rt") as file:
        captions = [row["caption"] for row in json.load(file)["annotations"]][:3000]
    single = [name for name in names if " " not in name]
    # The forms of each name by searching the captions' own words, with another function of lemminflect's, one part of
    # speech at a time; alternatives of one regular expression a name.
    seen = {word for caption in captions for word in re.findall(r"[a-z0-9]+", caption.lower())}
    patterns = {}
    for name in single:
        roots = {name, *getLemma(name, "NOUN")} if getAllLemmas(name) else {name}
        words = [w for w in seen if w == name or {w, *getLemma(w, "NOUN", lemmatize_oov=False)} & roots]
        words += [w for w in seen if set(getLemma(w, "VERB", lemmatize_oov=False)) & roots]
        patterns[name] = re.compile(rf"(?<![a-z0-9])(?:{'|'.join(map(re.escape, {name, *words}))})(?![a-z0-9])")
    matcher, differ = Matcher(single), []
    for caption in captions:
        slow = {name for name, pattern in patterns.items() if pattern.search(caption.lower())}
        if set(matcher.find(caption)) != slow:
            differ.append((caption, matcher.find(caption), slow))
    assert not differ
