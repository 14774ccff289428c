"""Diffusion: the formulation and its sampler, on distributions whose denoiser is known."""

from __future__ import annotations

import pytest
import torch

from caloforge.nn.edm import Edm, heun_sample, heun_step

EDM = Edm()


def test_levels_fall_from_the_highest_to_the_lowest() -> None:
    levels = EDM.levels(18, dtype=torch.float64)
    assert levels[0].item() == pytest.approx(80.0)
    assert levels[-1].item() == pytest.approx(0.002)
    assert bool((levels.diff() < 0).all())
    spaced = levels ** (1 / 7)
    assert torch.allclose(spaced.diff(), spaced.diff()[0].expand(17))
    assert EDM.levels(1).tolist() == [80.0]


def test_training_target_has_unit_variance_for_data_of_the_assumed_scale() -> None:
    generator = torch.Generator().manual_seed(0)
    for value in (0.01, 0.5, 20.0):
        sigma = torch.full((200_000,), value, dtype=torch.float64)
        clean = EDM.sigma_data * torch.randn(len(sigma), generator=generator, dtype=torch.float64)
        noisy = clean + sigma * torch.randn(len(sigma), generator=generator, dtype=torch.float64)
        skip, out = EDM.output_scales(sigma)
        assert ((clean - skip * noisy) / out).var().item() == pytest.approx(1, rel=0.02)
        assert (noisy * EDM.input_scale(sigma)).var().item() == pytest.approx(1, rel=0.02)


def test_a_consistency_model_is_the_identity_at_the_lowest_level() -> None:
    skip, out = EDM.consistency_scales(torch.tensor([EDM.sigma_min]))
    assert skip.item() == pytest.approx(1)
    assert out.item() == 0


def gaussian(mean: float, std: float):
    """The exact denoiser of a normal distribution."""

    def denoise(x: torch.Tensor, sigma: torch.Tensor) -> torch.Tensor:
        weight = (std**2 / (std**2 + sigma**2))[index][:, None]
        return weight * x + (1 - weight) * mean

    index = torch.zeros(20_000, dtype=torch.int64)
    return denoise, index


def test_sampling_with_the_exact_denoiser_gives_the_distribution() -> None:
    denoise, index = gaussian(0.7, 0.3)
    noise = torch.randn(20_000, 1, generator=torch.Generator().manual_seed(1), dtype=torch.float64)
    x = heun_sample(EDM, denoise, noise, 1, index, 100)
    assert x.mean().item() == pytest.approx(0.7, abs=0.01)
    assert x.std().item() == pytest.approx(0.3, abs=0.01)


def test_heun_steps_are_of_second_order() -> None:
    denoise, index = gaussian(0.0, 1.0)
    x = torch.ones(20_000, 1, dtype=torch.float64)

    def error(steps: int) -> float:
        # The flow of a standard normal distribution keeps x / sqrt(1 + sigma^2).
        levels = torch.linspace(2.0, 1.0, steps + 1, dtype=torch.float64)
        y = x
        for k in range(steps):
            y = heun_step(denoise, y, levels[k : k + 1], levels[k + 1 : k + 2], index)
        return abs(y[0, 0].item() - (2.0 / 5.0) ** 0.5)

    assert error(20) < error(10) / 3.5


def test_one_step_from_normal_numbers_is_the_consistency_function_at_the_highest_level() -> None:
    level, (scale, skip, out) = EDM.one_step
    sigma = torch.tensor([EDM.sigma_max], dtype=torch.float64)
    network = torch.tanh
    z = torch.randn(5, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    c_skip, c_out = EDM.consistency_scales(sigma)
    expected = c_skip * sigma * z + c_out * network(EDM.input_scale(sigma) * sigma * z)
    assert torch.allclose(skip * z + out * network(scale * z), expected, rtol=1e-12)
    assert level == pytest.approx(float(sigma.log()) / 4)
