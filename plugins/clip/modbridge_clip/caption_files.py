"""The three layouts in which COCO's and Flickr30k's captions are passed on, read into one list of entries."""

from __future__ import annotations

import gzip
import json
from collections import Counter, defaultdict
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from modbridge.errors import DataError


@dataclass(frozen=True, slots=True)
class Entry:
    """One image: its file name, the subfolder it is shipped in ("" if none), its captions, and its split if the file
    says so."""

    name: str
    folder: str
    captions: tuple[str, ...]
    split: str | None = None


def read_captions(
    path: Path, layout: str = "auto", split: str | None = None, dataset: str | None = None
) -> list[Entry]:
    """The entries of a captions file (.gz or plain), in its order.

    `split`: one split or several joined by "+". `dataset`: what a file in Karpathy's layout must say it holds, if it
    says so. Raises DataError for a missing or malformed file, another dataset, an unknown split, and a file of several
    splits of which none was chosen.
    """
    text = _read(path)
    try:
        found = layout if layout != "auto" else _detect(text, path)
        entries = list({"karpathy": _karpathy, "official": _official, "jsonl": _jsonl}[found](text))
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        what = f"no {error}" if isinstance(error, KeyError) else str(error)
        raise DataError(
            f"captions {path}: not of the layout {layout!r} ({what}). Set `layout`, or give another file."
        ) from error
    if dataset is not None and (held := json.loads(text).get("dataset", dataset)) != dataset:
        raise DataError(
            f"captions {path} hold the dataset {held!r}, expected {dataset!r}. Give dataset_{dataset}.json."
        )
    return _chosen(entries, split, path)


def _read(path: Path) -> str:
    try:
        data = path.read_bytes()
        return (gzip.decompress(data) if data[:2] == b"\x1f\x8b" else data).decode("utf-8")
    except FileNotFoundError:
        raise DataError(f"captions {path}: no such file.") from None
    except (OSError, EOFError, UnicodeDecodeError) as error:
        raise DataError(f"captions {path}: cannot be read ({error}). Fetch the file again.") from error


def _detect(text: str, path: Path) -> str:
    first = text.lstrip().split("\n", 1)[0]
    try:
        line = json.loads(first)
    except ValueError:
        line = None
    if isinstance(line, dict) and "captions" in line:
        return "jsonl"
    whole = json.loads(text)
    if isinstance(whole, dict) and isinstance(whole.get("images"), list):
        if "annotations" in whole:
            return "official"
        if whole["images"] and "sentences" in whole["images"][0]:
            return "karpathy"
    raise DataError(
        f"captions {path}: none of the known layouts: Karpathy's (images with sentences), COCO's (images and "
        f"annotations), or one {{image, captions}} object a line."
    )


def _karpathy(text: str) -> Iterator[Entry]:
    for image in json.loads(text)["images"]:
        sentences = tuple(sentence["raw"].strip() for sentence in image["sentences"])
        yield Entry(image["filename"], image.get("filepath", ""), sentences, image["split"])


def _official(text: str) -> Iterator[Entry]:
    whole = json.loads(text)
    captions: defaultdict[Any, list[tuple[Any, str]]] = defaultdict(list)
    for annotation in whole["annotations"]:
        captions[annotation["image_id"]].append((annotation["id"], annotation["caption"].strip()))
    for image in whole["images"]:
        yield Entry(image["file_name"], "", tuple(caption for _, caption in sorted(captions[image["id"]])))


def _jsonl(text: str) -> Iterator[Entry]:
    for number, line in enumerate(text.splitlines(), 1):
        if not line.strip():
            continue
        try:
            item = json.loads(line)
            captions = item["captions"]
            if not isinstance(captions, list) or not all(isinstance(caption, str) for caption in captions):
                raise ValueError(f"captions {captions!r}, expected a list of texts")
            name = Path(item["image"])
        except (ValueError, KeyError, TypeError) as error:
            what = f"no {error}" if isinstance(error, KeyError) else str(error)
            raise ValueError(f"line {number}: {what}") from error
        folder = "" if name.parent == Path() else str(name.parent)
        yield Entry(name.name, folder, tuple(caption.strip() for caption in captions), item.get("split"))


def _chosen(entries: list[Entry], split: str | None, path: Path) -> list[Entry]:
    counts = Counter(entry.split for entry in entries)
    named = ", ".join(f"{name} ({count})" for name, count in sorted(counts.items(), key=str) if name is not None)
    if split is None:
        if len(counts) > 1:
            raise DataError(
                f"captions {path} hold several splits: {named}. Set `split` to one, or to several joined by '+'."
            )
        return entries
    if not named:
        raise DataError(f"captions {path} do not say which split an image belongs to: remove `split: {split}`.")
    wanted = split.split("+")
    unknown = [name for name in wanted if name not in counts]
    if unknown:
        raise DataError(f"captions {path}: no split {unknown[0]!r}; found {named}.")
    return [entry for entry in entries if entry.split in wanted]
