"""Reading the ViECap authors' checkpoint: their soft prompt and their language model, apart.

The file (ViECap at 7c16a78, one an epoch, `...-0014.pt`) is the bare state of their captioning model: `gpt.*` is
transformers' language model, `mapping_network.*` ClipCap's transformer. Its sizes are read off the tensors; how many
heads attend, and whether words or vectors come first, no tensor says.
"""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from modbridge.errors import ArtefactError
from modbridge.interfaces import Decoder
from modbridge.store.foreign import read_torch_file

MAPPER, LM = "mapping_network.", "gpt."
_PARALLEL = "module."  # before every name where the model was saved inside torch's DataParallel
_LAYER = "transformer.layers."
# Older versions of transformers wrote these beside GPT-2's weights. Both are constants.
_STALE = re.compile(rf"{re.escape(LM)}(transformer\.h\.\d+\.attn\.)(bias|masked_bias)")


@dataclass(frozen=True)
class Checkpoint:
    """`mapper`: the state of the soft prompt, without the authors' grouping of a block's layers (`attn.`, `mlp.`).
    `lm`: the language model's, under transformers' names. `stale`: names of the constants that were left out.

    `dim`: of the vectors. `width`: of the language model's embeddings. `projected`: how many of those a vector becomes.
    `length`: how many the prefix has. `layers`, `hidden`: of the transformer.
    """

    mapper: dict[str, torch.Tensor]
    lm: dict[str, torch.Tensor]
    stale: tuple[str, ...]
    dim: int
    width: int
    projected: int
    length: int
    layers: int
    hidden: int

    @property
    def ratio(self) -> float:
        """Hidden width by width, such that their product, rounded down, is the hidden width again."""
        found = self.hidden / self.width
        return found if int(self.width * found) == self.hidden else math.nextafter(found, math.inf)


def read_checkpoint(file: Path) -> Checkpoint:
    """What a checkpoint of the authors holds, as float32.

    Raises DataError for a file that cannot be read as tensors; ArtefactError for one that holds anything else than
    their model, in which the soft prompt has names or shapes of another, or a weight is no finite number.
    """
    state = _state_of(file)
    stale = tuple(name for name in state if _is_stale(name, state))
    kept = {name: value for name, value in state.items() if name not in stale}
    foreign = [name for name in kept if not name.startswith((MAPPER, LM))]
    if foreign:
        raise ArtefactError(
            f"{file} holds {_few(foreign)}; expected names under {MAPPER} and {LM} alone, as the authors have."
        )
    parts = {
        part: {name.removeprefix(part): value for name, value in kept.items() if name.startswith(part)}
        for part in (MAPPER, LM)
    }
    for part, found in parts.items():
        if not found:
            raise ArtefactError(f"{file} holds nothing under {part}; found {_few(kept)}. It is no ViECap checkpoint.")
    broken = [name for name, value in kept.items() if not bool(torch.isfinite(value).all())]
    if broken:
        raise ArtefactError(f"{file}: {len(broken)} tensors hold NaN or infinity, the first {broken[0]}.")
    clean = {part: {name: value.float() for name, value in found.items()} for part, found in parts.items()}
    sizes = _sizes(parts[MAPPER], file)
    mapper = {_flat(name): value for name, value in clean[MAPPER].items()}
    return Checkpoint(mapper=mapper, lm=clean[LM], stale=stale, **sizes)


def fill(writer: Decoder[Any], found: Checkpoint, *, file: str, lm: str) -> None:
    """Load a checkpoint into a `prefix_lm` that was built for it; its soft prompt only where the writer has one.

    Raises ArtefactError, naming `file` and `lm`, if the language model in it is not of the kind of `lm`.
    """
    inner: Any = writer.modules()["lm"]
    words = inner.get_input_embeddings().weight
    name = next(name for name, value in inner.named_parameters() if value is words)
    if name in found.lm and found.lm[name].shape != words.shape:
        sizes = [" tokens of width ".join(map(str, table.shape)) for table in (found.lm[name], words)]
        raise ArtefactError(
            f"{file} holds a language model with {sizes[0]}, but {lm!r} has {sizes[1]}. Give the one that it was "
            f"trained with by --lm."
        )
    shapes = {name: tuple(value.shape) for name, value in inner.state_dict().items()}
    _require_shapes(found.lm, shapes, LM, f"{file} holds another language model than {lm!r}, given by --lm")
    given = {f"mapper.{name}": value for name, value in found.mapper.items()}
    given |= {f"lm.{name}": value for name, value in found.lm.items()}
    kept = writer.tensors()
    writer.load_tensors({name: value for name, value in given.items() if name in kept})
    for name, value in inner.state_dict().items():
        if not torch.equal(value, found.lm[name]):
            raise ArtefactError(
                f"{LM}{name} of {file} is another tensor than the one that it is tied to in {lm!r}; expected one and "
                f"the same. Give the language model that it was trained with by --lm."
            )


def _state_of(file: Path) -> dict[str, torch.Tensor]:
    """The file's tensors by name, without DataParallel's prefix."""
    content = read_torch_file(file)
    if not isinstance(content, dict) or not content or not all(isinstance(name, str) for name in content):
        raise ArtefactError(f"{file} holds {type(content).__name__}; expected a model's state, tensors by their names.")
    others = [name for name, value in content.items() if not isinstance(value, torch.Tensor)]
    if others:
        raise ArtefactError(
            f"{file} holds {_few(others)}, which are no tensors; expected the bare state of the authors' model."
        )
    if all(name.startswith(_PARALLEL) for name in content):
        content = {name.removeprefix(_PARALLEL): value for name, value in content.items()}
    return dict(content)


def _is_stale(name: str, state: Mapping[str, torch.Tensor]) -> bool:
    """Whether it is one of old GPT-2's constants: the causal mask (1, 1, n, n), or the number where it masks. Their
    values are looked at too, since a weight may never get lost."""
    found = _STALE.fullmatch(name)
    if found is None or f"{LM}{found[1]}c_attn.weight" not in state:
        return False
    value = state[name]
    if found[2] == "masked_bias":
        return value.ndim == 0 and float(value) == -1e4
    if value.ndim != 4 or value.shape[:2] != (1, 1) or value.shape[2] != value.shape[3]:
        return False
    return torch.equal(value[0, 0].bool(), torch.ones(value.shape[2:], dtype=torch.bool).tril())


def _flat(name: str) -> str:
    """The name of a tensor of the soft prompt without the authors' grouping."""
    if not name.startswith(_LAYER):
        return name
    number, _, rest = name.removeprefix(_LAYER).partition(".")
    return f"layers.{number}.{rest.removeprefix('attn.').removeprefix('mlp.')}"


def _sizes(state: Mapping[str, torch.Tensor], file: Path) -> dict[str, int]:
    """The sizes of the soft prompt, read off its tensors and then checked against every name and shape."""
    other = f"{file} holds another soft prompt than the authors' transformer"
    first = f"{_LAYER}0.mlp.fc1.weight"
    for name in ("linear.weight", "prefix_const", first):
        if name not in state or state[name].ndim != 2:
            found = f"{MAPPER}{name} has shape {tuple(state[name].shape)}" if name in state else f"no {MAPPER}{name}"
            raise ArtefactError(f"{other}: {found}; found {_few(f'{MAPPER}{each}' for each in state)}.")
    (length, width), (rows, dim) = state["prefix_const"].shape, state["linear.weight"].shape
    if not length or not width or not rows or rows % width:
        raise ArtefactError(
            f"{other}: {MAPPER}linear.weight gives {rows} numbers, expected a multiple of {width}, the width of "
            f"{MAPPER}prefix_const."
        )
    hidden = state[first].shape[0]
    numbers = {name.removeprefix(_LAYER).partition(".")[0] for name in state if name.startswith(_LAYER)}
    layers = len(numbers)
    block = {
        **{f"{norm}.{kind}": (width,) for norm in ("norm1", "norm2") for kind in ("weight", "bias")},
        "attn.to_queries.weight": (width, width),
        "attn.to_keys_values.weight": (2 * width, width),
        "attn.project.weight": (width, width),
        "attn.project.bias": (width,),
        "mlp.fc1.weight": (hidden, width),
        "mlp.fc1.bias": (hidden,),
        "mlp.fc2.weight": (width, hidden),
        "mlp.fc2.bias": (width,),
    }
    wanted: dict[str, tuple[int, ...]] = {
        "linear.weight": (rows, dim),
        "linear.bias": (rows,),
        "prefix_const": (length, width),
        **{f"{_LAYER}{number}.{name}": shape for number in range(layers) for name, shape in block.items()},
    }
    _require_shapes(state, wanted, MAPPER, other)
    return {
        "dim": dim,
        "width": width,
        "projected": rows // width,
        "length": length,
        "layers": layers,
        "hidden": hidden,
    }


def _require_shapes(
    found: Mapping[str, torch.Tensor], wanted: Mapping[str, tuple[int, ...]], part: str, what: str
) -> None:
    """Raise ArtefactError, naming them, for tensors that are missing, unknown or of another shape than `wanted`.

    `part`: what their names begin with in the file. `what`: whose they are, and of what they should have been.
    """
    shapes = {name: tuple(value.shape) for name, value in found.items()}
    told = []
    for kind, names in (("missing", wanted.keys() - shapes.keys()), ("unknown", shapes.keys() - wanted.keys())):
        if names:
            told.append(f"{kind}: {_few(f'{part}{name}' for name in names)}")
    other = sorted(name for name in wanted.keys() & shapes.keys() if wanted[name] != shapes[name])
    if other:
        told.append("of another shape: " + _few(f"{part}{name} {shapes[name]} for {wanted[name]}" for name in other))
    if told:
        raise ArtefactError(f"{what}; {'; '.join(told)}.")


def _few(names: Iterable[str]) -> str:
    """The first of some names, and how many more there are."""
    listed = sorted(names)
    return ", ".join(listed[:3]) + (f" and {len(listed) - 3} more" if len(listed) > 3 else "")
