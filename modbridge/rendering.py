"""A table as text, and how it becomes Markdown, HTML and LaTeX. What a table says is told by other modules."""

from __future__ import annotations

import html
import re
import unicodedata
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

GROUP = "group"  # the kind of a line that is a heading of those below it
_LATEX = {
    "\\": r"\textbackslash{}", "~": r"\textasciitilde{}", "^": r"\textasciicircum{}", "<": r"\textless{}",
    ">": r"\textgreater{}", "|": r"\textbar{}", '"': "''", "[": "{[}", "]": "{]}", "*": "{*}", "±": r"$\pm$",
    "×": r"$\times$", "↑": r"$\uparrow$", "↓": r"$\downarrow$", "†": r"$\dagger$", "‡": r"$\ddagger$", "\n": " ",
    "ρ": r"$\rho$", "–": r"\textendash{}",
    **{sign: f"\\{sign}" for sign in "&%$#_{}"},
}  # fmt: skip


@dataclass(frozen=True)
class Table:
    """One table as text, ready to be shown.

    `kinds`: what each line is, "" or a word such as "reported", which HTML has as its class; shorter than `cells` where
    the rest is "". The texts of a line of the kind `GROUP` are together the heading of the lines below it.
    """

    title: str
    headings: Sequence[str]
    cells: Sequence[Sequence[str]]
    notes: Sequence[str] = ()
    kinds: Sequence[str] = ()

    def lines(self) -> Iterator[tuple[str, Sequence[str]]]:
        """Each line with its kind."""
        for number, cells in enumerate(self.cells):
            yield self.kinds[number] if number < len(self.kinds) else "", cells


def _joined(cells: Sequence[str]) -> str:
    return " ".join(filter(None, cells))


def markdown(table: Table) -> str:
    """A table as Markdown, under its title."""
    lines = [f"## {table.title}", ""] if table.title else []
    lines += [_piped(table.headings), "|" + "---|" * len(table.headings)]
    for kind, cells in table.lines():
        lines.append(_piped([f"**{cell}**" if kind == GROUP and cell else cell for cell in cells]))
    return "\n".join([*lines, "", *table.notes]).rstrip() + "\n"


def _piped(cells: Sequence[str]) -> str:
    return "| " + " | ".join(cell.replace("|", "\\|").replace("\n", " ") for cell in cells) + " |"


def as_html(table: Table) -> str:
    """A table as HTML, under its title; lines of a kind have it as their class."""
    head = "".join(f"<th>{html.escape(heading)}</th>" for heading in table.headings)
    body = "".join(_html_line(kind, cells) for kind, cells in table.lines())
    title = f"<h3>{html.escape(table.title)}</h3>" if table.title else ""
    notes = "".join(f"<p class='note'>{html.escape(note)}</p>" for note in table.notes)
    return f"{title}<table><thead><tr>{head}</tr></thead><tbody>{body}</tbody></table>{notes}"


def _html_line(kind: str, cells: Sequence[str]) -> str:
    if kind == GROUP:
        return f"<tr class='group'><th colspan='{len(cells)}'>{html.escape(_joined(cells))}</th></tr>"
    opening = f"<tr class='{kind}'>" if kind else "<tr>"
    return opening + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


def latex(table: Table) -> str:
    """A table as a LaTeX float that needs booktabs and nothing else; its notes stand under it, intervals are small."""
    width = len(table.headings)
    lines = [r"\begin{table}", r"\centering\footnotesize", r"\setlength{\tabcolsep}{4pt}"]
    lines += [rf"\caption{{{latex_text(table.title)}}}"] if table.title else []
    lines += [rf"\begin{{tabular}}{{{'l' * width}}}", r"\toprule", _ampersands(table.headings)]
    for number, (kind, cells) in enumerate(table.lines()):
        if kind == GROUP:
            rule = r"\midrule" if number == 0 else r"\addlinespace"
            heading = rf"\multicolumn{{{width}}}{{l}}{{\emph{{{latex_text(_joined(cells))}}}}} \\"
            lines += [rule, heading]
        else:
            lines += [*([r"\midrule"] if number == 0 else []), _ampersands(cells)]
    lines += [r"\bottomrule", r"\end{tabular}"]
    if table.notes:
        notes = "\n".join(rf"{latex_text(note)}\par" for note in table.notes)
        lines += ["", r"\smallskip\raggedright\scriptsize", notes]
    return "\n".join([*lines, r"\end{table}"]) + "\n"


def _ampersands(cells: Sequence[str]) -> str:
    return " & ".join(map(_latex_cell, cells)) + r" \\"


def _latex_cell(cell: str) -> str:
    """A mean as it is, the interval after it small."""
    found = re.fullmatch(r"(-?[\d.]+) (\[[^\]]*\])(.*)", cell)
    if found is None:
        return latex_text(cell)
    mean, interval, after = map(latex_text, found.groups())
    return f"{mean} {{\\scriptsize {interval}}}{after}"


def latex_text(text: str) -> str:
    """Text with all that LaTeX reads as a command written out. Signs that plain LaTeX cannot set become [U+03B1]."""
    text = "".join(_LATEX.get(sign) or _settable(sign) for sign in text)
    return re.sub("-(?=-)", "-{}", text)  # two hyphens are no dash: --vary


def _settable(sign: str) -> str:
    """ASCII, and Latin letters with one accent, as they are."""
    base = unicodedata.normalize("NFKD", sign)
    if sign.isprintable() and (sign.isascii() or (sign < "ƀ" and len(base) == 2 and base[0].isascii())):
        return sign
    return f"{{[}}U+{ord(sign):04X}{{]}}"
