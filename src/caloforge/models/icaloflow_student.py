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

from caloforge.detectors import Detector
from caloforge.errors import UsageError
from caloforge.models.base import ShowerModel
from caloforge.models.common import FlowSize, autoregressive_flow
from caloforge.models.distilling import DistillationStage, FrozenTeacher, TakeOverStage, settings_with_teacher
from caloforge.models.icaloflow import ICaloFlow, ICaloFlowConfig
from caloforge.models.registry import register
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.distillation import check_guided
from caloforge.nn.permutations import alternating_within_layers
from caloforge.random import Streams
from caloforge.stage import Stage, TrainingBatch, TrainingConfig

__all__ = ["ICaloFlowStudent", "ICaloFlowStudentConfig"]

#: What is the student's own; everything else comes from the teacher.
_OWN = frozenset({"first", "following", "start", "data_weight"})


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
class ICaloFlowStudent(ICaloFlow):
    """An iCaloFlow whose flows of voxels sample in one pass; always fully guided, as published.

    Args:
        config: sizes and constants.
        detector: a calorimeter whose layers have equally many voxels.

    Raises:
        ConfigError: as for :class:`caloforge.models.icaloflow.ICaloFlow`.
    """

    Config = ICaloFlowStudentConfig
    inputs = ("teacher",)
    config: ICaloFlowStudentConfig

    def __init__(self, config: ICaloFlowStudentConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        self._teacher: FrozenTeacher[ICaloFlow] | None = None

    def _flow(self, name: str, features: int, context_features: int) -> AutoregressiveFlow:
        if name == "energies":
            return super()._flow(name, features, context_features)
        size: FlowSize = getattr(self.config, name)
        permutations = alternating_within_layers([features], size.blocks, seed=self.config.permutation_seed)
        return autoregressive_flow(size, features, context_features, self.config.masks, permutations, inverse=True)

    def attach(self, name: str, model: ShowerModel) -> None:
        """Take over the settings of the teacher, a trained iCaloFlow; initial weights are drawn anew.

        Raises:
            UsageError: if it is no iCaloFlow, or one for another readout.
            ConfigError: if a setting contradicts the teacher's, or the student cannot follow it block by block.
        """
        if name not in self.inputs:
            super().attach(name, model)
        teacher = FrozenTeacher.of(self, model, ICaloFlow)
        assert isinstance(model, ICaloFlow)
        # Defaults that depend on the detector are taken as the teacher found them.
        found = {
            "cut": model.cut,
            "incident_reference": model.log_incident.reference,
            "layer_reference": model.log_layers.reference,
        }
        config = ICaloFlowStudentConfig.model_validate(settings_with_teacher(self.config, model.config, _OWN, found))
        self.__init__(config, self.detector)  # type: ignore[misc]
        check_guided(model.first, self.first)
        if model.following is not None and self.following is not None:
            check_guided(model.following, self.following)
        self._teacher = teacher

    @property
    def teacher(self) -> ICaloFlow:
        """The teacher, frozen, on the same device.

        Raises:
            UsageError: if there is none.
        """
        if self._teacher is None:
            raise UsageError(
                f"the model '{self.kind}' learns from another model, so it needs teacher=<model directory>"
            )
        return self._teacher.beside(self)

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
