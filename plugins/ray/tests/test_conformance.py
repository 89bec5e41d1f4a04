"""What modbridge relies on, checked of every component of this plugin."""

from __future__ import annotations

import pytest

from modbridge.testing import conformance

pytestmark = pytest.mark.usefixtures("cluster")  # the engine joins it, where it would start one

test_conformance = conformance("ray")
