"""Learned queries: what is read out of an image's states, as soft tokens."""

from __future__ import annotations

import torch


def projector(width: int, soft: int) -> torch.nn.Sequential:
    """Linear, GELU, Linear into the space of token embeddings (VLV's phi)."""
    return torch.nn.Sequential(torch.nn.Linear(width, soft), torch.nn.GELU(), torch.nn.Linear(soft, soft))


class QueryReader(torch.nn.Module):
    """States (B, T, `seen`) to soft tokens (B, `queries`, `soft`): queries attend to themselves and to the states in
    pre-LayerNorm decoder layers without dropout, and are projected. Queries begin as standard normal (VLV's)."""

    def __init__(self, queries: int, seen: int, soft: int, *, layers: int, heads: int) -> None:
        super().__init__()
        self.queries = torch.nn.Parameter(torch.randn(queries, seen))
        self.layers = torch.nn.ModuleList(
            torch.nn.TransformerDecoderLayer(
                seen, heads, 4 * seen, dropout=0.0, activation="gelu", batch_first=True, norm_first=True
            )
            for _ in range(layers)
        )
        self.norm = torch.nn.LayerNorm(seen)
        self.projector = projector(seen, soft)

    def forward(self, states: torch.Tensor) -> torch.Tensor:
        x = self.queries.to(states.dtype).expand(len(states), -1, -1)
        for layer in self.layers:
            x = layer(x, states)
        found: torch.Tensor = self.projector(self.norm(x))
        return found
