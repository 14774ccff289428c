"""How a model is trained, in numbers: the ``training`` section of a preset."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

__all__ = [
    "ConstantSchedule",
    "CosineSchedule",
    "CyclicSchedule",
    "ExponentialSchedule",
    "LinearSchedule",
    "MilestoneSchedule",
    "OneCycleSchedule",
    "OptimiserConfig",
    "ScheduleConfig",
    "StageTraining",
    "TrainingConfig",
]

Positive = Annotated[float, Field(gt=0)]
Fraction = Annotated[float, Field(ge=0, lt=1)]


class _Settings(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class OptimiserConfig(_Settings):
    """An optimiser of ``torch.optim``; the learning rate is that of the schedule's start (or peak, for cycles).

    Attributes:
        name: ``adam``, ``adamw``, ``sgd`` or ``radam``.
        learning_rate: initial learning rate; one-cycle and cyclic schedules take it as their maximum.
        betas: Adam's decay rates of the first and second moment; ``sgd`` takes the first one as momentum.
        eps: Adam's term for numerical stability.
        weight_decay: weight decay (decoupled for ``adamw``).
    """

    name: Literal["adam", "adamw", "sgd", "radam"] = "adam"
    learning_rate: Positive = 1e-4
    betas: tuple[Fraction, Fraction] = (0.9, 0.999)
    eps: Positive = 1e-8
    weight_decay: Annotated[float, Field(ge=0)] = 0.0


class ConstantSchedule(_Settings):
    """The learning rate stays as it is."""

    kind: Literal["constant"] = "constant"


class MilestoneSchedule(_Settings):
    """The learning rate is multiplied by ``factor`` after each of the given numbers of finished epochs."""

    kind: Literal["milestones"] = "milestones"
    epochs: tuple[Annotated[int, Field(ge=1)], ...]
    factor: Positive = 0.5


class CosineSchedule(_Settings):
    """Linear warm-up, then a cosine down to ``final_fraction`` of the learning rate at the last step.

    Attributes:
        warmup_fraction: share of all steps that the warm-up from zero takes.
        final_fraction: learning rate at the end, as a share of the initial one.
    """

    kind: Literal["cosine"] = "cosine"
    warmup_fraction: Fraction = 0.0
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0


class OneCycleSchedule(_Settings):
    """``torch.optim.lr_scheduler.OneCycleLR`` with cosine annealing, stepped after every batch.

    Attributes:
        rise_fraction: share of the steps in which the learning rate rises.
        initial_division: the cycle starts at the maximum divided by this.
        final_division: the cycle ends at its start value divided by this.
        three_phases: fall symmetrically first, then anneal further.
        momentum: lowest and highest first-moment decay, cycled inversely; None leaves it alone.
    """

    kind: Literal["one-cycle"] = "one-cycle"
    rise_fraction: Annotated[float, Field(gt=0, lt=1)] = 0.3
    initial_division: Positive = 25.0
    final_division: Positive = 1e4
    three_phases: bool = False
    momentum: tuple[Fraction, Fraction] | None = (0.85, 0.95)


class CyclicSchedule(_Settings):
    """``torch.optim.lr_scheduler.CyclicLR``, mode triangular2, stepped after every batch.

    The learning rate rises linearly from ``minimum`` to the optimiser's in ``steps_up`` steps and falls in as many;
    the height of each cycle is half that of the one before.
    """

    kind: Literal["cyclic"] = "cyclic"
    minimum: Positive
    steps_up: Annotated[int, Field(ge=1)]


class ExponentialSchedule(_Settings):
    """The learning rate is multiplied by ``factor`` after every epoch."""

    kind: Literal["exponential"] = "exponential"
    factor: Annotated[float, Field(gt=0, le=1)]


class LinearSchedule(_Settings):
    """``torch.optim.lr_scheduler.LinearLR``, stepped after every batch: down to ``final_fraction`` at the last step."""

    kind: Literal["linear"] = "linear"
    final_fraction: Annotated[float, Field(ge=0, le=1)] = 0.0


ScheduleConfig = Annotated[
    ConstantSchedule
    | MilestoneSchedule
    | ExponentialSchedule
    | CosineSchedule
    | LinearSchedule
    | OneCycleSchedule
    | CyclicSchedule,
    Field(discriminator="kind"),
]


class StageTraining(_Settings):
    """How one gradient stage is trained.

    Attributes:
        epochs: passes over the training rows.
        steps: turns of every player instead; as many epochs as have so many batches, rounded up. None counts ``epochs``.
        batch_size: rows per step, over all processes together.
        precision: ``float32``; ``bfloat16`` runs the loss under autocast with float32 weights; ``float64``.
        gradient_clip: largest norm of a player's gradient; None does not clip.
        ema: decay per step of the exponential moving average of the weights, which then are the result; None has none.
        ema_warmup: power p of a warm-up of that average, whose decay after k steps is at most ``1 - (1 + k) ** -p``.
        optimiser: optimiser of all players that bring none of their own.
        schedule: schedule of the learning rate, likewise.
        augmentation: which of the detector's symmetries are applied at random to every row in every epoch: the ``exact`` ones,
            with the ``approximate`` ones, the ``rotations`` of polar layers alone, or ``none``.
        selection: keep the weights of the best validation, or the last ones.
    """

    epochs: Annotated[int, Field(ge=1)] = 100
    steps: Annotated[int, Field(ge=1)] | None = None
    batch_size: Annotated[int, Field(ge=1)] = 200
    precision: Literal["float32", "bfloat16", "float64"] = "float32"
    gradient_clip: Positive | None = None
    ema: Annotated[float, Field(gt=0, lt=1)] | None = None
    ema_warmup: Positive | None = None
    optimiser: OptimiserConfig = OptimiserConfig()
    schedule: ScheduleConfig = ConstantSchedule()
    augmentation: Literal["exact", "approximate", "rotations", "none"] = "exact"
    selection: Literal["best", "last"] = "best"


class TrainingConfig(StageTraining):
    """The ``training`` section of a preset: settings for all stages, and overrides for some.

    Attributes:
        validation_fraction: share of the showers kept for validation and selection.
        stages: for each stage named here, only the keys that differ; nested sections are merged key by key, except
            that a schedule of another kind replaces the whole schedule.
    """

    validation_fraction: Annotated[float, Field(ge=0, lt=1)] = 0.1
    stages: dict[str, dict[str, Any]] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _overrides_fit(self) -> Self:
        for name in self.stages:
            self.for_stage(name)
        return self

    def for_stage(self, name: str) -> StageTraining:
        """The settings of one stage, overrides applied."""
        common = self.model_dump(exclude={"stages", "validation_fraction"})
        own = self.stages.get(name, {})
        # Who names epochs for one stage wants no length in steps that all have.
        steps = {"steps": None} if "epochs" in own else {}
        return StageTraining.model_validate(_merged(common | steps, own))

    def with_epochs(self, epochs: Mapping[str, int]) -> Self:
        """The same with numbers of epochs for some stages, beside the steps that they follow from."""
        changed = {
            name: self.stages.get(name, {}) | {"steps": self.for_stage(name).steps, "epochs": number}
            for name, number in epochs.items()
        }
        return self.model_copy(update={"stages": self.stages | changed})


def _merged(base: Mapping[str, Any], changes: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(base)
    for key, value in changes.items():
        old = merged.get(key)
        same = isinstance(old, Mapping) and isinstance(value, Mapping) and value.get("kind") in (None, old.get("kind"))
        merged[key] = _merged(old, value) if same and isinstance(old, Mapping) else value
    return merged
