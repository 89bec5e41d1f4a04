"""What modbridge asks this package. Light: parts are named by strings, and imported when they are used."""

from __future__ import annotations

from collections.abc import Callable

from modbridge.plugins import ComponentSpec, hookimpl


@hookimpl
def modbridge_components(register: Callable[[ComponentSpec], None]) -> None:
    register(
        ComponentSpec(
            kind="encoder",
            name="colour_words",
            config="colour_words.config:ColourWordsConfig",
            impl="colour_words.encoder:ColourWords",
            summary="colour histograms and words in one space by canonical correlations; learnt in seconds",
            example={"type": "colour_words", "grid": 2, "bins": 2, "buckets": 16, "dim": 4},
        )
    )
    register(
        ComponentSpec(
            kind="bridge",
            name="quantile_match",
            config="colour_words.config:QuantileMatchConfig",
            impl="colour_words.bridge:QuantileMatch",
            summary="histogram matching: gives each dimension of source vectors the distribution of the texts'",
            example={"type": "quantile_match", "quantiles": 11},
        )
    )
