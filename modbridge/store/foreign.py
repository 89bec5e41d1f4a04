"""Files that others wrote with torch.save, read without running what a pickle may hold."""

from __future__ import annotations

import pickle
from pathlib import Path
from typing import Any

import torch

from modbridge.errors import DataError


def read_torch_file(file: Path) -> Any:
    """What a file of torch.save holds, on the CPU.

    Raises DataError if it is missing, broken, or holds more than tensors and plain values.
    """
    try:
        return torch.load(file, map_location="cpu", weights_only=True)
    except FileNotFoundError:
        raise DataError(f"there is no file {file}.") from None
    except (RuntimeError, OSError, EOFError, pickle.UnpicklingError, ValueError, KeyError, AttributeError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0].partition(". ")[0][:160]
        raise DataError(
            f"{file} cannot be read as a torch file of tensors ({reason}). "
            f"It is cut short, of another kind, or holds objects that only running its code would make."
        ) from None
