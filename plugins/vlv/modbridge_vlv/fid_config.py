"""The config of the metric `fid`, and the fields of all that compare pictures by the statistics of their features.
Loads neither torch nor transformers."""

from __future__ import annotations

import os
from importlib.util import find_spec
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from modbridge.config.component import Affects
from modbridge.config.kinds import MetricConfig
from modbridge.hub import cached_file
from modbridge.store.keys import file_digest
from modbridge_vlv.layout import check_name, folder_of, identity

INCEPTION = "inception"
INCEPTION_FILE = "weights-inception-2015-12-05-6726825d.pth"
INCEPTION_URL = f"https://github.com/toshas/torch-fidelity/releases/download/v0.2.0/{INCEPTION_FILE}"

Model = Annotated[str, AfterValidator(check_name)]
"""An id on the hub, or a local folder."""


class FrechetFields(MetricConfig):
    """How pictures are compared by the mean and covariance of a network's features (Heusel et al. 2017)."""

    features: Model = Field(
        default=INCEPTION,
        description="whose features: inception, which alone gives what is called FID; or a vision model of "
        "transformers, by hub id or folder, whose last states are averaged",
    )
    features_revision: str | None = Field(default=None, description="commit, tag or branch of a model on the hub")
    inception_weights: str | None = Field(
        default=None, description=f"the file {INCEPTION_FILE}; null: where torch's hub keeps it"
    )
    antialias: bool = Field(
        default=True, description="inception: resize to 299 as torchmetrics does by default; false: as TensorFlow 1 did"
    )
    crop: bool = Field(
        default=False,
        description="compare the square in the middle of each picture; false: all of it, whatever its shape, as "
        "torchmetrics does",
    )
    batch_size: Annotated[int, Affects("nothing")] = Field(default=32, ge=1, description="pictures seen at once")

    @model_validator(mode="after")
    def _of_inception_alone(self) -> FrechetFields:
        if self.features != INCEPTION and (self.inception_weights is not None or not self.antialias):
            raise ValueError("inception_weights and antialias are of features: inception")
        if self.features == INCEPTION and self.features_revision is not None:
            raise ValueError("features_revision is of a model on the hub, not of inception")
        return self

    @property
    def distance(self) -> str:
        """What the distance is called: FID under Inception alone."""
        return "fid" if self.features == INCEPTION else "frechet_distance"

    @property
    def inception(self) -> Path:
        """Where Inception's weights are expected."""
        if self.inception_weights is not None:
            return Path(self.inception_weights).expanduser()
        home = os.environ.get("TORCH_HOME") or os.path.join(os.environ.get("XDG_CACHE_HOME") or "~/.cache", "torch")
        return Path(home).expanduser() / "hub" / "checkpoints" / INCEPTION_FILE

    def missing(self) -> str | None:
        """Asks no server. Raises DataError for a folder that does not exist."""
        wanted = ("torchmetrics", "torch_fidelity") if self.features == INCEPTION else ("torchmetrics",)
        absent = [name for name in wanted if find_spec(name) is None]
        if absent:
            return f"it needs {' and '.join(absent)}: pip install 'modbridge-vlv[fid]'"
        if self.features == INCEPTION:
            if self.inception.is_file():
                return None
            return (
                f"FID needs Inception's weights, which are not at {self.inception}: fetch {INCEPTION_URL} where there "
                f"is a network and put it there, or set `inception_weights` to it"
            )
        return lacking("the features of", self.features, self.features_revision)

    def key_fields(self, *purposes: Any) -> dict[str, Any]:
        """As for every component, but a folder counts by what it holds, and a file of weights by its content."""
        fields = super().key_fields(*purposes)
        if self.features != INCEPTION:
            fields["features"] = identity(self.features, self.features_revision)
        if self.inception_weights is not None and self.inception.is_file():
            fields["inception_weights"] = file_digest(self.inception)
        return fields


class FidConfig(FrechetFields):
    """FID: the Frechet distance of a decoder's pictures from the test items, in features of Inception (torchmetrics,
    with torch-fidelity's weights). In those of another network the column is `frechet_distance`."""

    type: Literal["fid"] = "fid"

    @property
    def judges(self) -> Literal["text", "image"]:
        return "image"

    @property
    def columns(self) -> tuple[str, ...]:
        return (self.distance,)


def lacking(what: str, model: str, revision: str | None, probe: str = "config.json") -> str | None:
    """What to do about a model on the hub that is not fetched yet; None if it is, or if it is a folder. Raises
    DataError for a folder that does not exist."""
    if folder_of(model) is not None or cached_file(model, probe, revision) is not None:
        return None
    at = f" --revision {revision}" if revision else ""
    return (
        f"{what} {model} is not in the hub's cache: with network, run once `hf download {model}{at}`, or give a folder"
    )
