"""Config of the judge behind a server of the chat form."""

from __future__ import annotations

import os
import re
from typing import Annotated, Any, Literal
from urllib.parse import urlsplit

from pydantic import Field, model_validator

from modbridge.config.component import Affects
from modbridge.config.kinds import JudgeConfig


class ChatJudgeConfig(JudgeConfig):
    """A model behind a server that answers `POST <url>/chat/completions` as OpenAI's does: vLLM, llama.cpp, Ollama,
    LM Studio, hosted ones. Temperature 0; how far that makes answers repeatable is the server's affair.

    `url`: where the server's form begins, `http://localhost:8000/v1`. `model`: the model as the server names it.
    `key_env`: the name of the environment variable that holds the key; None sends none. The key itself stands in no
    config, run or message.
    `images`: whether the model sees images; they are sent as data URLs.
    `system`: a system prompt; None sends none.
    `max_tokens`: the longest answer. A model that thinks aloud first needs room for that.
    `extra`: further fields of the request, `{seed: 0}`; null takes one away (`{temperature: null}`).
    `timeout`: seconds without an answer after which a request has failed. `retries`: how often one that failed by
    no fault of its own (timeout, too many requests, an error of the server) is sent again, each time after twice as
    long. `workers`: requests that are under way at once.
    """

    type: Literal["chat_judge"] = "chat_judge"
    url: str
    model: Annotated[str, Field(min_length=1)]
    key_env: Annotated[str | None, Affects("nothing")] = None
    images: bool = False
    system: str | None = None
    max_tokens: Annotated[int, Field(ge=1)] = 512
    extra: dict[str, Any] = Field(default_factory=dict)
    timeout: Annotated[float, Field(gt=0.0, allow_inf_nan=False), Affects("nothing")] = 120.0
    retries: Annotated[int, Field(ge=0), Affects("nothing")] = 5
    workers: Annotated[int, Field(ge=1), Affects("nothing")] = 4

    @model_validator(mode="after")
    def _no_secrets(self) -> ChatJudgeConfig:
        # Said of the whole block, since of a field what was found would be repeated, and that may be a key.
        parts = urlsplit(self.url)
        if parts.username or parts.password or parts.query or parts.fragment:
            raise ValueError("url must hold no key and no password: name the variable that holds it in key_env")
        if parts.scheme not in ("http", "https") or not parts.hostname:
            raise ValueError(f"url is {self.url!r}; expected an address like http://localhost:8000/v1")
        if self.key_env is not None and not re.fullmatch("[A-Z][A-Z0-9_]*", self.key_env):
            raise ValueError("key_env: expected the name of a variable in capitals (OPENAI_API_KEY), not a key")
        return self

    @property
    def sees_images(self) -> bool:
        return self.images

    def missing(self) -> str | None:
        if self.key_env is None or os.environ.get(self.key_env, "").strip():
            return None
        return f"the environment variable {self.key_env}, which is to hold the key of {self.url}, is not set; export it"

    def body(self, content: Any) -> dict[str, Any]:
        """A request, given the user's turn."""
        system = [] if self.system is None else [{"role": "system", "content": self.system}]
        fields: dict[str, Any] = {
            "model": self.model,
            "messages": [*system, {"role": "user", "content": content}],
            "temperature": 0,
            "max_tokens": self.max_tokens,
            **self.extra,
        }
        return {name: value for name, value in fields.items() if value is not None}
