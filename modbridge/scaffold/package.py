"""The files of a new plugin, and writing them."""

from __future__ import annotations

import json
import keyword
import re
import sys
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import date
from importlib.metadata import entry_points
from importlib.resources import files
from importlib.util import find_spec
from pathlib import Path
from textwrap import indent

from modbridge import __version__
from modbridge.errors import ConfigError, DataError, Problem
from modbridge.plugins.manager import ENTRY_POINTS
from modbridge.plugins.registry import KINDS
from modbridge.scaffold.imports import joined
from modbridge.scaffold.pipeline import pipeline

# A part that works only inside another brings that one along.
INSIDE = {"prior": "bridge", "vocabulary": "decoder", "objective": "encoder", "judge": "metric"}
# What the examples of parts need beside their type to be tiny.
SMALL = {"decoder": {"steps": 4, "batch_size": 4}, "source": {"count": 4}}
LONGEST = 32  # letters of a name: with more the formatter would want lines broken elsewhere
RULE = "lower-case words of letters and digits with dashes between, at most 32 letters, like my-plugin"


@dataclass(frozen=True)
class Package:
    """A plugin that is to be written. `name`: its distribution's, "my-plugin". `kinds`: its parts', one of each."""

    name: str
    kinds: tuple[str, ...]

    @classmethod
    def of(cls, name: str, kinds: Iterable[str]) -> Package:
        """A package with parts of `kinds`, and of those that these work in.

        Raises ConfigError for a name that cannot be a package's here, and for an unknown kind.
        """
        asked = list(kinds)
        unknown = [kind for kind in asked if kind not in KINDS]
        if unknown or not asked:
            message = f"no such kind: {unknown[0]!r}" if unknown else "no kind was given"
            raise ConfigError([Problem("--kinds", message, hint=f"kinds: {', '.join(KINDS)}")])
        asked += [INSIDE[kind] for kind in asked if kind in INSIDE]
        found = cls(name.replace("_", "-"), tuple(kind for kind in KINDS if kind in asked))
        reason = found._refused()
        if reason:
            raise ConfigError([Problem("NAME", f"{name!r} {reason}", hint=f"expected {RULE}")])
        return found

    def _refused(self) -> str | None:
        """Why the name cannot be taken; None if it can."""
        if not re.fullmatch(r"[a-z][a-z0-9]*(-[a-z0-9]+)*", self.name) or len(self.name) > LONGEST:
            return "is no package name"
        if keyword.iskeyword(self.module):
            return "is a word of Python's own"
        if self.module == "tests":
            return "is the name of the folder of its own tests"
        if self.module in entry_points(group=ENTRY_POINTS).names:
            return "is the name of a plugin that is here already"
        known = find_spec(self.module)
        if self.module in sys.stdlib_module_names or (known is not None and known.origin is not None):
            return "is the name of a package that is here already"
        return None

    @property
    def module(self) -> str:
        """The name that Python imports: "my_plugin"."""
        return self.name.replace("-", "_")

    def part(self, kind: str) -> str:
        """The name of its part of a kind, as configs write it."""
        return f"{self.module}_{kind}"

    def files(self) -> dict[str, str]:
        """The text of every file, by its path."""
        found = {
            "pyproject.toml": self._text("pyproject.toml"),
            "LICENSE": self._text("LICENSE").replace("YEAR", str(date.today().year)),
            "README.md": self._text("README.md"),
            ".gitignore": self._text("gitignore"),
            ".github/workflows/test.yml": self._text("workflow.yml"),
            "pipeline.yaml": pipeline({kind: self.part(kind) for kind in self.kinds}, self.name),
            f"{self.module}/__init__.py": self._text("init.py"),
            f"{self.module}/py.typed": "",
            f"{self.module}/plugin.py": self._text("plugin.py") + "".join(map(self._spec, self.kinds)),
            f"{self.module}/config.py": self._text("config.py")
            + joined(self._text(f"configs/{self._flavour(kind)}.py") for kind in self.kinds),
            "tests/test_conformance.py": self._text("tests/test_conformance.py"),
            "tests/test_pipeline.py": self._text("tests/test_pipeline.py"),
        }
        parts = {f"{self.module}/{kind}.py": self._text(f"parts/{self._flavour(kind)}.py") for kind in self.kinds}
        return found | parts

    def _text(self, path: str) -> str:
        """A file of the template under this package's name."""
        major, minor = __version__.split(".")[:2]
        rows = [f"| {kind} | `{self.part(kind)}` | `{self.module}/{kind}.py` |" for kind in self.kinds]
        words = {
            "my_plugin": self.module,
            "my-plugin": self.name,
            "MyPlugin": "".join(word.title() for word in self.module.split("_")),
            "A_LIST_OF_KINDS": _listed(self.kinds),
            "A_TABLE_OF_PARTS": "\n".join(rows),
            "FIRST_KIND": self.kinds[-1],
            "THIS_VERSION": f">={major}.{minor},<{major}.{int(minor) + 1}",
        }
        text = (files("modbridge.scaffold") / "template" / f"{path}.txt").read_text(encoding="utf-8")
        return re.sub("|".join(words), lambda found: words[found.group()], text)

    def _flavour(self, kind: str) -> str:
        """Which template of a kind is taken: a bridge beside a prior uses it, a metric beside a judge."""
        return "_with_".join([kind, *self._inside(kind)])

    def _inside(self, kind: str) -> list[str]:
        return [part for part, outer in INSIDE.items() if outer == kind and part in self.kinds]

    def _spec(self, kind: str) -> str:
        """The lines that announce one part."""
        more = {part: self.part(part) for part in self._inside(kind)} or SMALL.get(kind, {})
        example = json.dumps({"type": self.part(kind), **more}, indent=4 if more else None)
        if more:
            example = indent(example.replace("\n}", ",\n}"), " " * 12).lstrip()
        text = self._text("spec.py").replace("EXAMPLE", example)
        return text.replace("kindword", kind).replace("Kindword", kind.title())


def write_package(package: Package, folder: Path) -> list[str]:
    """Write a package's files; gives their paths in the folder.

    Raises DataError for a folder that holds anything already, or is none.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise DataError(f"{folder} is there already and not an empty folder; nothing was written. Give another --out.")
    written = package.files()
    for path, text in written.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    return sorted(written)


def _listed(kinds: tuple[str, ...]) -> str:
    """ "an encoder, a bridge and a decoder" """
    words = [f"{'an' if kind[0] in 'aeiou' else 'a'} {kind}" for kind in kinds]
    return " and ".join([", ".join(words[:-1]), words[-1]] if len(words) > 1 else words)
