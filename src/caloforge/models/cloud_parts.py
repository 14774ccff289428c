"""Configuration, intermediate results and fitted constants of the point-cloud models."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Annotated, Literal

import torch
from pydantic import Field
from torch import Tensor, nn

from caloforge.models.base import ModelConfig

__all__ = [
    "CORRECTIONS",
    "LEAST_FACTOR",
    "LEAST_TOTAL_VARIANCE",
    "LEAST_VARIANCE",
    "MOST_TOTAL",
    "ROOM",
    "SAMPLERS",
    "CalibrationFactors",
    "Cloud",
    "EdmConstants",
    "FlowScales",
    "LayerFactors",
    "PointCloudConfig",
    "Profiles",
    "Sampler",
    "ShowerFlowSize",
    "layer_totals",
    "mean_basis",
    "resolution_terms",
]

Sampler = Literal["consistency", "edm"]
SAMPLERS: tuple[Sampler, ...] = ("consistency", "edm")

Size = Annotated[int, Field(ge=1, le=1_000_000)]
#: Of things that are made one after the other.
Count = Annotated[int, Field(ge=1, le=10_000)]
Positive = Annotated[float, Field(gt=0)]

#: Number of functions in ``mean_basis``.
_BASIS = 7
#: Variances of standardised outputs below this come from a straight line through few showers.
LEAST_VARIANCE = 0.1
#: What ``LayerFactors`` knows of the moments of outputs and totals.
CORRECTIONS = (
    "made_mean", "real_mean", "made_variance", "real_variance", "spread",
    "total_scale", "made_total", "real_total", "made_total_variance", "real_total_variance",
)  # fmt: skip
#: Relative totals never vary less than this from shower to shower, a resolution of 1 %.
LEAST_TOTAL_VARIANCE = 1e-4
#: A shower's total is changed by this factor at most, up or down.
MOST_TOTAL = 2.0
#: A shower may have this many times the points of any training shower of its energy before it counts as unphysical.
ROOM = 1.25
#: Least factor on the number of points that the polynomials of the calibration may give.
LEAST_FACTOR = 0.05


class ShowerFlowSize(ModelConfig):
    """Size of the flow.

    Attributes:
        blocks: of six affine couplings and a spline each.
        affine_hidden: width of the couplings' networks; None takes 10 times the number of outputs, as published.
        spline_hidden: width of the splines' networks; None takes 4 times, as published.
        bins: spline bins.
        bound: the splines act on [-bound, bound].
    """

    blocks: Count
    affine_hidden: Size | None = None
    spline_hidden: Size | None = None
    bins: Annotated[int, Field(ge=2)] = 8
    bound: Positive = 3.0


class EdmConstants(ModelConfig):
    """Constants of the diffusion, see ``caloforge.nn.edm.Edm``; the defaults are the published ones."""

    sigma_data: Positive = 0.5
    sigma_min: Positive = 0.002
    sigma_max: Positive = 80.0
    rho: Positive = 7.0
    log_mean: float = -1.2
    log_std: Positive = 1.2


class PointCloudConfig(ModelConfig):
    """Configuration that both models share; docs/models/caloclouds.md says where defaults differ from the publications.

    Attributes:
        flow: size of the flow.
        widths: hidden widths of the point network.
        time_features: length of the embedding of the noise level.
        fourier_std: spread of the frequencies of that embedding.
        box: points further than half of this from the shower axis in x or y are left out, mm.
        position_fuzz: full width of a uniform shift of every point in training, mm; for points at the centres of sub-cells.
        positions: how places are normalised, see ``PointNormalisation``.
        core_share: share of the coordinates that lie within the scale c of ``positions: asinh``; a small one spreads the
            core of the showers more.
        point_energy: how energies of points are normalised.
        profiles: ``sqrt`` lets the flow learn square roots of counts and energies, whose spread hardly depends on the
            energy; ``linear`` the values themselves, as published.
        profile_noise: standard deviation of the noise on the flow's standardised outputs in training.
        max_negative: a shower is drawn again if more of its layer energies than this come out negative.
        cell: size of the cells for the calibration, mm; None takes the detector's.
        edm: constants of the diffusion.
        training_points: how many points of each shower a training step takes; None takes all.
        noise_levels: into how many parts with a noise level of their own the points of a shower are divided in training.
        distillation_levels: noise levels between which the one-step model is distilled; with 2 it learns the end of the
            teacher's whole path.
        teacher_steps: steps that the teacher takes from one of these levels to the next.
        distillation_reuse: for how many epochs the noise of a shower and the teacher's answer to it are kept (in memory).
        target_decay: share of the distillation's target network that survives a step.
        sampler: ``consistency`` makes points in one step, ``edm`` in ``2 * edm_steps - 1`` calls of the network.
        edm_steps: noise levels of the ``edm`` sampler.
        profile_moments: what the flow's outputs get from the training showers by a linear map: means and ``variances`` at each
            energy, correlations besides (``covariance``), or ``none`` of it.
        profile_totals: what the sums of points and energy over all layers get from the training showers behind that: mean and
            ``variances`` at each energy, or ``none``.
        profile_factors: what corrects the flow's mean points and energies at last: a factor for each of the ``layers``,
            one on the ``total``, or ``none``.
        occupancy: what the calibration finds: one ``factor`` on the number of points (arXiv:2511.01460), one for each of
            the ``layers``, or ``polynomial``, a function of the number of points (arXiv:2309.05704).
        calibration_showers: how many showers the calibration looks at, at most.
    """

    flow: ShowerFlowSize
    widths: Annotated[tuple[Size, ...], Field(min_length=1)]
    time_features: Annotated[int, Field(ge=2, multiple_of=2)] = 64
    fourier_std: Positive = 16.0
    box: Positive
    position_fuzz: Annotated[float, Field(ge=0)] = 0.0
    positions: Literal["asinh", "standard", "box"]
    core_share: Annotated[float, Field(gt=0, lt=1)] = 0.5
    point_energy: Literal["log", "linear"]
    profiles: Literal["sqrt", "linear"] = "sqrt"
    profile_noise: Annotated[float, Field(ge=0)] = 0.1
    max_negative: Annotated[int, Field(ge=0)] = 7
    cell: Positive | None = None
    edm: EdmConstants = EdmConstants()
    training_points: Size | None = None
    noise_levels: Size = 1
    distillation_levels: Annotated[int, Field(ge=2)] = 18
    teacher_steps: Size = 1
    distillation_reuse: Size = 1
    target_decay: Annotated[float, Field(ge=0, lt=1)] = 0.95
    sampler: Sampler = "consistency"
    edm_steps: Annotated[int, Field(ge=2)] = 18
    profile_moments: Literal["variances", "covariance", "none"] = "covariance"
    profile_totals: Literal["variances", "none"] = "variances"
    profile_factors: Literal["layers", "total", "none"] = "layers"
    occupancy: Literal["factor", "layers", "polynomial"] = "layers"
    calibration_showers: Size = 1500


@dataclass(frozen=True)
class Cloud:
    """Training showers as the models see them: shifted onto the axis, without what lies outside the box.

    Attributes:
        offsets: where the points of each shower start, int64 (N + 1,).
        shower: number of the shower of each point, int64 (M,).
        place: x and y from the shower axis, (M, 2), mm.
        layer: int64 (M,).
        energy: (M,), MeV.
        counts: points in each layer, float64 (N, L).
        energies: of each layer, float64 (N, L), MeV.
    """

    offsets: Tensor
    shower: Tensor
    place: Tensor
    layer: Tensor
    energy: Tensor
    counts: Tensor
    energies: Tensor


@dataclass(frozen=True)
class Profiles:
    """What the flow says about showers.

    Attributes:
        counts: points of each layer before the calibration, whole numbers in float64 (N, L).
        energies: of each layer, float64 (N, L), MeV; 0 where there are no points.
        gravity: where the energy-weighted mean of x and y from the axis is to be, (N, 2), mm; None leaves it.
        valid: bool (N,).
    """

    counts: Tensor
    energies: Tensor
    gravity: Tensor | None
    valid: Tensor


def mean_basis(energy: Tensor, direction: Tensor) -> Tensor:
    """Functions of the condition from which the mean of the flow's outputs is made up, float64 (N, 7).

    Layers grow with the energy, and showers get deeper with its logarithm; both are among the functions.

    Args:
        energy: incident energies over the highest one in training, (N,).
        direction: unit vectors, (N, 3).
    """
    x, y, z = direction.unbind(dim=1)
    slant = 1 / z
    return torch.stack([torch.ones_like(energy), energy, torch.log(energy), x, y, slant, energy * slant], dim=1)


def _same_variance(features: int) -> Tensor:
    """Coefficients of a variance of one at any energy, (2, F)."""
    return torch.tensor([[1.0], [0.0]], dtype=torch.float64).repeat(1, features)


def _variance(basis: Tensor, coefficients: Tensor) -> Tensor:
    """Variances (N, F), linear in the energy, of numbers whose variance is around one, from ``mean_basis`` (N, 7)."""
    return (basis[:, :2] @ coefficients.double()).clamp_min(LEAST_VARIANCE)


class FlowScales(nn.Module):
    """Constants around the flow, fitted to the training data.

    Attributes:
        incident: highest incident energy, MeV.
        mean: of the flow's outputs, coefficients of ``mean_basis``, (7, F).
        std: of the flow's outputs around that mean, (F,).
        variance: of the outputs around the mean, over the square of ``std``, coefficients of the first two functions, (2, F).
        most_points: no training shower has more than ``most_points[0] + most_points[1] * E``, E in MeV.
        outside: share of the training showers' points and energy outside the box, which the model never sees, (2,).
    """

    incident: Tensor
    mean: Tensor
    std: Tensor
    variance: Tensor
    most_points: Tensor
    outside: Tensor

    def __init__(self, features: int) -> None:
        super().__init__()
        self.register_buffer("incident", torch.ones((), dtype=torch.float64))
        self.register_buffer("mean", torch.zeros(_BASIS, features, dtype=torch.float64))
        self.register_buffer("std", torch.ones(features, dtype=torch.float64))
        self.register_buffer("variance", _same_variance(features))
        self.register_buffer("most_points", torch.tensor([1.0, 0.0], dtype=torch.float64))
        self.register_buffer("outside", torch.zeros(2, dtype=torch.float64))

    def basis(self, conditions: Mapping[str, Tensor]) -> Tensor:
        """``mean_basis`` of the conditions, float64 (N, 7)."""
        return mean_basis(conditions["incident_energy"].double() / self.incident, conditions["direction"].double())

    def mean_of(self, conditions: Mapping[str, Tensor]) -> Tensor:
        """Mean of the flow's outputs, float64 (N, F)."""
        return self.basis(conditions) @ self.mean.double()

    def std_of(self, conditions: Mapping[str, Tensor]) -> Tensor:
        """Standard deviation of the flow's outputs around that mean, float64 (N, F)."""
        return torch.sqrt(_variance(self.basis(conditions), self.variance)) * self.std.double()

    def standardised(self, features: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Outputs of the flow, float64 (N, F), from what they mean."""
        return (features - self.mean_of(conditions)) / self.std_of(conditions)

    def restored(self, outputs: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """Undo :meth:`standardised`."""
        return self.mean_of(conditions) + outputs.double() * self.std_of(conditions)

    def point_limit(self, incident_energy: Tensor) -> Tensor:
        """Most points that a shower may have, float64 (N,)."""
        return torch.ceil(ROOM * (self.most_points[0] + self.most_points[1] * incident_energy.double()))


class LayerFactors(nn.Module):
    """What corrects the flow: a map of its outputs, then one of each shower's totals, then factors on each layer.

    With b the functions of the condition in ``mean_basis``, outputs y become
    ``b real_mean + spread ((y - b made_mean) sqrt(b real_variance / b made_variance))``, where of the variances' b only the
    first two functions are taken, 1 and the incident energy. Totals of points and energy, over the incident energy, become
    likewise ``b real_total + (r - b made_total) sqrt(v real_total_variance / v made_total_variance)`` with v = (1, 1 / incident
    energy), as a calorimeter's resolution goes; all layers of the shower are scaled by what this changes.

    Args:
        layers: number of layers L.
        features: outputs of the flow, F.

    Attributes:
        points: on the number of points, (L,).
        energy: on the energy, (L,).
        made_mean: mean of the flow's outputs, coefficients of ``mean_basis``, (7, F).
        real_mean: what it is to be, (7, F).
        made_variance: variance of the flow's outputs, (2, F).
        real_variance: what it is to be, (2, F).
        spread: what makes the correlations agree, (F, F).
        total_scale: typical totals of points (1 / MeV) and energy over the incident energy, (2,); what follows is over it.
        made_total: mean of the totals, coefficients of ``mean_basis``, (7, 2).
        real_total: what it is to be, (7, 2).
        made_total_variance: variance of the totals, (2, 2).
        real_total_variance: what it is to be, (2, 2).
    """

    points: Tensor
    energy: Tensor
    made_mean: Tensor
    real_mean: Tensor
    made_variance: Tensor
    real_variance: Tensor
    spread: Tensor
    total_scale: Tensor
    made_total: Tensor
    real_total: Tensor
    made_total_variance: Tensor
    real_total_variance: Tensor

    def __init__(self, layers: int, features: int) -> None:
        super().__init__()
        for name, value in {
            "points": torch.ones(layers, dtype=torch.float64),
            "energy": torch.ones(layers, dtype=torch.float64),
            "made_mean": torch.zeros(_BASIS, features, dtype=torch.float64),
            "real_mean": torch.zeros(_BASIS, features, dtype=torch.float64),
            "made_variance": _same_variance(features),
            "real_variance": _same_variance(features),
            "spread": torch.eye(features, dtype=torch.float64),
            "total_scale": torch.ones(2, dtype=torch.float64),
            "made_total": torch.zeros(_BASIS, 2, dtype=torch.float64),
            "real_total": torch.zeros(_BASIS, 2, dtype=torch.float64),
            "made_total_variance": _same_variance(2),
            "real_total_variance": _same_variance(2),
        }.items():
            self.register_buffer(name, value)

    def outputs(self, raw: Tensor, basis: Tensor) -> Tensor:
        """Outputs of the flow after the map, (N, F), from those before it and ``mean_basis`` (N, 7)."""
        stretched = (raw.double() - basis @ self.made_mean.double()) * self.gain(basis)
        return torch.addmm(basis @ self.real_mean.double(), stretched, self.spread.double().T).to(raw.dtype)

    def gain(self, basis: Tensor) -> Tensor:
        """Ratio of the standard deviations, (N, F); variances of standardised outputs are around one."""
        return torch.sqrt(_variance(basis, self.real_variance) / _variance(basis, self.made_variance))

    def total_factors(self, totals: Tensor, basis: Tensor) -> Tensor:
        """By what the layers of showers are to be multiplied, (N, 2).

        Args:
            totals: of points and energy over the incident energy, float64 (N, 2).
            basis: ``mean_basis`` of the conditions, (N, 7).
        """
        relative = totals / self.total_scale.double()
        terms = resolution_terms(basis)
        real, made = (
            (terms @ v.double()).clamp_min(LEAST_TOTAL_VARIANCE)
            for v in (self.real_total_variance, self.made_total_variance)
        )
        rest = relative - basis @ self.made_total.double()
        wanted = basis @ self.real_total.double() + rest * torch.sqrt(real / made)
        return (wanted / relative.clamp_min(1e-300)).clamp(1 / MOST_TOTAL, MOST_TOTAL)


def layer_totals(counts: Tensor, energies: Tensor) -> Tensor:
    """Totals of points and energy, (N, 2), of what the layers hold, (N, L) both."""
    return torch.stack([counts.sum(dim=1), energies.sum(dim=1)], dim=1)


def resolution_terms(basis: Tensor) -> Tensor:
    """1 and one over the incident energy, which make up the square of a resolution, (N, 2), from ``mean_basis`` (N, 7)."""
    return torch.stack([torch.ones_like(basis[:, 1]), 1 / basis[:, 1]], dim=1)


class CalibrationFactors(nn.Module):
    """What the calibration finds, for each sampler.

    Args:
        layers: number of layers L.
        polynomial: whether the number of points is calibrated by polynomials.

    Attributes:
        occupancy: factors on the number of points of each layer, (samplers, L); with polynomials the largest factor that
            they may give.
        energy: factor on all energies, (samplers,).
        polynomials: lit cells as a cubic of real points, and generated points as a cubic of lit cells, highest power
            first, (samplers, 2, 4); None without polynomials.
    """

    occupancy: Tensor
    energy: Tensor
    polynomials: Tensor

    def __init__(self, layers: int, *, polynomial: bool) -> None:
        super().__init__()
        self.polynomial = polynomial
        self.register_buffer("occupancy", torch.ones(len(SAMPLERS), layers, dtype=torch.float64))
        self.register_buffer("energy", torch.ones(len(SAMPLERS), dtype=torch.float64))
        if polynomial:
            same = torch.tensor([0.0, 0.0, 1.0, 0.0], dtype=torch.float64)
            self.register_buffer("polynomials", same.repeat(len(SAMPLERS), 2, 1))

    def of_points(self, total: Tensor, sampler: Sampler) -> Tensor:
        """Factors on numbers of points, (L,) or, with polynomials, (N, 1).

        Args:
            total: points of each shower before the calibration, float64 (N,).
            sampler: which sampler makes the points.
        """
        number = SAMPLERS.index(sampler)
        if not self.polynomial:
            return self.occupancy[number]
        wanted = total
        for cubic in self.polynomials[number]:
            wanted = ((cubic[0] * wanted + cubic[1]) * wanted + cubic[2]) * wanted + cubic[3]
        factor = torch.maximum(wanted / total.clamp_min(1), LEAST_FACTOR * torch.ones_like(wanted))
        return torch.minimum(factor, self.occupancy[number].max())[:, None]
