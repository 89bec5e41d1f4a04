"""METEOR, SPICE and the ptb tokenizer: live where there is a Java, and how they fail with a made-up one."""

from __future__ import annotations

import gzip
import json
import os
import stat
from pathlib import Path
from typing import Any

import pytest
from modbridge_metrics import environment
from modbridge_metrics.environment import CORENLP_FILES, METEOR_FILES, PTB_FILES, SPICE_FILES, java_major, lacking

from modbridge.interfaces import Decoded, Metric, Reference, Score
from modbridge.plugins.manager import Plugins


@pytest.fixture(scope="module")
def plugins() -> Plugins:
    return Plugins.discover(environ={"MODBRIDGE_PLUGINS": "metrics"})


@pytest.fixture(scope="module")
def java() -> None:
    problem = lacking("this test", (*PTB_FILES, *METEOR_FILES))
    if problem or java_major() is None:
        pytest.skip(problem or "`java` does not run")


def build(plugins: Plugins, **block: Any) -> Metric[Any]:
    spec = plugins.registry.get("metric", block["type"])
    metric = spec.load_impl()(spec.load_config()(**block))
    assert isinstance(metric, Metric)
    return metric


def score(metric: Metric[Any], predictions: list[str], references: list[list[str]]) -> dict[str, Score]:
    return metric.score(
        [Decoded(f"k{i}", text) for i, text in enumerate(predictions)],
        [Reference(f"k{i}", tuple(texts)) for i, texts in enumerate(references)],
    )


# --- live


@pytest.mark.usefixtures("java")
def test_ptb_of_awkward_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    from modbridge_metrics.tokenizers import tokenize

    monkeypatch.setenv("LC_ALL", "C")
    texts = [
        "A man's dog isn't\nhere; (really)!",
        "",
        "Café naïve ☃ 東京",
        " . ",
        "a\u2028b\rc\x85d",
        "x\udc80y |||",
        "",
    ]
    found = tokenize(texts, "ptb")
    # The brackets stay, in lower case, as in pycocoevalcap.
    assert found[:5] == ["a man 's dog is n't here -lrb- really -rrb-", "", "café naïve ☃ 東京", "", "a b c d"]
    assert len(found) == 7
    assert found[6] == ""


@pytest.mark.usefixtures("java")
def test_ptb_is_pycocoevalcaps(requires_data: Path) -> None:
    from modbridge_metrics.tokenizers import simple_words, tokenize
    from pycocoevalcap.tokenizer import ptbtokenizer

    if not os.access(Path(ptbtokenizer.__file__).parent, os.W_OK):
        pytest.skip("pycocoevalcap's own class writes into its folder, which is read-only here")
    with gzip.open(requires_data / "captions" / "mscoco_karpathy_val.jsonl.gz", "rt", encoding="utf-8") as file:
        texts = [text for _, line in zip(range(200), file, strict=False) for text in json.loads(line)["captions"]]
    theirs = ptbtokenizer.PTBTokenizer().tokenize({i: [{"caption": text}] for i, text in enumerate(texts)})
    ours = tokenize(texts, "ptb")
    assert ours == [theirs[i][0] for i in range(len(texts))]
    differing = sum(" ".join(simple_words(text)) != ptb for text, ptb in zip(texts, ours, strict=True))
    assert differing / len(texts) < 0.01


@pytest.mark.usefixtures("java")
def test_meteor_by_hand(plugins: Plugins, capfd: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LC_ALL", "C")
    predictions = ["a dog runs fast", "", "café ||| noir", "a dog\nruns"]
    references = [["a dog runs"], ["a bird", ""], ["café noir"], ["qqq", "a dog runs"]]
    found = score(build(plugins, type="meteor"), predictions, references)["meteor"]
    # Denkowski and Lavie 2014 with the English parameters alpha .85, beta .2, gamma .6, delta .75. Words "dog", "runs"
    # and the function word "a" match exactly, in one chunk; "fast" does not.
    precision = (0.75 * 2 + 0.25 * 1) / (0.75 * 3 + 0.25 * 1)
    mean = precision * 1 / (0.85 * precision + 0.15 * 1)
    first = (1 - 0.6 * (1 / 3) ** 0.2) * mean
    assert found.items == pytest.approx((first, 0, 1, 1), abs=1e-6)
    assert found.corpus is not None
    assert 0 < found.corpus < 1
    assert capfd.readouterr() == ("", "")


@pytest.mark.usefixtures("java")
def test_spice_tells_what_java_says(
    plugins: Plugins, capfd: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from modbridge_metrics.spice import Spice

    bundle = environment.bundle()
    assert bundle is not None
    (tmp_path / "spice" / "lib").mkdir(parents=True)
    (tmp_path / SPICE_FILES[0]).symlink_to(bundle / SPICE_FILES[0])
    for name in CORENLP_FILES:
        (tmp_path / name).touch()  # empty: the real program does not find its classes
    monkeypatch.setattr(environment, "bundle", lambda: tmp_path)
    monkeypatch.setattr("modbridge_metrics.spice.bundle", lambda: tmp_path)
    monkeypatch.setattr(environment, "java_major", lambda: 11)
    metric = build(plugins, type="spice")
    assert isinstance(metric, Spice)
    assert metric.config.missing() is None
    found = score(metric, ["a dog"], [["a dog"]])["spice"]
    assert found.corpus is None
    assert "NoClassDefFoundError" in found.note
    assert capfd.readouterr() == ("", "")


# --- with a made-up java


def made_up_java(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str, version: str = "1.8.0_312") -> None:
    """Puts a `java` first on PATH that answers `-version` and otherwise runs `script`; and fakes the CoreNLP files."""
    program = folder / "bin" / "java"
    program.parent.mkdir()
    answer = f"""if [ "$1" = -version ]; then echo 'openjdk version "{version}"' >&2; exit 0; fi\n"""
    program.write_text("#!/bin/sh\n" + answer + script)
    program.chmod(program.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{program.parent}{os.pathsep}{os.environ['PATH']}")
    for name in (*PTB_FILES, *METEOR_FILES, *SPICE_FILES):
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).touch()
    for module in ("environment", "spice", "meteor", "tokenizers"):
        monkeypatch.setattr(f"modbridge_metrics.{module}.bundle", lambda: folder)


# SPICE's own output form, in another order and with the null that it writes for NaN.
SPICE_ANSWERS = """
while [ "$1" != -out ]; do shift; done
cat > "$2" <<'EOF'
[{"image_id": 2, "scores": {"All": {"f": 0.5}}}, {"image_id": 0, "scores": {"All": {"f": 0.25}}},
 {"image_id": 1, "scores": {"All": {"f": null}}}]
EOF
echo "SPICE evaluation took: 1 s"; echo "Parsing" >&2
"""


def test_spice_scores_by_item(plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capfd: Any) -> None:
    made_up_java(tmp_path, monkeypatch, SPICE_ANSWERS)
    metric = build(plugins, type="spice")
    assert metric.config.missing() is None
    found = score(metric, ["a", "b", "c"], [["a"], ["b"], ["c"]])["spice"]
    assert (found.items[0], found.items[2]) == (0.25, 0.5)
    assert found.items[1] != found.items[1]
    assert found.corpus == pytest.approx(0.375)
    assert "1 of 3" in found.note
    assert capfd.readouterr() == ("", "")
    short = score(metric, ["a"], [["a"]])["spice"]
    assert short.corpus is None
    assert "1 items went in" in short.note


def test_spice_refuses_a_java_without_javascript(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_java(tmp_path, monkeypatch, "exit 1", version="17.0.15")
    assert "Java 8 to 14" in str(build(plugins, type="spice").config.missing())
    (tmp_path / CORENLP_FILES[1]).unlink()
    reason = str(build(plugins, type="spice").config.missing())
    assert "stanford-corenlp-3.6.0-models.jar" in reason
    assert "get_stanford_models" in reason
    assert "version 17" in reason
    rows = {what: there for what, there, _ in plugins.manager.hook.modbridge_doctor()[0]}
    assert rows.pop("SPICE can run") is False
    assert all(there for what, there in rows.items() if "FENSE" not in what)


FAILS = """echo 'Picked up JAVA_TOOL_OPTIONS: -x' >&2
echo 'Exception in thread "main" java.lang.OutOfMemoryError: Java heap space' >&2
echo 'Caused by: no memory' >&2; exit 3
"""


@pytest.mark.parametrize("block", [{"type": "meteor"}, {"type": "spice"}, {"type": "cider", "tokenizer": "ptb"}])
def test_a_failing_java_gives_a_note(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, block: dict[str, str], capfd: Any
) -> None:
    made_up_java(tmp_path, monkeypatch, FAILS)
    found = score(build(plugins, **block), ["a", "b"], [["a"], ["b"]])[block["type"]]
    assert found.corpus is None
    assert "OutOfMemoryError: Java heap space; Caused by: no memory" in found.note
    assert "Picked up" not in found.note
    assert capfd.readouterr() == ("", "")


def test_too_few_lines_from_the_ptb_tokenizer_give_a_note(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_java(tmp_path, monkeypatch, "cat > /dev/null; echo a")
    found = score(build(plugins, type="rouge_l", tokenizer="ptb"), ["a", "b"], [["a"], ["b"]])["rouge_l"]
    assert found.corpus is None
    assert "4 captions went in, 1 lines came out" in found.note


def test_meteor_that_answers_no_number_gives_a_note(
    plugins: Plugins, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made_up_java(tmp_path, monkeypatch, "while read line; do echo Error: nonsense; done; echo Error")
    found = score(build(plugins, type="meteor"), ["a"], [["a"]])["meteor"]
    assert found.corpus is None
    assert found.note.startswith("METEOR")
