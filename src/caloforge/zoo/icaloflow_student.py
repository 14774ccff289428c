"""The student of iCaloFlow: its flows of voxels distilled into inverse autoregressive ones (arXiv:2305.11934).

The flow of the layer energies, the representation and everything after the flows are the teacher's, and are copied into the
student's own directory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor

from caloforge.models import ShowerModel
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.distillation import check_guided
from caloforge.parts.differences import TRAINING_DIFFERENCES
from caloforge.parts.distillation import DistillationStage, DistilledModel, StudentConfig, TakeOverStage
from caloforge.parts.flows import FlowSize, Variables
from caloforge.random import Streams
from caloforge.stage import Stage, TrainingBatch, TrainingConfig

__all__ = ["ICaloFlowStudent", "ICaloFlowStudentConfig"]


class ICaloFlowStudentConfig(StudentConfig):
    """Configuration of the student of iCaloFlow: the keys of :class:`~caloforge.parts.distillation.StudentConfig`, and these.

    Attributes:
        first: size of the student's flow of the first layer, with as many blocks as the teacher's.
        following: size of the student's inductive flow, likewise; the defaults are the published sizes.
    """

    first: FlowSize = FlowSize(blocks=8, hidden_features=256, hidden_layers=2)
    following: FlowSize = FlowSize(blocks=8, hidden_features=384, hidden_layers=2)


class ICaloFlowStudent(DistilledModel):
    """An iCaloFlow whose flows of voxels sample in one pass; always fully guided, as published.

    Args:
        config: its configuration.
        detector: a calorimeter whose layers have equally many voxels.

    Raises:
        ConfigError: as for iCaloFlow.
    """

    kind = "icaloflow-student"
    Config = ICaloFlowStudentConfig
    taught_by = "icaloflow"
    flows = ("first", "following")
    differences = TRAINING_DIFFERENCES
    config: ICaloFlowStudentConfig

    def permutations(self, name: str, blocks: int) -> list[Any]:
        """See :meth:`caloforge.parts.distillation.DistilledModel.permutations`."""
        permutations: list[Any] = self.model.layer_permutations(blocks)
        return permutations

    def follow(self, teacher: ShowerModel) -> None:
        """See :meth:`caloforge.parts.distillation.DistilledModel.follow`."""
        for name in self.flows:
            taught, own = getattr(teacher, name), getattr(self.model, name)
            if isinstance(taught, AutoregressiveFlow) and own is not None:
                check_guided(taught, own)

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """What is copied from the teacher, and the distillations of its flows of voxels, independent of each other."""
        stages: list[Stage] = [TakeOverStage("teacher", self, ("energies",))]
        variables: dict[str, Variables] = {
            "first": self.model.first_variables,
            "following": self.model.following_variables,
        }
        present = [name for name in self.flows if getattr(self.model, name) is not None]
        stages += [
            DistillationStage(
                name,
                self,
                training.for_stage(name),
                variables=variables[name],
                conditions=_of_data(variables[name]),
            )
            for name in present
        ]
        return stages


def _of_data(variables: Variables) -> Callable[[TrainingBatch, Streams], tuple[Tensor, Tensor]]:
    """Conditions of L_z: as published those of real layers, with noise of their own; every layer has its address."""

    def conditions(batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        _, context = variables(batch, streams)
        layers = context.shape[0] // len(batch)
        return context, (batch.row[:, None] * layers + torch.arange(layers)).flatten()

    return conditions
