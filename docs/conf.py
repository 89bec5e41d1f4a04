"""Sphinx configuration. The reference pages are written from the code before anything is read."""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

sys.path.insert(0, str(Path(__file__).parent / "_ext"))

project = "modbridge"
release = metadata.version("modbridge")
copyright = "the modbridge authors, MIT licence"

extensions = ["myst_parser", "sphinx.ext.mathjax", "modbridge_reference"]
myst_enable_extensions = ["colon_fence", "deflist"]
myst_heading_anchors = 4

# The generated parts are included by the pages that introduce them; results are included by the demo's page.
exclude_patterns = [
    "_build",
    "reference/generated",
    "explanation/demo-results.md",
    "explanation/zoo-coco500.md",
    "explanation/zoo-demo.md",
]

html_theme = "furo"
html_title = f"modbridge {release}"
