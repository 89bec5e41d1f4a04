"""Announces the built-in components, through the same door as a stranger's."""

from __future__ import annotations

from collections.abc import Callable

from modbridge.plugins import ComponentSpec, hookimpl

SOURCES = "modbridge.builtin.source_config"
SHARDS = "modbridge.builtin.shard_config"
VECTORS = "modbridge.builtin.precomputed_config"
EXAMPLES = "modbridge.builtin.examples"
BRIDGES = "modbridge.builtin.bridges.config"
MAPS = "modbridge.builtin.bridges.map_config"
RECALL = "modbridge.builtin.bridges.memory_config"


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    register(
        ComponentSpec(
            kind="source",
            name="folder",
            config=f"{SOURCES}:FolderConfig",
            impl="modbridge.builtin.folder:FolderSource",
            summary="a folder of images or sounds, with captions in .txt files beside them or none",
            example_from=f"{EXAMPLES}:folder",
        )
    )
    register(
        ComponentSpec(
            kind="source",
            name="jsonl",
            config=f"{SOURCES}:JsonlConfig",
            impl="modbridge.builtin.jsonl:JsonlSource",
            summary="one JSON object a line: a media file, its captions, and facts",
            example_from=f"{EXAMPLES}:jsonl",
        )
    )
    register(
        ComponentSpec(
            kind="source",
            name="webdataset",
            config=f"{SHARDS}:WebdatasetConfig",
            impl="modbridge.builtin.webdataset:WebdatasetSource",
            summary="images in tar shards, webdataset's form, with captions or none; tens of millions of them",
            example_from=f"{EXAMPLES}:webdataset",
        )
    )
    register(
        ComponentSpec(
            kind="source",
            name="parquet",
            config=f"{SHARDS}:ParquetConfig",
            impl="modbridge.builtin.parquet:ParquetSource",
            summary="parquet files with a column of images (files' bytes, or bare pixels), with captions or none",
            example_from=f"{EXAMPLES}:parquet",
        )
    )
    register(
        ComponentSpec(
            kind="source",
            name="precomputed",
            config=f"{VECTORS}:PrecomputedSourceConfig",
            impl="modbridge.builtin.precomputed_source:PrecomputedSource",
            summary="the items of a file of stored vectors (.npz or .safetensors)",
            example_from=f"{EXAMPLES}:source",
        )
    )
    register(
        ComponentSpec(
            kind="encoder",
            name="precomputed",
            config=f"{VECTORS}:PrecomputedConfig",
            impl="modbridge.builtin.precomputed:PrecomputedEncoder",
            summary="vectors that are already there, from a file (.npz or .safetensors)",
            example_from=f"{EXAMPLES}:encoder",
        )
    )
    register(
        ComponentSpec(
            kind="vocabulary",
            name="precomputed",
            config="modbridge.builtin.precomputed_vocabulary_config:PrecomputedVocabularyConfig",
            impl="modbridge.builtin.precomputed_vocabulary:PrecomputedVocabulary",
            summary="names with stored vectors (.npz or .safetensors)",
            example_from=f"{EXAMPLES}:vocabulary",
        )
    )
    register(
        ComponentSpec(
            kind="decoder",
            name="nearest_caption",
            config="modbridge.builtin.nearest_caption_config:NearestCaptionDecoderConfig",
            impl="modbridge.builtin.nearest_caption:NearestCaptionDecoder",
            summary="recalls the training caption whose vector is nearest; the retrieval baseline, nothing is trained",
            example={"type": "nearest_caption"},
        )
    )
    register(
        ComponentSpec(
            kind="decoder",
            name="recorded",
            config="modbridge.builtin.recorded_config:RecordedConfig",
            impl="modbridge.builtin.recorded:RecordedDecoder",
            summary="captions made elsewhere, from a file of them; nothing is trained",
            example_from=f"{EXAMPLES}:recorded",
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="identity",
            config=f"{BRIDGES}:IdentityConfig",
            impl="modbridge.builtin.bridges.identity:IdentityBridge",
            summary="no bridge: source vectors stand in for text vectors as they are",
            example={"type": "identity"},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="mean_shift",
            config=f"{BRIDGES}:MeanShiftConfig",
            impl="modbridge.builtin.bridges.mean_shift:MeanShiftBridge",
            summary="moves the mean of one modality's vectors onto the mean of the other's",
            example={"type": "mean_shift"},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="c3",
            config=f"{BRIDGES}:C3Config",
            impl="modbridge.builtin.bridges.c3:C3Bridge",
            summary="C3: connect by centring, corrupt with Gaussian noise in training",
            example={"type": "c3"},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="capdec",
            config=f"{BRIDGES}:CapDecConfig",
            impl="modbridge.builtin.bridges.capdec:CapDecBridge",
            summary="CapDec: noise on the text vectors in training, nothing at test",
            example={"type": "capdec"},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="close",
            config="modbridge.builtin.bridges.close_config:CloseConfig",
            impl="modbridge.builtin.bridges.close:CloseBridge",
            summary="CLOSE: noise on the text vectors in training, after an adapter (mean, random, linear, covariance)",
            example={"type": "close"},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="standardise",
            config=f"{BRIDGES}:StandardiseConfig",
            impl="modbridge.builtin.bridges.standardise:StandardiseBridge",
            summary="gives each dimension of one modality the mean and deviation of the other's",
            example={"type": "standardise"},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="realign",
            config=f"{BRIDGES}:RealignConfig",
            impl="modbridge.builtin.bridges.realign:RealignBridge",
            summary="ReAlign: text vectors moved to the source vectors' mean and spread, in training",
            example={"type": "realign"},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="chain",
            config="modbridge.builtin.bridges.chain_config:ChainConfig",
            impl="modbridge.builtin.bridges.chain:ChainBridge",
            summary="several bridges, one after another; a list of bridges is short for it",
            example={"type": "chain", "bridges": ["mean_shift", "capdec"]},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="coral",
            config=f"{MAPS}:CoralConfig",
            impl="modbridge.builtin.bridges.coral:CoralBridge",
            summary="CORAL: whitens the source vectors and colours them like texts; mean and covariance, no pairs",
            example={"type": "coral"},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="procrustes",
            config=f"{MAPS}:ProcrustesConfig",
            impl="modbridge.builtin.bridges.procrustes:ProcrustesBridge",
            summary="orthogonal Procrustes: the best rotation of source vectors onto their texts, from pairs",
            example={"type": "procrustes"},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="ridge",
            config=f"{MAPS}:RidgeConfig",
            impl="modbridge.builtin.bridges.ridge:RidgeBridge",
            summary="ridge regression of text on source vectors, from pairs",
            example={"type": "ridge"},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="pls_svd",
            config=f"{MAPS}:PlsSvdConfig",
            impl="modbridge.builtin.bridges.pls_svd:PlsSvdBridge",
            summary="PLS-SVD: the few axes along which pairs vary together, and nothing else",
            example={"type": "pls_svd", "num_axes": 4},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="memory",
            config=f"{RECALL}:MemoryConfig",
            impl="modbridge.builtin.bridges.memory:MemoryBridge",
            summary="DeCap: a softmax mixture of the text vectors that a source vector is like",
            example={"type": "memory"},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="nearest_caption",
            config=f"{RECALL}:NearestCaptionConfig",
            impl="modbridge.builtin.bridges.nearest_caption:NearestCaptionBridge",
            summary="the nearest text vector in place of a source vector (CLIPRe, WSAC nnd)",
            example={"type": "nearest_caption"},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="text_code",
            config="modbridge.builtin.bridges.text_code_config:TextCodeConfig",
            impl="modbridge.builtin.bridges.text_code:TextCodeBridge",
            summary="a source vector as a sum of few training texts, sharpened, with its own detail kept (ours)",
            example={"type": "text_code", "iterations": 30},
        )
    )
    register(
        ComponentSpec(
            kind="judge",
            name="chat_judge",
            config="modbridge.builtin.chat_judge_config:ChatJudgeConfig",
            impl="modbridge.builtin.chat_judge:ChatJudge",
            summary="a model behind a server of OpenAI's chat form (vLLM, llama.cpp, hosted), with images or without",
            # A variable that nobody has set: the checks do not ask a server.
            example={"url": "http://localhost:8000/v1", "model": "a-model", "key_env": "MODBRIDGE_EXAMPLE_KEY"},
        )
    )
    register(
        ComponentSpec(
            kind="engine",
            name="local",
            config="modbridge.builtin.engine_config:LocalEngineConfig",
            impl="modbridge.builtin.local_engine:LocalEngine",
            summary="this process; what is used where none is named",
        )
    )
