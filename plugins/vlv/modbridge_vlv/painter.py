"""The `diffusion_painter` decoder: the teacher samples an image, guided by a context (Ho and Salimans 2022)."""

from __future__ import annotations

import inspect
from collections.abc import Sequence
from typing import Any

import diffusers
import torch

from modbridge.errors import ConfigError, Problem
from modbridge.interfaces.component import BuildContext
from modbridge.interfaces.decoder import Decoded, Decoder
from modbridge.interfaces.fitting import Fitting, TextVectors
from modbridge.noise import Draw
from modbridge.training import derived_seed
from modbridge_vlv.bundle import drawn_scheduler
from modbridge_vlv.painter_config import DiffusionPainterConfig
from modbridge_vlv.pictures import as_bytes
from modbridge_vlv.teacher import DiffusionTeacher


class DiffusionPainter(Decoder[DiffusionPainterConfig]):
    """An image (R, R, 3) of each context (n, D). All that is random is drawn by (seed, key), so that an image does not
    depend on those painted beside it."""

    def __init__(self, config: DiffusionPainterConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        teacher = context.parts["teacher"]
        assert isinstance(teacher, DiffusionTeacher)
        self._teacher = teacher
        # Told now, not once everything is trained: a small teacher's noise schedule is known before its weights are.
        small = teacher.config.model is None
        self._stepping(drawn_scheduler(teacher.config.scheduler) if small else teacher.bundle.scheduler)

    def fit(self, vectors: TextVectors, targets: Sequence[str], fitting: Fitting) -> None:
        """Nothing to learn."""

    def decode_batch(
        self, bridged: torch.Tensor, source: torch.Tensor | None, keys: Sequence[str], seed: int
    ) -> list[Decoded]:
        bundle, side = self._teacher.bundle, self._teacher.resolution // self._teacher.bundle.codec.factor
        # Solvers of several steps remember what they did, so each batch has its own.
        solver = self._stepping(bundle.scheduler)
        shape = (len(keys), bundle.codec.channels, side, side)
        noise = Draw.of(keys, seed, device=self.device).named("paint").normal(shape[1] * side * side)
        latents = noise.view(shape) * solver.init_noise_sigma
        options: dict[str, Any] = {}
        if "generator" in inspect.signature(solver.step).parameters:
            own = [derived_seed("paint", seed, key) for key in keys]
            options["generator"] = [torch.Generator().manual_seed(number) for number in own]
        # The empty prompt has a call of its own: it is as long as texts are, which a context need not be.
        guided = self.config.guidance != 1.0
        null = self._teacher.context_of(self._teacher.null()).expand(len(keys), -1, -1) if guided else None
        for step in solver.timesteps:
            seen = solver.scale_model_input(latents, step)
            found = bundle.unet(seen, step, encoder_hidden_states=bridged).sample
            if null is not None:
                untold = bundle.unet(seen, step, encoder_hidden_states=null).sample
                found = untold + self.config.guidance * (found - untold)
            latents = solver.step(found, step, latents, **options).prev_sample
        pictures = as_bytes(bundle.codec.decode(latents))
        return [Decoded(key, "", image=picture) for key, picture in zip(keys, pictures, strict=True)]

    def scheduler(self) -> Any:
        """A solver of the model's own noise schedule. It clips what it takes for the image only where the model's own
        settings say so: latents, unlike pixels, go beyond 1."""
        return self._of(self._teacher.bundle.scheduler)

    def _stepping(self, own: Any) -> Any:
        """A solver of the schedule `own`, about to take its steps. Raises ConfigError where it cannot take them."""
        solver = self._of(own)
        try:
            solver.set_timesteps(self.config.steps, device=self.device)
        except Exception as error:  # whatever a class of diffusers says to settings and steps that do not fit
            raise self._refused(type(solver), error) from error
        return solver

    def _of(self, own: Any) -> Any:
        """Raises ConfigError for settings that a solver does not have or does not take."""
        kind = type(own) if self.config.scheduler is None else self._solver(self.config.scheduler)
        known = inspect.signature(kind.__init__).parameters
        for name in self.config.scheduler_settings:
            if name not in known:  # diffusers passes over them
                told = f"{kind.__name__} has no setting {name!r}"
                raise ConfigError([Problem("scheduler_settings", told, hint=f"it has {', '.join(list(known)[1:])}")])
        settings = dict(self.config.scheduler_settings)
        named = set(own.config) - set(own.config.get("_use_default_values", ()))
        if "clip_sample" in known and "clip_sample" not in named:
            settings = {"clip_sample": False, **settings}
        try:
            return kind.from_config(own.config, **settings)
        except Exception as error:
            raise self._refused(kind, error) from error

    def _refused(self, kind: Any, error: Exception) -> ConfigError:
        told = f"{kind.__name__} takes no {self.config.steps} steps with {self.config.scheduler_settings}: {error}"
        return ConfigError([Problem("scheduler_settings", told, hint="see diffusers' page on this class")])

    @staticmethod
    def _solver(name: str) -> Any:
        """The class of diffusers with that name. Raises ConfigError for one that is none, or (a flow's) does not go by
        what a model predicts."""
        kind = getattr(diffusers, name, None)
        known = "such as DDPMScheduler, DDIMScheduler, EulerDiscreteScheduler, DPMSolverMultistepScheduler"
        if kind is None or not hasattr(kind, "set_timesteps"):
            raise ConfigError([Problem("scheduler", f"diffusers has no scheduler {name!r}", hint=known)])
        if "prediction_type" not in inspect.signature(kind.__init__).parameters:
            told = f"{name} knows no prediction_type (epsilon, v_prediction, sample), which the teacher goes by"
            raise ConfigError([Problem("scheduler", told, hint=known)])
        return kind
