"""Texts as RoBERTa's tokens, from a local folder or the hub's cache."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import snapshot_download, try_to_load_from_cache
from huggingface_hub.errors import LocalEntryNotFoundError
from transformers import RobertaTokenizer

from modbridge.errors import ArtefactError, SetupError
from modbridge.hub import from_hub, require_network

REPOSITORIES = ("roberta-base", "FacebookAI/roberta-base")  # the same one, by its former and its present name


class RobertaTokens:
    """A text as int64 (L,): start, tokens, end; at most `longest` of them.

    `folder`: one in the hub's cache layout; None for the hub's own cache, and the hub. Raises SetupError if the
    tokenizer is not there and cannot be fetched, ArtefactError if it is not of `vocabulary` tokens.
    """

    def __init__(self, folder: str | None, vocabulary: int, longest: int) -> None:
        tokenizer: Any = _from_hub() if folder is None else _from_folder(Path(folder).expanduser())
        if len(tokenizer) != vocabulary:
            raise ArtefactError(
                f"the tokenizer roberta-base in {folder or 'the cache of the hub'} has {len(tokenizer)} tokens, the "
                f"text tower {vocabulary}: its files are incomplete or another model's. {_remedy(folder)}"
            )
        self._tokenizer, self._longest = tokenizer, longest
        self.pad = int(tokenizer.pad_token_id)

    def __call__(self, text: str) -> torch.Tensor:
        ids = self._tokenizer(text, truncation=True, max_length=self._longest)["input_ids"]
        return torch.tensor(ids, dtype=torch.int64)

    def batch(self, texts: Sequence[torch.Tensor]) -> dict[str, torch.Tensor]:
        """Token ids of several texts (B, L), as long as the longest, with their mask."""
        rows = torch.nn.utils.rnn.pad_sequence(list(texts), batch_first=True, padding_value=self.pad)
        lengths = torch.tensor([len(ids) for ids in texts])
        return {"input_ids": rows, "attention_mask": (torch.arange(rows.shape[1]) < lengths[:, None]).long()}


def _from_folder(folder: Path) -> Any:
    for repository in REPOSITORIES:
        try:
            files = snapshot_download(repository, cache_dir=folder, local_files_only=True)
        except (LocalEntryNotFoundError, ValueError, OSError):
            continue
        return _load(files, str(folder), local_files_only=True)
    found = "no such folder" if not folder.is_dir() else "no models--roberta-base with a snapshot in it"
    raise SetupError(f"tokenizers {folder}: {found}. {_remedy(str(folder))}")


def _from_hub() -> Any:
    for repository in REPOSITORIES:
        for name in ("tokenizer.json", "vocab.json"):
            if isinstance(try_to_load_from_cache(repository, name), str):
                return from_hub(RobertaTokenizer.from_pretrained, repository, name)
    require_network("the tokenizer roberta-base", _remedy(None))
    return from_hub(RobertaTokenizer.from_pretrained, REPOSITORIES[0], "vocab.json")


def _load(files: str, name: str, **options: Any) -> Any:
    try:
        return RobertaTokenizer.from_pretrained(files, **options)
    except Exception as error:  # missing and damaged files, in many ways
        raise ArtefactError(f"the tokenizer in {name} cannot be loaded: {error}. {_remedy(name)}") from error


def _remedy(folder: str | None) -> str:
    target = folder or "FOLDER"
    return (
        f"Where there is a network, run `hf download roberta-base tokenizer.json vocab.json merges.txt "
        f"tokenizer_config.json config.json --cache-dir {target}`, "
        + ("and give `tokenizers: FOLDER`." if folder is None else "and copy the folder here.")
    )
