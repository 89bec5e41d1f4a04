"""The registry: which components there are, and where their code is.

A registry is an object; tests make their own. It holds strings until a component is asked for.
"""

from __future__ import annotations

import difflib
import importlib
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from modbridge.errors import ConfigError, PluginError, Problem, SetupError
from modbridge.plugins.containment import off_stdout

KINDS = ("encoder", "prior", "bridge", "decoder", "source", "vocabulary", "metric", "engine", "objective", "judge")

# Distributions that would change the versions of others beside them.
APART: Mapping[str, str] = {
    "modbridge-laion-clap": "it takes numpy below 2, hence an environment of its own (plugins/laion_clap/README.md)"
}
# Where the parts of a config that asks for them come from, when they are not installed.
FIRST_PARTY: Mapping[tuple[str, str], str] = {
    ("encoder", "open_clip"): "modbridge-clip",
    ("encoder", "hf_clip"): "modbridge-clip",
    ("encoder", "hf_clap"): "modbridge-clap",
    ("encoder", "laion_clap"): "modbridge-laion-clap",
    ("source", "coco_captions"): "modbridge-clip",
    ("source", "flickr30k"): "modbridge-clip",
    ("source", "audiocaps"): "modbridge-clap",
    ("source", "clotho"): "modbridge-clap",
    ("prior", "ddpm"): "modbridge-diffusion",
    ("bridge", "diffusion_bridge"): "modbridge-diffusion",
    ("prior", "link_ddpm"): "modbridge-diffusion",
    ("bridge", "diffusion_link"): "modbridge-diffusion",
    ("decoder", "prefix_lm"): "modbridge-captioning",
    ("decoder", "viecap"): "modbridge-viecap",
    ("vocabulary", "coco"): "modbridge-viecap",
    ("vocabulary", "audioset"): "modbridge-viecap",
    ("vocabulary", "visual_genome"): "modbridge-viecap",
    ("vocabulary", "vinvl"): "modbridge-viecap",
    ("vocabulary", "open_images"): "modbridge-viecap",
    ("vocabulary", "names"): "modbridge-viecap",
    ("metric", "entities"): "modbridge-viecap",
    ("metric", "chair"): "modbridge-viecap",
    ("metric", "bleu"): "modbridge-metrics",
    ("metric", "rouge_l"): "modbridge-metrics",
    ("metric", "cider"): "modbridge-metrics",
    ("metric", "meteor"): "modbridge-metrics",
    ("metric", "spice"): "modbridge-metrics",
    ("metric", "cider_d"): "modbridge-metrics",
    ("metric", "spider"): "modbridge-metrics",
    ("metric", "spider_fl"): "modbridge-metrics",
    ("metric", "fense"): "modbridge-metrics",
    ("metric", "vocab"): "modbridge-metrics",
    ("metric", "text_vqa"): "modbridge-metrics",
    ("metric", "judged"): "modbridge-metrics",
    ("metric", "fid"): "modbridge-vlv",
    ("metric", "clip_score"): "modbridge-vlv",
    ("metric", "repainted"): "modbridge-vlv",
    ("judge", "lm_judge"): "modbridge-captioning",
    ("engine", "ray"): "modbridge-ray",
    ("objective", "diffusion_teacher"): "modbridge-vlv",
    ("encoder", "query_encoder"): "modbridge-vlv",
    ("encoder", "florence2_query"): "modbridge-vlv",
    ("bridge", "soft_context"): "modbridge-vlv",
    ("decoder", "diffusion_painter"): "modbridge-vlv",
}


@dataclass(frozen=True, slots=True, kw_only=True)
class ComponentSpec:
    """One component, announced by strings so that discovery stays light.

    `config` and `impl`: "package.module:Class"; the first imports neither torch nor transformers.
    `example`: a tiny config that builds offline, which the conformance checks use.
    `example_from`: "package.module:function" for components that read files: given an empty folder, it writes them
    there and gives the example that reads them; the checks use it in place of `example`.
    `revision`: raise it when the component's results change, so that cached results are made anew.
    `requires`: distributions it needs beyond its plugin's own dependencies, for messages.
    `plugin`, `code`: filled in by the core: which plugin it is of, and of a plugin that is a single file its hash.
    `importer`: "package.module:command", a click command that reads its authors' published weights, for `modbridge
    import-weights NAME`; "" where there is none.
    """

    kind: str
    name: str
    config: str
    impl: str
    summary: str
    example: Mapping[str, Any] = field(default_factory=dict)
    revision: int = 1
    requires: tuple[str, ...] = ()
    plugin: str = ""
    importer: str = ""
    example_from: str = ""
    code: str = ""

    @property
    def identity(self) -> list[str | int]:
        """Whose results these are, for cache keys."""
        return [self.plugin, self.name, self.revision, self.code]

    def load_config(self) -> type[Any]:
        return self._load(self.config, "modbridge.config.component", "ComponentConfig")

    def load_impl(self) -> type[Any]:
        return self._load(self.impl, f"modbridge.interfaces.{self.kind}", self.kind.title())

    def load_importer(self) -> Any:
        return self._load(self.importer)

    def load_example_from(self) -> Callable[[Path], Mapping[str, Any]]:
        return self._load(self.example_from)

    def _load(self, target: str, home: str = "", base: str = "") -> type[Any]:
        """What `target` names: a subclass of the class `base` of the module `home`, unless that is ""."""
        module, _, name = target.partition(":")
        who = f"the {self.kind} {self.name!r} of plugin {self.plugin!r}"
        try:
            with off_stdout(self.plugin):
                found: type[Any] = getattr(importlib.import_module(module), name)
        except ModuleNotFoundError as error:
            if error.name and f"{module}.".startswith(f"{error.name}."):
                raise PluginError(f"{who} names {target}, and there is no module {error.name!r}.") from error
            needs = f" It needs {', '.join(self.requires)}." if self.requires else ""
            raise SetupError(
                f"{who} cannot be imported: no module {error.name!r}.{needs} Install what is missing into this "
                f"environment."
            ) from error
        except (Exception, SystemExit) as error:
            raise PluginError(f"{who} cannot be imported from {target}: {type(error).__name__}: {error}") from error
        # By name: this module must not import what it compares with, which needs pydantic or torch.
        if base and (home, base) not in [(c.__module__, c.__name__) for c in getattr(found, "__mro__", ())]:
            raise PluginError(f"{who} names {target}, which is {found!r}; expected a subclass of {home}.{base}.")
        return found


class Registry:
    """Components by kind and name."""

    def __init__(self) -> None:
        self._specs: dict[tuple[str, str], ComponentSpec] = {}
        self.broken: dict[str, str] = {}

    def take(self, specs: list[ComponentSpec]) -> None:
        """Add a plugin's components, all or none. Raises PluginError for an unknown kind or a name that is taken."""
        new: dict[tuple[str, str], ComponentSpec] = {}
        for spec in specs:
            if spec.kind not in KINDS:
                raise PluginError(f"it registers a {spec.kind!r}; the kinds are {', '.join(KINDS)}.")
            if (spec.kind, spec.name) in new:
                raise PluginError(f"it registers the {spec.kind} {spec.name!r} twice; give one of them another name.")
            taken = self._specs.get((spec.kind, spec.name))
            if taken:
                raise PluginError(
                    f"two plugins claim the {spec.kind} {spec.name!r}: {taken.plugin!r} has it, {spec.plugin!r} is "
                    f"refused. Switch one off with MODBRIDGE_DISABLE."
                )
            new[spec.kind, spec.name] = spec
        self._specs |= new

    @staticmethod
    def registrar(plugin: str, into: list[ComponentSpec], code: str = "") -> Callable[[ComponentSpec], None]:
        """A `register` function for one plugin's hook, which collects into a list for `take`."""

        def register(spec: ComponentSpec) -> None:
            if not isinstance(spec, ComponentSpec):
                raise PluginError(f"it registers {spec!r}; expected a ComponentSpec.")
            into.append(replace(spec, plugin=plugin, code=code))

        return register

    def __iter__(self) -> Iterator[ComponentSpec]:
        return iter(sorted(self._specs.values(), key=lambda spec: (KINDS.index(spec.kind), spec.name)))

    def names(self, kind: str) -> list[str]:
        return sorted(name for of, name in self._specs if of == kind)

    def find(self, kind: str, name: str) -> ComponentSpec | None:
        return self._specs.get((kind, name))

    def get(self, kind: str, name: str) -> ComponentSpec:
        """The component, or a ConfigError that says what there is, what was probably meant, and what to install."""
        spec = self.find(kind, name)
        if spec is None:
            raise ConfigError([Problem("", f"no such {kind}: {name!r}", hint=self.advice(kind, name))])
        return spec

    def advice(self, kind: str, name: str) -> str:
        """What to do about a name that is not registered."""
        parts = []
        close = difflib.get_close_matches(name, self.names(kind), n=3, cutoff=0.5)
        if close:
            parts.append(f"did you mean {' or '.join(map(repr, close))}?")
        home = FIRST_PARTY.get((kind, name))
        if home:
            remedy = APART.get(home, f"pip install {home}")
            parts.append(f"it is provided by {home}, which is not installed or was switched off: {remedy}")
        elsewhere = [of for of in KINDS if (of, name) in self._specs]
        if elsewhere:
            parts.append(f"{name!r} is a {elsewhere[0]}")
        parts.append(f"installed: {', '.join(self.names(kind)) or 'none'}")
        parts += [f"the plugin {plugin!r} is broken: {reason}" for plugin, reason in self.broken.items()]
        return "; ".join(parts)
