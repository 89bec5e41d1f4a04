"""What modbridge relies on, checked of every component of this plugin."""

from __future__ import annotations

from modbridge.testing import conformance

test_conformance = conformance("vlv")
