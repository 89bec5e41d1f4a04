"""Which names the training captions give. Loads nothing heavy."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field


class Entities(BaseModel):
    """Extraction, filter and masking of the names that a caption says. Each works without the others (in the authors'
    code, turning masking off turns the filter off too).

    `extractor`: "vocabulary" finds the vocabulary's names and their synonyms by words and lemmas, with nothing to
    install (ours); the others take single nouns: "nltk" (the authors'; needs data that NLTK downloads), "textblob",
    "spacy" (needs a pipeline).
    `spacy_model`: the name or folder of that pipeline.
    `people`: the authors' 18 words for people become "person", which is kept, whether the vocabulary has it or not.
    `stop_words`: leave out words that name no entity: "photo", "side", colours, "stand" (our list; the authors' is of
    the same sort). `in_vocabulary`: leave out what is no name of the vocabulary, nor another word for one.
    `mask`: the probability that a name is left out, drawn for every caption, name and epoch. `most`: at most so many
    names a caption, the first ones that came through the filter (the authors cut before it).
    `order`: "shuffled" puts a caption's names in an order drawn for every caption and epoch, so that the writer does
    not learn to take it for the caption's own (ours; the authors' is that of a Python set). "caption": as the caption
    says them.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    extractor: Literal["vocabulary", "textblob", "nltk", "spacy"] = "vocabulary"
    spacy_model: str = "en_core_web_sm"
    people: bool = True
    stop_words: bool = True
    in_vocabulary: bool = True
    mask: Annotated[float, Field(ge=0.0, le=1.0)] = 0.4
    most: Annotated[int, Field(ge=1)] = 10
    order: Literal["shuffled", "caption"] = "shuffled"
