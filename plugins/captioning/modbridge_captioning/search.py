"""Greedy and beam search that keep their batch full: a finished caption leaves it, and the next prompts take its place.

transformers' `generate` goes on with every row until the last caption of a batch is found, reads a prompt once for each
beam, and tells how likely captions are only by the logits of every step; its continuous batching takes tokens only, no
vectors. What is written is the same, beyond rounding: an item's tokens depend on its own prompt alone.
"""

from __future__ import annotations

from dataclasses import dataclass, fields

import torch
from transformers import PreTrainedModel

from modbridge_captioning.lead import Lead
from modbridge_captioning.reading import Reading

REFILL = 0.25  # of the batch: new prompts are read together, once so much is empty; fewest calls of the LM of 1/16 to 1
_NEVER = -1e9  # as transformers has it
_CHUNK = 64


@dataclass
class _Beams:
    """I items that are being written, K beams each. `rows` (I,): their rows of the lead. `count` (I,): tokens written.

    `tokens` (I, K, limit) and `sums` (I, K): what the beams say so far, the likeliest first, and its log-probability.
    `found` (I, K, limit), `lengths` and `scores` (I, K): the best whole captions so far.
    """

    rows: torch.Tensor
    count: torch.Tensor
    tokens: torch.Tensor
    sums: torch.Tensor
    found: torch.Tensor
    lengths: torch.Tensor
    scores: torch.Tensor

    @classmethod
    def begin(cls, rows: torch.Tensor, beams: int, limit: int) -> _Beams:
        """The first beam counts alone, since all of them still say the same."""
        tokens, few = rows.new_zeros(len(rows), beams, limit), rows.new_zeros(len(rows), beams)
        never = torch.full(few.shape, _NEVER, device=rows.device)
        sums = never.clone()
        sums[:, 0] = 0.0
        return cls(rows, few[:, 0].clone(), tokens, sums, tokens.clone(), few, never)

    def take(self, items: torch.Tensor) -> _Beams:
        return _Beams(*(getattr(self, field.name)[items] for field in fields(self)))

    def add(self, other: _Beams) -> _Beams:
        return _Beams(*(torch.cat([getattr(self, f.name), getattr(other, f.name)]) for f in fields(self)))


class Search:
    """The likeliest captions behind each row of `lead` (N rows), up to one of `ends` or `limit` tokens, as
    transformers' `generate` searches with so many beams (`early_stopping` False); with one of them, greedily.

    After `write`: `tokens` int64 (N, limit), of which the first `lengths` (N,) are written, and `scores` float32 (N,),
    their log-probabilities by number of tokens to the power `penalty`.
    """

    def __init__(
        self, lm: PreTrainedModel, lead: Lead, ends: list[int], limit: int, beams: int = 1, penalty: float = 1.0
    ) -> None:
        self.lm, self.lead, self.limit, self.beams, self.penalty = lm, lead, limit, beams, penalty
        count, self.device = len(lead.mask), lead.mask.device
        self.ends = torch.tensor(ends, device=self.device)
        self.tokens, self.lengths = lead.mask.new_zeros(count, limit), lead.mask.new_zeros(count)
        self.scores = torch.zeros(count, device=self.device)

    @torch.no_grad()
    def write(self, at_once: int) -> None:
        """Write all captions, `at_once` at most in one batch."""
        waiting = self.lead.mask.sum(1).argsort(stable=True)  # like lengths side by side: little is padded
        state, reading = _Beams.begin(waiting[:0], self.beams, self.limit), None
        while len(waiting) or len(state.rows):
            free = at_once - len(state.rows)
            if len(waiting) and free >= REFILL * at_once:
                rows, waiting = waiting[:free], waiting[free:]
                new = Reading(self.lm, self.lead.rows(rows))
                logits = new.logits.repeat_interleave(self.beams, 0) if self.beams > 1 else new.logits
                more = self._longer(_Beams.begin(rows, self.beams, self.limit), new, logits, shared=True)
                if reading is None or not len(state.rows):
                    state, reading = more, new
                else:
                    state = state.add(more)
                    reading.add(new)
            else:
                assert reading is not None
                last = state.tokens.gather(2, (state.count - 1)[:, None, None].expand(-1, self.beams, 1))
                state = self._longer(state, reading, reading.go_on(last.flatten()))

    def _longer(self, state: _Beams, reading: Reading, logits: torch.Tensor, *, shared: bool = False) -> _Beams:
        """All beams with one more token each, given the logits (I * K, V) of what follows, without the items whose
        captions are found. `shared`: what was read so far stands there once for all beams of an item."""
        items, beams = len(state.rows), self.beams
        count = state.count + 1
        logs = logits.log_softmax(1).view(items, beams, -1).add_(state.sums[..., None])
        size = logs.shape[2]
        some = max(2, 1 + len(self.ends)) * beams if beams > 1 else 1  # so that enough of them are no ends
        sums, at = _top(logs.view(items, -1), min(some, beams * size))
        parent, token = at // size, at % size
        tokens = state.tokens.gather(1, parent[..., None].expand(-1, -1, self.limit))
        tokens.scatter_(2, (count - 1)[:, None, None].expand(-1, token.shape[1], 1), token[..., None])
        whole = torch.isin(token, self.ends) | (count == self.limit)[:, None]

        best = torch.where(whole, sums / count[:, None] ** self.penalty, _NEVER)[:, :beams]
        scores, which = torch.cat([state.scores, best], 1).topk(beams)
        lengths = torch.cat([state.lengths, count[:, None].expand_as(best)], 1).gather(1, which)
        every = torch.cat([state.found, tokens[:, :beams]], 1)
        found = every.gather(1, which[..., None].expand(-1, -1, self.limit))

        sums, which = (sums + whole * _NEVER).topk(beams)
        tokens = tokens.gather(1, which[..., None].expand(-1, -1, self.limit))
        going = (count < self.limit) & (sums[:, 0] / count**self.penalty > scores.amin(1))
        state = _Beams(state.rows, count, tokens, sums, found, lengths, scores)
        over = state.take(~going)
        self.tokens[over.rows], self.lengths[over.rows] = over.found[:, 0], over.lengths[:, 0]
        self.scores[over.rows] = over.scores[:, 0]
        if beams > 1 or not bool(going.all()):
            first = torch.arange(items, device=self.device)[:, None] * (1 if shared else beams)
            reading.take((first + (0 if shared else parent.gather(1, which)))[going].expand(-1, beams).flatten())
        return state.take(going)


def _top(x: torch.Tensor, count: int) -> tuple[torch.Tensor, torch.Tensor]:
    """The `count` largest numbers in each row of x (B, N), and where they are. They stand in those `count` chunks of a
    row whose largest numbers are the largest: on a CPU ten times as fast as `topk`."""
    whole = x.shape[1] // _CHUNK * _CHUNK
    if count == 1:
        return x.max(1, keepdim=True)
    if whole // _CHUNK <= count:
        return x.topk(count)
    chunks = x[:, :whole].view(len(x), -1, _CHUNK)
    which = chunks.amax(2).topk(count).indices[..., None]
    at = torch.cat(
        [
            (which * _CHUNK + torch.arange(_CHUNK, device=x.device)).flatten(1),
            torch.arange(whole, x.shape[1], device=x.device).expand(len(x), -1),
        ],
        1,
    )
    best = x.gather(1, at).topk(count)
    return best.values, at.gather(1, best.indices)
