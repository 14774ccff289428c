"""Initial weights of students from their teachers."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from model_samples import Rows, fit, sparse_showers, toy_detector, training_batch

from caloforge.errors import ConfigError
from caloforge.models import build_model
from caloforge.parts.distillation import DistillationStage
from caloforge.random import Streams
from caloforge.stage import GradientStage, TrainingConfig

STREAMS = Streams(7, "student")
SIZE: dict[str, Any] = {"blocks": 2, "hidden_features": 24}
FLOWS = {"caloflow": ("shapes",), "icaloflow": ("first", "following")}


@pytest.mark.parametrize("kind", FLOWS)
def test_the_mean_spline_of_the_teacher_is_a_better_start_than_random_weights(kind: str) -> None:
    detector = toy_detector((2, 3), (3, 2), (1, 6))
    showers = sparse_showers(detector, 200)
    torch.manual_seed(1)
    sizes = {"energies": SIZE} | dict.fromkeys(FLOWS[kind], SIZE)
    master = build_model(kind, sizes, detector, aids=[{"kind": "marginal-start"}]).eval()
    fit(master, showers)
    with torch.no_grad():
        for stage in master.training_stages(TrainingConfig()):
            if isinstance(stage, GradientStage):
                stage.begin(Rows(showers), STREAMS)
    divergence: dict[bool, dict[str, float]] = {}
    for helped in (False, True):
        torch.manual_seed(2)
        pupil = build_model(
            f"{kind}-student",
            dict.fromkeys(FLOWS[kind], SIZE),
            detector,
            aids=[{"kind": "teacher-start"}] if helped else [],
            inputs={"teacher": master},
        ).eval()
        fit(pupil, showers)
        divergence[helped] = {}
        for stage in pupil.training_stages(TrainingConfig()):
            if isinstance(stage, DistillationStage):
                before = {name: value.clone() for name, value in stage.state().items()}
                with torch.no_grad():
                    stage.begin(Rows(showers), STREAMS)
                    divergence[helped][stage.name] = float(stage.validate(training_batch(showers), STREAMS)["kl"])
                same = all(torch.equal(value, before[name]) for name, value in stage.state().items())
                assert same is not helped
    assert tuple(divergence[True]) == FLOWS[kind]
    for name, value in divergence[True].items():
        assert value < 0.5 * divergence[False][name]


@pytest.mark.parametrize(
    ("kind", "changes"), [("caloflow-student", {"guidance": "end-points"}), ("caloflow", {}), ("l2lflows", {})]
)
def test_a_model_without_guidance_is_refused(kind: str, changes: dict[str, Any]) -> None:
    """Without it student and teacher may differ in their blocks, so there is nothing to take a mean of."""
    with pytest.raises(ConfigError, match=f"'teacher-start' does not suit the model '{kind}', which no teacher guides"):
        build_model(kind, changes, toy_detector(), aids=[{"kind": "teacher-start"}])
