"""The likelihood of CaloFlow: exact Jacobians, integrals, noise draws."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import fit, geant4_showers, sparse_showers, toy_detector
from torch import Tensor

from caloforge.detectors import load_detector
from caloforge.errors import ConfigError, UsageError
from caloforge.models import build_model
from caloforge.random import Streams
from caloforge.representation import EnergyFractions, LayerSums, Logit, NoisyShowers
from caloforge.showers import Showers
from caloforge.zoo.caloflow import CaloFlow

STREAMS = Streams(5, "likelihood")
DROPPED: dict[str, Any] = {
    "energies": {"blocks": 2, "hidden_features": 8, "hidden_layers": 1},
    "shapes": {"blocks": 2, "hidden_features": 8},
    "drop_voxel": True,
    "energy_noise_per": "voxel",
    "energy_scale": 1.0,
}
BARE: dict[str, Any] = DROPPED | {"noise": 0.0, "energy_noise": 0.0, "cut_first": False}


def flow(config: dict[str, Any], *layers: tuple[int, int], seed: int = 1) -> CaloFlow:
    torch.manual_seed(seed)
    model = build_model("caloflow", config, toy_detector(*layers, threshold=0.0))
    assert isinstance(model, CaloFlow)
    return model.double().eval()


def latents_of(model: CaloFlow, deposits: Tensor, incident: Tensor) -> Tensor:
    """The whole chain from deposits to standard normal numbers, written out once more."""
    assert model.shares.dropped is not None
    shares, energies, _ = model.shares.dropped(deposits)
    u, _ = EnergyFractions()(energies, incident)
    z_energies, _ = model.energies.flow(Logit(1e-6)(u)[0], model.energy_conditions.incident(incident))
    z_shapes, _ = model.shapes(Logit(1e-6)(shares)[0], model.energy_conditions(incident, energies))
    return torch.cat([z_energies, z_shapes], dim=1)


def density(model: CaloFlow, deposits: Tensor, incident: Tensor) -> Tensor:
    """Log-density of deposits with noise."""
    energies: Tensor = LayerSums(model.detector.readout.layer_sizes)(deposits)
    return model.log_density(NoisyShowers(deposits, energies, deposits), incident)


def test_density_of_the_deposits_has_the_jacobian_that_autograd_finds() -> None:
    model = flow(BARE, (2, 2), (3, 1), (1, 1))
    generator = torch.Generator().manual_seed(0)
    deposits = torch.rand(6, 8, generator=generator, dtype=torch.float64) * 10 + 0.1
    incident = deposits.sum(dim=1) * 1.7
    found = density(model, deposits, incident)
    for k in range(6):
        fixed = incident[k : k + 1]
        matrix = torch.autograd.functional.jacobian(lambda d, e=fixed: latents_of(model, d[None], e)[0], deposits[k])
        z = latents_of(model, deposits[k : k + 1], fixed)[0]
        normal = -0.5 * z.square().sum() - 4 * math.log(2 * math.pi)
        expected = normal + torch.linalg.slogdet(matrix).logabsdet
        assert float(found[k].detach()) == pytest.approx(float(expected.detach()), abs=1e-8)


@pytest.mark.parametrize("seed", [1, 2])
def test_density_of_three_deposits_in_two_layers_integrates_to_one(seed: int) -> None:
    model = flow(BARE, (2, 1), (1, 1), seed=seed)
    incident = 80.0
    points = torch.linspace(-13, 13, 61, dtype=torch.float64)
    grid = torch.cartesian_prod(points, points, points)
    total, first, share = torch.sigmoid(grid).unbind(dim=1)
    # d1 = E f x, d2 = E f (1 - x), d3 = E (1 - f): dd1 dd2 dd3 = E^2 f dE df dx
    energy = incident * total
    deposits = torch.stack([energy * first * share, energy * first * (1 - share), energy * (1 - first)], dim=1)
    slopes = incident * total * (1 - total) * first * (1 - first) * share * (1 - share)
    weights = energy.square() * first * slopes * float(points[1] - points[0]) ** 3
    with torch.no_grad():
        log_prob = density(model, deposits, torch.full((len(deposits),), incident, dtype=torch.float64))
    assert float((log_prob.exp() * weights).sum()) == pytest.approx(1.0, abs=0.01)


def test_likelihood_of_the_507_variables_is_the_sum_of_its_parts() -> None:
    torch.manual_seed(3)
    config = {"energies": {"blocks": 2, "hidden_features": 8}, "shapes": {"blocks": 2, "hidden_features": 8}}
    model = build_model("caloflow", config | {"energy_scale": 1.0}, load_detector("calogan")).double().eval()
    assert isinstance(model, CaloFlow)
    showers = geant4_showers(22)[:4]
    fit(model, showers)
    rows = torch.arange(4)
    incident = torch.from_numpy(showers.incident_energy)
    deposits, sums = torch.from_numpy(showers.above(0.010).deposits).double(), LayerSums((288, 144, 72))
    voxels, layers = (
        torch.from_numpy(STREAMS.child(purpose).uniform(rows.numpy(), size, counters=0))
        for purpose, size in (("voxels", 504), ("layers", 3))
    )
    noisy, energies = deposits + 1e-3 * voxels, sums(deposits) + 1e-3 * layers
    with torch.no_grad():
        u, _ = EnergyFractions()(energies, incident)
        y_energies, energy_logdet = Logit(1e-6)(u)
        y_shapes, shape_logdet = Logit(1e-6)(noisy / sums.spread(sums(noisy)))
        expected = (
            model.energies.flow.log_prob(y_energies, model.energy_conditions.incident(incident))
            + model.shapes.log_prob(y_shapes, model.energy_conditions(incident, energies))
            + energy_logdet
            + shape_logdet
        )
    assert u.shape[1] + y_shapes.shape[1] == 507
    assert torch.allclose(model.log_prob(showers, STREAMS), expected, rtol=1e-10, atol=1e-6)


def test_several_draws_average_the_density_not_its_logarithm() -> None:
    detector = toy_detector()
    model = build_model("caloflow", DROPPED, detector).double().eval()
    showers = sparse_showers(detector, 5)
    fit(model, showers)
    together = model.log_prob(showers, STREAMS, draws=3)
    assert isinstance(model, CaloFlow)
    deposits = torch.from_numpy(showers.above(0.010).deposits).double()
    single = []
    with torch.no_grad():
        for draw in range(3):
            uniform = torch.from_numpy(STREAMS.child("voxels").uniform(np.arange(5), 21, counters=draw))
            single.append(density(model, deposits + 1e-3 * uniform, torch.from_numpy(showers.incident_energy)))
    assert torch.allclose(together, torch.stack(single).exp().mean(dim=0).log(), rtol=1e-9)
    assert torch.allclose(model.log_prob(showers, STREAMS), single[0], rtol=1e-9)


def test_float32_weights_give_the_likelihood_of_float64_ones() -> None:
    torch.manual_seed(4)
    model = build_model("caloflow", DROPPED, load_detector("calogan")).eval()
    showers = geant4_showers(22)[:20]
    fit(model, showers)
    single = model.log_prob(showers, STREAMS)
    double = model.double().log_prob(showers, STREAMS)
    assert torch.allclose(single, double, rtol=3e-5, atol=0.05)


def test_more_energy_than_the_scale_allows_has_no_density() -> None:
    detector = toy_detector()
    model = build_model("caloflow", DROPPED | {"drop_voxel": False}, detector).eval()
    showers = sparse_showers(detector, 3)
    fit(model, showers)
    brighter = Showers(showers.deposits * np.float32(50), showers.incident_energy, 22, detector.readout)
    assert bool(torch.isneginf(model.log_prob(brighter, STREAMS)).any())
    assert bool(torch.isfinite(model.log_prob(showers, STREAMS)).all())


def test_the_dropped_voxels_are_those_on_the_axis() -> None:
    model = build_model("caloflow", DROPPED, load_detector("calogan"))
    assert isinstance(model, CaloFlow)
    assert model.shares.dropped is not None
    centres = load_detector("calogan").readout.centres()
    dropped = centres[model.shares.dropped.dropped.numpy()]
    assert np.hypot(dropped[:, 0], dropped[:, 1]).tolist() == pytest.approx(
        [2.5, math.hypot(20, 20), math.hypot(20, 40)]
    )
    # Bright ones, so that what the others leave is well determined.
    deposits = geant4_showers(22).deposits
    assert (
        deposits[:, model.shares.dropped.dropped[:2].numpy()] > 10 * deposits.mean(axis=1, keepdims=True)
    ).mean() > 0.8
    assert model.shapes.features == 501


def test_a_dropped_voxel_needs_energies_that_are_sums_of_the_noisy_voxels() -> None:
    with pytest.raises(ConfigError, match="'drop_voxel' needs"):
        build_model("caloflow", DROPPED | {"energy_noise_per": "layer"}, toy_detector())


def test_other_readouts_and_no_draws_are_refused() -> None:
    model = build_model("caloflow", DROPPED, toy_detector())
    with pytest.raises(UsageError, match="readout of 'toy'"):
        model.log_prob(geant4_showers(22), STREAMS)
    with pytest.raises(UsageError, match="at least one draw"):
        model.log_prob(sparse_showers(toy_detector(), 2), STREAMS, draws=0)


def test_no_showers_have_no_likelihoods() -> None:
    model = build_model("caloflow", DROPPED, toy_detector())
    assert model.log_prob(sparse_showers(toy_detector(), 2)[:0], STREAMS).shape == (0,)
