"""Files of the Hugging Face hub: from the cache, else fetched, else told at once that they cannot be."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeVar

from huggingface_hub import hf_hub_download, try_to_load_from_cache

from modbridge.errors import DataError, SetupError
from modbridge.hub import no_network

T = TypeVar("T")


def require_network(what: str, remedy: str, url: str | None = None) -> None:
    """Raise SetupError unless `what` can be fetched from `url` (the hub)."""
    reason = no_network(url)
    if reason:
        raise SetupError(f"{what} is not in the cache, and {reason}. {remedy}")


def hub_file(repo: str, names: Sequence[str], revision: str | None = None) -> Path:
    """The first of a repository's files `names` that there is, from the cache or else from the hub.

    Raises SetupError if it is not cached and the hub cannot be reached, DataError if the hub has none of them.
    """
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
