"""Stage generate: a caption for every held-out item, decoded from its bridged vector; or an image, by a decoder that
makes images.

A task is a chunk of items. Whoever does it writes their captions into a file of the stage's folder, and images beside.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from PIL import Image
from safetensors import safe_open
from safetensors.torch import save_file

from modbridge.assembly.elsewhere import require_token, token_in
from modbridge.assembly.experiment import Cell
from modbridge.assembly.session import Session
from modbridge.config.kinds import DecoderConfig
from modbridge.config.objectives import trained_objectives
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.decoder import Decoded, Decoder
from modbridge.interfaces.engine import Work
from modbridge.spaces import Embeddings, Port
from modbridge.stages.cross import Crossed, crossed
from modbridge.stages.fit_decoder import FittedDecoder, decoder_key, fitted_decoder, required_decoder
from modbridge.stages.fit_objective import objective_folder
from modbridge.stages.select import unscored_texts
from modbridge.store.artefact import link, load_component, load_objectives, part_of, read_manifest, write_manifest
from modbridge.store.keys import stable_hash

PREDICTIONS = "predictions.jsonl"
VECTORS = "vectors.safetensors"
IMAGES = "images"
CHUNK = 512


@dataclass(frozen=True)
class Generated:
    """Captions in the order of the held-out items, the key that decides them, and the vectors they came from. Of a
    decoder that makes images `images` are their files, in that order, and no array is read."""

    predictions: list[Decoded]
    key: str
    crossed: Crossed
    images: tuple[Path, ...] = ()


def generated(session: Session, cell: Cell) -> Generated:
    """The held-out items' captions, made once. Goes on after the last finished chunk if it was interrupted."""
    config = required_decoder(cell)
    vectors = crossed(session, cell)
    parts = [decoder_key(session, cell), config.key_fields("decode"), vectors.key, cell.config.seed]
    if config.reads_references:
        parts += [cell.config.evaluate.caption, cell.config.evaluate.references]
    key = stable_hash(parts)

    def build(out: Path, work: Path) -> None:
        fitted = fitted_decoder(session, cell)
        told = None
        if config.reads_references:
            told = unscored_texts(session, cell, cell.config.data.test or cell.config.data.train)
            fitted.decoder.tell(told)
        parts = _written(session, cell, fitted, told, vectors, work)
        text = "".join((work / part).read_text(encoding="utf-8") for part in parts)
        (out / PREDICTIONS).write_text(text, encoding="utf-8")
        if config.makes == "image":  # not moved: killed between here and the end, they are taken from `work` again
            shutil.copytree(work / IMAGES, out / IMAGES, copy_function=link)
        write_manifest(out, {"kind": "predictions", "type": config.type, "decoder": fitted.folder.name})

    folder = session.stage("generate", key, cell.label, build)
    read_manifest(folder)
    lines = [json.loads(line) for line in (folder / PREDICTIONS).read_text(encoding="utf-8").splitlines()]
    images = tuple(folder / name for line in lines if (name := line.pop("image", None)))
    return Generated([Decoded(**line) for line in lines], key, vectors, images)


def _written(
    session: Session,
    cell: Cell,
    fitted: FittedDecoder,
    told: Mapping[str, Sequence[str]] | None,
    vectors: Crossed,
    work: Path,
) -> list[str]:
    """The files of all chunks in `work`, in their order. Those that are there already are left as they are."""
    engine, decoder, total = session.engine, fitted.decoder, len(vectors.bridged)
    source = None if cell.config.evaluate.input == "text" else vectors.source
    size = max(CHUNK // decoder.batch_size, 1) * decoder.batch_size
    chunks = [range(at, min(at + size, total)) for at in range(0, total, size)]
    names = {rows: f"captions-{rows.start:09d}-{rows.stop:09d}.jsonl" for rows in chunks}
    there = set(os.listdir(work))
    left = [rows for rows in chunks if names[rows] not in there]
    with ExitStack() as stack:
        progress = stack.enter_context(session.talk.progress("generate", total, total - sum(map(len, left))))
        seeds = cell.config.seed, cell.config.pretraining_seed
        given = Given(required_decoder(cell), cell.config.device, *seeds, work.resolve())
        if engine.in_process:
            about: tuple[Any, ...] = (session, given, Here(decoder, vectors.bridged, source), None)
        else:
            token = stack.enter_context(token_in(work))
            ports = (vectors.bridged.port, None if source is None else source.port)
            given_to = {"bridged": vectors.bridged, **({} if source is None else {"source": source})}
            tensors = {name: found.values for name, found in given_to.items()}
            tensors |= {f"{name}_mask": found.mask for name, found in given_to.items() if found.mask is not None}
            save_file({name: values.detach().cpu().contiguous() for name, values in tensors.items()}, work / VECTORS)
            built = dict(decoder.context.ports)
            objectives = {
                name: objective_folder(session, cell, part).resolve()
                for name, part in trained_objectives(decoder.config)
            }
            elsewhere = Elsewhere(token, fitted.folder.resolve(), built, ports, told, objectives)
            about = (session, given, None, elsewhere)
        tasks = [Chunk(names[rows], rows, vectors.bridged.keys[rows.start : rows.stop]) for rows in left]
        for number, _ in engine.map(open_decoder, about, tasks) if tasks else ():
            progress.advance(len(left[number]))
    return list(names.values())


@dataclass(frozen=True)
class Chunk:
    """Items to be captioned: the file that their captions go to, their rows, and their keys."""

    name: str
    rows: range
    keys: tuple[str, ...]


@dataclass(frozen=True)
class Given:
    """What every worker is told: the decoder, where it works, its seed and that of the parts that it shares with
    others, and the folder of the captions' files."""

    config: DecoderConfig
    device: str
    seed: int
    shared_seed: int
    work: Path


@dataclass(frozen=True)
class Here:
    """What a worker in the process that asked need not load again."""

    decoder: Decoder[Any]
    bridged: Embeddings
    source: Embeddings | None


@dataclass(frozen=True)
class Elsewhere:
    """What a worker elsewhere loads from the cache: the decoder of `folder`, built at `built`, and its vectors, which
    have the ports `ports` (bridged, source). `told`: references that the decoder is to be told. `objectives`: the
    folders of the trained ones inside it."""

    token: Path
    folder: Path
    built: dict[str, Port]
    ports: tuple[Port, Port | None]
    told: Mapping[str, Sequence[str]] | None
    objectives: Mapping[str, Path]


def open_decoder(session: Session, given: Given, here: Here | None, elsewhere: Elsewhere | None) -> Work:
    """What writes the captions of chunks into their files. Raises SetupError where a worker does not see the cache."""
    config = given.config
    if elsewhere is None:
        assert here is not None
        decoder, vectors = here.decoder, partial(_selected, here)
    else:
        require_token(elsewhere.token)
        decoder = _loaded(session, given, elsewhere)
        vectors = partial(_read, given.work / VECTORS, elsewhere.ports)

    def write(chunks: Sequence[Chunk]) -> Iterator[None]:
        for chunk in chunks:
            if not (given.work / chunk.name).is_file():  # its worker may have been lost after it was written
                bridged, source = vectors(chunk)
                with session.guard(config, "decoder", "it wrote captions"):
                    found = decoder.decode(bridged, source=source, seed=given.seed)
                lines = [_plain(one, row, given.work) for one, row in zip(found, chunk.rows, strict=True)]
                beside = part_of(given.work / chunk.name)
                beside.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
                beside.replace(given.work / chunk.name)
            yield None

    return write


def _loaded(session: Session, given: Given, elsewhere: Elsewhere) -> Decoder[Any]:
    device = session.torch_device(given.device)
    context = BuildContext(device=device, seed=given.seed, ports=elsewhere.built, artefact=elsewhere.folder)
    decoder: Decoder[Any] = session.build(given.config, "decoder", context, seed=given.shared_seed)
    load_objectives(decoder, lambda name: elsewhere.objectives[name])
    load_component(decoder, elsewhere.folder)
    if elsewhere.told is not None:
        decoder.tell(elsewhere.told)
    return decoder


def _selected(here: Here, chunk: Chunk) -> tuple[Embeddings, Embeddings | None]:
    return here.bridged.select(chunk.rows), None if here.source is None else here.source.select(chunk.rows)


def _read(file: Path, ports: tuple[Port, Port | None], chunk: Chunk) -> tuple[Embeddings, Embeddings | None]:
    rows = slice(chunk.rows.start, chunk.rows.stop)
    with safe_open(file, framework="pt") as opened:

        def read(name: str, port: Port) -> Embeddings:
            mask = opened.get_slice(f"{name}_mask")[rows] if port.ragged else None
            return Embeddings(opened.get_slice(name)[rows], port, chunk.keys, mask=mask)

        bridged, source = ports
        return read("bridged", bridged), None if source is None else read("source", source)


def _plain(decoded: Decoded, row: int, folder: Path) -> dict[str, object]:
    """A line of the file of predictions. An image is written into the folder, under the number of its item."""
    line: dict[str, object] = {"key": decoded.key, "text": decoded.text, "score": decoded.score}
    line["details"] = dict(decoded.details)
    if decoded.image is None:
        return line
    name = f"{IMAGES}/{row:09d}.png"
    (folder / IMAGES).mkdir(exist_ok=True)
    Image.fromarray(decoded.image).save(folder / name)
    return {**line, "image": name}
