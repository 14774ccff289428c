"""The parametrisation by principal components against what is known of it, without training anything for long."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_samples import Rows, sparse_showers, toy_detector, training_batch
from scipy.stats import ks_2samp, kstest, norm, poisson
from torch import Tensor

from caloforge.detectors import Detector
from caloforge.errors import UsageError
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import Conditions
from caloforge.parts.component_bins import ComponentBins, energy_nodes, gaussian_ranks
from caloforge.parts.lateral import LateralShapes
from caloforge.random import Streams
from caloforge.showers import Showers
from caloforge.stage import TrainingConfig
from caloforge.zoo.pca_parametrisation import PcaParametrisation, PcaParametrisationConfig


def fitted(showers: Showers, detector: Detector, **settings: Any) -> PcaParametrisation:
    model = PcaParametrisation(PcaParametrisationConfig(**settings), detector)
    (stage,) = model.training_stages(TrainingConfig())
    before = {name: value.clone() for name, value in model.state_dict().items()}
    state = stage.fit(Rows(showers), Streams(1, "fit"))  # type: ignore[attr-defined]
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    stage.load_state(state)
    return model.eval()


def made(model: PcaParametrisation, energies: Any) -> Showers:
    conditions = Conditions.first(np.asarray(energies, dtype=np.float64), 22)
    showers = sample_showers(model, conditions, generation_streams(3)).showers
    assert isinstance(showers, Showers)
    return showers


def drawn(variables: Tensor, count: int, *, bins: int = 1, log_energy: Tensor | None = None) -> Tensor:
    """Variables drawn from a fit of some, at energies of theirs."""
    energies = torch.zeros(len(variables), dtype=torch.float64) if log_energy is None else log_energy
    generator = np.random.default_rng(0)
    state, _ = ComponentBins.fitted(variables, energies, nodes=None, bins=bins, generator=generator)
    part = ComponentBins(variables.shape[1])
    for name, value in state.items():
        setattr(part, name, value)
    asked = energies[torch.from_numpy(generator.integers(0, len(energies), count))]
    group = part.group(asked, torch.from_numpy(generator.random((count, 2))))
    return part(group, torch.from_numpy(generator.standard_normal((count, variables.shape[1]))))


def limit(n: int, m: int) -> float:
    return 1.63 * float(np.sqrt(1 / n + 1 / m))


def test_ranks_are_gaussian_and_equal_values_are_ranked_at_random() -> None:
    values = torch.tensor([[3.0, 0.0, 7.0], [1.0, 0.0, 7.0], [2.0, 5.0, 7.0]], dtype=torch.float64)
    scores = gaussian_ranks(values, np.random.default_rng(0))
    assert np.allclose(scores[:, 0], norm.ppf([5 / 6, 1 / 6, 3 / 6]))
    assert sorted(scores[:2, 1].tolist()) == pytest.approx(norm.ppf([1 / 6, 3 / 6]).tolist())
    assert scores[:, 2].tolist() == [0, 0, 0]
    swapped = [bool((s := gaussian_ranks(values, np.random.default_rng(k)))[0, 1] > s[1, 1]) for k in range(40)]
    assert 5 < sum(swapped) < 35


@pytest.mark.parametrize("bins", [1, 5])
def test_data_drawn_from_itself_are_its_own(bins: int) -> None:
    generator = np.random.default_rng(1)
    z = generator.standard_normal((4000, 3)) @ np.asarray([[1, 0.8, 0], [0, 0.6, 0.5], [0, 0, 0.8]])
    variables = torch.from_numpy(np.stack([np.exp(z[:, 0]), norm.cdf(z[:, 1]), np.maximum(z[:, 2], 0)], axis=1))
    again = drawn(variables, 4000, bins=bins)
    for k in range(3):
        assert ks_2samp(variables[:, k], again[:, k]).statistic < limit(4000, 4000)
    one, two = (np.corrcoef(np.argsort(np.argsort(v, axis=0), axis=0).T) for v in (variables.numpy(), again.numpy()))
    assert np.abs(one - two)[0, 1] < 0.05


def test_correlation_one_stays_one() -> None:
    x = torch.from_numpy(np.random.default_rng(2).exponential(size=500))
    again = drawn(torch.stack([x, 3 * x, torch.ones_like(x)], dim=1), 2000)
    assert np.allclose(again[:, 1], 3 * again[:, 0], rtol=1e-6)
    assert bool((again[:, 2] == 1).all())


def test_bins_tell_apart_what_one_gaussian_cannot() -> None:
    """Showers that start early or late, as those of hadrons: fractions of three layers, two kinds of showers."""
    generator = np.random.default_rng(4)
    early = generator.random(4000) < 0.4
    first = np.where(early, generator.beta(6, 3, 4000), generator.beta(1, 40, 4000))
    second = np.where(early, generator.beta(30, 2, 4000), generator.beta(2, 2, 4000))
    variables = torch.from_numpy(np.stack([first, second], axis=1))
    middle = (1 - first) * second
    found = {}
    for bins in (1, 5):
        again = drawn(variables, 4000, bins=bins).numpy()
        found[bins] = ks_2samp((1 - again[:, 0]) * again[:, 1], middle).statistic
    assert found[5] < 0.04
    assert found[1] > 1.5 * found[5]


def test_nodes_are_the_energies_or_equally_many_showers() -> None:
    discrete = torch.from_numpy(np.log(np.tile([1e3, 2e3, 4e3], 50)))
    assert energy_nodes(discrete, 7).unique().tolist() == [0, 1, 2]
    spectrum = torch.from_numpy(np.log(np.random.default_rng(0).uniform(1e3, 1e5, 6000)))
    which = energy_nodes(spectrum, None)
    assert torch.bincount(which).tolist() == [500] * 12
    assert bool((which[spectrum.argsort()].diff() >= 0).all())
    assert len(energy_nodes(spectrum[:40], None).unique()) == 4


def test_energies_of_nodes_are_theirs_alone_and_others_lie_between() -> None:
    """Mutation: take the nearest node."""
    logs = torch.from_numpy(np.log(np.repeat([1e3, 4e3, 1.6e4], 20)))
    values = torch.from_numpy(np.repeat([1.0, 2.0, 3.0], 20))[:, None]
    state, _ = ComponentBins.fitted(values, logs, nodes=None, bins=5, generator=np.random.default_rng(0))
    part = ComponentBins(1)
    for name, value in state.items():
        setattr(part, name, value)
    chance = torch.from_numpy(np.random.default_rng(1).random((4000, 2)))
    for energy, expected in ((1e3, {0: 1}), (4e3, {1: 1}), (1.6e4, {2: 1}), (5e2, {0: 1}), (9e4, {2: 1})):
        group = part.group(torch.full((4000,), float(np.log(energy))).double(), chance)
        assert set(group.tolist()) == set(expected)
    between = part.group(torch.full((4000,), float(np.log(4e3 * np.sqrt(2)))).double(), chance)
    assert set(between.tolist()) == {1, 2}
    assert float((between == 2).double().mean()) == pytest.approx(0.25, abs=0.03)


@pytest.mark.parametrize("fractions", ["plain", "recursive"])
def test_energies_of_layers_come_back(fractions: str) -> None:
    detector = toy_detector((2, 2), (2, 2), (2, 2), (2, 2))
    showers = sparse_showers(detector, 60)
    model = fitted(showers, detector, fractions=fractions, least_share=0.0)
    energies = model.sums(torch.from_numpy(showers.deposits).double())
    incident = torch.from_numpy(showers.incident_energy)
    assert np.allclose(model.fractions.decode(model.fractions.encode(energies, incident), incident), energies)
    # Two layers taken together keep their sum, and are divided as on average.
    model.fractions.faint = torch.tensor([False, True, False, True])
    again = model.fractions.decode(model.fractions.encode(energies, incident), incident)
    assert np.allclose(again.sum(dim=1), energies.sum(dim=1))
    assert np.allclose(again[:, 2], energies[:, 2])
    assert np.allclose(again[:, 1] * model.fractions.mean[3], again[:, 3] * model.fractions.mean[1])


def test_a_single_layer_works_and_faint_layers_are_found() -> None:
    single = toy_detector((2, 3))
    showers = sparse_showers(single, 60)
    got = made(fitted(showers, single), showers.incident_energy)
    assert (
        ks_2samp(got.total_energy() / got.incident_energy, showers.total_energy() / showers.incident_energy).pvalue
        > 1e-3
    )
    detector = toy_detector((2, 2), (2, 2), (2, 2))
    deposits = sparse_showers(detector, 60).deposits.copy()
    deposits[:, 4:8] *= 1e-7
    dim = Showers(deposits, showers.incident_energy, 22, detector.readout)
    assert fitted(dim, detector, cut_first=False).describe_representation()["faint_layers"] == [1]


def shapes(kind: Any, deposits: np.ndarray, detector: Detector, groups: int = 1) -> LateralShapes:
    part = LateralShapes(kind, detector, "none")
    order, rows = torch.arange(len(deposits)), torch.arange(groups + 1) * (len(deposits) // groups)
    state = part.fitted(torch.from_numpy(deposits.astype(np.float32)), order, rows)
    for name, value in state.items():
        owner, _, leaf = name.rpartition(".")
        setattr(part.get_submodule(owner), leaf, value)
    return part


def test_cells_are_lit_as_often_and_as_brightly() -> None:
    detector = toy_detector((4, 4))
    generator = np.random.default_rng(5)
    lit, mean = np.linspace(0.1, 0.9, 16), np.linspace(-3, 0, 16)
    deposits = (generator.random((4000, 16)) < lit) * np.exp(generator.normal(mean, 0.3, (4000, 16)))
    deposits[:, 0] = np.maximum(deposits[:, 0], 1e-5)
    shares = deposits / deposits.sum(axis=1, keepdims=True)
    part = shapes("cells", deposits, detector)
    z = torch.from_numpy(generator.standard_normal((4000, 16)))
    got = part(torch.zeros(4000, dtype=torch.int64), z, z[:, :1].exp()).numpy()
    assert np.allclose(got.sum(axis=1), 1)
    assert np.abs((got > 0).mean(axis=0) - (shares > 0).mean(axis=0)).max() < 0.04
    # Before a layer is brought to its energy, the logarithms are those of the table.
    raw = part._cells(torch.zeros(4000, dtype=torch.int64), z).numpy()
    for k in (5, 10, 15):
        logs = np.log(raw[raw[:, k] > 0, k])
        assert logs.mean() == pytest.approx(np.log(shares[shares[:, k] > 0, k]).mean(), abs=0.05)
        assert logs.std() == pytest.approx(np.log(shares[shares[:, k] > 0, k]).std(), abs=0.05)


def test_hits_are_poisson_numbers_that_fluctuate_as_the_cells_do() -> None:
    """Mutation: take N hits in every shower."""
    detector = toy_detector((2, 2))
    generator = np.random.default_rng(6)
    p = np.asarray([0.5, 0.3, 0.15, 0.05])
    deposits = generator.multinomial(60, p, 3000).astype(float)
    part = shapes("hits", deposits, detector)
    assert float(part.hits[0, 0]) == pytest.approx(60, rel=0.05)
    z = torch.from_numpy(generator.standard_normal((20000, 4)))
    group = torch.zeros(20000, dtype=torch.int64)
    counts = part._hits(group, z).numpy()
    assert np.array_equal(counts, np.round(counts))
    for k, share in enumerate(part.lit[0].tolist()):
        mean = share * float(part.hits[0, 0])
        expected = poisson.ppf(norm.cdf(z[:, k].numpy()), mean)
        assert np.abs(counts[:, k] - expected).max() <= (0 if mean < 16 else 1)
    got = part(group, z, z[:, :1].exp()).numpy()
    assert np.allclose(got.std(axis=0), (deposits / 60).std(axis=0), rtol=0.06)


def test_real_showers_are_the_nearest_of_their_group() -> None:
    """Mutation: draw from all groups, or any shower of the group."""
    detector = toy_detector((2, 2), (2, 3))
    deposits = sparse_showers(detector, 40).deposits + 0.1
    part = shapes("showers", deposits, detector, groups=2)
    layers = np.stack([deposits[:, :4].sum(axis=1), deposits[:, 4:].sum(axis=1)], axis=1).astype(np.float64)
    asked = np.arange(400) % 40
    group = torch.from_numpy(asked // 20)
    z = torch.from_numpy(np.random.default_rng(0).standard_normal((400, 2)))
    got = part(group, z, torch.from_numpy(layers[asked])).numpy()
    real = np.concatenate([d / d.sum(axis=1, keepdims=True) for d in (deposits[:, :4], deposits[:, 4:])], axis=1)
    away = np.abs(got[:, None] - real[None]).max(axis=2)
    assert away.min(axis=1).max() < 1e-5
    found = away.argmin(axis=1)
    assert np.array_equal(found // 20, group.numpy())
    logs = np.log1p(layers)
    for k, row in zip(asked, found, strict=True):
        own = np.arange(20) + 20 * (k // 20)
        near = own[np.argsort(np.linalg.norm(logs[own] - logs[k], axis=1))[:5]]
        assert row in near
    assert len({(k, row) for k, row in zip(asked, found, strict=True)}) > 100


@pytest.mark.parametrize("lateral", ["cells", "showers", "hits"])
def test_showers_keep_threshold_energies_and_symmetry(lateral: str) -> None:
    detector = toy_detector()
    showers = sparse_showers(detector, 300)
    model = fitted(showers, detector, lateral=lateral)
    got = made(model, np.random.default_rng(0).choice(showers.incident_energy, 1000))
    cut = detector.analysis_threshold
    assert cut > 0
    assert got.deposits[got.deposits > 0].min() >= np.float32(cut) * (1 - 1e-6)
    low = np.where(showers.deposits < cut, 0, showers.deposits)
    ratio = low.sum(axis=1) / showers.incident_energy
    assert ks_2samp(got.total_energy() / got.incident_energy, ratio).statistic < limit(1000, 300)
    if lateral != "showers":
        table = model.lateral.lit
        assert all(torch.allclose(table[:, image], table, atol=1e-6) for image in model.lateral.images)


def test_directions_are_refused() -> None:
    detector = toy_detector()
    showers = sparse_showers(detector, 10)
    direction = np.tile(np.asarray([0.6, 0.0, 0.8], dtype=np.float32), (10, 1))
    batch = training_batch(showers)
    tilted = type(batch)(**(vars(batch) | {"direction": torch.from_numpy(direction)}))
    (stage,) = PcaParametrisation(PcaParametrisationConfig(), detector).training_stages(TrainingConfig())
    with pytest.raises(UsageError, match="knows no directions"):
        stage.fit([tilted], Streams(0, "fit"))  # type: ignore[attr-defined]


def test_gaussian_numbers_of_ranks_are_gaussian() -> None:
    scores = gaussian_ranks(torch.rand(5000, 1, dtype=torch.float64), np.random.default_rng(0))
    assert kstest(scores[:, 0], "norm").statistic < 1e-3
