"""Figures that someone else reports, to be shown beside those measured here."""

from __future__ import annotations

import difflib
from collections.abc import Collection
from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

from modbridge.errors import Problem

Figure = Annotated[float, Field(allow_inf_nan=False)]


class ReportedConfig(BaseModel):
    """Figures of a paper, shown beside the run's own.

    They stand on lines of their own, marked as reported, on the terminal, in table.md and in report.html; in JSON they
    have a key of their own. They enter nothing that is computed: no rank, no `gap_closed`, no cache key.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    source: Annotated[str, Field(min_length=1)]
    """Where they stand: "Diffusion Bridge (CVPR 2025), Table 2a"."""
    rows: Annotated[dict[str, dict[str, Figure]], Field(min_length=1)]
    """The figures by row and column, in the columns' own scale (fractions, where a paper prints 100 times them). A row
    named as a row of the run (its variant, its varied values, or else the config's `name`) stands under that row; any
    other name is another method's, after them."""
    comparable: bool = True
    """Set false where the run measures something else than the paper did, such as a toy profile: the table says so."""

    def problems(self, columns: Collection[str]) -> list[Problem]:
        """One problem for every figure whose column is none of `columns`."""
        found = []
        for row, figures in self.rows.items():
            for column in figures:
                if column not in columns:
                    close = difflib.get_close_matches(column, columns, n=1, cutoff=0.6)
                    hint = f"did you mean {close[0]!r}?" if close else f"columns: {', '.join(sorted(columns))}"
                    found.append(Problem(f"reported.rows.{row}.{column}", "no table has this column", hint=hint))
        return found
