"""The sums of points and energy over all layers of point clouds get mean and resolution of the training showers.

With r a total over the incident energy, over ``total_scale``, and b the functions of the condition in ``condition_functions``,
it becomes ``b real_total + (r - b made_total) sqrt(v real_total_variance / v made_total_variance)`` with v = (1, 1 / incident
energy), as a calorimeter's resolution goes; all layers of the shower are scaled by what this changes.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import torch
from torch import Tensor

from caloforge.aids.moment_map import DRAWS, Moments
from caloforge.aids.trend import same_variance
from caloforge.errors import TrainingError
from caloforge.models import Aid, ShowerModel, only_module
from caloforge.parts.point_model import LEAST_TOTAL_VARIANCE, MOST_TOTAL, PointCloudModel
from caloforge.random import Streams
from caloforge.representation import CONDITION_FUNCTIONS, CloudProfiles, Profiles, conditions_of
from caloforge.stage import FitStage, Stage, TrainingData
from caloforge.validation import Settings

__all__ = ["Factors", "TotalsMap", "multiplied", "profile_fits_before"]

#: What points and energies of the layers are multiplied by, (N, 1) or (N, L) each; None for nothing.
Factors = tuple[Tensor | None, Tensor | None]


def multiplied(factors: Factors, points: Tensor, energy: Tensor) -> Factors:
    """Factors times others."""
    of_points, of_energy = factors
    return (
        points if of_points is None else of_points * points,
        energy if of_energy is None else of_energy * energy,
    )


def profile_fits_before(kind: str, model: ShowerModel) -> tuple[str, ...]:
    """Names of the fit stages behind which that of an aid on the profiles comes: those of the aids named before it."""
    kinds = list(model.aids)
    return tuple(name for name in kinds[: kinds.index(kind)] if name in ("moment-map", "totals-map", "layer-factors"))


class TotalsMap(Aid):
    """Maps the totals of points and energy.

    Attributes:
        total_scale: typical totals of points (1 / MeV) and energy over the incident energy, (2,); what follows is over it.
        made_total: mean of the totals, coefficients of ``condition_functions``, (7, 2).
        real_total: what it is to be, (7, 2).
        made_total_variance: variance of the totals, (2, 2).
        real_total_variance: what it is to be, (2, 2).
    """

    kind = "totals-map"
    title: ClassVar[str] = "totals of points and energy get mean and resolution of the training showers"
    total_scale: Tensor
    made_total: Tensor
    real_total: Tensor
    made_total_variance: Tensor
    real_total_variance: Tensor

    def __init__(self, config: Settings, model: ShowerModel) -> None:
        super().__init__(config, model)
        profiles = only_module(model, CloudProfiles, self.kind)
        self.register_buffer("total_scale", torch.ones(2, dtype=torch.float64))
        for name in ("made_total", "real_total"):
            self.register_buffer(name, torch.zeros(CONDITION_FUNCTIONS, 2, dtype=torch.float64))
        for name in ("made_total_variance", "real_total_variance"):
            self.register_buffer(name, same_variance(2))
        self._functions = profiles.functions
        profiles.put("factors", self.mapped)

    def mapped(self, factors: Factors, conditions: Mapping[str, Tensor], profiles: Profiles) -> Factors:
        """Factors, with those of the totals."""
        totals = layer_totals(profiles) / conditions["incident_energy"].double()[:, None]
        functions = self._functions(conditions)
        of_points, of_energy = self.total_factors(totals, functions).T[..., None]
        return multiplied(factors, of_points, of_energy)

    def total_factors(self, totals: Tensor, functions: Tensor) -> Tensor:
        """By what the layers of showers are to be multiplied, (N, 2).

        Args:
            totals: of points and energy over the incident energy, float64 (N, 2).
            functions: ``condition_functions`` of the conditions, (N, 7).
        """
        relative = totals / self.total_scale.double()
        terms = resolution_terms(functions)
        real, sample = (
            (terms @ v.double()).clamp_min(LEAST_TOTAL_VARIANCE)
            for v in (self.real_total_variance, self.made_total_variance)
        )
        rest = relative - functions @ self.made_total.double()
        wanted = functions @ self.real_total.double() + rest * torch.sqrt(real / sample)
        return (wanted / relative.clamp_min(1e-300)).clamp(1 / MOST_TOTAL, MOST_TOTAL)

    def stages(self, model: ShowerModel) -> list[Stage]:
        """The fit, behind the flow and the fits of the aids named before."""
        assert isinstance(model, PointCloudModel)  # it has profiles
        return [_TotalsStage(self, model)]

    def constants(self) -> dict[str, Tensor]:
        """See :meth:`caloforge.models.Aid.constants`."""
        return dict(self.named_buffers())


class _TotalsStage(FitStage):
    def __init__(self, aid: TotalsMap, model: PointCloudModel) -> None:
        needs = ("scales", "flow", *profile_fits_before(aid.kind, model))
        super().__init__("totals-map", {"aids.totals-map": aid}, needs=needs)
        self.model = model

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        model = self.model
        real, sample = [], []
        for batch in data:
            cloud, conditions = model.cloud(batch), conditions_of(batch)
            functions, incident = model.profiles.functions(conditions), conditions["incident_energy"][:, None]
            sums = torch.stack([cloud.counts.sum(dim=1), cloud.energies.sum(dim=1)], dim=1)
            real.append((functions, sums / incident))
            for draw in range(DRAWS):
                drawn = streams.child("totals").normal(batch.row.numpy(), model.flow.features, draw)
                raw = model.flow_outputs(conditions, torch.from_numpy(drawn).to(functions.device))
                features = model.profiles.decode(raw, conditions)
                profiles = model.profiles_of(features)
                good = profiles.valid & torch.isfinite(features).all(dim=1)
                sample.append((functions[good], (layer_totals(profiles) / incident)[good]))
        if not sum(len(functions) for functions, _ in sample):
            raise TrainingError("all showers of the flow are unphysical, so their totals cannot be corrected")
        pairs = [tuple(torch.cat(parts) for parts in zip(*pairs, strict=True)) for pairs in (real, sample)]
        scale = pairs[0][1].mean(dim=0).clamp_min(1e-300)
        wanted, has = (
            Moments.of(functions, totals / scale, resolution_terms(functions)) for functions, totals in pairs
        )
        state = {
            "total_scale": scale, "real_total": wanted.mean, "real_total_variance": wanted.variance,
            "made_total": has.mean, "made_total_variance": has.variance,
        }  # fmt: skip
        return {f"aids.totals-map.{name}": value for name, value in state.items()}


def layer_totals(profiles: Profiles) -> Tensor:
    """Totals of points and energy, (N, 2), of the layers."""
    return torch.stack([profiles.counts.sum(dim=1), profiles.energies.sum(dim=1)], dim=1)


def resolution_terms(functions: Tensor) -> Tensor:
    """1 and one over the incident energy, which make up the square of a resolution, (N, 2)."""
    return torch.stack([torch.ones_like(functions[:, 1]), 1 / functions[:, 1]], dim=1)
