"""Mappers: a vector into the prefix that a language model writes on from."""

from __future__ import annotations

import torch

from modbridge_captioning.blocks import DrcapMapper, LinearMapper, MapperBlock, SoftPromptMapper

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


def build_mapper(config: MapperBlock, *, dim: int, length: int, width: int) -> torch.nn.Module:
    """The mapper that `config` describes, with weights from torch's current random state."""
    if isinstance(config, SoftPromptMapper):
        return SoftPrompts(dim, length, width, config.hidden or width, config.prompts)
    if isinstance(config, LinearMapper | DrcapMapper):
        return LinearPrefix(dim, length, width, config.hidden if isinstance(config, DrcapMapper) else None)
    return TanhMapper(dim, length, width, config.hidden or max(1, length * width // 2))
