"""Fit stages of CaloClouds2 and CaloClouds3: the flow's moments, the number of points, and the energy in cells."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from caloforge.errors import TrainingError
from caloforge.models.cloud_parts import (
    SAMPLERS,
    Cloud,
    LayerFactors,
    Profiles,
    Sampler,
    layer_totals,
    resolution_terms,
)
from caloforge.models.pointclouds import PointCloudModel, conditions_of
from caloforge.random import Streams
from caloforge.showers import ShowerPoints
from caloforge.showers.projection import IdealGrid, project, random_entry
from caloforge.stage import FitStage, TrainingBatch, TrainingData

__all__ = ["CalibrationStage", "LayerStage", "covariance_map"]

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
#: The flow is asked so many times about every training shower.
_DRAWS = 4
#: Share of all points or energy that is added to each layer's, so that nearly empty layers get a factor of about one.
_PSEUDO_SHARE = 1e-3


@dataclass(frozen=True)
class _Moments:
    """Mean and variance of numbers under their conditions, and what is left when the mean is taken off.

    Attributes:
        mean: coefficients of ``mean_basis``, (7, F).
        variance: coefficients of its first two functions, or of others, (2, F).
        rest: outputs without their mean, (N, F).
        basis: ``mean_basis`` of the conditions, (N, 7).
    """

    mean: Tensor
    variance: Tensor
    rest: Tensor
    basis: Tensor

    @classmethod
    def of(cls, basis: Tensor, outputs: Tensor, terms: Tensor | None = None) -> _Moments:
        """By least squares; the variance is made up of ``terms`` (N, 2), or of the first two functions of the basis."""
        # Columns may be equal (all showers along +z), so the shortest of all solutions is taken.
        mean = torch.linalg.pinv(basis, rtol=1e-6) @ outputs
        rest = outputs - basis @ mean
        terms = basis[:, :2] if terms is None else terms
        return cls(mean, torch.linalg.pinv(terms, rtol=1e-6) @ rest.square(), rest, basis)


class LayerStage(FitStage):
    """Corrections with which the flow's moments are those of the training showers.

    A map gives the flow's outputs the means and variances that training showers have at each energy, and perhaps their
    correlations; another one does so for the sums of points and energy over all layers. Behind them factors make the mean
    number of points and the mean energy of every layer agree. The flow is sampled under the conditions of the training showers.

    Args:
        model: the model.
    """

    def __init__(self, model: PointCloudModel) -> None:
        super().__init__("layers", {"layer_factors": model.layer_factors}, needs=("scales", "flow"))
        self.model = model

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """The map of the outputs, and ratios of sums over all showers."""
        found = self.model.layer_factors
        before = {name: value.clone() for name, value in found.state_dict().items()}
        # Each step is fitted behind the ones before it and nothing else.
        found.load_state_dict(LayerFactors(self.model.layers, self.model.flow.features).state_dict())
        if self.model.config.profile_moments != "none":
            found.load_state_dict(found.state_dict() | self._map(data, streams))
        if self.model.config.profile_totals != "none":
            found.load_state_dict(found.state_dict() | self._totals(data, streams))
        found.points[:], found.energy[:] = self._factors(data, streams)
        state = {f"layer_factors.{name}": value.clone() for name, value in found.state_dict().items()}
        found.load_state_dict(before)
        return state

    def _map(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """What leads from the flow's outputs to standardised training showers."""
        model, size = self.model, self.model.flow.features
        real, made = [], []
        # Of few showers each is asked about more often, so that the flow's own covariance is always known well.
        draws = max(_DRAWS, -(-4 * size // max(len(data), 1)))
        for batch in data:
            cloud, conditions, rows = model.cloud(batch), conditions_of(batch), batch.row.numpy()
            device, basis = cloud.counts.device, model.scales.basis(conditions)
            uniform = torch.from_numpy(streams.child("counts").uniform(rows, model.layers)).to(device)
            features = model.scales.standardised(model.profile_features(cloud, uniform), conditions)
            real.append((basis, features))
            for draw in range(draws):
                normal = torch.from_numpy(streams.child("spread").normal(rows, size, draw)).to(device)
                raw = model.flow_outputs(conditions, normal)
                good = model.restored_profiles(conditions, raw, corrected=False).valid
                made.append((basis[good], raw[good].double()))
        if not sum(len(basis) for basis, _ in made):
            raise TrainingError("all showers of the flow are unphysical, so its moments cannot be corrected")
        wanted, has = (_Moments.of(*(torch.cat(parts) for parts in zip(*pairs, strict=True))) for pairs in (real, made))
        state = {
            "real_mean": wanted.mean, "real_variance": wanted.variance, "made_mean": has.mean, "made_variance": has.variance,
        }  # fmt: skip
        if model.config.profile_moments == "variances":
            return state
        found = LayerFactors(model.layers, size).to(wanted.rest.device)
        found.load_state_dict(found.state_dict() | state)
        covariance = (_covariance(has.rest * found.gain(has.basis)), _covariance(wanted.rest))
        return state | {"spread": covariance_map(*covariance, len(wanted.rest))}

    def _totals(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """What leads from the totals of the flow's showers to those of the training showers."""
        model = self.model
        real, made = [], []
        for batch in data:
            cloud, conditions, rows = model.cloud(batch), conditions_of(batch), batch.row.numpy()
            basis, incident = model.scales.basis(conditions), conditions["incident_energy"][:, None]
            real.append((basis, layer_totals(cloud.counts, cloud.energies) / incident))
            for draw in range(_DRAWS):
                normal = torch.from_numpy(streams.child("totals").normal(rows, model.flow.features, draw))
                profiles = model.sample_profiles(conditions, normal.to(basis.device), corrected=False)
                good = profiles.valid
                made.append((basis[good], (layer_totals(profiles.counts, profiles.energies) / incident)[good]))
        if not sum(len(basis) for basis, _ in made):
            raise TrainingError("all showers of the flow are unphysical, so their totals cannot be corrected")
        pairs = [tuple(torch.cat(parts) for parts in zip(*pairs, strict=True)) for pairs in (real, made)]
        scale = pairs[0][1].mean(dim=0).clamp_min(1e-300)
        wanted, has = (_Moments.of(basis, totals / scale, resolution_terms(basis)) for basis, totals in pairs)
        return {
            "total_scale": scale, "real_total": wanted.mean, "real_total_variance": wanted.variance,
            "made_total": has.mean, "made_total_variance": has.variance,
        }  # fmt: skip

    def _factors(self, data: TrainingData, streams: Streams) -> tuple[Tensor, Tensor]:
        """Factors on points and on energies, (L,) each."""
        model = self.model
        real, made = (
            torch.zeros(2, model.layers, dtype=torch.float64),
            torch.zeros(2, model.layers, dtype=torch.float64),
        )
        for batch in data:
            cloud, conditions, rows = model.cloud(batch), conditions_of(batch), batch.row.numpy()
            for draw in range(_DRAWS):
                normal = torch.from_numpy(streams.normal(rows, model.flow.features, draw))
                profiles = model.sample_profiles(conditions, normal.to(cloud.counts.device))
                good = profiles.valid[:, None]
                real += torch.stack([(t * good).sum(dim=0) for t in (cloud.counts, cloud.energies)]).cpu()
                made += torch.stack([(t * good).sum(dim=0) for t in (profiles.counts, profiles.energies)]).cpu()
        if not bool((made.sum(dim=1) > 0).all()):
            raise TrainingError("the flow gives no layer any points and energy, so its means cannot be corrected")
        wanted = model.config.profile_factors
        if wanted == "layers":
            pseudo = _PSEUDO_SHARE * real.sum(dim=1, keepdim=True)
            factors = (real + pseudo) / (made + pseudo)
        elif wanted == "total":
            factors = (real.sum(dim=1) / made.sum(dim=1))[:, None].expand(2, model.layers)
        else:
            factors = torch.ones(2, model.layers, dtype=torch.float64)
        return factors[0].clamp(*_FACTORS), factors[1].clamp(*_FACTORS)


def covariance_map(made: Tensor, real: Tensor, number: int) -> Tensor:
    """Symmetric matrix A with A made A = real, (F, F): of all that do so, the one that moves normal variables least.

    The covariance of few showers is uncertain, so ``real`` counts as much as its showers and ``made`` as one for each feature.

    Args:
        made: covariance to start from, float64 (F, F).
        real: covariance to arrive at, float64 (F, F).
        number: showers behind ``real``.

    Source: optimal transport between normal distributions (M. Knott and C. S. Smith, 1984).
    """
    features = len(made)
    wanted = (number * real + features * made) / (number + features)
    root, inverse = _power(made, 0.5), _power(made, -0.5)
    found = inverse @ _power(root @ wanted @ root, 0.5) @ inverse
    return (found + found.T) / 2


def _covariance(rows: Tensor) -> Tensor:
    """Of rows (N, F) whose mean is zero, (F, F)."""
    return rows.T @ rows / len(rows)


def _power(matrix: Tensor, exponent: float) -> Tensor:
    """Power of a symmetric matrix without negative eigenvalues; those that rounding alone tells from zero are raised."""
    values, vectors = torch.linalg.eigh(matrix)
    values = values.clamp_min(1e-9 * float(values[-1].clamp_min(1e-300)))
    result: Tensor = (vectors * values**exponent) @ vectors.T
    return result


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
            "calibration", {"calibration": model.calibration}, needs=("scales", "layers", "diffusion", "distillation")
        )
        self.model = model

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """The factors of both samplers."""
        references = list(self._references(data, streams))
        found = self.model.calibration
        before = {name: value.clone() for name, value in found.state_dict().items()}
        for number, sampler in enumerate(SAMPLERS):
            # The diffusion takes many times as long; both sides have the same showers, so a few of them do.
            few = references[:4] if sampler == "edm" else references
            if self.model.config.occupancy == "polynomial":
                self._fit_polynomials(few, sampler, streams)
            else:
                found.occupancy[number] = torch.from_numpy(self._occupancy(few, sampler, streams))
            found.energy[number] = self._energy(few, sampler, streams)
        state = {f"calibration.{name}": value.clone() for name, value in found.state_dict().items()}
        found.load_state_dict(before)
        return state

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
        rounds = [False] * _ROUNDS + [True] * (_ROUNDS if self.model.config.occupancy == "layers" else 0)
        for by_layer in rounds:
            made = np.zeros(self.model.layers)
            for reference in references:
                made += self._made(reference, torch.from_numpy(factors), sampler, streams)[0].sum(axis=0)
            ratio = (
                (real + _PSEUDO_CELLS) / (made + _PSEUDO_CELLS)
                if by_layer
                else (real.sum() + _PSEUDO_CELLS) / (made.sum() + _PSEUDO_CELLS)
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
                lit, _, made = self._made(reference, factors, sampler, streams)
                made_cells.append(lit.sum(axis=1))
                made_points.append(made)
        real = _cubic(points, cells)
        fake = _cubic(np.concatenate(made_cells), np.concatenate(made_points))
        factor = np.polyval(fake, np.polyval(real, points)) / points.clip(1)
        found.polynomials[number] = torch.from_numpy(np.stack([real, fake]))
        found.occupancy[number] = float(np.clip(factor, *_FACTORS).max())

    def _energy(self, references: list[_Reference], sampler: Sampler, streams: Streams) -> float:
        """Energy in lit cells of real showers over that of generated ones with the same energies of layers."""
        made = 0.0
        for reference in references:
            factors = self.model.occupancy(reference.cloud.counts, sampler)
            made += self._made(reference, factors, sampler, streams)[1]
        real = sum(reference.energy for reference in references)
        if not made > 0 or not real > 0:
            raise TrainingError("generated or real showers light no cell, so they cannot be calibrated")
        return real / made

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
        counts = model.calibrated(profiles, factors.to(device))
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
