"""Mappers: a vector, or a sequence of them, into the prefix that a language model writes on from."""

from __future__ import annotations

import torch
from torch.nn import functional

from modbridge_captioning.blocks import (
    DrcapMapper,
    LinearMapper,
    MapperBlock,
    SoftPromptMapper,
    TokensMapper,
    TransformerMapper,
)

_PROMPT_STD = 0.02  # of GPT-2's own embeddings when they begin


class TanhMapper(torch.nn.Module):
    """Linear, Tanh, Linear (ClipCap; unchanged in C3 and Diffusion Bridge).

    (B, `dim`) -> (B, `length`, `width`): `length` input embeddings of a language model of that width.
    """

    def __init__(self, dim: int, length: int, width: int, hidden: int) -> None:
        super().__init__()
        self.length, self.width = length, width
        self.layers = torch.nn.Sequential(
            torch.nn.Linear(dim, hidden), torch.nn.Tanh(), torch.nn.Linear(hidden, length * width)
        )

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        prefix: torch.Tensor = self.layers(x)
        return prefix.view(-1, self.length, self.width)


class LinearPrefix(torch.nn.Module):
    """One linear layer (WSAC), or Linear, ReLU, Linear (DRCap) where `hidden` is given.

    (B, `dim`) -> (B, `length`, `width`), as `TanhMapper`.
    """

    def __init__(self, dim: int, length: int, width: int, hidden: int | None) -> None:
        super().__init__()
        self.length, self.width = length, width
        inner = [] if hidden is None else [torch.nn.Linear(dim, hidden), torch.nn.ReLU()]
        self.layers = torch.nn.Sequential(*inner, torch.nn.Linear(hidden or dim, length * width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        prefix: torch.Tensor = self.layers(x)
        return prefix.view(-1, self.length, self.width)


class SoftPrompts(torch.nn.Module):
    """The paper's adapter (Diffusion Bridge; second-hand, see `SoftPromptMapper` for what of it is ours).

    (B, `dim`) -> (B, `length` + `prompts`, `width`): the projected vector as `length` input embeddings, then the soft
    prompts, which are the same for every vector.
    """

    def __init__(self, dim: int, length: int, width: int, hidden: int, prompts: int) -> None:
        super().__init__()
        self.projection = torch.nn.Linear(dim, width)
        self.projector = TanhMapper(width, length, width, hidden)
        self.prompts = torch.nn.Parameter(torch.randn(prompts, width) * _PROMPT_STD)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        prefix = self.projector(self.projection(x))
        return torch.cat([prefix, self.prompts.to(prefix.dtype).expand(len(prefix), -1, -1)], dim=1)


class _Block(torch.nn.Module):
    """A pre-LayerNorm transformer block without masks or dropout, (B, T, W) to the same shape.

    The layers are named as in ClipCap; its keys and values come from one layer too, keys first.
    """

    def __init__(self, width: int, heads: int, hidden: int) -> None:
        super().__init__()
        self.heads = heads
        self.norm1 = torch.nn.LayerNorm(width)
        self.to_queries = torch.nn.Linear(width, width, bias=False)
        self.to_keys_values = torch.nn.Linear(width, 2 * width, bias=False)
        self.project = torch.nn.Linear(width, width)
        self.norm2 = torch.nn.LayerNorm(width)
        self.fc1 = torch.nn.Linear(width, hidden)
        self.fc2 = torch.nn.Linear(hidden, width)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        y = self.norm1(x)
        parts = (self.to_queries(y), *self.to_keys_values(y).chunk(2, dim=-1))
        queries, keys, values = (part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in parts)
        mixed = functional.scaled_dot_product_attention(queries, keys, values).transpose(1, 2).flatten(2)
        x = x + self.project(mixed)
        found: torch.Tensor = x + self.fc2(functional.relu(self.fc1(self.norm2(x))))
        return found


class TransformerPrefix(torch.nn.Module):
    """ClipCap's transformer mapper, which is ViECap's soft prompt (ViECap:ClipCap.py, MappingNetwork).

    (B, `dim`) -> (B, `length`, `width`): the vector as `projected` vectors, and `length` learned ones behind them, go
    through `layers` blocks; the last `length` positions are the prefix. There is no last norm.
    """

    def __init__(
        self, dim: int, length: int, width: int, *, projected: int, layers: int, heads: int, hidden: int
    ) -> None:
        super().__init__()
        self.projected, self.width = projected, width
        self.linear = torch.nn.Linear(dim, projected * width)
        self.prefix_const = torch.nn.Parameter(torch.randn(length, width))
        self.layers = torch.nn.ModuleList(_Block(width, heads, hidden) for _ in range(layers))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        seen = self.linear(x).view(-1, self.projected, self.width)
        mixed: torch.Tensor = torch.cat([seen, self.prefix_const.to(seen.dtype).expand(len(seen), -1, -1)], dim=1)
        for layer in self.layers:
            mixed = layer(mixed)
        return mixed[:, self.projected :]


class TokenMlp(torch.nn.Module):
    """Linear, GELU, Linear for each token by itself (VLV's second stage).

    (B, n, `dim`) -> (B, n, `width`): as many input embeddings of a language model of that width as there are tokens.
    """

    def __init__(self, dim: int, width: int, hidden: int) -> None:
        super().__init__()
        self.layers = torch.nn.Sequential(torch.nn.Linear(dim, hidden), torch.nn.GELU(), torch.nn.Linear(hidden, width))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        prefix: torch.Tensor = self.layers(x)
        return prefix


def build_mapper(config: MapperBlock, *, dim: int, length: int | None, width: int) -> torch.nn.Module:
    """The mapper that `config` describes, with weights from torch's current random state. `length`: of the prefix, None
    where it is that of the sequence.

    Raises ValueError for heads that do not divide the width.
    """
    if isinstance(config, TokensMapper):
        return TokenMlp(dim, width, config.hidden or width)
    assert length is not None
    if isinstance(config, TransformerMapper):
        config.require_width(width)
        return TransformerPrefix(
            dim,
            length,
            width,
            projected=config.project_length,
            layers=config.layers,
            heads=config.heads,
            hidden=max(1, int(width * config.ratio)),
        )
    if isinstance(config, SoftPromptMapper):
        return SoftPrompts(dim, length, width, config.hidden or width, config.prompts)
    if isinstance(config, LinearMapper | DrcapMapper):
        return LinearPrefix(dim, length, width, config.hidden if isinstance(config, DrcapMapper) else None)
    return TanhMapper(dim, length, width, config.hidden or max(1, length * width // 2))
