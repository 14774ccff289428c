"""CaloINN: published sizes, representation on real showers, both sets of variables, cubic splines."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, fit, geant4_showers, sparse_showers, toy_detector, training_batch

from caloforge.detectors import load_detector
from caloforge.errors import ConfigError, UsageError
from caloforge.models import Conditions, build_model, load_preset
from caloforge.nn.batch_layers import training_step
from caloforge.random import Streams
from caloforge.representation import JointShares, Logit, LogShares
from caloforge.showers import Showers
from caloforge.stage import GradientStage, TrainingConfig, VoxelBatch
from caloforge.zoo.caloinn import CaloINN

STREAMS = Streams(11, "test")
FLOW: dict[str, Any] = {"blocks": 3, "hidden_features": 12, "layers": 2}
LOGARITHMS: dict[str, Any] = {"variables": "logarithms"}


def small(detector: str = "calogan", *, flow: dict[str, Any] | None = None, **changes: Any) -> CaloINN:
    torch.manual_seed(2)
    model = build_model("caloinn", {"flow": FLOW | (flow or {})} | changes, load_detector(detector))
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
    one, two = (load_preset(preset, [f"model.flow.blocks={count}"]).build(detector) for count in (1, 2))
    assert isinstance(one, CaloINN)
    assert one.flow.features == features
    assert type(one).Config.model_validate(load_preset(preset).model).flow.blocks == blocks
    step = two.parameter_count() - one.parameter_count()
    assert one.parameter_count() + (blocks - 1) * step == total


@pytest.mark.parametrize("noise_on", ["shares", "deposits"])
@pytest.mark.parametrize("particle", [22, -11, 211])
def test_real_showers_come_back_from_noise(particle: int, noise_on: str) -> None:
    """What the flow learns, sent straight to the post-processing, gives the showers back."""
    showers = geant4_showers(particle)
    model = small(extra_energy=200.0, noise_on=noise_on)
    fit(model, showers)
    assert isinstance(model.representation, JointShares)
    deposits = torch.from_numpy(showers.deposits).double()
    incident = torch.from_numpy(showers.incident_energy)
    encoded = model.representation.encode(deposits, incident, STREAMS, torch.arange(len(showers)), 0)
    assert bool(encoded.inside.all())
    energies = model.representation.energies.decode(encoded.y[:, 504:], incident)
    made = model.representation.decode(encoded.y, incident).numpy()
    wanted = showers.above(0.010)
    assert np.array_equal(made > 0, wanted.deposits > 0)
    np.testing.assert_allclose(energies, wanted.layer_energies() + 0.5e-3, rtol=1e-6, atol=0.6e-3)
    assert np.abs(made - wanted.deposits)[made > 0].mean() < 1e-3


@torch.no_grad()
@pytest.mark.parametrize(
    ("flow", "changes"),
    [({}, {}), ({"spline": "cubic"}, {}), ({}, LOGARITHMS)],
    ids=["logits", "cubic", "logarithms"],
)
def test_loss_is_the_negative_log_density_without_the_jacobians(flow: dict[str, Any], changes: dict[str, Any]) -> None:
    model = small(flow=flow, **changes).double()
    showers = geant4_showers(22)[:6]
    fit(model, showers)
    stage = model.training_stages(TrainingConfig())[-1]
    assert isinstance(stage, GradientStage)
    loss = float(stage.loss("main", training_batch(showers), STREAMS)["loss"])
    deposits, incident = torch.from_numpy(showers.deposits).double(), torch.from_numpy(showers.incident_energy)
    logdet = model.representation.encode(deposits, incident, STREAMS, torch.arange(6), 0).logdet
    log_prob = model.log_prob(showers, STREAMS)
    assert loss == pytest.approx(float((logdet - log_prob).mean()), rel=1e-9)


def test_too_much_energy_has_no_density() -> None:
    model = small(energy_scale=1.0)
    showers = geant4_showers(22)[:3]
    assert bool(torch.isfinite(model.log_prob(showers, STREAMS)).all())
    bright = Showers(showers.deposits * 3, showers.incident_energy, 22, showers.readout)
    assert bool((model.log_prob(bright, STREAMS) == -np.inf).all())


@pytest.mark.parametrize("changes", [{}, {"spline": "cubic", "permutations": "reverse", "batch_norm": True}])
def test_a_few_steps_lower_the_loss_from_where_the_data_start_it(changes: dict[str, Any]) -> None:
    detector = toy_detector()
    torch.manual_seed(0)
    model = build_model("caloinn", {"flow": FLOW | changes}, detector, aids=[{"kind": "marginal-start"}])
    showers = sparse_showers(detector, 300)
    fit(model, showers)
    stage = model.training_stages(TrainingConfig())[1]
    assert isinstance(stage, GradientStage)
    random = float(stage.validate(training_batch(showers), STREAMS)["loss"].detach())
    with torch.no_grad():
        stage.begin(Rows(showers), STREAMS)
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
@pytest.mark.parametrize("changes", [{}, LOGARITHMS], ids=["logits", "logarithms"])
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
    if np.isnan(size):  # what is no number must not pass for an empty shower
        assert not valid[:3].any()


def test_an_untrained_scale_makes_showers_invalid_rather_than_wrong() -> None:
    """Mutation: leave ``unless_finite`` out of ``VoxelShares.deposits``."""
    conditions = Conditions.first(np.full(3, 5e4), 22)
    model = small()
    made, valid = model.decode(conditions, model.latents(conditions, STREAMS))
    assert not valid.any()
    assert made.total_energy().sum() == 0


@torch.no_grad()
def test_noise_on_shares_says_nothing_about_energies() -> None:
    model = small(energy_scale=1.0)
    showers = geant4_showers(22)[:50].above(0.010)
    assert isinstance(model.representation, JointShares)
    y, *_ = model.representation.encode(
        torch.from_numpy(showers.deposits), torch.from_numpy(showers.incident_energy), STREAMS, torch.arange(50), 0
    )
    assert model.representation.shares.share_noise == pytest.approx(1e-3 / 1e5)
    empty = torch.from_numpy(showers.deposits == 0)
    shares = Logit(1e-9).restore(y[:, :504])
    assert float(shares[empty].max()) <= 1e-8
    assert float(shares[~empty].min()) > 5e-8


def test_logarithms_have_relative_noise() -> None:
    model = small(**LOGARITHMS).double()
    showers = geant4_showers(22)[:20]
    fit(model, showers)
    y, *_ = model.representation.encode(
        torch.from_numpy(showers.deposits), torch.from_numpy(showers.incident_energy), STREAMS, torch.arange(20), 0
    )
    shares = torch.exp(y[:, :504]) - 1e-8
    wanted = showers.deposits / np.repeat(showers.layer_energies() + 1e-16, [288, 144, 72], axis=1)
    extra = shares.numpy() - wanted
    assert extra.min() > -1e-7
    assert extra.max() < 5e-6 + 1e-7
    assert extra.mean() == pytest.approx(2.5e-6, rel=0.05)
    assert model.describe_representation()["noise"]["width_relative"] == 5e-6


def test_the_published_profile_takes_logarithms() -> None:
    """Of all shares and fractions, and the deposits as the file has them."""
    model = build_model("caloinn", {"flow": FLOW}, load_detector("calogan"), profile="published")
    assert isinstance(model, CaloINN)
    assert isinstance(model.representation, LogShares)
    assert model.representation.margin.alpha == 1e-8
    assert model.flow.features == 507
    assert [stage.name for stage in model.training_stages(TrainingConfig())] == ["flow"]


@pytest.mark.parametrize(
    ("preset", "energy", "expected"),
    [
        ("caloinn-ds1-pions", [256.0, 4_194_304.0], [np.log2(0.256), np.log2(4194.304)]),
        ("caloinn-par04-ds2", [1e3, 1e6], [0.0, np.log2(1000)]),
        ("caloinn-calogan", [1e3, 1e5], [0.0, np.log(100)]),
    ],
)
def test_published_condition(preset: str, energy: list[float], expected: list[float]) -> None:
    """log2(E / GeV), and for CaloGAN ln(E / GeV); typed from the authors' programs."""
    chosen = load_preset(preset, ["model.flow.hidden_features=2", "model.flow.blocks=1"])
    model = chosen.build(load_detector(chosen.detector or ""))
    assert isinstance(model, CaloINN)
    found = model.energy_conditions.incident(torch.tensor(energy, dtype=torch.float64))
    assert found.flatten().tolist() == pytest.approx(expected, abs=1e-12)
    assert model.described_profile() == "published"


def test_published_intervals_of_the_splines() -> None:
    """18 in the card of the pions, 20 in the examples; log 1e-8 lies outside 18, which only whole events allow."""
    bounds = {
        name: load_preset(f"caloinn-{name}").model["flow"]["bound"] for name in ("ds1-pions", "ds1-photons", "calogan")
    }
    assert bounds == {"ds1-pions": 18.0, "ds1-photons": 20.0, "calogan": 20.0}
    settings = {"flow": FLOW | {"bound": 18.0}} | LOGARITHMS
    build_model("caloinn", settings | {"outside": "event"}, toy_detector())
    with pytest.raises(ConfigError, match="learn nothing"):
        build_model("caloinn", settings, toy_detector())


def test_the_first_fraction_is_not_scaled() -> None:
    """Mutation: divide it by the largest of the training data; showers of data set 1 hold more than came in."""
    model = small(**LOGARITHMS).double()
    showers = geant4_showers(22)[:5]
    deposits = torch.from_numpy(showers.deposits).double() * 3
    incident = torch.from_numpy(showers.incident_energy)
    y = model.representation.encode(deposits, incident, STREAMS, torch.arange(5), 0).y
    fraction = torch.exp(y[:, 504]) - 1e-8
    wanted = deposits.sum(dim=1) / incident
    assert float(wanted.min()) > 2
    assert torch.allclose(fraction, wanted, atol=1e-5)
    made = model.representation.decode(y, incident)
    assert torch.allclose(made.sum(dim=1), deposits.sum(dim=1), rtol=1e-4)


def test_shares_of_the_whole_shower_come_back() -> None:
    """As the authors' program has them for CaloGAN: 504 shares, and what is deposited over what came in."""
    preset = load_preset("caloinn-calogan", ["model.flow.hidden_features=2", "model.flow.blocks=1"])
    model = preset.build(load_detector("calogan"))
    assert isinstance(model, CaloINN)
    assert isinstance(model.representation, LogShares)
    assert (model.flow.features, model.representation.width, model.representation.log.alpha) == (505, 8e-7, 2e-7)
    assert (model.config.flow.bound, model.config.flow.spline, model.config.flow.dropout) == (20.0, "cubic", 0.05)
    training = preset.training.for_stage("flow")
    assert (training.optimiser.weight_decay, training.optimiser.eps, training.selection) == (0.0, 1e-6, "last")
    assert (preset.training.validation_fraction, training.epochs, training.batch_size) == (0.2, 50, 512)
    showers = geant4_showers(-11)[:30]
    deposits, incident = torch.from_numpy(showers.deposits).double(), torch.from_numpy(showers.incident_energy)
    y = model.representation.encode(deposits, incident, STREAMS, torch.arange(30), 0).y
    total = deposits.sum(dim=1)
    noise = torch.from_numpy(STREAMS.child("relative").uniform(np.arange(30), 505, counters=0)) * 8e-7
    expected = torch.log(torch.cat([deposits / total[:, None], (total / incident)[:, None]], dim=1) + noise + 2e-7)
    torch.testing.assert_close(y, expected)
    made = model.representation.decode(y, incident)
    # A deposit comes back within the noise on its share, and its share of the mean of all noise.
    assert float(((made - deposits).abs() / total[:, None]).max()) < 5e-5
    torch.testing.assert_close(made.sum(dim=1), total, rtol=1e-5, atol=0)


def test_showers_that_the_publication_leaves_out_are_not_learnt() -> None:
    """Mutations: learn all rows; weight the loss by all of them."""
    preset = load_preset("caloinn-ds1-pions")
    assert (preset.model["largest_ratio"], preset.model["largest_voxel"]) == (3.5, 6e5)
    assert (preset.training.selection, preset.training.validation_fraction) == ("last", 0.01)
    showers = geant4_showers(211)[:12]
    showers.deposits[2] *= 4 * showers.incident_energy[2] / showers.total_energy()[2]
    showers.deposits[7, 5] = 7e5
    model = small(**LOGARITHMS, largest_ratio=3.5, largest_voxel=6e5).double()
    kept = [k for k in range(12) if k not in (2, 7)]
    stage, plain = (m.training_stages(TrainingConfig())[-1] for m in (model, small(**LOGARITHMS).double()))
    assert isinstance(stage, GradientStage)
    assert isinstance(plain, GradientStage)
    batch = training_batch(showers)
    assert isinstance(batch, VoxelBatch)
    batch = replace(batch, particle=None)  # that of the data
    part = replace(
        batch, deposits=batch.deposits[kept], incident_energy=batch.incident_energy[kept], row=batch.row[kept]
    )
    found, wanted = stage.loss("main", batch, STREAMS), plain.loss("main", part, STREAMS)
    assert found["loss"].item() == pytest.approx(wanted["loss"].item(), rel=1e-12)
    assert float(found["weight"]) == 10.0
    with torch.no_grad():
        stage.begin(Rows(showers), STREAMS)
    none = replace(batch, deposits=batch.deposits[[2]], incident_energy=batch.incident_energy[[2]], row=batch.row[[2]])
    empty = stage.loss("main", none, STREAMS)
    assert (empty["loss"].item(), empty["weight"].item()) == (0.0, 0.0)
    empty["loss"].backward()


def test_showers_that_are_left_out_do_not_disturb_dropout_and_batch_norm() -> None:
    """In a step of the training loop, whose masks belong to rows. Mutation: leave out ``some_rows``."""
    model = small(flow={"dropout": 0.3, "batch_norm": True}, **LOGARITHMS, largest_ratio=3.5).double().train()
    showers = geant4_showers(211)[:12]
    showers.deposits[3] *= 4 * showers.incident_energy[3] / showers.total_energy()[3]
    stage = model.training_stages(TrainingConfig())[-1]
    assert isinstance(stage, GradientStage)
    batch = training_batch(showers)
    with torch.no_grad(), training_step(batch.row, STREAMS, 1):
        assert bool(stage.loss("main", batch, STREAMS)["loss"].isfinite())


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"drop_voxel": True, "noise_on": "deposits"}, "sums of the noisy voxels"),
        ({"energy_noise_per": "voxel"}, "no sums of noisy voxels"),
        (
            {"drop_voxel": True, "noise_on": "deposits", "energy_noise_per": "voxel", "variables": "logarithms"},
            "exclude each other",
        ),
        ({"shares_of": "shower"}, "'shares_of' shower needs"),
        ({"condition": "published", "incident_reference": 1e4}, "'incident_reference' does nothing"),
        ({"flow": FLOW | {"least": 0.09, "bins": 12}}, "do not fit"),
        ({"flow": FLOW | {"spline": "quartic"}}, "rqs"),
    ],
)
def test_impossible_settings_are_refused(changes: dict[str, Any], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_model("caloinn", {"flow": FLOW} | changes, toy_detector())


def test_detectors_that_do_not_suit_are_refused() -> None:
    with pytest.raises(ConfigError, match="read out as points"):
        build_model("caloinn", {"flow": FLOW}, load_detector("ild-ecal/points"))
    with pytest.raises(ConfigError, match="at least two variables"):
        build_model("caloinn", {"flow": FLOW} | LOGARITHMS, toy_detector((1, 1)))
    with pytest.raises(ConfigError, match="needs a layer with several of them, 'toy' has none"):
        build_model("caloinn", {"flow": FLOW}, toy_detector((1, 1)))
    model = small()
    with pytest.raises(UsageError, match="readout"):
        model.log_prob(sparse_showers(toy_detector(), 2), STREAMS)
    with pytest.raises(UsageError, match="at least one draw"):
        model.log_prob(geant4_showers(22)[:2], STREAMS, draws=0)
