"""Training stages: what a model declares, and what the one training loop runs.

A model is trained in one or more stages. A *gradient stage* has players (a flow one, a GAN two), each with its own
parameters, optimiser and number of steps per batch. A *fit stage* looks at the data once and returns numbers
(standardisation, scales, calibration factors). Stages name the stages that they need; the others are independent and
may be trained in any order or in different processes.

Randomness comes from the streams handed in, addressed by the row number and the epoch of the batch, so it depends
neither on batch size nor on the number of processes. So do the masks of dropout, and batch norm is over all processes,
in the layers of ``caloforge.nn.batch_layers``; torch's own would see no more than the share of one process.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, fields, replace
from typing import Any, Literal, Protocol, Self, final

import torch
from torch import Tensor, nn

from caloforge.errors import ModelFileError, UsageError
from caloforge.random import Streams
from caloforge.training_settings import (
    ConstantSchedule,
    CosineSchedule,
    CyclicSchedule,
    ExponentialSchedule,
    LinearSchedule,
    MilestoneSchedule,
    OneCycleSchedule,
    OptimiserConfig,
    ScheduleConfig,
    StageTraining,
    TrainingConfig,
)

__all__ = [
    "ConstantSchedule",
    "CosineSchedule",
    "CyclicSchedule",
    "ExponentialSchedule",
    "FitStage",
    "GradientStage",
    "LinearSchedule",
    "MilestoneSchedule",
    "OneCycleSchedule",
    "OptimiserConfig",
    "Player",
    "PointBatch",
    "ScheduleConfig",
    "Stage",
    "StageTraining",
    "TrainingBatch",
    "TrainingConfig",
    "TrainingData",
    "VoxelBatch",
    "deposits_of",
    "take_lengths",
]


@dataclass(frozen=True, kw_only=True)
class TrainingBatch:
    """Some rows of the training data, as they are in the file (augmented, if so asked, but without noise).

    Every batch is a :class:`VoxelBatch` or a :class:`PointBatch`.

    Attributes:
        incident_energy: kinetic energy of the incident particle, float64 (B,), MeV.
        row: number of each row in the training data, int64 (B,), always in CPU memory; with the epoch it addresses
            the random numbers of the row.
        epoch: number of the epoch, from 0; 0 in every validation, so that its noise is the same each time.
        direction: flight direction in the local frame, unit vectors (B, 3), or None (along +z).
        particle: PDG id of the incident particle, int64 (B,), or None if it is that of the data in all of them.
    """

    incident_energy: Tensor
    row: Tensor
    epoch: int = 0
    direction: Tensor | None = None
    particle: Tensor | None = None

    def __len__(self) -> int:
        return self.row.shape[0]

    def columns(self) -> dict[str, Tensor]:
        """All columns but the row numbers that are there, by name."""
        values = {field.name: getattr(self, field.name) for field in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor) and name != "row"}

    def to(self, device: torch.device | str) -> Self:
        """The same batch on another device; the row numbers stay in CPU memory."""
        moved: dict[str, Any] = {name: value.to(device, non_blocking=True) for name, value in self.columns().items()}
        return replace(self, **moved)

    def double(self) -> Self:
        """The same batch in 64-bit numbers; whole numbers stay what they are."""
        wide: dict[str, Any] = {
            name: value.double() for name, value in self.columns().items() if value.is_floating_point()
        }
        return replace(self, **wide)


@dataclass(frozen=True, kw_only=True)
class VoxelBatch(TrainingBatch):
    """Rows of showers: energies of voxels (B, V) and, or None, of what lies outside the voxels (B, layers), MeV."""

    deposits: Tensor
    overflow: Tensor | None = None


@dataclass(frozen=True, kw_only=True)
class PointBatch(TrainingBatch):
    """Rows of showers as points.

    Attributes:
        offsets: where the points of each shower start, int64 (B + 1,).
        points: points of all showers, (M, 4 or 5) as in ``ShowerPoints``.
    """

    offsets: Tensor
    points: Tensor


def deposits_of(batch: TrainingBatch) -> Tensor:
    """Energy in each voxel, (B, V), MeV.

    Raises:
        UsageError: if the data hold points.
    """
    if not isinstance(batch, VoxelBatch):
        raise UsageError("the model learns from voxels, the data hold points (place them in cells with 'convert')")
    return batch.deposits


class TrainingData(Protocol):
    """The training rows, for a fit stage: every iteration is one pass over all rows in the order of the file."""

    @property
    def particle(self) -> int:
        """PDG id of the incident particle; of the first row, where the rows are of several particles."""
        ...

    def __len__(self) -> int:
        """Number of rows."""
        ...

    def __iter__(self) -> Iterator[TrainingBatch]:
        """Batches of any size, neither shuffled nor augmented, epoch 0."""
        ...


@dataclass(frozen=True)
class Player:
    """One group of parameters with its own optimiser.

    Attributes:
        name: unique in its stage.
        parameters: what the optimiser changes.
        optimiser: which optimiser.
        schedule: how its learning rate changes.
        steps_per_batch: optimiser steps on each batch before the next player has its turn.
    """

    name: str
    parameters: tuple[nn.Parameter, ...]
    optimiser: OptimiserConfig
    schedule: ScheduleConfig
    steps_per_batch: int = 1


def take_lengths(module: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Give buffers without rows as many as a state has for them.

    How long a library of showers is, only its data say. So a new model has a buffer of shape (0, ...) for it, and its fit
    stage finds one of shape (N, ...).

    Args:
        module: a model, or a part of one.
        state: tensors under the names that they have in the module's ``state_dict``; others are not looked at.
    """
    for name, buffer in list(module.named_buffers()):
        found = state.get(name)
        if found is not None and buffer.shape[:1] == (0,) and found.shape[1:] == buffer.shape[1:]:
            owner, _, leaf = name.rpartition(".")
            setattr(module.get_submodule(owner), leaf, buffer.new_empty(found.shape))


class Stage:
    """Common part of both kinds of stages.

    Args:
        name: unique in its model; also the name of its folder in the model directory.
        parts: the parts of the model whose parameters and buffers are the result of this stage, by their path in the
            model (``{"shapes": model.shapes}``). Every tensor of a model's state belongs to exactly one stage.
        needs: names of the stages whose results must be in the model before this one starts.

    Attributes:
        needed_by: of a stage that an aid adds: names of the model's stages that need it.
    """

    needed_by: tuple[str, ...] = ()

    def __init__(self, name: str, parts: Mapping[str, nn.Module], *, needs: tuple[str, ...] = ()) -> None:
        self.name = name
        self.parts = dict(parts)
        self.needs = needs

    def state(self) -> dict[str, Tensor]:
        """The result of the stage: tensors under the names that they have in the model's ``state_dict``."""
        return {f"{path}.{key}": value for path, part in self.parts.items() for key, value in part.state_dict().items()}

    def load_state(self, state: Mapping[str, Tensor]) -> None:
        """Put a result into the model, converting to the model's precision.

        Raises:
            ModelFileError: if a tensor is missing, unknown or of another shape.
        """
        for path, part in self.parts.items():
            take_lengths(part, _below(path, state))
        own = self.state()
        for key in sorted(own.keys() | state.keys()):
            if key not in state:
                raise ModelFileError(f"the state of stage '{self.name}' lacks the tensor '{key}'")
            if key not in own:
                raise ModelFileError(
                    f"the state of stage '{self.name}' has the tensor '{key}', which the model has not"
                )
            found, wanted = tuple(state[key].shape), tuple(own[key].shape)
            if found != wanted:
                raise ModelFileError(f"the tensor '{key}' of stage '{self.name}' has shape {found}, expected {wanted}")
        for path, part in self.parts.items():
            part.load_state_dict(_below(path, state))


def _below(path: str, state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors of a part, under its own names."""
    start = f"{path}."
    return {key.removeprefix(start): value for key, value in state.items() if key.startswith(start)}


class GradientStage(Stage, ABC):
    """A stage trained by gradient descent.

    The training loop calls ``begin`` once. Then, for every batch, for each player in turn and ``steps_per_batch``
    times: ``loss``, backward on ``"loss"``, the player's optimiser and schedule, ``after_step``. The parts are in train
    mode then, and in eval mode under ``torch.no_grad`` for ``validate``. Every turn has random numbers of its own. With
    ``fresh_batches`` every turn takes the next batch of the epoch instead of all turns taking the same one.

    Args:
        name: see :class:`Stage`.
        parts: see :class:`Stage`.
        training: epochs, batch size, precision and so on.
        needs: see :class:`Stage`.

    Attributes:
        before: what aids do to the initial weights, behind ``prepare``: with the stage, and then the arguments of that.
        metric: key of ``validate``'s answer by which the best weights are selected.
        lower_is_better: direction of that metric.
        fresh_batches: whether every turn of every player takes a batch of its own.
    """

    metric: str = "loss"
    lower_is_better: bool = True
    fresh_batches: bool = False

    def __init__(
        self,
        name: str,
        parts: Mapping[str, nn.Module],
        training: StageTraining,
        *,
        needs: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, parts, needs=needs)
        self.training = training
        self.before: tuple[Callable[[GradientStage, TrainingData, Streams], None], ...] = ()

    @property
    def epochs(self) -> int:
        """Passes over the training rows."""
        return self.training.epochs

    @property
    def batch_size(self) -> int:
        """Rows per step, over all processes together."""
        return self.training.batch_size

    @property
    def players(self) -> tuple[Player, ...]:
        """The players, in the order of their turns; one player ``main`` with all parameters unless overridden."""
        parameters = tuple(p for part in self.parts.values() for p in part.parameters() if p.requires_grad)
        return (Player("main", parameters, self.training.optimiser, self.training.schedule),)

    @final
    def begin(self, data: TrainingData, streams: Streams) -> None:
        """Set initial weights: :meth:`prepare`, and then what aids do; arguments as for :meth:`prepare`."""
        self.prepare(data, streams)
        for step in self.before:
            step(self, data, streams)

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        """Set initial weights that depend on the data; nothing by default.

        Called once, without gradients, before the first step of a new training; a resumed one goes on from its
        checkpoint. With several processes the first one calls it and shares the result.

        Args:
            data: the training rows; may be iterated more than once.
            streams: random streams of it.
        """

    @abstractmethod
    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """Loss of one player on one batch.

        Args:
            player: whose turn it is.
            batch: the rows, on the device of the model.
            streams: random streams of this stage (with several turns for a batch, of the player's turn); numbers are
                drawn at ``(row, attempt=epoch)``.

        Returns:
            Scalars, means over the rows of the batch: ``"loss"``, which has a gradient, and others to be logged. If they
            are means over something else (points, say), ``"weight"`` is the number of these in the batch, so that
            means of several processes or batches can be put together; it is not logged. Nothing here waits for the
            device.
        """

    def start_epoch(self, epoch: int) -> tuple[str, ...]:
        """Called before the first batch of every epoch, for instance to begin a player anew; nothing by default.

        What it does must follow from the number of the epoch and from torch's random numbers, which are seeded before.

        Args:
            epoch: its number, from 0.

        Returns:
            Names of the players whose optimisers forget what they have seen.
        """
        return ()

    def after_step(self, player: str, step: int) -> None:
        """Called after each optimiser step, for instance to move a target network.

        Args:
            player: who has stepped.
            step: how many steps this player has done in all, from 1.
        """

    def validate(self, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """Validation metrics on one batch; the training loop averages them over rows.

        Returns:
            Means over the rows of the batch, for :meth:`conclude`; ``"weight"`` as above. By default scalars, among them
            the one named by ``metric``.
        """
        return self.loss(self.players[0].name, batch, streams)

    def conclude(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """What the means of :meth:`validate` over all validation rows say, as histograms do of a distance between them.

        Args:
            means: the answers of ``validate``, averaged over all validation rows, float64.

        Returns:
            Scalars, among them the one named by ``metric``; by default the means themselves.
        """
        return dict(means)

    @final
    def metrics_of(self, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """The validation metrics if one batch were all validation rows; arguments as for :meth:`validate`."""
        means = dict(self.validate(batch, streams))
        means.pop("weight", None)
        return self.conclude(means)


class FitStage(Stage, ABC):
    """A stage without gradients: one look at the data gives its state.

    Attributes:
        rows: which rows it looks at; ``validation`` means the training rows if none are kept for validation.
    """

    rows: Literal["training", "validation"] = "training"

    @abstractmethod
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """Compute the state from the rows.

        Args:
            data: the rows named by ``rows``; may be iterated more than once.
            streams: random streams of this stage.

        Returns:
            Tensors for :meth:`Stage.load_state`, of the shapes that the model has for them; where it has no rows yet, any
            number of rows. The model itself is not changed.
        """
