"""A text-to-image model in its parts, from the hub, from a folder, or drawn from settings; saved as it is laid out."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import diffusers
import torch
from diffusers import AutoencoderKL, DDPMScheduler, UNet2DConditionModel
from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

from modbridge.errors import ArtefactError, ConfigError, DataError, ModbridgeError, SetupError
from modbridge.hub import from_hub
from modbridge_vlv.codec import UNSHUFFLE, Codec, PixelUnshuffle, Variational
from modbridge_vlv.layout import (
    MIRRORS,
    SCHEDULER,
    SETTINGS,
    TEXT_ENCODER,
    TOKENIZER,
    UNET,
    VAE,
    folder_of,
    prediction_problem,
    settings_of,
    width_problem,
)
from modbridge_vlv.pretrained import known_settings
from modbridge_vlv.teacher_config import DiffusionTeacherConfig


@dataclass(frozen=True)
class Bundle:
    """The parts of a text-to-image model: denoiser, codec, noise schedule, text encoder and tokenizer.

    Raises ConfigError where they do not belong together.
    """

    unet: Any
    codec: Codec
    scheduler: Any
    text_encoder: Any
    tokenizer: Any

    def __post_init__(self) -> None:
        settings = self.unet.config
        problems = [
            width_problem(settings.cross_attention_dim, int(self.text_encoder.config.hidden_size)),
            prediction_problem({"_class_name": type(self.scheduler).__name__, **self.scheduler.config}),
        ]
        if settings.in_channels != self.codec.channels:
            problems.append(
                f"the unet takes {settings.in_channels} channels, and the codec gives {self.codec.channels} (a model "
                f"for inpainting?)"
            )
        if settings.addition_embed_type or settings.class_embed_type:
            problems.append("the unet asks for more than a text's states (as SDXL's does)")
        if len(self.tokenizer) > self.text_encoder.config.vocab_size:
            problems.append(
                f"the tokenizer has {len(self.tokenizer)} tokens, and the text encoder "
                f"{self.text_encoder.config.vocab_size}"
            )
        for problem in filter(None, problems):
            raise ConfigError(f"the parts of the text-to-image model do not fit: {problem}.")

    @property
    def resolution(self) -> int:
        """The side of the pictures that the model was made for."""
        return int(self.unet.config.sample_size) * self.codec.factor

    def modules(self) -> dict[str, torch.nn.Module]:
        found = {UNET: self.unet, TEXT_ENCODER: self.text_encoder}
        return found if self.codec.network is None else {**found, VAE: self.codec.network}

    def to(self, device: torch.device) -> Bundle:
        for module in self.modules().values():
            module.to(device)
        return self

    def save(self, folder: Path) -> None:
        """Write it as Stable Diffusion's repositories are laid out, weights as safetensors."""
        self.unet.save_pretrained(folder / UNET, safe_serialization=True)
        self.codec.save(folder / VAE)
        self.text_encoder.save_pretrained(folder / TEXT_ENCODER)
        self.tokenizer.save_pretrained(folder / TOKENIZER)
        self.scheduler.save_pretrained(folder / SCHEDULER)


def read_bundle(model: str, revision: str | None = None, latent_scale: float | None = None) -> Bundle:
    """The model that `model` names, a hub id or a folder, in float32, every weight accounted for.

    Raises SetupError where the hub is needed and cannot be asked, DataError for an id that it does not have and for a
    missing folder or part, ArtefactError for damaged or pickled weights, ConfigError for parts that do not belong
    together.
    """
    reader = _Reader(model, revision)
    kind = reader.settings(SCHEDULER).get("_class_name")
    scheduler = getattr(diffusers, str(kind), None)
    if scheduler is None or not hasattr(scheduler, "set_timesteps"):
        raise ConfigError(f"model {model}: its scheduler is a {kind!r}, which diffusers does not have.")
    return Bundle(
        unet=reader.network(UNet2DConditionModel, UNET, torch_dtype=torch.float32),
        codec=_codec(reader, latent_scale),
        scheduler=reader.part(scheduler, SCHEDULER, SETTINGS[SCHEDULER]),
        text_encoder=reader.network(CLIPTextModel, TEXT_ENCODER, dtype=torch.float32),
        tokenizer=reader.part(AutoTokenizer, TOKENIZER, "tokenizer_config.json"),
    )


def draw_bundle(config: DiffusionTeacherConfig, tokenizer: Any, seed: int) -> Bundle:
    """A small model of the config's settings for `tokenizer`, its weights drawn from `seed`.

    Raises ConfigError for settings that the libraries do not take.
    """
    assert config.unet is not None
    assert config.codec is not None
    text = {
        "max_position_embeddings": config.longest,
        "vocab_size": len(tokenizer),
        "bos_token_id": tokenizer.bos_token_id,
        "eos_token_id": tokenizer.eos_token_id,
        "pad_token_id": tokenizer.pad_token_id,
        **(config.text_encoder or {}),
    }
    unet = {**config.unet, **config.sizes()}
    _known(UNET, config.unet, UNet2DConditionModel.__init__)
    known_settings(TEXT_ENCODER, config.text_encoder or {}, CLIPTextConfig())
    unet_class: Any = UNet2DConditionModel
    scheduler = drawn_scheduler(config.scheduler)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return Bundle(
            unet=_built(UNET, lambda: unet_class(**unet)),
            codec=PixelUnshuffle(config.codec.factor, config.latent_scale or 1.0),
            scheduler=scheduler,
            text_encoder=_built(TEXT_ENCODER, lambda: CLIPTextModel(CLIPTextConfig(**text))),
            tokenizer=tokenizer,
        )


def drawn_scheduler(settings: dict[str, Any]) -> Any:
    """The noise schedule of a small model. What it denoises are latents, so they are not clipped unless asked for.

    Raises ConfigError for settings that diffusers does not take.
    """
    _known(SCHEDULER, settings, DDPMScheduler.__init__)
    schedule: Any = DDPMScheduler
    return _built(SCHEDULER, lambda: schedule(**{"clip_sample": False, **settings}))


def _codec(reader: _Reader, scale: float | None) -> Codec:
    settings = reader.settings(VAE)
    if settings.get("_class_name") == UNSHUFFLE:
        return PixelUnshuffle(int(settings["factor"]), scale or float(settings["scaling_factor"]))
    return Variational(reader.network(AutoencoderKL, VAE, torch_dtype=torch.float32), scale)


def _known(part: str, given: dict[str, Any], init: Any) -> None:
    """diffusers takes unknown settings without a word."""
    import inspect

    known = set(inspect.signature(init).parameters) - {"self"}
    unknown = sorted(set(given) - known)
    if unknown:
        raise ConfigError(
            f"{part}: diffusers knows no setting {', '.join(unknown)}; it knows {', '.join(sorted(known))}."
        )


def _built(part: str, make: Callable[[], Any]) -> Any:
    try:
        return make()
    except Exception as error:  # whatever the libraries say to sizes that do not fit
        raise ConfigError(f"{part}: it cannot be built: {type(error).__name__}: {error}") from error


class _Reader:
    """Reads parts of a model, from its folder or from the hub."""

    def __init__(self, model: str, revision: str | None) -> None:
        self.model, self.revision = model, revision
        self.folder = folder_of(model)

    def settings(self, part: str) -> dict[str, Any]:
        found = settings_of(self.model, self.revision, part)
        if found is None:  # on the hub, and not here yet
            self._fetched(part)
            found = settings_of(self.model, self.revision, part)
            assert found is not None
        return found

    def network(self, kind: Any, part: str, **options: Any) -> Any:
        """A network, of which no weight is left random."""
        if self.folder is not None and not list((self.folder / part).glob("*.safetensors")):
            pickled = sorted(path.name for path in (self.folder / part).glob("*.bin"))
            found = f"only the pickled {', '.join(pickled)}, which is not read" if pickled else "no weights"
            raise ArtefactError(
                f"model {self.model}: {part}/ holds {found}. Expected *.safetensors, as save_pretrained writes them."
            )
        network, told = self.part(kind, part, SETTINGS[part], use_safetensors=True, output_loading_info=True, **options)
        lost = [*told["missing_keys"], *(str(key) for key in told["mismatched_keys"])]
        absent = sorted(key for key in lost if not key.endswith("position_ids"))
        if absent:
            raise ArtefactError(
                f"model {self.model}: {part}/ lacks {len(absent)} weights or has them in another shape "
                f"({', '.join(absent[:3])}); expected a whole {kind.__name__}."
            )
        return network.eval()

    def part(self, kind: Any, part: str, probe: str, **options: Any) -> Any:
        """Whatever `from_pretrained` of `kind` reads from the part's own folder."""
        try:
            if self.folder is None:
                return self._from_hub(kind.from_pretrained, part, probe, **options)
            return kind.from_pretrained(self.folder, subfolder=part, local_files_only=True, **options)
        except ModbridgeError:
            raise
        except Exception as error:  # both libraries raise OSError, ValueError, KeyError, RuntimeError ... for bad files
            raise ArtefactError(f"model {self.model}: {kind.__name__} cannot read {part}/: {error}") from error

    def _fetched(self, part: str) -> None:
        from huggingface_hub import hf_hub_download

        def load(repo: str, *, revision: str | None, local_files_only: bool = False, subfolder: str) -> str:
            return hf_hub_download(
                repo, SETTINGS[part], subfolder=subfolder, revision=revision, local_files_only=local_files_only
            )

        self._from_hub(load, part, SETTINGS[part])

    def _from_hub(self, load: Any, part: str, probe: str, **options: Any) -> Any:
        """Raises DataError for an id that the hub does not have, SetupError where the hub cannot be asked; with what is
        known of such a model."""
        try:
            return from_hub(load, self.model, f"{part}/{probe}", self.revision, subfolder=part, **options)
        except (SetupError, DataError) as error:
            mirrors = MIRRORS.get(self.model, ())
            gone = f"It was taken off the hub; known mirrors are {' and '.join(mirrors)}. " if mirrors else ""
            kind = DataError if isinstance(error, DataError) else SetupError
            raise kind(
                f"the text-to-image model {self.model} is not to be had: {error} {gone}`model` also takes a local "
                f"folder of the same layout."
            ) from error
