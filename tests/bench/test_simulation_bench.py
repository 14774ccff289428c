"""Both engines are measured alike. How fast they are, 'caloforge bench simulation' says."""

from __future__ import annotations

import pytest

from caloforge.bench.simulation import DEFAULT_CASES, Case, bench_simulation
from caloforge.cli.main import main


@pytest.mark.geant4
def test_each_engine_is_measured_bare_and_scored():
    rows = bench_simulation(
        [
            Case("calogan", "gamma", "0.1", 2, engine="calzone"),
            Case("ild-ecal", "gamma", "0.1", 2, points=True, engine="geant4-pybind", field=True),
        ],
        tables="builtin",
        say=lambda text: None,
    )
    for row in rows:
        assert row.bare_ms > 0
        assert row.scored_ms > 0
        assert row.overhead == pytest.approx((row.scored_ms + row.written_ms) / row.bare_ms - 1)


def test_the_cases_can_be_simulated_by_their_engines(capsys):
    for case in DEFAULT_CASES:
        assert case.field == (case.loaded().field is not None)
    assert {case.engine for case in DEFAULT_CASES} == {"calzone", "geant4-pybind"}
    assert main(["bench", "simulation", "--engine", "geant5"]) == 2
    assert "--engine is 'geant5', expected calzone or geant4-pybind" in capsys.readouterr().err
