"""What modbridge-clap brings: encoders of sounds and texts, and the captions of AudioCaps and Clotho."""

from __future__ import annotations

from collections.abc import Callable

from modbridge.plugins.hookspecs import hookimpl
from modbridge.plugins.registry import ComponentSpec

TINY_MODEL = {
    "projection_dim": 16,
    "audio_config": {
        "spec_size": 32, "num_mel_bins": 16, "patch_size": 4, "patch_stride": [4, 4], "window_size": 4,
        "patch_embeds_hidden_size": 8, "depths": [1, 1], "num_attention_heads": [2, 2],
    },
    "text_config": {
        "hidden_size": 16, "intermediate_size": 32, "num_hidden_layers": 1, "num_attention_heads": 2,
        "max_position_embeddings": 65,
    },
    "features": {"sampling_rate": 8000, "max_length_s": 1, "hop_length": 160, "fft_window_size": 256},
}  # fmt: skip


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    register(
        ComponentSpec(
            kind="encoder",
            name="hf_clap",
            config="modbridge_clap.hf_clap_config:HfClapConfig",
            impl="modbridge_clap.hf_clap_encoder:HfClapEncoder",
            summary="CLAP from the Hugging Face hub or a local folder, or trained by the run",
            example={"type": "hf_clap", "model": TINY_MODEL, "pretrained": "random", "tokenizer": {"type": "bytes"}},
            example_from="modbridge_clap.examples:hf_clap",
        )
    )
    register(
        ComponentSpec(
            kind="source",
            name="audiocaps",
            config="modbridge_clap.captioned_clips_config:AudioCapsConfig",
            impl="modbridge_clap.captioned_clips:AudioCaps",
            summary="AudioCaps' captions (v1, 2.0) and, if given, its folder of clips",
            example_from="modbridge_clap.examples:audiocaps",
        )
    )
    register(
        ComponentSpec(
            kind="source",
            name="clotho",
            config="modbridge_clap.captioned_clips_config:ClothoConfig",
            impl="modbridge_clap.captioned_clips:Clotho",
            summary="Clotho's captions and, if given, its folder of clips",
            example_from="modbridge_clap.examples:clotho",
        )
    )
