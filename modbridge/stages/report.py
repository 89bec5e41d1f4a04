"""Stage report: the run folder, which says everything that a reader or `modbridge.load` needs.

config.yaml (as given), resolved.json, versions.json, run.json (seeds, fingerprints, cells), metrics.jsonl,
predictions.jsonl, table.json, table.md, figures/, report.html and artefacts/.
"""

from __future__ import annotations

import base64
import html
import io
import json
import os
import shutil
from collections.abc import Mapping, Sequence
from importlib import metadata
from pathlib import Path
from typing import Any

from safetensors.torch import save_file

from modbridge.assembly.experiment import Cell, Experiment
from modbridge.assembly.session import TRAINING_LOG, Session
from modbridge.config.pipeline import dump
from modbridge.errors import ArtefactError, DataError, SetupError
from modbridge.figures import Clouds, draw_clouds
from modbridge.geometry import unit
from modbridge.media import load_image
from modbridge.spaces import Embeddings
from modbridge.stages.embed import embeddings
from modbridge.stages.fit_bridge import fitted_bridge
from modbridge.stages.fit_decoder import fitted_decoder
from modbridge.stages.fit_encoder import encoder_key
from modbridge.stages.generate import Generated, generated
from modbridge.stages.score import references
from modbridge.store.keys import stable_hash
from modbridge.tables import Row, as_html, markdown

RUN = "run.json"
RUN_SCHEMA = 1
SAMPLES = 12
CLOUD = 500
CLOUDS = "clouds.png"
SAMPLE_WIDTH = 128


def write_run(session: Session, experiment: Experiment, rows: Sequence[Row], table: Sequence[Row], out: Path) -> Path:
    """Write the run folder, or leave it as it is if it holds this very result. Gives the path of report.html."""
    cells = experiment.cells
    versions = installed_versions(session)
    keys = {cell.label: generated(session, cell).key for cell in cells}
    result = stable_hash([keys, list(rows), versions, [dump(cell.config) for cell in cells]])
    if (out / RUN).is_file() and (out / "report.html").is_file() and read_run(out).get("result") == result:
        return out / "report.html"
    if out.exists() and any(out.iterdir()) and not (out / RUN).is_file() and not (out / ".modbridge").is_file():
        raise DataError(
            f"{out} exists and is no run of modbridge; nothing was written. Give another folder with --out."
        )
    try:
        (out / "figures").mkdir(parents=True, exist_ok=True)
        (out / ".modbridge").touch()
    except OSError as error:
        raise SetupError(f"the run folder {out} cannot be written ({error}); give another with --out.") from error
    (out / RUN).unlink(missing_ok=True)  # written last: a run folder without it is not finished

    _text(out / "config.yaml", cells[0].document.text)
    _json(out / "resolved.json", {cell.label: dump(cell.config) for cell in cells})
    _json(out / "versions.json", versions)
    _json(out / "table.json", {"rows": list(table), "runs": list(rows)})
    _text(out / "table.md", markdown(table))
    _text(out / "metrics.jsonl", "".join(json.dumps(row) + "\n" for row in [*_training_logs(session), *rows]))
    generations = {cell.label: generated(session, cell) for cell in cells}
    _text(out / "predictions.jsonl", "".join(_prediction_lines(session, cells, generations)))
    placed = {cell.label: _place_artefacts(session, cell, out) for cell in cells}
    draw_clouds([_clouds(cell, generations[cell.label]) for cell in _shown(cells)], out / "figures" / CLOUDS)
    _text(out / "report.html", _html(session, experiment, table, generations, (out / "figures" / CLOUDS).read_bytes()))
    wanted = cells[0].config.main
    # With varied axes a variant has several cells: its first stands for it.
    main = next((cell for cell in cells if f"{cell.label}/".startswith(f"{wanted}/")), cells[0])
    fingerprints = {
        split: session.fingerprint(source)
        for split in ("train", "test")
        if (source := getattr(cells[0].config.data, split)) is not None
    }
    _json(
        out / RUN,
        {
            "schema": RUN_SCHEMA,
            "name": cells[0].config.name,
            "result": result,
            "main": main.label,
            "cells": placed,
            "seeds": sorted({cell.config.seed for cell in cells}),
            "fingerprints": fingerprints,
            "command": "modbridge run config.yaml",
        },
    )
    return out / "report.html"


def read_run(folder: Path) -> dict[str, Any]:
    """A run folder's run.json. Raises DataError or ArtefactError if it is none, unfinished, or of a newer schema."""
    if not folder.is_dir():
        raise DataError(f"the run {folder} does not exist. Expected a folder that `modbridge run` wrote.")
    if not (folder / RUN).is_file():
        raise ArtefactError(f"{folder} holds no finished run: {RUN} is missing. Run the config again; it goes on.")
    try:
        run = json.loads((folder / RUN).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ArtefactError(f"{folder / RUN} is damaged ({error}); run the config again.") from None
    if run.get("schema", 0) > RUN_SCHEMA:
        raise ArtefactError(
            f"{folder} was written by a newer modbridge (schema {run['schema']}, this one reads {RUN_SCHEMA}): upgrade."
        )
    return dict(run)


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
    folders = {
        "bridge": fitted_bridge(session, cell, cell.config.bridge).folder,
        "decoder": fitted_decoder(session, cell).folder,
    }
    if cell.config.encoder.needs_fit:
        folders["encoder"] = session.cache.path("fit_encoder", encoder_key(session, cell))
    placed: dict[str, Any] = {}
    for kind, folder in folders.items():
        target = out / "artefacts" / f"{kind}-{folder.name}"
        if not target.is_dir():
            beside = target.with_name(f".{target.name}.part")
            shutil.rmtree(beside, ignore_errors=True)
            shutil.copytree(folder, beside, copy_function=_link)
            beside.replace(target)
        placed[kind] = str(target.relative_to(out))
    placed["cloud"] = _place_cloud(embeddings(session, cell, "train", "text"), out)
    placed["encoder_key"] = encoder_key(session, cell)
    return placed


def _link(source: str, target: str) -> None:
    try:
        os.link(source, target)
    except OSError:
        shutil.copy2(source, target)


def _place_cloud(text: Embeddings, out: Path) -> str:
    """The mean of the training texts and a thin sample of them, for `caption --explain`."""
    step = max(1, len(text) // CLOUD)
    values = {"mean": text.values.double().mean(0).cpu(), "sample": text.values[::step].cpu().contiguous()}
    name = f"artefacts/cloud-{stable_hash([text.port.to_json(), len(text)])}.safetensors"
    save_file(values, out / name)
    return name


def _training_logs(session: Session) -> list[Row]:
    lines = []
    for done in {(done.stage, done.key): done for done in session.done}.values():
        file = session.cache.path(done.stage, done.key) / TRAINING_LOG
        if file.is_file():
            texts = file.read_text(encoding="utf-8").splitlines()
            lines += [{"stage": done.stage, "label": done.label, **json.loads(line)} for line in texts]
    return lines


def _prediction_lines(session: Session, cells: Sequence[Cell], generations: Mapping[str, Generated]) -> list[str]:
    lines = []
    for cell in cells:
        generation = generations[cell.label]
        for decoded, reference in zip(generation.predictions, references(session, cell, generation), strict=True):
            line = {
                "cell": cell.label,
                "key": decoded.key,
                "text": decoded.text,
                "score": decoded.score,
                "references": list(reference.texts),
            }
            lines.append(json.dumps(line, ensure_ascii=False) + "\n")
    return lines


def _shown(cells: Sequence[Cell]) -> list[Cell]:
    """One cell for each bridge, the ones whose clouds are drawn."""
    by_bridge: dict[str, Cell] = {}
    for cell in cells:
        if cell.config.evaluate.input == "source":
            by_bridge.setdefault(stable_hash(dump(cell.config.bridge)), cell)
    return list(by_bridge.values())[:6] or list(cells[:1])


def _clouds(cell: Cell, generation: Generated) -> tuple[str, Clouds]:
    """One panel: the held-out media, their captions, and (where they are raw vectors) the bridged ones."""
    vectors = generation.crossed
    clouds = {vectors.source.port.modality: vectors.source, "text": vectors.text}
    if cell.config.bridge.type != "identity" and vectors.bridged.port.frame == "raw":
        clouds["bridged"] = vectors.bridged
    return cell.config.bridge.type, {name: unit(found.values.cpu()) for name, found in clouds.items()}


def _html(
    session: Session,
    experiment: Experiment,
    table: Sequence[Row],
    generations: Mapping[str, Generated],
    clouds: bytes,
) -> str:
    cell = experiment.first
    return _PAGE.format(
        name=html.escape(cell.config.name),
        table=as_html(table),
        clouds=_inline(clouds),
        samples=_samples(session, experiment, generations),
        config=html.escape(cell.document.text),
    )


def _samples(session: Session, experiment: Experiment, generations: Mapping[str, Generated]) -> str:
    cell = experiment.first
    if cell.config.data.train.modality != "image":
        return ""
    source = session.source(cell.config.data.test or cell.config.data.train)
    rows = {key: i for i, key in enumerate(source.keys())}
    captions = {
        label: {decoded.key: decoded.text for decoded in generation.predictions}
        for label, generation in generations.items()
    }
    keys = [decoded.key for decoded in next(iter(generations.values())).predictions][:SAMPLES]
    parts = []
    for key in keys:
        try:
            image = load_image(source.media(rows[key])).copy()
        except DataError:
            continue  # text-only sources have captions to show, but no pictures
        image.thumbnail((256, 256))
        buffer = io.BytesIO()
        image.save(buffer, "PNG")
        lines = "".join(
            f"<tr><th>{html.escape(label)}</th><td>{html.escape(found.get(key, '-'))}</td></tr>"
            for label, found in captions.items()
        )
        truth = "; ".join(source.texts(rows[key]))
        parts.append(
            f"<div class='sample'><img src='{_inline(buffer.getvalue())}' width='{SAMPLE_WIDTH}' "
            f"alt='{html.escape(key)}'>"
            f"<table><tr><th>references</th><td>{html.escape(truth)}</td></tr>{lines}</table></div>"
        )
    return "".join(parts)


def _inline(png: bytes) -> str:
    return "data:image/png;base64," + base64.b64encode(png).decode()


def _text(path: Path, content: str) -> None:
    beside = path.with_name(f".{path.name}.part")
    beside.write_text(content, encoding="utf-8")
    beside.replace(path)


def _json(path: Path, content: Any) -> None:
    _text(path, json.dumps(content, indent=1, ensure_ascii=False) + "\n")


_PAGE = """<!doctype html>
<html lang="en"><meta charset="utf-8"><title>{name} - modbridge</title>
<style>
body {{ font: 15px/1.45 system-ui, sans-serif; max-width: 1100px; margin: 2rem auto; padding: 0 1rem; color: #222 }}
table {{ border-collapse: collapse; margin: 1rem 0 }} th, td {{ padding: .25rem .6rem; text-align: left }}
thead th {{ border-bottom: 2px solid #888 }} tbody tr:nth-child(even) {{ background: #f5f5f5 }}
.note {{ color: #666; margin: .1rem 0 }} .figure {{ max-width: 100% }}
.sample {{ display: flex; gap: 1rem; border-top: 1px solid #ddd; padding: .6rem 0; align-items: flex-start }}
.sample img {{ image-rendering: pixelated; border: 1px solid #ccc }} .sample table {{ margin: 0; font-size: 13px }}
.sample th {{ font-weight: 600; color: #555; white-space: nowrap }} pre {{ background: #f5f5f5; padding: 1rem }}
</style>
<h1>{name}</h1>
{table}
<h2>The clouds</h2>
<p>Held-out vectors. Across: from the mean source vector to the mean text vector. Up: the main direction beside it.</p>
<img class='figure' src='{clouds}' alt='clouds of vectors before and after each bridge'>
<h2>Samples</h2>
{samples}
<h2>Config</h2>
<pre>{config}</pre>
</html>
"""
