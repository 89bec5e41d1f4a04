"""The diffusion model of Diffusion-Link (Nam, Choi et al., ICASSP 2026): from noised texts, and from their noised
source vectors, to the texts.

Structure from the abstract and the authors' overview figure, numbers from the first author's precursor SEED; what
neither says is ours, and an option. See `LinkDDPMConfig`.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch

from modbridge.errors import DataError
from modbridge.interfaces import BuildContext, Fitting
from modbridge.noise import Draw
from modbridge.spaces import Embeddings
from modbridge.training import Batches, train, warmup_then
from modbridge_diffusion.denoisers import OnClosedForm, closed_forms
from modbridge_diffusion.diffusion_prior import EMA_EVERY, DiffusionPrior
from modbridge_diffusion.link_affine import Affine
from modbridge_diffusion.link_ddpm_config import LinkDDPMConfig
from modbridge_diffusion.link_loss import prediction_loss, topology_loss


@dataclass(frozen=True)
class SourceHalf:
    """The source vectors (B, D) of a batch, their texts (B, D), and their noise (B, D)."""

    source: torch.Tensor
    text: torch.Tensor
    noise: torch.Tensor


class LinkDDPM(DiffusionPrior[LinkDDPMConfig]):
    """Guesses text vectors (B, D) of norm `scale` from noised vectors of either modality."""

    def __init__(self, config: LinkDDPMConfig, context: BuildContext) -> None:
        self.scale = config.norm(context.dim("text"))
        super().__init__(config, context, None)

    def built(self) -> torch.nn.Module:
        network = super().built()
        if not self.config.affine:
            return network
        return OnClosedForm(Affine(self.context.dim("text"), self.schedule), network)

    def loss(
        self, text: torch.Tensor, t: torch.Tensor, noise: torch.Tensor, half: SourceHalf | None = None
    ) -> torch.Tensor:
        """The loss of a batch of texts and noise (B, D) at the time steps t int64 (B,), and of its source half at the
        same t:

            L(f(text_t), text) + cross_sample L(f(source_t), text) + topology (mean of both halves' topology loss)
        """
        config = self.config
        guess = self.estimate_in_training(self.schedule.diffused(text, t, noise), t)
        total = prediction_loss(config.loss, guess, text)
        shapes = [(guess, text)] if config.topology else []
        if half is not None:
            guess = self.estimate_in_training(self.schedule.diffused(half.source, t, half.noise), t)
            if config.cross_sample:
                total = total + config.cross_sample * prediction_loss(config.loss, guess, half.text)
            if config.topology:
                shapes.append((guess, half.text))
        if shapes:
            total = total + config.topology * torch.stack([topology_loss(*shape) for shape in shapes]).mean()
        return total

    def fit(self, clean: Embeddings, fitting: Fitting, *, observed: Embeddings | None = None) -> None:
        """Learn from texts `clean` (N, D) of norm `scale`, and from the source vectors `observed` (P, D), whose keys
        are those of their texts; P may be less than N.

        Raises DataError for fewer than two texts, for NaN or infinity, for another norm, and, with `train_on: pairs`,
        where there is no pair or a pair's text is not among `clean`.
        """
        config = self.config
        text = self.checked(clean).to(self.device)
        self.require_norm(text, self.scale, "scale")
        pairs = self._pairs(clean, observed) if config.takes_pairs else None
        for part in closed_forms(self.network):
            if isinstance(part, Affine) and pairs is not None:
                weight = len(pairs.text) / (2 * part.dim) if config.pair_weight == "auto" else config.pair_weight
                part.fit_halves(text, pairs.source, text[pairs.text], weight)
            else:
                part.fit(text)
        if not self.trainable or config.steps == 0:
            return
        if not (config.cross_sample or config.topology):
            pairs = None
        hashes = Draw.of(clean.keys, fitting.seed, device=self.device).hashes
        averaged = self.average()

        def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
            rows = rows.to(self.device)
            draw = Draw(hashes[rows], fitting.seed, epoch)
            noise = draw.named("noise").normal(text.shape[1])
            half = None
            if pairs is not None:
                source, target = self._mixed(text, pairs, pairs.beside(rows, draw), draw)
                own = noise if config.shared_noise else draw.named("source noise").normal(text.shape[1])
                half = SourceHalf(source, target, own)
            return self.loss(text[rows], self.time_steps(draw), noise, half)

        train(
            "link",
            modules=self.modules(),
            optimiser=torch.optim.AdamW(self.network.parameters(), lr=config.lr, weight_decay=config.weight_decay),
            batches=Batches(len(clean), config.batch_size, fitting.seed),
            steps=config.steps,
            loss=loss,
            fitting=fitting,
            schedule=warmup_then(config.lr_decay, 0, config.steps),
            clip=config.grad_clip,
            averaged=averaged,
            average_every=EMA_EVERY,
            # The topology loss compares the rows of a batch; mixing draws for a whole batch.
            split=not (config.topology or config.mix),
        )
        self.take_average(averaged)

    def _mixed(
        self, text: torch.Tensor, pairs: Pairing, rows: torch.Tensor, draw: Draw
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """The source vectors and the texts of the pairs `rows` (B,), mixed where `mix` is above 0."""
        source, target = pairs.source[rows], text[pairs.text[rows]]
        mix = self.config.mix
        if mix == 0:
            return source, target
        other = pairs.random(draw.named("mixed with"))
        # The training loop has seeded torch for this step.
        share = torch.distributions.Beta(mix, mix).sample((len(rows), 1)).to(source)
        source = share * source + (1 - share) * pairs.source[other]
        target = share * target + (1 - share) * text[pairs.text[other]]
        return self._scaled(source), self._scaled(target)

    def _scaled(self, x: torch.Tensor) -> torch.Tensor:
        return torch.nn.functional.normalize(x, dim=1) * self.scale

    def _pairs(self, clean: Embeddings, observed: Embeddings | None) -> Pairing:
        if observed is None or len(observed) == 0:
            raise DataError(
                f"the prior {self.config.type!r} learns from pairs and was given none. Give pairs, or set "
                f"train_on: text."
            )
        source = self.whole(observed).to(self.device)
        self.require_norm(source, self.scale, "scale")
        row = {key: number for number, key in enumerate(clean.keys)}
        foreign = [key for key in observed.keys if key not in row]
        if foreign or len(row) != len(clean):
            what = f"pairs of texts that are not there ({', '.join(foreign[:3])})" if foreign else "texts of one key"
            raise DataError(
                f"the prior {self.config.type!r} was given {what}; a pair is a text and a vector of its key."
            )
        text = torch.tensor([row[key] for key in observed.keys], device=self.device)
        partner = torch.full((len(clean),), -1, device=self.device)
        partner[text] = torch.arange(len(text), device=self.device)
        return Pairing(source, text, partner)


@dataclass(frozen=True)
class Pairing:
    """`source`: (P, D). `text`: int64 (P,), the text's row of each. `partner`: int64 (N,), the row among `source` of
    each text, -1 where it has none."""

    source: torch.Tensor
    text: torch.Tensor
    partner: torch.Tensor

    def random(self, draw: Draw) -> torch.Tensor:
        """A pair for each item of the draw: int64 (B,)."""
        return (draw.uniform(1)[:, 0] * len(self.text)).long().clamp_max(len(self.text) - 1)

    def beside(self, rows: torch.Tensor, draw: Draw) -> torch.Tensor:
        """The pairs that stand beside the texts `rows` in a batch, int64 (B,): a text's own, or any if it has none."""
        own = self.partner[rows]
        return torch.where(own < 0, self.random(draw.named("pair")), own)
