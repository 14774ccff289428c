"""The table of likelihoods."""

from __future__ import annotations

import csv

import numpy as np
import pytest
from executors import Backwards
from toy_model import Toy, ToyConfig, toy_detector, toy_file, toy_showers

from caloforge.errors import OutputError, UsageError
from caloforge.generation import likelihood
from caloforge.random import Streams
from caloforge.showers import open_showers


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    return toy_file(tmp_path_factory.mktemp("data") / "g.h5", 130)


def toy():
    return Toy(ToyConfig(), toy_detector())


def table(path):
    with path.open() as file:
        return list(csv.DictReader(file))


def test_rows_and_summary(data, tmp_path):
    result = likelihood(toy(), data, tmp_path / "p.csv", noise_draws=2, seed=4, show=False)
    rows = table(tmp_path / "p.csv")
    assert [int(row["shower"]) for row in rows] == list(range(130))
    energies = np.asarray([float(row["incident_energy_MeV"]) for row in rows])
    np.testing.assert_array_equal(energies, toy_showers(130).incident_energy)
    values = np.asarray([float(row["log_prob_nats"]) for row in rows])
    expected = toy().log_prob(toy_showers(130), Streams(4, "likelihood"), draws=2).numpy()
    np.testing.assert_allclose(values, expected, rtol=1e-12)
    assert (result.showers, result.impossible) == (130, 0)
    assert result.mean == pytest.approx(values.mean())
    assert result.error == pytest.approx(values.std(ddof=1) / np.sqrt(130))


def test_batches_change_nothing(data, tmp_path):
    for size in (7, 500):
        likelihood(toy(), data, tmp_path / f"{size}.csv", batch_size=size, show=False)
    assert table(tmp_path / "7.csv") == table(tmp_path / "500.csv")


def test_processes_and_executors_change_nothing(data, tmp_path):
    """Mutation: write blocks in the order in which they come."""
    import torch

    threads = torch.get_num_threads()
    likelihood(toy(), data, tmp_path / "one.csv", batch_size=20, show=False)
    try:
        likelihood(toy(), data, tmp_path / "two.csv", batch_size=20, executor=Backwards(), show=False)
    finally:
        torch.set_num_threads(threads)
    likelihood(toy(), data, tmp_path / "jobs.csv", batch_size=20, jobs=2, show=False)
    texts = {(tmp_path / f"{name}.csv").read_text() for name in ("one", "two", "jobs")}
    assert len(texts) == 1
    with open_showers(data) as reader, pytest.raises(UsageError, match="an open file cannot be sent"):
        likelihood(toy(), reader, tmp_path / "x.csv", jobs=2, show=False)
    with pytest.raises(UsageError, match="jobs is 0, expected 1 or more"):
        likelihood(toy(), data, tmp_path / "x.csv", jobs=0, show=False)


def test_seed_and_draws_matter(data, tmp_path):
    for name, settings in (("a", {}), ("b", {"seed": 1}), ("c", {"noise_draws": 3})):
        likelihood(toy(), data, tmp_path / f"{name}.csv", show=False, **settings)
    assert len({(tmp_path / f"{name}.csv").read_text() for name in "abc"}) == 3


def test_impossible_showers_are_counted_apart(data, tmp_path, monkeypatch):
    def log_prob(self, showers, streams, *, draws=1, first_row=0):
        import torch

        values = torch.ones(len(showers), dtype=torch.float64)
        values[showers.incident_energy > 5000] = -torch.inf
        return values

    monkeypatch.setattr(Toy, "log_prob", log_prob)
    result = likelihood(toy(), data, tmp_path / "p.csv", show=False)
    assert result.impossible == (toy_showers(130).incident_energy > 5000).sum()
    assert result.mean == 1


def test_refusals(data, tmp_path, monkeypatch):
    likelihood(toy(), data, tmp_path / "p.csv", show=False)
    with pytest.raises(OutputError, match="exists already"):
        likelihood(toy(), data, tmp_path / "p.csv", show=False)
    with pytest.raises(UsageError, match="noise_draws is 0, expected 1 or more"):
        likelihood(toy(), data, tmp_path / "q.csv", noise_draws=0, show=False)
    with pytest.raises(OutputError, match="cannot be written"):
        likelihood(toy(), data, tmp_path / "nowhere" / "q.csv", show=False)
    monkeypatch.setattr(Toy, "has_likelihood", False)
    with pytest.raises(UsageError, match="'toy' has no likelihood"):
        likelihood(toy(), data, tmp_path / "q.csv", show=False)
    assert [p.name for p in tmp_path.iterdir()] == ["p.csv"]
