"""What of Java and of pycocoevalcap's files is there. Downloads nothing; starts at most `java -version`."""

from __future__ import annotations

import importlib.util
import re
import shutil
import subprocess
from pathlib import Path

PTB_FILES = ("tokenizer/stanford-corenlp-3.4.1.jar",)
METEOR_FILES = ("meteor/meteor-1.5.jar", "meteor/data/paraphrase-en.gz")
# The two CoreNLP files are not bundled: pycocoevalcap's own Spice class downloads them when it is first built.
CORENLP_FILES = ("spice/lib/stanford-corenlp-3.6.0.jar", "spice/lib/stanford-corenlp-3.6.0-models.jar")
SPICE_FILES = ("spice/spice-1.0.jar", *CORENLP_FILES)

# SPICE writes its results through Java's own JavaScript engine, which Java 15 removed: after minutes of parsing it ends
# with a NullPointerException.
SPICE_LAST_JAVA = 14

INSTALL_JAVA = (
    "install a Java runtime (apt install default-jre-headless, brew install openjdk) so that `java` is on PATH"
)
FETCH_CORENLP = (
    "with network, run once: python -c 'from pycocoevalcap.spice.get_stanford_models import get_stanford_models as g; "
    "g()' (about 400 MB from nlp.stanford.edu), or copy both files there from a machine that has them"
)


def bundle() -> Path | None:
    """The folder of the installed pycocoevalcap, or None."""
    spec = importlib.util.find_spec("pycocoevalcap")
    places = list(spec.submodule_search_locations or ()) if spec else []
    return Path(places[0]) if places else None


def lacking(what: str, files: tuple[str, ...]) -> str | None:
    """What `what` lacks and what to do about it, in one sentence; None if Java and all `files` are there."""
    if shutil.which("java") is None:
        return f"{what} needs Java, and there is no `java` on PATH: {INSTALL_JAVA}"
    folder = bundle()
    if folder is None:
        return f"{what} needs pycocoevalcap, which is not installed: pip install pycocoevalcap"
    absent = [name for name in files if not (folder / name).is_file()]
    if not absent:
        return None
    only_corenlp = set(absent) <= set(CORENLP_FILES)
    remedy = FETCH_CORENLP if only_corenlp else "pip install --force-reinstall pycocoevalcap"
    return f"{what} needs {', '.join(absent)} in {folder}: {remedy}"


def spice_lacking() -> str | None:
    """As `lacking` for SPICE, and whether the Java on PATH is too new: both told before 400 MB are fetched."""
    problems = [lacking("SPICE", SPICE_FILES)]
    major = java_major()
    if major is not None and major > SPICE_LAST_JAVA:
        problems.append(
            f"SPICE needs Java 8 to {SPICE_LAST_JAVA} (it uses the JavaScript engine that Java 15 removed), and the "
            f"`java` on PATH is version {major}: put an older one first on PATH"
        )
    return "; ".join(problem for problem in problems if problem) or None


def java_major() -> int | None:
    """The major version of the `java` on PATH (8 for "1.8.0"), or None if there is none that runs.

    macOS has a `java` on PATH even without a Java: only running it tells.
    """
    try:
        done = subprocess.run(["java", "-version"], capture_output=True, text=True, timeout=30, check=False)
    except (OSError, subprocess.TimeoutExpired):
        return None
    found = re.search(r'version "(?:1\.)?(\d+)', done.stderr + done.stdout)
    return int(found.group(1)) if found and not done.returncode else None


def report() -> list[tuple[str, bool, str]]:
    """For `modbridge doctor`: (what, whether it is there, what to do if not)."""
    problems = {
        "the ptb tokenizer": lacking("the ptb tokenizer", PTB_FILES),
        "METEOR": lacking("METEOR", METEOR_FILES),
        "SPICE": spice_lacking(),
    }
    java = ("Java for METEOR, SPICE and tokenizer: ptb", java_major() is not None, INSTALL_JAVA)
    return [java, *((f"{what} can run", problem is None, problem or "") for what, problem in problems.items())]
