"""What modbridge relies on, checked of the components that come with it."""

from __future__ import annotations

from modbridge.testing import conformance

test_builtin = conformance("builtin")
test_demo = conformance("demo")
