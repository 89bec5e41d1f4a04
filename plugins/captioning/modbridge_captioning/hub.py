"""Models of the Hugging Face hub: from the cache, else fetched, else told at once that they cannot be."""

from __future__ import annotations

import ssl
import threading
import urllib.error
import urllib.request
from collections.abc import Callable, Sequence
from typing import TypeVar

from huggingface_hub import constants, try_to_load_from_cache

from modbridge.errors import SetupError

PROBE_SECONDS = 5.0
T = TypeVar("T")


def from_hub(load: Callable[[bool], T], repo: str, probes: Sequence[str], what: str) -> T:
    """`load(local_files_only)` of transformers, from the cache alone if one of the files `probes` is there, else by
    network.

    Raises SetupError if it would have to be fetched and cannot be; else what `load` raises.
    """
    if any(isinstance(try_to_load_from_cache(repo, name), str) for name in probes):
        try:
            return load(True)
        except (OSError, ValueError):  # cached in part only, most likely: go on by network
            require_network(f"the {what} {repo!r} cannot be loaded from what is cached", repo)
    else:
        require_network(f"the {what} {repo!r} is neither a folder here nor in the cache", repo)
    return load(False)


def require_network(problem: str, repo: str) -> None:
    """Raise SetupError unless the hub answers. Its own client tries again for 23 s, or for twice that."""
    if constants.HF_HUB_OFFLINE:
        reason = "HF_HUB_OFFLINE forbids to fetch it"
    elif not _reachable(constants.ENDPOINT):
        reason = f"{constants.ENDPOINT} does not answer"
    else:
        return
    raise SetupError(
        f"{problem}, and {reason}. Check the spelling; where there is a network, fetch it beforehand with "
        f"`hf download {repo}`; or give the path of a local copy."
    )


def _reachable(url: str) -> bool:
    """Whether a server answers within a few seconds."""
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
