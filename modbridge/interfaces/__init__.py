"""The abstract parts of a pipeline: Encoder -> Bridge (with a Prior) -> Decoder, and what surrounds them."""

from modbridge.config.kinds import (
    BridgeConfig,
    DecoderConfig,
    EncoderConfig,
    EngineConfig,
    JudgeConfig,
    MetricConfig,
    ObjectiveConfig,
    PriorConfig,
    SourceConfig,
    VocabularyConfig,
)
from modbridge.interfaces.bridge import Bridge, FitData
from modbridge.interfaces.component import BuildContext, Component
from modbridge.interfaces.decoder import Decoded, Decoder
from modbridge.interfaces.encoder import Encoder
from modbridge.interfaces.engine import Engine
from modbridge.interfaces.fitting import Fitting, Hints, Progress, TextVectors, WeightsJudge
from modbridge.interfaces.judge import Judge, Question
from modbridge.interfaces.key_list import KeyList
from modbridge.interfaces.metric import Metric, Reference, Score, Scoring
from modbridge.interfaces.objective import Objective
from modbridge.interfaces.prior import Prior
from modbridge.interfaces.source import Source, check_keys, text_key
from modbridge.interfaces.vocabulary import Entity, Vocabulary

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
    "Engine",
    "EngineConfig",
    "Entity",
    "FitData",
    "Fitting",
    "Hints",
    "Judge",
    "JudgeConfig",
    "KeyList",
    "Metric",
    "MetricConfig",
    "Objective",
    "ObjectiveConfig",
    "Prior",
    "PriorConfig",
    "Progress",
    "Question",
    "Reference",
    "Score",
    "Scoring",
    "Source",
    "SourceConfig",
    "TextVectors",
    "Vocabulary",
    "VocabularyConfig",
    "WeightsJudge",
    "check_keys",
    "text_key",
]
