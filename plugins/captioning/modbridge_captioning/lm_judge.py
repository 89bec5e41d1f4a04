"""The language-model judge: answers are what a causal LM writes behind a question."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from modbridge.errors import ConfigError, DataError, Problem
from modbridge.interfaces import BuildContext, Judge, Question
from modbridge_captioning.blocks import Generate
from modbridge_captioning.generation import ends_of, written
from modbridge_captioning.judge_config import LmJudgeConfig
from modbridge_captioning.language_model import load_lm, load_tokenizer, own_ends, positions, token_embedding
from modbridge_captioning.lead import Lead

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16}


class LmJudge(Judge[LmJudgeConfig]):
    """Greedy answers of a causal LM, up to the end of its turn or `max_new_tokens`; line breaks are kept.

    Raises what `load_lm` and `load_tokenizer` raise, and ConfigError for `chat: true` without a chat template, when it
    is built; DataError for a question for which the LM has no room.
    """

    def __init__(self, config: LmJudgeConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.lm: PreTrainedModel = load_lm(config.lm, DTYPES[config.precision]).to(self.device)  # type: ignore[arg-type]
        self.lm.requires_grad_(False)
        self.tokenizer: PreTrainedTokenizerBase = load_tokenizer(config.tokenizer or config.lm, self.lm)
        template = getattr(self.tokenizer, "chat_template", None)
        if config.chat is True and not template:
            message = f"the tokenizer {config.tokenizer or config.lm!r} has no chat template"
            raise ConfigError(
                [Problem("judge.chat", message, hint="set chat to auto or false, or give an instructed LM")]
            )
        self.chats = bool(template) if config.chat == "auto" else config.chat
        self._ends = sorted({*ends_of(self.tokenizer, None, config.lm), *own_ends(config.lm)})

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"lm": self.lm}

    def answer(self, questions: Sequence[Question]) -> list[str]:
        tokens = [self._tokens(question.text) for question in questions]
        nothing = torch.zeros(
            len(tokens), 0, token_embedding(self.lm).embedding_dim, device=self.device, dtype=self.lm.dtype
        )
        lead = Lead.between(nothing, tokens, [()] * len(tokens), self.lm)
        search = Generate(max_new_tokens=self.config.max_new_tokens)
        found, _ = written(self.lm, self.tokenizer, lead, search, self._ends, self.batch_size)
        ends = set(self._ends)
        texts = (
            self.tokenizer.decode(
                [token for token in row if token not in ends],
                skip_special_tokens=True,
                clean_up_tokenization_spaces=False,
            )
            for row in found
        )
        return [str(text).strip() for text in texts]

    def _tokens(self, text: str) -> list[int]:
        """A question as the LM reads it. Raises DataError where it has no room for it and an answer."""
        if self.chats:
            turns = [{"role": "user", "content": text}]
            text = str(self.tokenizer.apply_chat_template(turns, add_generation_prompt=True, tokenize=False))
        # A chat template writes the tokens at the beginning itself.
        ids: list[int] = list(self.tokenizer(text, add_special_tokens=not self.chats)["input_ids"])
        while len(ids) > 1 and ids[-1] == self.tokenizer.eos_token_id and not self.chats:
            ids.pop()
        room = positions(self.lm)
        if room is not None and len(ids) + self.config.max_new_tokens > room:
            raise DataError(
                f"a question has {len(ids)} tokens ({text[:60]!r} ...), which with max_new_tokens "
                f"{self.config.max_new_tokens} is more than the {room} positions of {self.config.lm!r}. Give fewer "
                f"examples, lower max_new_tokens, or take a language model that reads more."
            )
        return ids
