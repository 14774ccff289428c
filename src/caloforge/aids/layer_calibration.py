"""The calibration of point clouds finds a factor on the number of points for every layer, instead of one for all."""

from __future__ import annotations

from typing import ClassVar

from caloforge.errors import ConfigError
from caloforge.models import Aid, ShowerModel, only_module
from caloforge.parts.occupancy import CalibrationFactors
from caloforge.validation import Settings

__all__ = ["LayerCalibration"]


class LayerCalibration(Aid):
    """Lets the calibration look at every layer."""

    kind = "layer-calibration"
    title: ClassVar[str] = "lit cells are calibrated layer by layer"

    def __init__(self, config: Settings, model: ShowerModel) -> None:
        super().__init__(config, model)
        factors = only_module(model, CalibrationFactors, self.kind)
        if factors.polynomial:
            raise ConfigError("the aid 'layer-calibration' does not go with 'occupancy: polynomial'")
        factors.per_layer = True
