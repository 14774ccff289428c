"""Rows and batches: deterministic, complete, and the same from memory and from the file."""

from __future__ import annotations

import numpy as np
import pytest
import torch
import toy_model
from hypothesis import given, settings
from hypothesis import strategies as st
from toy_model import toy_file, toy_showers

from caloforge.detectors import load_detector
from caloforge.errors import ShowerFileError, UsageError
from caloforge.showers import ShowerPoints, Showers, open_showers, row_hashes
from caloforge.stage import PointBatch, StageTraining
from caloforge.training.data import FirstShowers, RowOrder, TrainingSet
from caloforge.training.order import DataOrder, split_rows
from caloforge.training.table import Table, joined

PLAIN = StageTraining(batch_size=16, augmentation="none")


class Source:
    """Showers in memory as if they were in a file; counts what is read."""

    def __init__(self, showers, detector=None):
        self.showers, self.particle, self.reads = showers, showers.particle, []
        self.detector = detector or toy_model.toy_detector()

    def __len__(self):
        return len(self.showers)

    def read(self, start, stop):
        self.reads.append((start, stop))
        return self.showers[start:stop]


def training_set(n=200, **changes):
    options = {"seed": 3, "val_fraction": 0.1, "order": RowOrder(None)} | changes
    return TrainingSet(Source(toy_showers(n)), **options)


def cloud(n=60):
    generator = np.random.default_rng(1)
    counts = generator.integers(0, 9, n)
    offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
    points = generator.uniform(0, 1, (offsets[-1], 4)).astype(np.float32)
    points[:, 2] = generator.integers(0, 30, offsets[-1])
    directions = generator.normal(size=(n, 3))
    directions /= np.linalg.norm(directions, axis=1, keepdims=True)
    readout = load_detector("ild-ecal/points").readout
    energies = generator.uniform(1e4, 3e4, n)
    return ShowerPoints(offsets, points, energies, 22, readout, directions.astype(np.float32))


# ---- split and order


@given(st.integers(2, 500), st.floats(0, 0.9), st.integers(0, 2**63 - 1))
@settings(deadline=None)
def test_split_is_a_partition_of_the_right_size(n, fraction, seed):
    if n - (max(1, round(n * fraction)) if fraction else 0) < 1:
        with pytest.raises(UsageError, match="leave none to train on"):
            split_rows(n, fraction, seed)
        return
    train, val = split_rows(n, fraction, seed)
    assert sorted([*train, *val]) == list(range(n))
    assert len(val) == (max(1, round(n * fraction)) if fraction else 0)
    assert (np.diff(train) > 0).all()
    assert (np.diff(val) > 0).all()


@pytest.mark.parametrize("fraction", [-0.1, 1.0, np.nan])
def test_impossible_fractions_are_refused(fraction):
    with pytest.raises(UsageError, match="validation fraction"):
        split_rows(100, fraction, 0)


@given(
    st.integers(1, 400), st.one_of(st.none(), st.integers(1, 50)), st.integers(1, 6), st.integers(0, 9)
)  # fmt: skip
@settings(deadline=None)
def test_every_epoch_has_every_row_once(n, block, pool, epoch):
    rows = np.sort(np.random.default_rng(n).permutation(3 * n)[:n])
    order = DataOrder(rows, 5, block, pool)
    assert sorted(order.epoch(epoch)) == rows.tolist()
    np.testing.assert_array_equal(order.epoch(epoch), DataOrder(rows, 5, block, pool).epoch(epoch))
    if block is not None:
        for part in order.pools(epoch):
            assert len(np.unique(part // block)) <= pool


def test_epochs_and_seeds_differ():
    rows = np.arange(300)
    for block in (None, 16):
        orders = [DataOrder(rows, seed, block).epoch(epoch).tolist() for seed in (0, 1) for epoch in (0, 1)]
        assert len({tuple(order) for order in orders}) == 4


def test_order_for_a_budget():
    source = Source(toy_showers(1000))
    row_bytes = 8 * 4 + 8
    assert RowOrder.for_source(source, 1000 * row_bytes).block is None
    small = RowOrder.for_source(source, 999 * row_bytes)
    assert small.block is not None
    assert 3 * small.block * small.pool * row_bytes <= 999 * row_bytes
    assert RowOrder.for_source(source).block is None
    assert RowOrder.for_source(source, 1) == RowOrder(1, 1)


# ---- batches


def everything(batches):
    return [(b.row.tolist(), b.deposits, b.incident_energy, b.epoch) for b in batches]


def test_batches_are_the_rows_they_say():
    data, showers = training_set(), toy_showers(200)
    batches = list(data.batches(PLAIN, 4))
    assert len(batches) == data.steps_per_epoch(16) == 180 // 16
    for batch in batches:
        assert (len(batch), batch.epoch) == (16, 4)
        np.testing.assert_array_equal(batch.deposits.numpy(), showers.deposits[batch.row.numpy()])
        np.testing.assert_array_equal(batch.incident_energy.numpy(), showers.incident_energy[batch.row.numpy()])
    seen = np.concatenate([batch.row.numpy() for batch in batches])
    assert len(np.unique(seen)) == len(seen)
    assert not set(seen) & set(data.validation_rows)


def test_an_epoch_can_be_entered_anywhere():
    data = training_set()
    whole = everything(data.batches(PLAIN, 1))
    for first in (0, 1, 7, 11):
        rest = everything(data.batches(PLAIN, 1, first=first))
        assert [r[0] for r in rest] == [r[0] for r in whole[first:]]


def test_processes_share_every_batch():
    data = training_set()
    whole = [b.row.tolist() for b in data.batches(PLAIN, 1)]
    shares = [[b.row.tolist() for b in data.batches(PLAIN, 1, rank=rank, size=3)] for rank in range(3)]
    assert [a + b + c for a, b, c in zip(*shares, strict=True)] == whole
    val = [row for rank in range(3) for b in data.validation(PLAIN, rank=rank, size=3) for row in b.row.tolist()]
    assert val == data.validation_rows.tolist()


@pytest.mark.parametrize("augmentation", ["none", "exact"])
@pytest.mark.parametrize(("block", "pool"), [(7, 2), (16, 3), (64, 1), (1, 5)])
def test_streaming_gives_the_batches_of_memory(tmp_path, block, pool, augmentation):
    path = toy_file(tmp_path / "g.h5", 200)
    how = PLAIN.model_copy(update={"augmentation": augmentation})
    with open_showers(path) as reader:
        streamed = TrainingSet(reader, seed=3, val_fraction=0.1, order=RowOrder(block, pool))
        kept = TrainingSet(reader, seed=3, val_fraction=0.1, order=RowOrder(block, pool))
        kept._table = Table.of(np.arange(200), toy_showers(200))
        assert not streamed.in_memory
        assert kept.in_memory
        for epoch, first in ((0, 0), (1, 5)):
            pairs = zip(streamed.batches(how, epoch, first=first), kept.batches(how, epoch, first=first), strict=True)
            for one, two in pairs:
                assert torch.equal(one.row, two.row)
                assert torch.equal(one.deposits, two.deposits)
                assert torch.equal(one.incident_energy, two.incident_energy)
        for one, two in zip(streamed.validation(how), kept.validation(how), strict=True):
            assert torch.equal(one.deposits, two.deposits)
        for one, two in zip(streamed.for_fit(), kept.for_fit(), strict=True):
            assert torch.equal(one.row, two.row)
            assert torch.equal(one.deposits, two.deposits)
        assert streamed.fingerprint == kept.fingerprint


def test_streaming_reads_each_block_once_an_epoch():
    source = Source(toy_showers(200))
    data = TrainingSet(source, seed=3, val_fraction=0.1, order=RowOrder(16, 3))
    source.reads.clear()
    list(data.batches(PLAIN.model_copy(update={"batch_size": 1}), 0))
    assert sorted(source.reads) == [(start, min(start + 16, 200)) for start in range(0, 200, 16)]
    source.reads.clear()
    list(data.validation(PLAIN))  # kept in memory in any case
    assert source.reads == []


def test_points_and_directions_travel_along():
    showers = cloud()
    detector = load_detector("ild-ecal/points")
    for order in (RowOrder(None), RowOrder(8, 2)):
        data = TrainingSet(Source(showers, detector), seed=3, val_fraction=0.2, order=order)
        batches = [*data.batches(PLAIN, 0), *data.validation(PLAIN), *data.for_fit()]
        assert sum(len(b) for b in batches) == 48 + 12 + 48
        for batch in batches:
            assert isinstance(batch, PointBatch)
            for k, row in enumerate(batch.row.tolist()):
                mine = batch.points[batch.offsets[k] : batch.offsets[k + 1]].numpy()
                np.testing.assert_array_equal(mine, showers[row : row + 1].points)
                np.testing.assert_array_equal(batch.direction[k].numpy(), showers.direction[row])


def test_symmetries_are_applied_row_by_row_and_epoch_by_epoch():
    data, group = training_set(), toy_model.toy_detector().symmetry_group()
    assert len(group) == 4
    showers, counts = toy_showers(200), np.zeros(4, dtype=int)
    chosen = {}
    for epoch in range(4):
        for batch in data.batches(StageTraining(batch_size=16), epoch):
            for row, deposits in zip(batch.row.tolist(), batch.deposits.numpy(), strict=True):
                matches = [k for k in range(4) if (showers.deposits[row][group[k]] == deposits).all()]
                assert len(matches) == 1
                counts[matches[0]] += 1
                chosen.setdefault(row, set()).add(matches[0])
    assert counts.min() > counts.sum() / 4 - 5 * np.sqrt(counts.sum() * 3 / 16)
    assert np.mean([len(found) > 1 for found in chosen.values()]) > 0.9
    for batch in [*data.validation(StageTraining()), *data.for_fit()]:
        np.testing.assert_array_equal(batch.deposits.numpy(), showers.deposits[batch.row.numpy()])


def test_oblique_showers_are_not_turned():
    showers = toy_showers(100)
    direction = np.tile(np.asarray([0.6, 0, 0.8], dtype=np.float32), (100, 1))
    oblique = Showers(showers.deposits, showers.incident_energy, 22, showers.readout, direction)
    data = TrainingSet(Source(oblique), seed=3, val_fraction=0.1, order=RowOrder(None))
    for batch in data.batches(StageTraining(batch_size=16), 0):
        np.testing.assert_array_equal(batch.deposits.numpy(), showers.deposits[batch.row.numpy()])


def test_float64_batches_are_float64():
    batch = next(training_set().batches(StageTraining(batch_size=16, precision="float64"), 0))
    assert batch.deposits.dtype == torch.float64
    assert next(training_set().batches(PLAIN, 0)).deposits.dtype == torch.float32


@pytest.mark.parametrize(("most", "expected"), [(None, 60), (25, 25), (100, 60)])
def test_first_showers_are_those_of_the_source_and_no_more(most, expected):
    source = Source(toy_showers(60))
    first = FirstShowers(source, most)
    assert len(first) == expected
    assert (first.detector, first.particle) == (source.detector, source.particle)
    read = first.read(10, 60)
    np.testing.assert_array_equal(read.deposits, source.read(10, expected).deposits)


def test_hashes_conditions_and_fingerprint():
    data = training_set()
    np.testing.assert_array_equal(data.hashes, row_hashes(toy_showers(200)))
    np.testing.assert_array_equal(data.incident_energy, toy_showers(200).incident_energy)
    assert data.fingerprint == training_set(seed=9).fingerprint
    assert data.fingerprint != training_set(n=199).fingerprint


def test_bad_data_are_refused():
    showers = toy_showers(50)
    showers.deposits[31, 2] = np.nan
    with pytest.raises(ShowerFileError, match="shower 31, voxel 2 is NaN"):
        TrainingSet(Source(showers), seed=0, val_fraction=0.1, order=RowOrder(None))
    with pytest.raises(UsageError, match="hold 1 showers"):
        training_set(n=1)


def test_joined_batches():
    table = Table.of(np.arange(60), cloud())
    whole = table.take(np.arange(5, 40), 2)
    again = joined([table.take(np.arange(5, 6), 2), table.take(np.arange(6, 20), 2), table.take(np.arange(20, 40), 2)])
    for name in ("incident_energy", "row", "direction", "offsets", "points"):
        assert torch.equal(getattr(whole, name), getattr(again, name))
    assert again.epoch == 2
    assert (
        Table.joined([again]).take(np.asarray([30, 7]), 0).points.shape
        == table.take(np.asarray([30, 7]), 0).points.shape
    )


def test_rotations_need_a_detector_that_can_be_turned() -> None:
    training = StageTraining(augmentation="rotations", batch_size=4)
    with pytest.raises(UsageError, match="rotations need the symmetry 'rotate-alpha', which 'toy' has not"):
        next(iter(training_set().batches(training, 0)))
