"""Conditions multiplied by a number: wherever energies are among them, and nowhere else."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
import torch
from model_samples import fit, sparse_showers, toy_detector, training_batch

from caloforge.errors import ConfigError
from caloforge.models import Conditions, ShowerModel, build_model, load_preset
from caloforge.parts.distillation import DistillationStage
from caloforge.parts.flows import FlowStage
from caloforge.random import Streams
from caloforge.showers import Showers
from caloforge.stage import TrainingConfig

STREAMS = Streams(5, "emphasis")
EMPHASIS = {"kind": "emphasis", "factor": 4.0}
#: How many of the conditions of a flow are energies: those of the flow of the energies have a condition of their own.
ENERGIES = {"caloflow": 4, "caloinn": 1, "caloinn-factorised": 4, "l2lflows": 2, "l2lflows-conv": 2}
EQUAL = toy_detector((2, 2), (2, 2), (2, 2))


def tiny(kind: str, *aids: dict[str, Any], inputs: dict[str, ShowerModel] | None = None) -> ShowerModel:
    torch.manual_seed(3)
    model = build_model(kind, load_preset(f"{kind}-tiny").model, EQUAL, aids=aids, inputs=inputs).eval()
    fit(model, sparse_showers(EQUAL, 40))
    return model


@pytest.mark.parametrize("kind", ENERGIES)
def test_energies_among_the_conditions_are_multiplied(kind: str) -> None:
    batch = training_batch(sparse_showers(EQUAL, 20))
    seen = []
    for aids in ((), (EMPHASIS,)):
        (stage,) = (s for s in tiny(kind, *aids).training_stages(TrainingConfig())[-1:] if isinstance(s, FlowStage))
        seen.append(stage.variables(batch, STREAMS))
    (plain_y, plain), (y, emphasised) = seen
    number = ENERGIES[kind]
    assert torch.equal(y, plain_y)
    torch.testing.assert_close(emphasised[:, :number], 4 * plain[:, :number], rtol=1e-6, atol=0)
    assert torch.equal(emphasised[:, number:], plain[:, number:])


@pytest.mark.parametrize("kind", [*ENERGIES, "icaloflow"])
def test_showers_and_likelihood_have_it_too(kind: str) -> None:
    """With the same weights it is another model."""
    plain, emphasised = tiny(kind), tiny(kind, EMPHASIS)
    with torch.no_grad():
        for one, other in zip(plain.parameters(), emphasised.parameters(), strict=True):
            other.copy_(one.add_(0.1 * torch.randn_like(one)))
    conditions, showers = Conditions.first(np.linspace(2e3, 9e4, 10), 22), sparse_showers(EQUAL, 10)
    one, other = (m.decode(conditions, m.latents(conditions, STREAMS))[0] for m in (plain, emphasised))
    assert isinstance(one, Showers)
    assert isinstance(other, Showers)
    assert not np.allclose(one.deposits, other.deposits)
    assert not torch.allclose(plain.log_prob(showers, STREAMS), emphasised.log_prob(showers, STREAMS))


def test_a_student_makes_showers_with_the_aids_of_its_teacher() -> None:
    """Mutation: leave out the comparison in ``DistilledModel.attach``; the teacher then gets conditions that it never saw."""
    master = tiny("caloflow", EMPHASIS, {"kind": "marginal-start"})
    inputs = {"teacher": master}
    refusal = "the teacher makes showers with the help of emphasis factor=4.0, the student with that of none"
    with pytest.raises(ConfigError, match=refusal):
        tiny("caloflow-student", inputs=inputs)
    with pytest.raises(ConfigError, match=r"the student with that of emphasis factor=2.0; name the same 'aids'"):
        tiny("caloflow-student", {"kind": "emphasis", "factor": 2.0}, inputs=inputs)
    with pytest.raises(ConfigError, match=r"with the help of none, the student with that of emphasis factor=4.0"):
        tiny("caloflow-student", EMPHASIS, inputs={"teacher": tiny("caloflow")})
    pupil = tiny("caloflow-student", EMPHASIS, inputs=inputs)
    batch = training_batch(sparse_showers(EQUAL, 20))
    (stage,) = (s for s in pupil.training_stages(TrainingConfig()) if isinstance(s, DistillationStage))
    (learnt,) = (s for s in master.training_stages(TrainingConfig()) if isinstance(s, FlowStage) and s.name == "shapes")
    for one, other in zip(stage.variables(batch, STREAMS), learnt.variables(batch, STREAMS), strict=True):
        assert torch.equal(one, other)


@pytest.mark.parametrize("factor", [0.0, -1.0])
def test_a_factor_that_is_not_positive_is_refused(factor: float) -> None:
    with pytest.raises(ConfigError, match="aids, 'emphasis': at 'factor' input should be greater than 0"):
        tiny("caloinn", {"kind": "emphasis", "factor": factor})
