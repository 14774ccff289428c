"""Training of the networks of point clouds: the diffusion, and its distillation to one step."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caloforge.kernels.ops.pointwise import packed_index
from caloforge.nn.edm import heun_step
from caloforge.nn.pointwise import PointWiseNet
from caloforge.parts.point_model import PointCloudModel
from caloforge.random import Streams
from caloforge.representation import conditions_of
from caloforge.stage import GradientStage, StageTraining, TrainingBatch, TrainingData

__all__ = ["ConsistencyStage", "DiffusionStage", "TrainingPoints", "training_points"]


@dataclass(frozen=True)
class TrainingPoints:
    """Points of some training showers, each shower divided into groups with a noise level of their own.

    Attributes:
        clean: normalised features, (M, 4).
        noise: standard normal numbers, (M, 4).
        offsets: where the groups start, int64 (G + 1,).
        group: number of the group of each point, int64 (M,).
        shower: number of the shower of each group, int64 (G,).
        context: condition of each group, (G, C).
    """

    clean: Tensor
    noise: Tensor
    offsets: Tensor
    group: Tensor
    shower: Tensor
    context: Tensor


def training_points(model: PointCloudModel, batch: TrainingBatch, streams: Streams, levels: int) -> TrainingPoints:
    """Training points of a batch, chosen evenly over the points of each shower where not all are wanted.

    Args:
        model: whose configuration says how many are wanted.
        batch: training rows.
        streams: random streams of the stage.
        levels: groups with a noise level of their own into which the points of a shower are divided.
    """
    cloud, config, rows = model.cloud(batch), model.config, batch.row.numpy()
    device = cloud.offsets.device
    available = cloud.offsets.diff().cpu().numpy()
    taken = available if config.training_points is None else np.minimum(available, config.training_points)
    shower = np.repeat(np.arange(len(rows)), taken)
    number = np.arange(len(shower)) - np.repeat(np.cumsum(taken) - taken, taken)
    # Point after point, so that no number depends on how many points the other showers of the batch have.
    u = streams.child("uniform").ragged_uniform(rows, 4 * taken, batch.epoch).reshape(-1, 4)
    normal = streams.child("noise").ragged_normal(rows, 4 * taken, batch.epoch).reshape(-1, 4)
    # One point from each of equally long pieces of the shower's list.
    place = ((number + u[:, 0]) * (available / np.maximum(taken, 1))[shower]).astype(np.int64)
    index = torch.from_numpy(place).to(device) + cloud.offsets[:-1][torch.from_numpy(shower).to(device)]
    # Neighbours in the list are neighbours in space, so that every group gets points from everywhere.
    group = shower * levels + number % levels
    order = np.argsort(group, kind="stable")
    group, u, normal = group[order], u[order], normal[order]
    index = index[torch.from_numpy(order).to(device)]
    fuzz = torch.from_numpy(u[:, 1:].astype(np.float32)).to(device)
    position = cloud.place[index] + config.position_fuzz * (fuzz[:, :2] - 0.5)
    depth = cloud.layer[index].to(fuzz.dtype) + fuzz[:, 2]
    clean = model.points(model.points.plain(position.double(), depth.double(), cloud.energy[index].double()))
    counts = np.bincount(group, minlength=len(rows) * levels)
    context = model.point_condition(conditions_of(batch), cloud.counts).to(model.dtype)
    of_group = torch.arange(len(rows), device=device).repeat_interleave(levels)
    return TrainingPoints(
        clean.to(model.dtype),
        torch.from_numpy(normal).to(device=device, dtype=model.dtype),
        torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])).to(device),
        torch.from_numpy(group).to(device),
        of_group,
        context[of_group],
    )


def _mean_square(estimate: Tensor, wanted: Tensor) -> dict[str, Tensor]:
    """Mean squared difference of points (M, 4), 0 if there are none, and their number as the weight of this mean."""
    points = len(estimate)
    loss = functional.mse_loss(estimate, wanted) if points else estimate.sum()
    return {"loss": loss, "weight": torch.tensor(float(points), dtype=torch.float64, device=estimate.device)}


class DiffusionStage(GradientStage):
    """Mean squared error of the network's own output, every point counting alike (arXiv:2206.00364, equation 8).

    Args:
        model: the model.
        training: epochs, batch size and so on.
    """

    def __init__(self, model: PointCloudModel, training: StageTraining) -> None:
        super().__init__("diffusion", {"diffusion": model.diffusion}, training, needs=("scales",))
        self.model = model

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """The error over the points of the batch."""
        model, edm, levels = self.model, self.model.edm, self.model.config.noise_levels
        points = training_points(model, batch, streams, levels)
        normal = streams.child("level").normal(batch.row.numpy(), levels, batch.epoch)
        sigma = edm.training_levels(torch.from_numpy(normal).flatten().to(points.clean))
        noisy = points.clean + sigma[points.group][:, None] * points.noise
        skip, out = edm.output_scales(sigma)
        raw = model.diffusion(
            noisy * edm.input_scale(sigma)[points.group][:, None], torch.log(sigma) / 4, points.context, points.offsets
        )
        wanted = (points.clean - skip[points.group][:, None] * noisy) / out[points.group][:, None]
        return _mean_square(raw, wanted)


@dataclass(frozen=True)
class _Paths:
    """Where the teacher starts and where it arrives, in groups of points with a noise level of their own.

    Attributes:
        noisy: points at the start, (M, 4).
        cleaner: the same points at the end, (M, 4).
        high: noise level of each group at the start, (G,).
        low: at the end, (G,).
        context: condition of each group, (G, C).
        sizes: points of each group, int64 (G,).
    """

    noisy: Tensor
    cleaner: Tensor
    high: Tensor
    low: Tensor
    context: Tensor
    sizes: Tensor

    def by_shower(self, groups: int) -> list[_Paths]:
        """The same, one shower of so many groups each."""
        sizes = self.sizes.reshape(-1, groups)
        points = sizes.sum(dim=1).tolist()
        showers = [groups] * len(points)
        columns = (
            torch.split(self.noisy, points),
            torch.split(self.cleaner, points),
            torch.split(self.high, showers),
            torch.split(self.low, showers),
            torch.split(self.context, showers),
            sizes.unbind(),
        )
        return [_Paths(*values) for values in zip(*columns, strict=True)]

    @classmethod
    def joined(cls, paths: Sequence[_Paths]) -> _Paths:
        """One behind the other."""
        return cls(
            torch.cat([p.noisy for p in paths]),
            torch.cat([p.cleaner for p in paths]),
            torch.cat([p.high for p in paths]),
            torch.cat([p.low for p in paths]),
            torch.cat([p.context for p in paths]),
            torch.cat([p.sizes for p in paths]),
        )


class _Memory:
    """Paths of showers, by number and incident energy, for one stream of random numbers and one epoch at a time."""

    def __init__(self) -> None:
        self._when: tuple[Streams, int] | None = None
        self._kept: dict[tuple[int, float], _Paths] = {}

    def of(self, streams: Streams, epoch: int) -> dict[tuple[int, float], _Paths]:
        """What is known for these random numbers; everything else is forgotten."""
        if self._when != (streams, epoch):
            self._when, self._kept = (streams, epoch), {}
        return self._kept


class ConsistencyStage(GradientStage):
    """Consistency distillation: equal answers at neighbouring noise levels (arXiv:2303.01469, algorithm 2).

    The squared distance of the student at the higher level and the target at the lower one, between which the teacher
    takes Heun steps. The target follows the student as a moving average and is what samples in the end. With only two
    levels, the highest and the lowest, the target's answer is where the teacher's whole path ends, and the student
    learns that path (arXiv:2101.02388).

    Args:
        model: the model.
        training: epochs, batch size and so on.
    """

    def __init__(self, model: PointCloudModel, training: StageTraining) -> None:
        parts = {"student": model.student, "target": model.target}
        super().__init__("distillation", parts, training, needs=("scales", "diffusion"))
        self.model = model
        # Between the two levels there is nothing to divide the points by.
        self.groups = 1 if model.config.distillation_levels == 2 else model.config.noise_levels
        self._training = _Memory()
        self._validation = _Memory()

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        """Student and target start as the teacher."""
        teacher = self.model.diffusion.state_dict()
        self.model.student.load_state_dict(teacher)
        self.model.target.load_state_dict(teacher)

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """Distance of the student."""
        turn = replace(batch, epoch=batch.epoch // self.model.config.distillation_reuse)
        return self._distance(self.model.student, self._paths(turn, streams, self._training))

    def validate(self, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """Distance of the target."""
        return self._distance(self.model.target, self._paths(batch, streams, self._validation))

    def _distance(self, network: PointWiseNet, paths: _Paths) -> dict[str, Tensor]:
        model = self.model
        offsets = torch.cat([paths.sizes.new_zeros(1), paths.sizes.cumsum(0)])
        group = packed_index(offsets)
        with torch.no_grad():
            wanted = model.denoised(
                model.target, paths.cleaner, paths.low, paths.context, offsets, group, consistent=True
            )
        estimate = model.denoised(network, paths.noisy, paths.high, paths.context, offsets, group, consistent=True)
        return _mean_square(estimate, wanted)

    def _paths(self, batch: TrainingBatch, streams: Streams, memory: _Memory) -> _Paths:
        """The teacher's paths for the rows of a batch, from memory if they are all there."""
        if self.model.config.distillation_reuse == 1:
            return self._walked(batch, streams)
        kept = memory.of(streams, batch.epoch)
        keys = list(zip(batch.row.tolist(), batch.incident_energy.tolist(), strict=True))
        if not all(key in kept for key in keys):
            kept.update(zip(keys, self._walked(batch, streams).by_shower(self.groups), strict=True))
        return _Paths.joined([kept[key] for key in keys])

    @torch.no_grad()
    def _walked(self, batch: TrainingBatch, streams: Streams) -> _Paths:
        """Noise is added to the points of a batch, and the teacher takes its steps."""
        model, config = self.model, self.model.config
        points = training_points(model, batch, streams, self.groups)
        offsets, group, context = points.offsets, points.group, points.context
        intervals, steps = config.distillation_levels - 1, config.teacher_steps
        drawn = streams.child("level").uniform(batch.row.numpy(), self.groups, batch.epoch)
        start = torch.from_numpy((drawn * intervals).astype(np.int64) * steps).flatten().to(group.device)
        levels = model.edm.levels(intervals * steps + 1, device=group.device, dtype=points.clean.dtype)
        noisy = points.clean + levels[start][group][:, None] * points.noise

        def teacher(x: Tensor, sigma: Tensor) -> Tensor:
            return model.denoised(model.diffusion, x, sigma, context, offsets, group)

        cleaner = noisy
        for now, then in itertools.pairwise(range(steps + 1)):
            cleaner = heun_step(teacher, cleaner, levels[start + now], levels[start + then], group)
        return _Paths(noisy, cleaner, levels[start], levels[start + steps], context, offsets.diff())

    @torch.no_grad()
    def after_step(self, player: str, step: int) -> None:
        """The target takes in the student's weights."""
        model = self.model
        pairs = list(zip(model.target.parameters(), model.student.parameters(), strict=True))
        torch._foreach_lerp_(
            [target for target, _ in pairs],
            [student.detach() for _, student in pairs],
            1 - model.config.target_decay,
        )
