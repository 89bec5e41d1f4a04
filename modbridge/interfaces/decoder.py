"""Decoder: embeddings into text (or into another modality)."""

from __future__ import annotations

import warnings
from abc import abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import torch

from modbridge.config.kinds import DecoderConfig
from modbridge.distributed import Share
from modbridge.errors import ConfigError, PluginError, Problem, SetupError
from modbridge.interfaces.component import Component, require_takes_mask
from modbridge.interfaces.fitting import Fitting, TextVectors
from modbridge.spaces import Embeddings

DecoderConfigT = TypeVar("DecoderConfigT", bound=DecoderConfig)


@dataclass(frozen=True)
class Decoded:
    """One item's output. `score`: the search's own score of it, higher is better; None where the search has none.
    `image`: what a decoder that makes images made, a uint8 array (H, W, 3); its text is "".
    """

    key: str
    text: str
    score: float | None = None
    details: Mapping[str, Any] = field(default_factory=dict)
    image: Any = None


class Decoder(Component[DecoderConfigT]):
    """Reads vectors out as text. Authors write `fit` and `decode_batch`; the core batches, labels and checks.

    Of sequences the vectors are (B, n, D). A decoder whose config takes ragged ones is given their mask, bool (B, n),
    True where a token is, as `mask=` beside them, and only then; in training by `TextVectors.mask`.
    """

    @abstractmethod
    def fit(self, vectors: TextVectors, targets: Sequence[str], fitting: Fitting) -> None:
        """Learn to write `targets` (N texts) from N text vectors. One that makes images is given the vectors of media,
        carried across, and those media, as their source gives them."""
        ...

    @abstractmethod
    def decode_batch(
        self, bridged: torch.Tensor, source: torch.Tensor | None, keys: Sequence[str], seed: int
    ) -> list[Decoded]:
        """Texts of a batch of bridged vectors (B, D); `source` holds the unbridged ones, for decoders that look."""
        ...

    def decode_hinted(
        self,
        bridged: torch.Tensor,
        source: torch.Tensor | None,
        hints: Sequence[str],
        keys: Sequence[str],
        seed: int,
    ) -> list[Decoded]:
        """As `decode_batch`, with words given with each vector, for decoders whose config answers `with_hints`."""
        raise PluginError(f"the decoder {self.config.type!r} reads no words beside the vectors.")

    def tell(self, references: Mapping[str, Sequence[str]]) -> None:
        """What the captions of each item say, by its key; told before decoding if the config says
        `reads_references`."""

    def project(self, x: torch.Tensor) -> torch.Tensor | None:
        """What the decoder's own mapper makes of vectors (B, D), flattened to (B, K); None if it has no mapper.

        The similarity table of `modbridge gap` compares vectors there as well (Diffusion Bridge, table 1).
        """
        return None

    def training_loss(self, vectors: TextVectors, targets: Sequence[str]) -> Callable[[int, torch.Tensor], Share]:
        """What training asks of it, with the weights as they are: a function of (epoch, rows), rows int64 (B,) among N
        vectors and their `targets`, that gives the loss of those rows.

        Gradients pass through what `vectors.batch` gives, so that `tune` can train what made it. For decoders whose
        config is `tunable`.
        """
        raise PluginError(f"the decoder {self.config.type!r} cannot be tuned together with other parts.")

    def text_loss(self, vectors: TextVectors, targets: Sequence[str]) -> float:
        """The loss of held-out `targets` (N texts) given their vectors (N, D), with the weights as they are.

        A decoder that has this and hands `fitting.judge` to `modbridge.training.train` can be selected while it trains,
        by this loss or by a metric (`select` in a config). Raises ConfigError where it cannot.
        """
        raise ConfigError(
            [
                Problem(
                    "select",
                    f"the decoder {self.config.type!r} cannot be judged while it trains",
                    hint="set select: {by: last}",
                )
            ]
        )

    _most: int | None = None  # items given to `decode_batch` at once, where the device has no memory for `pool_size`

    @property
    def batch_size(self) -> int:
        """How many items are decoded at once."""
        return int(getattr(self.config, "decode_batch_size", 64))

    @property
    def pool_size(self) -> int:
        """How many items `decode` gives `decode_batch` at once: more than `batch_size` for a decoder that makes batches
        of its own, of items that go well together."""
        return self.batch_size

    def decode(self, bridged: Embeddings, *, source: Embeddings | None = None, seed: int = 0) -> list[Decoded]:
        """Texts of bridged embeddings, in their order. Raises PortError if the vectors are not of the kind that the
        decoder was trained on."""
        self.context.ports["text"].require(
            bridged.port,
            what=f"the decoder {self.config.type!r} was trained on other vectors",
            remedy="Train the decoder under this bridge (or give the bridge the frame that the decoder knows).",
        )
        bridged = bridged.at(self.context.ports["text"])
        call: Callable[..., list[Decoded]] = self.decode_batch
        if bridged.mask is not None:
            require_takes_mask(call, f"the decoder {self.config.type!r}")
        found: list[Decoded] = []
        with torch.inference_mode():
            while len(found) < len(bridged):
                count = min(self._most or self.pool_size, len(bridged) - len(found))
                rows = slice(len(found), len(found) + count)
                raw = None if source is None else source.values[rows].to(self.device, torch.float32)
                vectors, keys = bridged.values[rows].to(self.device, torch.float32), bridged.keys[rows]
                mask = {} if bridged.mask is None else {"mask": bridged.mask[rows].to(self.device)}
                try:
                    found += self._checked(call(vectors, raw, keys, seed, **mask), keys)
                except torch.OutOfMemoryError as error:
                    self._most = self.fewer(count, error)
        return found

    def fewer(self, count: int, error: torch.OutOfMemoryError) -> int:
        """Half of `count` items, which were too many for the device's memory, with a warning. Raises SetupError if
        `count` is one."""
        if count <= 1:
            raise SetupError(
                f"the device has no memory to decode one item ({str(error).split('. ')[0]}). Use a smaller decoder, a "
                f"lower precision or fewer beams where it has them, or another device."
            ) from error
        if self.device.type == "cuda":
            torch.cuda.empty_cache()
        warnings.warn(
            f"{self.config.type}: out of memory on the device; going on with {count // 2} items at once", stacklevel=2
        )
        return count // 2

    def _checked(self, found: list[Decoded], keys: Sequence[str]) -> list[Decoded]:
        """What `decode_batch` gave, or a PluginError if that is not one text (or image) for each item, in order."""
        if not all(isinstance(one, Decoded) and isinstance(one.text, str) for one in found):
            raise PluginError(
                f"the decoder {self.config.type!r} gave {found[:1]!r}; expected Decoded(key, text) items."
            )
        if self.config.makes == "image":
            wrong = [one.image for one in found if not _is_image(one.image)]
            if wrong:
                raise PluginError(
                    f"the decoder {self.config.type!r} gave the image {wrong[0]!r:.80}; expected uint8 (H, W, 3)."
                )
        if [one.key for one in found] != list(keys):
            raise PluginError(
                f"the decoder {self.config.type!r} gave {len(found)} texts for {len(keys)} items, or in another order; "
                f"expected one for each, with its key, in the order given."
            )
        return found


def _is_image(found: Any) -> bool:
    shape: tuple[int, ...] = getattr(found, "shape", ())
    return len(shape) == 3 and shape[2] == 3 and str(getattr(found, "dtype", "")) == "uint8"
