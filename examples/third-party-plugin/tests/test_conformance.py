"""Both parts keep the promises of their kinds: shapes, seeds, batches, saving and loading, light import."""

from modbridge.testing import conformance

test_conformance = conformance("colour_words")
