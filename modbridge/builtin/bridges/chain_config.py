"""Config of the chain: several bridges, one after another."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, get_args

from pydantic import Field, SerializeAsAny

from modbridge.config.component import Part, Purpose
from modbridge.config.kinds import Augmentation, BridgeConfig
from modbridge.errors import PortError
from modbridge.spaces import Port

FIELD = "bridges"


class ChainConfig(BridgeConfig):
    """A chain of bridges. A list in the place of a bridge is short for it: `bridge: [mean_shift, capdec]`."""

    bridges: Annotated[list[SerializeAsAny[BridgeConfig]], Part("bridge")] = Field(
        min_length=1, examples=[["mean_shift", "capdec"]]
    )
    """Its members: source vectors pass through them in this order when they are carried across, and text vectors when
    a decoder's training is prepared. Each is fitted on the source vectors as those before it carry them, and on the
    text vectors as they are."""

    @property
    def title(self) -> str:
        return " + ".join(bridge.title for bridge in self.bridges)

    @property
    def needs(self) -> frozenset[str]:
        return frozenset[str]().union(*(bridge.needs for bridge in self.bridges))

    @property
    def augments_by(self) -> Augmentation:
        """The strongest of what the members add."""
        return max((bridge.augments_by for bridge in self.bridges), key=get_args(Augmentation).index)

    @property
    def chosen_by_fitting(self) -> tuple[str, ...]:
        """The members' fields that are left to fitting, by member: "0.start_step"."""
        return tuple(f"{i}.{name}" for i, bridge in enumerate(self.bridges) for name in bridge.chosen_by_fitting)

    def chosen_for(self, purpose: Purpose) -> tuple[str, ...]:
        return tuple(f"{i}.{name}" for i, bridge in enumerate(self.bridges) for name in bridge.chosen_for(purpose))

    def fitted_behind(self, number: int) -> bool:
        """Whether a member behind this one is fitted on source vectors, and so on what this one makes of them."""
        return any(
            bridge.weights is None and bridge.needs & {"source", "pairs"} for bridge in self.bridges[number + 1 :]
        )

    def key_fields(self, *purposes: Purpose) -> dict[str, Any]:
        """As for every component, but how a member carries vectors decides what those behind it are fitted on."""
        members = [
            bridge.key_fields(*purposes, *(("cross",) if self.fitted_behind(number) else ()))
            for number, bridge in enumerate(self.bridges)
        ]
        return {**super().key_fields(*purposes), FIELD: members}

    def crosses(self, source: Port, text: Port) -> Port:
        return self._arriving(len(self.bridges), source, text).changed(bridge=self.title)

    def augments(self, text: Port) -> Port:
        port = text
        for number, bridge in enumerate(self.bridges):
            try:
                port = bridge.augments(port)
            except PortError as error:
                raise PortError(self._told(number, error)) from error
        # A member that is fitted on source vectors must be able to carry what arrives there, even if only its `augment`
        # is wanted. Where the chain stands as a bridge too, `crosses` says the same.
        behind = [number + 1 for number in range(len(self.bridges)) if self.fitted_behind(number)]
        self._arriving(max(behind) + 1 if behind else 0, text.changed(modality="source"), text)
        return port.changed(bridge=self.title)

    def part_ports(self, part: str, ports: Mapping[str, Port]) -> Mapping[str, Port]:
        """A member stands where those before it carry the source vectors to; among augmenters that cannot carry them,
        at the text side alone."""
        try:
            arriving = self._arriving(int(part.removeprefix(f"{FIELD}.")), ports["source"], ports["text"])
        except PortError:
            return {name: port for name, port in ports.items() if name != "source"}
        return {**ports, "source": arriving}

    def _arriving(self, number: int, source: Port, text: Port) -> Port:
        """The port of source vectors behind the first `number` members. Raises PortError, naming the member."""
        port = source
        for at, bridge in enumerate(self.bridges[:number]):
            try:
                port = bridge.crosses(port, text)
            except PortError as error:
                raise PortError(self._told(at, error)) from error
        return port

    def _told(self, number: int, error: PortError) -> str:
        behind = f", behind {self.bridges[number - 1].title!r}" if number else ""
        return f"{FIELD}.{number} of the chain{behind}: {error}"
