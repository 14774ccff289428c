"""Training as people call it: a preset, showers by name or in memory, and a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caloforge import datasets
from caloforge.api.model import Model, load
from caloforge.detectors import Detector, load_detector
from caloforge.errors import UsageError
from caloforge.models import Preset
from caloforge.showers import ShowerPoints, Showers
from caloforge.training import train as train_model

__all__ = ["train"]


@dataclass(frozen=True)
class _InMemory:
    """Showers in memory, as a source of training data."""

    showers: Showers | ShowerPoints
    detector: Detector | None
    particle: int
    provenance: Mapping[str, Any]

    def __len__(self) -> int:
        return len(self.showers)

    def read(self, start: int, stop: int) -> Showers | ShowerPoints:
        return self.showers[start:stop]


def train(
    preset: str | Path | Preset,
    data: Showers | ShowerPoints | str | Path | Sequence[str | Path],
    out: str | Path,
    *,
    detector: Detector | str | Path | None = None,
    particle: str | int | None = None,
    **options: Any,
) -> Model:
    """Train a model, and load it.

    Args:
        preset: name of a preset (``caloforge models`` lists them), YAML file, or the preset itself.
        data: showers in memory, a file, a sample of the package (``NAME:SPLIT``), or several of these as one.
        out: model directory.
        detector: for data that do not say which detector they are from.
        particle: for data that do not say which particle they hold.
        options: of :func:`caloforge.training.train`, as behind ``caloforge train``: ``overrides=["training.epochs=5"]``,
            ``inputs={"teacher": "runs/t"}``, ``seed``, ``val_fraction``, ``device``, ``threads``, ``resume``, ``overwrite`` ...

    Raises:
        UsageError: if something was asked for that makes no sense.
        ConfigError: if the preset is wrong or does not suit the data.
        ShowerFileError: if the data are damaged.
        OutputError: if ``out`` holds another training, is in use, or cannot be written.
    """
    named = load_detector(detector) if isinstance(detector, str | Path) else detector
    if isinstance(data, Showers | ShowerPoints):
        known = data.detector or named
        if known is None:
            raise UsageError("the showers do not say which detector they are of, so one must be named")
        whose = data.particle or (particle or 0)
        opened: Any = nullcontext(_InMemory(data, known, _pdg(whose), data.provenance))
    else:
        datasets.refuse_references([data] if isinstance(data, str | Path) else data)
        opened = datasets.open_named(data, named, particle=particle)
    with opened as source:
        train_model(preset, source, out, **options)
    return load(Path(out), device=str(options.get("device", "cpu")))


def _pdg(particle: str | int) -> int:
    from caloforge.detectors import particle_id

    return particle_id(particle) if particle != 0 else 0
