"""Helpers for the tests of components, first-party or a stranger's."""

from modbridge.testing.conformance import conformance
from modbridge.testing.fitting import MemoryFitting
from modbridge.testing.toy import build, build_config, toy_embeddings, toy_port, toy_texts

__all__ = ["MemoryFitting", "build", "build_config", "conformance", "toy_embeddings", "toy_port", "toy_texts"]
