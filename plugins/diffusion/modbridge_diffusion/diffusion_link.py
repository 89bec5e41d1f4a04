"""Diffusion-Link (Nam, Choi et al., ICASSP 2026): vectors of either modality are noised and denoised to text vectors.

The chain, for a source vector or a text e, with C = sqrt(D) [SEED]:
    z = C n(e)        z' = n(prior.refine(prior.diffuse(z, M - 1), M, S))
Training scales by the very same rule (SEED scales in sampling only, which would be wrong for unit vectors).
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from typing import Any, cast

import torch

from modbridge import room
from modbridge.builtin.bridges.pairs import paired_rows
from modbridge.errors import DataError
from modbridge.geometry import Statistics, centre, to_text_frame, unit
from modbridge.interfaces import Bridge, BuildContext, FitData, Fitting, Prior
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge_diffusion.auto_steps import levels
from modbridge_diffusion.diffusion_bridge import Fitted, Stepwise, require_finite
from modbridge_diffusion.diffusion_link_config import DiffusionLinkConfig


class DiffusionLink(Bridge[DiffusionLinkConfig]):
    """Normalise, scale, noise, denoise, normalise; the same for texts. Works on chunks (B, D)."""

    def __init__(self, config: DiffusionLinkConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.prior = cast("Prior[Any]", context.parts["prior"])
        self.scale = config.scale(context.dim("text"))
        self.statistics = Fitted(context.dim("text"), config.chosen_by_fitting).to(context.device)

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"statistics": self.statistics}

    def fit(self, data: FitData, fitting: Fitting) -> None:
        """Measure the means where `centre`, fit the prior on the scaled vectors, and choose the step where `auto`.

        Raises DataError without text, without the source vectors and pairs that `needs` names, and for NaN.
        """
        who = f"the bridge {self.config.type!r}"
        if len(data.text) == 0:
            raise DataError(f"{who} needs text vectors to be fitted; the training data gave none.")
        for given in (data.text, data.source):
            require_finite(given)
        self._measure(data, who)
        text = self._scaled_text(data.text)
        if "pairs" not in self.config.needs:
            fitting.fit_part(self.prior, text)
            return
        source = data.require_source(who)
        texts, sources = paired_rows(data, who)
        held = self._held_out(source, sources, fitting.seed, who)
        kept = ~held
        learnt = torch.ones(len(text), dtype=torch.bool)
        learnt[texts[held]] = False
        vectors = self._pairs(data.text, source, texts[kept], sources[kept])
        clean = text.select(learnt.nonzero().flatten().tolist())
        fitting.fit_part(self.prior, clean, vectors if "pairs" in self.config.prior.needs else None)
        if self.config.chosen_by_fitting:
            known = text.values[texts[held]]
            self._choose(self._pairs(data.text, source, texts[held], sources[held]), known, fitting)

    def _measure(self, data: FitData, who: str) -> None:
        found = self.statistics
        found.text_mean.zero_()
        found.source_mean.zero_()
        found.text_radius.fill_(1.0)
        if not self.config.centre:
            return
        texts = Statistics.of(data.text)
        if texts.radius < 1e-4:
            raise DataError(
                f"the {len(data.text)} training texts have one and the same vector (mean distance from their mean "
                f"{texts.radius:.1e}); nothing can be learnt from them. Look at the texts and at the encoder."
            )
        found.text_mean.copy_(texts.mean)
        found.text_radius.copy_(texts.radius)
        found.source_mean.copy_(Statistics.of(data.require_source(who)).mean)

    def _scaled_text(self, text: Embeddings) -> Embeddings:
        port = text.port.changed(frame="centred" if self.config.centre else "raw")
        x, mean = text.values, self.statistics.text_mean
        part = lambda rows: self._scaled(x[rows].to(self.device, torch.float32), mean)  # noqa: E731
        return Embeddings(room.filled(len(x), part, self.device), port, text.keys)

    def _pairs(self, text: Embeddings, source: Embeddings, texts: torch.Tensor, sources: torch.Tensor) -> Embeddings:
        """The scaled source vector of each paired text, under the text's key."""
        port = source.port.changed(frame="centred" if self.config.centre else "raw")
        x, mean = source.values, self.statistics.source_mean
        part = lambda rows: self._scaled(x[sources[rows]].to(self.device, torch.float32), mean)  # noqa: E731
        values = room.filled(len(sources), part, self.device)
        return Embeddings(values, port, tuple(text.keys[row] for row in texts.tolist()))

    def _held_out(self, source: Embeddings, sources: torch.Tensor, seed: int, who: str) -> torch.Tensor:
        """Which pairs are left out of training, bool (P,): all of a source vector, or none; chosen by its key."""
        if not self.config.chosen_by_fitting:
            return torch.zeros(len(sources), dtype=torch.bool)
        distinct = torch.unique(sources)
        count = max(1, round(self.config.holdout * len(distinct)))
        if count >= len(distinct):
            raise DataError(
                f"{who} holds out {count} of {len(distinct)} paired source vectors to choose start_step on, which "
                f"leaves none to learn from. Give more pairs, lower holdout, or give start_step as a number."
            )
        order = Draw.of([source.keys[row] for row in distinct.tolist()], seed).named("holdout").bits(1)[:, 0].argsort()
        return torch.isin(sources, distinct[order[:count]])

    @torch.inference_mode()
    def _choose(self, held: Embeddings, text: torch.Tensor, fitting: Fitting) -> None:
        """Set `start_step` to the level whose mean cosine between bridged vectors and their texts (P, D) is highest; 0,
        the vectors as they are, is among them."""
        draw = Draw.of(held.keys, fitting.seed, device=self.device).named("auto")
        target = unit(self._to_text(text).double())

        def nearness(step: int) -> float:
            bridged = self._to_text(self._refined(held.values, step, draw))
            return float((unit(bridged.double()) * target).sum(dim=1).mean())

        timesteps = int(self.config.prior.timesteps)  # type: ignore[attr-defined]
        step = max([0, *levels(timesteps)], key=nearness)
        self.statistics.get_buffer("start_step").fill_(step)
        fitting.log(fit="auto", start_step=step, held_out=len(held), cosine=nearness(step))

    def chosen(self) -> dict[str, int | float | str]:
        return {name: self._step() for name in self.config.chosen_by_fitting}

    def _step(self) -> int:
        given = self.config.start_step
        return int(self.statistics.get_buffer("start_step")) if given == "auto" else given

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self._framed(self._refined(self._scaled(x, self.statistics.source_mean), self._step(), draw))

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return self._framed(self._refined(self._scaled(x, self.statistics.text_mean), self._step(), draw))

    def trace_vectors(self, x: torch.Tensor, draw: Draw) -> list[tuple[str, torch.Tensor]]:
        """The encoded vector, then every station after it among raw text vectors, whatever `frame` is: "encoded",
        "noised", "step 119" ..., "bridged"."""
        z = self._scaled(x, self.statistics.source_mean)
        stations = [("encoded", x)]
        for name, state in self._stations(z, self._step(), draw):
            z = state
            stations.append((name, self._to_text(z)))
        return [*stations, ("bridged", self._to_text(z))]

    def _refined(self, z: torch.Tensor, start_step: int, draw: Draw) -> torch.Tensor:
        for _, state in self._stations(z, start_step, draw):
            z = state
        return z

    def _stations(self, z: torch.Tensor, start_step: int, draw: Draw) -> Iterator[tuple[str, torch.Tensor]]:
        """The way from scaled vectors (B, D) over noised ones to the denoised; empty where `start_step` is 0."""
        if start_step == 0:
            return
        drawn = draw if self.config.add_noise else replace(draw, silent=True)
        z = self.prior.diffuse(z, step=start_step - 1, draw=drawn)
        yield "noised", z
        calls = {"start_step": start_step, "num_steps": self.config.num_steps}
        if isinstance(self.prior, Stepwise):
            for level, state in self.prior.trajectory(z, draw=draw, eta=0.0, **calls):
                yield f"step {max(level, 0)}", state
        else:
            yield "step 0", self.prior.refine(z, draw=draw, **calls)

    def _scaled(self, x: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
        """C n(x), or C n(n(x) - mean) where `centre`, (B, D). Raises DataError for vectors without a direction."""
        return (centre(x, mean) if self.config.centre else unit(x)) * self.scale

    def _framed(self, z: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(z, dim=1) if self.config.frame_out == "centred" else self._to_text(z)

    def _to_text(self, z: torch.Tensor) -> torch.Tensor:
        """Unit vectors among raw text vectors; see `modbridge.geometry.to_text_frame`."""
        if not self.config.centre:
            return torch.nn.functional.normalize(z, dim=1)
        return to_text_frame(z, self.statistics.text_mean, self.statistics.text_radius)
