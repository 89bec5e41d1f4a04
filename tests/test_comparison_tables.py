"""The tables of a comparison: order, intervals and marks, and that no label breaks CSV, LaTeX, Markdown or HTML."""

from __future__ import annotations

import csv
import io
import json
import math
import re
import shutil
import subprocess
from dataclasses import replace
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pytest

from modbridge.comparison_tables import About, csv_text, html_body, latex, markdown, measure_text, ordered, tables

ABOUT = About(
    name="zoo",
    rank_by="centred_r_at_1",
    level=0.95,
    resamples=2000,
    baseline="identity",
    correction="Holm",
    command="modbridge compare zoo.yaml --seeds 3",
    fingerprints={"test": "ab12"},
    seeds=[0, 1, 2],
    machine="a small box",
)


def row(name: str, group: str, rank: int | None, r_at_1: float | None, **more: Any) -> dict[str, Any]:
    needs = [] if group == "nothing" else sorted(group.split(" + "))
    found = {"row": name, "bridge": name, "augment": "none", "decoder": "d", "needs": needs, "group": group}
    return {**found, "rank": rank, "centred_r_at_1": r_at_1, "failed": None, "n": 50, "notes": {}, **more}


IDENTITY = row("identity", "nothing", 1, 0.25, baseline=True, centred_r_at_1_low=0.2, centred_r_at_1_high=0.3)
RIDGE = row(
    "ridge", "text + source + pairs", 1, 0.75, centred_r_at_1_low=-0.0004, centred_r_at_1_high=1.25,
    centred_r_at_1_difference=0.5, centred_r_at_1_p=0.01, paired_cosine=0.5, cider=0.125,
)  # fmt: skip
MEAN = row("mean", "text + source", 2, 0.125, centred_r_at_1_difference=-0.1, centred_r_at_1_p=0.04, macs=2_000_000)
C3 = row("c3", "text + source", 1, 0.5, centred_r_at_1_difference=0.2, centred_r_at_1_p=0.06)
BROKEN = row("broken", "text + source", None, None, failed="12 samples, 512 dimensions")
ROWS = [RIDGE, BROKEN, MEAN, C3, IDENTITY]


def test_columns_with_intervals_over_seeds_alone_are_named() -> None:
    told = replace(ABOUT, by_seed=["gap_norm", "bleu_4"])
    line = "over seeds alone, since no mean of items: gap norm, BLEU-4 (of 3 seeds p is never below 0.25)"
    assert line in tables(ROWS, told)[0].notes
    assert not any("over seeds alone" in note for note in tables(ROWS, replace(told, seeds=[0]))[0].notes)
    assert not any("over seeds alone" in note for note in tables(ROWS, ABOUT)[0].notes)


def test_what_predicts_captions() -> None:
    rows = [
        row(f"r{i}", "text", i, None, centred_paired_cosine=i / 10, gap_norm=-float(i), cider=float(i * i),
            augment="none" if i < 9 else "noise")
        for i in range(12)
    ]  # fmt: skip
    oracle = row("oracle", "true texts", 1, None, centred_paired_cosine=1.0, gap_norm=0.0, cider=0.0)
    told = tables([*rows, oracle], replace(ABOUT, rank_by="cider"))
    (found,) = [table for table in told if table.title == "Do measures of vectors predict CIDEr?"]
    assert found.headings == ["measure", "all rows (12)", "augment: none (9)"]  # three rows of noise are too few
    assert found.cells == [["centred cos", "1.00", "1.00"], ["gap norm", "-1.00", "-1.00"]]
    assert not any("predict" in table.title for table in tables(rows, replace(ABOUT, rank_by="harmonic_mean")))
    assert not any("predict" in table.title for table in tables(rows[:3], replace(ABOUT, rank_by="cider")))


def test_the_ranking() -> None:
    before = json.dumps(ROWS)
    main = tables(ROWS, ABOUT)[0]
    assert main.title == "zoo, ranked by centred R@1"
    assert main.headings == ["rank", "row", "needs", "centred R@1", "paired cos"]
    assert main.cells == [
        ["needs", "nothing", "", "", ""],
        ["1", "identity (baseline)", "-", "0.250 [.200, .300]", "-"],
        ["needs", "text + source", "", "", ""],
        ["1", "c3", "T S", "0.500", "-"],
        ["2", "mean", "T S", "0.125↓", "-"],
        ["-", "broken", "T S", "-", "-"],
        ["needs", "text + source + pairs", "", "", ""],
        ["1", "ridge", "T S P", "0.750 [.000, 1.250]↑", "0.500"],
    ]
    assert main.kinds == ["group", "", "group", "", "", "failed", "group", ""]
    assert main.notes == [
        "rank: by centred R@1, among rows that need the same data",
        "T: texts; S: unpaired source vectors; P: pairs",
        "the decoder's weights were chosen with pairs in: no row",
        "[ ]: 95 % interval, bootstrap over items and seeds, 2,000 resamples",
        "↑ ↓: above or below the baseline identity, p < 0.05 after Holm's correction over the rows of a column",
        "seeds: 0, 1, 2",
        "items: 50",
        "failed: broken: 12 samples, 512 dimensions",
        "data: test ab12",
        "made by: modbridge compare zoo.yaml --seeds 3",
    ]
    assert json.dumps(ROWS) == before


def test_what_has_no_content_has_no_table() -> None:
    main, captions, cost = tables(ROWS, ABOUT)
    assert main.headings[3] == "centred R@1"
    assert (captions.title, captions.headings[3:]) == ("Captions", ["CIDEr"])
    assert captions.cells == [["needs", "text + source + pairs", "", ""], ["1", "ridge", "T S P", "0.125"]]
    assert (cost.headings, cost.cells) == (["row", "MACs"], [["mean", "2 M"]])
    assert cost.notes[-1] == "measured on: a small box"
    assert len(tables([IDENTITY], ABOUT)) == 1


def test_the_measure_that_ranks_comes_first_and_once() -> None:
    main = tables(ROWS, replace(ABOUT, rank_by="cider"))[0]
    assert main.headings[3:] == ["CIDEr", "centred R@1", "paired cos"]
    assert len(tables(ROWS, replace(ABOUT, rank_by="cider"))) == 2, "CIDEr has been shown"


def test_tables_fit_a_terminal() -> None:
    names = ("centred_paired_cosine", "centred_r_at_1", "paired_cosine", "r_at_1", *"abcdefg", "cider")
    measured = dict.fromkeys(names, 0.5) | {f"{c}_{end}": 0.5 for c in names for end in ("low", "high")}
    tested = {f"{c}_{part}": 0.001 for c in names for part in ("difference", "p")}
    wide = row("diffusion_bridge/noise", "text + source + pairs", 1, 0.5, peak_bytes=10**9) | measured | tested
    wide["needs"].append("pairs (selection)")
    found = tables([wide], replace(ABOUT, rank_by="cider"))
    assert [len(t.headings) for t in found] == [8, 7, 6, 2], "captions are parted evenly"
    for table in found:
        widths = [max(map(len, column)) for column in zip(table.headings, *table.cells, strict=True)]
        assert sum(widths) + 2 * (len(widths) - 1) <= 150


def test_a_mark_tells_a_corrected_difference_alone() -> None:
    def shown(p: float | None, difference: float | None, level: float = 0.95) -> str:
        return measure_text({"m": 0.5, "m_p": p, "m_difference": difference}, "m", level)

    assert shown(0.0499, 0.1) == "0.500↑"
    assert shown(0.0499, -0.1) == "0.500↓"
    assert shown(0.05, 0.1) == "0.500", "1 - .95 is a little more than .05 in floats"
    assert shown(0.0499, 0.1, level=0.99) == "0.500"
    assert shown(None, 0.1) == shown(0.01, None) == shown(0.01, 0.0) == "0.500"


def test_deviations_where_there_is_no_interval() -> None:
    assert measure_text({"m": 0.5, "m_std": 0.01}, "m", 0.95) == "0.500 ±0.010"
    assert measure_text({"m": 0.5, "m_std": 0.01, "m_low": 0.4, "m_high": 0.6}, "m", 0.95) == "0.500 [.400, .600]"
    assert measure_text({"m": math.nan, "m_low": 0.1, "m_high": 0.2}, "m", 0.95) == "-"


def test_pairs_of_a_selection_and_seeds_that_failed_are_told() -> None:
    chosen = {
        **C3,
        "needs": ["source", "text", "pairs (selection)"],
        "failed": "2 of 3 seeds",
        "notes": {"spice": "no Java"},
    }
    given = {**MEAN, "needs": ["weights (not fitted on the split)", "my own data", "text"], "tokenizer": "ptb"}
    main = tables([given, chosen], replace(ABOUT, baseline=None, seeds=[0]))[0]
    assert [line[1:4] for line in main.cells[1:]] == [["c3", "T S p", "0.500"], ["mean", "T W my own data", "0.125↓"]]
    assert main.kinds == ["group", "", ""], "a row that lacks a seed has its place"
    told = "\n".join(main.notes)
    for note in (
        "p: pairs, to choose the decoder's weights; W: given weights, not fitted on the split",
        "the decoder's weights were chosen with pairs in: c3\n",
        "failed: c3: 2 of 3 seeds",
        "no baseline, so no difference is tested",
        "spice: no Java",
        "tokenizer: ptb",
    ):
        assert note in told
    assert "bootstrap" not in told, "there are no intervals"


def test_order_is_by_needs_then_rank() -> None:
    groups = ["text + source", "text", "nothing", "pairs + text"]
    shuffled = [row(f"{group} {rank}", group, rank, 0.5) for rank in (3, None, 1, 2) for group in groups]
    expected = [f"{group} {rank}" for group in ("nothing", "text", "pairs + text", "text + source")
                for rank in (1, 2, 3, None)]  # fmt: skip
    assert [found["row"] for found in ordered(shuffled)] == expected


@pytest.mark.parametrize("rows", [[], [BROKEN], [{**BROKEN, "centred_r_at_1": math.nan}]])
def test_nothing_to_show(rows: list[dict[str, Any]]) -> None:
    (main,) = tables(rows, ABOUT)
    assert main.headings[:4] == ["rank", "row", "needs", "centred R@1"]
    assert [line[-1] for line in main.cells] == ["", "-"][: 2 * len(rows)]
    assert ("nothing was compared: there are no rows" in main.notes) == (not rows)
    for text in (markdown(rows, ABOUT), latex(rows, ABOUT), html_body(rows, ABOUT), csv_text(rows, ABOUT)):
        assert "rank" in text


def test_csv_has_everything_and_is_read_back() -> None:
    third = 0.1 + 0.2
    odd = row('a, "b"\nc', "text", 1, third, cell="x=1", seeds=[0, 1], peak_bytes=7, centred_r_at_1_p=1e-12,
              notes={"spice": "no Java"}, gap_norm=math.nan, spice=None, cider=0.5)  # fmt: skip
    text = csv_text([odd, BROKEN, IDENTITY], ABOUT)
    assert text.count("\r\n") == 4
    lines = list(csv.DictReader(io.StringIO(text, newline=""), strict=True))
    assert [line["row"] for line in lines] == ["identity", 'a, "b"\nc', "broken"]
    found = lines[1]
    assert set(found) == set(odd) | set(IDENTITY)
    assert float(found["centred_r_at_1"]) == third
    assert float(found["centred_r_at_1_p"]) == 1e-12
    assert (found["needs"], found["seeds"], found["peak_bytes"], found["cell"]) == ("text", "0;1", "7", "x=1")
    assert (found["gap_norm"], found["spice"], found["baseline"]) == ("", "", "")
    assert json.loads(found["notes"]) == {"spice": "no Java"}
    assert lines[0]["baseline"] == "true"
    assert lines[2]["failed"] == "12 samples, 512 dimensions"
    assert lines[2]["needs"] == "source;text"
    columns = list(found)
    assert columns[:3] == ["rank", "group", "row"]
    assert columns[11:15] == ["centred_r_at_1", "centred_r_at_1_low", "centred_r_at_1_high", "centred_r_at_1_p"]


NASTY = r"a_b & 100% $x$ #1 {c} ~ ^ \d <e> | [f] * é ±α --vary 'g' " + '"h"'


def nasty_rows() -> list[dict[str, Any]]:
    return [
        {**RIDGE, "row": NASTY, "notes": {"spice": NASTY}},
        {**BROKEN, "row": "[x]", "failed": NASTY},
        {**MEAN, "row": "*"},
    ]


def test_latex_is_escaped_and_its_braces_agree() -> None:
    text = latex(nasty_rows(), replace(ABOUT, name=NASTY, command=NASTY))
    assert r"a\_b \& 100\% \$x\$ \#1 \{c\} \textasciitilde{} \textasciicircum{} \textbackslash{}d" in text
    assert r"{[}U+03B1{]} -{}-vary" in text
    assert "é" in text
    body = "\n".join(line for line in text.splitlines() if not line.startswith("%"))
    bare = re.sub(r"\\[^a-zA-Z]", "", body)  # without \&, \{, \\ and the like
    assert not re.search(r"[#%~^]", bare)
    depth = 0
    for sign in bare:
        depth += (sign == "{") - (sign == "}")
        assert depth >= 0
    assert depth == 0
    begun, ended = re.findall(r"\\begin\{(\w+)\}", body), re.findall(r"\\end\{(\w+)\}", body)
    assert sorted(begun) == sorted(ended) == ["table"] * 3 + ["tabular"] * 3
    main = body.split(r"\end{tabular}")[0]
    for line in main.splitlines():
        if line.endswith(r"\\") and r"\multicolumn" not in line:
            assert len(re.findall(r"(?<!\\)&", line)) == 4
    assert r"\multicolumn{5}{l}{\emph{needs text + source}} \\" in main
    assert r"0.750 {\scriptsize {[}.000, 1.250{]}}$\uparrow$" in main
    assert not re.search(r"\\\\\s*[\[*]", body), "a star or a bracket after \\\\ is read as its argument"


@pytest.mark.skipif(shutil.which("pdflatex") is None, reason="pdflatex is not installed")
def test_latex_compiles_with_booktabs_alone(tmp_path: Path) -> None:
    content = latex(nasty_rows(), replace(ABOUT, name=NASTY, command=NASTY)) + latex([], ABOUT) + latex(ROWS, ABOUT)
    head = "\\documentclass{article}\n\\usepackage{booktabs}\n\\begin{document}\n"
    page = f"{head}{content}\\end{{document}}\n"
    (tmp_path / "page.tex").write_text(page, encoding="utf-8")
    done = subprocess.run(
        ["pdflatex", "-halt-on-error", "-interaction=nonstopmode", "page.tex"], cwd=tmp_path, capture_output=True,
        check=False, timeout=60,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout.decode(errors="replace")[-2000:]


def test_markdown_keeps_its_columns() -> None:
    text = markdown(nasty_rows(), ABOUT)
    main = [line for line in text.split("## ")[1].splitlines() if line.startswith("|")]
    assert {len(re.findall(r"(?<!\\)\|", line)) for line in main} == {6}
    assert "| **needs** | **text + source** |  |  |  |" in main
    assert [line for line in text.splitlines() if line.startswith("##")] == [
        "## zoo, ranked by centred R@1", "## Captions", "## Cost",
    ]  # fmt: skip


class _Cells(HTMLParser):
    """The texts of a page by what they stand in, and whether every tag is closed."""

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.texts: list[str] = []
        self.spans: list[dict[str, str | None]] = []

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.open.append(tag)
        if tag == "th" and attrs:
            self.spans.append(dict(attrs))

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.texts.append(data)


def test_html_shows_every_label_as_it_is() -> None:
    page = _Cells()
    attack = "<script>alert(1)</script> & 'x' \"y\""
    rows = [{**C3, "row": attack}, {**BROKEN, "failed": attack}]
    text = html_body(rows, replace(ABOUT, name=attack, command=attack))
    page.feed(text)
    page.close()
    assert not page.open
    assert "<script" not in text
    assert attack in page.texts
    assert f"failed: broken: {attack}" in page.texts
    assert f"made by: {attack}" in page.texts
    assert page.spans == [{"colspan": "4"}]
    assert text.count("<tr class='failed'>") == 1
