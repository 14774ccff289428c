"""CaloFlow: published sizes, noise and post-processing on real showers, any detector."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, fit, geant4_showers, sparse_showers, toy_detector, training_batch
from torch import Tensor

from caloforge.detectors import detector_from_toml, load_detector
from caloforge.errors import ConfigError, ShowerFileError
from caloforge.models import Conditions, build_model, load_preset
from caloforge.parts.flows import FlowStage
from caloforge.random import Streams
from caloforge.representation import EnergyFractions, LayerSums, Logit
from caloforge.showers import Showers
from caloforge.stage import GradientStage, TrainingConfig
from caloforge.zoo.caloflow import CaloFlow

STREAMS = Streams(11, "test")
SMALL: dict[str, Any] = {
    "energies": {"blocks": 2, "hidden_features": 12},
    "shapes": {"blocks": 2, "hidden_features": 16},
}
PARTICLES = [22, -11, 211]
#: Published presets and the particle of each.
PRESETS = [("caloflow-calogan-gamma", 22), ("caloflow-calogan-eplus", -11), ("caloflow-calogan-piplus", 211)]


def small(detector: str = "calogan", **changes: Any) -> CaloFlow:
    torch.manual_seed(2)
    model = build_model("caloflow", SMALL | changes, load_detector(detector))
    assert isinstance(model, CaloFlow)
    return model.eval()


def sent_through_noise(model: CaloFlow, showers: Showers) -> tuple[Tensor, Tensor]:
    """Shares and noisy layer energies of showers, as the flows learn them."""
    deposits, rows = torch.from_numpy(showers.deposits), torch.arange(len(showers))
    noisy = model.dequantisation(deposits, STREAMS, rows, 0, torch.float64)
    return noisy.voxels / model.shares.sums.spread(model.shares.sums(noisy.voxels)), noisy.energies


@pytest.mark.parametrize(
    ("preset", "energies", "total"),
    [
        ("caloflow-calogan-gamma", 79_134, 37_914_414),
        ("caloflow-calogan-eplus", 79_134, 37_914_414),
        ("caloflow-calogan-piplus", 79_134, 37_914_414),
        ("caloflow-ds1-photons", None, 28_043_810),
        ("caloflow-ds1-pions", None, 57_079_326),
    ],
)
def test_published_sizes(preset: str, energies: int | None, total: int) -> None:
    chosen = load_preset(preset)
    assert chosen.detector is not None
    model = chosen.build(load_detector(chosen.detector))
    assert isinstance(model, CaloFlow)
    assert model.parameter_count() == total
    if energies is not None:
        assert sum(p.numel() for p in model.energies.parameters()) == energies


def test_published_constants() -> None:
    model = load_preset("caloflow-calogan-gamma", ["model.shapes.hidden_features=4"]).build(load_detector("calogan"))
    assert isinstance(model, CaloFlow)
    incident = torch.tensor([1e3, 1e5], dtype=torch.float64)
    layers = torch.tensor([[0.0, 1e5, 1e3]] * 2, dtype=torch.float64)
    context = model.energy_conditions(incident, layers)
    assert context[:, 0].tolist() == pytest.approx([-1.0, 1.0])
    expected = [np.log10((energy + 1e-3) / 1e5) + 2 for energy in (0.0, 1e5, 1e3)]
    assert context[0, 1:].tolist() == pytest.approx(expected)
    assert (model.dequantisation.cut, model.config.noise, model.config.alpha) == (0.010, 0.001, 1e-6)


def test_constants_of_dataset_1() -> None:
    model = load_preset("caloflow-ds1-pions", ["model.shapes.hidden_features=4"]).build(load_detector("ds1-pions"))
    assert isinstance(model, CaloFlow)
    energy = 1e4
    context = model.energy_conditions(torch.tensor([energy]), torch.full((1, 7), energy))
    assert float(context[0, 0]) == pytest.approx(np.log10(3 * energy / 1e5))
    assert float(context[0, 1]) == pytest.approx(np.log10(energy / 1e5 + 1e-8) - 1)
    assert (model.config.energy_scale, model.config.energy_noise_per) == (6.93, "voxel")
    assert (model.config.noise, model.config.energy_noise, model.dequantisation.cut) == (1e-3, 1e-4, 0.01)


@torch.no_grad()
def test_pions_of_dataset_1_have_a_tenth_of_the_noise_in_flow_one_alone() -> None:
    """Mutation: let ``noisy_energies`` sum the voxels of Flow II, or Flow II see the energies of Flow I."""
    model = small(energy_noise_per="voxel", noise=1e-3, energy_noise=1e-4, cut_first=False)
    deposits, rows = torch.from_numpy(geant4_showers(211).deposits), torch.arange(len(geant4_showers(211)))
    true = LayerSums(model.detector.readout.layer_sizes)(deposits.double())
    noisy = model.dequantisation(deposits, STREAMS, rows, 0, torch.float64)
    sizes = torch.tensor([288.0, 144.0, 72.0], dtype=torch.float64)
    assert torch.allclose((noisy.energies - true).mean(dim=0), 0.5e-4 * sizes, rtol=0.02)
    assert torch.allclose((model.seen_energies(noisy) - true).mean(dim=0), 0.5e-3 * sizes, rtol=0.02)
    assert torch.allclose(model.dequantisation.energy_shift, 0.5e-4 * sizes)


class TestPostprocessing:
    @pytest.mark.parametrize("particle", PARTICLES)
    def test_real_showers_come_back_unchanged_above_the_threshold(self, particle: int) -> None:
        showers = geant4_showers(particle)
        model = small()
        made = model.shares.deposits(*sent_through_noise(model, showers)).numpy()
        expected = showers.above(0.010).deposits
        assert np.array_equal(made > 0, expected > 0)
        # What is left is half a keV of noise, and its share of the layer in a faint layer.
        np.testing.assert_allclose(made, expected, rtol=1e-4 if particle == 22 else 2e-4, atol=0.006)
        assert np.abs(made - expected)[expected > 0].mean() < 4e-4
        assert made[made > 0].min() >= 0.010

    @pytest.mark.parametrize("particle", PARTICLES)
    def test_layer_energies_are_exact_after_the_threshold(self, particle: int) -> None:
        showers = geant4_showers(particle)
        model = small()
        shares, energies = sent_through_noise(model, showers)
        made = model.shares.sums(model.shares.deposits(shares, energies))
        # The energies that Flow I gives, less the mean of the noise; empty below the threshold.
        given = energies - 0.5e-3
        assert torch.allclose(made, torch.where(given > 0.0095, given, torch.zeros_like(given)), rtol=1e-9, atol=1e-3)
        clear = given > 0.011
        assert torch.allclose(made[clear], given[clear], rtol=1e-12, atol=0)
        true = model.shares.sums(torch.from_numpy(showers.above(0.010).deposits).double())
        assert float((made - true).abs().max()) <= 0.51e-3

    @pytest.mark.parametrize("particle", PARTICLES)
    def test_the_same_layers_are_empty_as_in_geant4(self, particle: int) -> None:
        showers = geant4_showers(particle)
        model = small()
        made = model.shares.sums(model.shares.deposits(*sent_through_noise(model, showers)))
        true = model.shares.sums(torch.from_numpy(showers.above(0.010).deposits))
        assert bool((true == 0).any())
        assert torch.equal(made == 0, true == 0)

    def test_published_one_lights_empty_layers_and_loses_energy_at_the_threshold(self) -> None:
        showers = geant4_showers(211)
        model = small(postprocessing="renormalise", energy_noise_per="voxel", cut_first=False)
        shares, energies = sent_through_noise(model, showers)
        true = torch.from_numpy(showers.deposits).double()
        # 288, 144 and 72 voxels with half a keV each
        shift = (energies - model.shares.sums(true)).mean(dim=0)
        assert shift.tolist() == pytest.approx([0.144, 0.072, 0.036], rel=0.02)
        made = model.shares.deposits(shares, energies)
        assert bool((model.shares.sums(made) <= energies * (1 + 1e-12)).all())
        assert float(model.shares.sums(made).sum()) < float(energies.sum())
        assert float(made[made > 0].min()) >= 0.010

    def test_published_one_is_the_formula_of_its_code(self) -> None:
        model = small(postprocessing="renormalise")
        generator = torch.Generator().manual_seed(0)
        shares = torch.rand(3, 504, generator=generator, dtype=torch.float64) * 0.1 - 1e-6
        energies = torch.rand(3, 3, generator=generator, dtype=torch.float64) * 3
        made = model.shares.deposits(shares, energies)
        for layer, where in enumerate(load_detector("calogan").readout.layer_slices):
            part = shares[:, where] / shares[:, where].abs().sum(dim=1, keepdim=True) * energies[:, layer : layer + 1]
            expected = torch.where(part < 0.01, torch.zeros_like(part), part)
            assert torch.allclose(made[:, where], expected, rtol=1e-12, atol=1e-15)

    def test_what_the_default_learns_has_no_energy_below_the_threshold(self) -> None:
        model = small()
        deposits = torch.tensor([[0.0, 0.0099, 0.01, 5.0]])
        assert model.dequantisation.visible(deposits)[0].tolist() == pytest.approx([0.0, 0.0, 0.01, 5.0])
        assert torch.equal(small(cut_first=False).dequantisation.visible(deposits), deposits)

    def test_a_detector_without_threshold_still_gets_empty_voxels(self) -> None:
        model = build_model("caloflow", SMALL, toy_detector((2, 2), (2, 1), threshold=0.0))
        assert isinstance(model, CaloFlow)
        showers = Showers(
            np.array([[5.0, 0.0, 0.02, 0.0, 0.0, 0.0]], dtype=np.float32), np.array([10.0]), 22, model.detector.readout
        )
        made = model.shares.deposits(*sent_through_noise(model, showers))
        assert (made[0] > 0).tolist() == [True, False, True, False, False, False]


class TestSampling:
    def test_energy_is_conserved_exactly_with_scale_one(self) -> None:
        model = small(energy_scale=1.0)
        fit(model, geant4_showers(22))
        conditions = Conditions.first(np.geomspace(1e3, 1e5, 300), 22)
        made, valid = model.decode(conditions, model.latents(conditions, STREAMS))
        assert valid.all()
        assert (made.total_energy() <= made.incident_energy * (1 + 1e-6)).all()

    def test_energies_of_flow_one_are_the_layer_energies_of_the_shower(self) -> None:
        model = small(energy_scale=1.0)
        fit(model, geant4_showers(22))
        conditions = Conditions.first(np.geomspace(1e3, 1e5, 50), 22)
        latents = model.latents(conditions, STREAMS)
        made, _ = model.decode(conditions, latents)
        assert isinstance(made, Showers)
        incident = torch.from_numpy(conditions.incident_energy)
        logits, _ = model.energies.flow.inverse(latents["energies"], model.energy_conditions.incident(incident).float())
        wanted, _ = EnergyFractions().inverse(Logit(1e-6).restore(logits.double()), incident)
        np.testing.assert_allclose(made.layer_energies(), (wanted - 0.5e-3).numpy(), rtol=1e-6, atol=1e-3)

    @pytest.mark.parametrize("size", [1e2, 1e5, 1e30, float("inf"), float("nan")])
    @pytest.mark.parametrize("postprocessing", ["exact", "renormalise", "multiply"])
    def test_extreme_latents_give_finite_showers_or_invalid_ones(self, size: float, postprocessing: str) -> None:
        model = small(energy_scale=1.0, postprocessing=postprocessing)
        fit(model, geant4_showers(22))
        conditions = Conditions.first(np.full(4, 5e4), 22)
        latents = model.latents(conditions, STREAMS)
        latents["energies"][0, 1] = size
        latents["shapes"][1, 100] = -size
        latents["shapes"][2, :] = -size
        made, valid = model.decode(conditions, latents)
        made.check_values()
        assert valid[3]
        if np.isnan(size):  # what is no number must not pass for an empty layer
            assert not valid[:3].any()
        assert (made.total_energy()[~valid] == 0).all()
        if postprocessing != "multiply":  # whose shares may add up to more than one
            assert (made.total_energy() <= 5e4 * (1 + 1e-6)).all()

    @pytest.mark.parametrize("postprocessing", ["exact", "renormalise", "multiply"])
    def test_an_untrained_scale_makes_showers_invalid_rather_than_wrong(self, postprocessing: str) -> None:
        conditions = Conditions.first(np.full(3, 5e4), 22)
        model = small(postprocessing=postprocessing)
        made, valid = model.decode(conditions, model.latents(conditions, STREAMS))
        assert not valid.any()
        assert made.total_energy().sum() == 0


class TestTraining:
    def test_the_scale_is_fitted_over_all_blocks_and_stored(self) -> None:
        model = build_model("caloflow", SMALL, toy_detector())
        assert isinstance(model, CaloFlow)
        showers = sparse_showers(toy_detector(), 35)
        fit(model, showers)
        largest = (showers.above(0.010).total_energy() / showers.incident_energy).max()
        assert float(model.state_dict()["energies.representation.scale.value"]) == pytest.approx(1.01 * largest)
        assert model.describe_representation()["energies"][0]["fitted"] is True

    @pytest.mark.parametrize(("preset", "particle"), PRESETS)
    def test_the_published_presets_clamp_what_lies_above_their_scale(self, preset: str, particle: int) -> None:
        """Mutation: leave ``clamps`` out; a published training of positrons then stops at the first annihilation."""
        settings = load_preset(preset).settings() | SMALL
        model = build_model("caloflow", settings, load_detector("calogan"))
        assert isinstance(model, CaloFlow)
        showers = geant4_showers(particle)
        showers.deposits[0] *= 1.1 * showers.incident_energy[0] / showers.total_energy()[0]
        fit(model, showers)
        assert (model.config.energy_scale, model.config.extra_energy) == (1.0, 0.0)
        assert float(model.state_dict()["energies.representation.scale.value"]) == 1.0
        energies, shapes = model.training_stages(TrainingConfig())[1:]
        assert isinstance(energies, FlowStage)
        y, _ = energies.variables(training_batch(showers), STREAMS)
        assert float(y[0, 0]) == pytest.approx(Logit(1e-6).reach)
        assert isinstance(shapes, FlowStage)
        for stage in (energies, shapes):
            assert bool(stage.loss("main", training_batch(showers), STREAMS)["loss"].isfinite())
        improved = build_model("caloflow", settings | {"above_scale": "error"}, model.detector)
        with pytest.raises(ShowerFileError, match="more than the model's energy scale"):
            fit(improved, showers)

    def test_showers_above_a_given_scale_stop_the_training(self) -> None:
        model = small(energy_scale=0.5)
        stage = model.training_stages(TrainingConfig())[0]
        with pytest.raises(ShowerFileError, match="more than the model's energy scale"):
            stage.fit(Rows(geant4_showers(22)), STREAMS)  # type: ignore[attr-defined]

    def test_a_few_steps_lower_both_losses(self) -> None:
        detector = toy_detector()
        model = build_model("caloflow", SMALL, detector)
        showers = sparse_showers(detector, 200)
        fit(model, showers)
        for stage in model.training_stages(TrainingConfig())[1:]:
            optimiser = torch.optim.Adam(stage.players[0].parameters, 1e-2)
            losses = []
            for epoch in range(15):
                loss = stage.loss("main", training_batch(showers, epoch), STREAMS)["loss"]
                optimiser.zero_grad()
                loss.backward()
                optimiser.step()
                losses.append(float(loss.detach()))
            assert losses[-1] < losses[0] - 5

    @torch.no_grad()
    @pytest.mark.parametrize("changes", [{}, {"energy_noise_per": "voxel"}], ids=["layer", "voxel"])
    def test_loss_is_the_negative_log_density_without_the_jacobians(self, changes: dict[str, Any]) -> None:
        """Written out once more, with the noise of each row from its stream."""
        model = small(energy_scale=1.0, **changes).double()
        showers = geant4_showers(22)[:6]
        fit(model, showers)
        batch = training_batch(showers, epoch=2)
        energies, shapes = (stage for stage in model.training_stages(TrainingConfig())[1:])
        assert isinstance(energies, GradientStage)
        assert isinstance(shapes, GradientStage)
        deposits = torch.where(batch.deposits >= 0.010, batch.deposits, torch.zeros_like(batch.deposits)).double()
        sums = LayerSums(showers.readout.layer_sizes)

        def uniform(purpose: str, size: int) -> Tensor:
            return torch.from_numpy(STREAMS.child(purpose).uniform(batch.row.numpy(), size, counters=2))

        noisy = deposits + 1e-3 * uniform("voxels", 504)
        learnt = sums(noisy) if changes else sums(deposits) + 1e-3 * uniform("layers", 3)
        u, _ = EnergyFractions()(learnt, batch.incident_energy)
        incident = torch.log10(batch.incident_energy / 1e4)[:, None]
        expected = -model.energies.flow.log_prob(Logit(1e-6)(u)[0], incident).mean()
        assert float(energies.loss("main", batch, STREAMS)["loss"]) == pytest.approx(float(expected), rel=1e-9)
        logits, _ = Logit(1e-6)(noisy / sums.spread(sums(noisy)))
        context = torch.cat([incident, torch.log10((learnt + 1e-3) / 1e3)], dim=1)
        expected = -model.shapes.log_prob(logits, context).mean()
        assert float(shapes.loss("main", batch, STREAMS)["loss"]) == pytest.approx(float(expected), rel=1e-9)


class TestAnyDetector:
    def test_a_layer_with_a_single_voxel_is_not_learnt_but_filled(self) -> None:
        detector = toy_detector((2, 2), (1, 1), (3, 1))
        model = build_model("caloflow", SMALL, detector)
        assert isinstance(model, CaloFlow)
        assert model.shapes.features == 7
        fit(model, sparse_showers(detector, 30))
        conditions = Conditions.first(np.full(20, 5e4), 22)
        made, _ = model.decode(conditions, model.latents(conditions, STREAMS))
        assert isinstance(made, Showers)
        np.testing.assert_allclose(made.deposits[:, 4], made.layer_energies()[:, 1], rtol=1e-6)
        assert (made.deposits[:, 4] > 0).all()

    def test_the_tiny_preset_takes_the_6480_voxels_of_par04(self) -> None:
        detector = load_detector("par04-ds2")
        model = load_preset("caloflow-tiny").build(detector)
        showers = sparse_showers(detector, 4)
        fit(model, showers)
        for stage in model.training_stages(TrainingConfig())[1:]:
            loss = stage.loss("main", training_batch(showers), STREAMS)["loss"]
            loss.backward()
            assert bool(torch.isfinite(loss))
        conditions = Conditions.first(np.full(2, 5e4), 22)
        made, valid = model.decode(conditions, model.latents(conditions, STREAMS))
        assert valid.all()
        assert isinstance(made, Showers)
        assert made.deposits.shape == (2, 6480)

    def test_points_are_refused(self) -> None:
        with pytest.raises(ConfigError, match="read out as points"):
            build_model("caloflow", SMALL, load_detector("ild-ecal/points"))

    def test_a_detector_of_single_voxels_has_no_shapes_to_learn(self) -> None:
        with pytest.raises(ConfigError, match="needs a layer with several of them, 'toy' has none"):
            build_model("caloflow", SMALL, toy_detector((1, 1), (1, 1)))

    def test_a_detector_without_gun_needs_a_reference(self) -> None:
        head, _, readout = toy_detector((2, 2)).to_toml().partition("[gun]")
        detector = detector_from_toml(head + readout[readout.index("[[readout") :], where="toy")
        assert detector.gun is None
        with pytest.raises(ConfigError, match="incident_reference"):
            build_model("caloflow", SMALL, detector)
        build_model("caloflow", SMALL | {"incident_reference": 1e4}, detector)
