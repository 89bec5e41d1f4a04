"""A package to begin a plugin with, as `modbridge new-plugin` writes it.

`template/` holds a working plugin named my-plugin, file by file; it is written under another name, with the parts that
were asked for.
"""

from modbridge.scaffold.package import Package, write_package

__all__ = ["Package", "write_package"]
