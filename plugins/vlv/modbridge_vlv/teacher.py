"""The `diffusion_teacher` objective: what a frozen text-to-image model makes of soft tokens (VLV, stage 1)."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import Any

import torch

from modbridge.errors import ArtefactError, DataError
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.fitting import Fitting
from modbridge.interfaces.objective import Objective
from modbridge.interfaces.source import Source
from modbridge.noise import Draw
from modbridge.training import Media, derived_seed
from modbridge_vlv.bundle import Bundle, draw_bundle, read_bundle
from modbridge_vlv.context import SoftTokens
from modbridge_vlv.denoising import Noising, Task, denoising_loss
from modbridge_vlv.layout import identity
from modbridge_vlv.optimising import optimise
from modbridge_vlv.pictures import signed, square
from modbridge_vlv.teacher_config import DiffusionTeacherConfig
from modbridge_vlv.tokens import words_tokenizer


class DiffusionTeacher(Objective[DiffusionTeacherConfig]):
    """Soft tokens z (B, n, D) go through the frozen text encoder to what the frozen U-Net looks at; the loss is how
    badly it then denoises the image they came from.

    A small model is there once it is fitted or loaded. Its artefact is laid out as a Stable Diffusion repository is,
    so that the folder can be another config's `model`.
    """

    def __init__(self, config: DiffusionTeacherConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self._bundle: Bundle | None = None
        if config.model is not None:
            self._take(read_bundle(config.model, config.revision, config.latent_scale))

    # As a loss.

    def prepare(self, item: Any) -> torch.Tensor:
        """An image as uint8 (3, R, R), R the resolution. Raises DataError for an item that is none."""
        return square(item, self.resolution)

    def loss(self, z: torch.Tensor, batch: torch.Tensor, draw: Draw) -> torch.Tensor:
        """The denoising loss (B,) of images (B, 3, R, R) told of by soft tokens z (B, n, D)."""
        return denoising_loss(self.bundle, self._task(batch, draw), self.context_of(z))

    def _task(self, batch: torch.Tensor, draw: Draw) -> Task:
        with torch.no_grad():  # only what is to be predicted: gradients pass through all the rest
            latents = self.bundle.codec.encode(signed(batch.to(self.device)), draw)
            return self._noising.task(latents, draw)

    # As what others use of it.

    @property
    def bundle(self) -> Bundle:
        """The model's parts. Raises ArtefactError before they are there."""
        if self._bundle is None:
            raise ArtefactError("this diffusion_teacher is to be trained (`train`) and was not yet: fit or load it.")
        return self._bundle

    @property
    def resolution(self) -> int:
        """The side of the images that it looks at and paints, in pixels."""
        return self.config.resolution or self.bundle.resolution

    @property
    def width(self) -> int:
        """The width of soft tokens, known before a small model is trained."""
        small = self.config.text_encoder
        return self._soft.width if small is None else int(small["hidden_size"])

    def context_of(self, z: torch.Tensor) -> torch.Tensor:
        """The text encoder's states (B, n, D) of soft tokens (B, n, D)."""
        return self._soft(z)

    def token_ids(self, text: str) -> torch.Tensor:
        """A text's ids (n,), cut and padded as the text encoder was trained with."""
        found: Any = self.bundle.tokenizer(
            text, padding="max_length", truncation=True, max_length=self._soft.longest, return_tensors="pt"
        )
        ids: torch.Tensor = found["input_ids"][0]
        return ids

    def token_embeddings(self, ids: torch.Tensor) -> torch.Tensor:
        """The soft tokens (B, n, D) that stand for ids (B, n)."""
        return self._soft.embeddings(ids.to(self.device))

    def null(self) -> torch.Tensor:
        """The soft tokens (1, n, D) of the empty prompt: what guidance leads away from."""
        return self.token_embeddings(self.token_ids("")[None])

    # Trained from nothing.

    def fit(self, source: Source[Any], fitting: Fitting) -> None:
        """Train a small model on a source's images and captions, one caption an image and epoch.

        Raises DataError for images without captions.
        """
        train = self.config.train
        if train is None or self.config.tokenizer is None:
            return super().fit(source, fitting)
        keys = source.keys()
        texts = [source.texts(row) for row in range(len(keys))]
        bare = [key for key, captions in zip(keys, texts, strict=True) if not captions]
        if bare:
            raise DataError(
                f"{len(bare)} of {len(keys)} images have no caption ({', '.join(bare[:3])}): a text-to-image model is "
                f"trained on captioned images. Give a source with captions (data.encoder), or a pretrained `model`."
            )
        every = (caption for captions in texts for caption in captions)
        tokenizer = words_tokenizer(every, self.config.tokenizer.min_count, self.config.longest)
        self._take(draw_bundle(self.config, tokenizer, derived_seed("diffusion_teacher", fitting.seed)))
        bundle = self.bundle
        pictures = Media(len(keys), partial(self._asked, source), fitting, "images", workers=self.config.workers)
        trained = {"unet": bundle.unet, "text_encoder": bundle.text_encoder}
        for module in trained.values():
            module.requires_grad_(True)

        def loss(rows: Sequence[int], draw: Draw) -> torch.Tensor:
            told = _chosen([texts[row] for row in rows], draw, train.caption_dropout)
            ids = torch.stack([self.token_ids(text) for text in told]).to(self.device)
            task = self._task(pictures.batch(torch.tensor(rows)), draw)
            return denoising_loss(bundle, task, self._soft.states(ids))

        optimise(
            "diffusion_teacher",
            trained,
            keys,
            loss,
            train,
            fitting,
            self.device,
            blocks=source.blocks(),
            media=pictures,
        )
        return self.freeze()

    def _asked(self, source: Source[Any], row: int) -> torch.Tensor:
        return self.prepare(source.media(row))

    def modules(self) -> dict[str, torch.nn.Module]:
        return {} if self._bundle is None else self._bundle.modules()

    def identity(self) -> str | None:
        return super().identity() if self.config.model is None else identity(self.config.model, self.config.revision)

    def tensors(self) -> dict[str, torch.Tensor]:
        """None: `save_extra` writes the weights, each with its part."""
        return {}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Nothing: `load_extra` has read the weights."""

    def save_extra(self, folder: Path) -> None:
        self.bundle.save(folder)

    def load_extra(self, folder: Path) -> None:
        self._take(read_bundle(str(folder.resolve()), latent_scale=self.config.latent_scale))

    def _take(self, bundle: Bundle) -> None:
        resolution = self.config.resolution or bundle.resolution
        if resolution % bundle.codec.factor:
            raise DataError(f"resolution {resolution} is no multiple of {bundle.codec.factor}, the codec's factor.")
        if self.config.gradient_checkpointing:
            bundle.unet.enable_gradient_checkpointing()
        self._bundle = bundle.to(self.device)
        self._soft = SoftTokens(bundle.text_encoder)
        self._noising = Noising(bundle.scheduler, self.config.timesteps)
        self.freeze()


def _chosen(texts: Sequence[tuple[str, ...]], draw: Draw, dropout: float) -> list[str]:
    """One caption of each item's, or "" where it is left out."""
    which, kept = draw.named("caption").uniform(1)[:, 0].tolist(), draw.named("dropout").uniform(1)[:, 0].tolist()
    return [
        "" if k < dropout else captions[min(int(w * len(captions)), len(captions) - 1)]
        for captions, w, k in zip(texts, which, kept, strict=True)
    ]
