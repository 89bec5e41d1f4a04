"""The `query_encoder`: any vision backbone, read by learned queries into soft tokens."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from transformers import AutoModel

from modbridge.errors import ConfigError, Problem
from modbridge.interfaces.component import BuildContext
from modbridge.training import derived_seed
from modbridge_vlv.pretrained import (
    CONFIG_FOLDER,
    Named,
    Prepare,
    drawn,
    no_vision_model,
    processed,
    shape_kept,
    small_prepare,
    vision_side,
)
from modbridge_vlv.queries import QueryReader
from modbridge_vlv.query_encoder_config import QueryEncoderConfig
from modbridge_vlv.taught import TaughtEncoder

_PROBE = 224  # side of the blank image that asks a backbone for its width, where its settings name none


class QueryEncoder(TaughtEncoder[QueryEncoderConfig]):
    """Soft tokens (B, n, D), float32. A frozen backbone is not kept in the artefact; a trained one is, settings too."""

    def __init__(self, config: QueryEncoderConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self._processor: Any = None
        # A trained backbone is in the artefact with all it needs, so that the hub is not asked for it again.
        kept = None if context.artefact is None or config.freeze_backbone else context.artefact / CONFIG_FOLDER
        self._kept = kept.resolve() if kept is not None and kept.is_dir() else None
        self._prepare = self._preparing()
        self.backbone = self._network().to(self.device).requires_grad_(not config.freeze_backbone)
        self._reader = self._drawn_reader()

    def pixels(self, item: Any) -> torch.Tensor:
        return self._prepare(item)

    def read(self, pixels: torch.Tensor) -> torch.Tensor:
        with torch.set_grad_enabled(torch.is_grad_enabled() and not self.config.freeze_backbone):
            states = self._states(pixels)
        found: torch.Tensor = self._reader(states)
        return found

    def modules(self) -> dict[str, torch.nn.Module]:
        """What is trained."""
        return {"reader": self._reader, **({} if self.config.freeze_backbone else {"backbone": self.backbone})}

    def frozen(self) -> dict[str, str]:
        return {"backbone": self.config.backbone_identity()} if self.config.freeze_backbone else {}

    def save_extra(self, folder: Path) -> None:
        if self.config.freeze_backbone:
            return
        self.backbone.config.save_pretrained(folder / CONFIG_FOLDER)
        if self._processor is not None:
            self._processor.save_pretrained(folder / CONFIG_FOLDER)

    def _network(self) -> Any:
        if self._kept is not None:
            return shape_kept(AutoModel.from_config, self._kept)  # its weights follow
        if isinstance(self.config.backbone, str):
            return vision_side(Named(self.config.backbone, self.config.revision).network(AutoModel))
        seed = derived_seed("query_encoder backbone", self.context.seed)
        return vision_side(drawn(AutoModel.from_config, self.config.backbone, seed))

    def _preparing(self) -> Prepare:
        backbone, revision = self.config.backbone, self.config.revision
        if isinstance(backbone, dict):
            return small_prepare(int(backbone["image_size"]))
        named = Named(backbone, revision) if self._kept is None else Named(str(self._kept), None)
        self._processor = named.processor()
        return processed(self._processor)

    def _drawn_reader(self) -> QueryReader:
        seen = self._width()
        if seen % self.config.heads:
            told = f"the backbone's states are {seen} wide, which {self.config.heads} heads cannot share"
            raise ConfigError([Problem("heads", told)])
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("query_encoder", self.context.seed))
            layers, heads = self.config.layers, self.config.heads
            reader = QueryReader(self.config.queries, seen, self._teacher.width, layers=layers, heads=heads)
        return reader.to(self.device).eval()

    def _width(self) -> int:
        """How wide the backbone's states are, as a blank image shows: convolutional ones end wider than their settings
        say. Weights that its last states do not depend on (a pooler's) are not trained."""
        side = getattr(self.backbone.config, "image_size", None)
        shape = tuple(side) if isinstance(side, list | tuple) else (side or _PROBE,) * 2
        try:
            states = self._states(torch.zeros(1, 3, *shape, device=self.device))
        except (TypeError, ValueError) as error:  # what forward() says that takes no pixels, or asks for words too
            raise no_vision_model(self.backbone, str(error)) from error
        if states.requires_grad:
            torch.autograd.backward(states.sum())
            for parameter in self.backbone.parameters():
                parameter.requires_grad_(parameter.grad is not None)
                parameter.grad = None
        return int(states.shape[2])

    def _states(self, pixels: torch.Tensor) -> torch.Tensor:
        """The backbone's last states as a sequence (B, T, W)."""
        found = getattr(self.backbone(pixel_values=pixels), "last_hidden_state", None)
        if found is None:
            raise no_vision_model(self.backbone, "it gives no last_hidden_state")
        states: torch.Tensor = found.flatten(2).transpose(1, 2) if found.ndim == 4 else found
        return states
