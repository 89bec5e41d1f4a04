"""Reported figures: shown beside the measured ones, marked, and mixed with them nowhere."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml

from modbridge.assembly.experiment import load_experiment
from modbridge.config.reported import ReportedConfig
from modbridge.errors import ConfigError
from modbridge.gap_tables import tables as gap_tables
from modbridge.plugins.manager import Plugins
from modbridge.tables import as_html, beside, grid, markdown

REPORTED = {"source": "A paper, Table 1", "rows": {"plain": {"cider": 0.5, "spice": 0.25}, "Theirs": {"cider": 0.75}}}
ROWS: list[dict[str, Any]] = [
    {"cell": "plain/seed=3", "bridge": "identity", "augment": "none", "seed": 3, "cider": 0.125, "n": 9},
    {"cell": "bridged/seed=3", "bridge": "c3", "augment": "noise", "seed": 3, "cider": 0.25, "n": 9},
]


def check(tmp_path: Path, reported: Any) -> None:
    scenes = {"type": "drawn_scenes", "count": 8}
    encoder = {"type": "open_clip", "model": "ViT-B-32", "pretrained": "random"}
    config = {"data": {"train": scenes}, "encoder": encoder, "bridge": "identity", "metrics": ["cider"]}
    file = tmp_path / "config.yaml"
    file.write_text(yaml.safe_dump({**config, "reported": reported}), encoding="utf-8")
    load_experiment(file, Plugins.discover(environ={}).registry)


def test_a_reported_row_stands_under_its_own_and_others_come_last() -> None:
    before = [dict(row) for row in ROWS]
    shown, notes = beside(ROWS, ReportedConfig.model_validate(REPORTED), "run")
    headings, cells = grid(shown)
    assert headings == ["row", "figures", "bridge", "augment", "CIDEr", "SPICE"]
    assert cells == [
        ["plain", "measured", "identity", "none", "0.125", "-"],
        ["plain", "reported", "-", "-", "0.500", "0.250"],
        ["bridged", "measured", "c3", "noise", "0.250", "-"],
        ["Theirs", "reported", "-", "-", "0.750", "-"],
    ]
    assert before == ROWS
    assert notes == ["reported: A paper, Table 1; as printed there, not measured here"]
    assert "| Theirs | reported | - | - | 0.750 | - |" in markdown(shown, notes)
    assert markdown(shown, notes).endswith(notes[0] + "\n")
    assert as_html(shown, notes).count("<tr class='reported'>") == 2


def test_a_row_without_label_is_called_by_the_runs_name() -> None:
    rows = [{"cell": "seed=0", "bridge": "c3", "seed": 0, "cider": 0.1}]
    shown, _ = beside(rows, ReportedConfig(source="A paper", rows={"run": {"cider": 0.9}}), "run")
    assert [(row["row"], row["cider"]) for row in shown] == [("run", 0.1), ("run", 0.9)]


def test_a_toy_world_is_told() -> None:
    _, (_, note) = beside(ROWS, ReportedConfig.model_validate({**REPORTED, "comparable": False}), "run")
    assert "toy world" in note
    assert "not comparable" in note


def test_nothing_reported_changes_nothing() -> None:
    assert beside(ROWS, None, "run") == (ROWS, [])


def test_columns_are_checked(tmp_path: Path) -> None:
    check(tmp_path, REPORTED)  # spice is a column even where the config does not measure it
    with pytest.raises(ConfigError, match=r"reported\.rows\.Theirs\.cidr.*no table has this column") as caught:
        check(tmp_path, {"source": "A paper", "rows": {"Theirs": {"cidr": 0.9}}})
    assert "did you mean 'cider'?" in str(caught.value)
    assert "config.yaml:" in str(caught.value)
    with pytest.raises(ConfigError, match=r"reported\.rows\.Theirs\.cider"):
        check(tmp_path, {"source": "A paper", "rows": {"Theirs": {"cider": "high"}}})
    with pytest.raises(ConfigError, match=r"reported\.source.*is missing"):
        check(tmp_path, {"rows": {"Theirs": {"cider": 0.9}}})


def test_in_the_gap_report_too() -> None:
    rows: list[dict[str, Any]] = [
        {"cell": "run", "bridge": "identity", "paired_cosine": 0.25, "macs": 0, "item_seconds": 0.5},
        {"cell": "run", "bridge": "c3", "paired_cosine": 0.5, "macs": 8, "item_seconds": 0.5},
    ]
    reported = ReportedConfig(source="A paper, Table 1", rows={"c3": {"item_seconds": 0.25}, "d": {"embedding": 0.75}})
    alike = {"pair": "text, bridged image", "paired": True}
    similar = [{"row": "d", **alike, "bridge": b, "embedding": 0.125} for b in ("identity", "c3")]
    main, cost, cosines, _ = gap_tables(rows, {}, similar, (), reported, every=False)
    assert [line[0] for line in main.cells] == ["identity", "c3"]
    assert main.notes == []
    assert [line[0] for line in cost.cells] == ["identity", "c3", "c3, reported"]
    assert list(cost.cells[2][1:]) == ["-", "0.25"]
    assert [list(line[-2:]) for line in cosines.cells] == [["0.125", "-"], ["0.125", "0.750"]], "not of no bridge"
    for table in (cost, cosines):
        assert "reported: A paper, Table 1; as printed there, not measured here" in table.notes
