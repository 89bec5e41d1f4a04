"""modbridge import-weights diffusion-bridge: a checkpoint of the authors' trainer, as an artefact of ours.

Their file (mongeoroo/diffusion-bridge 46f4e64, `results/model-<k>.pt`) holds `step`, `model`, `opt`, `ema`, `scaler`
and `version`. `model` is their diffusion class: the U-Net under `model.` beside the buffers of the noise process, from
which schedule and objective are read, not guessed. The radius, the dimension and the space are not in it.
"""

from __future__ import annotations

from importlib import metadata
from pathlib import Path
from typing import Any

import click


@click.command("diffusion-bridge")
@click.argument("file")
@click.option("--out", required=True, metavar="DIR", help="The artefact's folder; it must not exist.")
@click.option("--ema", is_flag=True, help="Take the moving average rather than the raw weights, which the authors use.")
@click.option("--text-mean", metavar="FILE", help="Mean of the unit text vectors (.pt, .pkl of torch, .npy).")
@click.option("--source-mean", "--image-mean", "source_mean", metavar="FILE", help="Mean of the unit image vectors.")
@click.option("--space", default="open_clip/ViT-B-32/openai", show_default=True, help="The space it was trained in.")
@click.option("--dim", type=click.IntRange(2), help="Dimension of the vectors. [default: that of the time embedding]")
@click.option("--radius", type=click.FloatRange(0, min_open=True), default=5.0, show_default=True, help="C.")
@click.option("--modality", default="image", show_default=True, help="What is bridged to text, with --source-mean.")
def command(
    file: str,
    out: str,
    ema: bool,
    text_mean: str | None,
    source_mean: str | None,
    space: str,
    dim: int | None,
    radius: float,
    modality: str,
) -> None:
    """The prior of Diffusion Bridge from the authors' checkpoint FILE (model-300.pt).

    Without means the artefact is a `ddpm` prior, for `bridge: {type: diffusion_bridge, prior: {type: ddpm, weights:
    DIR}}`; the means are then measured on the training split. With both means it is a whole bridge, for `bridge: {type:
    diffusion_bridge, weights: DIR}`.

    \b
    Examples:
      modbridge import-weights diffusion-bridge model-300.pt --out weights/prior
      modbridge import-weights diffusion-bridge model-300.pt --text-mean text.pt --image-mean image.pt --out weights/db
    """
    from modbridge.errors import ConfigError, DataError, Problem
    from modbridge.interfaces import BuildContext
    from modbridge.spaces import Port, Space
    from modbridge.store.artefact import save_component
    from modbridge.store.keys import file_hash
    from modbridge_diffusion.checkpoint import mean_of, read_checkpoint
    from modbridge_diffusion.ddpm import DDPM
    from modbridge_diffusion.diffusion_bridge import DiffusionBridge
    from modbridge_diffusion.diffusion_bridge_config import DiffusionBridgeConfig

    if (text_mean is None) != (source_mean is None):
        raise ConfigError(
            [Problem("--text-mean, --source-mean", "found one mean", hint="give both for a whole bridge, or neither")]
        )
    if modality == "text" or not space.strip():
        raise ConfigError([Problem("--modality, --space", "expected a modality beside text, and the space's name")])
    folder = Path(out)
    if folder.exists():
        raise DataError(f"{folder} exists; nothing was written. Give another folder with --out.")
    found = read_checkpoint(Path(file), ema=ema, radius=radius)
    dim = dim or found.time_dim
    home = Space(id=space, dim=dim)
    ports = {"text": Port(space=home, modality="text"), "source": Port(space=home, modality=modality)}
    prior = DDPM(found.config, BuildContext(ports=ports))
    prior.load_tensors({f"network.{name}": value for name, value in found.network.items()})
    content: dict[str, Any] = {
        "plugin": "modbridge-diffusion",
        "version": metadata.version("modbridge-diffusion"),
        "seed": None,
        "data": "unknown: imported",
        "imported": {"sha256": file_hash(Path(file)), "weights": "ema" if ema else "raw", "step": found.step},
    }
    if text_mean is None or source_mean is None:
        kind = "prior"
        save_component(prior, folder, {"kind": kind, "type": "ddpm", **content})
    else:
        kind = "bridge"
        means = mean_of(Path(text_mean), dim), mean_of(Path(source_mean), dim)
        config = DiffusionBridgeConfig(type="diffusion_bridge", prior=found.config)
        bridge = DiffusionBridge(config, BuildContext(ports=ports, parts={"prior": prior}))
        bridge.take_means(*means)
        save_component(bridge, folder, {"kind": kind, "type": config.type, **content})
    click.echo(
        f"wrote the {kind} {folder}: {prior.parameter_count():,} parameters, {dim}-d vectors of {space}, "
        f"{len(prior.schedule)} time steps, {found.config.schedule} schedule, "
        f"{'moving average' if ema else 'raw weights'}" + (f" of step {found.step:,}" if found.step else "")
    )
