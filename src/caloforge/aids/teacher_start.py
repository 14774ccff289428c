"""Initial weights of a student's flow: every spline starts as the mean of its teacher's over some training rows."""

from __future__ import annotations

from typing import ClassVar

import torch
from torch import Tensor

from caloforge.errors import ConfigError
from caloforge.kernels.ops.spline_layer import raw_by_rows
from caloforge.models import Aid, ShowerModel
from caloforge.nn.distillation import trace_teacher
from caloforge.parts.distillation import DistillationStage
from caloforge.parts.rows import collect_rows
from caloforge.random import Streams
from caloforge.stage import GradientStage, Stage, TrainingBatch, TrainingConfig, TrainingData
from caloforge.validation import Settings

__all__ = ["TeacherStart"]

#: Training rows over which the mean is taken.
_START_ROWS = 1000
#: The output weights that make spline parameters depend on other variables are scaled by this at the start.
_DEPENDENCE = 0.01


class TeacherStart(Aid):
    """Sets the initial weights of a distillation with full guidance; without it student and teacher differ in their blocks."""

    kind = "teacher-start"
    title: ClassVar[str] = "a student's splines start as the mean of its teacher's"

    def __init__(self, config: Settings, model: ShowerModel) -> None:
        super().__init__(config, model)
        if not any(_guided(stage) for stage in model.stages(TrainingConfig())):
            raise ConfigError(
                f"the aid '{self.kind}' does not suit the model '{model.kind}', which no teacher guides block by block"
            )

    @torch.no_grad()
    def before_training(self, model: ShowerModel, stage: GradientStage, data: TrainingData, streams: Streams) -> None:
        """See :meth:`caloforge.models.Aid.before_training`."""
        if not _guided(stage):
            return
        assert isinstance(stage, DistillationStage)

        def both(batch: TrainingBatch) -> Tensor:
            y, context = stage.variables(batch, streams)
            return torch.cat([y, context], dim=1).reshape(len(batch), -1)

        features = stage.flow.features
        rows = collect_rows(data, _START_ROWS, both).reshape(-1, features + stage.flow.context_features)[:_START_ROWS]
        trace = trace_teacher(stage.teacher, rows[:, :features], rows[:, features:])
        for (block, _), parameters in zip(stage.flow.chain(), trace.parameters, strict=True):
            output = block.conditioner.output_layer
            output.weight.mul_(_DEPENDENCE)
            output.bias.copy_(raw_by_rows(parameters, len(rows)).mean(dim=0).flatten())


def _guided(stage: Stage) -> bool:
    return isinstance(stage, DistillationStage) and stage.guidance == "guided"
