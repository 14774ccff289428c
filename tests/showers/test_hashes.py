"""Hashes of rows: the same for the same shower in any file, different for any other."""

from __future__ import annotations

import numpy as np
import pytest

from caloforge.detectors import load_detector
from caloforge.showers import ShowerPoints, Showers, create_showers, open_showers, row_hashes


def showers(n=50, seed=0):
    generator = np.random.default_rng(seed)
    readout = load_detector("calogan").readout
    deposits = generator.exponential(5, (n, 504)).astype(np.float32)
    return Showers(deposits, generator.uniform(3e3, 1e5, n), 22, readout)


@pytest.mark.parametrize("format", ["native", "calogan", "calochallenge"])
def test_a_shower_keeps_its_hash_in_a_file(tmp_path, format):  # noqa: A002
    made = showers()
    with create_showers(tmp_path / "g.h5", format, detector=load_detector("calogan"), particle=22) as writer:
        writer.write(made)
    with open_showers(tmp_path / "g.h5", "calogan", particle="gamma") as reader:
        again = row_hashes(reader.read())
    share = 1.0 if format != "calogan" else 0.9  # energies in GeV lose their last bit now and then
    assert (again == row_hashes(made)).mean() >= share


def test_every_change_shows():
    made = showers()
    hashes = row_hashes(made)
    assert hashes.dtype == np.uint64
    assert len(set(hashes.tolist())) == 50
    assert (row_hashes(made[10:20]) == hashes[10:20]).all()
    deposits, energies = made.deposits.copy(), made.incident_energy.copy()
    deposits[3, 500] += 0.01
    energies[4] += 0.1
    changed = row_hashes(Showers(deposits, energies, 22, made.readout)) != hashes
    assert np.flatnonzero(changed).tolist() == [3, 4]


def test_points_have_hashes_too():
    points = np.arange(24, dtype=np.float32).reshape(6, 4)
    points[:, 2] = 0
    cloud = ShowerPoints(np.asarray([0, 2, 2, 6]), points, np.asarray([1.0, 2.0, 3.0]), 22)
    hashes = row_hashes(cloud)
    assert len(set(hashes.tolist())) == 3
    assert (row_hashes(cloud[1:3]) == hashes[1:]).all()
