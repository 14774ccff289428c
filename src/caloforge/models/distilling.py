"""What models that learn from a teacher share: attaching it, the frozen teacher, and the stage that distils one flow.

The loss is that of probability density distillation (arXiv:2110.11377; ``caloforge.nn.distillation``).
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, Generic, Protocol, TypeVar, cast

import torch
from torch import Tensor

from caloforge.detectors import Detector
from caloforge.errors import ConfigError, UsageError
from caloforge.kernels.ops.spline_layer import raw_by_rows
from caloforge.models.base import ModelConfig, ShowerModel
from caloforge.models.marginals import collect_rows
from caloforge.nn.autoregressive import AutoregressiveFlow, MaskedAutoregressiveFlow
from caloforge.nn.distillation import Guidance, data_loss, latent_loss, trace_teacher
from caloforge.nn.inverse_autoregressive import InverseAutoregressiveFlow
from caloforge.random import Streams
from caloforge.stage import FitStage, GradientStage, StageTraining, TrainingBatch, TrainingData
from caloforge.transforms import LogEnergy

__all__ = ["DistillationStage", "FrozenTeacher", "Student", "TakeOverStage", "settings_with_teacher"]

#: Training rows from which the initial weights are taken.
_START_ROWS = 1000
#: The output weights that make spline parameters depend on other variables are scaled by this at the start.
_DEPENDENCE = 0.01

M = TypeVar("M", bound=ShowerModel)


class FrozenTeacher(Generic[M]):
    """A copy of the teacher that is no part of its student: it is neither trained nor stored with it.

    Args:
        model: the teacher; it is not changed.
    """

    def __init__(self, model: M) -> None:
        self._model = copy.deepcopy(model).requires_grad_(False).eval()

    @classmethod
    def of(cls, student: ShowerModel, model: ShowerModel, kind: type[M]) -> FrozenTeacher[M]:
        """The teacher of a student, after a look whether it is one.

        Raises:
            UsageError: if it is of another kind than wanted, or for another readout.
        """
        if type(model) is not kind:
            raise UsageError(f"the teacher of a '{student.kind}' must be a '{kind.kind}', not a '{model.kind}'")
        if model.detector.readout != student.detector.readout:
            raise UsageError(
                f"the teacher is for the readout of '{model.detector.name}', the data come from "
                f"'{student.detector.name}'"
            )
        return cls(model)

    def beside(self, student: ShowerModel) -> M:
        """The teacher, on the device and in the precision of its student; it stays there."""
        if self._model.device != student.device or self._model.dtype != student.dtype:
            self._model.to(device=student.device, dtype=student.dtype)
        return self._model


class _Preprocessing(Protocol):
    """Constants of a teacher that depend on its detector unless its configuration gives them."""

    cut: float
    log_incident: LogEnergy
    log_layers: LogEnergy


class Student(ShowerModel, Generic[M]):
    """A model that learns from another one; a base class to stand in front of the one that makes the showers.

    Args:
        config: its configuration.
        detector: the calorimeter.

    Attributes:
        taught_by: class of the teacher.
        own: names of the settings that are the student's own; all others come from the teacher.
    """

    inputs = ("teacher",)
    taught_by: type[M]
    own: ClassVar[frozenset[str]]

    def __init__(self, config: ModelConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        self._teacher: FrozenTeacher[M] | None = None

    def attach(self, name: str, model: ShowerModel) -> None:
        """Take over the settings of the teacher, a trained model; initial weights are drawn anew.

        Raises:
            UsageError: if it is of another kind than wanted, or for another readout.
            ConfigError: if a setting contradicts the teacher's, or the student cannot follow it.
        """
        if name not in self.inputs:
            super().attach(name, model)
        teacher = FrozenTeacher.of(self, model, self.taught_by)
        # Defaults that depend on the detector are taken as the teacher found them.
        constants = cast("_Preprocessing", model)
        found = {
            "cut": constants.cut,
            "incident_reference": constants.log_incident.reference,
            "layer_reference": constants.log_layers.reference,
        }
        settings = settings_with_teacher(self.config, model.config, self.own, found)
        self.__init__(type(self).Config.model_validate(settings), self.detector)  # type: ignore[misc]
        self.follow(cast("M", model))
        self._teacher = teacher

    @abstractmethod
    def follow(self, teacher: M) -> None:
        """Get ready to learn from a teacher whose settings were taken over.

        Raises:
            ConfigError: if its flows cannot be followed.
        """

    @property
    def teacher(self) -> M:
        """The teacher, frozen, on the same device.

        Raises:
            UsageError: if there is none.
        """
        if self._teacher is None:
            raise UsageError(
                f"the model '{self.kind}' learns from another model, so it needs teacher=<model directory>"
            )
        return self._teacher.beside(self)


class TakeOverStage(FitStage):
    """Copies parts of the teacher that the student keeps as they are.

    Args:
        name: see :class:`caloforge.stage.Stage`.
        student: the model that takes over.
        paths: the parts, by their path in both models.
        teacher: gives the teacher.
    """

    def __init__(
        self, name: str, student: ShowerModel, paths: tuple[str, ...], teacher: Callable[[], ShowerModel]
    ) -> None:
        super().__init__(name, {path: student.get_submodule(path) for path in paths})
        self.teacher = teacher

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """The teacher's state of these parts; the data are not looked at."""
        model = self.teacher()
        state = {path: model.get_submodule(path).state_dict() for path in self.parts}
        return {f"{path}.{key}": value.clone() for path, part in state.items() for key, value in part.items()}


class DistillationStage(GradientStage):
    """Distils one masked autoregressive flow into an inverse one; validated and selected by KL(student || teacher).

    Loss: ``(1 - data_weight) L_z + data_weight L_x`` (arXiv:2110.11377). L_x starts from training rows with their own
    conditions, L_z from standard normal numbers; all of them are addressed by row and epoch.

    Args:
        name: see :class:`caloforge.stage.Stage`.
        path: where the student's flow stands in its model.
        student: the student's flow.
        teacher: gives the teacher's flow, frozen.
        training: see :class:`caloforge.stage.GradientStage`.
        inputs: what the flows learn from a batch, (rows, D), and its conditions, (rows, C); the rows may be more or
            fewer than those of the batch.
        conditions: conditions of L_z, (rows, C), and the addresses of their random numbers, (rows,) in CPU memory.
        guidance: what is compared.
        data_weight: share of L_x in the loss.
        start: ``marginals`` starts every spline as the mean of its teacher's (with ``guided`` only), ``random``
            from random weights.
        needs: see :class:`caloforge.stage.Stage`.
    """

    metric = "kl"

    def __init__(
        self,
        name: str,
        path: str,
        student: AutoregressiveFlow,
        teacher: Callable[[], AutoregressiveFlow],
        training: StageTraining,
        *,
        inputs: Callable[[TrainingBatch, Streams], tuple[Tensor, Tensor]],
        conditions: Callable[[TrainingBatch, Streams], tuple[Tensor, Tensor]],
        guidance: Guidance,
        data_weight: float,
        start: str,
        needs: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, {path: student}, training, needs=needs)
        assert isinstance(student, InverseAutoregressiveFlow)
        self.student, self._teacher = student, teacher
        self.inputs, self.conditions = inputs, conditions
        self.guidance, self.data_weight, self.start = guidance, data_weight, start

    @property
    def teacher(self) -> MaskedAutoregressiveFlow:
        """The teacher's flow, frozen."""
        flow = self._teacher()
        assert isinstance(flow, MaskedAutoregressiveFlow)
        return flow

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        """Start from the mean of the teacher's spline parameters over some training rows."""
        if self.start != "marginals" or self.guidance != "guided":
            return

        def both(batch: TrainingBatch) -> Tensor:
            return torch.cat(self.inputs(batch, streams), dim=1)

        rows = collect_rows(data, _START_ROWS, both)
        trace = trace_teacher(self.teacher, rows[:, : self.student.features], rows[:, self.student.features :])
        for (block, _), parameters in zip(self.student.chain(), trace.parameters, strict=True):
            output = block.conditioner.output_layer
            output.weight.mul_(_DEPENDENCE)
            output.bias.copy_(raw_by_rows(parameters, len(rows)).mean(dim=0).flatten())

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.loss`; ``kl`` is an estimate from the samples of L_z, nats."""
        teacher = self.teacher
        x, context = self.inputs(batch, streams.child("data"))
        from_data = data_loss(teacher, self.student, x, context, self.guidance)
        context, address = self.conditions(batch, streams.child("conditions"))
        numbers = streams.child("latents").normal(address.numpy(), self.student.features, attempts=batch.epoch)
        z = torch.from_numpy(numbers).to(context)
        from_latents, divergence = latent_loss(teacher, self.student, z, context, self.guidance)
        loss = (1 - self.data_weight) * from_latents + self.data_weight * from_data
        return {"loss": loss, "data": from_data, "latent": from_latents, "kl": divergence}


def settings_with_teacher(
    student: ModelConfig, teacher: ModelConfig, own: frozenset[str], found: Mapping[str, Any]
) -> dict[str, Any]:
    """The settings of a student, those that are not its own filled in from its teacher.

    Args:
        student: settings of the student before it knew its teacher.
        teacher: settings of the teacher.
        own: names of the settings that are the student's own.
        found: what the teacher made of settings that depend on its detector.

    Raises:
        ConfigError: if a setting was given for the student that contradicts the teacher's.
    """
    taken = {key: getattr(teacher, key) for key in type(teacher).model_fields if key not in own} | dict(found)
    for key in sorted(student.model_fields_set & taken.keys()):
        if getattr(student, key) != taken[key]:
            raise ConfigError(
                f"the student's '{key}' is {getattr(student, key)}, its teacher's {taken[key]}; leave it out of the "
                "student's settings, the teacher's count"
            )
    return {key: getattr(student, key) for key in own} | taken
