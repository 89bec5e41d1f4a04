"""The two losses of Diffusion-Link: guessing the text, and keeping the texts' geometry."""

from __future__ import annotations

import torch
from torch.nn import functional


def prediction_loss(kind: str, guess: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The mean over all coordinates of (B, D): "l1" |d|, "l2" d^2, "huber" d^2 / 2 below 1 and |d| - 1/2 above."""
    if kind == "l1":
        return functional.l1_loss(guess, text)
    return functional.mse_loss(guess, text) if kind == "l2" else functional.huber_loss(guess, text)


def topology_loss(guess: torch.Tensor, text: torch.Tensor) -> torch.Tensor:
    """The mean over i != j of (cos(guess_i, guess_j) - cos(text_i, text_j))^2, for (B, D); 0 for a single row.

    The paper names such a loss; its formula is not known to us, so this one is ours.
    """
    count = len(guess)
    if count < 2:
        return guess.sum() * 0
    guess, text = (functional.normalize(x, dim=1) for x in (guess, text))
    off = (guess @ guess.T - text @ text.T).square()
    return (off.sum() - off.diagonal().sum()) / (count * (count - 1))
