"""The cache: results by stage and key. A result appears whole or not at all, and is made once.

A stage works in `work/<key>`, which survives a kill and holds its checkpoints, and the finished folder is renamed to
`<stage>/<key>`. A second process that wants the same result waits for the first.
"""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from pathlib import Path

from filelock import FileLock, Timeout

from modbridge.config.weights import MANIFEST
from modbridge.errors import SetupError


class Cache:
    """A folder of results."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def path(self, stage: str, key: str) -> Path:
        return self.root / stage / key

    def has(self, stage: str, key: str) -> bool:
        return (self.path(stage, key) / MANIFEST).is_file()

    def make(
        self, stage: str, key: str, build: Callable[[Path, Path], None], waiting: Callable[[], None] = lambda: None
    ) -> Path:
        """The folder of a result; `build(out, work)` makes it in `out` if it is not there.

        `work` is kept until the result stands, so that an interrupted build finds its checkpoints. Raises SetupError
        where the cache cannot be written.
        """
        done = self.path(stage, key)
        if self.has(stage, key):
            return done
        work = self.root / "work" / f"{stage}-{key}"
        try:
            work.mkdir(parents=True, exist_ok=True)
            (self.root / "locks").mkdir(exist_ok=True)
        except OSError as error:
            raise SetupError(
                f"the cache {self.root} cannot be written ({error}); give another with --cache."
            ) from error
        lock = self._lock(stage, key)
        try:
            lock.acquire(timeout=0)
        except Timeout:
            waiting()
            lock.acquire()
        try:
            if self.has(stage, key):
                return done
            out = work / "out"
            shutil.rmtree(out, ignore_errors=True)
            out.mkdir(parents=True)
            build(out, work)
            done.parent.mkdir(parents=True, exist_ok=True)
            shutil.rmtree(done, ignore_errors=True)
            os.replace(out, done)
            shutil.rmtree(work, ignore_errors=True)
        finally:
            lock.release()
        return done

    def take_back(self, stage: str, key: str, keep: Callable[[Path, Path], bool] = lambda folder, work: True) -> None:
        """Undo a result, so that it is made again; `keep(folder, work)` moves what is still good into `work`, where
        making it goes on, and says whether it is to be undone still: another process may have mended it."""
        folder, work = self.path(stage, key), self.root / "work" / f"{stage}-{key}"
        with self._lock(stage, key):
            if folder.exists():
                work.mkdir(parents=True, exist_ok=True)
                if keep(folder, work):
                    shutil.rmtree(folder)

    def _lock(self, stage: str, key: str) -> FileLock:
        return FileLock(self.root / "locks" / f"{stage}-{key}.lock")
