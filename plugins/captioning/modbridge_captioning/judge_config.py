"""Config of the language-model judge. Loads neither torch nor transformers."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from modbridge.config.component import Affects, Purpose
from modbridge.config.kinds import JudgeConfig
from modbridge.hub import cached_file
from modbridge.store.keys import model_digest, settings_digest
from modbridge_captioning.blocks import Count


class LmJudgeConfig(JudgeConfig):
    """Any causal language model of transformers, which answers by what it writes behind a question, greedily. It reads
    text only.

    `lm`: a Hugging Face id or a local folder. `tokenizer`: None for the LM's own; an id or folder.
    `chat`: whether a question is put as a user's turn by the chat template of the tokenizer. "auto" is so where it has
    one: instruction-tuned models do, GPT-2 does not.
    `max_new_tokens`: the longest answer; ratings take 32, a few words less.
    `precision`: of the weights and of all that is computed. bfloat16 halves the memory.
    `batch_size`: questions answered at once.
    """

    type: Literal["lm_judge"] = "lm_judge"
    lm: str
    tokenizer: str | None = None
    chat: Literal["auto"] | bool = "auto"
    max_new_tokens: Count = 64
    precision: Literal["float32", "bfloat16"] = "float32"
    batch_size: Annotated[int, Field(ge=1), Affects("nothing")] = 16

    def missing(self) -> str | None:
        """Asks no server: a model that is not here yet is fetched when the judge is built, unless that is forbidden."""
        if Path(self.lm).expanduser().is_dir() or cached_file(self.lm, "config.json") is not None:
            return None
        if self.lm[:1] in "./~" or self.lm.count("/") > 1:
            return f"the judge's language model {self.lm} is not there; give an existing folder, or a Hugging Face id"
        from huggingface_hub import constants

        if not constants.HF_HUB_OFFLINE:
            return None
        told = f"the judge's language model {self.lm} is not in the hub's cache, and HF_HUB_OFFLINE forbids to fetch it"
        return f"{told}; where there is a network, run once: hf download {self.lm}"

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but a folder counts by its files, not by its name."""
        fields = super().key_fields(*purposes)
        for name in ("lm", "tokenizer"):
            folder = Path(fields[name] or "").expanduser()
            if fields[name] and folder.is_dir():
                fields[name] = model_digest(folder) or settings_digest(folder)
        return fields
