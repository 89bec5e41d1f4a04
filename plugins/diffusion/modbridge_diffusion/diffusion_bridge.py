"""Diffusion Bridge (CVPR 2025): source vectors taken for noisy text vectors, and denoised by a text-only prior.

Source: the authors' code (mongeoroo/diffusion-bridge 46f4e64), whose chain is, for either modality with its own mean,
    z = C n(n(e) - mean)        z' = n(prior.refine(z, M, S))
and for the text a decoder is trained on the same with noise put in first, at step A. z' stays in the centred text
space.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any, Protocol, cast, runtime_checkable

import torch

from modbridge import room
from modbridge.errors import ConfigError, DataError
from modbridge.geometry import Statistics, centre, finite, to_text_frame
from modbridge.interfaces import Bridge, BuildContext, FitData, Fitting, Prior
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge_diffusion.auto_steps import best_augment_step, best_start_step, sample
from modbridge_diffusion.diffusion_bridge_config import DiffusionBridgeConfig


@runtime_checkable
class Stepwise(Protocol):
    """A prior that shows its way, as `ddpm` does: needed for `eta` and for the stations of a trace."""

    def trajectory(
        self, x: torch.Tensor, *, start_step: int, num_steps: int, draw: Draw, eta: float
    ) -> Iterator[tuple[int, torch.Tensor]]: ...


class Fitted(torch.nn.Module):
    """What is measured on the training split: the mean (D,) of each modality's unit vectors, not renormalised, the mean
    distance of the text vectors from theirs, and the steps that are `auto`. NaN until fitted, so that nothing passes
    for bridged before."""

    def __init__(self, dim: int, chosen: Sequence[str]) -> None:
        super().__init__()
        self.text_mean: torch.Tensor
        self.source_mean: torch.Tensor
        self.text_radius: torch.Tensor
        self.register_buffer("text_mean", torch.full((dim,), torch.nan))
        self.register_buffer("source_mean", torch.full((dim,), torch.nan))
        self.register_buffer("text_radius", torch.tensor(torch.nan))
        for name in chosen:
            self.register_buffer(name, torch.tensor(-1))


class DiffusionBridge(Bridge[DiffusionBridgeConfig]):
    """Centre, scale to the prior's radius, refine, normalise; works on chunks (B, D)."""

    def __init__(self, config: DiffusionBridgeConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.prior = cast("Prior[Any]", context.parts["prior"])
        if config.eta > 0 and not isinstance(self.prior, Stepwise):
            raise ConfigError(
                f"eta {config.eta}: the prior {config.prior.type!r} draws no noise in sampling; use eta: 0."
            )
        self.statistics = Fitted(context.dim("text"), config.chosen_by_fitting).to(context.device)

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"statistics": self.statistics}

    def fit(self, data: FitData, fitting: Fitting) -> None:
        """Measure the means, then fit the prior on the scaled text vectors.

        Raises DataError without text or (where `centre`) source vectors, and where all texts have one and the same
        vector.
        """
        found = self.statistics
        text = data.text.values
        if len(text) == 0:
            raise DataError(
                f"the bridge {self.config.type!r} needs text vectors to be fitted; the training data gave none."
            )
        for given in (data.text, data.source):
            require_finite(given)
        if self.config.centre:
            texts = Statistics.of(data.text)
            found.text_mean.copy_(texts.mean)
            found.text_radius.copy_(texts.radius)
            source = data.require_source(f"the bridge {self.config.type!r}")
            found.source_mean.copy_(Statistics.of(source).mean)
            if texts.radius < 1e-4:
                raise DataError(
                    f"the {len(text)} training texts have one and the same vector (mean distance from their mean "
                    f"{texts.radius:.1e}); nothing can be learnt from them. Look at the texts and at the encoder."
                )
        else:
            found.text_mean.zero_()
            found.source_mean.zero_()
            found.text_radius.fill_(1.0)
        clean = self._all_scaled(text, found.text_mean)
        port = data.text.port.changed(frame="centred" if self.config.centre else "raw")
        fitting.fit_part(self.prior, Embeddings(clean, port, data.text.keys))
        if self.config.chosen_by_fitting:
            self._choose(data, Embeddings(clean, port, data.text.keys), fitting)

    def take_means(self, text: torch.Tensor, source: torch.Tensor) -> None:
        """Take means (D,) of unit vectors that were measured elsewhere.

        The texts' mean distance from theirs (for `frame: text`) is taken as sqrt(1 - |mean|^2), which is its root mean
        square: for unit vectors that follows from the mean.
        """
        self.statistics.text_mean.copy_(text)
        self.statistics.source_mean.copy_(source)
        self.statistics.text_radius.copy_((1 - text.square().sum()).sqrt())

    @torch.inference_mode()
    def _choose(self, data: FitData, clean: Embeddings, fitting: Fitting) -> None:
        """Set the steps that are `auto`; see `modbridge_diffusion.auto_steps`."""
        given = data.require_source(f"`auto` steps of the bridge {self.config.type!r}")
        values = self._all_scaled(given.values, self.statistics.source_mean)
        source, source_draw = sample(Embeddings(values, given.port, given.keys), fitting.seed)
        text, text_draw = sample(clean, fitting.seed)
        timesteps = int(self.config.prior.timesteps)  # type: ignore[attr-defined]
        if self.config.start_step == "auto":
            step = best_start_step(source, text, self._refined, source_draw, timesteps)
            self.statistics.get_buffer("start_step").fill_(step)
        if self.config.augment_step == "auto":
            start = self._step("start_step")
            bridged = self._refined(source, start, source_draw)
            step = best_augment_step(self.prior, bridged, text, self._refined, text_draw, timesteps, start)
            self.statistics.get_buffer("augment_step").fill_(step)
        fitting.log(fit="auto", **self.chosen())

    def _step(self, name: str) -> int:
        """M or A, given or chosen."""
        given = getattr(self.config, name)
        return int(self.statistics.get_buffer(name)) if given == "auto" else int(given)

    def chosen(self) -> dict[str, int | float | str]:
        return {name: self._step(name) for name in self.config.chosen_by_fitting}

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self._framed(self._refined(self._scaled(x, self.statistics.source_mean), self._step("start_step"), draw))

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        z = self._scaled(x, self.statistics.text_mean)
        level = self._step("augment_step")
        return self._framed(self._refined(self.prior.diffuse(z, step=level, draw=draw), level, draw))

    def trace_vectors(self, x: torch.Tensor, draw: Draw) -> list[tuple[str, torch.Tensor]]:
        """The encoded vector, then every station after it mapped to the raw text space, whatever `frame` is, so that
        all can be compared with text vectors: "encoded", "centred", "step 479" ..., "bridged"."""
        z = self._scaled(x, self.statistics.source_mean)
        stations = [("encoded", x), ("centred", self._to_text(z))]
        for level, state in self._steps(z, self._step("start_step"), draw):
            z = state
            if level >= 0:
                stations.append((f"step {level}", self._to_text(z)))
        return [*stations, ("bridged", self._to_text(z))]

    def _refined(self, z: torch.Tensor, start_step: int, draw: Draw) -> torch.Tensor:
        for _, state in self._steps(z, start_step, draw):
            z = state
        return z

    def _steps(self, z: torch.Tensor, start_step: int, draw: Draw) -> Iterator[tuple[int, torch.Tensor]]:
        """The prior's way from `z`; empty where `start_step` is 0."""
        if isinstance(self.prior, Stepwise):
            yield from self.prior.trajectory(
                z, start_step=start_step, num_steps=self.config.num_steps, draw=draw, eta=self.config.eta
            )
        elif start_step > 0:
            yield -1, self.prior.refine(z, start_step=start_step, num_steps=self.config.num_steps, draw=draw)

    def _scaled(self, x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """C n(n(x) - mean), (B, D). Raises DataError for vectors without a direction."""
        return centre(x, mean) * self.config.radius

    def _all_scaled(self, x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """As `_scaled`, of any number of vectors (N, D), kept where there is room for them."""
        part = lambda rows: self._scaled(x[rows].to(self.device, torch.float32), mean)  # noqa: E731
        return room.filled(len(x), part, self.device)

    def _framed(self, z: torch.Tensor) -> torch.Tensor:
        return self._to_text(z) if self.config.frame == "text" else torch.nn.functional.normalize(z, dim=1)

    def _to_text(self, z: torch.Tensor) -> torch.Tensor:
        """Ours: a direction of the centred space set at the texts' usual distance from their mean, on the unit
        sphere."""
        return to_text_frame(z, self.statistics.text_mean, self.statistics.text_radius)


def require_finite(given: Embeddings | None) -> None:
    """Raise DataError, naming the items, for vectors that hold NaN or infinity."""
    if given is None or given.moments is not None:  # which are finite only where all vectors are
        return
    whole = finite(given.values)
    if not bool(whole.all()):
        bad = [given.keys[i] for i in torch.nonzero(~whole)[:, 0].tolist()]
        raise DataError(
            f"the {given.port.modality} vectors of {', '.join(bad[:3])} hold NaN or infinity ({len(bad)} of "
            f"{len(given)}). Embed them anew."
        )
