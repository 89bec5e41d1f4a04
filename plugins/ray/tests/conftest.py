"""Two nodes on this machine, and a tiny world that both of them see."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from modbridge.assembly.experiment import Cell, load_experiment
from modbridge.assembly.session import Session
from modbridge.interfaces import BuildContext
from modbridge.plugins.manager import Plugins
from modbridge.store.cache import Cache
from modbridge.talk import Talk

SLOW = Path(__file__).with_name("slow_plugin.py")
STORE = 80 << 20


@pytest.fixture(scope="session")
def cluster() -> Iterator[Any]:
    """A cluster of two nodes with a core each, which this process is a driver of."""
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    import ray
    from modbridge_ray.cluster import join
    from modbridge_ray.config import RayConfig
    from ray.cluster_utils import Cluster

    made = Cluster(
        initialize_head=True,
        head_node_args={"num_cpus": 1, "object_store_memory": STORE, "include_dashboard": False},
    )
    made.add_node(num_cpus=1, object_store_memory=STORE)
    made.wait_for_nodes()
    join(RayConfig(address=made.address))
    yield made
    ray.shutdown()
    made.shutdown()  # type: ignore[no-untyped-call]


@pytest.fixture
def world(tmp_path: Path) -> Path:
    """A config over 40 images of plain colours, one held-out item in five."""
    (tmp_path / "images").mkdir()
    lines: dict[str, list[str]] = {"train": [], "test": []}
    for i in range(40):
        colour = [(220, 30, 30), (30, 200, 40), (40, 60, 220)][i % 3]
        Image.new("RGB", (32, 32), tuple(min(255, value + 2 * i) for value in colour)).save(
            tmp_path / "images" / f"{i:03d}.png"
        )
        line = {"image": f"{i:03d}.png", "captions": [f"a {['red', 'green', 'blue'][i % 3]} picture {i}"]}
        lines["test" if i % 5 == 0 else "train"].append(json.dumps(line))
    for split, of in lines.items():
        (tmp_path / f"{split}.jsonl").write_text("\n".join(of) + "\n", encoding="utf-8")
    config = tmp_path / "tiny.yaml"
    config.write_text(
        json.dumps(
            {
                "name": "tiny",
                "data": {
                    split: {
                        "type": "jsonl",
                        "path": str(tmp_path / f"{split}.jsonl"),
                        "root": str(tmp_path / "images"),
                    }
                    for split in lines
                },
                "encoder": {**Plugins.discover().registry.get("encoder", "open_clip").example, "batch_size": 4},
                "bridge": "mean_shift",
                "decoder": "nearest_caption",
            }
        ),
        encoding="utf-8",
    )
    return config


@pytest.fixture
def session_of(world: Path, tmp_path: Path) -> Callable[..., tuple[Session, Cell]]:
    """A session with a cache of its own, by this process or by the cluster, and the config's one cell."""

    def make(cache: str, engine: dict[str, Any] | None = None, **encoder: Any) -> tuple[Session, Cell]:
        plugins = Plugins.discover([SLOW], environ={})
        sets = [f"encoder={json.dumps({'type': 'slow', **encoder})}"] if encoder else []
        (cell,) = load_experiment(str(world), plugins.registry, sets=sets).cells
        session = Session(plugins, Cache(tmp_path / cache), Talk(quiet=True), device="cpu", shard_rows=4)
        if engine is not None:
            from modbridge_ray.config import RayConfig
            from modbridge_ray.engine import RayEngine

            session.engine = RayEngine(RayConfig(**engine), BuildContext())
        return session, cell

    return make
