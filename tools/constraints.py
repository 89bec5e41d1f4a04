"""Write constraints.txt, for pip users, from the tested versions in pyproject.toml; --check only compares."""

from __future__ import annotations

import sys
import tomllib
from pathlib import Path

ROOT = Path(__file__).parent.parent
HEAD = (
    "# Versions this tree was tested with, for pip: pip install -c constraints.txt ... (made by tools/constraints.py)\n"
)


def main() -> int:
    settings = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    wanted = HEAD + "".join(f"{line}\n" for line in settings["tool"]["uv"]["constraint-dependencies"])
    file = ROOT / "constraints.txt"
    if "--check" not in sys.argv[1:]:
        file.write_text(wanted, encoding="utf-8")
        return 0
    if not file.is_file() or file.read_text(encoding="utf-8") != wanted:
        print("constraints.txt does not agree with pyproject.toml; run: python tools/constraints.py", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())
