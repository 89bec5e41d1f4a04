"""Encoders taught by a frozen text-to-image model (VLV, NeurIPS 2025), and the same model as a decoder that paints."""
