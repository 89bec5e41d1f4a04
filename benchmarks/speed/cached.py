"""A second `modbridge run` of the same config against the first: everything is taken from the cache.

Both in this process, by the command line's own function, after modules are imported; each first run has an empty cache.
"""

from __future__ import annotations

import contextlib
import io
import itertools
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from modbridge.cli import main
from speed.measure import Row, fastest
from speed.pictures import TINY, VIT_B_32, write_config, write_pictures

NAMES = ("second-run",)


def rows(full: bool) -> Iterator[Row]:
    """Pictures through ViT-B/32 with random weights, a diffusion bridge, a small captioner and two metrics."""
    count, rounds = (48, 1) if full else (12, 1)
    steps = {"prior": 200, "decoder": 100} if full else {"prior": 2, "decoder": 2}
    with TemporaryDirectory(prefix="modbridge-speed-") as name:
        folder = Path(name)
        data = write_pictures(folder / "pictures", count, captions=1, side=(320, 240))
        config = write_config(
            folder / "small.yaml", data, {**(VIT_B_32 if full else TINY), "workers": 1}, **more(steps)
        )
        numbers = itertools.count()
        latest = ""

        def first() -> None:
            nonlocal latest
            latest = str(next(numbers))
            run(folder, config, latest)

        if full:  # whatever is imported and set up once is there
            tiny = write_config(folder / "tiny.yaml", data, TINY, **more({"prior": 2, "decoder": 2}))
            run(folder, tiny, "warm")
        seconds = fastest({"first": first, "second": lambda: run(folder, config, latest)}, rounds, warm=not full)
    yield Row(
        name="second-run", unit="runs", rate=1 / seconds["second"], rate_of="modbridge run, nothing to be made",
        other=1 / seconds["first"], other_of=f"the same config with an empty cache ({count} pictures)", goal=50.0,
        rounds=rounds, more={key: round(value, 3) for key, value in seconds.items()},
    )  # fmt: skip


def more(steps: dict[str, int]) -> dict[str, Any]:
    """The parts behind the encoder."""
    prior = {
        "type": "ddpm",
        "denoiser": {"type": "residual_mlp", "width": 256, "num_blocks": 2},
        "steps": steps["prior"],
    }
    lm = {"n_layer": 2, "n_head": 4, "n_embd": 128, "n_positions": 128}
    decoder = {"type": "prefix_lm", "lm": lm, "tokenizer": "words", "steps": steps["decoder"]}
    bridge = {"type": "diffusion_bridge", "prior": prior, "start_step": 600, "augment_step": 400}
    return {"bridge": bridge, "decoder": decoder, "metrics": ["bleu", "cider"]}


def run(folder: Path, config: Path, name: str) -> None:
    """`modbridge run` with a cache and a run folder of this name."""
    where = ["--cache", str(folder / "cache" / name), "--out", str(folder / "runs" / name)]
    said = io.StringIO()
    with contextlib.redirect_stdout(said), contextlib.redirect_stderr(said):
        code = main(["run", str(config), *where, "--quiet"])
    if code:
        raise RuntimeError(f"modbridge run ended with {code}: {said.getvalue()}")
