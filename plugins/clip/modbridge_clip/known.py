"""What is known of published weights without loading them: their dimension, and which names mean the same weights.

Imports only the standard library.
"""

from __future__ import annotations

# The same weights, published for transformers and for open_clip: one space, named after open_clip. Only pairs whose
# image preprocessing agrees as well are listed.
SAME_WEIGHTS = {
    "openai/clip-vit-base-patch32": "open_clip/ViT-B-32/openai",
    "openai/clip-vit-base-patch16": "open_clip/ViT-B-16/openai",
    "openai/clip-vit-large-patch14": "open_clip/ViT-L-14/openai",
    "openai/clip-vit-large-patch14-336": "open_clip/ViT-L-14-336/openai",
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": "open_clip/ViT-B-32/laion2b_s34b_b79k",
    "laion/CLIP-ViT-B-16-laion2B-s34B-b88K": "open_clip/ViT-B-16/laion2b_s34b_b88k",
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": "open_clip/ViT-H-14/laion2b_s32b_b79k",
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": "open_clip/ViT-bigG-14/laion2b_s39b_b160k",
}

HUB_DIMENSIONS = {
    "openai/clip-vit-base-patch32": 512,
    "openai/clip-vit-base-patch16": 512,
    "openai/clip-vit-large-patch14": 768,
    "openai/clip-vit-large-patch14-336": 768,
    "laion/CLIP-ViT-B-32-laion2B-s34B-b79K": 512,
    "laion/CLIP-ViT-B-16-laion2B-s34B-b88K": 512,
    "laion/CLIP-ViT-H-14-laion2B-s32B-b79K": 1024,
    "laion/CLIP-ViT-bigG-14-laion2B-39B-b160k": 1280,
    "google/siglip-base-patch16-224": 768,
    "google/siglip-base-patch16-256": 768,
    "google/siglip-base-patch16-384": 768,
    "google/siglip-base-patch16-512": 768,
    "google/siglip-large-patch16-256": 1024,
    "google/siglip-large-patch16-384": 1024,
    "google/siglip-so400m-patch14-224": 1152,
    "google/siglip-so400m-patch14-384": 1152,
    "google/siglip2-base-patch16-224": 768,
    "google/siglip2-base-patch16-256": 768,
    "google/siglip2-base-patch16-384": 768,
    "google/siglip2-base-patch16-512": 768,
    "google/siglip2-base-patch32-256": 768,
    "google/siglip2-large-patch16-256": 1024,
    "google/siglip2-large-patch16-384": 1024,
    "google/siglip2-so400m-patch14-224": 1152,
    "google/siglip2-so400m-patch14-384": 1152,
    "google/siglip2-so400m-patch16-256": 1152,
}
