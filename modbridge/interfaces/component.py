"""What every built component has in common: its config, its surroundings, and how it is saved and loaded."""

from __future__ import annotations

import inspect
from abc import ABC
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Generic, TypeVar

import torch

from modbridge.config.component import ComponentConfig
from modbridge.errors import ArtefactError, PluginError
from modbridge.spaces import Port

ConfigT = TypeVar("ConfigT", bound=ComponentConfig)


@dataclass(frozen=True, kw_only=True)
class BuildContext:
    """What the core gives a component when it builds it.

    `ports`: the ports it stands at, by name. A prior gets "text"; a bridge "text" and "source"; a decoder "text" (the
    vectors it is trained on). Dimensions are read from them, never typed.
    `parts`: its nested components, built, by the name of the config field that holds them.
    `artefact`: the folder that it will be loaded from, so that it needs to fetch nothing that lies there; None where it
    will be fitted.
    """

    device: torch.device = field(default_factory=lambda: torch.device("cpu"))
    seed: int = 0
    ports: Mapping[str, Port] = field(default_factory=dict)
    parts: Mapping[str, Component[Any]] = field(default_factory=dict)
    artefact: Path | None = None

    def dim(self, port: str = "text") -> int:
        """The dimension at a port, which a component may rely on once it is built."""
        dim = self.ports[port].space.dim
        if dim is None:
            raise ArtefactError(f"the dimension of {self.ports[port]} is not known; give the data that fix it.")
        return dim


class Component(ABC, Generic[ConfigT]):
    """Base of encoders, priors, bridges and decoders.

    A component is built from its config and context alone, then either fitted or loaded. Override `modules` to name the
    trained modules, or `tensors`/`load_tensors` for plain tensors; `save_extra`/`load_extra` for JSON or tokenizer
    files beside them. Nothing pickled is ever written.
    """

    fitted_as: str | None = None
    """The key of the artefact that it was loaded from, of a shared component that the run trained."""

    def __init__(self, config: ConfigT, context: BuildContext) -> None:
        self.config = config
        self.context = context
        self.device = context.device

    def modules(self) -> dict[str, torch.nn.Module]:
        """The modules whose parameters the artefact keeps, by name."""
        return {}

    def tensors(self) -> dict[str, torch.Tensor]:
        """Everything the artefact keeps, flat. By default the state of `modules()`."""
        return {
            f"{name}.{key}": value
            for name, module in self.modules().items()
            for key, value in module.state_dict().items()
        }

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        """Take up what `tensors()` gave. Raises ArtefactError on a missing, extra or misshapen tensor."""
        wanted = {key: tuple(value.shape) for key, value in Component.tensors(self).items()}
        found = {key: tuple(value.shape) for key, value in tensors.items()}
        if wanted != found:
            missing, extra = sorted(wanted.keys() - found.keys()), sorted(found.keys() - wanted.keys())
            shapes = [f"{k} {found[k]} for {wanted[k]}" for k in wanted.keys() & found.keys() if wanted[k] != found[k]]
            raise ArtefactError(
                f"the stored weights are not those of {self.config.type}: missing {missing[:3]}, unknown {extra[:3]}, "
                f"of another shape {sorted(shapes)[:3]}. They were saved under another config."
            )
        for name, module in self.modules().items():
            prefix = f"{name}."
            state = {key.removeprefix(prefix): value for key, value in tensors.items() if key.startswith(prefix)}
            module.load_state_dict(state)

    def save_extra(self, folder: Path) -> None:
        """Write what is not a tensor (tokenizer files, vocabularies) as JSON or text."""

    def load_extra(self, folder: Path) -> None:
        """Read what `save_extra` wrote; called before `load_tensors`."""

    def frozen(self) -> dict[str, str]:
        """Models of its own that it took from elsewhere and does not keep, by name: a hub's id and revision, or the
        digest of a folder. The artefact names them, and is refused where they are others."""
        return {}

    def identity(self) -> str | None:
        """Whose weights these are, for a component that is written into no artefact of those that hold it (`shared`):
        as in `frozen`. By default the key of its own artefact, where a run trained it; None where there is none."""
        return self.fitted_as

    def parameter_count(self) -> int:
        """The number of trainable numbers in `modules()`."""
        return sum(p.numel() for module in self.modules().values() for p in module.parameters())


def require_takes_mask(function: Callable[..., Any], who: str) -> None:
    """Raise PluginError unless a method that is given ragged sequences takes their mask as `mask=`."""
    known = inspect.signature(function).parameters
    if "mask" not in known and not any(parameter.kind is parameter.VAR_KEYWORD for parameter in known.values()):
        name = getattr(function, "__name__", "a method")
        raise PluginError(
            f"the config of {who} takes sequences of different lengths, but its {name} takes no `mask`. Add "
            f"`mask: torch.Tensor | None = None`, bool (B, n), to it, or refuse ragged ports in the config."
        )
