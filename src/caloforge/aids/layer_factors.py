"""Factors with which the mean points and the mean energy of every layer of point clouds are those of the training showers."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

import torch
from torch import Tensor

from caloforge.aids.moment_map import DRAWS
from caloforge.aids.totals_map import Factors, multiplied, profile_fits_before
from caloforge.errors import TrainingError
from caloforge.models import Aid, ShowerModel, only_module
from caloforge.parts.point_model import PointCloudModel
from caloforge.random import Streams
from caloforge.representation import CloudProfiles, Profiles, conditions_of
from caloforge.stage import FitStage, Stage, TrainingData
from caloforge.validation import Settings

__all__ = ["LayerFactors", "LayerFactorsSettings"]

#: Range of factors that can be right; outside it the flow is useless.
_FACTORS = (0.05, 5.0)
#: Share of all points or energy that is added to each layer's, so that nearly empty layers get a factor of about one.
_PSEUDO_SHARE = 1e-3


class LayerFactorsSettings(Settings):
    """Settings of the factors.

    Attributes:
        per: a factor for each ``layer``, or one on the ``total`` of all.
    """

    per: Literal["layer", "total"] = "layer"


class LayerFactors(Aid):
    """Multiplies points and energies of the layers.

    Attributes:
        layer_points: on the number of points, (L,).
        layer_energy: on the energy, (L,).
    """

    kind = "layer-factors"
    title: ClassVar[str] = "mean points and energy of every layer are those of the training showers"
    Config = LayerFactorsSettings
    config: LayerFactorsSettings
    layer_points: Tensor
    layer_energy: Tensor

    def __init__(self, config: LayerFactorsSettings, model: ShowerModel) -> None:
        super().__init__(config, model)
        profiles = only_module(model, CloudProfiles, self.kind)
        layers = model.detector.readout.n_layers
        self.register_buffer("layer_points", torch.ones(layers, dtype=torch.float64))
        self.register_buffer("layer_energy", torch.ones(layers, dtype=torch.float64))
        profiles.put("factors", self.with_layers)

    def with_layers(self, factors: Factors, conditions: Mapping[str, Tensor], profiles: Profiles) -> Factors:
        """Factors, with those of the layers."""
        return multiplied(factors, self.layer_points.double(), self.layer_energy.double())

    def stages(self, model: ShowerModel) -> list[Stage]:
        """The fit, behind the flow and the fits of the aids named before."""
        assert isinstance(model, PointCloudModel)  # it has profiles
        return [_FactorStage(self, model)]

    def constants(self) -> dict[str, Tensor]:
        """See :meth:`caloforge.models.Aid.constants`."""
        return dict(self.named_buffers())


class _FactorStage(FitStage):
    def __init__(self, aid: LayerFactors, model: PointCloudModel) -> None:
        needs = ("scales", "flow", *profile_fits_before(aid.kind, model))
        super().__init__("layer-factors", {"aids.layer-factors": aid}, needs=needs)
        self.aid, self.model = aid, model

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        model, layers = self.model, self.model.layers
        real, sample = (torch.zeros(2, layers, dtype=torch.float64) for _ in range(2))
        for batch in data:
            cloud, conditions = model.cloud(batch), conditions_of(batch)
            for draw in range(DRAWS):
                drawn = streams.normal(batch.row.numpy(), model.flow.features, draw)
                raw = model.flow_outputs(conditions, torch.from_numpy(drawn).to(cloud.counts.device))
                profiles = model.profiles_from(raw, conditions)
                good = profiles.valid[:, None]
                real += torch.stack([(t * good).sum(dim=0) for t in (cloud.counts, cloud.energies)]).cpu()
                sample += torch.stack([(t * good).sum(dim=0) for t in (profiles.counts, profiles.energies)]).cpu()
        if not bool((sample.sum(dim=1) > 0).all()):
            raise TrainingError("the flow gives no layer any points and energy, so its means cannot be corrected")
        if self.aid.config.per == "layer":
            pseudo = _PSEUDO_SHARE * real.sum(dim=1, keepdim=True)
            factors = (real + pseudo) / (sample + pseudo)
        else:
            factors = (real.sum(dim=1) / sample.sum(dim=1))[:, None].expand(2, layers)
        points, energy = factors.clamp(*_FACTORS)
        return {"aids.layer-factors.layer_points": points.clone(), "aids.layer-factors.layer_energy": energy.clone()}
