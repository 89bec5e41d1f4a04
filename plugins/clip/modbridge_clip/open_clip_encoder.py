"""The `open_clip` encoder: images and text through open_clip's own model code."""

from __future__ import annotations

import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import open_clip
import torch
from open_clip.transform import PreprocessCfg, image_transform_v2

from modbridge.config.contrastive import WordsConfig
from modbridge.contrastive import Captions, train_dual_encoder
from modbridge.errors import ArtefactError, DataError
from modbridge.hub import hub_file
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.encoder import Encoder
from modbridge.interfaces.fitting import Fitting
from modbridge.interfaces.source import Source
from modbridge.media import load_image
from modbridge.pretrained import check_vocabulary, lower_precision
from modbridge.training import Media, derived_seed
from modbridge.words import WordTokenizer
from modbridge_clip.network import build_network, encode_texts, find_weights, load_weights, preprocess_config
from modbridge_clip.open_clip_config import CLIP_VOCABULARY, OpenClipConfig

_MODEL_FILE, _WORDS_FILE = "open_clip_config.json", "vocabulary.json"


class OpenClipEncoder(Encoder[OpenClipConfig]):
    """Vectors (B, embed_dim), L2-normalised, float32.

    With `train` there is no network before `fit` or loading. A trained network is kept in the artefact, with its config
    in open_clip's own format and its vocabulary; published weights are not copied.
    """

    def __init__(self, config: OpenClipConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self._network: torch.nn.Module | None = None
        self._preprocess: dict[str, Any] = {}
        self._transform: Callable[[Any], torch.Tensor] | None = None
        self._tokenize: Callable[[str], torch.Tensor] | None = None
        self._words: WordTokenizer | None = None
        self._architecture = config.architecture()
        if not isinstance(config.tokenizer, WordsConfig):
            self._tokenize = self._clip_tokenizer()
        if config.train is None:
            weights = find_weights(config)
            self._build(derived_seed("open_clip", "random", json.dumps(self._architecture)), weights.quick_gelu)
            if weights.path is not None:
                load_weights(self._built(), weights.path)
            self._prepare_images(weights.preprocess)

    def prepare(self, item: Any, modality: str) -> torch.Tensor:
        """An image as a float tensor (3, H, W), by open_clip's own transform; a text as token ids (L,).

        Over-long texts are cut, as open_clip does. Raises DataError for an item that is no image or no text.
        """
        self._built()
        if modality == "image":
            assert self._transform is not None
            return self._transform(load_image(item))
        return self._tokens(item)

    def embed(self, batch: torch.Tensor, modality: str) -> torch.Tensor:
        network: Any = self._built()
        with lower_precision(self.config.precision, self.device):
            x = batch.to(self.device, non_blocking=True)
            values: torch.Tensor = network.encode_image(x) if modality == "image" else encode_texts(network, x)
        return torch.nn.functional.normalize(values.float(), dim=-1)

    def fit(self, source: Source[Any], fitting: Fitting) -> None:
        """Train both towers on a source's images and captions; one caption an image and epoch."""
        train = self.config.train
        if train is None:
            return super().fit(source, fitting)
        keys = source.keys()
        texts = [source.texts(row) for row in range(len(keys))]
        if isinstance(self.config.tokenizer, WordsConfig):
            length = self._architecture["text_cfg"].get("context_length")
            every = (caption for captions in texts for caption in captions)
            self._take_words(WordTokenizer.learn(every, self.config.tokenizer.min_count, length))
        self._build(derived_seed("open_clip", "train", fitting.seed), quick_gelu=False)
        self._prepare_images({})
        network: Any = self._built()
        train_dual_encoder(
            "open_clip",
            network,
            encode_media=network.encode_image,
            encode_text=network.encode_text,
            logit_scale=network.logit_scale,
            media=Media(len(keys), partial(self._seen, source), fitting, "images", workers=self.config.workers),
            blocks=source.blocks(),
            captions=Captions.of(texts, keys, self._tokens),
            keys=keys,
            config=train,
            fitting=fitting,
            device=self.device,
        )
        return None

    def _seen(self, source: Source[Any], row: int) -> torch.Tensor:
        return self.prepare(source.media(row), "image")

    def modules(self) -> dict[str, torch.nn.Module]:
        trained = self.config.train is not None and self._network is not None
        return {"network": self._built()} if trained else {}

    def parameter_count(self) -> int:
        """All of the network's parameters, trained here or published; 0 before a network of learned words is built."""
        return sum(p.numel() for p in self._network.parameters()) if self._network is not None else 0

    def save_extra(self, folder: Path) -> None:
        if self.config.train is None:
            return
        self._built()
        content = {"model_cfg": self._architecture, "preprocess_cfg": self._preprocess}
        (folder / _MODEL_FILE).write_text(json.dumps(content, indent=2), "utf-8")
        if self._words is not None:
            self._words.save(folder / _WORDS_FILE)

    def load_extra(self, folder: Path) -> None:
        if self.config.train is None:
            return
        try:
            stored = json.loads((folder / _MODEL_FILE).read_text("utf-8"))
            self._architecture, preprocess = stored["model_cfg"], stored["preprocess_cfg"]
        except (OSError, ValueError, KeyError, TypeError) as error:
            raise ArtefactError(f"the model config {folder / _MODEL_FILE} cannot be read: {error}") from error
        if isinstance(self.config.tokenizer, WordsConfig):
            self._take_words(WordTokenizer.load(folder / _WORDS_FILE))
        self._build(seed=0, quick_gelu=False)
        self._prepare_images(preprocess)

    def _built(self) -> torch.nn.Module:
        if self._network is None:
            raise ArtefactError(
                "this open_clip encoder is to be trained (`train`) and was not yet: fit or load it first."
            )
        return self._network

    def _build(self, seed: int, quick_gelu: bool) -> None:
        self._network = build_network(self._architecture, seed, quick_gelu).to(self.device).eval()

    def _prepare_images(self, given: Any) -> None:
        self._preprocess = preprocess_config(self._built(), given)
        self._transform = image_transform_v2(PreprocessCfg(**self._preprocess), is_train=False)

    def _take_words(self, words: WordTokenizer) -> None:
        """Read texts by `words`, and make the text tower fit them."""
        self._words = self._tokenize = words
        text = self._architecture["text_cfg"]
        text |= {"vocab_size": words.vocab_size, "context_length": words.context_length}
        _set_end(text, words.end)

    def _tokens(self, item: Any) -> torch.Tensor:
        if not isinstance(item, str):
            raise DataError(f"a text was expected; found {type(item).__name__}.")
        assert self._tokenize is not None
        return self._tokenize(item)

    def _clip_tokenizer(self) -> Callable[[str], torch.Tensor]:
        """open_clip's tokenizer of the model, checked to be whole."""
        text = self._architecture["text_cfg"]
        if isinstance(self.config.model, str) and text.get("hf_tokenizer_name"):
            name = text["hf_tokenizer_name"]
            hub_file(name, ["tokenizer_config.json"])
            tokenizer: Any = open_clip.get_tokenizer(self.config.model)
            size = len(tokenizer.tokenizer)
        else:
            tokenizer = open_clip.SimpleTokenizer(
                context_length=text.get("context_length", 77), **text.get("tokenizer_kwargs", {})
            )
            size = tokenizer.vocab_size
            _set_end(text, tokenizer.eot_token_id)
        if "hf_model_name" not in text:  # such towers have their size in a config of their own
            check_vocabulary(size, text.get("vocab_size", CLIP_VOCABULARY), str(self.config.model))
        return _First(tokenizer)


class _First:
    """A tokenizer of lists, for single texts; a class, so that worker processes can be sent it."""

    def __init__(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer

    def __call__(self, text: str) -> torch.Tensor:
        ids: torch.Tensor = self.tokenizer([text])[0]
        return ids


def _set_end(text: dict[str, Any], end: int) -> None:
    """Tell a tower that pools at the end token which one that is; open_clip's default is another tokenizer's."""
    if text.get("pool_type") == "eos":
        text["eos_id"] = end
