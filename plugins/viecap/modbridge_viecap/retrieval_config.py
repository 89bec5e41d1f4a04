"""Blocks of the entity-prompt decoder's config that say how names are found for an item.

Loads neither torch nor numpy.
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from modbridge.config.search import Search

Count = Annotated[int, Field(ge=1)]
Share = Annotated[float, Field(ge=0.0, le=1.0)]
Temperature = Annotated[float, Field(gt=0.0, allow_inf_nan=False)]
Auto = Literal["auto"]
Source = Literal["raw", "bridged", "mix"]
SideName = Literal["raw", "bridged"]


class RetrievalBlock(BaseModel):
    """A way to find names; `type` is its name."""

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    type: str

    @property
    def sides(self) -> tuple[SideName, ...]:
        """Which vectors of an item are looked at, each compared with names (or captions) of its own frame."""
        return ()

    @property
    def automatic(self) -> bool:
        """Whether something is to be calibrated on training texts."""
        return False

    @property
    def reads_captions(self) -> bool:
        """Whether it looks among the training captions."""
        return False


class Looking(RetrievalBlock):
    """A way that looks at the item's vectors.

    `source`: "raw", as the encoder gives them (ViECap's); "bridged", as the bridge carries them; "mix", the mean of
    both scores (ours).
    """

    source: Source = "raw"

    @property
    def sides(self) -> tuple[SideName, ...]:
        return ("raw", "bridged") if self.source == "mix" else (self.source,)


class Softmax(Looking):
    """The likeliest names: softmax of the cosines over the whole vocabulary, ViECap's.

    `temperature`: the cosines are divided by it; .01 is ViECap's, "auto" is chosen on training texts (ours).
    `threshold`: names that are less likely are left out; .2 is ViECap's across domains (.4 and .3 in domain, by
    vocabulary: a probability among 80 names is not one among 1,848), "auto" is chosen on training texts (ours).
    `top_k`: at most so many names; ViECap's.
    `standardise`: before the softmax, an item's cosines are centred and divided by their standard deviation over the
    vocabulary (ours). A gap that shifts or shrinks all cosines of an item alike is gone then, so that what was chosen
    on texts holds for other modalities too. The temperature is in standard deviations then, and must be given.
    """

    type: Literal["softmax"] = "softmax"
    temperature: Temperature | Auto = 0.01
    threshold: Share | Auto = 0.2
    top_k: Count = 3
    standardise: bool = False

    @model_validator(mode="after")
    def _in_its_own_units(self) -> Softmax:
        if self.standardise and "temperature" not in self.model_fields_set:
            raise ValueError(
                "with standardise the temperature is in standard deviations, where the default of "
                f"{self.temperature} makes every softmax a maximum: give one (about 0.3), or temperature: auto"
            )
        return self

    @property
    def automatic(self) -> bool:
        return "auto" in (self.temperature, self.threshold)


class Cosine(Looking):
    """The nearest names, however near (ZerAuCap's).

    `top_k`: how many; ZerAuCap has 2. `suppress_parents`: of these, a name is left out if a narrower one is among them
    ("speech" beside "male speech"), where the vocabulary knows which are broader (ours).
    """

    type: Literal["cosine"] = "cosine"
    top_k: Count = 3
    suppress_parents: bool = False


class Captions(Looking):
    """A way that looks for names in the training captions nearest to the item."""

    search: Search = "exact"

    @property
    def reads_captions(self) -> bool:
        return True


class Frequency(Captions):
    """Names that many of the nearest training captions say (IFCap's).

    `captions`: how many captions; 9 is IFCap's for COCO (7 for Flickr30k and NoCaps).
    `min_count`: names that fewer captions say are left out; None is IFCap's 5 for COCO (3 for Flickr30k).
    `alpha`: in place of `min_count`, names count whose count is more than mean + alpha * standard deviation over the
    names found (IFCap's adaptive filter, its normal case).
    `most`: at most so many names, those that most captions say.
    `search`: how the captions are looked for: "exact", among all, or "faiss", among those that an index of FAISS picks
    out, for more than ten million (ours). The index is built when it is first needed.
    """

    type: Literal["frequency"] = "frequency"
    captions: Count = 9
    min_count: Count | None = None
    alpha: Annotated[float, Field(allow_inf_nan=False)] | None = None
    most: Count | None = None

    @model_validator(mode="after")
    def _one_rule(self) -> Frequency:
        if self.alpha is not None and self.min_count is not None:
            raise ValueError("min_count and alpha are two rules for the same: give one of them")
        if self.alpha is None and self.needed > self.captions:
            raise ValueError(
                f"min_count {self.needed} is more than the {self.captions} captions there are: no name would be found"
            )
        return self

    @property
    def needed(self) -> int:
        """The least count, where `alpha` is not given."""
        return 5 if self.min_count is None else self.min_count


class Memory(Captions):
    """Concepts of the nearest training captions, like ones merged (MeaCap's, without its scene graphs).

    MeaCap's: five captions, what is alike is merged, four concepts at most. Ours: the concepts are the entities that
    the decoder's own extractor finds (MeaCap: a T5 that parses scene graphs); the likeness is that of the encoder's
    text vectors (MeaCap: MiniLM's) after the vocabulary's mean is taken away, without which nearly all names are
    alike to a contrastive encoder; the score is the share of captions that say a concept, where level the mean
    similarity of these.

    `captions`: how many captions. `merge`: names whose likeness is above it are one; the better one stays.
    `most`: at most so many names.
    `search`: how the captions are looked for: "exact", among all, or "faiss", among those that an index of FAISS picks
    out, for more than ten million (ours). The index is built when it is first needed.
    """

    type: Literal["memory"] = "memory"
    captions: Count = 5
    merge: Annotated[float, Field(ge=-1.0, le=1.0)] = 0.55
    most: Count = 4


class Oracle(RetrievalBlock):
    """The entities of the item's own reference captions: an upper bound, no method."""

    type: Literal["oracle"] = "oracle"


class Random(RetrievalBlock):
    """Any names of the vocabulary, by item: a lower bound.

    `count`: how many.
    """

    type: Literal["random"] = "random"
    count: Count = 3


class Nothing(RetrievalBlock):
    """No names at all."""

    type: Literal["none"] = "none"


def _whole(value: Any) -> Any:
    """A bare word stands for the block with its defaults, a block without type for the softmax."""
    if isinstance(value, dict) and "type" not in value:
        return {"type": "softmax", **value}
    return {"type": value} if isinstance(value, str) else value


RetrievalChoice = Softmax | Cosine | Frequency | Memory | Oracle | Random | Nothing
_Choice = Annotated[RetrievalChoice, Field(discriminator="type")]
Retrieval = Annotated[
    _Choice,
    BeforeValidator(
        _whole,
        json_schema_input_type=_Choice
        | Literal["softmax", "cosine", "frequency", "memory", "oracle", "random", "none"],
    ),
]
