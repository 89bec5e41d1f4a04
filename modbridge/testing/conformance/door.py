"""The checks as a pytest test: `test_conformance = conformance("my_plugin")`."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import Any

from modbridge.errors import SetupError
from modbridge.interfaces.metric import Reference
from modbridge.plugins.manager import Plugins
from modbridge.testing.conformance.runner import Case, cases, find_trial, require_known


def conformance(
    plugin: str,
    *,
    expected_failures: Mapping[str, str] | None = None,
    items: Mapping[str, Sequence[Any]] | None = None,
    references: Sequence[Reference] = (),
    plugins: Plugins | None = None,
) -> Callable[..., None]:
    """A parametrised pytest test that makes every check of a plugin and its components; ids look like
    "bridge:my_bridge/seeded".

    `plugin`: the name of its entry point or distribution, or the path of a single-file plugin. `expected_failures`:
    checks that cannot hold, by id, with the reason; one that holds all the same fails, and so does a name that is no
    check. `items`: items of modalities other than text, image and audio, at least four of each, all different, to try
    encoders on. `references`: at least four, all different, to try metrics on that need facts of their own. `plugins`:
    those to look among; by default all that are installed.

    Raises ConfigError for a plugin that is not there and for an unknown expected failure, PluginError for a broken
    plugin, SetupError without pytest.
    """
    try:
        import pytest
    except ImportError as error:
        raise SetupError(
            "conformance(...) makes a pytest test, and pytest is not installed: pip install pytest."
        ) from error
    expected = dict(expected_failures or {})
    found = cases(find_trial(plugin, plugins, items, references))
    require_known(expected, found)

    @pytest.mark.parametrize("case", found, ids=[case.id for case in found])
    def test_conformance(case: Case) -> None:
        outcome = case.run(expected)
        if outcome.status == "failed":
            pytest.fail(str(outcome), pytrace=False)
        if outcome.status == "expected":
            pytest.xfail(outcome.reason)
        if outcome.status in ("not run", "not for it"):
            pytest.skip(outcome.reason)

    return test_conformance
