"""Embedding and generation over a Ray cluster."""
