"""Bridges that need only torch: one file each, with its formula, source, defaults and the data that it takes."""
