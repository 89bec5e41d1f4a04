"""How encoder, bridge and decoder are trained together, step by step of unfreezing."""

from __future__ import annotations

from collections.abc import Mapping
from fnmatch import fnmatchcase
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BaseModel, ConfigDict, Field

TUNED = ("encoder", "bridge", "decoder")
Rate = Annotated[float, Field(ge=0.0, lt=1.0)]


def _of_a_part(pattern: str) -> str:
    if pattern.split(".")[0] not in TUNED:
        raise ValueError(
            f"{pattern!r} names nothing of encoder, bridge or decoder; expected their parameters, such as "
            f'"decoder.mapper", "decoder" or "encoder.*"'
        )
    return pattern


class TuneConfig(BaseModel):
    """One step of joint training: what trains in it, and how. Defaults are those of VLV's stage 2, but for `clip`."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Annotated[list[Annotated[str, AfterValidator(_of_a_part)]], Field(min_length=1)]
    """Which parameters are trained: names, or patterns with *, such as "decoder.mapper" (all of it), "decoder",
    "encoder.*". All others stay as they are."""
    steps: Annotated[int, Field(ge=1)]
    """Optimiser steps."""
    batch_size: Annotated[int, Field(ge=1)] = 64
    """Captions a step."""
    lr: Annotated[float, Field(gt=0, allow_inf_nan=False)] = 1e-5
    """AdamW's highest learning rate."""
    betas: tuple[Rate, Rate] = (0.9, 0.999)
    """AdamW's."""
    weight_decay: Annotated[float, Field(ge=0, allow_inf_nan=False)] = 0.01
    """AdamW's."""
    schedule: Literal["linear", "cosine", "constant"] = "linear"
    """How the rate falls after the warm-up."""
    warmup: Annotated[int, Field(ge=0)] = 0
    """Steps of linear warm-up."""
    clip: Annotated[float, Field(gt=0, allow_inf_nan=False)] | None = 1.0
    """Largest gradient norm (ours); null: none."""
    stored: bool = True
    """While nothing before the decoder has been trained yet: whether it reads embeddings that are made once and kept.
    false: media are encoded anew in every step, where there is no room to keep them (of 77 tokens of 1,024 numbers an
    item takes 315 kB)."""

    def trains(self, part: str) -> bool:
        """Whether anything of "encoder", "bridge" or "decoder" is named."""
        return any(pattern.split(".")[0] == part for pattern in self.train)


def chosen(names: Mapping[str, Any], patterns: list[str]) -> tuple[list[str], list[str]]:
    """Those of `names` that patterns mean, in their order, and the patterns that mean none."""
    meant = {pattern: [name for name in names if _means(pattern, name)] for pattern in patterns}
    wanted = {name for found in meant.values() for name in found}
    return [name for name in names if name in wanted], [pattern for pattern, found in meant.items() if not found]


def _means(pattern: str, name: str) -> bool:
    return fnmatchcase(name, pattern) or fnmatchcase(name, f"{pattern}.*")
