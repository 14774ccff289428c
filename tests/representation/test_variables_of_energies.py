"""Layer energies as logits of fractions, and energies as conditions."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from model_samples import toy_detector
from torch import Tensor
from torch.testing import assert_close

from caloforge.detectors import Detector, detector_from_toml, load_detector
from caloforge.errors import ConfigError
from caloforge.representation import (
    EnergyConditions,
    EnergyFractions,
    FixedEnergy,
    FractionsKind,
    InductiveConditions,
    LayerEnergies,
    Logit,
    SingleFractions,
    VoxelSettings,
    energy_fractions,
    highest_energy,
    middle_energy,
)

KINDS: list[dict[str, Any]] = [
    {"fractions": "recursive", "scale": 1.2},
    {"fractions": "single", "scale": 1.2},
    {"fractions": "single", "scale": None, "reference": 6.5e4},
    {"fractions": "recursive", "scale": None, "reference": 6.5e4},
]
IDS = ["recursive", "single", "single of 65 GeV", "recursive of 65 GeV"]


def layer_energies(layers: int = 4, **changes: Any) -> LayerEnergies:
    settings: dict[str, Any] = {"fractions": "recursive", "scale": 1.2, "extra_energy": 3.0, "alpha": 1e-6}
    return LayerEnergies(layers, **(settings | changes))


def showers(layers: int = 4, rows: int = 6) -> tuple[Tensor, Tensor]:
    """Layer energies and incident energies, float64, MeV."""
    generator = torch.Generator().manual_seed(2)
    energies = 1e3 * torch.rand(rows, layers, generator=generator, dtype=torch.float64).square() + 1e-3
    return energies, energies.sum(dim=1) * torch.linspace(0.9, 5, rows, dtype=torch.float64)


@pytest.mark.parametrize("changes", KINDS, ids=IDS)
def test_energies_come_back(changes: dict[str, Any]) -> None:
    part = layer_energies(**changes)
    energies, incident = showers()
    encoded = part.encode(energies, incident)
    assert bool(encoded.possible.all())
    assert torch.equal(part.transform(energies, incident), encoded.y)
    assert_close(part.decode(encoded.y, incident), energies, rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize("changes", KINDS, ids=IDS)
def test_log_determinants_are_those_of_autograd(changes: dict[str, Any]) -> None:
    """``logdet`` of the logit alone, for a density of the fractions; with ``volume`` for one of the energies."""
    part = layer_energies(**changes)
    energies, incident = showers()
    encoded = part.encode(energies, incident)
    u, _ = part.fractions(energies, part.scale(incident))
    for k in range(len(energies)):
        one = incident[k : k + 1]
        whole = torch.autograd.functional.jacobian(lambda e, one=one: part.transform(e[None], one)[0], energies[k])
        logit = torch.autograd.functional.jacobian(lambda v: part.logit.transform(v[None])[0], u[k])
        found = float(encoded.logdet[k] + encoded.volume[k])
        assert float(encoded.logdet[k]) == pytest.approx(float(torch.linalg.slogdet(logit).logabsdet), abs=1e-9)
        assert found == pytest.approx(float(torch.linalg.slogdet(whole).logabsdet), abs=1e-8)


@pytest.mark.parametrize("changes", KINDS, ids=IDS)
def test_more_energy_than_there_can_be_is_not_possible(changes: dict[str, Any]) -> None:
    part = layer_energies(**changes)
    energies, incident = showers()
    energies[2] *= 7e4 / energies[2].max()
    encoded = part.encode(energies, incident)
    assert encoded.possible.tolist() == [True, True, False, True, True, True]
    assert bool(torch.isfinite(encoded.y).all())


def test_layers_that_fit_one_by_one_may_be_too_much_together() -> None:
    """Of a fixed energy each layer by itself is a fraction, as published; of the scale all of them together."""
    energies = torch.tensor([[70.0, 60.0], [70.0, 20.0]], dtype=torch.float64)
    incident = torch.full((2,), 100.0, dtype=torch.float64)
    single = layer_energies(2, fractions="single", scale=1.0, extra_energy=0.0)
    assert single.encode(energies, incident).possible.tolist() == [False, True]
    fixed = layer_energies(2, fractions="single", scale=None, reference=100.0)
    assert fixed.encode(energies, incident).possible.tolist() == [True, True]


@pytest.mark.parametrize("fractions", ["recursive", "single"])
def test_no_logits_make_more_energy_than_there_can_be(fractions: FractionsKind) -> None:
    part = layer_energies(fractions=fractions)
    y = 20 * torch.randn(500, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    incident = torch.full((500,), 100.0, dtype=torch.float64)
    energies = part.decode(y, incident)
    assert float(energies.min()) >= 0
    assert float(energies.sum(dim=1).max()) <= (1.2 * 100 + 3) * (1 + 1e-12)


@pytest.mark.parametrize(
    ("wanted", "layers", "kind"),
    [
        ("auto", 10, EnergyFractions),
        ("auto", 11, SingleFractions),
        ("recursive", 45, EnergyFractions),
        ("single", 3, SingleFractions),
    ],
)
def test_few_layers_are_recursive_by_themselves(wanted: FractionsKind, layers: int, kind: type) -> None:
    assert isinstance(energy_fractions(wanted, layers), kind)
    assert layer_energies(layers, fractions=wanted).recursive is (kind is EnergyFractions)


def test_a_fixed_energy_is_no_scale_that_is_fitted() -> None:
    part = layer_energies(scale=None, reference=6.5e4)
    assert isinstance(part.scale, FixedEnergy)
    assert part.scale(torch.tensor([1.0, 2.0])).tolist() == [6.5e4, 6.5e4]
    assert part.state_dict() == {}
    assert part.describe()[0] == {"transform": "fraction of an energy", "reference_MeV": 6.5e4}


def test_descriptions_are_plain_json() -> None:
    detector = toy_detector()
    energies = EnergyConditions(VoxelSettings(), detector)
    inductive = InductiveConditions(energies, 3, kind="logits", reference=6.5e4, alpha=1e-6)
    for described in (layer_energies().describe(), energies.describe(layers=False), inductive.describe()):
        assert json.loads(json.dumps(described)) == described
    assert energies.describe(layers=False).keys() == {"incident"}
    assert inductive.describe()["layers"]["reference_MeV"] == 6.5e4


# ---- conditions


def test_conditions_are_logarithms_over_references() -> None:
    settings = VoxelSettings(incident_reference=1e4, layer_reference=2e3, layer_offset=0.5)
    conditions = EnergyConditions(settings, toy_detector())
    incident, layers = torch.tensor([1e3, 1e5]), torch.tensor([[0.0, 1999.5], [20.0, 199.5]])
    found = conditions(incident, layers)
    expected = [[-1.0, math.log10(0.5 / 2e3), 0.0], [1.0, math.log10(20.5 / 2e3), -1.0]]
    assert_close(found, torch.tensor(expected, dtype=torch.float64), rtol=1e-9, atol=1e-9)
    assert torch.equal(conditions.incident(incident), found[:, :1])


def test_missing_references_are_the_middle_of_the_gun_and_a_tenth_of_it() -> None:
    conditions = EnergyConditions(VoxelSettings(), toy_detector())  # 1 to 100 GeV
    assert middle_energy(toy_detector()) == pytest.approx(1e4)
    assert highest_energy(toy_detector()) == pytest.approx(1e5)
    assert conditions.log_incident.reference == pytest.approx(1e4)
    assert conditions.log_layers.reference == pytest.approx(1e3)


def test_without_a_gun_the_energy_that_is_missing_is_named() -> None:
    gunless: Detector = load_detector("ds1-photons")
    if gunless.gun is not None:
        head, _, readout = toy_detector((2, 2)).to_toml().partition("[gun]")
        gunless = detector_from_toml(head + readout[readout.index("[[readout") :], where="toy")
    with pytest.raises(ConfigError, match="'incident_reference', a typical energy in MeV"):
        EnergyConditions(VoxelSettings(), gunless)
    with pytest.raises(ConfigError, match="'energy_reference', a large energy in MeV"):
        highest_energy(gunless)
    EnergyConditions(VoxelSettings(incident_reference=1e4), gunless)


@pytest.mark.parametrize("kind", ["logarithms", "logits"])
def test_inductive_conditions_are_energies_the_layer_before_and_the_number_of_the_layer(kind: Any) -> None:
    """Written out; published factors are 1/4 for the first layer and none behind it, ours 5 and 1/14."""
    energies = EnergyConditions(VoxelSettings(layer_reference=100.0, layer_offset=1.0), toy_detector())
    conditions = InductiveConditions(energies, 4, kind=kind, reference=6.5e4, alpha=1e-6)
    incident = torch.tensor([2e4, 8e4], dtype=torch.float64)
    layers = torch.tensor([[300.0, 0.0, 5.0, 70.0], [1e3, 2e3, 3e3, 4e3]], dtype=torch.float64)
    before = torch.arange(12, dtype=torch.float64).view(2, 3, 2)
    if kind == "logits":
        learnt = Logit(1e-6).transform(layers / 6.5e4)
        division, factor, scale = 4.0, 1.0, 1.0
    else:
        learnt = torch.log10((layers + 1) / 100)
        division, factor, scale = 1.0, 5.0, 14.0
    log_incident = torch.log10(incident / 1e4)
    assert_close(conditions.first(incident, layers), torch.stack([log_incident, learnt[:, 0] / division], dim=1))
    found = conditions.following(incident, layers, before)
    assert found.shape == (2, 3, conditions.features(2))
    for k in range(3):
        number = torch.eye(3, dtype=torch.float64)[k].expand(2, -1)
        parts = [log_incident[:, None], learnt[:, k + 1 : k + 2], learnt[:, k : k + 1]]
        expected = torch.cat([*(factor * part for part in parts), before[:, k] / scale, factor * number], dim=1)
        assert_close(found[:, k], expected)
        # In generation layers come one by one.
        assert torch.equal(conditions.following(incident, layers, before[:, k : k + 1], k + 1)[:, 0], found[:, k])


def test_an_energy_above_the_reference_is_the_end_of_the_logit_and_not_nan() -> None:
    energies = EnergyConditions(VoxelSettings(), toy_detector())
    conditions = InductiveConditions(energies, 2, kind="logits", reference=100.0, alpha=1e-6)
    incident, layers = torch.tensor([1e4], dtype=torch.float64), torch.tensor([[500.0, -1.0]], dtype=torch.float64)
    assert float(conditions.first(incident, layers)[0, 1]) == pytest.approx(Logit(1e-6).reach / 4)
