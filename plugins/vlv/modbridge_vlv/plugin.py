"""What this distribution adds to modbridge."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modbridge.plugins import ComponentSpec, hookimpl

TINY_TEACHER: dict[str, Any] = {
    "type": "diffusion_teacher",
    "resolution": 16,
    "codec": {"type": "pixel_unshuffle", "factor": 4},
    "unet": {
        "block_out_channels": [8, 16],
        "layers_per_block": 1,
        "down_block_types": ["DownBlock2D", "CrossAttnDownBlock2D"],
        "up_block_types": ["CrossAttnUpBlock2D", "UpBlock2D"],
        "norm_num_groups": 4,
        "attention_head_dim": 4,
    },
    "text_encoder": {
        "hidden_size": 16,
        "intermediate_size": 32,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "max_position_embeddings": 8,
    },
    "tokenizer": {"type": "words"},
    "scheduler": {"prediction_type": "v_prediction"},
    "train": {"steps": 6, "batch_size": 4},
    "timesteps": "high",
    "latent_scale": 0.5,
}
TINY_TRAIN = {"steps": 60, "batch_size": 32, "lr": 3e-3}
TINY_VIT: dict[str, Any] = {
    "model_type": "vit",
    "image_size": 16,
    "patch_size": 8,
    "hidden_size": 16,
    "intermediate_size": 32,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
}
TINY_FLORENCE: dict[str, Any] = {
    "image_size": 32,
    "vision_config": {
        "depths": [1, 1],
        "patch_size": [7, 3],
        "patch_stride": [4, 2],
        "patch_padding": [3, 1],
        "patch_prenorm": [False, True],
        "embed_dim": [8, 16],
        "num_heads": [2, 2],
        "num_groups": [2, 2],
        "window_size": 4,
        "projection_dim": 16,
    },
    "text_config": {
        "model_type": "bart",
        "vocab_size": 16,
        "d_model": 16,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "encoder_attention_heads": 2,
        "decoder_attention_heads": 2,
        "encoder_ffn_dim": 32,
        "decoder_ffn_dim": 32,
        "max_position_embeddings": 64,
        "dropout": 0.0,
    },
    "image_token_id": 15,
}
METRICS = (
    ("fid", "Fid", "FID of a decoder's images against the test items (extra `fid`)"),
    ("clip_score", "ClipScore", "CLIPScore of captions and items, or of painted images and captions"),
    ("repainted", "Repainted", "captions judged by what a text-to-image model paints of them (VLV; extra `fid`)"),
)


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    register(
        ComponentSpec(
            kind="objective",
            name="diffusion_teacher",
            config="modbridge_vlv.teacher_config:DiffusionTeacherConfig",
            impl="modbridge_vlv.teacher:DiffusionTeacher",
            summary="A frozen text-to-image model: how well it denoises an image that it is told of (VLV).",
            revision=2,
            example=TINY_TEACHER,
        )
    )
    register(
        ComponentSpec(
            kind="encoder",
            name="query_encoder",
            config="modbridge_vlv.query_encoder_config:QueryEncoderConfig",
            impl="modbridge_vlv.query_encoder:QueryEncoder",
            summary="Learned queries over any vision backbone, taught by a text-to-image model on images alone.",
            revision=2,
            example_from="modbridge_vlv.examples:query_encoder",
        )
    )
    register(
        ComponentSpec(
            kind="encoder",
            name="florence2_query",
            config="modbridge_vlv.florence2_query_config:Florence2QueryConfig",
            impl="modbridge_vlv.florence2_query:Florence2Query",
            summary="VLV's own encoder (NeurIPS 2025): Florence-2 with learned queries in the place of words.",
            revision=2,
            example_from="modbridge_vlv.examples:florence2_query",
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="soft_context",
            config="modbridge_vlv.soft_context_config:SoftContextConfig",
            impl="modbridge_vlv.soft_context:SoftContext",
            summary="Soft tokens through the teacher's frozen text encoder (VLV).",
            example_from="modbridge_vlv.examples:soft_context",
        )
    )
    register(
        ComponentSpec(
            kind="decoder",
            name="diffusion_painter",
            config="modbridge_vlv.painter_config:DiffusionPainterConfig",
            impl="modbridge_vlv.painter:DiffusionPainter",
            summary="Paints images of what the teacher's text encoder says, with classifier-free guidance.",
            revision=2,
            example_from="modbridge_vlv.examples:diffusion_painter",
        )
    )
    for name, cls, summary in METRICS:
        register(
            ComponentSpec(
                kind="metric",
                name=name,
                config=f"modbridge_vlv.{name}_config:{cls}Config",
                impl=f"modbridge_vlv.{name}:{cls}",
                summary=summary,
                example_from=f"modbridge_vlv.examples:{name}",
            )
        )


@hookimpl
def modbridge_doctor() -> list[tuple[str, bool, str]]:
    from modbridge_vlv.fid_config import FidConfig

    lacks = FidConfig().missing()
    return [("Inception's weights for FID are here", lacks is None, lacks or "")]
