"""Models that need no training: made for a detector on the spot, and as good as loaded ones."""

from __future__ import annotations

import hashlib

from caloforge.detectors import Detector, particle_id
from caloforge.errors import UsageError
from caloforge.models.base import ShowerModel
from caloforge.models.preset import load_preset, preset_names
from caloforge.models.record import ModelRecord
from caloforge.models.registry import model_class

__all__ = ["is_ready_preset", "ready_model"]


def is_ready_preset(name: str) -> bool:
    """Whether this is a preset of a kind of model that makes showers without having seen any."""
    return name in preset_names() and not model_class(load_preset(name).kind).needs_training


def ready_model(name: str, detector: Detector, particle: str | int, *, points: bool = False) -> ShowerModel:
    """A model that was never trained, with a record as if it had been loaded.

    Args:
        name: a preset of such a kind.
        detector: the calorimeter.
        particle: what comes in.
        points: whether to give points where the readout has cells.

    Raises:
        UsageError: if there is no such preset, its kind needs training, or does not know the particle.
        ConfigError: if the detector does not suit.
    """
    if not is_ready_preset(name):
        known = [preset for preset in preset_names() if is_ready_preset(preset)]
        raise UsageError(f"'{name}' makes no showers without training, expected one of {', '.join(known)}")
    model = load_preset(name, ["model.points=true"] if points else []).build(detector).eval().freeze()
    valid = model.untrained_range(particle_id(particle))
    config = model.config.model_dump(mode="json")
    toml = detector.to_toml()
    model.record = ModelRecord(
        kind=model.kind,
        profile=model.profile,
        config=config,
        detector=toml,
        valid=valid,
        representation=model.describe_representation(),
        parameters=model.parameter_count(),
        # It has no weights; what it is follows from these.
        weights_sha256=hashlib.sha256(repr((model.kind, config, toml, valid)).encode()).hexdigest(),
    )
    return model
