"""Aids of the profiles of point clouds: the trend, the maps of moments and totals, the factors of the layers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_samples import Rows, point_showers, training_batch

from caloforge.aids.layer_factors import LayerFactors
from caloforge.aids.moment_map import MomentMap, covariance_map
from caloforge.aids.totals_map import TotalsMap
from caloforge.aids.trend import Trend
from caloforge.detectors import load_detector
from caloforge.models import build_model, load_preset
from caloforge.parts.point_model import PointCloudModel
from caloforge.parts.profile_flow import features_and_conditions
from caloforge.random import Streams
from caloforge.representation import Profiles, conditions_of
from caloforge.showers import ShowerPoints
from caloforge.stage import FitStage, TrainingConfig

ILD = load_detector("ild-ecal")
SEEDS = Streams(2, "test")


def new_model(kind: str, *aids: dict[str, Any], **changes: Any) -> PointCloudModel:
    """A model with the trend and other aids, that knows the scales of some showers."""
    torch.manual_seed(4)
    settings = load_preset(f"{kind}-tiny").settings() | changes
    model = build_model(kind, settings, ILD, aids=[{"kind": "trend"}, *aids])
    assert isinstance(model, PointCloudModel)
    fit(model, point_showers(ILD, 40), "scales", "trend")
    return model.eval()


def fit(model: PointCloudModel, showers: ShowerPoints, *names: str) -> None:
    """Fit stages, behind which nothing is trained any more."""
    for stage in model.training_stages(TrainingConfig()):
        if stage.name in names:
            assert isinstance(stage, FitStage)
            stage.load_state(stage.fit(Rows(showers), SEEDS))
    model.requires_grad_(False)


def aid(model: PointCloudModel, kind: type) -> Any:
    return next(part for part in model.aids.values() if isinstance(part, kind))


def drawn(model: PointCloudModel, showers: ShowerPoints, draw: int) -> Profiles:
    """Profiles of the flow under the conditions of some showers."""
    batch = training_batch(showers)
    normal = torch.from_numpy(SEEDS.child("new").normal(batch.row.numpy(), model.flow.features, draw))
    conditions = conditions_of(batch)
    return model.profiles_from(model.flow_outputs(conditions, normal), conditions)


@pytest.mark.parametrize("wanted", ["layer", "total", "none"])
def test_means_of_layers_are_those_of_the_training_showers(wanted: str) -> None:
    showers = point_showers(ILD, 60)
    aids = [] if wanted == "none" else [{"kind": "layer-factors", "per": wanted}]
    model = new_model("caloclouds3", *aids)
    with torch.no_grad():  # a flow that is wrong: it says too much of the first layers' points and energies
        model.profiles.mean[:5] += 1.0
        model.profiles.mean[30:35] += 0.5
    fit(model, showers, "layer-factors")
    batch = training_batch(showers)
    cloud = model.cloud(batch)
    counts, energies = torch.zeros(30, dtype=torch.float64), torch.zeros(30, dtype=torch.float64)
    for draw in range(40):
        profiles = drawn(model, showers, draw)
        assert bool(profiles.valid.all())
        counts += profiles.counts.mean(dim=0) / 40
        energies += profiles.energies.mean(dim=0) / 40
    worst = max(
        float((made / real.mean(dim=0) - 1).abs().max())
        for made, real in ((counts, cloud.counts), (energies, cloud.energies))
    )
    totals = max(float(abs(made.sum() / real.sum(dim=1).mean() - 1)) for made, real in (
        (counts, cloud.counts), (energies, cloud.energies)
    ))  # fmt: skip
    assert (worst < 0.2) == (wanted == "layer")
    assert (totals < 0.03) == (wanted != "none")


def test_the_covariance_map_leads_from_one_covariance_to_another() -> None:
    generator = torch.Generator().manual_seed(1)
    made, real = (
        torch.cov(torch.randn(6, 50, generator=generator, dtype=torch.float64) * torch.arange(1, 7)[:, None])
        for _ in range(2)
    )
    found = covariance_map(made, real, 10**9)
    assert torch.allclose(found, found.T)
    assert torch.allclose(found @ made @ found, real, rtol=1e-5)
    assert float(torch.linalg.eigvalsh(found).min()) > 0  # no turn, no reflection
    # As many showers as features: half of what is known is the flow's own covariance.
    half = covariance_map(made, real, 6)
    assert torch.allclose(half @ made @ half, (made + real) / 2)
    assert torch.allclose(covariance_map(made, made, 100), torch.eye(6, dtype=torch.float64))


@pytest.mark.parametrize(("kind", "moments"), [("caloclouds2", "covariance"), ("caloclouds3", "variances")])
def test_the_flow_gets_the_moments_of_the_training_showers(kind: str, moments: str) -> None:
    showers = point_showers(ILD, 150)
    model = new_model(kind, {"kind": "moment-map", "moments": moments})
    with torch.no_grad():  # the flow is the identity, so it knows no correlations, and here it spreads too little
        model.profiles.std *= 0.7
        model.profiles.mean += 0.6 * model.profiles.std
    moment_map = aid(model, MomentMap)
    stage = next(stage for stage in model.training_stages(TrainingConfig()) if stage.name == "moment-map")
    assert isinstance(stage, FitStage)
    state = stage.fit(Rows(showers), SEEDS)
    assert torch.equal(moment_map.spread, torch.eye(model.flow.features).double())  # the model itself is not changed
    stage.load_state(state)
    model.requires_grad_(False)
    batch, size = training_batch(showers), model.flow.features
    features, conditions = features_and_conditions(model, batch, SEEDS)
    real = model.profiles.encode(features, conditions)
    made = []
    for draw in range(40):
        normal = torch.from_numpy(SEEDS.child("new").normal(batch.row.numpy(), size, draw))
        raw = model.flow_outputs(conditions, normal)
        # Showers that are thrown away do not count.
        scale = model.profiles.scale_of(conditions)
        good = model.profiles_of(scale.mean + raw.double() * scale.std).valid
        made.append(moment_map.mapped(raw, conditions)[good])
    made = torch.cat(made).double()
    found = torch.cov(real.T, correction=0)
    # The variances are those of the showers; of the correlations, what 150 showers say against one for each output.
    weight = 150 / (150 + size) if moments == "covariance" else 0.0
    wanted = weight * found + (1 - weight) * torch.diag(found.diag())
    error = float((torch.cov(made.T) - wanted).abs().max())
    # What is left is the statistics of 600 draws, and the other uniform numbers.
    assert error < 0.3 * float((torch.eye(size) - wanted).abs().max())
    away = float((made.mean(dim=0) - real.mean(dim=0)).abs().max())
    assert away < 0.25 < 0.5 < float(real.mean(dim=0).abs().max())


def test_spread_and_mean_of_the_flow_are_corrected_at_each_energy() -> None:
    model = new_model("caloclouds3", {"kind": "moment-map"})
    found, size = aid(model, MomentMap), model.flow.features
    energy = torch.linspace(0.2, 1.0, 5, dtype=torch.float64)
    conditions = {
        "incident_energy": energy * model.profiles.incident,
        "direction": torch.tensor([[0.0, 0.0, 1.0]], dtype=torch.float64).expand(5, 3),
    }
    raw = torch.ones(5, size)
    assert torch.equal(found.mapped(raw, conditions), raw)  # before anything is fitted
    found.made_mean[1] = 0.5  # the flow says too much at high energies
    found.made_variance[:] = torch.tensor([[4.0], [0.0]])
    found.real_variance[:] = torch.tensor([[0.0], [4.0]])
    expected = (1 - 0.5 * energy) * torch.sqrt(energy)
    assert torch.allclose(found.mapped(raw, conditions), expected[:, None].expand(5, size).float())
    found.real_variance[:] = torch.tensor([[1.0], [-2.0]])  # a line that would become negative
    assert bool(torch.isfinite(found.gain(model.profiles.functions(conditions))).all())


def test_totals_get_mean_and_resolution_of_the_training_showers() -> None:
    showers = point_showers(ILD, 300)
    batch = training_batch(showers)
    # Totals of these toys scatter by 90 %, so some of them would have to change by more than they may.
    for aids in ([{"kind": "totals-map"}], []):
        model = new_model("caloclouds3", *aids)
        with torch.no_grad():  # thirty layers that know nothing of each other: their sum fluctuates too little
            model.profiles.mean[30:] += 0.3
        fit(model, showers, "totals-map")
        cloud, incident = model.cloud(batch), conditions_of(batch)["incident_energy"]
        real = torch.stack([cloud.counts.sum(dim=1), cloud.energies.sum(dim=1)]) / incident
        made = []
        for draw in range(20):
            profiles = drawn(model, showers, draw)
            made.append(torch.stack([profiles.counts.sum(dim=1), profiles.energies.sum(dim=1)]) / incident)
        found = torch.cat(made, dim=1)
        means = found.mean(dim=1) / real.mean(dim=1)
        widths = found.std(dim=1) / real.std(dim=1)
        assert bool(((means - 1).abs() < 0.08).all()) == bool(aids)
        assert bool(((widths - 1).abs() < 0.12).all()) == bool(aids)


def test_a_total_is_carried_from_one_mean_and_resolution_to_another() -> None:
    model = new_model("caloclouds3", {"kind": "totals-map"})
    found = aid(model, TotalsMap)
    functions = model.profiles.functions(
        {
            "incident_energy": torch.tensor([0.25, 1.0]).double() * model.profiles.incident,
            "direction": torch.tensor([[0.0, 0.0, 1.0]] * 2),
        }
    )
    totals = torch.tensor([[0.5, 0.02], [0.5, 0.03]], dtype=torch.float64)
    assert torch.equal(found.total_factors(totals, functions), torch.ones(2, 2, dtype=torch.float64))
    found.total_scale[:] = torch.tensor([0.5, 0.02])
    found.made_total[0], found.real_total[0] = 1.0, 1.1
    found.made_total_variance[0], found.real_total_variance[:, 1] = 0.04, torch.tensor([0.0, 0.01])
    found.real_total_variance[0, 0] = 0.04
    # The energy of the second shower is 1.5 times the usual one: 2.5 deviations of 0.2, which become ones of 0.1.
    expected = torch.tensor([[1.1, 1.1], [1.1, 1.35 / 1.5]], dtype=torch.float64)
    assert torch.allclose(found.total_factors(totals, functions), expected)
    assert found.total_factors(1e-9 * totals, functions).tolist() == [[2.0, 2.0], [2.0, 2.0]]  # but no further


def test_outputs_relative_to_the_trend_have_the_same_moments_at_every_energy() -> None:
    model = new_model("caloclouds3")
    trend, profiles = aid(model, Trend), model.profiles
    incident = torch.tensor([1e4, 5e4]).double()
    conditions = {"incident_energy": incident, "direction": torch.tensor([[0.0, 0.0, 1.0]] * 2)}
    profiles.incident.fill_(5e4)
    profiles.mean.fill_(4.0)
    profiles.std.fill_(2.0)
    trend.trend.zero_()
    trend.trend[1], trend.trend[2] = 10.0, 3.0
    trend.variance[:] = torch.tensor([[0.5], [0.5]])
    outputs = torch.ones(2, 60, dtype=torch.float64)
    features = profiles.decode(outputs, conditions)
    expected = 4 + 10 * incident / 5e4 + 3 * torch.log(incident / 5e4) + 2 * torch.sqrt(0.5 + 0.5 * incident / 5e4)
    assert torch.allclose(features, expected[:, None].expand(2, 60))
    assert torch.allclose(profiles.encode(features, conditions), outputs)


def test_the_fits_come_in_the_order_of_the_aids_and_the_flow_behind_the_trend() -> None:
    """Fails if a fit stage of an aid does not wait for what it corrects."""
    model = new_model("caloclouds3", {"kind": "moment-map"}, {"kind": "totals-map"}, {"kind": "layer-factors"})
    stages = {stage.name: stage for stage in model.training_stages(TrainingConfig())}
    names = list(stages)
    assert names.index("scales") < names.index("trend") < names.index("flow") < names.index("moment-map")
    assert "trend" in stages["flow"].needs
    assert stages["totals-map"].needs == ("scales", "flow", "moment-map")
    assert stages["layer-factors"].needs == ("scales", "flow", "moment-map", "totals-map")
    assert isinstance(aid(model, LayerFactors), LayerFactors)
