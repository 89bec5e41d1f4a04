"""DeCap's memory projection: a source vector becomes a mixture of text vectors, so that it lies where texts lie.

p = softmax(n(v) M' / temperature) M, then n(p); M the unit vectors of training texts. Only texts are needed. Centred
(ours): the source vector and M each have their own mean taken away and are normalised again; the mixture, of centred
texts, goes back among raw text vectors as n(r n(p) + mean_t), or stays where it is in the centred frame.

Computed over chunks of M with a running maximum (online softmax), in O(B chunk + chunk D) beside M itself. The
softmax's denominator is not kept, since n takes it away.

With `search: faiss` (ours) M holds only the K = `nearest` texts nearest to n(v) among those that an index picks out.
What that costs is bounded: with e the share of the whole softmax that falls on the M - K other texts, p_K the mixture
of the K, |n(p) - n(p_K)| <= 4 e / (|p| + |p_K|), and where no nearer text was missed
e <= (M - K) w_K / (w_1 + ... + w_K + (M - K) w_K), w_k = exp(cosine_k / temperature).

Source: Li et al., "DeCap" (ICLR 2023) and the authors' code (inference_decap.ipynb: 100 x cosine, 500,000 random
training captions). Also WSAC's "pd" (100 x), and DRCap's projection decoding (the learnt temperature, and no n
at the end: a length that no bridge here gives out).
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.memory_config import MemoryConfig
from modbridge.builtin.bridges.recall import RecallBridge
from modbridge.geometry import unit


class MemoryBridge(RecallBridge[MemoryConfig]):
    """Projects source vectors onto a memory of text vectors."""

    @property
    def answers_centred(self) -> bool:
        return self.config.centred

    def recall(self, query: torch.Tensor) -> torch.Tensor:
        if self.config.search != "exact":
            return self._mixture_of_few(query, self.config.search.nearest)
        top = query.new_full((len(query), 1), -torch.inf)
        total = torch.zeros_like(query)
        for _, keys in self.memory():
            scores = query @ keys.T / self.config.temperature
            highest = torch.maximum(top, scores.amax(dim=1, keepdim=True))
            total = total * (top - highest).exp() + scores.sub_(highest).exp_() @ keys
            top = highest
        return unit(total)

    def _mixture_of_few(self, query: torch.Tensor, nearest: int) -> torch.Tensor:
        found = []
        for cosines, _, keys in self.picked(query, nearest):
            weights = (cosines / self.config.temperature).softmax(dim=1).to(keys.dtype)
            found.append(unit((weights[:, None] @ keys)[:, 0]))
        return torch.cat(found).to(query)
