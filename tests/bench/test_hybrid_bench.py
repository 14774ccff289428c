"""Hybrid events against Geant4 alone, in time."""

from __future__ import annotations

import pytest

from caloforge.bench.hybrid import bench_hybrid
from caloforge.detectors import load_detector
from caloforge.errors import UsageError
from caloforge.options import HybridOptions


@pytest.mark.geant4
def test_what_is_measured_fits_together():
    """No assertion on speed itself: the parts add up, and the bound is what the share of tracked energy says."""
    found = bench_hybrid(
        load_detector("calogan"), ["calogan-gamma"], "pi0", "4", options=HybridOptions(events=200, geant4_data="builtin"),
        share_events=500,
    )  # fmt: skip
    assert found.events == 200
    assert found.bare_events == 20
    assert found.geant4 + found.models + found.placing == pytest.approx(found.total[0], rel=0.05)
    assert found.ratio[0] == pytest.approx(found.bare[0] / found.total[0])
    # Nothing stands in front: all photons above the model's range are answered, and only those.
    assert 0 < found.share[0] < 0.3
    assert found.tracked == pytest.approx(found.share[0], abs=0.08)
    assert found.bound == pytest.approx(1 / found.share[0])
    assert all(error > 0 for _, error in (found.bare, found.total, found.ratio, found.share, found.ratio_at_share))


def test_what_cannot_be_measured_is_refused():
    calogan = load_detector("calogan")
    for models, options, message in (
        (["calogan-gamma"], HybridOptions(events=100), "100 events are too few"),
        ([], HybridOptions(events=200), "no model was named"),
        (["calogan-gamma"], HybridOptions(events=200, engine="geant4-pybind"), "measured with calzone"),
    ):
        with pytest.raises(UsageError, match=message):
            bench_hybrid(calogan, models, "pi0", "4", options=options)
