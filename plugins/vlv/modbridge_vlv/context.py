"""Soft tokens: continuous vectors through a text encoder, in the place of its token embeddings.

Stock CLIP text encoders take token ids only, and what lies between ids and states is private and changes from version
to version. The public interface has a way in all the same: the module that `get_input_embeddings()` gives is asked for
the embeddings of ids, and a forward hook may answer in its place. Positions, causal mask and last norm stay the
encoder's own. Source: ours; the authors of VLV copied the library's private classes instead.
"""

from __future__ import annotations

from contextvars import ContextVar
from typing import Any

import torch

from modbridge.errors import DataError

# One for all encoders, since a ContextVar of an instance's own could not be pickled (for a DataLoader's workers).
_READ: ContextVar[tuple[SoftTokens, torch.Tensor] | None] = ContextVar("soft tokens that are read", default=None)


class SoftTokens:
    """A CLIP text encoder of transformers that reads vectors (B, n, D) as well as ids (B, n).

    What stands in for the embeddings is known to the calling thread alone, so several may read at once.
    """

    def __init__(self, text_encoder: torch.nn.Module) -> None:
        self.text_encoder = text_encoder
        self.embedding.register_forward_hook(self._answer)

    @property
    def embedding(self) -> torch.nn.Embedding:
        """The encoder's table of token embeddings."""
        encoder: Any = self.text_encoder
        table: torch.nn.Embedding = encoder.get_input_embeddings()
        return table

    @property
    def longest(self) -> int:
        """How many tokens the encoder takes."""
        encoder: Any = self.text_encoder
        return int(encoder.config.max_position_embeddings)

    @property
    def width(self) -> int:
        encoder: Any = self.text_encoder
        return int(encoder.config.hidden_size)

    def embeddings(self, ids: torch.Tensor) -> torch.Tensor:
        """The token embeddings (B, n, D) of ids (B, n): what soft tokens stand in for."""
        found: torch.Tensor = self.embedding(ids)
        return found

    def states(self, ids: torch.Tensor) -> torch.Tensor:
        """The last states (B, n, D) of token ids (B, n)."""
        found: torch.Tensor = self.text_encoder(input_ids=ids).last_hidden_state
        return found

    def __call__(self, soft: torch.Tensor) -> torch.Tensor:
        """The last states (B, n, D) of soft tokens (B, n, D); gradients pass through.

        Raises DataError for sequences that are too long or of another width.
        """
        if soft.ndim != 3 or soft.shape[2] != self.width:
            raise DataError(f"soft tokens of shape {tuple(soft.shape)}; the text encoder takes (B, n, {self.width}).")
        if soft.shape[1] > self.longest:
            raise DataError(
                f"a sequence of {soft.shape[1]} soft tokens; the text encoder takes {self.longest} at most "
                f"(max_position_embeddings). Take fewer."
            )
        ids = torch.zeros(soft.shape[:2], dtype=torch.long, device=soft.device)
        token = _READ.set((self, soft))
        try:
            return self.states(ids)
        finally:
            _READ.reset(token)

    def _answer(self, module: torch.nn.Module, inputs: Any, output: torch.Tensor) -> torch.Tensor:
        read = _READ.get()
        return read[1].to(output.dtype) if read is not None and read[0] is self else output
