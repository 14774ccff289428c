"""Voxels as logits of shares: there and back, Jacobians, one layer as all of them."""

from __future__ import annotations

import json
import math
from typing import Any

import numpy as np
import pytest
import torch
from model_samples import geant4_showers, sparse_showers, toy_detector
from torch import Tensor
from torch.testing import assert_close

from caloforge.detectors import Detector, load_detector
from caloforge.errors import ConfigError
from caloforge.random import Streams
from caloforge.representation import (
    Dequantisation,
    LayerSums,
    Logit,
    PostProcessing,
    VoxelSettings,
    VoxelShares,
    axis_voxels,
    check_noise,
    least_deposit,
    unless_finite,
)

STREAMS = Streams(3, "shares")
BACK: list[PostProcessing] = ["exact", "renormalise", "multiply"]
SUMS_OF_VOXELS: dict[str, Any] = {"energy_noise_per": "voxel"}
BARE: dict[str, Any] = {"noise": 0.0, "energy_noise": 0.0, "cut": 0.0}


def noisy(settings: VoxelSettings, detector: Detector, rows: int = 30) -> tuple[Tensor, Tensor, Tensor]:
    """Deposits behind the threshold, and deposits and layer energies with noise, float64."""
    deposits = torch.from_numpy(sparse_showers(detector, rows).deposits)
    made = Dequantisation(settings, detector)(deposits, STREAMS, torch.arange(rows), 0, torch.float64)
    return made.visible, made.voxels, made.energies


def full(detector: Detector, rows: int = 5) -> Tensor:
    """Deposits without empty voxels, float64, MeV."""
    generator = torch.Generator().manual_seed(1)
    return 20 * torch.rand(rows, detector.readout.n_voxels, generator=generator, dtype=torch.float64) + 0.1


@pytest.mark.parametrize("back", BACK)
@pytest.mark.parametrize("changes", [{}, {"drop_voxel": True} | SUMS_OF_VOXELS], ids=["all", "dropped"])
def test_without_noise_and_threshold_deposits_come_back_exactly(changes: dict[str, Any], back: PostProcessing) -> None:
    detector = toy_detector((2, 4), (1, 1), (3, 3), threshold=0.0)
    settings = VoxelSettings(**BARE, **changes)
    shares = VoxelShares(settings, detector, postprocessing=back)
    deposits = full(detector)
    encoded = shares.encode(deposits)
    assert bool(encoded.inside.all())
    assert_close(shares.decode(encoded.y, LayerSums((8, 1, 9))(deposits)), deposits, rtol=1e-8, atol=1e-9)


@pytest.mark.parametrize("changes", [{}, SUMS_OF_VOXELS, {"drop_voxel": True} | SUMS_OF_VOXELS])
def test_with_noise_the_same_voxels_are_lit_and_layers_keep_their_energy(changes: dict[str, Any]) -> None:
    """On Geant4 showers, where empty and faint layers are."""
    detector = load_detector("calogan")
    settings = VoxelSettings(**changes)
    deposits = torch.from_numpy(geant4_showers(22).above(0.010).deposits)
    made = Dequantisation(settings, detector)(deposits, STREAMS, torch.arange(len(deposits)), 0, torch.float64)
    shares = VoxelShares(settings, detector)
    back = shares.decode(shares.encode(made.voxels).y, made.energies)
    # A voxel that is left out is what the others leave, so its noise is theirs.
    assert float(((back > 0) != (deposits > 0)).double().mean()) < (1e-4 if not changes else 4e-4)
    energies = shares.sums(deposits.double())
    assert float((shares.sums(back) - energies).abs().max()) < (1.1e-3 if not changes else 0.16)


@pytest.mark.parametrize("layers", [(0,), (2,), (0, 2)])
@pytest.mark.parametrize("changes", [{}, {"drop_voxel": True} | SUMS_OF_VOXELS])
def test_some_layers_of_a_detector_are_the_same_as_within_all(layers: tuple[int, ...], changes: dict[str, Any]) -> None:
    """Mutation: take the shift of the energies, or the voxel that is left out, of other layers than those chosen."""
    detector = toy_detector((2, 4), (3, 3), (2, 3))
    settings = VoxelSettings(**changes)
    whole, part = VoxelShares(settings, detector), VoxelShares(settings, detector, layers=layers)
    _, voxels, energies = noisy(settings, detector)
    slices = detector.readout.layer_slices
    chosen = torch.cat([torch.arange(slices[k].start, slices[k].stop) for k in layers])
    starts = np.cumsum([0, *whole.learnt_sizes])
    variables = torch.cat([torch.arange(starts[k], starts[k + 1]) for k in layers])
    assert part.learnt_sizes == tuple(whole.learnt_sizes[k] for k in layers)
    y = whole.encode(voxels).y
    assert torch.equal(part.encode(voxels[:, chosen]).y, y[:, variables])
    assert torch.equal(part.transform(voxels[:, chosen]), whole.transform(voxels)[:, variables])
    alone, within = part.decode(y[:, variables], energies[:, list(layers)]), whole.decode(y, energies)[:, chosen]
    assert_close(alone, within, rtol=1e-12, atol=1e-15)


def test_the_log_determinant_of_all_shares_is_that_of_the_logit() -> None:
    """Shares and layer energies are more variables than deposits, so it is one from the shares."""
    detector = toy_detector((2, 2), (1, 1), (3, 1))
    shares, logit = VoxelShares(VoxelSettings(), detector), Logit(1e-6)
    deposits = full(detector)
    encoded = shares.encode(deposits)
    plain = (deposits / shares.sums.spread(shares.sums(deposits)))[:, [0, 1, 2, 3, 5, 6, 7]]
    for k in range(len(deposits)):
        matrix = torch.autograd.functional.jacobian(lambda x: logit.transform(x[None])[0], plain[k])
        assert float(encoded.logdet[k]) == pytest.approx(float(torch.linalg.slogdet(matrix).logabsdet), abs=1e-9)
    assert torch.equal(encoded.y, shares.transform(deposits))


def test_the_log_determinant_with_a_voxel_left_out_is_one_from_the_deposits() -> None:
    detector = toy_detector((2, 2), (1, 1), (3, 1))
    shares = VoxelShares(VoxelSettings(drop_voxel=True, energy_noise_per="voxel"), detector)
    deposits = full(detector)
    encoded = shares.encode(deposits)

    def square(x: Tensor) -> Tensor:
        return torch.cat([shares.encode(x[None]).y, shares.sums(x[None])], dim=1)[0]

    for k in range(len(deposits)):
        matrix = torch.autograd.functional.jacobian(square, deposits[k])
        assert matrix.shape == (8, 8)
        assert float(encoded.logdet[k]) == pytest.approx(float(torch.linalg.slogdet(matrix).logabsdet), abs=1e-9)


def test_noise_on_the_shares_has_one_width_in_all_layers_and_comes_off() -> None:
    detector = toy_detector()
    settings = VoxelSettings(noise=0.0, energy_noise=0.0)
    width = 1e-4
    shares = VoxelShares(settings, detector, share_noise=width)
    part = Dequantisation(settings.model_copy(update={"noise": 1e-3}), detector)
    visible, _, energies = noisy(settings, detector)
    uniform = part.voxel_noise.draw(STREAMS.child("voxels"), torch.arange(30), 0)
    encoded = shares.encode(visible, uniform)
    assert bool(encoded.inside.all())
    plain = visible / (shares.sums.spread(shares.sums(visible)) + 1e-16)
    assert_close(Logit(1e-6).restore(encoded.y), (plain + width * uniform) / (1 + width), rtol=1e-9, atol=1e-12)
    back = shares.decode(encoded.y, energies)
    # Half a width of the layer's energy is what the noise can hide.
    bright = plain > width + 0.011 / shares.sums.spread(energies).clamp_min(1e-9)
    assert torch.equal((back > 0)[bright], (visible > 0)[bright])
    assert_close(shares.sums(back), shares.sums(visible), rtol=1e-9, atol=0.02)
    mixed = Dequantisation(settings.model_copy(update={"noise": 1e-3}), detector)
    seen = mixed(visible, STREAMS, torch.arange(30), 0, torch.float64)
    assert torch.equal(shares.encode_noisy(seen, mixed, STREAMS, torch.arange(30), 0).y, encoded.y)
    without = VoxelShares(settings, detector)
    assert torch.equal(without.encode_noisy(seen, mixed, STREAMS, torch.arange(30), 0).y, without.encode(seen.voxels).y)


def test_logits_of_all_voxels_are_conditions_of_another_layer() -> None:
    detector = toy_detector((2, 3))
    shares = VoxelShares(VoxelSettings(drop_voxel=True, energy_noise_per="voxel"), detector)
    deposits = full(detector)
    logits = shares.all_logits(deposits)
    assert_close(logits, Logit(1e-6).transform(deposits / deposits.sum(dim=1, keepdim=True)))
    assert torch.equal(logits[:, shares.learnt], shares.encode(deposits).y)


@pytest.mark.parametrize("back", BACK)
def test_what_is_no_number_does_not_pass_for_an_empty_layer(back: PostProcessing) -> None:
    """Mutation: leave out ``unless_finite``; a comparison with NaN is false, and the threshold makes zeros of it."""
    detector = toy_detector((2, 2), (2, 1))
    shares = VoxelShares(VoxelSettings(), detector, postprocessing=back)
    y, energies = torch.zeros(4, 6, dtype=torch.float64), torch.full((4, 2), 5.0, dtype=torch.float64)
    y[1, 3] = math.nan
    energies[2, 1] = math.nan
    energies[3, 0] = math.inf
    finite = torch.isfinite(shares.decode(y, energies)).all(dim=1)
    assert finite.tolist() == [True, False, False, False]


def test_rows_with_a_source_that_is_not_finite_are_nan() -> None:
    deposits = torch.ones(3, 2)
    sources = torch.tensor([[1.0, 2.0], [math.nan, 1.0], [1.0, 1.0]]), torch.tensor([[0.0], [1.0], [-math.inf]])
    made = unless_finite(deposits, *sources)
    assert torch.equal(made[0], deposits[0])
    assert bool(made[1:].isnan().all())


def test_ways_back_are_the_formulas_of_their_papers() -> None:
    """Layers that shares do not fill: scaled by absolute values, or taken as they are; both are cut then."""
    detector = toy_detector((2, 2), threshold=0.5)
    shares = torch.tensor([[0.5, 0.3, -0.1, 0.05]], dtype=torch.float64)
    energies = torch.tensor([[10.0]], dtype=torch.float64)
    renormalised = VoxelShares(VoxelSettings(), detector, postprocessing="renormalise").deposits(shares, energies)
    assert renormalised[0].tolist() == pytest.approx([5 / 0.95, 3 / 0.95, 0.0, 0.5 / 0.95])
    multiplied = VoxelShares(VoxelSettings(), detector, postprocessing="multiply").deposits(shares, energies)
    assert multiplied[0].tolist() == pytest.approx([5.0, 3.0, 0.0, 0.5])
    faint = VoxelShares(VoxelSettings(), detector, postprocessing="multiply").deposits(shares * 9, energies / 40)
    assert float(faint.sum()) == 0.0


def test_a_detector_of_single_voxels_has_no_shares() -> None:
    with pytest.raises(ConfigError, match="needs a layer with several of them, 'toy' has none"):
        VoxelShares(VoxelSettings(), toy_detector((1, 1), (1, 1)))
    with pytest.raises(ConfigError, match="needs a layer with several of them"):
        VoxelShares(VoxelSettings(), toy_detector((2, 2), (1, 1)), layers=[1])


def test_the_voxel_that_is_left_out_lies_nearest_to_the_axis() -> None:
    readout = load_detector("par04-ds2").readout
    centres = np.hypot(*readout.centres()[:, :2].T)
    for where, voxel in zip(readout.layer_slices, axis_voxels(readout), strict=True):
        assert where.start <= voxel < where.stop
        assert centres[voxel] == centres[where].min()


@pytest.mark.parametrize(
    ("settings", "threshold", "least"),
    [
        ({}, 0.010, 0.010),
        ({"cut": 0.5}, 0.010, 0.5),
        ({"noise": 0.02}, 0.010, 0.02),
        ({"noise": 0.0, "cut": 0.0}, 0.010, 1e-6),
    ],
)
def test_no_deposit_is_smaller_than_threshold_and_noise(
    settings: dict[str, Any], threshold: float, least: float
) -> None:
    assert least_deposit(VoxelSettings(**settings), toy_detector((2, 2), threshold=threshold)) == least


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"drop_voxel": True}, "'drop_voxel' needs layer energies that are the sums"),
        ({"drop_voxel": True, "energy_noise_per": "voxel", "noise": 2e-3}, "'drop_voxel' needs"),
    ],
)
def test_noises_that_contradict_each_other_are_refused(settings: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        check_noise(VoxelSettings(**settings))


def test_the_description_is_plain_json() -> None:
    for changes in ({}, {"drop_voxel": True, "energy_noise_per": "voxel"}):
        described = VoxelShares(VoxelSettings(**changes), toy_detector(), share_noise=1e-5).describe()
        assert json.loads(json.dumps(described)) == described
        assert described["back"] == "exact"
        assert described["share_noise"] == 1e-5
    assert "share_noise" not in VoxelShares(VoxelSettings(), toy_detector()).describe()
