"""A stranger's plugin of sequences in one file: an encoder whose items have as many tokens as they show colours, a
bridge that pools them, and a decoder that spells them out word by word."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any

import numpy as np
import torch

from modbridge.config.component import Affects
from modbridge.config.kinds import BridgeConfig, DecoderConfig, EncoderConfig
from modbridge.errors import DataError, PortError
from modbridge.interfaces import Bridge, BuildContext, Decoded, Decoder, Encoder, FitData, Fitting, TextVectors
from modbridge.media import load_image
from modbridge.noise import Draw
from modbridge.plugins import ComponentSpec, hookimpl
from modbridge.spaces import Port, Space

COLOURS = {"red": (220, 30, 30), "green": (30, 200, 40), "blue": (40, 60, 220), "white": (240, 240, 240)}
DIM, WIDTH = 6, 4
GARBAGE = 77.0


class StripesConfig(EncoderConfig):
    """`tokens`: how many at most. `ragged`: as many as there are colours; else the last one is said again. `masked`:
    whether the mask is given that is promised, or withheld, as a stranger's bug would. `batch_size`: items at once."""

    batch_size: Annotated[int, Affects("nothing")] = 4
    tokens: int = 4
    ragged: bool = True
    masked: bool = True

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image", "text")

    def emits(self, modality: str) -> Port:
        space = Space(id="toy/stripes", dim=DIM, normalised=False)
        return Port(space=space, modality=modality, tokens=self.tokens, ragged=self.ragged)


class Stripes(Encoder[StripesConfig]):
    """Image: one token for each stripe of WIDTH columns. Text: one for each colour that it names."""

    def prepare(self, item: Any, modality: str) -> torch.Tensor:
        if modality == "image":
            pixels = np.asarray(load_image(item), dtype=np.float32).mean(0) / 255
            found = pixels.reshape(-1, WIDTH, 3).mean(1)
        else:
            found = np.array([COLOURS[w] for w in item.split() if w in COLOURS], dtype=np.float32).reshape(-1, 3) / 255
        if len(found) > self.config.tokens:
            raise DataError(f"{len(found)} colours; expected {self.config.tokens} at most.")
        if not self.config.ragged:
            found = np.concatenate([found, np.repeat(found[-1:], self.config.tokens - len(found), axis=0)])
        return torch.from_numpy(np.ascontiguousarray(found))

    def collate(self, items: Sequence[Any], modality: str) -> Any:
        """Padded to the longest of the batch, with rubbish."""
        lengths = torch.tensor([len(item) for item in items])
        batch = torch.full((len(items), int(lengths.max()), 3), GARBAGE)
        for row, item in zip(batch, items, strict=True):
            row[: len(item)] = item
        return batch, torch.arange(batch.shape[1]) < lengths[:, None]

    def embed(self, batch: Any, modality: str) -> Any:
        values = batch[0] @ Draw.of(["r", "g", "b"], 1).normal(DIM)
        return (values, batch[1]) if self.config.ragged and self.config.masked else values


class PoolConfig(BridgeConfig):
    """The mean of the tokens of each item."""

    def crosses(self, source: Port, text: Port) -> Port:
        return self.augments(source)

    def augments(self, text: Port) -> Port:
        if text.tokens is None:
            raise PortError(f"the bridge {self.type!r} pools sequences; found {text}.")
        return text.changed(tokens=None, ragged=False, bridge=self.type)


class Pool(Bridge[PoolConfig]):
    def fit(self, data: FitData, fitting: Fitting) -> None:
        """Nothing to learn."""

    def cross_vectors(self, x: torch.Tensor, draw: Draw, mask: torch.Tensor | None = None) -> torch.Tensor:
        if mask is None:
            return x.mean(1)
        return x.masked_fill(~mask[..., None], 0).sum(1) / mask.sum(1, keepdim=True)

    augment_vectors = cross_vectors


class ForgetfulConfig(BridgeConfig):
    """Takes everything, but its code knows of no mask."""

    def crosses(self, source: Port, text: Port) -> Port:
        return source

    def augments(self, text: Port) -> Port:
        return text


class Forgetful(Bridge[ForgetfulConfig]):
    def fit(self, data: FitData, fitting: Fitting) -> None:
        """Nothing to learn."""

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return x


class SpellConfig(DecoderConfig):
    """`most`: the longest sequences that it takes; null: of any length."""

    most: int | None = None

    def check(self, port: Port) -> None:
        if port.tokens is None:
            raise PortError(f"the decoder {self.type!r} spells sequences; found {port}.")
        if self.most is not None and port.tokens > self.most:
            raise PortError(f"the decoder {self.type!r} takes {self.most} tokens at most; found {port}.")


class Spell(Decoder[SpellConfig]):
    """Learns the mean vector of each word from where it stands, and writes the nearest word for each token."""

    def __init__(self, config: SpellConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.words: list[str] = []
        self.memory = torch.zeros(0, context.dim())

    def fit(self, vectors: TextVectors, targets: Sequence[str], fitting: Fitting) -> None:
        x = vectors.batch(range(len(vectors)), 0)
        seen: dict[str, list[torch.Tensor]] = {}
        for row, text in enumerate(targets):
            words = [word for word in text.split() if word in COLOURS] or text.split()
            tokens = x[row] if vectors.mask is None else x[row][vectors.mask[row]]
            for word, token in zip(words, tokens, strict=False):
                seen.setdefault(word, []).append(token)
        self.words = sorted(seen)
        self.memory = torch.stack([torch.stack(seen[word]).mean(0) for word in self.words])

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"memory": self.memory}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.memory = tensors["memory"].to(self.device)

    def save_extra(self, folder: Path) -> None:
        (folder / "words.json").write_text(json.dumps(self.words), encoding="utf-8")

    def load_extra(self, folder: Path) -> None:
        self.words = json.loads((folder / "words.json").read_text(encoding="utf-8"))

    def decode_batch(
        self,
        bridged: torch.Tensor,
        source: torch.Tensor | None,
        keys: Sequence[str],
        seed: int,
        mask: torch.Tensor | None = None,
    ) -> list[Decoded]:
        nearest = torch.cdist(bridged, self.memory.expand(len(bridged), -1, -1)).argmin(2)
        there = torch.ones_like(nearest).bool() if mask is None else mask
        return [
            Decoded(key, " ".join(self.words[i] for i in row[on].tolist()))
            for key, row, on in zip(keys, nearest, there, strict=True)
        ]


@hookimpl
def modbridge_components(register: Any) -> None:
    for kind, name, config, impl in (
        ("encoder", "stripes", StripesConfig, Stripes),
        ("bridge", "pool", PoolConfig, Pool),
        ("bridge", "forgetful", ForgetfulConfig, Forgetful),
        ("decoder", "spell", SpellConfig, Spell),
    ):
        where = f"modbridge_file_{Path(__file__).stem}"
        register(
            ComponentSpec(
                kind=kind,
                name=name,
                config=f"{where}:{config.__name__}",
                impl=f"{where}:{impl.__name__}",
                summary="of the tests of sequences",
                example={"type": name},
            )
        )
