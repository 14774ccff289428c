"""Conditions, and the range of conditions that a model was trained for."""

from __future__ import annotations

import numpy as np
import pytest

from caloforge.errors import UsageError
from caloforge.models import ConditionRange, Conditions


def asked(*energies: float, particle: int = 22, direction: np.ndarray | None = None) -> Conditions:
    return Conditions.first(np.asarray(energies), particle, direction=direction)


def test_rows_keep_their_numbers_and_attempts() -> None:
    conditions = Conditions.first(np.arange(1.0, 6.0), 22, start=7).again()
    chosen = conditions[np.array([4, 0])]
    assert chosen.index.tolist() == [11, 7]
    assert chosen.attempt.tolist() == [1, 1]
    assert chosen.incident_energy.tolist() == [5.0, 1.0]
    assert len(conditions[conditions.incident_energy > 3]) == 2


def test_shapes_are_checked() -> None:
    one = np.zeros(1, dtype=np.int64)
    with pytest.raises(UsageError, match="as many energies"):
        Conditions(np.ones(2), 22, one, one)
    with pytest.raises(UsageError, match="directions have shape"):
        asked(1.0, direction=np.zeros((2, 3), dtype=np.float32))


def test_no_direction_means_along_z() -> None:
    assert asked(1.0, 2.0).tensors()["direction"].tolist() == [[0, 0, 1], [0, 0, 1]]


# Fixed seeds: the end is missed once in a thousand cases, and a search for such a case would find it.
@pytest.mark.parametrize("rows", [300, 7000])
@pytest.mark.parametrize("seed", [0, 1, 2, 3, 4, 5, 6, 7])
def test_the_range_reaches_the_ends_of_the_spectrum_that_was_sampled(seed: int, rows: int) -> None:
    energies = np.random.default_rng(seed).uniform(1e3, 1e5, rows)
    low, high = ConditionRange.of(22, energies).incident_energy
    assert low <= 1e3 * 1.001
    assert high >= 1e5 * 0.9999
    assert low > 1e3 - 60 * 1e5 / rows
    assert high < 1e5 + 60 * 1e5 / rows


def test_discrete_energies_are_not_widened() -> None:
    assert ConditionRange.of(22, np.repeat([256.0, 512.0, 1024.0], 50)).incident_energy == (256.0, 1024.0)


def test_energies_outside_are_refused_with_both_numbers() -> None:
    valid = ConditionRange(particle=22, incident_energy=(1e3, 1e5))
    valid.check(asked(1e3, 1e5))
    with pytest.raises(UsageError, match="trained from 1 GeV to 100 GeV, an energy of 200 GeV is outside"):
        valid.check(asked(5e4, 2e5))
    assert valid.outside(asked(5e4, 2e5, 500.0)).tolist() == [False, True, True]


def test_another_particle_is_refused_by_name() -> None:
    valid = ConditionRange(particle=22, incident_energy=(1e3, 1e5))
    with pytest.raises(UsageError, match=r"trained for gamma, showers of e\+ were asked for"):
        valid.check(asked(5e4, particle=-11))
    assert valid.outside(asked(5e4, particle=-11)).all()


def test_directions() -> None:
    slanted = np.array([[0.0, 0.6, 0.8], [0.0, 0.0, 1.0]], dtype=np.float32)
    along_z = ConditionRange(particle=22, incident_energy=(1e3, 1e5))
    assert along_z.outside(asked(5e4, 5e4, direction=slanted)).tolist() == [True, False]
    with pytest.raises(UsageError, match="1 directions are outside"):
        along_z.check(asked(5e4, 5e4, direction=slanted))
    both = ConditionRange.of(22, np.linspace(1e3, 1e5, 2), slanted)
    assert not both.outside(asked(5e4, 5e4, direction=slanted)).any()
    assert both.outside(asked(5e4, direction=np.array([[0.8, 0.0, 0.6]], dtype=np.float32))).all()


def test_no_rows_have_no_range() -> None:
    with pytest.raises(UsageError, match="no training rows"):
        ConditionRange.of(22, [])
