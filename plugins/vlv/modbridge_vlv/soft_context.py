"""The `soft_context` bridge: soft tokens through the teacher's frozen text encoder (VLV, z -> c)."""

from __future__ import annotations

import torch

from modbridge.interfaces.bridge import Bridge, FitData
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.fitting import Fitting
from modbridge.noise import Draw
from modbridge_vlv.soft_context_config import SoftContextConfig
from modbridge_vlv.teacher import DiffusionTeacher


class SoftContext(Bridge[SoftContextConfig]):
    """c (B, n, D) of z (B, n, D). There is nothing to fit: the text encoder is the teacher's."""

    def __init__(self, config: SoftContextConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        teacher = context.parts["teacher"]
        assert isinstance(teacher, DiffusionTeacher)
        self._teacher = teacher

    def fit(self, data: FitData, fitting: Fitting) -> None:
        """Nothing to learn."""

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self._teacher.context_of(x)

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self._teacher.context_of(x)
