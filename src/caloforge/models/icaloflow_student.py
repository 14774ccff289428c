"""The student of iCaloFlow: its flows of voxels distilled into inverse autoregressive ones (arXiv:2305.11934).

The flow of the layer energies, the preprocessing and everything after the flows are the teacher's, and are copied into
the student's own directory. What differs from the publication is said in docs/models/icaloflow.md.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Annotated

import torch
from pydantic import Field
from torch import Tensor

from caloforge.models.common import FlowSize, autoregressive_flow
from caloforge.models.distilling import DistillationStage, Student, TakeOverStage
from caloforge.models.icaloflow import ICaloFlow, ICaloFlowConfig
from caloforge.models.registry import register
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.distillation import check_guided
from caloforge.nn.permutations import alternating_within_layers
from caloforge.random import Streams
from caloforge.stage import Stage, TrainingBatch, TrainingConfig

__all__ = ["ICaloFlowStudent", "ICaloFlowStudentConfig"]


class ICaloFlowStudentConfig(ICaloFlowConfig):
    """Configuration of a student: its own four settings, and those of iCaloFlow, which its teacher fills in.

    Attributes:
        first: size of the student's flow of the first layer, with as many blocks as the teacher's.
        following: size of the student's inductive flow, likewise.
        data_weight: share of the loss that starts from data; the rest starts from latent numbers.
        start: initial weights: ``marginals`` from the mean of the teacher's splines, or ``random`` as published.
    """

    following: FlowSize = FlowSize(blocks=8, hidden_features=384, hidden_layers=2)
    data_weight: Annotated[float, Field(ge=0, le=1)] = 0.5


@register("icaloflow-student")
class ICaloFlowStudent(Student[ICaloFlow], ICaloFlow):
    """An iCaloFlow whose flows of voxels sample in one pass; always fully guided, as published.

    Args:
        config: sizes and constants.
        detector: a calorimeter whose layers have equally many voxels.

    Raises:
        ConfigError: as for :class:`caloforge.models.icaloflow.ICaloFlow`.
    """

    Config = ICaloFlowStudentConfig
    taught_by = ICaloFlow
    own = frozenset({"first", "following", "start", "data_weight"})
    config: ICaloFlowStudentConfig

    def _flow(self, name: str, features: int, context_features: int) -> AutoregressiveFlow:
        if name == "energies":
            return super()._flow(name, features, context_features)
        size: FlowSize = getattr(self.config, name)
        permutations = alternating_within_layers([features], size.blocks, seed=self.config.permutation_seed)
        return autoregressive_flow(size, features, context_features, self.config.masks, permutations, inverse=True)

    def follow(self, teacher: ICaloFlow) -> None:
        """See :meth:`caloforge.models.distilling.Student.follow`."""
        check_guided(teacher.first, self.first)
        if teacher.following is not None and self.following is not None:
            check_guided(teacher.following, self.following)

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """What is copied from the teacher, and the distillations of its flows of voxels, independent of each other."""
        copied = ("energies",) if self.scale is None else ("scale", "energies")
        stages: list[Stage] = [TakeOverStage("teacher", self, copied, lambda: self.teacher)]
        distilled: list[tuple[str, AutoregressiveFlow | None, Inputs]] = [
            ("first", self.first, self.first_inputs),
            ("following", self.following, self.following_inputs),
        ]
        for name, flow, inputs in distilled:
            if flow is not None:
                stages.append(
                    DistillationStage(
                        name,
                        name,
                        flow,
                        self._taught(name),
                        training.for_stage(name),
                        inputs=inputs,
                        conditions=_of_data(inputs),
                        guidance="guided",
                        data_weight=self.config.data_weight,
                        start=self.config.start,
                    )
                )
        return stages

    def _taught(self, name: str) -> Callable[[], AutoregressiveFlow]:
        return lambda: getattr(self.teacher, name)


Inputs = Callable[[TrainingBatch, Streams], tuple[Tensor, Tensor]]


def _of_data(inputs: Inputs) -> Inputs:
    """Conditions of L_z: as published those of real layers, with noise of their own; every layer has its address."""

    def conditions(batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        _, context = inputs(batch, streams)
        layers = context.shape[0] // len(batch)
        return context, (batch.row[:, None] * layers + torch.arange(layers)).flatten()

    return conditions
