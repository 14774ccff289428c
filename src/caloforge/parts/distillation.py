"""Students: a model some of whose flows are inverse ones, distilled from those of a trained teacher.

The loss is that of probability density distillation (arXiv:2110.11377; ``caloforge.nn.distillation``).
"""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Callable, Mapping
from typing import Any, ClassVar, cast

import torch
from pydantic import Field
from torch import Tensor

from caloforge.conditions import Conditions
from caloforge.detectors import Detector
from caloforge.errors import ConfigError, UsageError
from caloforge.models import Latents, ShowerModel, model_class
from caloforge.nn.autoregressive import AutoregressiveFlow, MaskedAutoregressiveFlow
from caloforge.nn.distillation import Guidance, data_loss, latent_loss
from caloforge.nn.inverse_autoregressive import InverseAutoregressiveFlow
from caloforge.parts.checks import check_margin
from caloforge.parts.flows import FlowSize, Variables, autoregressive_flow
from caloforge.random import Streams
from caloforge.representation import EnergyConditions
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import FitStage, GradientStage, StageTraining, TrainingBatch, TrainingData
from caloforge.validation import Settings, validated

__all__ = ["DistillationStage", "DistilledModel", "StudentConfig", "TakeOverStage"]


class StudentConfig(Settings):
    """What the configurations of all students have in common.

    Attributes:
        teacher: configuration of the teacher, which is filled in from it.
        data_weight: share of the loss that starts from data; the rest starts from latent numbers.
    """

    teacher: dict[str, Any] = Field(default_factory=dict)
    data_weight: float = Field(0.5, ge=0, le=1)


class DistilledModel(ShowerModel):
    """A model of the teacher's kind with inverse autoregressive flows, which make their part of a shower in one pass.

    Args:
        config: its configuration.
        detector: the calorimeter.

    Attributes:
        taught_by: kind of the teacher.
        flows: names of the flows of the teacher that are distilled; ``config`` says their sizes under the same names.
        model: a model of the teacher's kind that holds the student's flows.
    """

    inputs = ("teacher",)
    has_likelihood = True
    taught_by: ClassVar[str]
    flows: ClassVar[tuple[str, ...]]
    config: StudentConfig
    #: Of the kind ``taught_by``; what its subclass has beyond a ``ShowerModel`` the student's file knows.
    model: Any

    def __init__(self, config: StudentConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        cls = model_class(self.taught_by)
        self.model = cls(validated(cls.Config, config.teacher, where="the teacher's settings"), detector)
        for name in self.flows:
            taught: AutoregressiveFlow | None = getattr(self.model, name)
            if taught is not None:
                setattr(self.model, name, self.inverse_flow(name, taught, getattr(config, name)))
        self._teacher: ShowerModel | None = None

    @classmethod
    def settled(cls, config: Settings, detector: Detector, inputs: Mapping[str, ShowerModel]) -> Settings:
        """The configuration with the teacher's in it; see :meth:`caloforge.models.ShowerModel.settled`.

        Raises:
            UsageError: if the teacher is of another kind, or for another readout.
            ConfigError: if a setting was given for the teacher that contradicts its own.
        """
        if "teacher" not in inputs:
            return config
        assert isinstance(config, StudentConfig)
        teacher = inputs["teacher"]
        if teacher.kind != cls.taught_by:
            raise UsageError(f"the teacher of a '{cls.kind}' must be a '{cls.taught_by}', not a '{teacher.kind}'")
        if teacher.detector.readout != detector.readout:
            raise UsageError(
                f"the teacher is for the readout of '{teacher.detector.name}', the data come from '{detector.name}'"
            )
        # Defaults that depend on the detector are taken as the teacher found them.
        own = teacher.config.model_dump(mode="json") | _found(teacher)
        for key, value in config.teacher.items():
            if own.get(key) != value:
                raise ConfigError(
                    f"the student's 'teacher.{key}' is {value}, its teacher's {own.get(key)}; leave it out of the student's "
                    "settings, the teacher's count"
                )
        return config.model_copy(update={"teacher": own})

    def attach(self, name: str, model: ShowerModel) -> None:
        """Take the teacher, whose configuration is in that of the student already; it is copied and frozen.

        Raises:
            UsageError: if the model takes no such input.
            ConfigError: if the student's flows cannot follow it, or it makes showers with other aids.
        """
        if name not in self.inputs:
            super().attach(name, model)
        theirs, own = _aids_of_generation(model), _aids_of_generation(self)
        if theirs != own:
            raise ConfigError(
                f"the teacher makes showers with the help of {theirs}, the student with that of {own}; name the same 'aids'"
            )
        self.follow(model)
        # Neither trained nor stored with the student, so it must not become one of its parts.
        object.__setattr__(self, "_teacher", copy.deepcopy(model).requires_grad_(False).eval())

    def inverse_flow(self, name: str, taught: AutoregressiveFlow, size: FlowSize) -> AutoregressiveFlow:
        """A student's flow of some size for the teacher's flow ``name``, which learns the same logits."""
        check_margin(self.model.shares.logit, size.bound, name)
        return autoregressive_flow(
            size,
            taught.features,
            taught.context_features,
            self.model.config.masks,
            self.permutations(name, size.blocks),
            inverse=True,
        )

    @abstractmethod
    def permutations(self, name: str, blocks: int) -> list[Any]:
        """Permutations of the student's flow ``name`` with so many blocks; fully guided, they must be the teacher's."""

    def follow(self, teacher: ShowerModel) -> None:
        """Get ready to learn from the teacher.

        Raises:
            ConfigError: if its flows cannot be followed.
        """

    @property
    def teacher(self) -> Any:
        """The teacher, frozen, on the device and in the precision of the student.

        Raises:
            UsageError: if there is none.
        """
        if self._teacher is None:
            raise UsageError(
                f"the model '{self.kind}' learns from another model, so it needs teacher=<model directory>"
            )
        if self._teacher.device != self.device or self._teacher.dtype != self.dtype:
            self._teacher.to(device=self.device, dtype=self.dtype)
        return self._teacher

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """As the teacher's."""
        latents: Latents = self.model.latents(conditions, streams)
        return latents

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As the teacher's, with the student's flows."""
        output: tuple[dict[str, Tensor], Tensor] = self.model.decode_tensors(conditions, latents)
        return output

    def log_prob(
        self, showers: Showers | ShowerPoints, streams: Streams, *, draws: int = 1, first_row: int = 0
    ) -> Tensor:
        """As the teacher's, with the student's flows and aids; see :meth:`caloforge.models.ShowerModel.log_prob`."""
        log_prob: Tensor = self.model.log_prob(showers, streams, draws=draws, first_row=first_row)
        return self.with_factors(log_prob, showers)

    def describe_representation(self) -> dict[str, Any]:
        """The teacher's."""
        described: dict[str, Any] = self.model.describe_representation()
        return described


def _found(teacher: ShowerModel) -> dict[str, Any]:
    """What a teacher made of settings that depend on its detector."""
    conditions = next((part for part in teacher.modules() if isinstance(part, EnergyConditions)), None)
    found: dict[str, Any] = {}
    if conditions is not None:
        found["incident_reference"] = conditions.log_incident.reference
        found["layer_reference"] = conditions.log_layers.reference
    cut = getattr(getattr(teacher, "dequantisation", None), "cut", None)
    return found if cut is None else found | {"cut": cut}


def _aids_of_generation(model: ShowerModel) -> str:
    """The aids that change how showers are made, not which of them stay, with their settings, for people."""
    described = [helper.describe() for helper in model.helpers() if helper.constants() != {} and not helper.rejects]
    texts = [" ".join(str(v) if k == "kind" else f"{k}={v}" for k, v in aid.items()) for aid in described]
    return ", ".join(texts) or "none"


class TakeOverStage(FitStage):
    """Copies parts of the teacher that the student keeps as they are.

    Args:
        name: see :class:`caloforge.stage.Stage`.
        student: the model that takes over.
        paths: the parts, by their path in the teacher and in the student's ``model``.
    """

    def __init__(self, name: str, student: DistilledModel, paths: tuple[str, ...]) -> None:
        super().__init__(name, {f"model.{path}": student.model.get_submodule(path) for path in paths})
        self.student, self.paths = student, paths

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """The teacher's state of these parts; the data are not looked at."""
        teacher: ShowerModel = self.student.teacher
        return {
            f"model.{path}.{key}": value.clone()
            for path in self.paths
            for key, value in teacher.get_submodule(path).state_dict().items()
        }


class DistillationStage(GradientStage):
    """Distils one masked autoregressive flow into an inverse one; validated and selected by KL(student || teacher).

    Loss: ``(1 - data_weight) L_z + data_weight L_x`` (arXiv:2110.11377). L_x starts from training rows with their own
    conditions, L_z from standard normal numbers; all of them are addressed by row and counter.

    Args:
        name: name of the flow, and of the stage.
        student: the model that learns.
        training: see :class:`caloforge.stage.GradientStage`.
        variables: what the flows learn from a batch.
        conditions: conditions of L_z, (rows, C), and the addresses of their random numbers, (rows,) in CPU memory.
        guidance: what is compared.
        needs: see :class:`caloforge.stage.Stage`.
    """

    metric = "kl"

    def __init__(
        self,
        name: str,
        student: DistilledModel,
        training: StageTraining,
        *,
        variables: Variables,
        conditions: Callable[[TrainingBatch, Streams], tuple[Tensor, Tensor]],
        guidance: Guidance = "guided",
        needs: tuple[str, ...] = (),
    ) -> None:
        self.flow = cast("InverseAutoregressiveFlow", getattr(student.model, name))
        super().__init__(name, {f"model.{name}": self.flow}, training, needs=needs)
        self.student, self.variables, self.conditions, self.guidance = student, variables, conditions, guidance

    @property
    def teacher(self) -> MaskedAutoregressiveFlow:
        """The teacher's flow, frozen."""
        return cast("MaskedAutoregressiveFlow", getattr(self.student.teacher, self.name))

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.loss`; ``kl`` is an estimate from the samples of L_z, nats."""
        teacher, weight = self.teacher, self.student.config.data_weight
        x, context = self.variables(batch, streams.child("data"))
        from_data = data_loss(teacher, self.flow, x, context, self.guidance)
        context, address = self.conditions(batch, streams.child("conditions"))
        numbers = streams.child("latents").normal(address.numpy(), self.flow.features, counters=batch.epoch)
        z = torch.from_numpy(numbers).to(context)
        from_latents, divergence = latent_loss(teacher, self.flow, z, context, self.guidance)
        loss = (1 - weight) * from_latents + weight * from_data
        return {"loss": loss, "data": from_data, "latent": from_latents, "kl": divergence}
