"""Samples larger than memory: their deposits lie in a file and are judged block by block, with the same result."""

from __future__ import annotations

import errno
import os
import tempfile
from pathlib import Path

import numpy as np
import pytest

from caloforge.errors import OutputError, ShowerFileError
from caloforge.evaluation import prdc as prdc_module
from caloforge.evaluation.measures import cut
from caloforge.evaluation.prdc import prdc, prdc_features, prdc_of_showers
from caloforge.evaluation.run import evaluate
from caloforge.evaluation.sources import open_source
from caloforge.random import Streams
from caloforge.showers import create_showers, scratch
from caloforge.showers.scratch import blocks_of, by_blocks, gathered, let_go
from caloforge.testing.toys import toy_detector, toy_showers

N = 900
MEASURES = (
    "response", "layers", "caloflow-observables", "calochallenge-observables", "voxel-energy", "correlations", "fpd", "kpd",
    "prdc", "images", "voxels", "neighbours",
)  # fmt: skip


@pytest.fixture
def tiny(monkeypatch):
    """Whatever is held in memory is held for too large, and blocks are as small as they get."""
    monkeypatch.setattr(scratch, "HELD", 0)
    monkeypatch.setattr(scratch, "BLOCK", 0)
    monkeypatch.setattr(prdc_module, "_BLOCK", 20_000)
    return monkeypatch


def samples(detector):
    return [toy_showers(detector, N, seed, faint=False) for seed in (1, 2, 3)]


def judged(detector, showers):
    one, two, floor = showers
    return evaluate(one, two, detector=detector, floor=floor, only=MEASURES, allow_mismatch=True)


def test_every_measure_is_the_same_in_blocks(monkeypatch):
    """Mutations: a block that is left out, or ``empty`` of the first block alone, change a number."""
    detector = toy_detector()
    whole = judged(detector, samples(detector))
    made = []
    for name, value in (("HELD", 0), ("BLOCK", 0)):
        monkeypatch.setattr(scratch, name, value)
    original = scratch.gathered
    monkeypatch.setattr("caloforge.evaluation.measures.gathered", lambda *a: made.append(original(*a)) or made[-1])
    blocks = judged(detector, samples(detector))
    assert made
    assert all(isinstance(showers.deposits, np.memmap) for showers in made)
    for word in ("generated", "floor"):
        one, two = (getattr(result, word).model_dump() for result in (whole, blocks))
        assert one.keys() == two.keys()
        _agree(one, two, word)
    assert whole.samples == blocks.samples
    assert whole.checks == blocks.checks
    assert whole.notes == blocks.notes


def _agree(one, two, where):
    """Equal but for rounding."""
    if isinstance(one, dict):
        assert one.keys() == two.keys(), where
        for key in one:
            _agree(one[key], two[key], f"{where}/{key}")
    elif isinstance(one, list | tuple):
        assert len(one) == len(two), where
        for k, (a, b) in enumerate(zip(one, two, strict=True)):
            _agree(a, b, f"{where}/{k}")
    elif isinstance(one, float):
        assert one == pytest.approx(two, rel=1e-6, abs=1e-9), where
    else:
        assert one == two, where


def test_showers_of_a_file_lie_in_a_file_without_a_name(tiny, tmp_path):
    detector = toy_detector()
    showers = toy_showers(detector, N, 4)
    with create_showers(tmp_path / "g.h5", detector=detector, particle=22, expected=N) as writer:
        writer.write(showers)
    folder = tmp_path / "scratch"
    folder.mkdir()
    tiny.setattr(tempfile, "tempdir", str(folder))
    for limit in (None, 500):
        tiny.setattr(scratch, "HELD", 0)
        large = open_source(tmp_path / "g.h5", max_showers=limit, streams=Streams(1, "test")).showers
        assert isinstance(large.deposits, np.memmap)
        assert not large.deposits.flags.writeable
        assert not list(folder.iterdir())
        tiny.setattr(scratch, "HELD", 1 << 30)
        small = open_source(tmp_path / "g.h5", max_showers=limit, streams=Streams(1, "test")).showers
        assert not isinstance(small.deposits, np.memmap)
        np.testing.assert_array_equal(large.deposits, small.deposits)
        np.testing.assert_array_equal(large.incident_energy, small.incident_energy)
        assert large.provenance == small.provenance
        assert large.detector == small.detector


def test_pages_are_given_back(tiny):
    """Mutation: no ``let_go``, and all of the deposits are counted to the process."""
    detector = toy_detector((60, 60), (60, 60))
    parts = [toy_showers(detector, 500, k) for k in range(2)]
    showers = gathered(iter(parts), 1000)
    size = showers.deposits.nbytes
    before = shared_memory()
    assert float(showers.deposits.sum()) > 0
    assert shared_memory() - before > 0.9 * size
    let_go(showers.deposits[100:200])
    assert shared_memory() - before < 0.1 * size
    sums = by_blocks(lambda block: block.deposits.sum(axis=1, dtype=np.float64), showers)
    assert shared_memory() - before < 0.6 * size  # a block at a time
    np.testing.assert_array_equal(sums, np.concatenate([part.total_energy() for part in parts]))


def shared_memory():
    """Bytes of files that are mapped by this process and in memory."""
    return int(Path("/proc/self/statm").read_text().split()[2]) * os.sysconf("SC_PAGE_SIZE")


def test_a_full_disk_is_said_in_one_sentence(tiny):
    def full():
        raise OSError(errno.ENOSPC, "No space left on device")

    tiny.setattr(tempfile, "TemporaryFile", full)
    with pytest.raises(OutputError, match=r"900 showers cannot be laid down there \(no space left on device\).*TMPDIR"):
        cut(toy_showers(toy_detector(), N), 0.1)


def test_a_bad_value_is_named_by_its_row(tiny):
    detector = toy_detector()
    showers = samples(detector)
    showers[0].deposits[700, 3] = np.nan
    with pytest.raises(ShowerFileError, match="the deposit of shower 700, voxel 3 is NaN"):
        judged(detector, showers)


@pytest.mark.parametrize("block", [7, 60, 1000, 1 << 20])
def test_precision_and_recall_do_not_depend_on_the_block(block):
    rng = np.random.default_rng(5)
    reference, generated = rng.normal(size=(83, 6)), rng.normal(0.3, 1, size=(101, 6))
    assert prdc(reference, generated, block=block) == prdc(reference, generated)


def test_precision_and_recall_of_showers_are_those_of_their_features(tiny):
    one, two, _ = samples(toy_detector())
    found = prdc_of_showers(one, two)
    assert found == prdc(prdc_features(one), prdc_features(two), block=1 << 24)
    large = gathered(blocks_of(one), N), gathered(blocks_of(two), N)
    assert prdc_of_showers(*large) == found


def test_no_showers_at_all(tiny):
    nothing = toy_showers(toy_detector(), 5)[:0]
    assert len(cut(nothing, 0.1)) == 0
    assert len(list(blocks_of(nothing))) == 1
