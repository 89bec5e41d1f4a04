"""The tutorials and how-tos run: their blocks in order, as a reader would type them."""

from __future__ import annotations

import contextlib
import importlib.util
import io
import json
import re
import shlex
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import yaml

from modbridge.cli import main

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
PAGES = [*sorted((DOCS / "tutorial").glob("*.md")), *sorted((DOCS / "how-to").glob("*.md"))]
INSTALLING = (
    "pip",
    "uv",
    "source",
    "hf",
    "git",
    "pytest",
)  # what a reader does to his environment, and a test does not
TOKENS = {"DIR", "FILE", "NAME", "CONFIG"}  # a reader's own


def _load() -> ModuleType:
    spec = importlib.util.spec_from_file_location("modbridge_docs_pages", DOCS / "_ext" / "pages.py")
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    return module


pages = _load()


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """One for all pages, so that what one made the next one has."""
    return tmp_path_factory.mktemp("cache")


MY_YAML = """\
name: my
data:
  train:
    type: precomputed
    file: my.npz
    captions: my.jsonl
    rows: [0, 40]
    vectors: {image: {array: image, keys: ids}, text: {array: text, keys: ids}}
  test:
    type: precomputed
    file: my.npz
    captions: my.jsonl
    rows: [40, 60]
    vectors: {image: {array: image, keys: ids}, text: {array: text, keys: ids}}
encoder:
  type: precomputed
  file: my.npz
  space: mine
  normalise: true
  vectors: {image: {array: image, keys: ids}, text: {array: text, keys: ids}}
bridge: mean_shift
decoder:
  type: prefix_lm
  lm: {n_layer: 1, n_head: 1, n_embd: 8, n_positions: 32}
  tokenizer: words
  prefix_length: 2
  steps: 4
  generate: {max_new_tokens: 8}
metrics: [bleu]
"""


def write_my_config() -> None:
    """my.yaml, a reader's own config: stored vectors, and a decoder of a few steps."""
    rng, ids = np.random.default_rng(0), [f"photo-{i:03d}" for i in range(60)]
    text = rng.normal(size=(60, 8))
    np.savez("my.npz", image=text + rng.normal(size=8), text=text, ids=np.array(ids))
    lines = [json.dumps({"key": key, "captions": [f"a photo of {n % 5}"]}) for n, key in enumerate(ids)]
    Path("my.jsonl").write_text("\n".join(lines) + "\n", "utf-8")
    Path("my.yaml").write_text(MY_YAML, "utf-8")


class Reader:
    """Types what a page says, in a folder of its own."""

    def __init__(self, page: Path) -> None:
        self.page = page
        self.names: dict[str, Any] = {"__name__": "__page__"}
        self.printed = ""
        self.added: list[str] = []

    def read(self) -> None:
        for command in pages.page_marks(self.page, "before"):
            self.type(command)
        self.added = [word for mark in pages.page_marks(self.page, "with") for word in shlex.split(mark)]
        for block in pages.blocks(self.page):
            self.do(block)

    def do(self, block: Any) -> None:
        if block.marked("not run") is not None:
            assert block.marked("not run"), f"{self.page.name}: a block is not run and does not say why"
        elif block.marked("file"):
            Path(block.marked("file")).write_text(block.text, "utf-8")
        elif block.mark.strip() == "prints":
            missing = [line for line in block.text.splitlines() if not self.was_printed(line)]
            assert not missing, f"{self.page.name}: not printed: {missing}\nprinted:\n{self.printed}"
        elif block.language == "yaml":
            name = yaml.safe_load(block.text).get("name")
            if name:
                Path(f"{name}.yaml").write_text(block.text, "utf-8")
        elif block.language == "python":
            out = io.StringIO()
            with contextlib.redirect_stdout(out):
                exec(compile(block.text, f"{self.page.name}: a block", "exec"), self.names)
            self.printed = out.getvalue()
        elif block.language == "bash":
            self.printed = ""
            for line in pages.lines_of(block.text):
                self.type(line)

    def was_printed(self, line: str) -> bool:
        """Whether the line is among those printed, but for spaces and what "..." stands for."""
        words = " ".join(line.split()).split("...")
        for printed in (" ".join(one.split()) for one in self.printed.splitlines()):
            at = 0
            for part in words:
                at = printed.find(part.strip(), at)
                if at < 0:
                    break
            else:
                return True
        return False

    def type(self, line: str) -> None:
        """One line of a shell block."""
        if line.split()[0] in INSTALLING or TOKENS & set(line.replace("=", " ").replace("/", " ").split()):
            return
        found = list(pages.commands(line))
        if not found:
            done = subprocess.run(line, shell=True, capture_output=True, text=True)
            assert done.returncode == 0, f"{self.page.name}: {line}\n{done.stderr}"
            self.printed += done.stdout
            return
        for arguments in found:
            if arguments[0] in ("run", "demo", "compare"):
                arguments += self.added
            if arguments[0] == "gap" and "--no-report" not in arguments:
                arguments += ["--no-report"]  # the figures take longer than all else, and have tests of their own
            out, err = io.StringIO(), io.StringIO()
            with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
                code = main(arguments)
            self.printed += out.getvalue() + err.getvalue()
            assert code == 0, f"{self.page.name}: modbridge {' '.join(arguments)}: exit {code}\n{self.printed}"
            if ">" in line.split():
                Path(line.split()[-1]).write_text(out.getvalue(), "utf-8")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: f"{page.parent.name}/{page.stem}")
def test_what_a_page_says_can_be_done(
    page: Path, tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch, one_thread: None
) -> None:
    monkeypatch.setenv("MODBRIDGE_CACHE", str(cache))
    monkeypatch.setenv("COLUMNS", "200")
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    monkeypatch.chdir(tmp_path)
    write_my_config()
    Reader(page).read()


@pytest.mark.parametrize(
    ("page", "file", "most"), [("write-a-bridge", "level.py", 40), ("write-an-encoder", "thumbnails.py", 60)]
)
def test_a_part_of_one_s_own_is_short(page: str, file: str, most: int) -> None:
    path = DOCS / "tutorial" / f"{page}.md"
    text = next(block.text for block in pages.blocks(path) if block.marked("file") == file)
    lines = sum(1 for line in text.splitlines() if line.strip())
    assert lines <= most
    assert f"It takes {lines} lines" in path.read_text("utf-8")
    assert re.search(rf"{page}\.md\) in {lines}\b", (DOCS / "index.md").read_text("utf-8"))


def test_what_was_printed_is_found_by_its_words(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("<!-- file: a.txt -->\n```text\nhello\n```\n\n```bash\necho 'a  b c' # d\n```\n", "utf-8")
    kept, typed = pages.blocks(page)
    assert (kept.language, kept.marked("file"), kept.marked("not run")) == ("text", "a.txt", None)
    reader = Reader(page)
    reader.do(typed)
    assert reader.was_printed("a b ...")
    assert not reader.was_printed("a d")
    with pytest.raises(AssertionError, match="exit 1"):
        reader.type("modbridge check nothing.yaml")
