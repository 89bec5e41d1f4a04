"""Configs of the sources that read many items from few files. Loads neither torch nor numpy."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, PositiveInt, model_validator

from modbridge.builtin.source_config import EXTENSIONS, MediaSourceConfig
from modbridge.config.component import Affects


def _some(path: str | tuple[str, ...]) -> str | tuple[str, ...]:
    if not path or not all(path):
        raise ValueError("it names no file; give a file, a pattern such as part-{000..041}.tar or *.tar, or a list")
    return path


Files = Annotated[str | tuple[str, ...], AfterValidator(_some)]


class ShardedConfig(MediaSourceConfig):
    """What sources of images in shards have in common.

    `path`: a file, a pattern (`data/{00000..04095}.tar`, `data/*.tar`), or a list of these; files that a `*` finds come
    in the order of their names, all others as they are written. `missing: skip` leaves out files that are missing or
    broken, and lists them in the source's `skipped`. With `rows` or `limit` files behind the last item that they take
    are not looked at.
    """

    path: Files

    @model_validator(mode="after")
    def _of_images(self) -> ShardedConfig:
        if self.modality != "image":
            raise ValueError(f"this source reads images; found `modality: {self.modality}`. Unpack other media first")
        return self

    @property
    def stop(self) -> int | None:
        """How many items are looked for; None: all."""
        start, stop = self.rows or (0, None)
        ends = [end for end in (stop, None if self.limit is None else start + self.limit) if end is not None]
        return min(ends, default=None)


class WebdatasetConfig(ShardedConfig):
    """Tar files in the form of webdataset: KEY.jpg, KEY.txt, KEY.json ... lie one after another.

    `extensions`: which members are images, in small letters; by default those of images. `captions`: ".txt" (or another
    extension) reads them from that member, one caption a line; a name without a dot is the field of KEY.json with a
    caption or a list of them; null reads none. `missing: skip` leaves out items, too, whose member of captions is not
    there or holds no byte; one of blanks alone is found when it is read. `index`: the folder in which it is kept where
    each item lies, made when a shard is opened first; by default `shards` in the cache (MODBRIDGE_CACHE, or the
    user's), since shards often lie where nothing may be written.
    """

    extensions: tuple[str, ...] | None = None
    captions: str | None = ".txt"
    index: Annotated[str | None, Affects("nothing")] = None

    @model_validator(mode="after")
    def _extensions_have_dots(self) -> WebdatasetConfig:
        if self.extensions is not None and (not self.extensions or not all(e.startswith(".") for e in self.extensions)):
            raise ValueError('`extensions` holds at least one entry, each with its dot, like [".jpg", ".png"]')
        if self.captions == "":
            raise ValueError('`captions` is an extension (".txt"), a field of the .json member, or null')
        return self

    @property
    def suffixes(self) -> frozenset[str]:
        """The extensions of images, lower case."""
        return frozenset(e.lower() for e in self.extensions or EXTENSIONS["image"])

    @property
    def told_in(self) -> str | None:
        """The extension of the members with captions."""
        if self.captions is None or self.captions.startswith("."):
            return self.captions and self.captions.lower()
        return ".json"

    @property
    def captioned(self) -> bool:
        return self.captions is not None


class ParquetConfig(ShardedConfig):
    """Parquet files with a column of images. Needs the extra `modbridge[parquet]`.

    `image`: that column. It holds files' bytes (JPEG, PNG ...), structs {bytes, path} as Hugging Face's data sets do,
    or with `shape` bare pixels: uint8 in the order of `shape`, [3, H, W] or [H, W, 3], as bytes or as lists.
    `captions`: the column with a caption or a list of them, in every row; null if there are none. `key`: the column
    with the items' ids; by default they are called FILE-ROW. A process that reads holds 8 row groups of the image
    column at most, so these should be small (100 to 1,000 images).
    """

    image: str = "image"
    shape: tuple[PositiveInt, PositiveInt, PositiveInt] | None = None
    captions: str | None = "caption"
    key: str | None = None

    @model_validator(mode="after")
    def _pixels_have_three_colours(self) -> ParquetConfig:
        if self.shape is not None and 3 not in (self.shape[0], self.shape[2]):
            raise ValueError(f"`shape` is [3, H, W] or [H, W, 3]; found {list(self.shape)}")
        return self

    @property
    def captioned(self) -> bool:
        return self.captions is not None
