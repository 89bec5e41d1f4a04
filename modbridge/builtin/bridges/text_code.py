"""Text code (ours): a source vector is written as a sum of few training texts, sharpened, with its own detail kept.

With n(x) = x / |x|, z = n(n(v) - mean_v) and the rows T = n(n(t) - mean_t) of the training texts; S_v, S_t the second
moments of such rows, e and s in units of 1/D:
1. W = (S_v + e)^-p, y = n(z W): source directions with much variance count less; most of it is the images' own.
2. a = argmin over a >= 0 of |y - a A|^2 / 2 + lambda_1 sum a + lambda_2 |a|^2 / 2, with the atoms A = T W divided by
   the mean length of its rows; m = a T: a sum of texts, shorter where the code is unsure.
3. C = (S_m + e)^-q, S_m the second moment of n(m) over training source vectors; r the mean length of their m C.
4. d = n(y S_t (S_t + s)^-1): what of y lies where texts vary.
5. z' = n((1 - b) m C / r + b d). Text frame: v' = n(radius z' + mean_t); centred: z', and texts n(n(t) - mean_t).

Why: a linear filter sets how much of each direction passes, so it buys nearness with detail. A code of texts that may
only be added finds more of the true text in each direction. What was measured stands in the docs (losing detail).

Source: ours. Non-negative sparse coding is Hoyer's (2002); sums of concepts as codes of CLIP vectors are SpLiCE's
(Bhalla et al., NeurIPS 2024), which explains vectors and does not bridge. Needs texts and unpaired source vectors.
"""

from __future__ import annotations

import torch

from modbridge.builtin.bridges.moments import require_finite
from modbridge.builtin.bridges.statistics import StatisticsBridge
from modbridge.builtin.bridges.text_code_config import TextCodeConfig
from modbridge.errors import ArtefactError, DataError
from modbridge.geometry import CHUNK, Statistics, centre, unit
from modbridge.interfaces import FitData, Fitting
from modbridge.noise import Draw
from modbridge.training import derived_seed

MATRICES = ("whiten", "sharpen", "filter")
SHARPENED_ON = 4096  # source vectors whose codes say how to sharpen


class TextCodeBridge(StatisticsBridge[TextCodeConfig]):
    """Codes source vectors over training texts."""

    _texts: torch.Tensor | None = None
    _atoms: torch.Tensor
    _step: float

    def shapes(self) -> dict[str, tuple[int, ...]]:
        dim = self.context.dim()
        numbers = {"text_radius": (), "atom_length": (), "code_length": ()}
        return {"text_mean": (dim,), "source_mean": (dim,), **numbers, **dict.fromkeys(MATRICES, (dim, dim))}

    def fit(self, data: FitData, fitting: Fitting) -> None:
        """Statistics of both sides, then the codes of training source vectors, by which the others are sharpened.

        Raises DataError without texts or source vectors, and where the codes of all of them are empty.
        """
        source = data.require_source(self.who)
        if len(data.text) == 0:
            raise DataError(f"{self.who} needs text vectors to be fitted; the training data gave none.")
        for vectors in (data.text, source):
            require_finite(vectors, self.who)
        text, shifted = Statistics.of(data.text), Statistics.of(source)
        dim = len(text.mean)
        one = torch.eye(dim, dtype=torch.float64)
        floor = self.config.floor / dim
        whiten = _power(_second_moment(source.values, shifted.mean) + floor * one, -self.config.whiten)
        noise = self.config.detail_noise / dim
        moment = _second_moment(data.text.values, text.mean)
        rows = _some(len(data.text), self.config.size, "atoms", fitting.seed)
        atoms = centre(data.text.values[rows].cpu().double(), text.mean)
        values = {
            "text_mean": text.mean,
            "source_mean": shifted.mean,
            "text_radius": text.radius,
            "atom_length": (atoms @ whiten).norm(dim=1).mean(),
            "code_length": torch.ones((), dtype=torch.float64),
            "whiten": whiten,
            "sharpen": one,
            "filter": torch.linalg.solve(moment + noise * one, moment) if noise > 0 else one,
        }
        self.load_tensors({**values, "texts": atoms.float()})

        sample = source.values[_some(len(source), SHARPENED_ON, "sharpen", fitting.seed)]
        parts = []
        with fitting.progress("text code: training codes", len(sample)) as progress:
            for part in torch.split(sample, self.config.codes_at_once):
                y = self._query(part.to(self.device, torch.float32))
                parts.append((self._code(y) @ self._dictionary()).double().cpu())
                progress.advance(len(part))
        sums = torch.cat(parts)
        found = sums.norm(dim=1) > 0
        if not bool(found.any()):
            raise DataError(
                f"{self.who}: at sparsity {self.config.sparsity:g} no training source vector has a code: every text "
                f"costs more than it explains. Lower `sparsity` (the default is 0.05)."
            )
        full = unit(sums[found])
        sharpen = _power(full.T @ full / len(full) + floor * one, -self.config.sharpen)
        values |= {"sharpen": sharpen, "code_length": (sums @ sharpen).norm(dim=1).mean()}
        self.load_tensors({**values, "texts": atoms.float()})
        empty = {"note": f"{len(found) - int(found.sum())} of {len(found)} training source vectors have an empty code"}
        fitting.log(fit="text_code", atoms=len(atoms), of=len(data.text), **({} if bool(found.all()) else empty))

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        z = torch.cat([self._bridged(part) for part in torch.split(x, self.config.codes_at_once)])
        return z if self.config.frame == "centred" else self.in_text_frame(z)

    def augment_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return centre(x, self.statistic("text_mean")) if self.config.frame == "centred" else x

    def trace_vectors(self, x: torch.Tensor, draw: Draw) -> list[tuple[str, torch.Tensor]]:
        code = self._code(self._query(x)) @ self._dictionary()
        stations = [("encoded", x), ("centred", self.in_text_frame(centre(x, self.statistic("source_mean"))))]
        if bool((code.norm(dim=1) > 0).all()):
            stations.append(("sum of texts", self.in_text_frame(code)))
        return [*stations, ("bridged", self.in_text_frame(self._bridged(x)))]

    def tensors(self) -> dict[str, torch.Tensor]:
        return {**super().tensors(), "texts": self._dictionary().cpu()}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        texts = tensors.get("texts")
        if texts is None or texts.ndim != 2 or texts.shape[1] != self.context.dim() or len(texts) == 0:
            found = None if texts is None else tuple(texts.shape)
            raise ArtefactError(
                f"the stored texts of a {self.config.type!r} bridge at dimension {self.context.dim()}: expected "
                f"(atoms, {self.context.dim()}), found {found}. They were saved under another encoder."
            )
        super().load_tensors({name: value for name, value in tensors.items() if name != "texts"})
        self._texts = texts.to(self.device, torch.float32)
        atoms = texts.double() @ self.statistic("whiten") / self.statistic("atom_length")
        self._atoms = atoms.to(self.device, torch.float32)
        self._step = 1 / (float(torch.linalg.eigvalsh(atoms.T @ atoms)[-1]) + self.config.spread)

    def parameter_count(self) -> int:
        return super().parameter_count() + (0 if self._texts is None else self._texts.numel())

    def _dictionary(self) -> torch.Tensor:
        if self._texts is None:
            raise DataError(f"{self.who} has not been fitted; call `fit`, or load an artefact.")
        return self._texts

    def _query(self, x: torch.Tensor) -> torch.Tensor:
        """y (B, D)."""
        return unit(centre(x, self.statistic("source_mean")) @ self.statistic("whiten").to(x))

    def _bridged(self, x: torch.Tensor) -> torch.Tensor:
        """z' (B, D)."""
        y = self._query(x)
        sums = self._code(y) @ self._dictionary() @ self.statistic("sharpen").to(x)
        share = self.config.detail
        kept = share * unit(y @ self.statistic("filter").to(x)) if share > 0 else 0.0
        return unit((1 - share) * sums / self.statistic("code_length").to(x) + kept)

    def _code(self, y: torch.Tensor) -> torch.Tensor:
        """a (B, atoms), by accelerated proximal gradient (Beck and Teboulle 2009)."""
        atoms, step, ridge = self._atoms, self._step, self.config.spread
        wanted = y @ atoms.T - self.config.sparsity
        code = torch.zeros_like(wanted)
        ahead, pace = code, 1.0
        for _ in range(self.config.iterations):
            new = (ahead + step * (wanted - (ahead @ atoms) @ atoms.T - ridge * ahead)).clamp_min(0)
            faster = (1 + (1 + 4 * pace * pace) ** 0.5) / 2
            ahead = new + (pace - 1) / faster * (new - code)
            code, pace = new, faster
        return code


def _second_moment(vectors: torch.Tensor, mean: torch.Tensor) -> torch.Tensor:
    """The second moment (D, D) of n(n(x) - mean), float64, a chunk at a time."""
    total = torch.zeros(vectors.shape[1], vectors.shape[1], dtype=torch.float64)
    for part in torch.split(vectors, CHUNK):
        z = centre(part.cpu().double(), mean)
        total += z.T @ z
    return total / len(vectors)


def _power(matrix: torch.Tensor, power: float) -> torch.Tensor:
    values, axes = torch.linalg.eigh(matrix)
    found: torch.Tensor = (axes * values.clamp_min(torch.finfo(torch.float64).tiny) ** power) @ axes.T
    return found


def _some(count: int, most: int, what: str, seed: int) -> torch.Tensor:
    """At most `most` of `count` rows, drawn by the seed, in order."""
    if count <= most:
        return torch.arange(count)
    generator = torch.Generator().manual_seed(derived_seed(f"text_code {what}", seed))
    return torch.randperm(count, generator=generator)[:most].sort().values
