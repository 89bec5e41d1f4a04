"""A folder of media files, with captions in .txt files beside them or none."""

from __future__ import annotations

from pathlib import Path

from modbridge.builtin.items import Item, ItemSource, path_keys, present, window
from modbridge.builtin.source_config import FolderConfig
from modbridge.errors import DataError


class FolderSource(ItemSource[FolderConfig]):
    """The files of a folder in the order of their names; hidden ones, and those in hidden folders, are left out.

    Ids are relative paths without suffix, or all with it where two files differ in nothing else. Raises DataError for a
    folder that isn't there or holds no items, and for missing or empty captions.
    """

    def __init__(self, config: FolderConfig) -> None:
        folder = Path(config.path).expanduser()
        where = f"the folder {folder}"
        if not folder.is_dir():
            raise DataError(f"{where} does not exist or is not a folder; give the `path` of an existing one.")
        names = _names(folder, config)
        if not names:
            depth = "at any depth" if config.recursive else "(not looking into its folders)"
            raise DataError(f"{where} holds no items: looked for {', '.join(sorted(config.suffixes))} {depth}.")
        chosen = window([*zip(path_keys(names), names, strict=True)], config, where)
        skipped: list[str] = []
        if config.captions == "sidecar":
            chosen, skipped = present(
                chosen, lambda pair: (folder / pair[1]).with_suffix(".txt"), config, where, "caption files"
            )
        items = [Item(key, folder / name, _captions(folder / name, config)) for key, name in chosen]
        super().__init__(config, items, skipped, where, "folder")


def _names(folder: Path, config: FolderConfig) -> list[str]:
    found = []
    for path in folder.rglob("*") if config.recursive else folder.glob("*"):
        name = path.relative_to(folder)
        if path.suffix.lower() in config.suffixes and not any(p.startswith(".") for p in name.parts) and path.is_file():
            found.append(name.as_posix())
    return sorted(found)


def _captions(file: Path, config: FolderConfig) -> tuple[str, ...]:
    if config.captions == "none":
        return ()
    sidecar = file.with_suffix(".txt")
    try:
        lines = sidecar.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{sidecar} cannot be read as UTF-8 text: {error}.") from error
    captions = tuple(line.strip() for line in lines if line.strip())
    if not captions:
        raise DataError(f"{sidecar} holds no caption; expected one caption a line.")
    return captions
