"""The shape of a stored array, from its file's header alone: neither numpy nor torch, and no data read."""

from __future__ import annotations

import ast
import json
import zipfile
from pathlib import Path
from typing import IO, Any

from modbridge.errors import ArtefactError, DataError

# What zipfile and the parsing of headers raise for a damaged file.
DAMAGE = (
    zipfile.BadZipFile,
    EOFError,
    OSError,
    ValueError,
    SyntaxError,
    LookupError,
    TypeError,
    AttributeError,
    NotImplementedError,
)


def array_shape(path: Path, name: str) -> tuple[int, ...]:
    """The shape of one array of a .npz or .safetensors file.

    Raises DataError for a file or array that isn't there, ArtefactError for a damaged file.
    """
    if suffix_of(path) == ".safetensors":
        entry = require(safetensors_header(path)[0], name, path)
        return tuple(entry["shape"])
    try:
        with zipfile.ZipFile(path) as archive:
            members = {member.removesuffix(".npy"): member for member in archive.namelist()}
            with archive.open(require(members, name, path)) as file:
                return _npy_shape(file)
    except DAMAGE as error:
        raise damaged(path, error) from error


def suffix_of(path: Path) -> str:
    """ ".npz" or ".safetensors". Raises DataError for another, or where there is no such file."""
    if path.suffix not in (".npz", ".safetensors"):
        raise DataError(
            f"{path}: stored vectors are read from .npz or .safetensors; found {path.suffix or 'no suffix'!r}."
        )
    if not path.is_file():
        raise DataError(f"{path}: no such file; give the `file` that holds the vectors.")
    return path.suffix


def safetensors_header(path: Path) -> tuple[dict[str, Any], dict[str, str]]:
    """(the entries by tensor name, the metadata). Raises ArtefactError if the file is damaged or cut short."""
    try:
        with path.open("rb") as file:
            length = int.from_bytes(file.read(8), "little")
            size = path.stat().st_size
            if not 2 <= length <= size - 8:
                raise ValueError(f"its header claims {length} bytes of a file of {size}")
            header = json.loads(file.read(length))
        metadata = header.pop("__metadata__", {})
        end = 8 + length + max((entry["data_offsets"][1] for entry in header.values()), default=0)
        if end != size:
            raise ValueError(f"its header speaks of {end} bytes, the file has {size}")
    except DAMAGE as error:
        raise damaged(path, error) from error
    return header, metadata


def require(found: dict[str, Any], name: str, path: Path) -> Any:
    """found[name]. Raises DataError that says what there is."""
    if name not in found:
        raise DataError(f"{path} holds no array {name!r}; it holds {', '.join(map(repr, sorted(found))) or 'nothing'}.")
    return found[name]


def damaged(path: Path, error: BaseException) -> ArtefactError:
    """The error for a file that cannot be read through."""
    return ArtefactError(f"{path} is damaged or cut short ({type(error).__name__}: {error}); fetch or make it again.")


def _npy_shape(file: IO[bytes]) -> tuple[int, ...]:
    """From the .npy header: magic, version, the header's length, then a Python literal."""
    if file.read(6) != b"\x93NUMPY":
        raise ValueError("an array in it is not in numpy's format")
    major = file.read(2)[0]
    length = int.from_bytes(file.read(2 if major == 1 else 4), "little")
    shape = ast.literal_eval(file.read(length).decode("latin1" if major < 3 else "utf-8"))["shape"]
    return tuple(int(n) for n in shape)
