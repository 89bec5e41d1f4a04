"""Config of the entity-prompt decoder. Loads neither torch nor transformers."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, SerializeAsAny, model_validator

from modbridge.config.component import Affects, Part, Purpose
from modbridge.config.kinds import DecoderConfig, Layout, VocabularyConfig
from modbridge.config.search import require_faiss
from modbridge.errors import PortError
from modbridge.spaces import Port
from modbridge_viecap.entities_config import Entities
from modbridge_viecap.retrieval_config import Captions, Retrieval, Softmax

ENTITIES = "{entities}"
TEMPLATES = {"image": f"There are {ENTITIES} in image.", "audio": f"There are sounds of {ENTITIES}."}


class HardPrompt(BaseModel):
    """Names as words that the writer reads.

    `template`: the sentence, {entities} once in it. null: "There are {entities} in image." (ViECap's), for sounds
    "There are sounds of {entities}." (ours). `joiner`: stands between two names. `empty`: the word for no name.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    template: str | None = None
    joiner: str = ", "
    empty: str = "something"

    @model_validator(mode="after")
    def _places(self) -> HardPrompt:
        if self.template is not None and re.findall(r"\{\w*\}", self.template) != [ENTITIES]:
            raise ValueError(f"template {self.template!r} must hold {ENTITIES} exactly once, and no other place-holder")
        if not self.empty.strip():
            raise ValueError(
                "empty must be a word, the one that stands where no entity is found (ViECap's 'something')"
            )
        return self

    def sentence(self, modality: str) -> str:
        """The template for items of a modality."""
        return self.template or TEMPLATES.get(modality, TEMPLATES["image"])


class ViecapConfig(DecoderConfig):
    """Entities found in the item, given to a language model as words, beside the soft prompt from the bridged vector
    (ViECap, Fei et al., ICCV 2023).

    `writer`: the decoder that reads both: any that takes words with its vectors (prefix_lm). It makes the soft prompt
    from the bridged vector, and is what is trained.
    `vocabulary`: the names that are looked for in the item. `training_vocabulary`: those that are looked for in the
    training captions; null: the same. (The authors train with Visual Genome's names and look for COCO's or VinVL's.)
    `layout`: where the words stand to the soft prompt: "soft_first" (the authors'), "hard_first", "hard_only" (no soft
    prompt), "soft_only" (no entities at all: the writer alone); null: where the writer's own prompt has {hint}.
    `prompt`: how names become words. `entities`: which names training captions give.
    `retrieval`: how names are found in an item, by its raw vector (the authors'), its bridged one, or both.
    """

    type: Literal["viecap"] = "viecap"
    writer: Annotated[SerializeAsAny[DecoderConfig], Part("decoder")]
    vocabulary: Annotated[SerializeAsAny[VocabularyConfig], Part("vocabulary")]
    training_vocabulary: Annotated[SerializeAsAny[VocabularyConfig] | None, Part("vocabulary")] = None
    layout: Layout | Literal["soft_only"] | None = "soft_first"
    prompt: HardPrompt = HardPrompt()
    entities: Entities = Entities()
    retrieval: Annotated[Retrieval, Affects("decode")] = Softmax()

    @model_validator(mode="after")
    def _writer_reads(self) -> ViecapConfig:
        if self.layout != "soft_only":
            object.__setattr__(self, "writer", self.writer.with_hints(self.layout))
        return self

    @property
    def alone(self) -> bool:
        """Whether the writer writes from the vector alone."""
        return self.layout == "soft_only"

    @property
    def remembers(self) -> bool:
        """Whether names are found by way of training captions, which the decoder then keeps."""
        return not self.alone and self.retrieval.reads_captions

    @property
    def reads_references(self) -> bool:
        return not self.alone and self.retrieval.type == "oracle"

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but without entities neither prompt nor filters count. (The vocabularies do: they are
        stored with the rest.) Nor does a `search` among all captions, as if there were no other."""
        fields = super().key_fields(*purposes)
        if self.alone:
            return {name: fields[name] for name in fields if name not in ("prompt", "entities", "retrieval")}
        if isinstance(self.retrieval, Captions) and self.retrieval.search == "exact" and "retrieval" in fields:
            del fields["retrieval"]["search"]
        return {**fields, "remembers": self.remembers}

    def part_ports(self, part: str, ports: Mapping[str, Port]) -> Mapping[str, Port]:
        """The writer stands where this decoder stands; a vocabulary among clean text vectors."""
        return ports if part == "writer" else {**ports, "text": clean(ports["text"])}

    def check(self, port: Port) -> None:
        """As for every decoder. Raises SetupError where `retrieval.search` asks for a package that is missing."""
        port.require_one_length("the decoder 'viecap'")
        self.writer.check(port)
        if self.alone:
            return
        if isinstance(self.retrieval, Captions):
            require_faiss(self.retrieval.search)
        self.vocabulary.check(clean(port))
        if port.frame == "source" and "bridged" in self.retrieval.sides:
            raise PortError(
                f"the decoder 'viecap' compares bridged vectors with its vocabulary among texts, but is trained on "
                f"{port}. Set retrieval.source to raw, or choose a bridge that carries items to the texts."
            )


def clean(port: Port) -> Port:
    """The port of text vectors as the encoder gives them."""
    return port.changed(modality="text", frame="raw", bridge=None)
