"""How the nearest of many vectors are looked for: among all of them, or among those that an index of FAISS picks out.

Loads neither torch nor faiss.
"""

from __future__ import annotations

from importlib.util import find_spec
from typing import Annotated, Any, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Discriminator, Field, Tag

from modbridge.errors import SetupError

Exact = Literal["exact"]
ADVISED_ABOVE = 10_000_000  # vectors


class Faiss(BaseModel):
    """An index of FAISS (inverted lists) picks out candidates; which of them are nearest is settled exactly.

    `probes`: how many lists are looked through for a query, those whose centres are nearest. There are 4 sqrt(M) lists
    of M vectors. More of them miss less and take longer; with all of them nothing is missed.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())

    type: Literal["faiss"] = "faiss"
    probes: Annotated[int, Field(ge=1)] = 32


def in_words(value: Any) -> Any:
    """The bare word "faiss" stands for its block with the defaults."""
    if isinstance(value, str) and value not in ("exact", "faiss"):
        raise ValueError("it must be exact, faiss, or a block such as {type: faiss, probes: 64}")
    return {"type": value} if value == "faiss" else value


def form(value: Any) -> str:
    """Which of both a value is: "exact", or "faiss" where it is a block."""
    return "exact" if isinstance(value, str) else "faiss"


Search = Annotated[
    Annotated[Exact, Tag("exact")] | Annotated[Faiss, Tag("faiss")],
    Discriminator(form),
    BeforeValidator(in_words, json_schema_input_type=Literal["exact", "faiss"] | Faiss),
]


def require_faiss(search: Exact | Faiss) -> None:
    """Raise SetupError where FAISS is asked for and not installed."""
    if search != "exact" and find_spec("faiss") is None:
        raise SetupError(
            "`search: faiss` needs the package faiss, which is not installed. Install it: pip install "
            "'modbridge[faiss]', or leave `search` out, which looks among all vectors."
        )


def advice(search: Exact | Faiss, count: int) -> str | None:
    """A sentence for who looks for the nearest of `count` vectors among all of them, where they are very many."""
    if search != "exact" or count <= ADVISED_ABOVE:
        return None
    return f"{count:,} vectors are gone through for every batch of queries; `search: faiss` looks at some of them"
