"""Config of the text code."""

from __future__ import annotations

from typing import Annotated

from pydantic import Field

from modbridge.builtin.bridges.map_config import FramedConfig
from modbridge.config.component import Affects

Share = Annotated[float, Field(ge=0.0, le=1.0, allow_inf_nan=False)]
NotNegative = Annotated[float, Field(ge=0.0, allow_inf_nan=False)]


class TextCodeConfig(FramedConfig):
    """The text code (ours): a source vector as a sum of few training texts, sharpened, with its own detail kept.

    The constants were chosen on the items of coco500 (D = 512, 400 texts); no rule without pairs was found that chooses
    them. More `sparsity`, `spread` or less `detail` bring vectors nearer to texts and lose detail, and the other way
    round.
    """

    size: Annotated[int, Field(ge=1)] = 4096
    """How many training texts are the atoms of the code, at most, drawn by the run's seed. Work and memory grow with
    it."""
    sparsity: NotNegative = 0.05
    """lambda_1: what a unit of an atom costs. 0 uses many atoms a little."""
    spread: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 2.0
    """lambda_2: what the square of a unit costs; more shares the sum among more atoms."""
    whiten: Share = 0.125
    """p: how far source directions with much variance are held down before the code is sought; 0.5 would make all
    equal."""
    sharpen: Share = 0.25
    """q: how far the directions in which codes vary most are held down afterwards; 0 leaves the sums as they are."""
    detail: Share = 0.3
    """b: the share of the source vector itself, filtered by the texts' covariance, in the result."""
    detail_noise: NotNegative = 0.15
    """s: the noise that this filter assumes, in units of 1/D."""
    floor: Annotated[float, Field(gt=0.0, allow_inf_nan=False)] = 4.0
    """e: added to every variance before a power of it is taken, in units of 1/D."""
    iterations: Annotated[int, Field(ge=1)] = 150
    """Steps of the search for a code (accelerated proximal gradient); more than 150 change nothing that is measured."""
    codes_at_once: Annotated[int, Field(ge=1), Affects("nothing")] = 512
    """How many source vectors are coded together; memory is this times `size`."""

    @property
    def needs(self) -> frozenset[str]:
        return frozenset({"text", "source"})
