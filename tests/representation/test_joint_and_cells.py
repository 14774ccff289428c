"""Shares and fractions together, logarithms of both, and logarithms of cells: there and back, Jacobians."""

from __future__ import annotations

import json
import math
from typing import Any

import pytest
import torch
from model_samples import geant4_showers, sparse_showers, toy_detector
from torch import Tensor
from torch.testing import assert_close

from caloforge.detectors import Detector, load_detector
from caloforge.errors import ShowerFileError
from caloforge.random import Streams
from caloforge.representation import (
    CellLogits,
    CellLogs,
    CellScale,
    JointShares,
    LayerSums,
    Logit,
    LogShares,
    VoxelSettings,
    check_share_noise,
    keep_brightest,
    share_noise_width,
)

STREAMS = Streams(9, "joint")
DROPPED: dict[str, Any] = {"drop_voxel": True, "energy_noise_per": "voxel"}
SMALL = toy_detector((2, 2), (1, 1), (3, 1), threshold=0.0)


def full(detector: Detector, rows: int = 5) -> tuple[Tensor, Tensor, Tensor]:
    """Deposits without empty voxels, incident energies, float64, MeV, and row numbers."""
    generator = torch.Generator().manual_seed(1)
    deposits = 20 * torch.rand(rows, detector.readout.n_voxels, generator=generator, dtype=torch.float64) + 0.5
    return deposits, 1.5 * deposits.sum(dim=1), torch.arange(rows)


# ---- shares and fractions


def joint(noise_on: Any = "deposits", detector: Detector = SMALL, **changes: Any) -> JointShares:
    return JointShares(VoxelSettings(energy_scale=1.0, alpha=1e-9, **changes), detector, noise_on=noise_on)


@pytest.mark.parametrize("changes", [{}, DROPPED], ids=["all", "dropped"])
def test_without_noise_joint_variables_come_back_exactly(changes: dict[str, Any]) -> None:
    part = joint(noise=0.0, energy_noise=0.0, cut=0.0, **changes)
    deposits, incident, rows = full(SMALL)
    encoded = part.encode(deposits, incident, STREAMS, rows, 0)
    assert encoded.y.shape == (5, part.features)
    assert part.features == (8 if changes else 7 + 3)
    assert bool(encoded.inside.all())
    assert_close(part.decode(encoded.y, incident), deposits, rtol=1e-7, atol=1e-8)


def test_the_log_determinant_with_a_voxel_left_out_is_one_from_the_deposits() -> None:
    part = joint(**DROPPED)
    deposits, incident, rows = full(SMALL)
    encoded = part.encode(deposits, incident, STREAMS, rows, 3)
    for k in range(len(deposits)):
        one = incident[k : k + 1]

        def variables(x: Tensor, one: Tensor = one, k: int = k) -> Tensor:
            return part.encode(x[None], one, STREAMS, rows[k : k + 1], 3).y[0]

        matrix = torch.autograd.functional.jacobian(variables, deposits[k])
        assert matrix.shape == (8, 8)
        expected = float(torch.linalg.slogdet(matrix).logabsdet)
        assert float(encoded.logdet[k]) == pytest.approx(expected, rel=1e-9)


def test_the_log_determinant_otherwise_is_one_from_shares_and_fractions() -> None:
    part = joint()
    deposits, incident, rows = full(SMALL)
    encoded = part.encode(deposits, incident, STREAMS, rows, 3)
    logit = Logit(1e-9)
    plain = logit.restore(encoded.y)
    for k in range(len(deposits)):
        matrix = torch.autograd.functional.jacobian(lambda x: logit.transform(x[None])[0], plain[k])
        assert float(encoded.logdet[k]) == pytest.approx(float(torch.linalg.slogdet(matrix).logabsdet), rel=1e-6)


def test_a_shower_of_too_much_energy_is_outside() -> None:
    part = joint()
    deposits, incident, rows = full(SMALL)
    incident[1] = deposits[1].sum() * 0.9
    assert part.encode(deposits, incident, STREAMS, rows, 0).inside.tolist() == [True, False, True, True, True]


def test_the_width_of_the_noise_on_shares_is_that_of_the_deposits_over_the_highest_energy() -> None:
    assert share_noise_width(VoxelSettings(noise=2e-3), SMALL) == pytest.approx(2e-3 / 1e5)
    assert joint("shares").shares.share_noise == pytest.approx(1e-8)
    assert joint("deposits").shares.share_noise == 0
    check_share_noise(VoxelSettings(), "shares")
    check_share_noise(VoxelSettings(energy_noise_per="voxel"), "deposits")
    with pytest.raises(ValueError, match="no sums of noisy voxels"):
        check_share_noise(VoxelSettings(energy_noise_per="voxel"), "shares")


# ---- logarithms of shares and fractions


def logs(detector: Detector = SMALL, noise: float = 5e-6) -> LogShares:
    return LogShares(detector, of="layers", noise=noise, alpha=1e-8)


def test_logarithms_come_back_but_for_their_noise() -> None:
    """Shares below the noise's width are lost with it, as in the publication."""
    part = logs()
    deposits, incident, rows = full(SMALL, 20)
    encoded = part.encode(deposits, incident, STREAMS, rows, 1)
    assert encoded.y.shape == (20, 7 + 3)
    back = part.decode(encoded.y, incident)
    assert_close(back, deposits, rtol=2e-4, atol=2e-4)
    faint, incident = deposits.clone(), incident
    faint[:, 0] = 1e-6 * faint[:, :4].sum(dim=1)
    back = part.decode(part.encode(faint, incident, STREAMS, rows, 1).y, incident)
    assert float(back[:, 0].abs().max()) == 0.0


def test_without_noise_worth_the_name_logarithms_come_back_exactly() -> None:
    part = logs(noise=1e-14)
    deposits, incident, rows = full(SMALL)
    back = part.decode(part.encode(deposits, incident, STREAMS, rows, 0).y, incident)
    assert_close(back, deposits, rtol=1e-7, atol=1e-8)


def test_deposits_below_the_threshold_are_taken_as_they_are() -> None:
    """Mutation: cut first, as the other representations do."""
    detector = toy_detector((2, 2), threshold=5.0)
    part = LogShares(detector, of="layers", noise=1e-14, alpha=1e-12)
    deposits = torch.tensor([[1.0, 2.0, 3.0, 20.0]], dtype=torch.float64)
    incident = torch.tensor([100.0], dtype=torch.float64)
    back = part.decode(part.encode(deposits, incident, STREAMS, torch.arange(1), 0).y, incident)
    assert_close(back, deposits, rtol=1e-8, atol=1e-9)


def test_the_log_determinant_of_logarithms_is_that_of_autograd() -> None:
    part = logs()
    deposits, incident, rows = full(SMALL)
    encoded = part.encode(deposits, incident, STREAMS, rows, 1)
    noisy = part.log.restore(encoded.y)
    for k in range(len(deposits)):
        matrix = torch.autograd.functional.jacobian(lambda x: part.log.transform(x[None])[0], noisy[k])
        assert float(encoded.logdet[k]) == pytest.approx(float(torch.linalg.slogdet(matrix).logabsdet), rel=1e-9)


def test_what_is_no_number_does_not_pass_for_an_empty_shower() -> None:
    """Mutation: leave ``unless_finite`` out of ``LogShares.decode``."""
    part = logs()
    y = torch.zeros(3, part.features, dtype=torch.float64) - 3
    y[1, 2] = math.nan
    y[2, -1] = math.nan
    back = part.decode(y, torch.full((3,), 50.0))
    assert torch.isfinite(back).all(dim=1).tolist() == [True, False, False]


# ---- logarithms of cells


def cells(detector: Detector | None = None, layer: int = 0, **changes: Any) -> CellLogs:
    options = {
        key: changes.pop(key, default) for key, default in (("floor", None), ("reference", None), ("decades", 1.0))
    }
    return CellLogs(VoxelSettings(**changes), detector or toy_detector((3, 4), (2, 2)), layer=layer, **options)


def test_cells_come_back_exactly_without_noise() -> None:
    part = cells(noise=0.0, energy_noise=0.0, decades=0.7)
    deposits = full(toy_detector((3, 4)))[0]
    encoded = part.encode(deposits)
    assert bool(encoded.inside.all())
    for energies in (deposits.sum(dim=1, keepdim=True), None):
        assert_close(part.decode(encoded.y, energies), deposits, rtol=1e-9, atol=1e-9)


def test_the_log_determinant_of_cells_is_that_of_autograd() -> None:
    part = cells(decades=0.7, reference=3.0, floor=0.02)
    deposits = full(toy_detector((3, 4)))[0]
    encoded = part.encode(deposits)
    for k in range(len(deposits)):
        matrix = torch.autograd.functional.jacobian(lambda x: part.encode(x[None]).y[0], deposits[k])
        assert float(encoded.logdet[k]) == pytest.approx(float(torch.linalg.slogdet(matrix).logabsdet), rel=1e-9)


@pytest.mark.parametrize("layer", [0, 1, 2])
def test_real_cells_come_back_from_noise_with_the_energy_of_their_layer(layer: int) -> None:
    detector = load_detector("calogan")
    showers = geant4_showers(22).above(0.010)
    where = detector.readout.layer_slices[layer]
    deposits = torch.from_numpy(showers.deposits[:, where]).double()
    generator = torch.Generator().manual_seed(1)
    noise, extra = (
        torch.rand(n, k, generator=generator, dtype=torch.float64) for n, k in (deposits.shape, (len(deposits), 1))
    )
    part = cells(detector, layer)
    energies = deposits.sum(dim=1, keepdim=True) + 1e-3 * extra
    back = part.decode(part.encode(deposits + 1e-3 * noise).y, energies)
    assert float(((back > 0) != (deposits > 0)).double().mean()) < 1e-4
    assert_close(back.sum(dim=1, keepdim=True), deposits.sum(dim=1, keepdim=True), rtol=1e-6, atol=1.1e-3)
    alone = part.decode(part.encode(deposits + 1e-3 * noise).y, None)
    assert float(((alone > 0) != (deposits > 0)).double().mean()) < 1e-4
    assert_close(alone, deposits, rtol=1e-6, atol=1e-3)


def test_floor_and_reference_follow_noise_and_threshold() -> None:
    assert (cells().floor, cells().reference) == (pytest.approx(1e-4), pytest.approx(0.1))
    assert cells(noise=0.0).floor == pytest.approx(1e-4)
    assert (cells(floor=0.5, reference=2.0).floor, cells(floor=0.5, reference=2.0).reference) == (0.5, 2.0)
    y = cells(floor=0.5, reference=2.0, decades=0.5).encode(torch.full((1, 12), 1.5, dtype=torch.float64)).y
    assert_close(y, torch.zeros(1, 12, dtype=torch.float64), rtol=0, atol=1e-12)


def test_the_shift_is_that_of_the_layer() -> None:
    """Mutation: take the shift of the first layer for all."""
    part = cells(layer=1, energy_noise_per="voxel")
    assert part.energy_shift.tolist() == pytest.approx([4 * 0.5e-3])


def test_cells_that_are_no_numbers_do_not_pass_for_empty_ones() -> None:
    part = cells()
    y = torch.zeros(3, 12, dtype=torch.float64)
    y[1, 5] = math.nan
    energies = torch.tensor([[5.0], [5.0], [math.nan]], dtype=torch.float64)
    assert torch.isfinite(part.decode(y, energies)).all(dim=1).tolist() == [True, False, False]
    assert torch.isfinite(part.decode(y, None)).all(dim=1).tolist() == [True, False, True]


def test_descriptions_are_plain_json() -> None:
    for described in (joint().describe(), logs().describe(), cells().describe()):
        assert json.loads(json.dumps(described)) == described
    sums = LayerSums(SMALL.readout.layer_sizes)
    assert joint().describe()["shapes"]["shares"]["layers"] == list(sums.layer_sizes)


def test_noise_is_addressed_by_row_and_counter() -> None:
    detector = toy_detector()
    showers = sparse_showers(detector, 10)
    deposits, incident = torch.from_numpy(showers.deposits), torch.from_numpy(showers.incident_energy)
    for part in (joint("deposits", detector), joint("shares", detector), logs(detector)):
        first = part.encode(deposits, incident, STREAMS, torch.arange(10), 2).y
        assert torch.equal(part.encode(deposits[4:7], incident[4:7], STREAMS, torch.arange(4, 7), 2).y, first[4:7])
        assert not torch.equal(part.encode(deposits, incident, STREAMS, torch.arange(10), 3).y, first)


# ---- cells as published


def logits_of_cells(largest: float = 30.0) -> CellLogits:
    detector = toy_detector((2, 2), (3, 1))
    scale = CellScale(2)
    scale.largest.copy_(torch.tensor([largest, 1.0]))
    return CellLogits(VoxelSettings(), detector, layer=0, scale=scale)


def test_the_log_determinant_of_published_cells_is_that_of_autograd() -> None:
    cells = logits_of_cells()
    deposits = torch.tensor([[0.5, 20.0, 1e-3, 3.0]], dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda d: cells.encode(d[None]).y[0], deposits[0])
    encoded = cells.encode(deposits)
    assert float(encoded.logdet) == pytest.approx(float(torch.linalg.slogdet(jacobian).logabsdet), rel=1e-9)
    assert bool(encoded.inside)
    assert not bool(cells.encode(torch.tensor([[31.0, 0.0, 0.0, 0.0]])).inside)


def test_published_cells_come_back_where_none_is_below_the_threshold() -> None:
    cells = logits_of_cells()
    deposits = torch.tensor([[0.5, 20.0, 0.01, 0.0], [0.0, 0.0, 0.0, 0.0]], dtype=torch.float64)
    made = cells.decode(cells.encode(deposits).y, deposits.sum(dim=1, keepdim=True))
    assert_close(made, deposits, rtol=1e-6, atol=1e-9)
    assert torch.isnan(cells.decode(torch.full((1, 4), math.nan), torch.ones(1, 1))).all()


def test_the_brightest_cells_hold_the_energy_of_the_layer() -> None:
    """Against the words of the program: as many of the brightest as stay above the threshold once they hold all energy."""
    generator = torch.Generator().manual_seed(4)
    cells = torch.rand(50, 6, generator=generator, dtype=torch.float64) ** 8
    energies = 0.3 * torch.rand(50, 1, generator=generator, dtype=torch.float64)
    made = keep_brightest(cells, energies, 0.02)
    for row, energy, found in zip(cells.tolist(), energies.flatten().tolist(), made.tolist(), strict=True):
        order = sorted(range(6), key=lambda k: -row[k])
        expected = [0.0] * 6
        for count in range(6, 0, -1):
            kept = order[:count]
            factor = energy / sum(row[k] for k in kept)
            if min(row[k] for k in kept) * factor >= 0.02:
                for k in kept:
                    expected[k] = row[k] * factor
                break
        assert found == pytest.approx(expected, rel=1e-12)
    assert bool((made.sum(dim=1) == 0).any())


def test_published_cells_describe_themselves_before_they_are_fitted() -> None:
    assert logits_of_cells().describe()["largest_MeV"] == [30.0, 1.0]
    assert json.loads(json.dumps(logits_of_cells(math.nan).describe(), allow_nan=False))["largest_MeV"] is None


def test_a_layer_that_is_always_empty_has_no_largest_cell() -> None:
    detector = toy_detector((2, 2), (3, 1))
    sums = LayerSums(detector.readout.layer_sizes)
    blocks = [torch.tensor([[0.0, 2.0, 0.0, 1.0, 0.5, 0.0, 0.0]]), torch.tensor([[3.0, 0.0, 0.0, 0.0, 0.0, 0.0, 0.0]])]
    assert CellScale(2).fit(blocks, sums)["largest"].tolist() == [3.0, 0.5]
    with pytest.raises(ShowerFileError, match="layer 1 is empty in all training rows"):
        CellScale(2).fit(blocks[1:], sums)
