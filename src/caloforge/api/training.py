"""Training as people call it: a preset, showers by name or in memory, and a folder."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caloforge.api.model import Model, load
from caloforge.detectors import Detector, load_detector
from caloforge.errors import UsageError
from caloforge.models import Preset
from caloforge.options import TrainOptions, options_of
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
    inputs: Mapping[str, str | Path] | None = None,
    options: TrainOptions | None = None,
    **settings: Any,
) -> Model:
    """Train a model, and load it; the checks are those of ``caloforge train``.

    Args:
        preset: name of a preset (``caloforge models`` lists them), YAML file, or the preset itself.
        data: showers in memory, a file, a sample of the package (``NAME:SPLIT``), or several of these as one.
        out: model directory.
        detector: for data that do not say which detector they are from.
        particle: for data that do not say which particle they hold.
        inputs: directories of other models that the model learns from: ``{"teacher": "runs/t"}``.
        options: how it is trained; see :class:`caloforge.options.TrainOptions`.
        settings: single options, instead of or beside ``options``: ``overrides=["training.epochs=5"]``, ``stages``, ``seed``,
            ``jobs``, ``val_fraction``, ``device``, ``threads``, ``memory``, ``resume``, ``overwrite`` ...; and ``show`` and
            ``command`` of :func:`caloforge.training.train`.

    Raises:
        UsageError: if something was asked for that makes no sense.
        ConfigError: if the preset is wrong or does not suit the data.
        ShowerFileError: if the data are damaged.
        OutputError: if ``out`` holds another training, is in use, or cannot be written.
    """
    named = load_detector(detector) if isinstance(detector, str | Path) else detector
    source: Any = data
    if isinstance(data, Showers | ShowerPoints):
        known = data.detector or named
        if known is None:
            raise UsageError("the showers do not say which detector they are of, so one must be named")
        source = _InMemory(data, known, _pdg(data.particle or (particle or 0)), data.provenance)
    result = train_model(
        preset, source, out, detector=named, particle=particle, inputs=inputs, options=options, **settings
    )
    if result.record is None:
        raise UsageError(
            f"{out}: not complete yet, so there is no model to load; still to be trained: {', '.join(result.missing)}"
        )
    return load(Path(out), device=TrainOptions.merged(options, _known(settings)).device)


def _known(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The settings that are options."""
    names = {name for name, _, _ in options_of(TrainOptions)}
    return {name: value for name, value in settings.items() if name in names}


def _pdg(particle: str | int) -> int:
    from caloforge.detectors import particle_id

    return particle_id(particle) if particle != 0 else 0
