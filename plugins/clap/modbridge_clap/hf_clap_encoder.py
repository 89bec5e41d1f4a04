"""The `hf_clap` encoder: sounds and texts through transformers' ClapModel."""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modbridge.audio import load_audio
from modbridge.clips import Clip, clip_vectors, stacked
from modbridge.config.contrastive import WordsConfig
from modbridge.contrastive import Captions, train_dual_encoder
from modbridge.errors import ArtefactError, DataError
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.encoder import Encoder
from modbridge.interfaces.fitting import Fitting
from modbridge.interfaces.source import Source
from modbridge.pretrained import SPREAD_PROMPTS, check_spread, lower_precision
from modbridge.training import Media, derived_seed
from modbridge.words import PAD, START, WordTokenizer
from modbridge_clap.hf_clap_config import HfClapConfig
from modbridge_clap.hf_clap_features import ClapFeatures
from modbridge_clap.hf_clap_network import (
    Published,
    draw_extractor,
    draw_network,
    read_network,
    save_network,
    vectors,
)
from modbridge_clap.hf_clap_shapes import filled
from modbridge_clap.hf_clap_text import (
    ByteTokenizer,
    OwnTokenizer,
    Tokenize,
    padded,
)

_WORDS_FILE = "vocabulary.json"


class HfClapEncoder(Encoder[HfClapConfig]):
    """Vectors (B, D), L2-normalised, float32.

    With `train` there is no network before `fit` or loading. A trained one is kept in the artefact, with its config and
    features in transformers' format and its vocabulary; published weights are not copied.
    """

    def __init__(self, config: HfClapConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self._network: torch.nn.Module | None = None
        self._tokenize: Tokenize | None = None
        self._pad = PAD
        if isinstance(config.model, str):
            self._publish(Published(config))
            return
        self._model = filled(config.model)
        self._take_extractor(draw_extractor(self._model["features"]))
        if not isinstance(config.tokenizer, WordsConfig):
            self._tokenize = ByteTokenizer(self._model["text_config"].get("max_position_embeddings", 514) - 1)
        if config.train is None:
            self._draw(derived_seed("hf_clap", "random", json.dumps(config.model, sort_keys=True)))

    @property
    def sample_rate(self) -> int:
        """The rate of the sounds it reads, in Hz."""
        return self._features.rate

    def prepare(self, item: Any, modality: str) -> Clip | torch.Tensor:
        """A sound as the log-mel features of its windows, a text as token ids (L,).

        Raises DataError for an item that is no sound or no text.
        """
        self._built()
        if modality == "audio":
            return self._features(load_audio(item, self._features.rate))
        return self._tokens(item)

    def collate(self, items: Sequence[Any], modality: str) -> dict[str, torch.Tensor]:
        return stacked(list(items)) if modality == "audio" else padded(list(items), self._pad)

    def embed(self, batch: dict[str, torch.Tensor], modality: str) -> torch.Tensor:
        if modality == "text":
            return self._text(batch["input_ids"], batch["attention_mask"])
        return clip_vectors(batch, self._sound, self.config.batch_size)

    def fit(self, source: Source[Any], fitting: Fitting) -> None:
        """Train both towers on a source's sounds and captions; one caption a sound and epoch, and of a long sound the
        window that `crop` says."""
        train = self.config.train
        if train is None:
            return super().fit(source, fitting)
        keys = source.keys()
        texts = [source.texts(row) for row in range(len(keys))]
        if isinstance(self.config.tokenizer, WordsConfig):
            positions = self._model["text_config"].get("max_position_embeddings")
            length = None if positions is None else positions - 1
            every = (caption for captions in texts for caption in captions)
            self._tokenize = WordTokenizer.learn(every, self.config.tokenizer.min_count, length)
        self._draw(derived_seed("hf_clap", "train", fitting.seed))
        network: Any = self._built()
        cropped = ClapFeatures(self._extractor, "crop", self.config.crop, self.config.crop_seed)

        train_dual_encoder(
            "hf_clap",
            network,
            encode_media=lambda mels: vectors(network.get_audio_features(input_features=mels)),
            encode_text=lambda ids: vectors(
                network.get_text_features(input_ids=ids, attention_mask=(ids != self._pad).long())
            ),
            logit_scale=network.logit_scale_a,
            media=Media(len(keys), partial(_mel, cropped, source), fitting, "sounds", workers=self.config.workers),
            blocks=source.blocks(),
            captions=Captions.of(texts, keys, self._tokens),
            keys=keys,
            config=train,
            fitting=fitting,
            device=self.device,
        )
        with torch.no_grad():  # transformers keeps a scale for each direction; the loss has one
            network.logit_scale_t.copy_(network.logit_scale_a)
        return None

    def modules(self) -> dict[str, torch.nn.Module]:
        trained = self.config.train is not None and self._network is not None
        return {"network": self._built()} if trained else {}

    def parameter_count(self) -> int:
        """All of the network's parameters, trained here or published; 0 before a network of learned words is built."""
        return sum(p.numel() for p in self._network.parameters()) if self._network is not None else 0

    def save_extra(self, folder: Path) -> None:
        if self.config.train is None:
            return
        save_network(self._built(), self._extractor, folder)
        if isinstance(self._tokenize, WordTokenizer):
            self._tokenize.save(folder / _WORDS_FILE)

    def load_extra(self, folder: Path) -> None:
        if self.config.train is None:
            return
        if isinstance(self.config.tokenizer, WordsConfig):
            self._tokenize = WordTokenizer.load(folder / _WORDS_FILE)
        network, extractor = read_network(folder)
        self._network = network.to(self.device)
        self._take_extractor(extractor)

    def _built(self) -> torch.nn.Module:
        if self._network is None:
            raise ArtefactError(
                "this hf_clap encoder is to be trained (`train`) and was not yet: fit or load it first."
            )
        return self._network

    def _publish(self, published: Published) -> None:
        """Take up a published model, after checking that its parts belong together."""
        text, name = published.settings.text_config, published.name
        if self.config.long_clips == "fusion" and not published.settings.audio_config.enable_fusion:
            raise DataError(f"model {name} has no fusion (enable_fusion): `long_clips` must be crop or mean.")
        self._take_extractor(published.extractor)
        self._tokenize, self._pad = OwnTokenizer(published.tokenizer(), text, name), text.pad_token_id
        self._network = published.network().to(self.device).eval()
        check_spread(self.encode(SPREAD_PROMPTS, "text").values.cpu(), f"model {name}")

    def _take_extractor(self, extractor: Any) -> None:
        self._extractor = extractor
        long_clips = self.config.long_clips or ("fusion" if extractor.truncation == "fusion" else "crop")
        self._features = ClapFeatures(extractor, long_clips, self.config.crop, self.config.crop_seed)

    def _draw(self, seed: int) -> None:
        """An inline model's network, its text tower fitted to the tokenizer."""
        tokenizer: Any = self._tokenize
        text = self._model["text_config"] | {
            "vocab_size": tokenizer.vocab_size,
            "max_position_embeddings": tokenizer.context_length + 1,  # positions begin after the padding's, 0
            "pad_token_id": PAD,
            "bos_token_id": START if isinstance(tokenizer, WordTokenizer) else tokenizer.start,
            "eos_token_id": tokenizer.end,
        }
        self._network = draw_network(self._model, text, seed).to(self.device)

    def _tokens(self, item: Any) -> torch.Tensor:
        if not isinstance(item, str):
            raise DataError(f"a text was expected; found {type(item).__name__}.")
        assert self._tokenize is not None
        return self._tokenize(item)

    def _text(self, ids: torch.Tensor, mask: torch.Tensor) -> torch.Tensor:
        network: Any = self._built()
        with lower_precision(self.config.precision, self.device):
            found = network.get_text_features(input_ids=ids.to(self.device), attention_mask=mask.to(self.device))
        return vectors(found)

    def _sound(self, mels: torch.Tensor, longer: torch.Tensor) -> torch.Tensor:
        network: Any = self._built()
        with lower_precision(self.config.precision, self.device):
            found = network.get_audio_features(
                input_features=mels.to(self.device), is_longer=longer[:, None].to(self.device)
            )
        return vectors(found)


def _mel(features: ClapFeatures, source: Source[Any], row: int) -> torch.Tensor:
    """The log-mel features of the one window of a sound that is trained on."""
    return features(load_audio(source.media(row), features.rate)).windows[0]
