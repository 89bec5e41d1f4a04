"""Stage report: the run folder, which says everything that a reader or `modbridge.load` needs.

config.yaml (as given), resolved.json, versions.json, run.json (seeds, fingerprints, cells), metrics.jsonl,
predictions.jsonl, table.json, table.md, figures/, report.html and artefacts/; of further decoders
predictions-<name>.jsonl and images/.
"""

from __future__ import annotations

import html
import json
import shutil
from collections.abc import Mapping, Sequence
from contextlib import suppress
from importlib import metadata
from pathlib import Path
from types import MappingProxyType
from typing import Any

from safetensors.torch import save_file

from modbridge import rendering
from modbridge.assembly.experiment import Cell, Experiment
from modbridge.assembly.session import TRAINING_LOG, Session
from modbridge.config.objectives import trained_objectives
from modbridge.config.pipeline import dump
from modbridge.errors import ArtefactError, DataError, SetupError
from modbridge.figures import Clouds, draw_clouds
from modbridge.geometry import Statistics, pooled, unit
from modbridge.stages.conditioning import Conditioning
from modbridge.stages.embed import embed_key, embeddings
from modbridge.stages.fit_bridge import fitted_bridge
from modbridge.stages.fit_decoder import decoder_key, fitted_decoder
from modbridge.stages.fit_encoder import encoder_key, plan_of
from modbridge.stages.fit_objective import objective_folder
from modbridge.stages.generate import IMAGES, Generated, generated
from modbridge.stages.pages import STYLE, inline_png, write_json, write_text
from modbridge.stages.samples import samples_html
from modbridge.stages.score import held_out_references
from modbridge.stages.select import needs
from modbridge.stages.tune import tuned_folder
from modbridge.store.artefact import link
from modbridge.store.keys import stable_hash
from modbridge.tables import Row, as_html, beside, markdown

RUN, GAP, COMPARISON = "run.json", "gap.json", "compare.json"
RECORDS = {RUN: "a run", GAP: "a gap report", COMPARISON: "a comparison"}
MARKER = ".modbridge"
FILES = ("config.yaml", "resolved.json", "table.json", "metrics.jsonl", "predictions.jsonl", "report.html")
FITTED = ("encoder", "augmenter", "bridge", "decoder")
RUN_SCHEMA = 1
UNTUNED = "untuned."  # parts as they were before `tune`, which further decoders read
CLOUD = 500
CLOUDS = "clouds.png"
TOLD = "What the embeddings tell"


def write_run(
    session: Session,
    experiment: Experiment,
    rows: Sequence[Row],
    table: Sequence[Row],
    out: Path,
    taught: Mapping[str, Conditioning] = MappingProxyType({}),
) -> Path:
    """Write the run folder, or leave it as it is if it holds this very result. Gives the path of report.html. `taught`:
    what the embeddings of encoders tell the objectives that teach them, by cell."""
    cells = experiment.cells
    versions = installed_versions(session)
    others = {cell.label: {name: generated(session, one) for name, one in cell.others.items()} for cell in cells}
    keys = {cell.label: generated(session, cell).key for cell in cells}
    keys |= {f"{label} / {name}": found.key for label, of in others.items() for name, found in of.items()}
    told = {label: found.to_json() for label, found in taught.items()}
    result = stable_hash([keys, list(rows), versions, [dump(cell.config) for cell in cells], *([told] if told else [])])
    named = list(dict.fromkeys(name for found in others.values() for name in found))
    beside_them = [f"predictions-{name}.jsonl" for name in named] + [
        _images_folder(name, found) for of in others.values() for name, found in of.items() if found.images
    ]
    if _holds(out, result, beside_them):
        return out / "report.html"
    claim_folder(out)
    (out / RUN).unlink(missing_ok=True)  # written last: a run folder without it is not finished

    write_text(out / "config.yaml", cells[0].document.text)
    write_json(out / "resolved.json", {cell.label: dump(cell.config) for cell in cells})
    write_json(out / "versions.json", versions)
    first = cells[0].config
    tables = {"rows": list(table), "runs": list(rows), "reported": dump(first.reported)}
    write_json(out / "table.json", {**tables, **({"conditioning": told} if told else {})})
    below = [rendering.markdown(found.table(f"{TOLD}: {label}")) for label, found in taught.items()]
    write_text(out / "table.md", "\n".join([markdown(*beside(table, first.reported, first.name)), *below]))
    placed = {cell.label: _place_artefacts(session, cell, out) for cell in cells}
    lines = [*_training_logs(out, placed), *rows]
    write_text(out / "metrics.jsonl", "".join(json.dumps(line) + "\n" for line in lines))
    generations = {cell.label: generated(session, cell) for cell in cells}
    write_text(out / "predictions.jsonl", "".join(_prediction_lines(session, cells, generations)))
    for old in out.glob("predictions-*.jsonl"):
        old.unlink()
    for name in named:
        write_text(out / f"predictions-{name}.jsonl", "".join(_other_lines(name, others, out)))
    draw_clouds([_clouds(cell, generations[cell.label]) for cell in _shown(cells)], out / "figures" / CLOUDS)
    write_text(
        out / "report.html",
        _html(session, experiment, table, generations, others, (out / "figures" / CLOUDS).read_bytes(), taught),
    )
    wanted = first.main
    # With varied axes a variant has several cells: its first stands for it.
    main = next((cell for cell in cells if f"{cell.label}/".startswith(f"{wanted}/")), cells[0])
    fingerprints = {
        split: session.fingerprint(source)
        for split in ("train", "unpaired", "validation", "test")
        if (source := getattr(cells[0].config.data, split)) is not None
    }
    write_json(
        out / RUN,
        {
            "schema": RUN_SCHEMA,
            "name": cells[0].config.name,
            "result": result,
            "main": main.label,
            "cells": placed,
            "seeds": sorted({cell.config.seed for cell in cells}),
            "fingerprints": fingerprints,
            "needs": {cell.label: needs(cell) for cell in cells},
            "command": "modbridge run config.yaml",
        },
    )
    return out / "report.html"


def claim_folder(out: Path, record: str = RUN) -> None:
    """Make a result's folder, or refuse it: DataError if it holds something else, SetupError if it cannot be written.

    `record` is the file that says which result it is: run.json, gap.json or compare.json. Called before any
    work, so that nothing is computed for a folder that cannot take it.
    """
    marker = out / MARKER
    taken = out.exists() and (not out.is_dir() or any(out.iterdir()))
    holds = (marker.read_text("utf-8").strip() or RUN) if marker.is_file() else None
    holds = holds or next((name for name in RECORDS if (out / name).is_file()), None)
    if taken and holds != record:
        found = f"holds {RECORDS.get(holds, holds)}" if holds else "exists and is no folder of modbridge's"
        raise DataError(
            f"{out} {found}, where {RECORDS[record]} should go; nothing was written. Give another folder with --out."
        )
    if (out / RUN).is_file():
        with suppress(ArtefactError):  # a damaged run is written anew; one of a newer schema is refused
            if _run_record(out).get("schema", 0) > RUN_SCHEMA:
                read_run(out)
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        if not marker.is_file():
            marker.write_text(f"{record}\n", encoding="utf-8")
    except OSError as error:
        raise SetupError(f"the folder {out} cannot be written ({error}); give another with --out.") from error


def _holds(out: Path, result: str, more: Sequence[str]) -> bool:
    """Whether the folder holds this very result, whole: `more` beside what every run has."""
    try:
        run = read_run(out)
    except (ArtefactError, DataError):
        return False
    placed = [path for cell in run["cells"].values() for kind, path in cell.items() if kind != "encoder_key"]
    return run.get("result") == result and all((out / name).exists() for name in (*FILES, *placed, *more))


def read_run(folder: Path) -> dict[str, Any]:
    """A run folder's run.json. Raises DataError or ArtefactError if it is none, unfinished, or of a newer schema."""
    if not folder.is_dir():
        raise DataError(f"the run {folder} does not exist. Expected a folder that `modbridge run` wrote.")
    if not (folder / RUN).is_file():
        raise ArtefactError(f"{folder} holds no finished run: {RUN} is missing. Run the config again; it goes on.")
    run = _run_record(folder)
    if run.get("schema", 0) > RUN_SCHEMA:
        raise ArtefactError(
            f"{folder} was written by a newer modbridge (schema {run['schema']}, this one reads {RUN_SCHEMA}): upgrade."
        )
    if not isinstance(run.get("cells"), dict) or run.get("main") not in run["cells"]:
        raise ArtefactError(f"{folder / RUN} is damaged (it names no cells); run the config again.")
    return run


def _run_record(folder: Path) -> dict[str, Any]:
    try:
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtefactError(f"{folder / RUN} is damaged ({error}); run the config again.") from None
    if not isinstance(run, dict):
        raise ArtefactError(f"{folder / RUN} is damaged (expected an object); run the config again.")
    return run


def installed_versions(session: Session) -> dict[str, str]:
    """The versions of modbridge, its plugins and what they build on."""
    names = {"modbridge", "torch", "numpy", "safetensors", "transformers", "open-clip-torch", "pycocoevalcap"}
    names |= {info.distribution for info in session.plugins.infos if info.status == "loaded"}
    found = {}
    for name in sorted(names):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def _place_artefacts(session: Session, cell: Cell, out: Path) -> dict[str, Any]:
    """Put the cell's artefacts into the run folder (hard links where the disk allows), so that it stands alone."""
    config = cell.config
    folders = {
        "augmenter": fitted_bridge(session, cell, config.augmenter).folder,
        "bridge": fitted_bridge(session, cell, config.bridge).folder,
        "decoder": fitted_decoder(session, cell).folder,
    }
    if config.tunes("encoder"):
        folders["encoder"] = tuned_folder(session, cell, "encoder")
    elif config.encoder.needs_fit:
        folders["encoder"] = session.cache.path("fit_encoder", encoder_key(session, cell))
    if config.tune and cell.others:  # what these read
        start = cell.untuned
        folders[f"{UNTUNED}bridge"] = fitted_bridge(session, start, config.bridge).folder
        if config.encoder.needs_fit:
            folders[f"{UNTUNED}encoder"] = session.cache.path("fit_encoder", encoder_key(session, start))
    holders: dict[str, Any] = {kind: getattr(config, kind) for kind in ("encoder", "bridge", "decoder")}
    for name, other in cell.others.items():
        key = decoder_key(session, other)  # it is loaded only where it has to be made: it may be large
        there = session.cache.has("fit_decoder", key)
        folders[f"decoders.{name}"] = (
            session.cache.path("fit_decoder", key) if there else fitted_decoder(session, other).folder
        )
        holders[f"decoders.{name}"] = config.decoders[name]
    for holder, part in holders.items():
        for name, objective in trained_objectives(part):
            folders[f"{holder}.{name}"] = objective_folder(session, cell, objective)
    placed: dict[str, Any] = {}
    for kind, folder in folders.items():
        name = "-".join(folder.relative_to(session.cache.root).parts).removeprefix("fit_")
        target = out / "artefacts" / name
        if not target.is_dir():
            beside = target.with_name(f".{target.name}.part")
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(folder, beside, copy_function=link)
            beside.replace(target)
        placed[kind] = str(target.relative_to(out))
    if plan_of(session, cell).text.tokens is None:
        placed["cloud"] = _place_cloud(session, cell, out)
    placed["encoder_key"] = encoder_key(session, cell)
    return placed


def _place_cloud(session: Session, cell: Cell, out: Path) -> str:
    """The mean of the training texts and a thin sample of them, for `caption --explain`."""
    name = f"artefacts/cloud-{embed_key(session, cell, 'train', 'text')}.safetensors"
    if not (out / name).is_file():
        text = embeddings(session, cell, "train", "text").values
        step = max(1, len(text) // CLOUD)
        beside = out / f"{name}.part"
        save_file({"mean": Statistics.of(text).mean, "sample": text[::step].cpu().contiguous()}, beside)
        beside.replace(out / name)
    return name


def _training_logs(out: Path, placed: Mapping[str, Mapping[str, Any]]) -> list[Row]:
    """What was logged while the run's parts were fitted, each part once."""
    lines: list[Row] = []
    each = [(cell, (*FITTED, *(kind for kind in cell if "." in kind))) for cell in placed.values()]
    for name in dict.fromkeys(cell[kind] for cell, kinds in each for kind in kinds if kind in cell):
        file = out / name / TRAINING_LOG
        if file.is_file():
            lines += [{"part": name, **json.loads(line)} for line in file.read_text(encoding="utf-8").splitlines()]
    return lines


def _prediction_lines(session: Session, cells: Sequence[Cell], generations: Mapping[str, Generated]) -> list[str]:
    lines = []
    for cell in cells:
        generation = generations[cell.label]
        judged_by = held_out_references(session, cell, generation)
        for decoded, reference in zip(generation.predictions, judged_by, strict=True):
            line = {
                "cell": cell.label,
                "key": decoded.key,
                "text": decoded.text,
                "score": decoded.score,
                "references": list(reference.texts),
                **({"details": dict(decoded.details)} if decoded.details else {}),
            }
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return lines


def _other_lines(name: str, others: Mapping[str, Mapping[str, Generated]], out: Path) -> list[str]:
    """What one of the further decoders made of every item, in every cell; images go into the run folder."""
    lines = []
    for label, found in others.items():
        if name not in found:
            continue
        generation = found[name]
        images: list[str | None] = [None] * len(generation.predictions)
        if generation.images:
            folder = out / _images_folder(name, generation)
            if not folder.is_dir():
                folder.parent.mkdir(exist_ok=True)
                beside = folder.with_name(f".{folder.name}.part")
                shutil.rmtree(beside, ignore_errors=True)
                shutil.copytree(generation.images[0].parent, beside, copy_function=link)
                beside.replace(folder)
            images = [str((folder / image.name).relative_to(out)) for image in generation.images]
        for decoded, image in zip(generation.predictions, images, strict=True):
            line = {"cell": label, "key": decoded.key, "text": decoded.text, "score": decoded.score, "image": image}
            told = {"details": dict(decoded.details)} if decoded.details else {}
            lines.append(json.dumps({k: v for k, v in line.items() if v is not None} | told, ensure_ascii=False) + "\n")
    return lines


def _images_folder(name: str, generation: Generated) -> str:
    return f"{IMAGES}/{name}-{generation.key}"


def _shown(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each bridge, the ones whose clouds are drawn."""
    by_bridge: dict[str, Cell] = {}
    for cell in cells:
        if cell.config.evaluate.input == "source":
            by_bridge.setdefault(stable_hash(dump(cell.config.bridge)), cell)
    return list(by_bridge.values())[:6] or list(cells[:1])


def _clouds(cell: Cell, generation: Generated) -> tuple[str, Clouds]:
    """One panel: the held-out media, their captions, and (if they are raw vectors of that space) the bridged ones. Of
    sequences the means."""
    vectors = generation.crossed
    clouds = {vectors.source.port.modality: vectors.source, "text": vectors.text}
    port = vectors.bridged.port
    if cell.config.bridge.type != "identity" and port.frame == "raw" and port.space == vectors.text.port.space:
        clouds["bridged"] = vectors.bridged
    return cell.config.bridge.type, {name: unit(pooled(found).cpu()) for name, found in clouds.items()}


def _html(
    session: Session,
    experiment: Experiment,
    table: Sequence[Row],
    generations: Mapping[str, Generated],
    others: Mapping[str, Mapping[str, Generated]],
    clouds: bytes,
    taught: Mapping[str, Conditioning],
) -> str:
    cell = experiment.first
    return _PAGE.format(
        style=STYLE,
        name=html.escape(cell.config.name),
        table=as_html(*beside(table, cell.config.reported, cell.config.name)),
        told=_told_html(taught),
        clouds=inline_png(clouds),
        samples=samples_html(session, experiment, generations, others),
        config=html.escape(cell.document.text),
    )


def _told_html(taught: Mapping[str, Conditioning]) -> str:
    """What embeddings tell the objectives that teach encoders; nothing where there are none."""
    if not taught:
        return ""
    tables = "".join(rendering.as_html(found.table(label)) for label, found in taught.items())
    return f"<h2>{TOLD}</h2>\n<p>{_TOLD}</p>\n{tables}"


_TOLD = (
    "The mean loss, on held-out items, of the objective that teaches the encoder, told of each item by something else "
    "under the same noise. Gap closed: the share of the way from the empty caption to the true one."
)
_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name} - modbridge</title>
<style>
{style}.sample {{ display: flex; gap: 1rem; border-top: 1px solid #ddd; padding: .6rem 0; align-items: flex-start }}
.sample audio {{ flex: none; width: 240px }}
.sample img {{ flex: none; image-rendering: pixelated; border: 1px solid #ccc }}
.sample figure {{ margin: 0; flex: none; text-align: center; font-size: 12px; color: #555 }}
.sample table {{ margin: 0; font-size: 13px }}
.sample th {{ font-weight: 600; color: #555; white-space: nowrap }}
</style>
<h1>{name}</h1>
{table}
{told}<h2>The clouds</h2>
<p>Held-out vectors. Across: from the mean source vector to the mean text vector. Up: the main direction beside it.</p>
<img class='figure' src='{clouds}' alt='clouds of vectors before and after each bridge'>
<h2>Samples</h2>
{samples}
<h2>Config</h2>
<pre>{config}</pre>
</html>
"""
