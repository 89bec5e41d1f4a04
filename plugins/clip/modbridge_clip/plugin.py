"""What modbridge-clip brings: encoders of images and text, and the captions of COCO and Flickr30k."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from modbridge.plugins.hookspecs import hookimpl
from modbridge.plugins.registry import ComponentSpec

TINY_MODEL: dict[str, Any] = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "patch_size": 16, "width": 32, "layers": 1, "head_width": 16},
    "text_cfg": {"context_length": 16, "vocab_size": 49408, "width": 16, "heads": 2, "layers": 1},
}


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    register(
        ComponentSpec(
            kind="encoder",
            name="open_clip",
            config="modbridge_clip.open_clip_config:OpenClipConfig",
            impl="modbridge_clip.open_clip_encoder:OpenClipEncoder",
            summary="open_clip's dual encoders of images and text, pretrained or trained by the run",
            example={"type": "open_clip", "model": TINY_MODEL, "pretrained": "random"},
            example_from="modbridge_clip.examples:open_clip",
        )
    )
    register(
        ComponentSpec(
            kind="encoder",
            name="hf_clip",
            config="modbridge_clip.hf_clip_config:HfClipConfig",
            impl="modbridge_clip.hf_clip_encoder:HfClipEncoder",
            summary="CLIP, SigLIP and SigLIP 2 from the Hugging Face hub or a local folder",
            example_from="modbridge_clip.examples:hf_clip",
        )
    )
    register(
        ComponentSpec(
            kind="source",
            name="coco_captions",
            config="modbridge_clip.coco_config:CocoCaptionsConfig",
            impl="modbridge_clip.coco:CocoCaptions",
            summary="COCO's captions: Karpathy's splits, COCO's own files, or one JSON object a line",
            example_from="modbridge_clip.examples:coco_captions",
        )
    )
    register(
        ComponentSpec(
            kind="source",
            name="flickr30k",
            config="modbridge_clip.coco_config:Flickr30kConfig",
            impl="modbridge_clip.coco:Flickr30k",
            summary="Flickr30k's captions in Karpathy's splits",
            example_from="modbridge_clip.examples:flickr30k",
        )
    )
