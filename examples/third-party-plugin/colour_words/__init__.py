"""Colour histograms and words in one space, and histogram matching across its gap."""
