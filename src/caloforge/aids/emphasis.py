"""Conditions multiplied by a number: they are few among thousands of inputs, and short trainings hardly hear them otherwise."""

from __future__ import annotations

from typing import Annotated, ClassVar

from pydantic import Field
from torch import Tensor

from caloforge.models import Aid, ShowerModel, only_module
from caloforge.representation import EnergyConditions
from caloforge.validation import Settings

__all__ = ["Emphasis", "EmphasisSettings"]


class EmphasisSettings(Settings):
    """Settings of the emphasis.

    Attributes:
        factor: what the conditions are multiplied by.
    """

    factor: Annotated[float, Field(gt=0)]


class Emphasis(Aid):
    """Multiplies the energies among the conditions of a model."""

    kind = "emphasis"
    title: ClassVar[str] = "energies among the conditions are multiplied by a factor"
    Config = EmphasisSettings
    config: EmphasisSettings

    def __init__(self, config: EmphasisSettings, model: ShowerModel) -> None:
        super().__init__(config, model)
        only_module(model, EnergyConditions, self.kind).put("conditions", self.emphasised)

    def emphasised(self, conditions: Tensor) -> Tensor:
        """Conditions (N, C), multiplied."""
        return self.config.factor * conditions

    def constants(self) -> None:
        """See :meth:`caloforge.models.Aid.constants`."""
