"""The metric `repainted`: captions judged by what a text-to-image model paints of them (VLV, section 4)."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import ExitStack
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

from modbridge.interfaces.decoder import Decoded
from modbridge.interfaces.metric import Metric, Reference, Score
from modbridge_vlv.clip_score import agreement, captions
from modbridge_vlv.clip_score_network import Clip
from modbridge_vlv.fid import scored
from modbridge_vlv.repainted_config import RepaintedConfig

if TYPE_CHECKING:
    from modbridge_vlv.fid_features import Frechet

Files = dict[float, list[Path]]  # of each guidance its pictures, in the order of the items


class Repainted(Metric[RepaintedConfig]):
    """A caption is good where its picture is like the item. As a crowd: the FID of the pictures against the items. One
    by one: the CLIPScore of a picture against the item's own captions (not the one that it was painted from)."""

    def score(self, predictions: Sequence[Decoded], references: Sequence[Reference]) -> dict[str, Score]:
        """None with a note where weights are missing, or for fewer than two items. Pictures that were painted before a
        kill are found again."""
        config, count = self.config, len(predictions)
        lacks = config.missing() or ("takes two items or more" if count < 2 else "")
        if lacks:
            lower = {config.column(config.distance, guidance) for guidance in config.guidance}
            return {name: Score(None, higher_is_better=name not in lower, note=lacks) for name in config.columns}
        from modbridge_vlv.fid_features import Frechet  # torchmetrics is an extra
        from modbridge_vlv.repainted_pictures import paint, wanted

        # Built before anything is painted, which takes long: what is wrong with them is told at once.
        frechet = Frechet(config, self.device)
        clip = None if config.clip is None else Clip(config.clip, config.clip_revision, self.device)
        with ExitStack() as stack:
            keys, texts = [one.key for one in predictions], [one.text for one in predictions]
            wants = wanted(config, self._folder(stack), keys, texts)
            left = [one for of_one in wants for one in of_one if not one.file.is_file()]
            total = count * len(wants)
            with self.scoring.progress("repainting", total, total - len(left)) as progress:
                paint(config, self.device, left, progress.advance)
            files = {guidance: [one.file for one in of] for guidance, of in zip(config.guidance, wants, strict=True)}
            found = self._distances(frechet, files, references)
            return found if clip is None else {**found, **self._agreements(clip, files, references)}

    def _folder(self, stack: ExitStack) -> Path:
        if self.config.keep is not None:
            return Path(self.config.keep).expanduser()
        if self.scoring.work is not None:
            return self.scoring.work
        return Path(stack.enter_context(TemporaryDirectory(prefix="modbridge-repainted-")))

    def _distances(self, frechet: Frechet, files: Files, references: Sequence[Reference]) -> dict[str, Score]:
        config, count = self.config, len(references)
        found = {}
        with self.scoring.progress(config.distance, count * (1 + len(files))) as progress:
            frechet.see((of.media for of in references), real=True, seen=progress.advance)
            for guidance, painted in files.items():
                frechet.see(painted, real=False, seen=progress.advance)
                found[config.column(config.distance, guidance)] = scored(frechet.distance(), frechet.note(count))
                frechet.forget()
        return found

    def _agreements(self, clip: Clip, files: Files, references: Sequence[Reference]) -> dict[str, Score]:
        config, told = self.config, [captions(of) for of in references]
        found = {}
        with self.scoring.progress("clip_score", len(told) * len(files)) as progress:
            for guidance, painted in files.items():
                clip.cut = 0
                items = agreement(clip, painted.__getitem__, told, config.batch_size, progress.advance)
                score = Score(sum(items) / len(items), tuple(items), note=clip.note())
                found[config.column("clip_score", guidance)] = score
        return found
