"""One flow of a model: its size, its latents, and the stage that trains it."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Annotated, Any, Literal, Protocol

import torch
from pydantic import Field
from torch import Tensor, nn

from caloforge.conditions import Conditions
from caloforge.nn.autoregressive import AutoregressiveFlow, MaskedAutoregressiveFlow
from caloforge.nn.batch_layers import alone, some_rows
from caloforge.nn.inverse_autoregressive import InverseAutoregressiveFlow
from caloforge.nn.splines import SplineSettings
from caloforge.parts.rows import collect_rows
from caloforge.random import Streams
from caloforge.stage import GradientStage, StageTraining, TrainingBatch, TrainingData
from caloforge.validation import Count, Settings, Size

__all__ = ["FlowSize", "FlowStage", "Variables", "autoregressive_flow", "normal_latents"]

#: Training rows from which the activation norms of a flow start, and aids take its initial weights: enough for quantiles.
_START_ROWS = 4000


#: What a flow learns from a batch, (rows, D), and its conditions, (rows, C); the rows may be more than those of the batch, those
#: of a shower one behind the other.
Variables = Callable[[TrainingBatch, Streams], tuple[Tensor, Tensor]]


class FlowSize(Settings):
    """Size of one autoregressive flow.

    Attributes:
        blocks: autoregressive blocks.
        hidden_features: units of each hidden layer.
        hidden_layers: masked layers between the first hidden layer and the output.
        bins: spline bins.
        bound: the splines act on [-bound, bound].
        dropout: dropout probability while training.
    """

    blocks: Count
    hidden_features: Size
    hidden_layers: Annotated[int, Field(ge=0, le=10_000)] = 1
    bins: Annotated[int, Field(ge=2)] = 8
    bound: Annotated[float, Field(gt=0)] = 14.0
    dropout: Annotated[float, Field(ge=0, lt=1)] = 0.0


def autoregressive_flow(
    size: FlowSize,
    features: int,
    context_features: int,
    masks: Literal["even", "published"],
    permutations: Sequence[Any],
    *,
    inverse: bool = False,
) -> AutoregressiveFlow:
    """An autoregressive flow of a given size, with random weights.

    Args:
        size: its size.
        features: number of features.
        context_features: number of conditions.
        masks: as for ``AutoregressiveFlow``.
        permutations: likewise.
        inverse: an inverse autoregressive flow, fast in sampling, instead of a masked one, fast in its density.
    """
    return (InverseAutoregressiveFlow if inverse else MaskedAutoregressiveFlow)(
        features=features,
        context_features=context_features,
        blocks=size.blocks,
        hidden_features=size.hidden_features,
        hidden_layers=size.hidden_layers,
        splines=SplineSettings(size.bins, size.bound),
        dropout=size.dropout,
        masks=masks,
        permutations=permutations,
    )


def normal_latents(sizes: Mapping[str, int], conditions: Conditions, streams: Streams) -> dict[str, Tensor]:
    """Standard normal numbers of several flows, (N, size) each, float32, from a stream of each one's name."""
    return {
        name: torch.from_numpy(streams.child(name).normal(conditions.index, size, counters=conditions.attempt))
        for name, size in sizes.items()
    }


class Density(Protocol):
    """What a :class:`FlowStage` trains: a flow, or a module around one."""

    def log_prob(self, x: Tensor, context: Tensor) -> Tensor:
        """Logarithm of the density of variables (rows, D) under conditions (rows, C), nats, (rows,)."""
        ...


class FlowStage(GradientStage):
    """Minus log-likelihood of a flow, nats per row.

    Args:
        name: see :class:`caloforge.stage.Stage`.
        path: where ``density`` stands in the model.
        density: what is trained.
        variables: what it learns from a batch.
        training: see :class:`caloforge.stage.GradientStage`.
        flow: the bare flow in ``density``; None if that is one.
        rows_per_shower: rows that ``variables`` gives for each shower.
        keep: which rows of a batch of voxels are learnt, bool (B,); None learns all.
        needs: see :class:`caloforge.stage.Stage`.

    Attributes:
        flow: the bare flow.
    """

    def __init__(
        self,
        name: str,
        path: str,
        density: nn.Module,
        variables: Variables,
        training: StageTraining,
        *,
        flow: nn.Module | None = None,
        rows_per_shower: int = 1,
        keep: Callable[[TrainingBatch], Tensor] | None = None,
        needs: tuple[str, ...] = (),
    ) -> None:
        super().__init__(name, {path: density}, training, needs=needs)
        self.density, self.variables, self.rows_per_shower = density, variables, rows_per_shower
        self.keep = keep
        self.flow = density if flow is None else flow

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        """Activation norms start with the mean and the width of the data, as published."""
        start = getattr(self.flow, "start_norms", None)
        if start is not None:
            start(self.start_values(data, streams))

    def start_values(self, data: TrainingData, streams: Streams) -> Tensor:
        """What the flow learns from some thousand rows, evenly spread over the training data, (rows, D)."""
        features = 1

        def of_showers(batch: TrainingBatch) -> Tensor:
            nonlocal features
            batch, _ = self._learnt(batch)
            y, _ = self.variables(batch, streams)
            features = y.shape[1]
            return y.reshape(len(batch), -1)

        rows = collect_rows(data, max(1, _START_ROWS // self.rows_per_shower), of_showers)
        return rows.reshape(-1, features)

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.loss`."""
        batch, kept = self._learnt(batch)
        if kept is None:
            y, context = self.variables(batch, streams)
            return {"loss": -self.density.log_prob(y, context).mean()}  # type: ignore[operator]
        weight = torch.tensor(float(len(batch)), dtype=torch.float64, device=kept.device)
        if len(batch) < 2 and alone():  # a batch norm cannot learn from less
            nothing = torch.stack([parameter.sum() for parameter in self.density.parameters()]).sum()
            return {"loss": 0 * nothing, "weight": 0 * weight}
        with some_rows(kept):
            y, context = self.variables(batch, streams)
            # Nothing may be left of the share of a process; its loss then is 0, and so is its weight.
            return {"loss": -self.density.log_prob(y, context).sum() / max(len(batch), 1), "weight": weight}  # type: ignore[operator]

    def _learnt(self, batch: TrainingBatch) -> tuple[TrainingBatch, Tensor | None]:
        """The rows of a batch that are learnt, and which these are; None if all are."""
        if self.keep is None:
            return batch, None
        kept = self.keep(batch)
        columns: dict[str, Any] = {name: value[kept] for name, value in batch.columns().items()}
        return replace(batch, row=batch.row[kept.cpu()], **columns), kept
