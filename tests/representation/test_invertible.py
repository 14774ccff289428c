"""Every transform against its inverse, against the Jacobian that autograd finds, and float32 against float64."""

from __future__ import annotations

import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from caloforge.errors import ConfigError
from caloforge.representation import (
    DequantisationNoise,
    DroppedVoxelNormalisation,
    EnergyFractions,
    LayerNormalisation,
    LayerSums,
    LogEnergy,
    Logit,
    SingleFractions,
)

SIZES = (3, 3, 1, 4)
DROPPED = [1, 3, 6, 9]


def jacobian(function: Callable[[Tensor], Tensor], row: Tensor) -> float:
    """log |det| of a map of one row, by autograd."""
    matrix = torch.autograd.functional.jacobian(lambda x: function(x[None])[0], row)
    return float(torch.linalg.slogdet(matrix).logabsdet)


def deposits(rows: int = 5, seed: int = 0) -> Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(rows, sum(SIZES), generator=generator, dtype=torch.float64) * 50 + 0.01


class TestLogit:
    def test_log_determinant_is_that_of_autograd_in_both_directions(self) -> None:
        logit = Logit(1e-6)
        x = torch.tensor([[1e-9, 1e-4, 0.3, 0.999, 1 - 1e-7]], dtype=torch.float64)
        y, logdet = logit(x)
        back, inverse_logdet = logit.inverse(y)
        assert float(logdet[0]) == pytest.approx(jacobian(lambda v: logit(v)[0], x[0]), abs=1e-9)
        unclamped = jacobian(lambda v: logit.inverse(v, clamp=False)[0], y[0])
        assert float(inverse_logdet[0]) == pytest.approx(unclamped, abs=1e-9)
        assert torch.allclose(back, x, rtol=1e-9, atol=1e-15)
        assert torch.equal(logit.transform(x), y)

    def test_ends_of_the_interval_are_where_the_publication_has_them(self) -> None:
        y = Logit(1e-6).transform(torch.tensor([[0.0, 0.5, 1.0]], dtype=torch.float64))
        assert y[0].tolist() == pytest.approx([-13.815509557935, 0.0, 13.815509557935], abs=1e-9)

    def test_float32_agrees_with_float64_where_voxels_are(self) -> None:
        x = torch.logspace(-9, 0, 400, dtype=torch.float64)[None] * (1 - 1e-5)
        single, double = Logit()(x.float()), Logit()(x)
        # Near 1 the input itself is rounded by 6e-8, which the slope 1/(1 - x) magnifies.
        allowed = 3e-6 + 1.2e-7 / (1 - x[0])
        assert bool(((single[0].double() - double[0])[0].abs() <= allowed).all())

    def test_restoring_extremes_gives_the_ends_and_no_nan(self) -> None:
        y = torch.tensor([[-1e30, -200.0, -13.9, 13.9, 200.0, 1e30]])
        assert Logit().restore(y).tolist() == [[0.0, 0.0, 0.0, 1.0, 1.0, 1.0]]
        assert float(Logit().restore(y, clamp=False).min()) == pytest.approx(-1e-6, rel=1e-3)

    def test_a_margin_of_half_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="alpha"):
            Logit(0.5)


class TestLayerNormalisation:
    def test_jacobian_at_fixed_layer_energies(self) -> None:
        transform = LayerNormalisation(SIZES)
        d = deposits()
        energies = transform.sums(d) * 1.1
        shares, logdet = transform(d, energies)
        back, inverse_logdet = transform.inverse(shares, energies)
        assert torch.allclose(back, d, rtol=1e-13, atol=0)
        assert torch.allclose(logdet, -inverse_logdet)
        for k in range(len(d)):
            fixed = energies[k : k + 1]
            expected = jacobian(lambda v, fixed=fixed: transform(v, fixed)[0], d[k])
            assert float(logdet[k]) == pytest.approx(expected, abs=1e-10)

    def test_shares_of_every_layer_add_up_to_one(self) -> None:
        transform = LayerNormalisation(SIZES)
        shares = transform.transform(deposits(), transform.sums(deposits()))
        assert torch.allclose(transform.sums(shares), torch.ones(5, len(SIZES), dtype=torch.float64), atol=1e-14)

    def test_an_exactly_empty_layer_has_no_shares_and_no_nan(self) -> None:
        transform = LayerNormalisation((2, 2))
        d = torch.tensor([[0.0, 0.0, 3.0, 1.0]])
        assert transform.transform(d, transform.sums(d)).tolist() == [[0.0, 0.0, 0.75, 0.25]]

    @given(st.lists(st.integers(1, 5), min_size=1, max_size=8))
    @settings(max_examples=40, deadline=None)
    def test_sums_and_spread_against_a_loop(self, sizes: list[int]) -> None:
        sums = LayerSums(sizes)
        values = torch.randn(3, sum(sizes), dtype=torch.float64)
        expected = torch.stack([part.sum(dim=1) for part in values.split(sizes, dim=1)], dim=1)
        assert torch.allclose(sums(values), expected)
        assert torch.equal(sums.spread(expected), torch.repeat_interleave(expected, torch.tensor(sizes), dim=1))

    def test_a_layer_without_voxels_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="at least one voxel"):
            LayerSums([3, 0])


class TestDroppedVoxel:
    def test_square_map_has_the_jacobian_of_autograd_and_inverts(self) -> None:
        transform = DroppedVoxelNormalisation(SIZES, DROPPED)
        d = deposits()
        shares, energies, logdet = transform(d)
        assert shares.shape == (5, sum(SIZES) - len(SIZES))
        back, inverse_logdet = transform.inverse(shares, energies)
        assert torch.allclose(back, d, rtol=1e-12, atol=0)
        for k in range(len(d)):
            expected = jacobian(lambda v: torch.cat(transform(v)[:2], dim=1), d[k])
            assert float(logdet[k]) == pytest.approx(expected, abs=1e-10)
            assert float(inverse_logdet[k]) == pytest.approx(-expected, abs=1e-10)

    def test_completed_shares_are_those_of_all_voxels(self) -> None:
        transform = DroppedVoxelNormalisation(SIZES, DROPPED)
        shares, energies, _ = transform(deposits())
        full = LayerNormalisation(SIZES).transform(deposits(), energies)
        assert torch.allclose(transform.complete(shares), full, atol=1e-14)

    @pytest.mark.parametrize("dropped", [[0, 1, 2, 3], [1, 3, 6], [1, 3, 6, 99]])
    def test_one_voxel_of_each_layer_must_be_named(self, dropped: list[int]) -> None:
        with pytest.raises(ConfigError, match="one voxel of each layer"):
            DroppedVoxelNormalisation(SIZES, dropped)


class TestEnergyFractions:
    @pytest.mark.parametrize("transform", [EnergyFractions(), SingleFractions()])
    @pytest.mark.parametrize("layers", [1, 2, 3, 45])
    def test_any_number_of_layers_inverts_with_the_jacobian_of_autograd(
        self, layers: int, transform: EnergyFractions | SingleFractions
    ) -> None:
        generator = torch.Generator().manual_seed(layers)
        energies = torch.rand(4, layers, generator=generator, dtype=torch.float64) * 1000 + 1e-3
        available = energies.sum(dim=1) * torch.tensor([1.0, 1.1, 2.5, 40.0], dtype=torch.float64)
        u, logdet = transform(energies, available)
        assert bool(((u >= 0) & (u <= 1 + 1e-12)).all())
        back, inverse_logdet = transform.inverse(u, available)
        assert torch.allclose(back, energies, rtol=1e-9, atol=0)
        assert torch.allclose(logdet, -inverse_logdet, rtol=1e-10, atol=1e-8)
        for k in range(4):
            fixed = available[k : k + 1]
            expected = jacobian(lambda v, fixed=fixed: transform(v, fixed)[0], energies[k])
            assert float(logdet[k]) == pytest.approx(expected, abs=1e-8)

    def test_definition_of_the_publication(self) -> None:
        energies = torch.tensor([[10.0, 30.0, 20.0]], dtype=torch.float64)
        u, _ = EnergyFractions()(energies, torch.tensor([120.0], dtype=torch.float64))
        assert u[0].tolist() == pytest.approx([60 / 120, 10 / 60, 30 / 50])

    @given(st.lists(st.floats(0, 1), min_size=3, max_size=3))
    @settings(max_examples=100, deadline=None)
    def test_energy_is_conserved_for_every_u_in_the_cube(self, u: list[float]) -> None:
        energies, _ = EnergyFractions().inverse(
            torch.tensor([u], dtype=torch.float64), torch.tensor([500.0], dtype=torch.float64)
        )
        assert bool((energies >= 0).all())
        assert float(energies.sum()) <= 500.0 * (1 + 1e-14)

    def test_empty_layers_and_empty_showers_stay_finite(self) -> None:
        energies = torch.tensor([[0.0, 0.0, 0.0], [5.0, 0.0, 0.0], [0.0, 0.0, 5.0]], dtype=torch.float64)
        available = torch.full((3,), 10.0, dtype=torch.float64)
        u, _ = EnergyFractions()(energies, available)
        assert bool(torch.isfinite(u).all())
        back, _ = EnergyFractions().inverse(u, available)
        assert torch.allclose(back, energies, atol=1e-12)

    def test_a_faint_deep_layer_keeps_its_digits(self) -> None:
        energies = torch.tensor([[8.0e4, 1.1e-3]], dtype=torch.float64)
        available = torch.tensor([1.0e5], dtype=torch.float64)
        back, _ = EnergyFractions().inverse(EnergyFractions()(energies, available)[0], available)
        assert float(back[0, 1]) == pytest.approx(1.1e-3, rel=1e-6)


def test_single_fractions_are_those_of_what_can_be_deposited() -> None:
    energies = torch.tensor([[10.0, 30.0, 20.0]], dtype=torch.float64)
    u, _ = SingleFractions()(energies, torch.tensor([120.0], dtype=torch.float64))
    assert u[0].tolist() == pytest.approx([10 / 120, 30 / 120, 20 / 120])


def test_no_shower_of_single_fractions_holds_more_than_is_available() -> None:
    available = torch.tensor([120.0, 120.0, 120.0], dtype=torch.float64)
    energies = torch.tensor([[10.0, 30.0, 20.0], [120.0, 60.0, 60.0], [0.0, 0.0, 0.0]], dtype=torch.float64)
    bounded = SingleFractions.bounded(energies, available)
    assert bounded.tolist() == [[10.0, 30.0, 20.0], [60.0, 30.0, 30.0], [0.0, 0.0, 0.0]]
    u, _ = SingleFractions()(energies, available)
    assert SingleFractions.possible(u).tolist() == [True, False, True]


class TestLogEnergy:
    def test_published_conditions_of_the_incident_energy(self) -> None:
        ends = LogEnergy(1e4).transform(torch.tensor([[1e3, 1e4, 1e5]], dtype=torch.float64))
        assert ends[0].tolist() == pytest.approx([-1.0, 0.0, 1.0])

    def test_published_conditions_of_the_layers(self) -> None:
        # log10((E + 1 keV) / 100 GeV) + 2, range [-4, 2] from nothing to 100 GeV
        ends = LogEnergy(1e3, 1e-3).transform(torch.tensor([[0.0, 1e5]], dtype=torch.float64))
        expected = [math.log10((energy + 1e-3) / 1e5) + 2 for energy in (0.0, 1e5)]
        assert ends[0].tolist() == pytest.approx(expected)

    def test_inverse_and_jacobian(self) -> None:
        transform = LogEnergy(2e3, 0.5)
        energies = torch.tensor([[0.1, 30.0, 7e4]], dtype=torch.float64)
        conditions, logdet = transform(energies)
        back, inverse_logdet = transform.inverse(conditions)
        assert torch.allclose(back, energies, rtol=1e-10)
        assert float(logdet[0]) == pytest.approx(jacobian(lambda v: transform(v)[0], energies[0]), abs=1e-10)
        assert float(inverse_logdet[0]) == pytest.approx(-float(logdet[0]), abs=1e-10)

    def test_a_reference_of_zero_is_refused(self) -> None:
        with pytest.raises(ConfigError, match="positive reference"):
            LogEnergy(0.0)


class TestNoise:
    def test_noise_comes_off_again(self) -> None:
        noise = DequantisationNoise(3, [1e-3, 2e-3, 0.0])
        energies = torch.rand(6, 3, dtype=torch.float64)
        uniform = torch.rand(6, 3, dtype=torch.float64)
        noisy, logdet = noise(energies, uniform)
        assert torch.allclose(noise.inverse(noisy, uniform)[0], energies, atol=1e-15)
        assert torch.equal(noisy[:, 2], energies[:, 2])
        assert logdet.tolist() == [0.0] * 6
        assert noise.mean.tolist() == [5e-4, 1e-3, 0.0]
