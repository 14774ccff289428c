"""CaloINN in two steps: real showers, Jacobians, the energies that both flows see."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, fit, geant4_showers, sparse_showers, toy_detector, training_batch

from caloforge.detectors import load_detector
from caloforge.errors import ConfigError
from caloforge.models import Conditions, build_model
from caloforge.random import Streams
from caloforge.representation import Logit
from caloforge.showers import Showers
from caloforge.stage import GradientStage, TrainingConfig
from caloforge.zoo.caloinn_factorised import CaloINNFactorised

STREAMS = Streams(11, "test")
SMALL: dict[str, Any] = {
    "flow": {"blocks": 3, "hidden_features": 12, "layers": 2},
    "energies": {"blocks": 1, "hidden_features": 4},
}


def small(detector: str = "calogan", **changes: Any) -> CaloINNFactorised:
    torch.manual_seed(2)
    model = build_model("caloinn-factorised", SMALL | changes, load_detector(detector))
    assert isinstance(model, CaloINNFactorised)
    return model.eval()


@pytest.mark.parametrize("noise_on", ["shares", "deposits"])
@pytest.mark.parametrize("particle", [22, -11, 211])
def test_real_showers_come_back_from_noise(particle: int, noise_on: str) -> None:
    """What the flows learn, sent straight to the post-processing, gives the showers back."""
    showers = geant4_showers(particle)
    model = small(extra_energy=200.0, noise_on=noise_on)
    rows = torch.arange(len(showers))
    noisy = model.dequantisation(torch.from_numpy(showers.deposits), STREAMS, rows, 0, torch.float64)
    encoded = model.shares.encode_noisy(noisy, model.dequantisation, STREAMS, rows, 0)
    assert bool(encoded.inside.all())
    made = model.shares.decode(encoded.y, noisy.energies).numpy()
    wanted = showers.above(0.010)
    assert np.array_equal(made > 0, wanted.deposits > 0)
    assert np.abs(made - wanted.deposits)[made > 0].mean() < 1e-3


def test_density_has_the_jacobian_that_autograd_finds() -> None:
    """From the deposits to the normal numbers of both flows."""
    detector = toy_detector((2, 2), (3, 1), threshold=0.0)
    settings = SMALL | {"drop_voxel": True, "noise_on": "deposits", "energy_noise_per": "voxel", "energy_scale": 1.0}
    settings |= {
        "energies": {"blocks": 2, "hidden_features": 8},
        "energy_fractions": "single",
        "noise": 0.0,
        "energy_noise": 0.0,
    }
    model = build_model("caloinn-factorised", settings, detector).double()
    assert isinstance(model, CaloINNFactorised)
    incident = torch.tensor([5e3], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    deposits = 300 * torch.rand(7, generator=generator, dtype=torch.float64)

    def normals(d: torch.Tensor) -> torch.Tensor:
        energies = torch.stack([d[:4].sum(), d[4:].sum()])[None]
        assert model.shares.dropped is not None
        shares, _, _ = model.shares.dropped(d[None])
        y = Logit(1e-9).transform(shares)
        logits = Logit(1e-6).transform(energies / incident)
        context = model.energy_conditions(incident, energies)
        parts = [model.flow(y, context), model.energies.flow(logits, context[:, :1])]
        return torch.cat([z[0] for z, _ in parts])

    z = normals(deposits).detach()
    jacobian = torch.autograd.functional.jacobian(normals, deposits)
    expected = -0.5 * z.square().sum() - 3.5 * math.log(2 * math.pi) + torch.linalg.slogdet(jacobian).logabsdet
    showers = Showers(deposits[None].numpy(), incident.numpy(), 22, detector.readout)
    found = model.noisy_log_prob(deposits[None], incident, torch.tensor([4]), 0, STREAMS).detach()
    assert float(found) == pytest.approx(float(expected), abs=1e-8)
    assert float(model.log_prob(showers, STREAMS)) == pytest.approx(float(expected), rel=1e-5)  # files hold float32


def test_too_much_energy_has_no_density() -> None:
    model = small(energy_scale=1.0)
    showers = geant4_showers(22)[:3]
    assert bool(torch.isfinite(model.log_prob(showers, STREAMS)).all())
    bright = Showers(showers.deposits * 3, showers.incident_energy, 22, showers.readout)
    assert bool((model.log_prob(bright, STREAMS) == -np.inf).all())


def test_a_few_steps_lower_the_losses_from_where_the_data_start_them() -> None:
    detector = toy_detector()
    torch.manual_seed(0)
    sizes = SMALL | {"energies": {"blocks": 2, "hidden_features": 16}}
    model = build_model("caloinn-factorised", sizes, detector, aids=[{"kind": "marginal-start"}])
    showers = sparse_showers(detector, 300)
    fit(model, showers)

    @torch.no_grad()
    def loss(stage: GradientStage) -> float:
        return float(stage.validate(training_batch(showers), STREAMS)["loss"])

    for stage in model.training_stages(TrainingConfig()):
        if not isinstance(stage, GradientStage):
            continue
        random = loss(stage)
        with torch.no_grad():
            stage.begin(Rows(showers), STREAMS)
        started = loss(stage)
        assert started < random - 5
        optimiser = torch.optim.Adam(stage.players[0].parameters, 4e-3)
        for epoch in range(1, 26):
            optimiser.zero_grad()
            stage.loss("main", training_batch(showers, epoch), STREAMS)["loss"].backward()
            optimiser.step()
        assert loss(stage) < started


@pytest.mark.parametrize("size", [1e2, 1e5, 1e30, float("inf"), float("nan")])
def test_extreme_latents_give_finite_showers_or_invalid_ones(size: float) -> None:
    model = small(energy_scale=1.0)
    conditions = Conditions.first(np.full(4, 5e4), 22)
    latents = model.latents(conditions, STREAMS)
    latents["energies"][0, 1] = size
    latents["flow"][1, 100] = -size
    latents["flow"][2, :] = -size
    made, valid = model.decode(conditions, latents)
    made.check_values()
    assert valid[3]
    assert (made.total_energy()[~valid] == 0).all()
    if np.isnan(size):  # what is no number must not pass for an empty shower
        assert not valid[:3].any()


def test_a_margin_that_the_splines_of_the_energies_do_not_reach_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"margin 1e-09 reaches 20.7.*end at 14"):
        small(energy_alpha=1e-9)
    small(energies={"blocks": 1, "hidden_features": 4, "bound": 21.0}, energy_alpha=1e-9)


@pytest.mark.parametrize(("per", "on"), [("layer", "shares"), ("layer", "deposits"), ("voxel", "deposits")])
def test_the_energies_that_their_flow_learns_are_those_among_the_conditions(per: str, on: str) -> None:
    model = small(energy_noise_per=per, noise_on=on)
    showers = geant4_showers(22)[:20]
    fit(model, showers)
    batch = training_batch(showers, epoch=3)
    _, energies, _ = model.training_stages(TrainingConfig())
    learnt, _ = energies.variables(batch, STREAMS)  # type: ignore[attr-defined]
    _, context = model.double().variables(batch, STREAMS)
    reference = model.energy_conditions.log_layers
    among = reference.inverse(context[:, 1:])[0]
    again = model.energies.representation.transform(among, batch.incident_energy)
    torch.testing.assert_close(learnt.double(), again, rtol=1e-5, atol=1e-5)


def test_the_description_names_the_margin_of_each_logit() -> None:
    described = small().describe_representation()
    assert described["energies"][-1] == Logit(1e-6).describe()
    assert described["shapes"]["logit"] == Logit(1e-9).describe()


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop_voxel": True, "noise_on": "deposits"}, "sums of the noisy voxels"),
        ({"energy_noise_per": "voxel"}, "no sums of noisy voxels"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model("caloinn-factorised", SMALL | changes, toy_detector())


def test_detectors_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ConfigError, match="read out as points"):
        build_model("caloinn-factorised", SMALL, load_detector("ild-ecal/points"))
    with pytest.raises(ConfigError, match="needs a layer with several of them, 'toy' has none"):
        build_model("caloinn-factorised", SMALL, toy_detector((1, 1)))


def test_a_layer_of_a_single_voxel_is_filled() -> None:
    detector = toy_detector((2, 2), (1, 1), (3, 1))
    model = build_model("caloinn-factorised", SMALL, detector)
    assert isinstance(model, CaloINNFactorised)
    assert model.flow.features == 7
    fit(model, sparse_showers(detector, 30))
    conditions = Conditions.first(np.full(20, 5e4), 22)
    made, _ = model.decode(conditions, model.latents(conditions, STREAMS))
    assert isinstance(made, Showers)
    np.testing.assert_allclose(made.deposits[:, 4], made.layer_energies()[:, 1], rtol=1e-6)
    assert (made.deposits[:, 4] > 0).all()
