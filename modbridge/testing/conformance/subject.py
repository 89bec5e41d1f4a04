"""One component under test: its config from its example, built, fitted, and tried on toy data."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from typing import Any

import torch

from modbridge.assembly.build import Shared, build_component, build_metric
from modbridge.config.blocks import validate_block
from modbridge.errors import ModbridgeError, PortError
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.fitting import Fitting, TextVectors
from modbridge.interfaces.objective import Objective
from modbridge.plugins.registry import ComponentSpec
from modbridge.spaces import Embeddings, Port, Space
from modbridge.testing.conformance import toys
from modbridge.testing.conformance.fits import Watched
from modbridge.testing.conformance.offline import without_network
from modbridge.testing.conformance.outcome import Failed, NotRun
from modbridge.testing.conformance.trial import Trial
from modbridge.testing.fitting import MemoryFitting

DIM, TOKENS = 16, 4
SPACE = Space(id="conformance", dim=DIM)
FITTED_KINDS = ("encoder", "prior", "bridge", "decoder", "vocabulary", "objective")


class Subject:
    """A component under test, or, with no `spec`, its plugin as a whole. Everything is made when it is first asked
    for, and only once."""

    def __init__(self, trial: Trial, spec: ComponentSpec | None = None) -> None:
        self.trial = trial
        self._spec = spec

    @property
    def spec(self) -> ComponentSpec:
        assert self._spec is not None
        return self._spec

    @property
    def id(self) -> str:
        return f"plugin:{self.trial.plugin}" if self._spec is None else f"{self.spec.kind}:{self.spec.name}"

    @property
    def kind(self) -> str:
        return "plugin" if self._spec is None else self.spec.kind

    @cached_property
    def _example(self) -> dict[str, Any] | Failed:
        """The block that the component is tried with, or why it cannot be made."""
        if not self.spec.example_from:
            return {"type": self.spec.name, **self.spec.example}
        expected = "a function that is given an empty folder, writes the example's files there, and gives its config"
        with without_network() as asked:
            try:
                found = {"type": self.spec.name, **self.spec.load_example_from()(self.folder("example"))}
            except Exception as error:
                told = f"`example_from` ({self.spec.example_from}) raised {type(error).__name__}: {error}"
                return Failed(told, expected, "mend it")
        if asked:
            told = f"`example_from` ({self.spec.example_from}) asked for {asked[0]}"
            return Failed(told, f"{expected}, without a network", "make the files there and then, with random weights")
        return found

    @cached_property
    def _config(self) -> Any | Failed:
        """The example's checked config, or why there is none."""
        if isinstance(self._example, Failed):
            return self._example
        try:
            return validate_block(self.kind, self._example, self.trial.registry)
        except ModbridgeError as error:
            given = self.spec.example or self.spec.example_from
            return Failed(
                f"its example is refused: {error}"
                if given
                else f"it has no example, and its defaults will not do: {error}",
                "a tiny config that builds without a network, which checks and `modbridge show` use",
                "give ComponentSpec an `example={...}` that is a whole config; or, for a component that reads files, "
                '`example_from="package.module:function"`, which writes them into the folder it is given',
            )

    @property
    def trouble(self) -> Failed | None:
        """What is wrong with its example; None if nothing."""
        return self._config if isinstance(self._config, Failed) else None

    @property
    def example(self) -> dict[str, Any]:
        """The block that the component is tried with. NotRun if there is none."""
        if isinstance(self._example, Failed):
            raise NotRun("it has no example that can be tried; see `offline_build`")
        return self._example

    @property
    def config(self) -> Any:
        """The example's checked config. NotRun if it is none."""
        if isinstance(self._config, Failed):
            raise NotRun("it has no example that can be tried; see `offline_build`")
        return self._config

    def folder(self, name: str) -> Path:
        """An empty folder of the component's own, which goes away with the trial."""
        return Path(tempfile.mkdtemp(prefix=f"{self.kind}-{self.spec.name}-{name}-", dir=self.trial.folder))

    # Where it stands.

    @cached_property
    def ports(self) -> dict[str, Port]:
        """The ports that the component is built at: vectors, or sequences where it takes no vectors (ragged ones where
        it takes no others). A vocabulary's stored vectors decide their own space."""
        if self.kind in ("encoder", "source", "metric", "engine", "objective", "judge"):
            return {}
        refusals = []
        for tokens, ragged in ((None, False), (TOKENS, False), (TOKENS, True)):
            ports = {name: self.port(of, tokens, ragged) for name, of in (("text", "text"), ("source", "image"))}
            refusal = self.refusal(ports)
            if refusal is None:
                return ports
            refusals.append(refusal)
        raise Failed(
            f"its config refuses {DIM}-d vectors ({refusals[0]}) and sequences of {TOKENS} of them ({refusals[1]})",
            f"that its example takes {DIM}-d vectors or sequences of an unknown space",
            "give an example whose fields do not pin another dimension or space",
        )

    def refusal(self, ports: Mapping[str, Port]) -> str | None:
        """Why its config refuses to stand at these ports; None if it does not."""
        try:
            if self.kind == "bridge":
                self.config.crosses(ports["source"], ports["text"])
                self.config.augments(ports["text"])
            else:
                self.config.check(ports["text"])
        except PortError as error:
            return str(error)
        return None

    def ragged(self) -> Subject | None:
        """The same component at ports of ragged sequences; None if its config refuses them."""
        ports = {name: port.changed(tokens=TOKENS, ragged=True) for name, port in self.ports.items()}
        if self.refusal(ports) is not None:
            return None
        other = Subject(self.trial, self.spec)
        other.ports = ports
        return other

    def port(self, modality: str, tokens: int | None = None, ragged: bool = False) -> Port:
        own = getattr(self.config, "port", None)  # of a vocabulary with stored vectors
        space = own.space if isinstance(own, Port) else SPACE
        return Port(space=space, modality=modality, tokens=tokens, ragged=ragged)

    # Built and fitted.

    def build(self, *, seed: int = 0, device: str = "cpu", artefact: Path | None = None) -> Any:
        """A fresh, unfitted one."""
        if self.kind == "metric":
            return build_metric(self.config, self.trial.registry)
        if self.kind == "source":
            return self.spec.load_impl()(self.config)
        context = BuildContext(device=torch.device(device), seed=seed, ports=self.ports, artefact=artefact)
        component = build_component(self.config, self.kind, self.trial.registry, context, self._shared)
        self._train_shared(component)
        if isinstance(component, Objective) and not self.is_fitted:
            component.freeze()
        return component

    @cached_property
    def _shared(self) -> Shared:
        """The parts that every one that is built holds, whatever its seed."""
        return Shared(0)

    def _train_shared(self, component: Any) -> None:
        """Train the objectives inside a component that a run would have trained before."""
        for part in component.context.parts.values():
            self._train_shared(part)
            if isinstance(part, Objective) and part.config.needs_fit and part.fitted_as is None:
                for module in part.modules().values():
                    module.requires_grad_(True)
                part.fit(toys.ToySource("image", toys.items("image", self.trial.items)), MemoryFitting())
                part.freeze()
                part.fitted_as = "conformance"

    @property
    def is_fitted(self) -> bool:
        """Whether the component is fitted before it is used."""
        return self.kind in FITTED_KINDS and getattr(self.config, "needs_fit", True)

    def fit(self, component: Any, fitting: Fitting, data: Any = None) -> None:
        """Fit it on toy data, or on `data` as `training_data` gives it."""
        given = self.training_data() if data is None else data
        if self.kind in ("encoder", "objective"):
            component.fit(given, fitting)
        elif self.kind == "prior":
            component.fit(given[0], fitting, observed=given[1])
        elif self.kind == "bridge":
            component.fit(given, fitting)
        elif self.kind == "decoder":
            component.fit(given[0], given[1], fitting)
        elif self.kind == "vocabulary":
            component.index(fitting)

    def training_data(self) -> Any:
        """What `fit` takes."""
        if self.kind in ("encoder", "objective"):
            modality = self.media_modality
            return toys.ToySource(modality, toys.items(modality, self.trial.items))
        if self.kind == "prior":
            clean, source = toys.vectors(self.ports["text"], toys.ITEMS), toys.vectors(self.ports["source"], toys.ITEMS)
            observed = replace(source, keys=clean.keys)  # pairs have the texts' keys
            return clean, observed if "pairs" in self.config.needs else None
        if self.kind == "bridge":
            return toys.fit_data(self.config.needs, self.ports["text"], self.ports["source"])
        if self.kind == "decoder" and self.config.makes == "image":
            seen = toys.vectors(self.ports["text"].changed(modality="image"), toys.ITEMS)
            return TextVectors(seen, lambda rows, epoch: seen.values[list(rows)], mask=seen.mask), [
                toys.image(row) for row in range(toys.ITEMS)
            ]
        if self.kind == "decoder":
            return toys.text_vectors(self.ports["text"]), toys.training_texts()
        return None

    @property
    def media_modality(self) -> str:
        """What an encoder encodes beside texts; what an objective judges embeddings by."""
        return next((name for name in getattr(self.config, "modalities", ("image",)) if name != "text"), "text")

    def fitting(self, *, stop_after: int | None = None) -> Watched:
        """The surroundings of a fit; its encoder of texts gives vectors of the component's own space."""
        port = self.ports.get("text", self.port("text"))

        def embed(texts: Sequence[str]) -> Embeddings:
            return _embedded(texts, port)

        return Watched(stop_after=stop_after, embed=embed)

    def made(self, fitting: Fitting | None = None) -> Any:
        """A fresh one, built and, if need be, fitted."""
        component = self.build()
        if self.is_fitted:
            self.fit(component, fitting or self.fitting())
        return component

    @cached_property
    def _made(self) -> tuple[Any, Watched] | NotRun:
        """A built and fitted one and the surroundings of its fit, or why there is none."""
        fitting = self.fitting()
        try:
            return self.made(fitting), fitting
        except NotRun as reason:
            return reason
        except Exception:
            return NotRun(f"it cannot be made; see `{'fits' if self.is_fitted else 'offline_build'}`")

    @property
    def component(self) -> Any:
        """A built and fitted one, for checks that do not change it."""
        if isinstance(self._made, NotRun):
            raise self._made
        return self._made[0]

    @property
    def watched(self) -> Watched:
        """The surroundings in which `component` was fitted."""
        if isinstance(self._made, NotRun):
            raise self._made
        return self._made[1]


def _embedded(texts: Sequence[str], port: Port) -> Embeddings:
    """What a text says decides its vector, its place does not."""
    from modbridge.noise import Draw

    assert port.space.dim is not None
    values = torch.nn.functional.normalize(Draw.of(texts, 0).named("text").normal(port.space.dim), dim=1)
    return Embeddings(
        values, port.changed(modality="text", tokens=None, ragged=False), tuple(map(str, range(len(texts))))
    )
