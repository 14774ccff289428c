"""What a model's directory says about it, as data: ``model.json`` and, while it is trained, ``plan.json``."""

from __future__ import annotations

from typing import Any

from pydantic import BaseModel, ConfigDict, Field

from caloforge.conditions import ConditionRange
from caloforge.models.profiles import Profile
from caloforge.training_settings import TrainingConfig
from caloforge.version import __version__

__all__ = ["FORMAT", "ModelRecord", "RunPlan"]

#: Version of the layout of a model directory.
FORMAT = 2


class _Frozen(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid")


class ModelRecord(_Frozen):
    """What ``model.json`` says.

    Attributes:
        format: version of the layout.
        caloforge: version of the program that wrote it.
        kind: registered name of the model class.
        profile: ``published`` or ``improved``: what the switches of the configuration follow.
        config: the model's configuration.
        aids: what helped it that stands in no paper, each with its kind and settings.
        detector: the detector as TOML text.
        valid: conditions that the model was trained for.
        representation: how showers become numbers, in words and numbers.
        training: how it was trained (data, rows, seed, settings, epochs, durations of each stage).
        training_rows: number of row hashes beside the weights.
        inputs: hashes of the models that it was trained from, by name (``teacher``).
        metrics: what it scores.
        licence: licence of the weights.
        parameters: number of trainable parameters.
        weights_sha256: hash of ``model.safetensors``; also the identity of the model.
    """

    format: int = FORMAT
    caloforge: str = __version__
    kind: str
    profile: Profile
    config: dict[str, Any]
    aids: list[dict[str, Any]] = Field(default_factory=list)
    detector: str
    valid: ConditionRange
    representation: dict[str, Any] = Field(default_factory=dict)
    training: dict[str, Any] = Field(default_factory=dict)
    training_rows: int = 0
    inputs: dict[str, str] = Field(default_factory=dict)
    metrics: dict[str, Any] = Field(default_factory=dict)
    licence: str = "Apache-2.0"
    parameters: int
    weights_sha256: str


class RunPlan(_Frozen):
    """What ``plan.json`` says: written when training starts, so that an unfinished directory explains itself.

    Attributes:
        kind: registered name of the model class.
        profile: what the switches of the configuration follow.
        config: the model's configuration.
        aids: what helps it, each with its kind and settings.
        detector: the detector as TOML text.
        particle: PDG id of the incident particle; of a model of several particles the first.
        others: those of the others.
        training: the training section.
        stages: names of all stages, in order.
        inputs: paths of the models that training needs, by name.
        details: whatever else the training loop wants to find again (data file, seed, split).
    """

    format: int = FORMAT
    kind: str
    profile: Profile
    config: dict[str, Any]
    aids: list[dict[str, Any]] = Field(default_factory=list)
    detector: str
    particle: int
    others: list[int] = Field(default_factory=list)
    training: TrainingConfig
    stages: list[str]
    inputs: dict[str, str] = Field(default_factory=dict)
    details: dict[str, Any] = Field(default_factory=dict)
