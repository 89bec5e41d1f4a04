"""Running Java programs: UTF-8 whatever the locale, nothing on our stdout, and failures in words."""

from __future__ import annotations

import subprocess
from pathlib import Path

from modbridge.errors import SetupError

# English numbers ("0.5", not "0,5") and UTF-8, whatever the user's locale says.
FLAGS = ("-Dfile.encoding=UTF-8", "-Duser.language=en", "-Duser.country=US")


class JavaFailed(SetupError):
    """A Java program did not start, ended with an error, or answered what it should not."""


def run_java(what: str, arguments: list[str], folder: Path, text: str = "") -> str:
    """The standard output of `java ARGUMENTS`, started in `folder` with `text` on its standard input.

    Raises JavaFailed, which says what Java said, if it cannot be started or ends with an error.
    """
    command = ["java", *FLAGS, *arguments]
    try:
        done = subprocess.run(command, cwd=folder, input=encode(text), capture_output=True, check=False)
    except OSError as error:
        raise JavaFailed(f"{what}: java could not be started: {error}") from error
    if done.returncode:
        raise JavaFailed(f"{what}: java ended with status {done.returncode}: {first_line(done.stderr)}")
    return done.stdout.decode("utf-8", errors="replace")


def encode(text: str) -> bytes:
    """UTF-8; a lone surrogate, which no encoding holds, becomes a question mark."""
    return text.encode("utf-8", errors="replace")


def first_line(stderr: bytes) -> str:
    """The first line that tells an error, with the next "Caused by"; or else the first line at all."""
    lines = [line.strip() for line in stderr.decode("utf-8", errors="replace").splitlines() if line.strip()]
    lines = [line for line in lines if not line.startswith("Picked up ")]  # notice of JAVA_TOOL_OPTIONS
    telling = [line for line in lines if "Exception" in line or "Error" in line or line.startswith("Caused by")]
    causes = [line for line in telling[1:] if line.startswith("Caused by")]
    return "; ".join((telling[:1] or lines[:1] or ["it said nothing"]) + causes[:1])
