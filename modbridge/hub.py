"""Files of the Hugging Face hub: from the cache, else fetched, else told in seconds that they cannot be (the hub's own
client tries again for half a minute)."""

from __future__ import annotations

import threading
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, TypeVar

from modbridge.errors import DataError, SetupError

T = TypeVar("T")

PROBE_SECONDS = 5.0


def no_network(url: str | None = None) -> str | None:
    """Why nothing can be fetched from `url` (the hub by default); None if it answers."""
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return "HF_HUB_OFFLINE forbids to fetch it"
    url = url or constants.ENDPOINT
    return None if _reachable(url) else f"{url} does not answer"


def _reachable(url: str) -> bool:
    """Whether a server answers within a few seconds."""
    import ssl
    import urllib.error
    import urllib.request

    answers: list[bool] = []

    def ask() -> None:
        try:
            with urllib.request.urlopen(urllib.request.Request(url, method="HEAD"), timeout=PROBE_SECONDS):
                answers.append(True)
        except urllib.error.HTTPError:  # it answered
            answers.append(True)
        except urllib.error.URLError as error:
            # So did one whose certificate only the hub's client, with settings of its own, may know to check.
            answers.append(isinstance(error.reason, ssl.SSLError))
        except (OSError, ValueError):
            answers.append(False)

    thread = threading.Thread(target=ask, daemon=True)  # a name lookup knows no timeout of its own
    thread.start()
    thread.join(PROBE_SECONDS)
    return answers == [True]


def require_network(what: str, remedy: str, url: str | None = None) -> None:
    """Raise SetupError unless `what` can be fetched from `url` (the hub)."""
    reason = no_network(url)
    if reason:
        raise SetupError(f"{what} is not in the cache, and {reason}. {remedy}")


def cached_file(repo: str, name: str, revision: str | None = None) -> Path | None:
    """A repository's file in the hub's cache; None if it is not there.

    What `huggingface_hub.try_to_load_from_cache` answers, whose import takes a third of a second that checking a config
    should not. The cache's layout is documented: models--ORG--NAME/refs/REVISION holds the commit, and
    snapshots/COMMIT/FILE is the file.
    """
    from huggingface_hub import constants

    folder = Path(constants.HF_HUB_CACHE, "--".join(["models", *repo.split("/")]))
    commit = revision or "main"
    with suppress(OSError):  # not there for a commit, or where nothing is cached
        commit = (folder / "refs" / commit).read_text("utf-8")
    found = folder / "snapshots" / commit / name
    return found if found.is_file() else None


def hub_file(repo: str, names: Sequence[str], revision: str | None = None) -> Path:
    """The first of a repository's files `names` that there is, from the cache or else from the hub.

    Raises SetupError if it is not cached and the hub cannot be reached, DataError if the hub has none of them.
    """
    from huggingface_hub import hf_hub_download, try_to_load_from_cache

    for name in names:
        cached = try_to_load_from_cache(repo, name, revision=revision)
        if isinstance(cached, str):
            return Path(cached)
    require_network(
        f"{repo} ({' or '.join(names)})", f"Where there is a network, run `hf download {repo}`, or give a local file."
    )
    from huggingface_hub.errors import EntryNotFoundError, HfHubHTTPError, LocalEntryNotFoundError

    for name in names:
        try:
            return Path(hf_hub_download(repo, name, revision=revision, etag_timeout=10))
        except LocalEntryNotFoundError as error:  # the network went away
            raise SetupError(f"{repo}/{name} could not be fetched from the hub: {error}") from error
        except EntryNotFoundError:
            continue
        except HfHubHTTPError as error:
            raise DataError(f"{repo} cannot be fetched from the hub: {error}") from error
    raise DataError(f"{repo} on the hub has none of the files {', '.join(names)}.")


def from_hub(load: Callable[..., T], repo: str, probe: str, revision: str | None = None, **options: Any) -> T:
    """`load(repo, ...)`, one of transformers' `from_pretrained`: from the cache if `probe` is there, else by network.

    Raises SetupError if something is not cached and cannot be fetched, DataError if the hub has no such repository.
    """
    from huggingface_hub import try_to_load_from_cache

    remedy = f"Where there is a network, run `hf download {repo}`, or give a local folder."
    what = repo
    if isinstance(try_to_load_from_cache(repo, probe, revision=revision), str):
        try:
            return load(repo, revision=revision, local_files_only=True, **options)
        except (OSError, ValueError) as error:  # cached in part only, most likely: go on by network
            what = f"{repo} cannot be loaded from what is cached ({str(error).splitlines()[0]}); the rest of it"
    require_network(what, remedy)
    try:
        return load(repo, revision=revision, **options)
    except (OSError, ValueError) as error:
        raise DataError(f"{repo} cannot be loaded from the hub: {error}") from error
