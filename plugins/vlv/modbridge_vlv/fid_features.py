"""The Frechet distance of two sets of pictures, which are seen one after another and not kept: torchmetrics' own, over
Inception or over any vision model."""

from __future__ import annotations

import hashlib
import warnings
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from PIL import Image
from torchmetrics.image.fid import FrechetInceptionDistance
from transformers import AutoModel

from modbridge.errors import DataError
from modbridge.media import load_image
from modbridge_vlv.fid_config import INCEPTION, INCEPTION_URL, FrechetFields
from modbridge_vlv.pretrained import Named, processed, vision_side

INCEPTION_DIGEST = "6726825d"  # how the sha256 of its weights begins, as their name says
INCEPTION_FEATURES = 2048
WAITING, WAITING_BYTES = 8, 2**28  # batches of pictures of other sizes, which wait to be complete


class Frechet:
    """The Frechet distance of pictures from others, the real ones. `width`: how many features."""

    def __init__(self, config: FrechetFields, device: torch.device) -> None:
        self._config, self._device = config, device
        if config.features == INCEPTION:
            self.width = INCEPTION_FEATURES
            network: Any = _inception(config)
            self._prepare: Callable[[Any], torch.Tensor] = _bytes
        else:
            named = Named(config.features, config.features_revision)
            features = MeanState(vision_side(named.network(AutoModel)))
            self._prepare = processed(named.processor())
            self.width = features.num_features = features.measured(self._prepare)
            network = FrechetInceptionDistance(feature=features, reset_real_features=False)
        self._distance = network.to(device).eval()

    def see(self, items: Iterable[Any], *, real: bool, seen: Callable[[int], None] = lambda count: None) -> None:
        """Take pictures in: paths, arrays, PIL images. Raises DataError for an item that is none."""
        with torch.inference_mode():
            for batch in self._batches(items):
                self._distance.update(batch.to(self._device), real=real)
                seen(len(batch))

    def forget(self) -> None:
        """The pictures, but not the real ones, so that others can be compared with them."""
        self._distance.reset()

    def distance(self) -> float:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message=".*was called before.*")
            return float(self._distance.compute())

    def note(self, count: int) -> str:
        """What a reader must know of a distance over so many pictures; "" if nothing."""
        told = []
        if self._config.features != INCEPTION:
            told.append(f"in features of {self._config.features}, so no FID")
        if count <= self.width:
            told.append(f"{count} pictures for {self.width} features: too few, the distance comes out too large")
        return "; ".join(told)

    def _batches(self, items: Iterable[Any]) -> Iterator[torch.Tensor]:
        """Pictures of one size together."""
        waiting: dict[tuple[int, ...], list[torch.Tensor]] = {}
        size, count, held = self._config.batch_size, 0, 0
        for item in items:
            picture = load_image(item)
            pixels = self._prepare(middle(picture) if self._config.crop else picture)
            shape = tuple(pixels.shape)
            waiting.setdefault(shape, []).append(pixels)
            count, held = count + 1, held + pixels.nbytes
            full = shape if len(waiting[shape]) == size else None
            if full is None and (count >= WAITING * size or held >= WAITING_BYTES):
                full = max(waiting, key=lambda one: len(waiting[one]) * waiting[one][0].nbytes)
            if full is not None:
                group = waiting.pop(full)
                count, held = count - len(group), held - len(group) * group[0].nbytes
                yield torch.stack(group)
        for group in waiting.values():
            yield torch.stack(group)


def middle(picture: Image.Image) -> Image.Image:
    """The largest square in the middle of a picture."""
    side = min(picture.size)
    left, top = ((length - side) // 2 for length in picture.size)
    return picture.crop((left, top, left + side, top + side))


def _bytes(item: Any) -> torch.Tensor:
    return torch.from_numpy(np.array(load_image(item))).permute(2, 0, 1)


def _inception(config: FrechetFields) -> FrechetInceptionDistance:
    """Raises DataError for weights that are not those that FID is defined by; so no stranger's pickle is opened."""
    with config.inception.open("rb") as file:
        digest = hashlib.file_digest(file, "sha256").hexdigest()
    if not digest.startswith(INCEPTION_DIGEST):
        raise DataError(
            f"{config.inception} does not hold the Inception of FID: its sha256 begins with {digest[:8]}, expected "
            f"{INCEPTION_DIGEST}. Fetch {INCEPTION_URL}, or name a network of your own by `features`."
        )
    return FrechetInceptionDistance(
        feature=INCEPTION_FEATURES,
        reset_real_features=False,
        feature_extractor_weights_path=str(config.inception),
        antialias=config.antialias,
    )


class MeanState(torch.nn.Module):
    """A vision model of transformers, its last states averaged over their places: (B, 3, H, W) to (B, D)."""

    def __init__(self, network: Any) -> None:
        super().__init__()
        self.network = network
        self.num_features = 0

    def forward(self, pixels: torch.Tensor) -> torch.Tensor:
        states: torch.Tensor = self.network(pixel_values=pixels).last_hidden_state
        # Tokens (B, n, D), or of convolutions maps (B, D, h, w).
        return states.mean(dim=1) if states.ndim == 3 else states.flatten(2).mean(dim=2)

    def measured(self, prepare: Callable[[Any], torch.Tensor]) -> int:
        """How many features it gives of a prepared picture."""
        with torch.inference_mode():
            return int(self(prepare(np.zeros((32, 32, 3), dtype=np.uint8))[None]).shape[1])
