"""The config of the `laion_clap` encoder. Loads neither torch nor laion_clap."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from pydantic import Field, model_validator

from modbridge.config.clips import ClipEncoderConfig
from modbridge.errors import DataError, PortError
from modbridge.spaces import Port, Space
from modbridge.store.keys import file_digest

MODALITIES = ("audio", "text")
DIMENSION = 512  # of every network of the package, whatever its audio tower
PUBLISHED = "https://huggingface.co/lukewys/laion_clap"


class LaionClapConfig(ClipEncoderConfig):
    """Sounds and texts through LAION's CLAP (Wu et al. 2023) as its own package builds it, from a .pt checkpoint.

    Sounds are read at 48 kHz, in windows of 10 s; texts are cut after 77 tokens. Vectors are L2-normalised, of 512
    numbers. Settings named as in `hf_clap` mean the same there.
    """

    type: Literal["laion_clap"] = "laion_clap"
    checkpoint: str = Field(
        description="path of a .pt file. The authors' lie at https://huggingface.co/lukewys/laion_clap: "
        "630k-audioset-best.pt (HTSAT-tiny), 630k-audioset-fusion-best.pt (`fusion: true`), "
        "music_speech_audioset_epoch_15_esc_89.98.pt (`audio_model: HTSAT-base`) and others"
    )
    tokenizers: str | None = Field(
        default=None,
        description="a folder in the hub's cache layout that holds the tokenizer roberta-base "
        "(models--roberta-base/...), as `hf download roberta-base --cache-dir FOLDER` makes it; nothing is fetched "
        "then. By default the hub's own cache, and the hub for what it lacks",
    )
    audio_model: Literal["HTSAT-tiny", "HTSAT-base"] = Field(
        default="HTSAT-tiny", description="the checkpoint's audio tower. Default as in the package"
    )
    fusion: bool = Field(
        default=False,
        description="whether the checkpoint has feature fusion of clips longer than 10 s (those with `fusion` in their "
        "names). Default as in the package",
    )
    int16: bool = Field(
        default=True,
        description="cut samples to 16 bits first, as the package does with files and arrays. `hf_clap` never does: "
        "take false to compare with it",
    )

    @model_validator(mode="after")
    def _fusion_has_a_fused_checkpoint(self) -> LaionClapConfig:
        if self.long_clips == "fusion" and not self.fusion:
            raise ValueError("`long_clips: fusion` is for fused checkpoints (`fusion: true`): take crop or mean")
        return self

    @property
    def modalities(self) -> tuple[str, ...]:
        return MODALITIES

    def file(self) -> Path:
        """The checkpoint. Raises DataError if there is no such file."""
        path = Path(self.checkpoint).expanduser()
        if not path.is_file():
            raise DataError(
                f"checkpoint {self.checkpoint}: {'a folder' if path.is_dir() else 'no such file'}. Expected a .pt file "
                f"of LAION's CLAP: download one from {PUBLISHED}, and give its path. (Folders in transformers' format "
                f"go through the encoder 'hf_clap'.)"
            )
        return path

    def emits(self, modality: str) -> Port:
        """The port of one modality; its space names the checkpoint's content."""
        if modality not in MODALITIES:
            raise PortError(f"the encoder 'laion_clap' takes {', '.join(MODALITIES)}; found {modality!r}.")
        path = self.file()
        return Port(space=Space(id=f"laion_clap/{path.stem}-{file_digest(path)}", dim=DIMENSION), modality=modality)
