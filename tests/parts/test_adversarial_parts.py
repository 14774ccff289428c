"""Adversarial losses, gradient penalty and separation powers of validation rows, against what they are by definition."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from model_samples import Rows, sparse_showers, toy_detector, training_batch
from torch import Tensor

from caloforge.detectors import load_detector
from caloforge.evaluation.observables import layer_moments
from caloforge.evaluation.observables.caloflow import brightest_ratio
from caloforge.parts.adversarial import critic_loss, generator_loss, gradient_penalty
from caloforge.parts.separations import Separations, SeparationsFit
from caloforge.random import Streams

REAL, FAKE = torch.tensor([0.3, -2.0, 4.0], dtype=torch.float64), torch.tensor([1.5, -0.2, -3.0], dtype=torch.float64)


def test_losses_are_those_of_their_publications() -> None:
    real, fake = torch.sigmoid(REAL), torch.sigmoid(FAKE)
    entropy = -(real.log().mean() + (1 - fake).log().mean())
    assert float(critic_loss("cross-entropy", REAL, FAKE)) == pytest.approx(float(entropy))
    assert float(generator_loss("cross-entropy", FAKE)) == pytest.approx(float(-fake.log().mean()))
    hinge = (0.7 + 3.0 + 0.0) / 3 + (2.5 + 0.8 + 0.0) / 3
    assert float(critic_loss("hinge", REAL, FAKE)) == pytest.approx(hinge)
    assert float(critic_loss("wasserstein", REAL, FAKE)) == pytest.approx(-1.7 / 3 - 2.3 / 3)
    for kind in ("hinge", "wasserstein"):
        assert float(generator_loss(kind, FAKE)) == pytest.approx(1.7 / 3)


def test_the_penalty_of_a_linear_critic_is_the_deviation_of_its_slope() -> None:
    """Mutation: take the norm over the batch, or over the last axis alone."""
    slope = torch.full((2, 3), 2.0, dtype=torch.float64, requires_grad=True)

    def critic(x: Tensor) -> Tensor:
        return (x * slope).sum(dim=(1, 2))

    generator = torch.Generator().manual_seed(0)
    real, fake = (torch.randn(5, 2, 3, generator=generator, dtype=torch.float64) for _ in range(2))
    found = gradient_penalty(critic, real, fake, torch.rand(5, generator=generator, dtype=torch.float64))
    norm = math.sqrt(6 * 4.0)
    assert float(found.detach()) == pytest.approx((norm - 1) ** 2)
    found.backward()  # type: ignore[no-untyped-call]
    assert slope.grad is not None
    torch.testing.assert_close(slope.grad, 2 * (norm - 1) / norm * slope.detach())


def test_the_penalty_is_taken_between_the_rows() -> None:
    seen: list[Tensor] = []

    def critic(x: Tensor) -> Tensor:
        seen.append(x.detach())
        return x.square().sum(dim=1)

    real, fake = torch.ones(2, 1), torch.zeros(2, 1)
    gradient_penalty(critic, real, fake, torch.tensor([0.25, 1.0]))
    torch.testing.assert_close(seen[0], torch.tensor([[0.25], [1.0]]))


def test_separations_of_layers_by_hand() -> None:
    """Mutations: bins of equal width; lit cells without the threshold; no factor one half."""
    detector = toy_detector((2, 2), (1, 3))
    part = Separations(detector)
    showers = sparse_showers(detector, 200)
    fitted = SeparationsFit("watch", part)
    fitted.load_state(fitted.fit(Rows(showers), Streams(0, "fit")))
    batch = training_batch(showers)
    found = part.observables(batch.deposits, batch.incident_energy).numpy()
    clean = np.where(showers.deposits < detector.analysis_threshold, 0, showers.deposits)
    share = clean / showers.incident_energy[:, None]
    np.testing.assert_allclose(found[:, 0], share.sum(axis=1))
    np.testing.assert_allclose(found[:, 1:3], np.stack([share[:, :4].sum(axis=1), share[:, 4:].sum(axis=1)], axis=1))
    lit = clean > 0
    np.testing.assert_array_equal(found[:, 3:5], np.stack([lit[:, :4].sum(axis=1), lit[:, 4:].sum(axis=1)], axis=1))
    np.testing.assert_allclose(found[:, 5:], np.stack([share[:, :4].max(axis=1), share[:, 4:].max(axis=1)], axis=1))
    real = part.histograms(batch.deposits, batch.incident_energy)
    torch.testing.assert_close(real.sum(dim=1), torch.ones(7, dtype=torch.float64))
    assert float((real[0] - 0.1).abs().max()) < 0.011  # of continuous observables
    # Halves of the rows average to the whole, however they are split.
    parts = [part.means(training_batch(showers[a:b]), batch.deposits[a:b]) for a, b in ((0, 60), (60, 200))]
    torch.testing.assert_close(0.3 * parts[0]["real"] + 0.7 * parts[1]["real"], real)
    assert float(part.conclude({"real": real, "generated": real})["separation"]) == 0.0
    one, other = torch.tensor([[0.5, 0.5, 0.0]]), torch.tensor([[0.25, 0.25, 0.5]])
    assert float(part.distance(one, other)) == pytest.approx(0.5 * (2 * 0.0625 / 0.75 + 0.5))
    assert float(part.distance(one, torch.tensor([[0.0, 0.0, 1.0]]))) == 1.0


@pytest.mark.parametrize("name", ["calogan", "ds1-photons"])
def test_lateral_observables_are_those_of_the_evaluation(name: str) -> None:
    """Mutations: x for y; the variance; divide by the deposits of dark cells, too."""
    detector = load_detector(name)
    showers = sparse_showers(detector, 60)
    part = Separations(detector, shapes=True)
    layers = detector.readout.n_layers
    batch = training_batch(showers)
    deposits = batch.deposits.double().requires_grad_(True)
    found = part.observables(deposits, batch.incident_energy)
    assert found.shape == (60, 8 * layers + 1)
    clean = showers.above(detector.analysis_threshold)
    wanted = [moment for axis in ("x", "y") for moment in layer_moments(clean, axis)]
    np.testing.assert_allclose(
        found[:, 3 * layers + 1 : -layers].detach().numpy(), np.concatenate(wanted, axis=1), atol=2e-3
    )
    second = brightest_ratio(clean, 2) * clean.layer_energies() / clean.incident_energy[:, None]
    np.testing.assert_allclose(found[:, -layers:].detach().numpy(), second, rtol=1e-5, atol=1e-12)
    plain = Separations(detector).observables(batch.deposits, batch.incident_energy)
    torch.testing.assert_close(found[:, : 3 * layers + 1].detach(), plain)
    fitted = SeparationsFit("watch", part)
    fitted.load_state(fitted.fit(Rows(showers), Streams(0, "fit")))
    scaled = part.scaled(deposits, batch.incident_energy)
    assert float(scaled.detach().median(dim=0).values.abs().max()) < 0.2
    scaled.square().sum().backward()
    assert deposits.grad is not None
    assert bool(deposits.grad.isfinite().all())


def test_widths_of_single_cells_have_the_gradient_of_the_formula() -> None:
    """Mutation: mean square minus squared mean, of which rounding decides whether there is a gradient at all."""
    detector = load_detector("calogan")
    part = Separations(detector, shapes=True)
    deposits = torch.full((40, detector.readout.n_voxels), 1e-3, dtype=torch.float64)
    deposits[torch.arange(40), 5 + torch.arange(40)] = torch.rand(40, dtype=torch.float64) * 100 + 1
    deposits.requires_grad_(True)
    found = part.observables(deposits, torch.full((40,), 1e4, dtype=torch.float64))
    width = found[:, 6 * detector.readout.n_layers + 1]  # of y, first layer
    torch.testing.assert_close(width.detach(), torch.full((40,), 1e-3, dtype=torch.float64), rtol=1e-6, atol=0.0)
    (gradient,) = torch.autograd.grad(width.sum(), deposits)
    assert bool((gradient[:, 90] > 0).all())  # a dark strip far away would make each of them wider
