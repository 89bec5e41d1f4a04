"""A judge behind a server of OpenAI's chat form. Python's own library only."""

from __future__ import annotations

import base64
import http.client
import io
import json
import math
import mimetypes
import os
import queue
import threading
import urllib.error
import urllib.request
from collections.abc import Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any

from modbridge.builtin.chat_judge_config import ChatJudgeConfig
from modbridge.errors import ConfigError, DataError, Problem, SetupError
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.judge import Judge, Question
from modbridge.media import load_image

AGAIN = frozenset({408, 409, 425, 429, 500, 502, 503, 504, 529})  # codes of what may pass
FIRST_WAIT, LONGEST_WAIT = 1.0, 60.0  # seconds
SENT_AS_THEY_ARE = ("image/png", "image/jpeg", "image/webp", "image/gif")
ROUNDS = 8  # requests of each worker whose answers are kept at once


class ChatJudge(Judge[ChatJudgeConfig]):
    """Asks a server; several requests are under way at once.

    An answer without text (a refusal, or a length that was used up by thinking) is "". Raises SetupError for a server
    that is not there, refuses the key or answers in another form, ConfigError for a model that it does not know, and
    DataError for a question that it refuses.
    """

    def __init__(self, config: ChatJudgeConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        # A redirected request would carry the key to another server.
        self._opener = urllib.request.build_opener(_NoRedirects)
        self._answered = False

    @property
    def batch_size(self) -> int:
        return self.config.workers * ROUNDS

    def answer(self, questions: Sequence[Question]) -> list[str]:
        found: dict[int, str] = {}
        if questions and not self._answered:  # what is wrong with the server is told by one request, not by all
            found[0] = self._one(questions[0], threading.Event())
        left = [number for number in range(len(questions)) if number not in found]
        tasks: queue.SimpleQueue[int] = queue.SimpleQueue()
        results: queue.SimpleQueue[tuple[int, str | Exception]] = queue.SimpleQueue()
        stop = threading.Event()

        def work() -> None:
            with suppress(queue.Empty):
                while not stop.is_set():
                    number = tasks.get_nowait()
                    try:
                        results.put((number, self._one(questions[number], stop)))
                    except Exception as error:  # raised below, where the answers are waited for
                        stop.set()
                        results.put((number, error))

        for number in left:
            tasks.put(number)
        for _ in range(min(self.config.workers, len(left))):
            threading.Thread(target=work, daemon=True).start()  # a daemon: Ctrl-C does not wait for an answer
        try:
            for _ in left:
                number, answer = results.get()
                if isinstance(answer, Exception):
                    raise answer
                found[number] = answer
        finally:
            stop.set()
        return [found[number] for number in range(len(questions))]

    def _one(self, question: Question, stop: threading.Event) -> str:
        body = json.dumps(self.config.body(_content(question))).encode()
        wait, left = FIRST_WAIT, self.config.retries
        while True:
            try:
                found = self._sent(body)
            except _MayPass as trouble:
                if left <= 0 or (trouble.nobody and not self._answered):
                    raise SetupError(self._hidden(str(trouble))) from trouble
                if stop.wait(min(trouble.after or wait, LONGEST_WAIT)):
                    raise SetupError(self._hidden(str(trouble))) from trouble  # another request has failed for good
                wait, left = 2 * wait, left - 1
                continue
            self._answered = True
            return found

    def _sent(self, body: bytes) -> str:
        """The text of one answer. Raises _MayPass for what another try may mend."""
        config = self.config
        where = f"{config.url.rstrip('/')}/chat/completions"
        key = self._key()
        headers = {"Content-Type": "application/json", **({"Authorization": f"Bearer {key}"} if key else {})}
        request = urllib.request.Request(where, body, headers, method="POST")
        late = f"gave no answer within {config.timeout:g} s. Raise judge.timeout, or lower judge.workers."
        try:
            with self._opener.open(request, timeout=config.timeout) as answer:
                raw = answer.read()
        except urllib.error.HTTPError as error:
            with error:
                told = _told(error)
            self._refused(error.code, told, error.headers.get("Retry-After"))
        except TimeoutError as error:
            raise _MayPass(f"the judge's server {config.url} {late}") from error
        except (urllib.error.URLError, http.client.HTTPException, OSError) as error:
            reason = getattr(error, "reason", None) or error
            if isinstance(reason, TimeoutError):
                raise _MayPass(f"the judge's server {config.url} {late}") from error
            raise _MayPass(
                f"the judge's server {config.url} cannot be reached: {reason}. Start it, or correct judge.url.",
                nobody=True,
            ) from error
        return self._text(raw)

    def _refused(self, code: int, told: str, after: str | None) -> None:
        """Raise what an answer with an error's code means."""
        config, said = self.config, f"answered {code}: {self._hidden(told)[:300]}"
        server = f"the judge's server {config.url} {said}"
        if code in (401, 403):
            held = f"the key in {config.key_env}" if config.key_env else "a request without a key"
            remedy = "export a valid one" if config.key_env else "name the variable that holds one in judge.key_env"
            raise SetupError(f"the judge's server {config.url} refuses {held} and {said}; {remedy}.")
        if code == 404:
            hint = "correct judge.model, or judge.url, which ends where /chat/completions follows (.../v1)"
            raise ConfigError([Problem("judge.model", f"{server} (model {config.model!r})", hint=hint)])
        if code in AGAIN:
            remedy = "Try again later, with fewer judge.workers, or another server."
            raise _MayPass(f"{server}. {remedy}", after=_seconds(after))
        if 300 <= code < 400 or code >= 500:
            raise SetupError(f"{server}. Give the address of the server itself as judge.url.")
        raise DataError(
            f"{server}. It refuses the question: see whether the model sees images where judge.images says so, whether "
            f"the question is too long for it, and whether it takes the fields of judge.extra."
        )

    def _text(self, raw: bytes) -> str:
        try:
            content = json.loads(raw)["choices"][0]["message"].get("content")
        except (ValueError, LookupError, TypeError, AttributeError, RecursionError):
            content = raw
        if content is not None and not isinstance(content, str):
            raise SetupError(
                f"the judge's server {self.config.url} gave {self._hidden(repr(raw[:4000]))[:160]}; expected JSON with "
                f"choices[0].message.content, a text. Give the address of a server of OpenAI's chat form as judge.url."
            )
        return (content or "").strip()

    def _key(self) -> str:
        """The key, "" for none. Raises SetupError for one that cannot be sent, which Python would print whole."""
        name = self.config.key_env
        key = os.environ.get(name, "").strip() if name else ""
        if not (key.isascii() and key.isprintable()):
            raise SetupError(
                f"the key in {name} holds a line break or a character that is not ASCII, and cannot be sent; expected "
                f"letters, digits and marks. Export it again."
            )
        return key

    def _hidden(self, text: str) -> str:
        """A message without the key, which some servers repeat. Shorten it afterwards: half a key is not found."""
        key = self._key()
        return text.replace(key, "***") if key else text


class _MayPass(Exception):
    """A failure that another try may mend. `after`: seconds that the server asks to wait. `nobody`: nothing listens."""

    def __init__(self, message: str, *, after: float | None = None, nobody: bool = False) -> None:
        super().__init__(message)
        self.after, self.nobody = after, nobody


class _NoRedirects(urllib.request.HTTPRedirectHandler):
    def redirect_request(self, *args: Any, **more: Any) -> None:
        return None


def _content(question: Question) -> Any:
    """The user's turn."""
    if question.image is None:
        return question.text
    image = {"type": "image_url", "image_url": {"url": _data_url(question.image)}}
    return [{"type": "text", "text": question.text}, image]


def _data_url(image: Any) -> str:
    kind = mimetypes.guess_type(str(image))[0] if isinstance(image, str | Path) else None
    if kind in SENT_AS_THEY_ARE:
        try:
            data = Path(image).read_bytes()
        except OSError as error:
            raise DataError(f"the image {image} cannot be read: {error.strerror or error}.") from error
    else:
        kept = io.BytesIO()
        load_image(image).save(kept, format="PNG")
        kind, data = "image/png", kept.getvalue()
    return f"data:{kind};base64,{base64.b64encode(data).decode('ascii')}"


def _told(error: urllib.error.HTTPError) -> str:
    """What a server says of an error, in one line."""
    try:
        raw = error.read(4000).decode("utf-8", errors="replace")
    except (OSError, http.client.HTTPException):
        raw = ""
    try:
        found = json.loads(raw)
        found = found.get("error", found)
        text = found if isinstance(found, str) else found.get("message") or found.get("detail") or raw
    except (ValueError, AttributeError):
        text = raw
    return " ".join(str(text).split()) or str(error.reason)


def _seconds(after: str | None) -> float | None:
    try:
        found = float(after or "nan")
    except ValueError:  # a date
        return None
    return None if math.isnan(found) else max(found, 0.0)
