"""The packaged sample: what it promises, and that it is what the fact sheet says real photons are."""

import numpy as np
import pytest
from scipy import stats

from caloforge import datasets
from caloforge.detectors import load_detector
from caloforge.errors import UsageError
from caloforge.showers.files import open_showers
from caloforge.showers.hashes import row_hashes

NAME = "calogan-gamma-sample"
CLOUDS = "ild-gamma-clouds"


def test_splits_are_disjoint_and_complete():
    hashes = {split: set(row_hashes(datasets.load(NAME, split=split)).tolist()) for split in ("train", "test", "floor")}
    assert {split: len(h) for split, h in hashes.items()} == {"train": 6000, "test": 3000, "floor": 3000}
    assert len(set.union(*hashes.values())) == 12_000


@pytest.mark.parametrize("split", ["train", "test", "floor"])
def test_showers_are_photons_in_the_calogan_calorimeter(split):
    showers = datasets.load(NAME, split=split)
    assert showers.deposits.dtype == np.float32
    assert showers.particle == 22
    assert showers.overflow.shape == (len(showers), 3)
    assert 1000 <= showers.incident_energy.min() < showers.incident_energy.max() <= 100_000
    containment = showers.total_energy() / showers.incident_energy
    error = containment.std() / np.sqrt(len(showers))
    # Reference figures over the 14,000 photons that the sample was taken from.
    assert abs(containment.mean() - 0.9947) < 4 * error
    fractions = (showers.layer_energies() / showers.total_energy()[:, None]).mean(axis=0)
    assert np.allclose(fractions, [0.144, 0.854, 0.0021], atol=[0.008, 0.008, 0.0004])
    # The mantissas are rounded to 12 bits, so the sum may exceed what came in by as much.
    assert (containment <= 1 + 2e-4).all()


def test_path_opens_in_plain_h5py():
    import h5py

    with h5py.File(datasets.path(NAME, split="test")) as file:
        assert file["showers"].shape == (3000, 504)
        assert file["incident_energies"].shape == (3000, 1)
        assert b"Geant4" in file.attrs["provenance"]


def test_only_train_is_trainable():
    rows = {row["split"]: row for row in datasets.describe() if row["name"] == NAME}
    assert [split for split, row in rows.items() if row["trainable"]] == ["train"]
    assert rows["floor"]["detector"] == "calogan"
    assert datasets.names() == [NAME, CLOUDS]


def test_clouds_are_small_disjoint_and_photons_in_the_silicon_of_ild():
    seen = set()
    size = 0
    directions = []
    for split, rows in (("train", 510), ("test", 140), ("floor", 140)):
        showers = datasets.load(CLOUDS, split=split).check_values()
        assert len(showers) == rows
        assert showers.particle == 22
        assert 10_000 <= showers.incident_energy.min() < showers.incident_energy.max() <= 30_000
        # What silicon sees of photons from all directions, and the size of its fluctuations.
        seen_share = showers.total_energy() / showers.incident_energy
        assert abs(seen_share.mean() - 0.0269) < 0.0005
        directions.append(showers.direction)
        assert np.array_equal(showers.points[:, :2] * 128, np.round(showers.points[:, :2] * 128))
        seen |= set(row_hashes(showers).tolist())
        size += datasets.path(CLOUDS, split=split).stat().st_size
    assert len(seen) == 790
    assert size <= 9.81e6
    # An even density on the face of the barrel segment: cot(theta) is even, cot(phi) nearly so.
    x, y, z = np.concatenate(directions).T
    assert stats.kstest(x / np.hypot(y, z), stats.uniform(-1, 2).cdf).pvalue > 1e-3
    low, high = 1 / np.tan(np.radians([109, 79]))
    assert stats.kstest(y / z, stats.uniform(low, high - low).cdf).pvalue > 1e-3


def test_clouds_are_of_the_detector_as_it_is():
    with open_showers(datasets.path(CLOUDS)) as reader:
        assert reader.detector.hash == load_detector("ild-ecal").hash  # but for segmentations that came later
        assert reader.provenance["field"] == "uniform, (3.5, 0, 0) T in the local frame"
        assert reader.provenance["production_cut_mm"] == 0.1
        assert reader.provenance["directions"] == "barrel"


def test_unknown_names_are_refused():
    with pytest.raises(UsageError, match="not known"):
        datasets.load("nonsense")
    with pytest.raises(UsageError, match="no split 'tset'"):
        datasets.path(NAME, split="tset")
