"""What vocabularies promise beside the common: names that are each there once, known to all that tells of them."""

from __future__ import annotations

import torch

from modbridge.spaces import Embeddings
from modbridge.testing.conformance.outcome import Check, Failed
from modbridge.testing.conformance.subject import Subject


def names(subject: Subject) -> None:
    vocabulary = subject.build()
    found = vocabulary.names()
    if not isinstance(found, list) or not found or not all(isinstance(name, str) and name.strip() for name in found):
        raise Failed(f"names() gave {found!r:.80}", "a list of at least one name, each a str", "give such a list")
    if len(set(found)) != len(found):
        double = next(name for name in found if found.count(name) > 1)
        raise Failed(f"the name {double!r} stands there twice", "each name once", "leave doubles out")
    if subject.build().names() != found:
        raise Failed("built twice, it has other names", "the same, in a fixed order", "sort what has no order")
    prompts = vocabulary.prompts()
    if len(prompts) != len(found) or not all(texts and all(isinstance(t, str) for t in texts) for texts in prompts):
        raise Failed(f"prompts() gave {prompts!r:.80}", "at least one text for each name", "give a list for each name")
    known = set(found)
    told = {
        "synonyms": set(vocabulary.synonyms()),
        "parents": set(vocabulary.parents()).union(*vocabulary.parents().values()),
    }
    for what, used in told.items():
        if not used <= known:
            raise Failed(
                f"{what}() speaks of {sorted(used - known)[0]!r}, which is no name", "names only", f"correct {what}()"
            )


def own_name_nearest(subject: Subject) -> None:
    vocabulary = subject.component
    vectors = vocabulary.vectors
    shape = (len(vocabulary.listed), subject.ports["text"].space.dim)
    if tuple(vectors.shape) != shape:
        raise Failed(f"its vectors are {tuple(vectors.shape)}", f"{shape}, one a name", "let `index` make them")
    if not torch.allclose(vectors.norm(dim=1), torch.ones(len(vectors), device=vectors.device), atol=1e-4):
        raise Failed("its vectors are not of length 1", "unit vectors, compared by cosine", "normalise them")
    keys = tuple(str(row) for row in range(len(vectors)))
    found = vocabulary.nearest(Embeddings(vectors, subject.ports["text"], keys), 1)
    for row, ((first,), name) in enumerate(zip(found, vocabulary.listed, strict=True)):
        best = float(vectors[row] @ vectors[vocabulary.listed.index(first.name)])
        if first.name != name and best < 1 - 1e-4:  # two names may have the very same vector
            raise Failed(
                f"nearest to {name!r} itself is {first.name!r}", "the name itself", "keep rows and names together"
            )


CHECKS = (
    Check("names", ("vocabulary",), "its names are each there once, in a fixed order", names),
    Check("own_name_nearest", ("vocabulary",), "nearest to a name's own vector is the name", own_name_nearest),
)
