"""The judge behind a server, asked over a real socket: what is sent, what is tried again, how mistakes are told."""

from __future__ import annotations

import base64
import io
import json
import logging
import threading
import time
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from modbridge.assembly.build import build_component
from modbridge.builtin import chat_judge
from modbridge.config.blocks import validate_block
from modbridge.errors import ConfigError, DataError, ModbridgeError, SetupError
from modbridge.interfaces import BuildContext, Question
from modbridge.plugins.manager import Plugins

KEY = "sk-a-secret-of-the-tests"
REGISTRY = Plugins.discover(environ={}).registry

Reply = tuple[int, dict[str, str], bytes]


def said(text: Any) -> Reply:
    return 200, {}, json.dumps({"choices": [{"message": {"role": "assistant", "content": text}}]}).encode()


def echo(body: dict[str, Any], number: int) -> Reply:
    content = body["messages"][-1]["content"]
    return said(f"  {content if isinstance(content, str) else content[0]['text']}!\n")


@dataclass
class Server:
    """A server on this machine. `reply(body, number)`: what it answers to the request of that number."""

    reply: Callable[[dict[str, Any], int], Reply] = echo
    requests: list[dict[str, Any]] = field(default_factory=list)
    headers: list[dict[str, str]] = field(default_factory=list)
    paths: list[str] = field(default_factory=list)
    url: str = ""
    at_once: int = 0
    most_at_once: int = 0


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[Server]:
    found, lock = Server(), threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            with lock:
                number = len(found.requests)
                found.requests.append(body)
                found.headers.append(dict(self.headers))
                found.paths.append(self.path)
                found.at_once += 1
                found.most_at_once = max(found.most_at_once, found.at_once)
            code, headers, text = found.reply(body, number)
            with lock:
                found.at_once -= 1
            self.send_response(code)
            for name, value in {"Content-Length": str(len(text)), **headers}.items():
                self.send_header(name, value)
            self.end_headers()
            self.wfile.write(text)

        def log_message(self, *args: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(chat_judge, "FIRST_WAIT", 0.01)
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    found.url = f"http://127.0.0.1:{httpd.server_port}/v1"
    thread = threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True)
    thread.start()
    yield found
    httpd.shutdown()
    httpd.server_close()
    thread.join()


def judge(url: str, **fields: Any) -> Any:
    config = validate_block("judge", {"type": "chat_judge", "url": url, "model": "a-model", **fields}, REGISTRY)
    return build_component(config, "judge", REGISTRY, BuildContext())


def asked(*texts: str) -> list[Question]:
    return [Question(text) for text in texts]


def test_what_is_sent_and_what_comes_back(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    one = judge(server.url + "/", key_env="A_KEY", system="Be short.", max_tokens=9, extra={"seed": 3})
    assert one.ask(asked("Is it red?", "Größe?")) == ["Is it red?!", "Größe?!"]
    assert set(server.paths) == {"/v1/chat/completions"}
    assert {headers["Authorization"] for headers in server.headers} == {f"Bearer {KEY}"}
    (first,) = (body for body in server.requests if body["messages"][-1]["content"] == "Is it red?")
    assert first == {
        "model": "a-model",
        "messages": [{"role": "system", "content": "Be short."}, {"role": "user", "content": "Is it red?"}],
        "temperature": 0,
        "max_tokens": 9,
        "seed": 3,
    }
    judge(server.url, extra={"temperature": None}).ask(asked("again"))
    assert "temperature" not in server.requests[-1]
    assert "Authorization" not in server.headers[-1]


def test_answers_stand_in_the_order_of_the_questions(server: Server) -> None:
    def slow_at_first(body: dict[str, Any], number: int) -> Reply:
        time.sleep(0.05 / (1 + number))
        return echo(body, number)

    server.reply = slow_at_first
    texts = [f"question {i % 17}" for i in range(40)]
    assert judge(server.url, workers=3).ask(asked(*texts)) == [f"{text}!" for text in texts]
    assert len(server.requests) == 17  # the same question is asked once
    assert 1 < server.most_at_once <= 3


def test_images_are_sent_in_the_request(server: Server, tmp_path: Path) -> None:
    pixels = np.arange(5 * 4 * 3, dtype=np.uint8).reshape(5, 4, 3)
    Image.fromarray(pixels).save(tmp_path / "a.png")
    Image.fromarray(pixels).save(tmp_path / "a.bmp")
    Image.fromarray(pixels).save(tmp_path / "a.jpg")
    images = [pixels, Image.fromarray(pixels), tmp_path / "a.png", str(tmp_path / "a.bmp"), tmp_path / "a.jpg"]
    one = judge(server.url, images=True, workers=1)
    assert one.ask([Question(f"what is {i}?", image) for i, image in enumerate(images)]) == [
        f"what is {i}?!" for i in range(5)
    ]
    sent = [body["messages"][0]["content"][1]["image_url"]["url"] for body in server.requests]
    for url in sent[:4]:
        head, _, data = url.partition(",")
        assert head == "data:image/png;base64"
        assert np.array_equal(np.asarray(Image.open(io.BytesIO(base64.b64decode(data)))), pixels)
    assert sent[4] == "data:image/jpeg;base64," + base64.b64encode((tmp_path / "a.jpg").read_bytes()).decode()
    with pytest.raises(DataError, match=r"none.png cannot be read"):
        one.ask([Question("what?", tmp_path / "none.png")])
    with pytest.raises(ConfigError, match="sees no images"):
        judge(server.url).ask([Question("what?", pixels)])


def test_the_same_words_with_another_image_are_another_question(server: Server) -> None:
    blank, full = np.zeros((2, 2, 3), np.uint8), np.full((2, 2, 3), 255, np.uint8)
    judge(server.url, images=True).ask([Question("what?", blank), Question("what?", full), Question("what?", blank)])
    assert len(server.requests) == 2


@pytest.mark.parametrize("code", [429, 500, 503])
def test_what_may_pass_is_tried_again(server: Server, code: int) -> None:
    server.reply = lambda body, number: (code, {"Retry-After": "0.01"}, b"busy") if number < 3 else echo(body, number)
    assert judge(server.url, retries=3).ask(asked("a?")) == ["a?!"]
    assert len(server.requests) == 4
    server.requests.clear()
    server.reply = lambda body, number: (code, {}, b'{"error": {"message": "too busy"}}')
    with pytest.raises(SetupError, match=f"answered {code}: too busy.*Try again later"):
        judge(server.url, retries=2).ask(asked("a?"))
    assert len(server.requests) == 3


def test_a_server_that_does_not_answer_in_time(server: Server) -> None:
    def silent(body: dict[str, Any], number: int) -> Reply:
        time.sleep(0.4)
        return echo(body, number)

    server.reply = silent
    with pytest.raises(SetupError, match=r"no answer within 0.1 s. Raise judge.timeout"):
        judge(server.url, timeout=0.1, retries=1).ask(asked("a?"))
    assert len(server.requests) == 2


def test_no_server_is_told_at_once() -> None:
    begun = time.monotonic()
    with pytest.raises(
        SetupError, match=r"127.0.0.1:9/v1 cannot be reached: .*Start it, or correct judge.url"
    ) as found:
        judge("http://127.0.0.1:9/v1").ask(asked("a?", "b?"))
    assert found.value.exit_code == 4
    assert time.monotonic() - begun < 5


REFUSALS: list[tuple[Reply, type[ModbridgeError], int, str]] = [
    ((401, {}, b'{"error": {"message": "Incorrect key sk-a-secret-of-the-tests"}}'), SetupError, 4, "the key in A_KEY"),
    ((403, {}, b""), SetupError, 4, "export a valid one"),
    (
        (404, {}, b'{"error": {"message": "The model does not exist"}}'),
        ConfigError,
        1,
        "'a-model'.*correct judge.mo",
    ),
    ((400, {}, b'{"error": "images are not supported"}'), DataError, 1, "400: images are not supported"),
    ((302, {"Location": "http://127.0.0.1:9/"}, b""), SetupError, 4, "answered 302"),
    ((200, {}, b"<html>a web page</html>"), SetupError, 4, "gave b'<html>a web page.*choices"),
    ((200, {}, b'{"choices": []}'), SetupError, 4, "OpenAI's chat form"),
    (said(["a", "list"]), SetupError, 4, "a text"),
    ((200, {}, b"[" * 100_000), SetupError, 4, "OpenAI's chat form"),
]


@pytest.mark.parametrize(("reply", "kind", "code", "message"), REFUSALS)
def test_refusals_are_told_without_the_key(
    server: Server,
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
    reply: Reply,
    kind: type[ModbridgeError],
    code: int,
    message: str,
) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    caplog.set_level(logging.DEBUG)
    server.reply = lambda body, number: reply
    with pytest.raises(kind, match=message) as found:
        judge(server.url, key_env="A_KEY").ask(asked("a?", "b?", "c?"))
    assert found.value.exit_code == code
    assert KEY not in str(found.value)
    assert KEY not in caplog.text
    assert len(server.requests) == 1  # neither tried again, nor asked by all workers


@pytest.mark.parametrize("code", [200, 400, 401])
@pytest.mark.parametrize("before", [140, 150, 280, 290, 295])
def test_no_part_of_a_key_is_left_where_a_message_is_cut(
    server: Server, monkeypatch: pytest.MonkeyPatch, code: int, before: int
) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    server.reply = lambda body, number: (code, {}, b"x" * before + KEY.encode())
    with pytest.raises(ModbridgeError, match="xxx") as found:
        judge(server.url, key_env="A_KEY").ask(asked("a?"))
    assert "sk-" not in str(found.value)


def test_keys_that_cannot_be_sent_are_told_without_them(server: Server, monkeypatch: pytest.MonkeyPatch) -> None:
    one = judge(server.url, key_env="A_KEY")
    monkeypatch.setenv("A_KEY", f" {KEY}\n")  # as a file ends
    assert one.ask(asked("a?")) == ["a?!"]
    assert server.headers[-1]["Authorization"] == f"Bearer {KEY}"
    for key in (f"{KEY}\r\nX-More: 1", f"{KEY}\u2026", f"{KEY}\u00e9"):
        monkeypatch.setenv("A_KEY", key)
        with pytest.raises(SetupError, match=r"the key in A_KEY .* cannot be sent.*Export it again") as found:
            one.ask(asked("another?"))
        assert KEY not in "".join(traceback.format_exception(found.value))
        assert found.value.exit_code == 4
    monkeypatch.setenv("A_KEY", "\n")
    assert "is not set" in (one.config.missing() or "")


@pytest.mark.parametrize("after", ["nan", "-5", "Wed, 21 Oct 2015 07:28:00 GMT", ""])
def test_waits_of_any_form(server: Server, after: str) -> None:
    server.reply = lambda body, number: echo(body, number) if number else (429, {"Retry-After": after}, b"slowly")
    assert judge(server.url).ask(asked("a?")) == ["a?!"]


def test_an_answer_without_text_is_empty(server: Server) -> None:
    server.reply = lambda body, number: said(None)
    assert judge(server.url).ask(asked("a?")) == [""]


def test_a_failure_among_many_ends_the_work(server: Server) -> None:
    server.reply = lambda body, number: (400, {}, b"no") if number == 5 else echo(body, number)
    with pytest.raises(DataError, match="answered 400: no"):
        judge(server.url, workers=2).ask(asked(*map(str, range(300))))
    assert len(server.requests) < 20


def test_the_key_and_passwords_stand_in_no_config(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("A_KEY", KEY)
    one = judge("http://localhost:1/v1", key_env="A_KEY")
    assert KEY not in json.dumps([one.config.model_dump(), one.config.key_fields()])
    assert one.config.missing() is None
    monkeypatch.delenv("A_KEY")
    assert "A_KEY" in (one.config.missing() or "")
    for fields in (
        {"key_env": KEY},
        {"url": f"http://user:{KEY}@localhost/v1"},
        {"url": f"http://localhost/v1?key={KEY}"},
        {"url": "localhost:8000"},
    ):
        with pytest.raises(ConfigError) as found:
            judge(**{"url": "http://localhost:1/v1", **fields})
        assert KEY not in str(found.value), fields
        assert "expected" in str(found.value) or "must hold no key" in str(found.value)


def test_what_decides_an_answer_is_part_of_its_key() -> None:
    one = judge("http://localhost:1/v1").config.key_fields()
    assert judge("http://localhost:1/v1", workers=9, timeout=1, retries=0, key_env="A_KEY").config.key_fields() == one
    for fields in ({"model": "b"}, {"system": "x"}, {"max_tokens": 3}, {"extra": {"seed": 1}}, {"images": True}):
        assert judge("http://localhost:1/v1", **fields).config.key_fields() != one
