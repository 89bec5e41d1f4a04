"""What sources promise: items with keys of their own, the same every time, in shards, and for worker processes."""

from __future__ import annotations

import pickle
from collections.abc import Mapping, Sequence

from modbridge.testing.conformance.compare import content_hash
from modbridge.testing.conformance.outcome import Check, Failed
from modbridge.testing.conformance.subject import Subject

SHARDS = 2
LOOKED_AT = 3  # items whose media are read


def items(subject: Subject) -> None:
    source = subject.component
    keys = source.keys()
    listed = isinstance(keys, Sequence) and not isinstance(keys, str)
    if not listed or not keys or not all(isinstance(key, str) and key for key in keys):
        raise Failed(f"keys() gave {keys!r:.80}", "a list of at least one id, each a str", "name items by str ids")
    if len(set(keys)) != len(keys):
        double = next(key for key in keys if keys.count(key) > 1)
        raise Failed(f"two items have the key {double!r}", "a key for each item", "see interfaces.check_keys")
    if len(source) != len(keys):
        raise Failed(f"len() says {len(source)}, keys() lists {len(keys)}", "one number", "leave __len__ out")
    for row, key in enumerate(keys):
        texts = source.texts(row)
        if not isinstance(texts, tuple) or not all(isinstance(text, str) and text.strip() for text in texts):
            raise Failed(f"texts of {key!r}: {texts!r:.80}", "a tuple of str, none of them empty", "give such a tuple")
        if texts and not subject.config.captioned:
            raise Failed(
                f"the item {key!r} has texts, though the config's `captioned` says there are none",
                "an answer that holds, since plans rely on it",
                "let `captioned` follow the fields that decide it",
            )
        if not 0 <= source.embedded_texts(row) <= len(texts) and subject.config.captioned:
            raise Failed(
                f"{source.embedded_texts(row)} of {len(texts)} texts of {key!r} are embedded",
                "no more than there are",
                "correct embedded_texts",
            )
        if not isinstance(source.facts(row), Mapping):
            raise Failed(f"facts of {key!r}: {source.facts(row)!r:.80}", "a mapping", "give a dict")
    if subject.config.captioned and not any(source.texts(row) for row in range(len(keys))):
        raise Failed(
            "no item of the example has a text, though the config's `captioned` says they bring some",
            "an answer that holds, and an example with captions",
            "correct `captioned`, or give an example that has captions",
        )


def repeatable(subject: Subject) -> None:
    one, other = subject.component, subject.build()
    for what, first, second in (
        ("fingerprints", one.fingerprint(), other.fingerprint()),
        ("keys", one.keys(), other.keys()),
        ("texts", [one.texts(i) for i in range(len(one))], [other.texts(i) for i in range(len(other))]),
        ("media", _media(one), _media(other)),
        ("media asked for again", _media(one), _media(one)),
    ):
        if first != second:
            raise Failed(
                f"built twice from one config, it has other {what}",
                "the same items every time, in the same order",
                "sort what a folder lists; draw from (seed, key) by modbridge.noise, not from a shared generator",
            )
    if not isinstance(one.fingerprint(), str) or not one.fingerprint():
        raise Failed(f"fingerprint() gave {one.fingerprint()!r}", "a hash of the content, as a str", "hash the content")


def shards(subject: Subject) -> None:
    source = subject.component
    parts = [source.shard(index, SHARDS) for index in range(SHARDS)]
    found = sorted(key for part in parts for key in part.keys())  # noqa: SIM118 (a method of sources)
    if found != sorted(source.keys()):
        raise Failed(
            f"{SHARDS} shards hold {len(found)} items, the source {len(source)}",
            "that shards part the items among them",
            "leave `shard` to the base class",
        )
    for one in (source, *parts):
        blocks = list(one.blocks())
        if blocks[:1] != [0] or blocks != sorted(set(blocks)) or blocks[-1] >= max(1, len(one)):
            raise Failed(
                f"blocks() gave {blocks!r:.80} of {len(one)} items",
                "the first row of each block, rising from 0",
                "leave `blocks` out unless rows lie together on disk",
            )
    texts = dict(zip(source.keys(), (source.texts(row) for row in range(len(source))), strict=True))
    for part in parts:
        for row, key in enumerate(part.keys()):
            if part.texts(row) != texts[key]:
                raise Failed(
                    f"in a shard, {key!r} has other texts", "the item's own", "leave `shard` to the base class"
                )


def travels(subject: Subject) -> None:
    source = subject.component
    try:
        other = pickle.loads(pickle.dumps(source))
        same = other.keys() == source.keys() and _media(other) == _media(source)
    except Exception as error:
        raise Failed(
            f"it cannot be sent to a worker process: {type(error).__name__}: {error}",
            "that it can be pickled, since workers read its media",
            "keep paths and numbers, and open files in `media`; no open files, locks or lambdas as attributes",
        ) from error
    if not same:
        raise Failed("sent to another process, it has other items", "the same", "keep all state in attributes")


def _media(source: object) -> list[str]:
    return [content_hash(source.media(row)) for row in range(min(LOOKED_AT, len(source)))]  # type: ignore[attr-defined, arg-type]


SOURCE = ("source",)
CHECKS = (
    Check("items", SOURCE, "its items have keys of their own, and texts and facts of the right form", items),
    Check("repeatable", SOURCE, "it gives the same items every time", repeatable),
    Check("shards", SOURCE, "shards part its items among them, and say where blocks begin", shards),
    Check("travels", SOURCE, "it can be sent to worker processes", travels),
)
