"""Nearest caption: a source vector becomes the text vector that is most like it.

v' = the vector of M with the greatest cosine to n(v); M the unit vectors of training texts. Only texts are needed. Of
equal ones the first. Centred (ours): compared after the source vector and M each had their own mean taken away and were
normalised again; the answer is the text's own vector all the same. With `search: faiss` (ours) an index picks out the
texts that are compared.

Source: the baseline "CLIPRe" (caption retrieval) of Li et al., "DeCap" (ICLR 2023), whose caption is given out as it
is; as an input of a decoder WSAC's "nnd" (nearest neighbour decoding, authors' code).
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.memory_config import NearestCaptionConfig
from modbridge.builtin.bridges.recall import RecallBridge


class NearestCaptionBridge(RecallBridge[NearestCaptionConfig]):
    """Replaces source vectors by their nearest text vectors."""

    def recall(self, query: torch.Tensor) -> torch.Tensor:
        if self.config.search != "exact":
            return torch.cat([_best(*few) for few in self.picked(query, 1)]).to(query)
        best = query.new_full((len(query),), -torch.inf)
        # NaN for a query that is nowhere near anything because it holds NaN itself: the core names it.
        found = torch.full_like(query, torch.nan)
        for texts, keys in self.memory():
            cosine, row = (query @ keys.T).max(dim=1)
            better = cosine > best
            found[better] = texts[row[better]]
            best = torch.where(better, cosine, best)
        return found


def _best(cosines: torch.Tensor, texts: torch.Tensor, keys: torch.Tensor) -> torch.Tensor:
    best, row = cosines.max(dim=1, keepdim=True)
    return texts[torch.arange(len(row))[:, None], row][:, 0].masked_fill(best == -torch.inf, torch.nan)
