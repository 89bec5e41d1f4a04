"""METEOR: alignment by words, stems, synonyms and paraphrases."""

from __future__ import annotations

import re
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress

from modbridge.interfaces.metric import Score
from modbridge_metrics.caption import CaptionMetric
from modbridge_metrics.config import MeteorConfig
from modbridge_metrics.environment import METEOR_FILES, bundle
from modbridge_metrics.java import FLAGS, JavaFailed, encode, first_line

SEPARATOR = "|||"


class Meteor(CaptionMetric[MeteorConfig]):
    """METEOR 1.5, English (Denkowski and Lavie 2014), by the program that pycocoevalcap bundles and with its options.

    The corpus score comes from summed statistics, so it is not the mean of the items'. Run here, not through
    pycocoevalcap's class, which waits for ever when Java dies. A "|||" in a caption, which is the program's own
    separator, counts as a blank.
    """

    def measure(self, candidates: list[str], references: list[list[str]]) -> dict[str, Score]:
        with _program() as ask:
            statistics = [
                ask(f" {SEPARATOR} ".join(["SCORE", *map(_plain, texts), _plain(candidate)]))
                for candidate, texts in zip(candidates, references, strict=True)
            ]
            first = ask(f" {SEPARATOR} ".join(["EVAL", *statistics]))
            *items, corpus = [float(first), *(float(ask(None)) for _ in candidates)]
        return {"meteor": Score(corpus, tuple(items))}


def _plain(text: str) -> str:
    return " ".join(text.replace(SEPARATOR, " ").split())


@contextmanager
def _program() -> Iterator[Callable[[str | None], str]]:
    """The running program as a function from a line (None: only read on) to its answer; ended in every case."""
    folder = bundle()
    assert folder is not None, "callers ask config.missing() first"
    jar = folder / METEOR_FILES[0]
    command = ["java", *FLAGS, "-Xmx2G", "-jar", str(jar), "-", "-", "-stdio", "-l", "en", "-norm"]
    with tempfile.TemporaryFile() as errors:  # a file: a full pipe that nobody reads would stop the program
        try:
            process = subprocess.Popen(
                command, cwd=jar.parent, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=errors
            )
        except OSError as error:
            raise JavaFailed(f"METEOR: java could not be started: {error}") from error
        assert process.stdin is not None
        assert process.stdout is not None
        stdin, stdout = process.stdin, process.stdout

        def ask(line: str | None) -> str:
            try:
                if line is not None:
                    stdin.write(encode(line + "\n"))
                    stdin.flush()
                answer = stdout.readline()
            except OSError:  # a broken pipe: the program is gone, and its own words below say why
                answer = b""
            if not answer:
                process.kill()
                status = process.wait()
                errors.seek(0)
                raise JavaFailed(f"METEOR: java ended with status {status}: {first_line(errors.read())}")
            numbers = answer.decode("utf-8", errors="replace").strip()
            if not re.fullmatch(r"[-+.\dE ]+", numbers):  # it complains in one line and then waits for another
                raise JavaFailed(f"METEOR answered {numbers!r}, expected numbers.")
            return numbers

        try:
            yield ask
        finally:
            process.kill()
            process.wait()
            stdout.close()
            with suppress(OSError):  # what a dead program never read
                stdin.close()
