"""The stages in which CaloClouds2 and CaloClouds3 are trained.

``scales`` looks at the data; ``flow`` and ``diffusion`` are trained behind it, independently of each other;
``distillation`` turns the diffusion into one step; ``calibration`` compares cells of generated and of validation showers.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional

from caloforge.errors import ShowerFileError, TrainingError
from caloforge.models.cloud_parts import SAMPLERS, Cloud, Profiles, Sampler, mean_basis
from caloforge.models.conditions import Conditions
from caloforge.models.pointclouds import PointCloudModel, directions_of
from caloforge.nn.edm import heun_step
from caloforge.nn.pointwise import PointWiseNet
from caloforge.random import Streams
from caloforge.showers import ShowerPoints
from caloforge.showers.projection import IdealGrid, project
from caloforge.stage import FitStage, GradientStage, Stage, StageTraining, TrainingBatch, TrainingConfig, TrainingData

__all__ = ["cloud_stages"]

#: Showers that the calibration makes at once; limits the memory, changes no result.
_BLOCK = 25
#: Rounds of the calibration's iterations.
_ROUNDS = 4
#: Lit cells grow more slowly than points; so a ratio of cells asks for a larger one of points.
_STIFFNESS = 1.3
#: Cells that are added to each layer's count, so that nearly empty layers follow the others.
_PSEUDO_CELLS = 20.0
#: Range of factors that can be right; outside it the point network is useless.
_FACTORS = (0.05, 5.0)


def cloud_stages(model: PointCloudModel, training: TrainingConfig) -> list[Stage]:
    """The five stages of a model."""
    return [
        _ScaleStage(model),
        _FlowStage(model, training.for_stage("flow")),
        _DiffusionStage(model, training.for_stage("diffusion")),
        _DistillationStage(model, training.for_stage("distillation")),
        _CalibrationStage(model),
    ]


def _conditions(batch: TrainingBatch) -> dict[str, Tensor]:
    return {"incident_energy": batch.incident_energy.double(), "direction": directions_of(batch)}


class _ScaleStage(FitStage):
    """Means, standard deviations and limits of the training data."""

    def __init__(self, model: PointCloudModel) -> None:
        super().__init__("scales", {"scales": model.scales, "points": model.points})
        self.model = model

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        model = self.model
        features, totals, incident, conditions = [], [], [], []
        widths = [self._distances(batch) for batch in data]
        core = torch.cat(widths).median() if sum(map(len, widths)) else torch.ones((), dtype=torch.float64)
        model.points.core.copy_(core.clamp_min(1e-6))
        count, total, squares = 0, torch.zeros(4, dtype=torch.float64), torch.zeros(4, dtype=torch.float64)
        least = torch.tensor(torch.inf, dtype=torch.float64)
        for batch in data:
            cloud = model.cloud(batch)
            uniform = torch.from_numpy(streams.uniform(batch.row.numpy(), model.layers)).to(cloud.counts.device)
            features.append(model.profile_features(cloud, uniform).cpu())
            totals.append(cloud.counts.sum(dim=1).cpu())
            incident.append(batch.incident_energy.double().cpu())
            conditions.append(directions_of(batch).double().cpu())
            plain = model.points.plain(cloud.place.double(), cloud.layer.double() + 0.5, cloud.energy.double()).cpu()
            count += len(plain)
            total += plain.sum(dim=0)
            squares += plain.square().sum(dim=0) + torch.tensor([0, 0, 1 / 12, 0]) * len(plain)
            if len(plain):
                least = torch.minimum(least, cloud.energy.double().min().cpu())
        if not count:
            raise ShowerFileError("no training row has a point within the box, so there is nothing to learn")
        found = torch.cat(features)
        energies, points = torch.cat(incident), torch.cat(totals)
        basis = mean_basis(energies / energies.max(), torch.cat(conditions))
        # Columns may be equal (all showers along +z), so the shortest of all solutions is taken.
        mean = torch.linalg.pinv(basis, rtol=1e-6) @ found
        std = (found - basis @ mean).std(dim=0)
        # The steepest line through the origin's side that has all showers below it.
        slope = _slope(energies, points)
        constant = (points - slope * energies).max().clamp_min(1.0)
        scales = {
            "incident": energies.max(),
            "mean": mean,
            "std": torch.where(std > 0, std, torch.ones_like(std)),
            "most_points": torch.stack([constant, slope]),
        }
        normalisation = model.points.fitted(torch.tensor(count), total, squares, least) | {"core": model.points.core}
        return {f"scales.{name}": value for name, value in scales.items()} | {
            f"points.{name}": value for name, value in normalisation.items()
        }

    def _distances(self, batch: TrainingBatch) -> Tensor:
        """Distances of points from the axis along x and y, mm, of as many points as a median needs."""
        place = self.model.cloud(batch).place
        return place[:: max(1, len(place) // 20_000)].abs().flatten().double().cpu()


def _slope(energies: Tensor, points: Tensor) -> Tensor:
    """Slope of the least-squares line, not negative; 0 if all energies are equal."""
    spread = energies - energies.mean()
    variance = spread.square().sum()
    slope = (spread * points).sum() / variance.clamp_min(1e-300)
    return torch.where(variance > 0, slope.clamp_min(0), torch.zeros_like(slope))


class _FlowStage(GradientStage):
    """Minus log-likelihood of the standardised counts and energies, nats."""

    def __init__(self, model: PointCloudModel, training: StageTraining) -> None:
        super().__init__("flow", {"flow": model.flow}, training, needs=("scales",))
        self.model = model

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        model = self.model
        cloud = model.cloud(batch)
        device, rows = cloud.counts.device, batch.row.numpy()
        uniform = torch.from_numpy(streams.child("counts").uniform(rows, model.layers, batch.epoch)).to(device)
        noise = torch.from_numpy(streams.child("noise").normal(rows, model.flow.features, batch.epoch)).to(device)
        conditions = _conditions(batch)
        features = (model.profile_features(cloud, uniform) - model.scales.mean_of(conditions)) / model.scales.std
        features = (features + model.config.profile_noise * noise).to(model.dtype)
        context = model.flow_condition(conditions).to(model.dtype)
        return {"loss": -model.flow.log_prob(features, context).mean()}


@dataclass(frozen=True)
class _Points:
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


def _points(model: PointCloudModel, batch: TrainingBatch, streams: Streams) -> _Points:
    """Training points of a batch, chosen evenly over the points of each shower where not all are wanted."""
    cloud, config, rows = model.cloud(batch), model.config, batch.row.numpy()
    device = cloud.offsets.device
    available = cloud.offsets.diff().cpu().numpy()
    taken = available if config.training_points is None else np.minimum(available, config.training_points)
    most, levels = int(taken.max(initial=0)), config.noise_levels
    shower = np.repeat(np.arange(len(rows)), taken)
    number = np.arange(len(shower)) - np.repeat(np.cumsum(taken) - taken, taken)
    uniform = streams.child("uniform").uniform(rows, 4 * most, batch.epoch).reshape(len(rows), 4, most)
    u = uniform[shower, :, number]
    # One point from each of equally long pieces of the shower's list.
    place = ((number + u[:, 0]) * (available / np.maximum(taken, 1))[shower]).astype(np.int64)
    index = torch.from_numpy(place).to(device) + cloud.offsets[:-1][torch.from_numpy(shower).to(device)]
    # Neighbours in the list are neighbours in space, so that every group gets points from everywhere.
    group = shower * levels + number % levels
    order = np.argsort(group, kind="stable")
    group, number, shower, u = group[order], number[order], shower[order], u[order]
    index = index[torch.from_numpy(order).to(device)]
    fuzz = torch.from_numpy(u[:, 1:].astype(np.float32)).to(device)
    position = cloud.place[index] + config.position_fuzz * (fuzz[:, :2] - 0.5)
    depth = cloud.layer[index].to(fuzz.dtype) + fuzz[:, 2]
    clean = model.points(model.points.plain(position.double(), depth.double(), cloud.energy[index].double()))
    normal = streams.child("noise").normal(rows, 4 * most, batch.epoch).reshape(len(rows), most, 4)
    counts = np.bincount(group, minlength=len(rows) * levels)
    context = model.point_condition(_conditions(batch), cloud.counts).to(model.dtype)
    of_group = torch.arange(len(rows), device=device).repeat_interleave(levels)
    return _Points(
        clean.to(model.dtype),
        torch.from_numpy(normal[shower, number]).to(device=device, dtype=model.dtype),
        torch.from_numpy(np.concatenate([[0], np.cumsum(counts)])).to(device),
        torch.from_numpy(group).to(device),
        of_group,
        context[of_group],
    )


class _DiffusionStage(GradientStage):
    """Mean squared error of the network's own output, every point counting alike (arXiv:2206.00364, equation 8)."""

    def __init__(self, model: PointCloudModel, training: StageTraining) -> None:
        super().__init__("diffusion", {"diffusion": model.diffusion}, training, needs=("scales",))
        self.model = model

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        model, edm = self.model, self.model.edm
        points = _points(model, batch, streams)
        normal = streams.child("level").normal(batch.row.numpy(), model.config.noise_levels, batch.epoch)
        sigma = edm.training_levels(torch.from_numpy(normal).flatten().to(points.clean))
        noisy = points.clean + sigma[points.group][:, None] * points.noise
        skip, out = edm.output_scales(sigma)
        raw = model.diffusion(
            noisy * edm.input_scale(sigma)[points.group][:, None], torch.log(sigma) / 4, points.context, points.offsets
        )
        wanted = (points.clean - skip[points.group][:, None] * noisy) / out[points.group][:, None]
        return {"loss": functional.mse_loss(raw, wanted)}


class _DistillationStage(GradientStage):
    """Consistency distillation: equal answers at neighbouring noise levels (arXiv:2303.01469, algorithm 2).

    The squared distance of the student at the higher level and the target at the lower one, between which the teacher
    takes a Heun step. The target follows the student as a moving average and is what samples in the end.
    """

    def __init__(self, model: PointCloudModel, training: StageTraining) -> None:
        parts = {"student": model.student, "target": model.target}
        super().__init__("distillation", parts, training, needs=("scales", "diffusion"))
        self.model = model

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        teacher = self.model.diffusion.state_dict()
        self.model.student.load_state_dict(teacher)
        self.model.target.load_state_dict(teacher)

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        return {"loss": self._distance(self.model.student, batch, streams)}

    def validate(self, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        return {"loss": self._distance(self.model.target, batch, streams)}

    def _distance(self, network: PointWiseNet, batch: TrainingBatch, streams: Streams) -> Tensor:
        model, config = self.model, self.model.config
        points = _points(model, batch, streams)
        offsets, group, context = points.offsets, points.group, points.context
        steps = config.distillation_levels
        drawn = streams.child("level").uniform(batch.row.numpy(), config.noise_levels, batch.epoch)
        place = torch.from_numpy((drawn * (steps - 1)).astype(np.int64)).flatten().to(group.device)
        levels = model.edm.levels(steps, device=group.device, dtype=points.clean.dtype)
        high, low = levels[place], levels[place + 1]
        noisy = points.clean + high[group][:, None] * points.noise

        def teacher(x: Tensor, sigma: Tensor) -> Tensor:
            return model.denoised(model.diffusion, x, sigma, context, offsets, group)

        with torch.no_grad():
            cleaner = heun_step(teacher, noisy, high, low, group)
            wanted = model.denoised(model.target, cleaner, low, context, offsets, group, consistent=True)
        made = model.denoised(network, noisy, high, context, offsets, group, consistent=True)
        return functional.mse_loss(made, wanted)

    @torch.no_grad()
    def after_step(self, player: str, step: int) -> None:
        model = self.model
        pairs = list(zip(model.target.parameters(), model.student.parameters(), strict=True))
        torch._foreach_lerp_(
            [target for target, _ in pairs],
            [student.detach() for _, student in pairs],
            1 - model.config.target_decay,
        )


@dataclass(frozen=True)
class _Reference:
    """Some validation showers and what their cells are.

    Attributes:
        conditions: of the showers, as tensors.
        rows: energies and numbers of the rows, which address random numbers.
        cloud: the showers.
        entry: where each enters in the coordinates of the cells, (N, 2), mm.
        cells: lit cells of each layer, all showers together, (L,).
        energy: in lit cells of all showers, MeV.
    """

    conditions: dict[str, Tensor]
    rows: Conditions
    cloud: Cloud
    entry: np.ndarray
    cells: np.ndarray
    energy: float


class _CalibrationStage(FitStage):
    """Factors with which generated showers light as many cells, and hold as much energy in them, as validation showers.

    Number of points: the point network is given the counts and energies of real showers, so that both sides differ in the
    points alone, and the factors are iterated until the lit cells agree. Energy: whole showers are generated under the
    conditions of the real ones. Cells are those of an idealised grid with a random entry point, above the detector's
    analysis threshold.
    """

    rows = "validation"

    def __init__(self, model: PointCloudModel) -> None:
        super().__init__(
            "calibration", {"calibration": model.calibration}, needs=("scales", "flow", "diffusion", "distillation")
        )
        self.model = model

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        references = list(self._references(data, streams))
        factors = []
        for sampler in SAMPLERS:
            # The diffusion takes many times as long; both sides have the same showers, so a few of them do.
            few = references[:1] if sampler == "edm" else references
            factors.append(self._occupancy(few, sampler, streams))
        energy = self._energy(references, factors[SAMPLERS.index("consistency")], streams)
        return {
            "calibration.occupancy": torch.from_numpy(np.stack(factors)),
            "calibration.energy": torch.full((len(SAMPLERS),), energy, dtype=torch.float64),
        }

    def _references(self, data: TrainingData, streams: Streams) -> Iterator[_Reference]:
        left = self.model.config.calibration_showers
        for batch in data:
            for start in range(0, min(len(batch), left), _BLOCK):
                stop = min(start + _BLOCK, start + left, len(batch))
                yield self._reference(_rows(batch, start, stop), streams)
                left -= stop - start
            if left <= 0:
                return

    def _reference(self, batch: TrainingBatch, streams: Streams) -> _Reference:
        assert batch.points is not None  # ``cloud`` has looked
        cloud = self.model.cloud(batch)
        assert batch.offsets is not None
        rows = batch.row.numpy()
        entry = streams.child("entry").uniform(rows, 2) * self.model.cell
        cells, energy = self._cells(batch.points, batch.offsets, entry)
        index = Conditions(batch.incident_energy.double().cpu().numpy(), 0, rows, np.zeros_like(rows))
        return _Reference(_conditions(batch), index, cloud, entry, cells, energy)

    def _cells(self, points: Tensor, offsets: Tensor, entry: np.ndarray) -> tuple[np.ndarray, float]:
        """Lit cells of each layer and the energy in them."""
        model = self.model
        showers = ShowerPoints(
            offsets.cpu().numpy(), points.float().cpu().numpy()[:, :4], np.zeros(len(offsets) - 1), 0
        )
        cut = model.detector.analysis_threshold
        lit = project(showers, IdealGrid(model.cell), cut=cut, entry=entry).cells.points
        return np.bincount(lit[:, 2].astype(np.int64), minlength=model.layers).astype(np.float64), float(
            lit[:, 3].sum(dtype=np.float64)
        )

    def _occupancy(self, references: list[_Reference], sampler: Sampler, streams: Streams) -> np.ndarray:
        real = sum((reference.cells for reference in references), np.zeros(self.model.layers))
        factors = np.ones(self.model.layers)
        rounds = [False] * _ROUNDS + [True] * (_ROUNDS if self.model.config.occupancy == "layers" else 0)
        for by_layer in rounds:
            made = np.zeros(self.model.layers)
            for reference in references:
                made += self._made_cells(reference, factors, sampler, streams)
            ratio = (
                (real + _PSEUDO_CELLS) / (made + _PSEUDO_CELLS)
                if by_layer
                else (real.sum() + _PSEUDO_CELLS) / (made.sum() + _PSEUDO_CELLS)
            )
            factors = np.clip(factors * ratio**_STIFFNESS, *_FACTORS)
        return factors

    def _made_cells(self, reference: _Reference, factors: np.ndarray, sampler: Sampler, streams: Streams) -> np.ndarray:
        """Lit cells of each layer, for real counts and energies."""
        model, cloud = self.model, reference.cloud
        device = cloud.counts.device
        centre = torch.zeros(len(cloud.counts), 3, dtype=torch.float64, device=device)
        weights = cloud.energy.double()[:, None]
        centre.index_add_(0, cloud.shower, torch.cat([cloud.place.double() * weights, weights], dim=1))
        gravity = centre[:, :2] / centre[:, 2:].clamp_min(1e-300)
        valid = torch.ones(len(gravity), dtype=torch.bool, device=device)
        profiles = Profiles(cloud.counts, cloud.energies, gravity if model.moves_gravity else None, valid)
        counts = model.calibrated(profiles, torch.from_numpy(factors).to(device))
        sizes = counts.sum(dim=1).cpu().numpy()
        normal = streams.child("points").ragged_normal(reference.rows.index, 4 * sizes)
        points, offsets = model.make_points(
            reference.conditions,
            profiles,
            counts,
            cloud.energies,
            torch.from_numpy(normal).reshape(-1, 4).to(device),
            torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])).to(device),
            sampler,
        )
        return self._cells(points, offsets, reference.entry)[0]

    def _energy(self, references: list[_Reference], factors: np.ndarray, streams: Streams) -> float:
        """Energy in lit cells of real showers over that of generated ones."""
        factor = 1.0
        real = sum(reference.energy for reference in references)
        for _ in range(2):  # the second time with nearly the right share of cells above the threshold
            made = 0.0
            for reference in references:
                made += self._made_energy(reference, factors, factor, streams)
            if not made > 0 or not real > 0:
                raise TrainingError("generated or real showers light no cell, so they cannot be calibrated")
            factor *= real / made
        return factor

    def _made_energy(self, reference: _Reference, factors: np.ndarray, factor: float, streams: Streams) -> float:
        model, rows = self.model, reference.rows
        device = reference.cloud.counts.device
        normal = streams.child("profile").normal(rows.index, model.flow.features)
        profiles = model.sample_profiles(reference.conditions, torch.from_numpy(normal).to(device))
        again = rows
        for _ in range(20):
            if bool(profiles.valid.all()):
                break
            again = again.again()
            other = streams.child("profile").normal(rows.index, model.flow.features, attempts=again.attempt)
            profiles = _replaced(
                profiles, model.sample_profiles(reference.conditions, torch.from_numpy(other).to(device))
            )
        counts = model.calibrated(profiles, torch.from_numpy(factors).to(device))
        sizes = counts.sum(dim=1).cpu().numpy()
        noise = streams.child("energy").ragged_normal(rows.index, 4 * sizes)
        points, offsets = model.make_points(
            reference.conditions,
            profiles,
            counts,
            profiles.energies * factor,
            torch.from_numpy(noise).reshape(-1, 4).to(device),
            torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])).to(device),
            "consistency",
        )
        return self._cells(points, offsets, reference.entry)[1]


def _replaced(profiles: Profiles, others: Profiles) -> Profiles:
    """Profiles with those that are not valid taken from others."""
    valid = profiles.valid[:, None]
    gravity = profiles.gravity
    if gravity is not None and others.gravity is not None:
        gravity = torch.where(valid, gravity, others.gravity)
    return Profiles(
        torch.where(valid, profiles.counts, others.counts),
        torch.where(valid, profiles.energies, others.energies),
        gravity,
        profiles.valid | others.valid,
    )


def _rows(batch: TrainingBatch, start: int, stop: int) -> TrainingBatch:
    """Consecutive rows of a batch of points."""
    assert batch.offsets is not None and batch.points is not None  # noqa: PT018 - ``cloud`` has looked
    offsets = batch.offsets[start : stop + 1]
    return TrainingBatch(
        batch.deposits[start:stop],
        batch.incident_energy[start:stop],
        batch.row[start:stop],
        batch.epoch,
        None if batch.direction is None else batch.direction[start:stop],
        offsets=offsets - offsets[0],
        points=batch.points[int(offsets[0]) : int(offsets[-1])],
    )
