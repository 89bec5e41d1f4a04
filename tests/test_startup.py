"""Starting up: no verb imports what it does not use. Timings are benchmarks/run.py's (`startup`)."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

from modbridge.hub import cached_file

ROOT = Path(__file__).parents[1]
CONFIGS = ROOT / "configs"

# Whole libraries, each a good part of a second and more.
HEAVY = {
    "PIL", "accelerate", "aac_metrics", "diffusers", "faiss", "httpx", "httpx2", "librosa", "matplotlib", "nltk",
    "numpy", "open_clip", "pandas", "peft", "pyarrow", "ray", "requests", "safetensors", "scipy", "sklearn",
    "soundfile", "spacy", "torch", "torchvision", "transformers",
}  # fmt: skip
# Light, but of no use to a verb that reads no config and draws no table.
CONFIG = {"pydantic", "yaml"}
TABLES = {"rich"}

PROBE = """
import contextlib, io, json, sys
from modbridge.cli import main
with contextlib.redirect_stdout(io.StringIO()):
    code = main(sys.argv[1:])
print(json.dumps([code, sorted({name.partition('.')[0] for name in sys.modules})]))
"""


def imported(*arguments: str) -> set[str]:
    """The top-level modules that a verb leaves behind in a fresh process, which must end with 0."""
    done = subprocess.run([sys.executable, "-c", PROBE, *arguments], stdout=subprocess.PIPE, text=True, check=True)
    code, modules = json.loads(done.stdout)
    assert code == 0
    return set(modules)


def test_help_reads_no_config() -> None:
    """All verbs in one process: what one of them imported would stand there at the end."""
    from modbridge.cli import VERBS

    code = f"for verb in {sorted(VERBS)}:\n    main([verb, '--help'])\nmain(['--help'])\n"
    probe = PROBE.replace("    code = main(sys.argv[1:])\n", "".join(f"    {line}\n" for line in code.splitlines()))
    probe = probe.replace("[code, ", "[0, ")
    done = subprocess.run([sys.executable, "-c", probe], stdout=subprocess.PIPE, text=True, check=True)
    modules = set(json.loads(done.stdout)[1])
    assert "click" in modules
    assert not modules & (HEAVY | CONFIG | TABLES)


def test_plugins_are_listed_without_their_code() -> None:
    assert not imported("plugins", "--json") & (HEAVY | CONFIG | TABLES)
    assert not imported("components", "--json") & (HEAVY | CONFIG | TABLES)


@pytest.mark.parametrize(
    "arguments",
    [
        ["check", str(CONFIGS / "coco500.yaml")],
        ["check", str(CONFIGS / "combined" / "coco.yaml")],  # parts of six plugins, 24 cells
        ["check", str(CONFIGS / "diffusion_link" / "losses.yaml")],
        ["schema"],
        ["init"],
    ],
    ids=lambda arguments: " ".join(Path(argument).stem for argument in arguments),
)
def test_configs_are_read_without_weights_or_tables(arguments: list[str]) -> None:
    modules = imported(*arguments)
    assert modules >= CONFIG
    assert not modules & (HEAVY | TABLES)


def test_a_component_is_shown_without_its_code() -> None:
    modules = imported("show", "encoder", "open_clip")
    assert not modules & HEAVY


def test_the_cache_is_shown_without_configs(tmp_path: Path) -> None:
    assert not imported("cache", "--cache", str(tmp_path), "--json") & (HEAVY | CONFIG | TABLES)


@pytest.mark.parametrize("revision", [None, "main", "v1", "0123abc", "there-is-none"])
@pytest.mark.parametrize("name", ["config.json", "sub/config.json", "absent.json"])
def test_the_hubs_cache_is_read_as_its_own_client_reads_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, revision: str | None, name: str
) -> None:
    from huggingface_hub import constants, try_to_load_from_cache

    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path))
    repo = tmp_path / "models--org--name"
    for commit, file in (("0123abc", "config.json"), ("4567def", "sub/config.json")):
        (repo / "snapshots" / commit / file).parent.mkdir(parents=True)
        (repo / "snapshots" / commit / file).write_text("{}")
    (repo / "refs").mkdir()
    (repo / "refs" / "main").write_text("0123abc")
    (repo / "refs" / "v1").write_text("4567def")
    theirs = try_to_load_from_cache("org/name", name, revision=revision)
    assert cached_file("org/name", name, revision) == (Path(theirs) if isinstance(theirs, str) else None)
    assert cached_file("org/other", name, revision) is None
