"""`grid`: variants by combination, told from hand-written variants only by how they are written."""

from __future__ import annotations

from pathlib import Path

import pytest

from modbridge.config.document import load_document
from modbridge.errors import ConfigError

BASE = """
bridge: {type: c3, noise_std: 0.1}
seed: 3
variants:
  own: {seed: 9}
"""


def write(folder: Path, text: str) -> Path:
    path = folder / "config.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def names(path: Path, **more: object) -> list[str]:
    return list(load_document(path, **more).tree["variants"])  # type: ignore[arg-type]


def test_the_points_of_a_grid_are_variants_after_those_that_are_named(tmp_path: Path) -> None:
    path = write(tmp_path, BASE + "grid:\n  bridge: {plain: identity, loud: {noise_std: 0.5}}\n  seed: [1, 2]\n")
    assert names(path) == ["own", "plain/1", "plain/2", "loud/1", "loud/2"]
    plain, loud = (load_document(path, variant=name).tree for name in ("plain/2", "loud/1"))
    assert (plain["bridge"], plain["seed"]) == ("identity", 2)
    assert (loud["bridge"], loud["seed"]) == ({"type": "c3", "noise_std": 0.5}, 1)
    assert load_document(path, variant="own").tree["bridge"] == {"type": "c3", "noise_std": 0.1}
    assert load_document(path, variant="loud/1", sets=["bridge.noise_std=0.7"]).tree["bridge"]["noise_std"] == 0.5


def test_a_value_without_name_changes_its_field_and_no_name(tmp_path: Path) -> None:
    path = write(tmp_path, BASE + 'grid:\n  bridge: {plain: identity}\n  augment: {"": capdec}\n  seed: [1, 2]\n')
    assert names(path) == ["own", "plain/1", "plain/2"]
    assert load_document(path, variant="plain/1").tree["augment"] == "capdec"


def test_a_list_of_grids_is_their_union_and_dots_lead_inwards(tmp_path: Path) -> None:
    path = write(tmp_path, BASE + "grid:\n- {bridge.noise_std: [0.2, 0.3]}\n- {seed: [1], bridge: [mean_shift]}\n")
    assert names(path) == ["own", "0.2", "0.3", "1/mean_shift"]
    assert load_document(path, variant="0.3").tree["bridge"] == {"type": "c3", "noise_std": 0.3}
    assert load_document(path, variant="1/mean_shift").tree["bridge"] == "mean_shift"


def test_a_grid_may_be_inherited_changed_by_a_profile_and_set(tmp_path: Path) -> None:
    write(tmp_path, BASE + "grid: {seed: [1, 2]}\nprofiles: {smoke: {grid: {seed: [7]}}}\n")
    child = tmp_path / "child.yaml"
    child.write_text("extends: config.yaml\ngrid: {bridge: [identity]}\n", encoding="utf-8")
    assert names(child) == ["own", "1/identity", "2/identity"]
    assert names(child, profile="smoke") == ["own", "7/identity"]
    assert names(child, sets=["grid.seed=[4, 5]"]) == ["own", "4/identity", "5/identity"]


def test_the_values_of_a_grid_keep_their_lines(tmp_path: Path) -> None:
    path = write(tmp_path, "bridge: identity\ngrid:\n  bridge:\n    wrong:\n      typo: 1\n")
    assert load_document(path, variant="wrong").where("bridge.typo").endswith("config.yaml:5")


@pytest.mark.parametrize(
    ("grid", "message"),
    [
        ("grid: 3", "grid: expected a block of fields and their values, found 3"),
        ("grid: []", "grid: holds no grid"),
        ("grid: {}", "grid: expected a block of fields and their values"),
        ("grid: {seed: 4}", "grid.seed: expected values with names, found 4"),
        ("grid: {seed: []}", "grid.seed: expected values with names"),
        ("grid: {bridge: [c3], bridge.noise_std: [1]}", "varies a field that 'bridge' varies too"),
        ("grid: [{seed: [1]}, {seed: [1]}]", "gives the variant '1' twice"),
        ("grid: {name: {own: x}}", "gives the variant 'own' twice"),
    ],
)
def test_a_wrong_grid_is_told_with_its_line(tmp_path: Path, grid: str, message: str) -> None:
    with pytest.raises(ConfigError) as found:
        load_document(write(tmp_path, BASE + grid + "\n"))
    assert message in str(found.value)
    assert "config.yaml:6" in str(found.value)
