"""What modbridge-laion-clap brings: LAION's own CLAP package and its .pt checkpoints."""

from __future__ import annotations

from collections.abc import Callable

from modbridge.plugins.hookspecs import hookimpl
from modbridge.plugins.registry import ComponentSpec


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    register(
        ComponentSpec(
            kind="encoder",
            name="laion_clap",
            config="modbridge_laion_clap.config:LaionClapConfig",
            impl="modbridge_laion_clap.encoder:LaionClapEncoder",
            summary="CLAP by LAION's own package, from its .pt checkpoints",
            requires=("laion-clap", "torchaudio", "torchvision"),
        )
    )
