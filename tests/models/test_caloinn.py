"""CaloINN: published sizes, preprocessing on real showers, published variant, cubic splines."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, fit, geant4_showers, sparse_showers, toy_detector, training_batch

from caloforge.detectors import load_detector
from caloforge.errors import ConfigError, UsageError
from caloforge.models import Conditions, build_model, load_preset
from caloforge.models.caloinn import CaloINN
from caloforge.random import Streams
from caloforge.showers import Showers
from caloforge.stage import GradientStage, TrainingConfig
from caloforge.transforms import Logit

STREAMS = Streams(11, "test")
SMALL: dict[str, Any] = {"blocks": 3, "hidden_features": 12, "layers": 2}
PUBLISHED: dict[str, Any] = {"preprocessing": "published", "bound": 19.0}


def small(detector: str = "calogan", **changes: Any) -> CaloINN:
    torch.manual_seed(2)
    model = build_model("caloinn", SMALL | changes, load_detector(detector))
    assert isinstance(model, CaloINN)
    return model.eval()


@pytest.mark.parametrize(
    ("preset", "features", "blocks", "total"),
    [
        ("caloinn-ds1-photons", 373, 12, 18_821_350),
        ("caloinn-ds1-pions", 540, 12, 26_592_624),
        ("caloinn-par04-ds2", 6525, 14, 270_999_370),
    ],
)
def test_published_sizes(preset: str, features: int, blocks: int, total: int) -> None:
    detector = load_detector(load_preset(preset).detector or "")
    # All blocks are alike, and every one but the first brings an activation norm: two models say what 14 would have.
    one, two = (load_preset(preset, [f"model.blocks={count}"]).build(detector) for count in (1, 2))
    assert isinstance(one, CaloINN)
    assert one.flow.features == features
    assert type(one).Config.model_validate(load_preset(preset).model).blocks == blocks  # type: ignore[attr-defined]
    step = two.parameter_count() - one.parameter_count()
    assert one.parameter_count() + (blocks - 1) * step == total


@pytest.mark.parametrize("noise_on", ["shares", "deposits"])
@pytest.mark.parametrize("particle", [22, -11, 211])
def test_real_showers_come_back_from_noise(particle: int, noise_on: str) -> None:
    """What the flow learns, sent straight to the post-processing, gives the showers back."""
    showers = geant4_showers(particle)
    model = small(extra_energy=200.0, noise_on=noise_on)
    fit(model, showers)
    deposits = torch.from_numpy(showers.deposits).double()
    incident = torch.from_numpy(showers.incident_energy)
    rows = torch.arange(len(showers))
    seen = model.variables(deposits, incident, rows, 0, STREAMS)
    assert bool(seen.inside.all())
    plain = model.logit.restore(seen.y)
    energies, _ = model.fractions.inverse(plain[:, 504:], model.scale(incident))
    made = model.postprocess(plain[:, :504], energies).numpy()
    wanted = showers.above(0.010)
    assert np.array_equal(made > 0, wanted.deposits > 0)
    np.testing.assert_allclose(energies, wanted.layer_energies() + 0.5e-3, rtol=1e-6, atol=0.6e-3)
    assert np.abs(made - wanted.deposits)[made > 0].mean() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize("changes", [{}, {"spline": "cubic"}, PUBLISHED], ids=["default", "cubic", "published"])
def test_loss_is_the_negative_log_density_without_the_jacobians(changes: dict[str, Any]) -> None:
    model = small(**changes).double()
    showers = geant4_showers(22)[:6]
    fit(model, showers)
    stage = model.stages(TrainingConfig())[1]
    assert isinstance(stage, GradientStage)
    loss = float(stage.loss("main", training_batch(showers), STREAMS)["loss"])
    deposits, incident = torch.from_numpy(showers.deposits).double(), torch.from_numpy(showers.incident_energy)
    logdet = model.variables(deposits, incident, torch.arange(6), 0, STREAMS).logdet
    log_prob = model.log_prob(showers, STREAMS)
    assert loss == pytest.approx(float((logdet - log_prob).mean()), rel=1e-9)


def test_jacobian_of_the_preprocessing_is_the_one_that_autograd_finds() -> None:
    detector = toy_detector((2, 2), (3, 1), threshold=0.0)
    settings = SMALL | {"drop_voxel": True, "noise_on": "deposits", "energy_noise_per": "voxel", "energy_scale": 1.0}
    model = build_model("caloinn", settings, detector).double()
    assert isinstance(model, CaloINN)
    incident = torch.tensor([5e3], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    deposits = 300 * torch.rand(7, generator=generator, dtype=torch.float64)

    def variables(d: torch.Tensor) -> torch.Tensor:
        return model.variables(d[None], incident, torch.tensor([4]), 0, STREAMS).y[0]

    jacobian = torch.autograd.functional.jacobian(variables, deposits)
    _, _, logdet, inside = model.variables(deposits[None], incident, torch.tensor([4]), 0, STREAMS)
    assert bool(inside)
    assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(float(logdet), rel=1e-9)


def test_density_with_energies_apart_has_the_jacobian_that_autograd_finds() -> None:
    """From the deposits to the normal numbers of both flows."""
    detector = toy_detector((2, 2), (3, 1), threshold=0.0)
    settings = SMALL | {"drop_voxel": True, "noise_on": "deposits", "energy_noise_per": "voxel", "energy_scale": 1.0}
    settings |= {
        "energies": {"blocks": 2, "hidden_features": 8},
        "energy_fractions": "single",
        "noise": 0.0,
        "energy_noise": 0.0,
    }
    model = build_model("caloinn", settings, detector).double()
    assert isinstance(model, CaloINN)
    assert model.energies is not None
    incident = torch.tensor([5e3], dtype=torch.float64)
    generator = torch.Generator().manual_seed(1)
    deposits = 300 * torch.rand(7, generator=generator, dtype=torch.float64)

    def normals(d: torch.Tensor) -> torch.Tensor:
        assert model.energies is not None
        seen = model.variables(d[None], incident, torch.tensor([4]), 0, STREAMS)
        part = model.energies
        logits = part.logit.transform(part.fractions(seen.energies, part.scale(incident))[0])
        parts = [model.flow(seen.y, model.context(incident, seen.energies)), part.flow(logits, part.context(incident))]
        return torch.cat([z[0] for z, _ in parts])

    z = normals(deposits).detach()
    jacobian = torch.autograd.functional.jacobian(normals, deposits)
    expected = -0.5 * z.square().sum() - 3.5 * math.log(2 * math.pi) + torch.linalg.slogdet(jacobian).logabsdet
    showers = Showers(deposits[None].numpy(), incident.numpy(), 22, detector.readout)
    found = model._noisy_log_prob(deposits[None], incident, torch.tensor([4]), 0, STREAMS).detach()
    assert float(found) == pytest.approx(float(expected), abs=1e-8)
    assert float(model.log_prob(showers, STREAMS)) == pytest.approx(float(expected), rel=1e-5)  # files hold float32


@pytest.mark.parametrize("energies", [None, {"blocks": 2, "hidden_features": 8}])
def test_too_much_energy_has_no_density(energies: dict[str, int] | None) -> None:
    model = small(energy_scale=1.0, energies=energies)
    showers = geant4_showers(22)[:3]
    assert bool(torch.isfinite(model.log_prob(showers, STREAMS)).all())
    bright = Showers(showers.deposits * 3, showers.incident_energy, 22, showers.readout)
    assert bool((model.log_prob(bright, STREAMS) == -np.inf).all())


@pytest.mark.parametrize("changes", [{}, {"spline": "cubic", "permutations": "reverse", "batch_norm": True}])
def test_a_few_steps_lower_the_loss_from_where_the_data_start_it(changes: dict[str, Any]) -> None:
    detector = toy_detector()
    torch.manual_seed(0)
    model = build_model("caloinn", SMALL | changes, detector)
    showers = sparse_showers(detector, 300)
    fit(model, showers)
    stage = model.stages(TrainingConfig())[1]
    assert isinstance(stage, GradientStage)
    random = float(stage.validate(training_batch(showers), STREAMS)["loss"].detach())
    stage.prepare(Rows(showers), STREAMS)
    optimiser = torch.optim.Adam(stage.players[0].parameters, 2e-3)
    losses = []
    for epoch in range(25):
        loss = stage.loss("main", training_batch(showers, epoch), STREAMS)["loss"]
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    assert losses[0] < random - 5
    assert np.mean(losses[-5:]) < losses[0] - 0.5


@pytest.mark.parametrize("size", [1e2, 1e5, 1e30, float("inf"), float("nan")])
@pytest.mark.parametrize("changes", [{}, PUBLISHED], ids=["default", "published"])
def test_extreme_latents_give_finite_showers_or_invalid_ones(size: float, changes: dict[str, Any]) -> None:
    model = small(energy_scale=1.0, **changes)
    conditions = Conditions.first(np.full(4, 5e4), 22)
    latents = model.latents(conditions, STREAMS)
    latents["flow"][0, 505] = size
    latents["flow"][1, 100] = -size
    latents["flow"][2, :] = -size
    made, valid = model.decode(conditions, latents)
    made.check_values()
    assert valid[3]
    assert (made.total_energy()[~valid] == 0).all()


@torch.no_grad()
def test_noise_on_shares_says_nothing_about_energies() -> None:
    model = small(energy_scale=1.0)
    showers = geant4_showers(22)[:50].above(0.010)
    y, *_ = model.variables(
        torch.from_numpy(showers.deposits), torch.from_numpy(showers.incident_energy), torch.arange(50), 0, STREAMS
    )
    assert model.share_noise == pytest.approx(1e-3 / 1e5)
    empty = torch.from_numpy(showers.deposits == 0)
    shares = model.logit.restore(y[:, :504])
    assert float(shares[empty].max()) <= 1e-8
    assert float(shares[~empty].min()) > 5e-8


def test_published_preprocessing_uses_relative_noise_and_logarithms() -> None:
    model = small(**PUBLISHED).double()
    showers = geant4_showers(22)[:20]
    fit(model, showers)
    y, *_ = model.variables(
        torch.from_numpy(showers.deposits).double(), torch.from_numpy(showers.incident_energy),
        torch.arange(20), 0, STREAMS,
    )  # fmt: skip
    shares = torch.exp(y[:, :504]) - 1e-8
    wanted = showers.deposits / np.repeat(showers.layer_energies() + 1e-16, [288, 144, 72], axis=1)
    extra = shares.numpy() - wanted
    assert extra.min() > -1e-7
    assert extra.max() < 5e-6 + 1e-7
    assert extra.mean() == pytest.approx(2.5e-6, rel=0.05)
    assert "width_relative" in model.transforms()["shapes"][1]


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop_voxel": True, "noise_on": "deposits"}, "sums of the noisy voxels"),
        ({"energy_noise_per": "voxel"}, "no sums of noisy voxels"),
        (
            {"drop_voxel": True, "noise_on": "deposits", "energy_noise_per": "voxel", "preprocessing": "published"},
            "exclude each other",
        ),
        ({"least": 0.09, "bins": 12}, "do not fit"),
        ({"spline": "quartic"}, "rqs"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model("caloinn", SMALL | changes, toy_detector())


def test_detectors_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ConfigError, match="read out as points"):
        build_model("caloinn", SMALL, load_detector("ild-ecal/points"))
    with pytest.raises(ConfigError, match="at least two variables"):
        build_model("caloinn", SMALL, toy_detector((1, 1)))
    model = small()
    with pytest.raises(UsageError, match="readout"):
        model.log_prob(sparse_showers(toy_detector(), 2), STREAMS)
    with pytest.raises(UsageError, match="at least one draw"):
        model.log_prob(geant4_showers(22)[:2], STREAMS, draws=0)


def test_a_margin_that_the_splines_of_the_energies_do_not_reach_is_refused() -> None:
    energies = {"blocks": 1, "hidden_features": 4}
    with pytest.raises(ConfigError, match=r"margin 1e-09 reaches 20.7.*end at 14"):
        small(energies=energies, energy_alpha=1e-9)
    small(energies=energies | {"bound": 21.0}, energy_alpha=1e-9)


@pytest.mark.parametrize(("per", "on"), [("layer", "shares"), ("layer", "deposits"), ("voxel", "deposits")])
def test_energies_apart_learn_those_that_the_flow_is_told(per: str, on: str) -> None:
    model = small(energies={"blocks": 1, "hidden_features": 4}, energy_noise_per=per, noise_on=on)
    deposits, rows = torch.from_numpy(geant4_showers(22)[:20].deposits), torch.arange(20)
    incident = torch.from_numpy(geant4_showers(22)[:20].incident_energy)
    told = model.variables(deposits, incident, rows, 3, STREAMS).energies
    assert torch.equal(model.noisy_energies(deposits, rows, 3, STREAMS), told)


def test_the_description_names_the_margin_of_each_logit() -> None:
    apart = small(energies={"blocks": 1, "hidden_features": 4}).transforms()
    assert apart["energies"][-1] == Logit(1e-6).describe()
    assert apart["shapes"][-1] == Logit(1e-9).describe()
    assert small().transforms()["energies"][-1] == Logit(1e-9).describe()
