"""The abstract parts of a pipeline: Encoder -> Bridge (with a Prior) -> Decoder, and what surrounds them."""

from modbridge.interfaces.bridge import Bridge, BridgeConfig, FitData
from modbridge.interfaces.component import BuildContext, Component
from modbridge.interfaces.decoder import Decoded, Decoder, DecoderConfig
from modbridge.interfaces.encoder import Encoder, EncoderConfig
from modbridge.interfaces.fitting import Fitting, Progress, TextVectors
from modbridge.interfaces.metric import Metric, MetricConfig, Reference, Score
from modbridge.interfaces.prior import Prior, PriorConfig
from modbridge.interfaces.source import Source, SourceConfig, check_keys, text_key
from modbridge.interfaces.vocabulary import Entity, Vocabulary, VocabularyConfig

__all__ = [
    "Bridge",
    "BridgeConfig",
    "BuildContext",
    "Component",
    "Decoded",
    "Decoder",
    "DecoderConfig",
    "Encoder",
    "EncoderConfig",
    "Entity",
    "FitData",
    "Fitting",
    "Metric",
    "MetricConfig",
    "Prior",
    "PriorConfig",
    "Progress",
    "Reference",
    "Score",
    "Source",
    "SourceConfig",
    "TextVectors",
    "Vocabulary",
    "VocabularyConfig",
    "check_keys",
    "text_key",
]
