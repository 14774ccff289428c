"""Places of representations: where aids put functions around a value."""

from __future__ import annotations

import pytest
import torch
from model_samples import toy_detector

from caloforge.representation import EnergyConditions, Representation, VoxelSettings


class Two(Representation):
    places = ("inner", "outer")


def test_a_value_passes_unchanged_where_nothing_was_put() -> None:
    value = object()
    assert Two().passed("inner", value, 5.0) is value


def test_functions_work_in_their_order_and_at_their_place_only() -> None:
    part, other = Two(), Two()
    part.put("inner", lambda value, other: value + other)
    part.put("inner", lambda value, other: value * other)
    assert part.passed("inner", 3.0, 5.0) == 40.0
    assert part.passed("outer", 3.0, 5.0) == 3.0
    assert other.passed("inner", 3.0, 5.0) == 3.0


def test_there_is_no_place_of_another_name() -> None:
    with pytest.raises(KeyError, match="middle"):
        Two().put("middle", lambda value: value)
    with pytest.raises(KeyError, match="anywhere"):
        Representation().put("anywhere", lambda value: value)


def test_conditions_pass_their_place_whether_layers_are_among_them_or_not() -> None:
    """Mutation: leave out ``passed`` in ``EnergyConditions.incident``; a model of one flow then hears nothing of the aid."""
    conditions = EnergyConditions(VoxelSettings(), toy_detector())
    incident, layers = torch.tensor([2e3, 4e4]), torch.tensor([[1.0, 20.0, 0.0]] * 2)
    plain = conditions.incident(incident), conditions(incident, layers)
    conditions.put("conditions", lambda value: 3 * value)
    assert torch.equal(conditions.incident(incident), 3 * plain[0])
    assert torch.equal(conditions(incident, layers), 3 * plain[1])
