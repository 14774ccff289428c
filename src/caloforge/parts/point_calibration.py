"""Fit stage of the models of point clouds: the number of points, and the energy in cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caloforge.errors import TrainingError
from caloforge.parts.occupancy import rounded_counts
from caloforge.parts.point_model import PointCloudModel
from caloforge.parts.point_settings import SAMPLERS, Sampler
from caloforge.random import Streams
from caloforge.representation import Cloud, Profiles, conditions_of
from caloforge.showers import ShowerPoints
from caloforge.showers.projection import IdealGrid, project, random_entry
from caloforge.stage import FitStage, PointBatch, TrainingBatch, TrainingData

__all__ = ["CalibrationStage"]

Floats = NDArray[np.float64]

#: Showers that are made at once; limits the memory, changes no result.
_BLOCK = 25
#: Rounds of the calibration's iterations.
_ROUNDS = 3
#: Lit cells grow more slowly than points; so a ratio of cells asks for a larger one of points.
_STIFFNESS = 1.3
#: Cells that are added to each layer's count, so that nearly empty layers follow the others.
_PSEUDO_CELLS = 20.0
#: Range of factors that can be right; outside it the point network is useless.
_FACTORS = (0.05, 5.0)


@dataclass(frozen=True)
class _Reference:
    """Some training showers and what their cells are.

    Attributes:
        conditions: of the showers, as tensors.
        rows: numbers of the rows, which address random numbers, int64 (N,).
        cloud: the showers.
        entry: where each enters in the coordinates of the cells, (N, 2), mm.
        cells: lit cells, (N, L).
        energy: in lit cells of all showers, MeV.
    """

    conditions: dict[str, Tensor]
    rows: NDArray[np.int64]
    cloud: Cloud
    entry: Floats
    cells: Floats
    energy: float


class CalibrationStage(FitStage):
    """Factors with which generated showers light as many cells, and hold as much energy in them, as training showers.

    The point network is given the counts and energies of real showers, so that both sides differ in the points alone, and
    factors on the number of points are iterated until the lit cells agree; then one factor makes the energies in them
    agree. Cells are those of an idealised grid with a random entry point, above the detector's analysis threshold.

    The showers are those of the training, since it takes more than a thousand to know the cells of every layer within a
    percent or two; the network, which sees single points, cannot know them by heart.

    Args:
        model: the model.
    """

    def __init__(self, model: PointCloudModel) -> None:
        super().__init__(
            "calibration", {"calibration": model.calibration}, needs=("scales", "diffusion", "distillation")
        )
        self.model = model

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """The factors of both samplers."""
        references = list(self._references(data, streams))
        found = self.model.calibration
        before = {name: value.clone() for name, value in found.state_dict().items()}
        for number, sampler in enumerate(SAMPLERS):
            # Where a few do for the sampler that takes many times as long: both sides have the same showers.
            few = references[: self._edm_blocks()] if sampler == "edm" else references
            if found.polynomial:
                self._fit_polynomials(few, sampler, streams)
            else:
                found.occupancy[number] = torch.from_numpy(self._occupancy(few, sampler, streams))
            found.energy[number] = self._energy(few, sampler, streams)
        state = {f"calibration.{name}": value.clone() for name, value in found.state_dict().items()}
        found.load_state_dict(before)
        return state

    def _edm_blocks(self) -> int | None:
        """How many blocks of showers the ``edm`` sampler is calibrated with; None for all."""
        showers = self.model.config.edm_calibration_showers
        return None if showers is None else -(-showers // _BLOCK)

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
        assert isinstance(batch, PointBatch)  # ``cloud`` has looked
        cloud = self.model.cloud(batch)
        rows = batch.row.numpy()
        entry = random_entry(self.model.cell, rows, streams.child("entry"))
        cells, energy = self._cells(batch.points, batch.offsets, entry)
        return _Reference(conditions_of(batch), rows, cloud, entry, cells, energy)

    def _cells(self, points: Tensor, offsets: Tensor, entry: Floats) -> tuple[Floats, float]:
        """Lit cells of each shower and layer, and the energy in all of them."""
        model = self.model
        showers = ShowerPoints(
            offsets.cpu().numpy(), points.float().cpu().numpy()[:, :4], np.zeros(len(offsets) - 1), 0
        )
        cut = model.detector.analysis_threshold
        lit = project(showers, IdealGrid(model.cell), cut=cut, entry=entry).cells
        place = lit.shower_index * model.layers + lit.points[:, 2].astype(np.int64)
        counts = np.bincount(place, minlength=len(showers) * model.layers).reshape(-1, model.layers)
        return counts.astype(np.float64), float(lit.points[:, 3].sum(dtype=np.float64))

    def _occupancy(self, references: list[_Reference], sampler: Sampler, streams: Streams) -> Floats:
        real = sum((reference.cells.sum(axis=0) for reference in references), np.zeros(self.model.layers))
        factors = np.ones(self.model.layers)
        rounds = [False] * _ROUNDS + [True] * (_ROUNDS if self.model.calibration.per_layer else 0)
        for by_layer in rounds:
            sample = np.zeros(self.model.layers)
            for reference in references:
                sample += self._made(reference, torch.from_numpy(factors), sampler, streams)[0].sum(axis=0)
            ratio = (
                (real + _PSEUDO_CELLS) / (sample + _PSEUDO_CELLS)
                if by_layer
                else (real.sum() + _PSEUDO_CELLS) / (sample.sum() + _PSEUDO_CELLS)
            )
            factors = np.clip(factors * ratio**_STIFFNESS, *_FACTORS)
        return factors

    def _fit_polynomials(self, references: list[_Reference], sampler: Sampler, streams: Streams) -> None:
        """Cells as a cubic of real points, and generated points as a cubic of cells (arXiv:2309.05704, section 3.4)."""
        number, found = SAMPLERS.index(sampler), self.model.calibration
        points = np.concatenate([reference.cloud.counts.sum(dim=1).cpu().numpy() for reference in references])
        cells = np.concatenate([reference.cells.sum(axis=1) for reference in references])
        made_points, made_cells = [], []
        # Fewer points than the real showers have, and more, so that the polynomial is asked about nothing unknown.
        for factor in (0.5, 0.75, 1.0, 1.25):
            factors = torch.full((self.model.layers,), factor, dtype=torch.float64)
            for reference in references:
                lit, _, number_of_points = self._made(reference, factors, sampler, streams)
                made_cells.append(lit.sum(axis=1))
                made_points.append(number_of_points)
        real = _cubic(points, cells)
        fake = _cubic(np.concatenate(made_cells), np.concatenate(made_points))
        factor = np.polyval(fake, np.polyval(real, points)) / points.clip(1)
        found.polynomials[number] = torch.from_numpy(np.stack([real, fake]))
        found.occupancy[number] = float(np.clip(factor, *_FACTORS).max())

    def _energy(self, references: list[_Reference], sampler: Sampler, streams: Streams) -> float:
        """Energy in lit cells of real showers over that of generated ones with the same energies of layers."""
        sample = 0.0
        for reference in references:
            factors = self.model.calibration.of_points(reference.cloud.counts.sum(dim=1), sampler)
            sample += self._made(reference, factors, sampler, streams)[1]
        real = sum(reference.energy for reference in references)
        if not sample > 0 or not real > 0:
            raise TrainingError("generated or real showers light no cell, so they cannot be calibrated")
        return real / sample

    def _made(
        self, reference: _Reference, factors: Tensor, sampler: Sampler, streams: Streams
    ) -> tuple[Floats, float, Floats]:
        """Lit cells (N, L), energy in them, and numbers of points (N,), for real counts and energies."""
        model, cloud = self.model, reference.cloud
        device = cloud.counts.device
        centre = torch.zeros(len(cloud.counts), 3, dtype=torch.float64, device=device)
        weights = cloud.energy.double()[:, None]
        centre.index_add_(0, cloud.shower, torch.cat([cloud.place.double() * weights, weights], dim=1))
        gravity = centre[:, :2] / centre[:, 2:].clamp_min(1e-300)
        valid = torch.ones(len(gravity), dtype=torch.bool, device=device)
        profiles = Profiles(cloud.counts, cloud.energies, gravity if model.moves_gravity else None, valid)
        counts = rounded_counts(profiles.counts, factors.to(device))
        sizes = counts.sum(dim=1).cpu().numpy()
        normal = streams.child("points").ragged_normal(reference.rows, 4 * sizes)
        points, offsets = model.make_points(
            reference.conditions,
            profiles,
            counts,
            cloud.energies,
            torch.from_numpy(normal).reshape(-1, 4).to(device),
            torch.from_numpy(np.concatenate([[0], np.cumsum(sizes)])).to(device),
            sampler,
        )
        return *self._cells(points, offsets, reference.entry), sizes.astype(np.float64)


def _cubic(x: Floats, y: Floats) -> Floats:
    """Least-squares cubic, highest power first; of lower degree if there are too few different values."""
    scale = max(float(np.abs(x).max()), 1.0)
    degree = max(0, min(3, len(np.unique(x)) - 1))
    found = np.zeros(4)
    found[3 - degree :] = np.polyfit(x / scale, y, degree)
    return found / scale ** np.arange(3, -1, -1)


def _rows(batch: TrainingBatch, start: int, stop: int) -> TrainingBatch:
    """Consecutive rows of a batch of points."""
    assert isinstance(batch, PointBatch)  # ``cloud`` has looked
    offsets = batch.offsets[start : stop + 1]
    return PointBatch(
        incident_energy=batch.incident_energy[start:stop],
        row=batch.row[start:stop],
        epoch=batch.epoch,
        direction=None if batch.direction is None else batch.direction[start:stop],
        offsets=offsets - offsets[0],
        points=batch.points[int(offsets[0]) : int(offsets[-1])],
    )
