"""Models of the Hugging Face hub: from the cache, else fetched, else told at once that they cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import TypeVar

from huggingface_hub import try_to_load_from_cache

from modbridge.hub import require_network

T = TypeVar("T")


def from_hub(load: Callable[[bool], T], repo: str, probes: Sequence[str], what: str) -> T:
    """`load(local_files_only)` of transformers, from the cache alone if one of the files `probes` is there, else by
    network.

    Raises SetupError if it would have to be fetched and cannot be; else what `load` raises.
    """
    remedy = (
        f"Check the spelling; where there is a network, fetch it beforehand with `hf download {repo}`; or give the "
        f"path of a local copy."
    )
    if any(isinstance(try_to_load_from_cache(repo, name), str) for name in probes):
        try:
            return load(True)
        except (OSError, ValueError):  # cached in part only, most likely: go on by network
            require_network(f"the {what} {repo!r} cannot be loaded from what is cached; the rest of it", remedy)
    else:
        require_network(f"the {what} {repo!r} is no folder here and", remedy)
    return load(False)
