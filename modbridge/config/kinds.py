"""The config classes of the ten kinds of component.

They load neither torch nor numpy: a config says everything that can be known without weights, and plugins subclass
these in modules as light as this one.
"""

from __future__ import annotations

from typing import Annotated, Any, ClassVar, Literal

from pydantic import AfterValidator

from modbridge.config.component import Affects, ComponentConfig, Purpose
from modbridge.config.weights import manifest_hash
from modbridge.spaces import Port

# From the weakest to the strongest: a chain augments by the strongest of its members.
Augmentation = Literal["none", "shift", "noise", "diffusion"]
# Where words given with a vector (the hard prompt) stand to what a decoder makes of the vector (the soft prompt).
Layout = Literal["soft_first", "hard_first", "hard_only"]


def _a_modality(name: str) -> str:
    if name == "text" or not name.isidentifier():
        raise ValueError('expected the modality of the items beside their texts, like "image" or "audio"')
    return name


class SourceConfig(ComponentConfig):
    """Config of a source."""

    modality: Annotated[str, AfterValidator(_a_modality)] = "image"
    """The modality of its items beside their texts: "image", "audio"."""

    @property
    def captioned(self) -> bool:
        """Whether its items bring texts (references, or captions to train on)."""
        return True

    @property
    def brings_texts(self) -> bool:
        """Whether its items have text vectors: those of their texts, or some that were made elsewhere."""
        return self.captioned


class EncoderConfig(ComponentConfig):
    """Config of an encoder."""

    @property
    def modalities(self) -> tuple[str, ...]:
        """What it encodes: ("image", "text")."""
        raise TypeError(f"{type(self).__name__} does not say its modalities")

    @property
    def needs_fit(self) -> bool:
        """Whether it is trained by the run itself, before anything is embedded."""
        return False

    @property
    def fit_seed(self) -> int | None:
        """The seed of its training, where that is not the run's."""
        return None

    def emits(self, modality: str) -> Port:
        """The port of one modality, known without weights."""
        raise TypeError(f"{type(self).__name__} does not say its ports")


class FittedConfig(ComponentConfig):
    """Config of a component that is fitted by a run, or taken from an earlier one."""

    weights: str | None = None
    """A folder that holds it fitted already (an artefact of a run or of `modbridge import-weights`), to take it from
    instead of fitting. What it was fitted with stands there: fields given beside it must agree, and those that only say
    how to train are passed over. A relative path starts at the working directory."""

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but weights count by their content, not by where they lie."""
        fields = super().key_fields(*purposes)
        del fields["weights"]
        return fields if self.weights is None else {**fields, "weights": manifest_hash(self.weights)}


class PriorConfig(FittedConfig):
    """Config of a prior."""

    @property
    def needs(self) -> frozenset[str]:
        """Which data fitting takes: {"text"}, or {"text", "pairs"} for priors trained on pairs."""
        return frozenset({"text"})

    def check(self, clean: Port) -> None:
        """Raise PortError if vectors of this port cannot be modelled. By default ragged sequences are refused."""
        clean.require_one_length(f"the prior {self.type!r}")


class BridgeConfig(FittedConfig):
    """Config of a bridge.

    `augmentation` says what `augment` does to text vectors: nothing (or taking their own mean away), a shift among the
    source vectors (the same every time), noise, or a pass through a diffusion prior.
    """

    augmentation: ClassVar[Augmentation] = "none"

    @property
    def chosen_by_fitting(self) -> tuple[str, ...]:
        """The fields that are left to fitting (`start_step: auto`); the bridge's `chosen` says what they became."""
        return ()

    def chosen_for(self, purpose: Purpose) -> tuple[str, ...]:
        """Those of `chosen_by_fitting` that change only `purpose`."""
        marks = {name: type(self).model_fields[name].metadata for name in self.chosen_by_fitting}
        return tuple(
            name for name, of in marks.items() if any(isinstance(m, Affects) and m.purpose == purpose for m in of)
        )

    @property
    def title(self) -> str:
        """What tables call it: its type, or of a chain those of its members."""
        return self.type

    @property
    def augments_by(self) -> Augmentation:
        """`augmentation`, or "none" where a field turns it off."""
        return self.augmentation

    @property
    def needs(self) -> frozenset[str]:
        """Which data fitting takes: "text" (text vectors), "source" (unpaired source vectors), "pairs"."""
        return frozenset()

    def crosses(self, source: Port, text: Port) -> Port:
        """The port of bridged vectors. Raises PortError where the bridge cannot stand between the two; by default for
        ragged sequences."""
        for port in (source, text):
            port.require_one_length(f"the bridge {self.type!r}")
        return source.changed(bridge=self.type)

    def augments(self, text: Port) -> Port:
        """The port of the text vectors that a decoder is trained on. Raises PortError where they cannot be prepared; by
        default for ragged sequences."""
        text.require_one_length(f"the bridge {self.type!r}")
        return text


class ObjectiveConfig(FittedConfig):
    """Config of an objective."""

    shared: ClassVar[bool] = True

    @property
    def needs_fit(self) -> bool:
        """Whether its networks are trained by the run itself (on `data.pretraining`), before anything that holds it."""
        return False

    @property
    def reads_texts(self) -> bool:
        """Whether such training takes captions of its items."""
        return False

    @property
    def takes(self) -> Port | None:
        """The port of the embeddings that it judges, known without weights; None where any will do."""
        return None


class DecoderConfig(FittedConfig):
    """Config of a decoder."""

    tunable: ClassVar[bool] = False
    """Whether `tune` can train it together with what comes before it: it has `Decoder.training_loss`."""

    @property
    def makes(self) -> Literal["text", "image"]:
        """What it makes of a vector."""
        return "text"

    @property
    def needs_fit(self) -> bool:
        """Whether there is anything to learn. Where it is not so, it is used as it is built."""
        return True

    @property
    def left_to_tuning(self) -> bool:
        """Whether its own fit takes no step, or that of a decoder inside it, so that `tune` has to train it."""
        inside = (part for part in self.parts().values() if isinstance(part, DecoderConfig))
        return any(part.left_to_tuning for part in inside)

    def check(self, port: Port) -> None:
        """Raise PortError if vectors of this port cannot be decoded. By default ragged sequences are refused."""
        port.require_one_length(f"the decoder {self.type!r}")

    @property
    def given(self) -> bool:
        """Whether its trained part is taken from an earlier run: its own weights, or those of a decoder inside it."""
        inside = (part for part in self.parts().values() if isinstance(part, DecoderConfig))
        return self.weights is not None or any(part.given for part in inside)

    def with_hints(self, layout: Layout | None) -> DecoderConfig:
        """This decoder with room for words given with each vector, before or behind what it makes of the vector, or in
        its place; None: where its own fields say.

        Raises ValueError where it reads none.
        """
        raise ValueError(
            f"the decoder {self.type!r} reads no words beside the vectors; expected one that does (prefix_lm)"
        )

    @property
    def learns_words(self) -> bool:
        """Whether its vocabulary is made of the texts that it is fitted on and the hints that it may be given."""
        return False

    @property
    def reads_references(self) -> bool:
        """Whether it must be told what each item's captions say before it decodes (an oracle)."""
        return False


class VocabularyConfig(ComponentConfig):
    """Config of a vocabulary."""

    def missing(self) -> str | None:
        """Which file it lacks, and what to do, told before a run starts; None if nothing."""
        return None

    def check(self, port: Port) -> None:
        """Raise PortError if its names cannot be compared with vectors of this port."""
        port.require_vectors("a vocabulary")


class MetricConfig(ComponentConfig):
    """Config of a metric."""

    @property
    def judges(self) -> Literal["text", "image"]:
        """What it judges: the captions of `decoder`, or the images of each of `decoders` that makes images. Columns of
        images stand in a row behind the decoder's name: `image_fid`."""
        return "text"

    @property
    def reads_media(self) -> bool:
        """Whether it looks at the items themselves (`Reference.media`)."""
        return self.judges == "image"

    @property
    def columns(self) -> tuple[str, ...]:
        """The columns it fills, in snake_case: ("bleu_1", "bleu_4")."""
        return (self.type,)

    def missing(self) -> str | None:
        """What the environment lacks for it, and how to get it, told before a run starts; None if nothing."""
        return None


class JudgeConfig(ComponentConfig):
    """Config of a judge."""

    shared: ClassVar[bool] = True

    @property
    def sees_images(self) -> bool:
        """Whether it can be shown an image beside a question."""
        return False

    def missing(self) -> str | None:
        """What the environment lacks for it, and how to get it, told before a run starts; None if nothing."""
        return None


class EngineConfig(ComponentConfig):
    """Config of an engine, which says where work is done. No field of it changes a result, so none is part of a key."""
