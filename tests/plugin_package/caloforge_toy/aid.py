"""An aid in one file: training begins where every voxel has the mean share that it has in the data."""

from typing import ClassVar

import torch

from caloforge.errors import ConfigError
from caloforge.models import Aid, ShowerModel
from caloforge.random import Streams
from caloforge.stage import GradientStage, TrainingData
from caloforge.validation import Settings
from caloforge_toy.model import ToyExponential


class MeanStartSettings(Settings):
    """What stands beside ``kind`` in a preset.

    Attributes:
        least: share of a voxel that is never lit.
    """

    least: float = 1e-6


class MeanStart(Aid):
    """Sets the initial distribution over voxels."""

    kind = "toy-mean-start"
    title: ClassVar[str] = "begins with the mean shares of the voxels"
    Config = MeanStartSettings
    config: MeanStartSettings

    def __init__(self, config: Settings, model: ShowerModel) -> None:
        super().__init__(config, model)
        if not isinstance(model, ToyExponential):
            raise ConfigError(f"the aid '{self.kind}' does not suit the model '{model.kind}'")

    @torch.no_grad()
    def before_training(self, model: ShowerModel, stage: GradientStage, data: TrainingData, streams: Streams) -> None:
        """Logarithms of the mean shares; a softmax makes them add up to one."""
        assert isinstance(model, ToyExponential)  # it was looked at
        total = sum((batch.deposits.double() / batch.incident_energy[:, None]).sum(dim=0) for batch in data)
        shares = (total / total.sum()).clamp_min(self.config.least)
        model.voxels.logits.copy_(shares.log())
