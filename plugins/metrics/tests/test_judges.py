"""Metrics that ask a judge: what they ask, how answers become scores, and what is kept of a run that was broken off."""

from __future__ import annotations

import json
import math
import sys
import threading
import tracemalloc
from collections.abc import Iterator, Sequence
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import Any

import numpy as np
import pytest
import yaml
from modbridge_metrics.judged import ratings
from modbridge_metrics.vqa_answers import accuracy, normalised

from modbridge.assembly.build import build_metric
from modbridge.cli import main
from modbridge.config.blocks import validate_block
from modbridge.errors import ConfigError, DataError
from modbridge.interfaces import Decoded, Metric, Reference, Score
from modbridge.plugins.manager import Plugins, from_file

PLUGINS = Plugins.discover(environ={"MODBRIDGE_PLUGINS": "metrics,builtin"})
PLUGINS.load(from_file(Path(__file__).parent / "rule_judge.py"))
RULE: Any = sys.modules["modbridge_file_rule_judge"].Rule  # type: ignore[attr-defined]

CAPTIONS = ["a red circle", "two blue squares on black", "nothing much", "a green cross, a red one"]


@pytest.fixture(autouse=True)
def fresh() -> None:
    RULE.asked.clear()
    RULE.said.clear()


def build(**block: Any) -> Metric[Any]:
    config = validate_block("metric", {"judge": "rule", **block}, PLUGINS.registry)
    return build_metric(config, PLUGINS.registry)


def lines(path: Path, rows: Sequence[Any]) -> str:
    path.write_text("".join((row if isinstance(row, str) else json.dumps(row)) + "\n" for row in rows), "utf-8")
    return str(path)


def items(captions: Sequence[str] = CAPTIONS, media: Any = None) -> tuple[list[Decoded], list[Reference]]:
    predictions = [Decoded(f"k{i}", text) for i, text in enumerate(captions)]
    read = (lambda i: lambda: media[i]) if media is not None else (lambda i: None)
    return predictions, [Reference(f"k{i}", (f"truly {i}", f"so {i}"), {}, read(i)) for i in range(len(captions))]


def ask(key: str, *answers: str, question: str = "what colour is it?") -> dict[str, Any]:
    return {"key": key, "question": question, "answers": list(answers)}


# --- how right an answer is


def leave_one_out(answer: str, people: Sequence[str]) -> float:
    """The definition, word by word: for every choice of nine of the ten."""
    chosen = combinations(range(len(people)), len(people) - 1)
    return fmean(min(sum(people[i] == answer for i in some) / 3, 1.0) for some in chosen)


@pytest.mark.parametrize(("agreeing", "wanted"), [(0, 0.0), (1, 0.3), (2, 0.6), (3, 0.9), (4, 1.0), (10, 1.0)])
def test_accuracy_of_ten_answers(agreeing: int, wanted: float) -> None:
    people = ["red"] * agreeing + ["blue"] * (10 - agreeing)
    assert accuracy("red", people) == pytest.approx(wanted)
    assert accuracy("red", people) == pytest.approx(leave_one_out("red", people))
    others = ["red"] * agreeing + [f"other {i}" for i in range(6)]
    assert accuracy("red", others) == pytest.approx(leave_one_out("red", others))


def test_accuracy_of_one_answer() -> None:
    assert (accuracy("A Dog.", ["dog"]), accuracy("two dogs", ["dog"])) == (1.0, 0.0)


# What the evaluation's processPunctuation and processDigitArticle make of these, worked out by hand.
@pytest.mark.parametrize(
    ("said", "wanted"),
    [
        ("Yes.", "yes"),
        (" The red\none ", "red 1"),
        ("two dogs and a cat", "2 dogs and cat"),
        ("None", "0"),
        ("dont know", "don't know"),
        ("couldnt've", "couldn't've"),
        ("couldn'tve", "couldn't've"),
        ("oclock", "o'clock"),
        ("shed", "shed"),
        ("black/white", "black white"),
        ("red, white", "red white"),
        ("1,000", "1000"),
        ("left-right", "left right"),
        ("it is 3.5 m.", "it is 3.5 m"),
        ("what?!", "what"),
        ("", ""),
    ],
)
def test_answers_are_compared_as_the_evaluation_compares_them(said: str, wanted: str) -> None:
    assert normalised(said) == wanted
    assert normalised(wanted) in (wanted, wanted.replace("3.5", "3.5"))


# --- text-only VQA


def test_questions_are_answered_from_captions(tmp_path: Path) -> None:
    people = ["red"] * 2 + ["dark red"] * 8
    asked = [
        ask("k0", "red"),
        ask("k3", *people),
        ask("k0", "blue", question="and now?"),
        ask("k1", "Blue"),
        ask("elsewhere", "red"),
    ]
    metric = build(type="text_vqa", questions=lines(tmp_path / "q.jsonl", asked))
    score = metric.judge(*items())["vqa"]
    # k0: right and wrong; k1: right; k2: not asked; k3: says green, which nobody does.
    assert score.items[:2] == (0.5, 1.0)
    assert math.isnan(score.items[2])
    assert score.items[3] == 0.0
    assert score.corpus == pytest.approx((1 + 0 + 1 + 0) / 4)
    assert score.note == "4 questions, 1 of other items left out, no question on 1 of 4 items"
    assert RULE.asked[0].text == (
        "Answer the question by its caption alone, in one word or as few as possible.\n\n"
        "Caption: a red circle\nQuestion: what colour is it?\nAnswer:"
    )
    assert all(question.image is None for question in RULE.asked)


def test_examples_are_shown_first(tmp_path: Path) -> None:
    examples = [{"caption": f"c {i}", "question": f"q {i}?", "answer": f"a {i}"} for i in range(3)]
    at = {"questions": lines(tmp_path / "q.jsonl", [ask("k0", "red")])}
    at["examples"] = lines(tmp_path / "e.jsonl", [*examples, ""])
    metric = build(type="text_vqa", shots=2, prompt="Answer.", column="vqa_two_shots", **at)
    assert metric.judge(*items())["vqa_two_shots"].corpus == 1.0
    assert RULE.asked[0].text == (
        "Answer.\n\nCaption: c 0\nQuestion: q 0?\nAnswer: a 0\n\nCaption: c 1\nQuestion: q 1?\nAnswer: a 1\n\n"
        "Caption: a red circle\nQuestion: what colour is it?\nAnswer:"
    )
    with pytest.raises(DataError, match=r"holds 3 examples, and shots asks for 4"):
        build(type="text_vqa", shots=4, **at).judge(*items())


def test_long_examples_are_not_held_once_for_every_question(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    count, long = 1000, "word " * 10_000
    asked = [ask("k0", "red", question=f"what is {n}?") for n in range(count)]
    examples = lines(tmp_path / "e.jsonl", [{"caption": long, "question": "q?", "answer": "a"}])
    metric = build(type="text_vqa", questions=lines(tmp_path / "q.jsonl", asked), examples=examples)
    monkeypatch.setattr(RULE, "answer", lambda self, questions: ["Red"] * len(questions))
    tracemalloc.start()
    score = metric.judge(*items())["vqa"]
    most = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert score.corpus == 1.0
    assert most < count * len(long) / 4


def test_files_count_by_what_stands_in_them(tmp_path: Path) -> None:
    one = build(type="text_vqa", questions=lines(tmp_path / "q.jsonl", [ask("k0", "red")])).config.key_fields()
    same = build(type="text_vqa", questions=lines(tmp_path / "r.jsonl", [ask("k0", "red")])).config.key_fields()
    lines(tmp_path / "q.jsonl", [ask("k0", "green")])
    other = build(type="text_vqa", questions=str(tmp_path / "q.jsonl")).config.key_fields()
    assert one == same != other


@pytest.mark.parametrize(
    ("row", "message"),
    [
        ({"key": "k0", "question": "what?"}, r"q.jsonl:2: expected .*answers"),
        (ask("k0", "a", "b", "c"), r"q.jsonl:2: found 3 answers; expected one that is right, or those of more than 3"),
        ({"key": 7, "question": "what?", "answers": ["a"]}, r"q.jsonl:2: expected .*key"),
        (ask("k0", "a", question=" "), r"q.jsonl:2: expected"),
        ("{nonsense", r"q.jsonl:2: no JSON"),
        ("[1]", r"q.jsonl:2: found '\[1\]', expected an object a line"),
    ],
)
def test_wrong_lines_of_questions_are_told(tmp_path: Path, row: Any, message: str) -> None:
    metric = build(type="text_vqa", questions=lines(tmp_path / "q.jsonl", [ask("k0", "red"), row]))
    with pytest.raises(DataError, match=message):
        metric.judge(*items())


def test_other_wrong_inputs_of_vqa_are_told(tmp_path: Path) -> None:
    away = build(type="text_vqa", questions=lines(tmp_path / "q.jsonl", [ask("x9", "red")]))
    with pytest.raises(DataError, match=r"none of the 1 questions .* the first is on 'x9', the first item is 'k0'"):
        away.judge(*items())
    empty = build(type="text_vqa", questions=lines(tmp_path / "e.jsonl", [""]))
    with pytest.raises(DataError, match="is empty"):
        empty.judge(*items())
    examples = lines(tmp_path / "x.jsonl", [{"caption": "a", "question": "b"}])
    at = {"questions": lines(tmp_path / "q.jsonl", [ask("k0", "red")]), "examples": examples}
    with pytest.raises(DataError, match=r"x.jsonl:1: expected .*answer"):
        build(type="text_vqa", **at).judge(*items())
    absent = build(type="text_vqa", questions=str(tmp_path / "none.jsonl"))
    assert "none.jsonl is not there" in (absent.config.missing() or "")
    assert absent.judge(*items())["vqa"] == Score(None, note=absent.config.missing())
    for fields, message in (({"shots": 2}, "there are no examples"), ({"column": "VQA 2"}, "snake_case")):
        with pytest.raises(ConfigError, match=message):
            build(type="text_vqa", questions="q.jsonl", **fields)


# --- ratings


@pytest.mark.parametrize(
    ("answer", "wanted"),
    [
        ("coverage: 4\nhallucination: 6\nlayout: 0", (4.0, 6.0, 0.0)),
        ("Sure!\n- **Coverage**: 4.5/6\n- **Hallucination**: 6.\n- Layout = 2", (4.5, 6.0, 2.0)),
        ("layout: 1\ncoverage: 2\nhallucination: 3", (2.0, 3.0, 1.0)),
        ("coverage: 4\nhallucination: 6", None),
        ("coverage: 4\nhallucination: 7\nlayout: 0", None),
        ("coverage: -1\nhallucination: 6\nlayout: 0", None),
        ("coverage: 4 or 5\nhallucination: 6\nlayout: 0", None),
        ("coverage: 4\ncoverage: 5\nhallucination: 6\nlayout: 0", None),
        ("coverage: four\nhallucination: 6\nlayout: 0", None),
        ("coverage: 4, hallucination: 6, layout: 0", None),
        ("", None),
    ],
)
def test_ratings_are_read_strictly(answer: str, wanted: Any) -> None:
    assert ratings(answer) == wanted


def test_captions_are_rated() -> None:
    found = build(type="judged").judge(*items())
    assert found["judged_coverage"].items == (3.0, 5.0, 2.0, 6.0)
    assert found["judged_coverage"].corpus == 4.0
    assert found["judged_hallucination"].items == (3.0,) * 4
    assert found["judged_layout"].corpus == 1.5
    assert found["judged_mean"].items == pytest.approx([(c + 3 + 1.5) / 3 for c in (3, 5, 2, 6)])
    assert found["judged_mean"].corpus == pytest.approx((4 + 3 + 1.5) / 3)
    assert {score.note for score in found.values()} == {""}
    text = RULE.asked[1].text
    assert "You do not see the image; judge by what people said of it:\n\n- truly 1\n- so 1\n\n" in text
    assert "The caption to be rated:\ntwo blue squares on black\n\n" in text
    assert "{" not in text


def test_a_judge_that_sees_is_shown_the_items() -> None:
    media = [np.full((4, 4, 3), value, np.uint8) for value in (255, 0, 255, 0)]
    metric = build(type="judged", judge={"type": "rule", "images": True})
    assert metric.config.reads_media
    found = metric.judge(*items(media=media))
    assert found["judged_hallucination"].items == (6.0, 3.0, 6.0, 3.0)
    assert RULE.asked[0].text.count("You see the image.") == 1
    assert not build(type="judged").config.reads_media


def test_answers_that_cannot_be_read_are_counted() -> None:
    RULE.said["nothing much"] = "As a language model,\nI would say 5"
    found = build(type="judged").judge(*items())
    assert found["judged_coverage"].corpus == pytest.approx((3 + 5 + 6) / 3)
    assert math.isnan(found["judged_coverage"].items[2])
    told = "1 of 4 answers could not be read and are left out (the first: 'As a language model, I would say 5')"
    assert found["judged_mean"].note == told
    RULE.said[""] = "no"
    nothing = build(type="judged").judge(*items())["judged_mean"]
    assert (nothing.corpus, nothing.items) == (None, ())
    assert nothing.note.startswith("4 of 4 answers")


def test_some_of_the_items_are_the_same_in_any_order() -> None:
    predictions, references = items([f"caption {i}" for i in range(12)])
    metric = build(type="judged", items=5)
    score = metric.judge(predictions, references)["judged_mean"]
    rated = {one.key for one, value in zip(predictions, score.items, strict=True) if not math.isnan(value)}
    assert len(rated) == 5
    assert score.note == "5 of 12 items rated"
    back = metric.judge(predictions[::-1], references[::-1])["judged_mean"]
    assert {one.key for one, value in zip(predictions[::-1], back.items, strict=True) if not math.isnan(value)} == rated


def test_words_in_braces_in_a_caption_stay() -> None:
    build(type="judged").judge(*items(["a {references} sign {x}"]))
    assert "The caption to be rated:\na {references} sign {x}\n" in RULE.asked[0].text
    with pytest.raises(ConfigError, match=r"prompt must hold \{caption\}"):
        build(type="judged", prompt="Rate it.")


# --- in a run


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[dict[str, Any]]:
    """A server that rates by the length of a question; `state["most"]`: how many it answers before it breaks down."""
    state: dict[str, Any] = {"texts": [], "most": 10**6}
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["Content-Length"])))
            text = body["messages"][-1]["content"]
            with lock:
                ill = len(state["texts"]) >= state["most"]
                if not ill:
                    state["texts"].append(text)
            said = {"choices": [{"message": {"content": f"coverage: {len(text) % 7}\nhallucination: 6\nlayout: 1"}}]}
            reply = b"" if ill else json.dumps(said).encode()
            self.send_response(501 if ill else 200)
            self.send_header("Content-Length", str(len(reply)))
            self.end_headers()
            self.wfile.write(reply)

        def log_message(self, *args: Any) -> None:
            pass

    monkeypatch.setenv("no_proxy", "*")
    httpd = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    state["url"] = f"http://127.0.0.1:{httpd.server_port}/v1"
    threading.Thread(target=httpd.serve_forever, kwargs={"poll_interval": 0.01}, daemon=True).start()
    yield state
    httpd.shutdown()
    httpd.server_close()


def test_a_run_that_was_broken_off_asks_no_question_twice(
    server: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("JUDGE_KEY", "a-secret-key")
    judge = {"type": "chat_judge", "url": server["url"], "model": "m", "key_env": "JUDGE_KEY", "workers": 1}
    config = {
        "data": {
            "train": {"type": "drawn_scenes", "split": "train", "count": 60},
            "test": {"type": "drawn_scenes", "split": "test", "count": 24},
        },
        "encoder": "named_colours",
        "bridge": "mean_shift",
        "decoder": "nearest_caption",
        "metrics": [{"type": "judged", "judge": judge}],
    }

    def run() -> int:
        (tmp_path / "c.yaml").write_text(yaml.safe_dump(config))
        where = ["--out", str(tmp_path / "run"), "--cache", str(tmp_path / "cache")]
        return main(["run", str(tmp_path / "c.yaml"), "--quiet", *where])

    server["most"] = 13
    assert run() == 4
    server["most"] = 10**6
    assert run() == 0
    texts = server["texts"]
    assert len(texts) <= 24 + 5  # of a round of eight that broke off, those that were answered are asked again
    row = json.loads((tmp_path / "run" / "metrics.jsonl").read_text().splitlines()[0])
    asked = {text: len(text) % 7 for text in texts}
    assert row["judged_hallucination"] == 6.0
    assert 0 <= row["judged_coverage"] <= 6
    assert len(asked) == 24
    assert row["judged_coverage"] == pytest.approx(fmean(asked.values()))
    texts.clear()
    config["metrics"] = [{"type": "judged", "judge": {**judge, "workers": 3}, "items": 9}, "bleu"]
    assert run() == 0
    assert texts == []  # another metric of the same judge, whose answers are known
    kept = [path for path in tmp_path.rglob("*") if path.is_file() and b"a-secret-key" in path.read_bytes()]
    assert kept == []


def test_one_column_is_not_filled_twice(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    judge = {"type": "chat_judge", "url": "http://localhost:1/v1", "model": "m"}
    vqa = {"type": "text_vqa", "questions": "q.jsonl", "judge": judge}

    def check(*metrics: Any) -> tuple[int, str]:
        scenes = {"type": "drawn_scenes", "count": 8}
        config = {"data": {"train": scenes}, "encoder": "named_colours", "bridge": "identity", "metrics": [*metrics]}
        (tmp_path / "c.yaml").write_text(yaml.safe_dump({**config, "decoder": "nearest_caption"}))
        code = main(["check", str(tmp_path / "c.yaml")])
        return code, capsys.readouterr().err

    assert check(vqa, {**vqa, "column": "vqa_three_shots", "examples": "e.jsonl", "shots": 3})[0] == 0
    code, told = check(vqa, {**vqa, "examples": "e.jsonl"})
    assert code == 1
    assert "fills the column 'vqa', which metrics.0 fills too (leave one of the two out, or give it a `column`" in told
    assert check({"type": "bleu", "tokenizer": "whitespace"}, "bleu")[0] == 1
    assert check("bleu", "bleu")[0] == 0  # the same twice is the same
