"""modbridge import-weights viecap: a checkpoint of the ViECap authors, as the writer of our entity-prompt decoder.

Their file holds the soft prompt and the tuned language model, which together are a `prefix_lm` of ours. All else that
makes ViECap (vocabulary, thresholds, the order of words and vectors) is in their scripts, so in our configs.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import click

SPACE, DIM = "open_clip/ViT-B-32/openai", 512
# The authors' scripts; of the file's own training nothing is known. (Flickr30k: 30 epochs.)
AUTHORS_TRAINING = {"epochs": 15.0, "batch_size": 80, "lr": 2e-5, "weight_decay": 0.0, "warmup": 5000}
TEMPLATES = {"soft_first": "{prefix}{hint}", "hard_first": "{hint}{prefix}", "hard_only": "{hint}"}


@click.command("viecap")
@click.argument("file")
@click.option("--out", required=True, metavar="DIR", help="The artefact's folder; it must not exist.")
@click.option(
    "--lm",
    default="gpt2",
    show_default=True,
    metavar="ID|DIR",
    help="The language model that was tuned, a Hugging Face id or folder; its own weights are replaced.",
)
@click.option(
    "--layout",
    type=click.Choice(list(TEMPLATES)),
    default="soft_first",
    show_default=True,
    help="Where the words stood to the soft prompt. The authors' published runs are all soft_first.",
)
@click.option(
    "--heads",
    type=click.IntRange(1),
    default=8,
    show_default=True,
    help="Attention heads of the soft prompt's transformer; the authors' are 8.",
)
@click.option("--space", default=SPACE, show_default=True, help="The space it was trained in.")
@click.pass_context
def command(ctx: click.Context, file: str, out: str, lm: str, layout: str, heads: int, space: str) -> None:
    """The writer of ViECap from the authors' checkpoint FILE (coco-0014.pt).

    It is for `decoder: {type: viecap, writer: {type: prefix_lm, weights: DIR}, vocabulary: coco}`. The file holds soft
    prompt and language model. It says neither the layout nor the number of heads, and wrong ones give captions without
    any complaint.

    \b
    Examples:
      modbridge import-weights viecap coco-0014.pt --out weights/viecap
      modbridge import-weights viecap opt-0014.pt --lm facebook/opt-125m --layout hard_first --out weights/opt
    """
    from modbridge.cli.state import State
    from modbridge.errors import ConfigError, DataError, Problem
    from modbridge.interfaces import BuildContext
    from modbridge.spaces import Port, Space
    from modbridge.store.artefact import save_component
    from modbridge.store.keys import file_hash
    from modbridge_viecap.checkpoint import fill, read_checkpoint

    folder = Path(out)
    if folder.exists():
        raise DataError(f"{folder} exists; nothing was written. Give another folder with --out.")
    plugins = ctx.ensure_object(State).plugins
    spec = plugins.registry.get("decoder", "prefix_lm")
    found = read_checkpoint(Path(file))
    if found.width % heads:
        problem = f"{heads} do not divide the soft prompt's width {found.width}"
        raise ConfigError([Problem("--heads", problem, hint="every head takes an equal share; the authors' are 8")])
    if space == SPACE and found.dim != DIM:
        problem = f"{file} reads vectors of {found.dim} dimensions, and those of {SPACE} have {DIM}"
        raise ConfigError([Problem("--space", problem, hint="give the space of the encoder that it was trained with")])

    config = spec.load_config().model_validate(
        {
            "type": "prefix_lm",
            "lm": lm,
            "mapper": {
                "type": "transformer",
                "project_length": found.projected,
                "layers": found.layers,
                "heads": heads,
                "ratio": found.ratio,
            },
            "prefix_length": found.length,
            "train_lm": "full",
            "prompt": {"template": TEMPLATES[layout]},
            "end_of_sentence": "authors",
            "generate": {"num_beams": 5, "max_new_tokens": 64, "stop": "."},
            **AUTHORS_TRAINING,
        }
    )
    port = Port(space=Space(id=space, dim=found.dim), modality="text")
    writer = spec.load_impl()(config, BuildContext(ports={"text": port}))
    fill(writer, found, file=file, lm=lm)
    info = next(info for info in plugins.infos if info.name == spec.plugin)
    content: dict[str, Any] = {
        "kind": "decoder",
        "type": config.type,
        "plugin": info.distribution,
        "version": info.version,
        "seed": None,
        "data": "unknown: imported",
        "imported": {"sha256": file_hash(Path(file)), "assumed": {"layout": layout, "heads": heads, "space": space}},
    }
    save_component(writer, folder, content)
    click.echo(
        f"wrote the writer {folder}: {writer.parameter_count():,} parameters, {found.dim}-d vectors, prefix of "
        f"{found.length} through {found.layers} layers"
        + (f"; left out {len(found.stale)} constant buffers of an older GPT-2" if found.stale else "")
    )
    click.echo(f"assumed, for the file does not say: layout {layout}, {heads} heads, space {space}")
