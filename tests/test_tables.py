"""Tables: gap closed, means over seeds, what is shown."""

from __future__ import annotations

import pytest

from modbridge.tables import add_gap_closed, as_html, columns_of, grid, markdown, summarise, without


def row(bridge: str, augment: str, cider: float | None, seed: int = 0, **more: object) -> dict[str, object]:
    cell = f"{bridge}/{augment}/seed={seed}"
    return {"cell": cell, "bridge": bridge, "augment": augment, "seed": seed, "cider": cider, **more}


def test_gap_closed_is_measured_within_a_seed_from_one_floor_to_one_ceiling() -> None:
    rows = [
        row("identity", "none", 1.0), row("oracle", "none", 3.0), row("c3", "noise", 2.5), row("c3", "diffusion", 3.2),
        row("identity", "none", 2.0, 1), row("oracle", "none", 4.0, 1), row("c3", "noise", 2.5, 1),
        row("identity", "noise", 1.4),
    ]  # fmt: skip
    add_gap_closed(rows)
    assert [r["gap_closed"] for r in rows] == pytest.approx([0, 1, 0.75, 1.1, 0, 1, 0.25, 0.2])


def test_no_oracle_no_gap_closed() -> None:
    rows = [row("identity", "none", 1.0), row("c3", "noise", None)]
    add_gap_closed(rows)
    assert all("gap_closed" not in r for r in rows)


def test_means_over_seeds() -> None:
    rows = [row("c3", "noise", v, s, r_at_5=v / 10, n=9, notes={}) for s, v in enumerate((1.0, 2.0, 4.0))]
    (mean,) = summarise([*rows], "seed")
    assert mean["cider"] == pytest.approx(7 / 3)
    assert mean["cider_std"] == pytest.approx(1.5275, abs=1e-4)
    assert mean["r_at_5_std"] == pytest.approx(0.15275, abs=1e-5)
    assert mean["seeds"] == [0, 1, 2]
    assert "n_std" not in mean
    assert len(summarise([*rows, row("identity", "none", 1.0)], "seed")) == 2


def test_what_is_missing_is_a_dash_never_a_zero() -> None:
    rows = [row("c3", "noise", 1.0, spice=None, n=9, notes={"spice": "no Java"}, tokenizer="simple")]
    _, ((*_, spice),) = grid(rows)
    assert spice == "-"
    text = markdown(rows)
    assert "items: 9" in text
    assert "spice: no Java" in text
    assert "tokenizer: simple" in text
    assert "<td>-</td>" in as_html(rows)


def test_names_come_first_and_gap_closed_last() -> None:
    rows = [row("c3", "noise", 1.0, gap_closed=0.5, gap_norm=0.1), row("c3", "diffusion", 1.0, gap_closed=0.5)]
    assert columns_of(rows) == ["bridge", "augment", "gap_norm", "cider", "gap_closed"]


@pytest.mark.parametrize(
    ("label", "wanted"),
    [
        ("seed=0", ""),
        ("noise/seed=0", "noise"),
        ("type=c3,seed=0", "type=c3"),
        ("noise/seed=0,type=c3", "noise/type=c3"),
        ("seed=0,data=/a/b", "data=/a/b"),
        ("data=/a/b,seed=0", "data=/a/b"),
        ("data=/a,seed=0,model=org/name", "data=/a,model=org/name"),
        ("a/b/seed=00", "a/b/seed=00"),
        ("my_seed=0,x=1", "my_seed=0,x=1"),
    ],
)
def test_a_label_without_its_seed(label: str, wanted: str) -> None:
    assert without(label, "seed", 0) == wanted
