"""unCLIP's prior (Ramesh et al. 2022) as a denoiser: diffusers' own `PriorTransformer`, built from numbers, offline."""

from __future__ import annotations

from typing import Any

import torch
from diffusers import PriorTransformer
from torch import nn


class TransformerDenoiser(nn.Module):
    """(x_t (B, D), t int64 (B,) or (1,)) -> estimate of x_0 (B, D).

    diffusers' class is made for conditioning on a caption, of which there is none here: it gets no text sequence
    (`num_embeddings` 0, no projection for one), and its required `proj_embedding` is a zero with one dimension, so that
    this token is the projection's bias, the same for all. What stays is four tokens: that one, the time step, the noisy
    vector, and the learnt token at whose place the answer is read. `clip_mean` and `clip_std` are in the state but take
    no part.
    """

    def __init__(self, dim: int, num_layers: int = 4, heads: int = 8, head_dim: int = 64, dropout: float = 0.0) -> None:
        super().__init__()
        self.model: Any = PriorTransformer(  # type: ignore[no-untyped-call]
            num_attention_heads=heads,
            attention_head_dim=head_dim,
            num_layers=num_layers,
            embedding_dim=dim,
            num_embeddings=0,
            additional_embeddings=4,
            dropout=dropout,
            encoder_hid_proj_type=None,
            added_emb_type="prd",
            embedding_proj_dim=1,
        )

    @property
    def output(self) -> nn.Linear:
        """The last layer."""
        layer: nn.Linear = self.model.proj_to_clip_embeddings
        return layer

    def forward(self, x: torch.Tensor, t: torch.Tensor) -> torch.Tensor:
        estimate: torch.Tensor = self.model(x, t, x.new_zeros(len(x), 1), return_dict=False)[0]
        return estimate
