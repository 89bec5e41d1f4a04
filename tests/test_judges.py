"""Judges in the core: questions asked once and in batches, answers checked and kept, one judge for all metrics."""

from __future__ import annotations

import io
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from modbridge.assembly.build import Shared, build_component, build_metric
from modbridge.assembly.session import Session
from modbridge.config.blocks import validate_block
from modbridge.errors import ConfigError, DataError, PluginError, SetupError
from modbridge.interfaces import BuildContext, Question
from modbridge.plugins.manager import Plugins, from_file
from modbridge.stages.answers import AnswerFile, attended
from modbridge.store.cache import Cache
from modbridge.talk import Talk

PLUGIN = '''
from statistics import fmean
from typing import Annotated
from modbridge.config.component import Affects, Part
from modbridge.config.kinds import JudgeConfig, MetricConfig
from modbridge.interfaces import Judge, Metric, Question, Score
from modbridge.plugins import ComponentSpec, hookimpl

class LoudConfig(JudgeConfig):
    """Shouts what it is asked."""
    mark: str = "!"
    """What stands behind."""
    batch_size: Annotated[int, Affects("nothing")] = 4
    """How many at once."""

class Loud(Judge[LoudConfig]):
    asked = []
    fails = None
    def answer(self, questions):
        Loud.asked.append([question.text for question in questions])
        if Loud.fails is not None:
            return Loud.fails(questions)
        return [question.text.upper() + self.config.mark for question in questions]

class AlikeConfig(MetricConfig):
    """How long answers are."""
    judge: Annotated[JudgeConfig, Part("judge")]
    """Whom it asks."""

class Alike(Metric[AlikeConfig]):
    def score(self, predictions, references):
        found = self.parts["judge"].ask([Question(one.text) for one in predictions])
        return {self.config.type: Score(fmean(map(len, found)))}

@hookimpl
def modbridge_components(register):
    parts = {"judge": ("loud", "Loud"), "metric": ("alike", "Alike")}
    for kind, (name, cls) in parts.items():
        code = {"config": f"{__name__}:{cls}Config", "impl": f"{__name__}:{cls}"}
        register(ComponentSpec(kind=kind, name=name, summary="a toy", **code))
'''


@pytest.fixture
def plugins(tmp_path: Path) -> Plugins:
    (tmp_path / "loud_plugin.py").write_text(PLUGIN, encoding="utf-8")
    found = Plugins()
    info = found.load(from_file(tmp_path / "loud_plugin.py"))
    assert info.status == "loaded", info.error
    return found


def judge(plugins: Plugins, **fields: Any) -> Any:
    config = validate_block("judge", {"type": "loud", **fields}, plugins.registry)
    return build_component(config, "judge", plugins.registry, BuildContext())


def calls() -> Any:
    return sys.modules["modbridge_file_loud_plugin"].Loud  # type: ignore[attr-defined]


def asked(*texts: str) -> list[Question]:
    return [Question(text) for text in texts]


def test_the_same_question_is_asked_once_and_batches_are_kept(plugins: Plugins) -> None:
    one = judge(plugins, batch_size=2)
    assert one.ask(asked("a", "b", "a", "c", "b")) == ["A!", "B!", "A!", "C!", "B!"]
    assert calls().asked == [["a", "b"], ["c"]]
    assert one.ask([]) == []


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (lambda questions: ["x"], "gave 1 answers to 2 questions; expected one for each"),
        (lambda questions: [None, "x"], r"answered \[None, 'x'\]; expected a list of texts"),
        (lambda questions: "xx", "answered 'xx'"),
    ],
)
def test_answers_of_another_form_are_the_plugins_failure(plugins: Plugins, given: Any, message: str) -> None:
    one = judge(plugins)
    calls().fails = staticmethod(given)
    with pytest.raises(PluginError, match=message):
        one.ask(asked("a", "b"))


def test_questions_that_cannot_be_asked(plugins: Plugins, tmp_path: Path) -> None:
    with pytest.raises(DataError, match="without words"):
        judge(plugins).ask(asked("a", " \n"))
    with pytest.raises(ConfigError, match=r"'loud' sees no images"):
        judge(plugins).ask([Question("a", np.zeros((2, 2, 3), np.uint8))])
    assert calls().asked == []
    with pytest.raises(DataError, match=r"none.png cannot be read"):
        Question("a", tmp_path / "none.png").digest()


def test_questions_are_told_apart_by_what_they_say_and_show(tmp_path: Path) -> None:
    dark, light = np.zeros((2, 2, 3), np.uint8), np.ones((2, 2, 3), np.uint8)
    Image.fromarray(dark).save(tmp_path / "a.png")
    Image.fromarray(light).save(tmp_path / "b.png")
    shown = [None, dark, light, dark.reshape(1, 4, 3), tmp_path / "a.png", tmp_path / "b.png", Image.fromarray(dark)]
    digests = [Question(text, image).digest() for text in "ab" for image in shown]
    assert len(set(digests)) == len(digests)
    (tmp_path / "c.png").write_bytes((tmp_path / "a.png").read_bytes())
    assert Question("a", tmp_path / "c.png").digest() == Question("a", str(tmp_path / "a.png")).digest()


def test_images_in_memory_are_told_apart_as_they_are_seen() -> None:
    def stored(image: Image.Image, **more: Any) -> Image.Image:
        kept = io.BytesIO()
        image.save(kept, "PNG", **more)
        return Image.open(kept)

    def of_one_colour(*colour: int) -> Image.Image:
        image = Image.new("P", (4, 4), 0)
        image.putpalette([*colour, *[0] * 765])
        return image

    picture = Image.fromarray(np.arange(48, dtype=np.uint8).reshape(4, 4, 3))
    turned = picture.getexif()
    turned[0x0112] = 6  # orientation: on its side
    shown = [stored(of_one_colour(255, 0, 0)), stored(of_one_colour(0, 0, 255)), stored(picture)]
    shown.append(stored(picture, exif=turned))
    assert len({Question("a", image).digest() for image in shown}) == len(shown)
    whole = io.BytesIO()
    picture.save(whole, "PNG")
    with pytest.raises(DataError, match="cannot be read"):
        Question("a", Image.open(io.BytesIO(whole.getvalue()[:-30]))).digest()


def test_too_many_for_the_device_are_asked_by_halves(plugins: Plugins) -> None:
    one = judge(plugins, batch_size=8)

    def little(questions: Sequence[Question]) -> list[str]:
        if len(questions) > 3:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried")
        return [question.text for question in questions]

    calls().fails = staticmethod(little)
    with pytest.warns(UserWarning, match="going on with [24] questions at once"):
        assert one.ask(asked(*"abcdefgh")) == list("abcdefgh")

    def nothing(questions: Sequence[Question]) -> list[str]:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried")

    calls().fails = staticmethod(nothing)
    with (
        pytest.warns(UserWarning, match="questions at once"),
        pytest.raises(SetupError, match="no memory to answer one question"),
    ):
        one.ask(asked(*"ijkl"))


def test_what_was_answered_outlives_a_failure(plugins: Plugins, tmp_path: Path) -> None:
    file = tmp_path / "answers.jsonl"
    talk = Talk(quiet=True)
    one = judge(plugins, batch_size=2)

    def ill(questions: Sequence[Question]) -> list[str]:
        if len(calls().asked) == 2:
            raise SetupError("the server is down.")
        return [f"{question.text} é\n" for question in questions]

    calls().fails = staticmethod(ill)
    with one.attended(AnswerFile(file), talk.progress):
        with pytest.raises(SetupError):
            one.ask(asked("a", "b", "c", "d"))
        assert one.ask(asked("a", "b", "c", "d")) == ["a é\n", "b é\n", "c é\n", "d é\n"]
    assert calls().asked == [["a", "b"], ["c", "d"], ["c", "d"]]
    # A line that a kill broke off is asked again, and spoils none of those behind it.
    file.write_bytes(file.read_bytes()[:-9])
    for _ in range(2):
        again = judge(plugins)
        with again.attended(AnswerFile(file), talk.progress):
            assert again.ask(asked("a", "b", "c", "d", "e"))[3:] == ["d é\n", "e é\n"]
    assert calls().asked[3:] == [["d", "e"]]
    # So is one that stands there for another reason.
    known = AnswerFile(file).known()
    file.write_bytes(b'5\n["a", 1]\n{"a": 1, "b": 2}\n"ab"\n\xff\0\n' + file.read_bytes())
    assert AnswerFile(file).known() == known
    one.ask(asked("a"))
    assert calls().asked[4:] == [["a"]]  # unattended, nothing is looked up


def test_one_judge_serves_all_metrics_and_keeps_its_answers_in_the_cache(plugins: Plugins, tmp_path: Path) -> None:
    from modbridge.interfaces import Decoded, Reference

    session = Session(plugins, Cache(tmp_path / "cache"), Talk(quiet=True))
    shared = Shared(0, session.remember)
    configs = [
        validate_block("metric", {"type": "alike", "judge": {"type": "loud", **fields}}, plugins.registry)
        for fields in ({}, {}, {"mark": "?"}, {"batch_size": 1})
    ]
    metrics = [build_metric(config, plugins.registry, shared=shared) for config in configs]
    assert metrics[0].parts["judge"] is metrics[1].parts["judge"]
    captions = [Decoded("1", "a"), Decoded("2", "bcd")]
    by = [Reference("1", ("x",)), Reference("2", ("y",))]
    with attended(session, metrics):
        assert [metric.judge(captions, by)["alike"].corpus for metric in metrics] == [3.0] * 4
    # The second's answers are the first's; the third has another mark; how many are asked at once changes nothing.
    assert calls().asked == [["a", "bcd"], ["a", "bcd"]]
    assert len(list((tmp_path / "cache" / "answers").iterdir())) == 2


def test_the_page_shows_what_is_asked() -> None:
    from modbridge_metrics.judge_config import RATING_PROMPT, VQA_PROMPT

    page = (Path(__file__).parents[1] / "docs" / "how-to" / "judges.md").read_text("utf-8")
    assert f"```text\n{RATING_PROMPT}\n```" in page
    assert f"```text\n{VQA_PROMPT}\n\nCaption: " in page
