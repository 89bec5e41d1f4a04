"""A stranger's plugin in one file: a teacher that an encoder is trained through, and that a bridge and a decoder that
paints use too. The "images" are mean colours, so that everything takes a second."""

from __future__ import annotations

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
import torch

from modbridge.config.component import Affects, Part
from modbridge.config.kinds import BridgeConfig, DecoderConfig, EncoderConfig, ObjectiveConfig
from modbridge.interfaces import (
    Bridge,
    BuildContext,
    Decoded,
    Decoder,
    Encoder,
    FitData,
    Fitting,
    Objective,
    Source,
    TextVectors,
)
from modbridge.media import load_image
from modbridge.noise import Draw
from modbridge.plugins import ComponentSpec, hookimpl
from modbridge.spaces import Port, Space
from modbridge.training import Batches, derived_seed, train

COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.8, 0.15), "blue": (0.15, 0.25, 0.85)}
DIM = 8
BUILT: list[Any] = []  # every teacher of this process, for tests


def colour(item: Any) -> torch.Tensor:
    return torch.from_numpy(np.asarray(load_image(item), dtype=np.float32).mean((0, 1)) / 255)


class TeacherConfig(ObjectiveConfig):
    """`steps`: of training it from nothing; 0: it comes with the weights of `name`. `dim`: of the vectors. `pause`: of
    each step, in seconds."""

    type: Literal["toy_teacher"] = "toy_teacher"
    steps: int = 0
    name: str = "toy/hub@1"
    dim: int = DIM
    pause: Annotated[float, Affects("nothing")] = 0.0

    @property
    def needs_fit(self) -> bool:
        return self.steps > 0

    @property
    def takes(self) -> Port:
        return Port(space=Space(id="toy/taught", dim=self.dim, normalised=False), modality="image")


class Teacher(Objective[TeacherConfig]):
    """A linear picture of a vector: `paint` makes a colour of it, and `read` a vector of a colour."""

    def __init__(self, config: TeacherConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("teacher", context.seed if config.needs_fit else 0))
            self.paint, self.read = torch.nn.Linear(config.dim, 3), torch.nn.Linear(3, config.dim)
        if not config.needs_fit:  # such as a hub's weights
            with torch.no_grad():
                self.read.bias.zero_()
                self.paint.bias.zero_()
                self.paint.weight.copy_(torch.linalg.pinv(self.read.weight))
        BUILT.append(self)

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"paint": self.paint, "read": self.read}

    def identity(self) -> str | None:
        return super().identity() if self.config.needs_fit else self.config.name

    def prepare(self, item: Any) -> torch.Tensor:
        return colour(item)

    def loss(self, z: torch.Tensor, batch: torch.Tensor, draw: Draw) -> torch.Tensor:
        noise = 0.01 * draw.named("noise").normal(3)
        found: torch.Tensor = (self.paint(z) + noise - batch.to(z)).square().mean(dim=1)
        return found

    def fit(self, source: Source[Any], fitting: Fitting) -> None:
        seen = torch.stack([colour(source.media(row)) for row in range(len(source))])
        optimiser = torch.optim.Adam([*self.paint.parameters(), *self.read.parameters()], lr=0.03)

        def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
            time.sleep(self.config.pause)
            found: torch.Tensor = (self.paint(self.read(seen[rows])) - seen[rows]).square().mean()
            return found

        batches = Batches(len(seen), 8, fitting.seed)
        train(
            "teacher",
            modules=self.modules(),
            optimiser=optimiser,
            batches=batches,
            steps=self.config.steps,
            loss=loss,
            fitting=fitting,
            log_every=5,
            split=True,
        )


class TaughtConfig(EncoderConfig):
    """An encoder of colours whose vectors its teacher can paint back; a text's is the one that the teacher reads in the
    colour that it names. `objective`: the teacher. `steps`, `seed`: of its training. `norm`: batch normalisation of the
    colours."""

    type: Literal["toy_taught"] = "toy_taught"
    objective: Annotated[TeacherConfig, Part("objective")]
    steps: int = 60
    seed: int | None = None
    norm: bool = False

    @property
    def modalities(self) -> tuple[str, ...]:
        return ("image", "text")

    @property
    def needs_fit(self) -> bool:
        return True

    @property
    def fit_seed(self) -> int | None:
        return self.seed

    def emits(self, modality: str) -> Port:
        return self.objective.takes.changed(modality=modality)


class Taught(Encoder[TaughtConfig]):
    def __init__(self, config: TaughtConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        teacher = context.parts["objective"]
        assert isinstance(teacher, Teacher)
        self.teacher = teacher
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derived_seed("taught", context.seed))
            self.net = torch.nn.Linear(3, config.objective.dim)
        self.norm = torch.nn.BatchNorm1d(3).eval() if config.norm else None

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"net": self.net, **({} if self.norm is None else {"norm": self.norm})}

    def prepare(self, item: Any, modality: str) -> torch.Tensor:
        if modality == "image":
            return colour(item)
        named = [torch.tensor(value) for word, value in COLOURS.items() if word in item]
        return torch.stack(named).mean(0) if named else torch.zeros(3)

    def embed(self, batch: torch.Tensor, modality: str) -> torch.Tensor:
        seen = self.norm(batch) if modality == "image" and self.norm is not None else batch
        found: torch.Tensor = self.net(seen) if modality == "image" else self.teacher.read(seen)
        return found

    def fit(self, source: Source[Any], fitting: Fitting) -> None:
        seen = torch.stack([self.prepare(source.media(row), "image") for row in range(len(source))])
        keys = source.keys()

        def loss(step: int, epoch: int, rows: torch.Tensor) -> torch.Tensor:
            draw = Draw.of([keys[row] for row in rows.tolist()], fitting.seed, epoch)
            batch = self.teacher.collate([self.teacher.prepare(source.media(row)) for row in rows.tolist()])
            return self.teacher.loss(self.net(seen[rows]), batch, draw).mean()

        optimiser = torch.optim.Adam(self.net.parameters(), lr=0.05)
        batches = Batches(len(seen), 8, fitting.seed)
        train(
            "taught",
            modules={"net": self.net},
            optimiser=optimiser,
            batches=batches,
            steps=self.config.steps,
            loss=loss,
            fitting=fitting,
            log_every=5,
            split=True,
        )


class BoxedConfig(TaughtConfig):
    """As `toy_taught`, with batches of a form of its own."""

    type: Literal["toy_boxed"] = "toy_boxed"  # type: ignore[assignment]


class Boxed(Taught):
    def collate(self, items: Sequence[Any], modality: str) -> Any:
        return {"colours": torch.stack(list(items))}

    def embed(self, batch: Any, modality: str) -> torch.Tensor:
        return super().embed(batch["colours"], modality)


class ThroughConfig(BridgeConfig):
    """Vectors as the `teacher` reads them in what it paints of them."""

    type: Literal["toy_through"] = "toy_through"
    teacher: Annotated[ObjectiveConfig, Part("objective")]


class Through(Bridge[ThroughConfig]):
    def __init__(self, config: ThroughConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        teacher = context.parts["teacher"]
        assert isinstance(teacher, Teacher)
        self.teacher = teacher

    def fit(self, data: FitData, fitting: Fitting) -> None:
        pass

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        found: torch.Tensor = self.teacher.read(self.teacher.paint(x))
        return found


class DeafConfig(BridgeConfig):
    """Vectors as they are, without the gradients that come through them."""

    type: Literal["toy_deaf"] = "toy_deaf"


class Deaf(Bridge[DeafConfig]):
    def fit(self, data: FitData, fitting: Fitting) -> None:
        pass

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        return x.detach()


class BentConfig(BridgeConfig):
    """Vectors through a linear map, times `scale`. It is fitted on nothing, and is then the identity."""

    type: Literal["toy_bent"] = "toy_bent"
    scale: Annotated[float, Affects("cross")] = 1.0


class Bent(Bridge[BentConfig]):
    def __init__(self, config: BentConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.net = torch.nn.Linear(context.dim(), context.dim())

    def modules(self) -> dict[str, torch.nn.Module]:
        return {"net": self.net}

    def fit(self, data: FitData, fitting: Fitting) -> None:
        with torch.no_grad():
            self.net.weight.copy_(torch.eye(self.context.dim()))
            self.net.bias.zero_()

    def cross_vectors(self, x: torch.Tensor, draw: Draw) -> torch.Tensor:
        found: torch.Tensor = self.config.scale * self.net(x)
        return found


class PainterConfig(DecoderConfig):
    """The `teacher`'s own picture of a vector, `size` pixels a side."""

    type: Literal["toy_painter"] = "toy_painter"
    teacher: Annotated[ObjectiveConfig, Part("objective")]
    size: Annotated[int, Affects("decode")] = 4

    @property
    def makes(self) -> Literal["text", "image"]:
        return "image"

    @property
    def needs_fit(self) -> bool:
        return False


def painted(colours: torch.Tensor, keys: Sequence[str], size: int) -> list[Decoded]:
    pixels = (colours.clamp(0, 1) * 255).round().to(torch.uint8).cpu().numpy()
    return [Decoded(key, "", image=np.tile(one, (size, size, 1))) for key, one in zip(keys, pixels, strict=True)]


class Painter(Decoder[PainterConfig]):
    def __init__(self, config: PainterConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        teacher = context.parts["teacher"]
        assert isinstance(teacher, Teacher)
        self.teacher = teacher

    def fit(self, vectors: TextVectors, targets: Sequence[Any], fitting: Fitting) -> None:
        raise AssertionError("it has nothing to learn")

    def decode_batch(
        self, bridged: torch.Tensor, source: torch.Tensor | None, keys: Sequence[str], seed: int
    ) -> list[Decoded]:
        return painted(self.teacher.paint(bridged), keys, self.config.size)


class LearnerConfig(DecoderConfig):
    """A painter that learns which colours vectors stand for, from media. `broken`: it gives no image."""

    type: Literal["toy_learner"] = "toy_learner"
    broken: Annotated[bool, Affects("decode")] = False

    @property
    def makes(self) -> Literal["text", "image"]:
        return "image"


class Learner(Decoder[LearnerConfig]):
    def __init__(self, config: LearnerConfig, context: BuildContext) -> None:
        super().__init__(config, context)
        self.weight = torch.zeros(context.dim() + 1, 3, device=context.device)

    def fit(self, vectors: TextVectors, targets: Sequence[Any], fitting: Fitting) -> None:
        x = torch.nn.functional.pad(vectors.batch(range(len(vectors)), 0), (0, 1), value=1.0).double()
        y = torch.stack([colour(item) for item in targets]).double()
        self.weight = torch.linalg.solve(x.T @ x + 1e-6 * torch.eye(x.shape[1]), x.T @ y).float()

    def tensors(self) -> dict[str, torch.Tensor]:
        return {"weight": self.weight}

    def load_tensors(self, tensors: dict[str, torch.Tensor]) -> None:
        self.weight = tensors["weight"].to(self.device)

    def decode_batch(
        self, bridged: torch.Tensor, source: torch.Tensor | None, keys: Sequence[str], seed: int
    ) -> list[Decoded]:
        if self.config.broken:
            return [Decoded(key, "", image=[[0]]) for key in keys]
        return painted(torch.nn.functional.pad(bridged, (0, 1), value=1.0) @ self.weight, keys, 4)


@hookimpl
def modbridge_components(register: Any) -> None:
    here = f"modbridge_file_{Path(__file__).stem}"
    teacher = {"type": "toy_teacher", "dim": 16, "steps": 60}
    for kind, name, config, impl, example in (
        ("objective", "toy_teacher", TeacherConfig, Teacher, teacher),
        ("encoder", "toy_taught", TaughtConfig, Taught, {"objective": teacher}),
        ("encoder", "toy_boxed", BoxedConfig, Boxed, {"objective": teacher}),
        ("bridge", "toy_through", ThroughConfig, Through, {"teacher": teacher}),
        ("bridge", "toy_deaf", DeafConfig, Deaf, {}),
        ("bridge", "toy_bent", BentConfig, Bent, {}),
        ("decoder", "toy_painter", PainterConfig, Painter, {"teacher": teacher}),
        ("decoder", "toy_learner", LearnerConfig, Learner, {}),
    ):
        classes = f"{here}:{config.__name__}", f"{here}:{impl.__name__}"
        register(
            ComponentSpec(kind=kind, name=name, summary="toy", config=classes[0], impl=classes[1], example=example)
        )
