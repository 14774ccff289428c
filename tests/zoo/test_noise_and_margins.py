"""The likelihood sees what the loss sees, and what a margin makes of empty voxels lies inside the splines."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import pytest
import torch
from model_samples import fit, sparse_showers, toy_detector, training_batch
from torch import Tensor, nn

from caloforge.errors import ConfigError
from caloforge.models import ShowerModel, build_model, load_preset, model_class, model_kinds
from caloforge.nn.flow import ConditionalFlow
from caloforge.parts.distillation import DistillationStage
from caloforge.random import Streams
from caloforge.representation import DequantisationNoise, Logit, LogMargin
from caloforge.stage import GradientStage, TrainingConfig

STREAMS = Streams(2, "noise")
ROWS = 12
TEACHERS = {"caloflow-student": "caloflow", "icaloflow-student": "icaloflow"}
#: The ways in which the noise on voxels and the noise on layer energies can belong together.
NOISES: dict[str, dict[str, Any]] = {
    "layer": {"energy_noise_per": "layer", "drop_voxel": False},
    "voxel": {"energy_noise_per": "voxel", "drop_voxel": False, "energy_noise": 1e-3, "noise": 1e-3},
    "voxel, another width": {"energy_noise_per": "voxel", "drop_voxel": False, "energy_noise": 1e-4, "noise": 1e-3},
    "dropped": {"energy_noise_per": "voxel", "drop_voxel": True, "energy_noise": 1e-3, "noise": 1e-3},
}
KINDS = [
    k for k in model_kinds() if model_class(k).__module__.startswith("caloforge.") and model_class(k).has_likelihood
]
CASES = [(kind, noise) for kind in KINDS for noise in NOISES]


def new_model(kind: str, noise: str) -> ShowerModel:
    """A tiny one in float64, on layers of equal size, two of which share a flow where flows are shared."""
    torch.manual_seed(7)
    wanted = load_preset(f"{kind}-tiny").model | ({} if kind in TEACHERS else NOISES[noise])
    if kind == "l2lflows-conv":
        wanted.pop("drop_voxel")
    inputs = {"teacher": new_model(TEACHERS[kind], noise)} if kind in TEACHERS else {}
    model = build_model(kind, wanted, toy_detector((2, 3), (2, 3), (2, 3)), inputs=inputs)
    fit(model, sparse_showers(model.detector, 40))
    return model.double().eval()


def noise_by_purpose(noise: DequantisationNoise, streams: Streams, rows: Tensor, epoch: int) -> Tensor:
    """Numbers that depend on the row and on whether voxels or layers get them, however many are drawn together."""
    own = streams.purpose.endswith("layers") or (noise.size == 3 and not streams.purpose.endswith("voxels"))
    return ((0.37 * rows.double() + (0.5 if own else 0.1)) % 1)[:, None].expand(-1, noise.size)


@contextmanager
def inputs_of_flows(model: nn.Module) -> Iterator[dict[int, list[Tensor]]]:
    """Collects what every flow's density is asked for, variables beside conditions, by the flow."""
    seen: dict[int, list[Tensor]] = {}
    real = ConditionalFlow.log_prob

    def spy(flow: ConditionalFlow, x: Tensor, context: Tensor | None = None) -> Tensor:
        parts = [x.flatten(1), *([] if context is None else [context.flatten(1)])]
        seen.setdefault(id(flow), []).append(torch.cat(parts, dim=1))
        return real(flow, x, context)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ConditionalFlow, "log_prob", spy)
        yield seen


@torch.no_grad()
@pytest.mark.parametrize(("kind", "noise"), CASES)
def test_every_flow_is_asked_by_the_likelihood_what_it_learnt(
    kind: str, noise: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutation: let ``Dequantisation.noisy_energies`` draw from another stream than the sums of the noisy voxels.

    That was so with ``energy_noise_per: voxel`` and no dropped voxel, for CaloFlow and its student.
    """
    model = new_model(kind, noise)
    monkeypatch.setattr(DequantisationNoise, "draw", noise_by_purpose)
    showers = sparse_showers(model.detector, ROWS, seed=3)
    batch = training_batch(showers, epoch=0)
    with inputs_of_flows(model) as learnt:
        for stage in model.training_stages(TrainingConfig()):
            if isinstance(stage, DistillationStage):
                learnt[id(stage.flow)] = [torch.cat(stage.variables(batch, STREAMS), dim=1)]
            elif isinstance(stage, GradientStage):
                stage.loss("main", batch, STREAMS)
    with inputs_of_flows(model) as asked:
        model.log_prob(showers, STREAMS)
    assert learnt
    # What a student took over was learnt by its teacher, which is a case of its own.
    assert set(learnt) <= set(asked)
    for flow, rows in learnt.items():
        (together,) = rows
        # Layers that share a flow: the loss has those of a shower one behind the other, the likelihood layer by layer.
        assert torch.allclose(torch.stack(asked[flow], dim=1).flatten(0, 1), together, rtol=1e-9, atol=1e-9)


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind not in TEACHERS and kind != "l2lflows-conv"])
def test_a_voxel_is_left_out_only_where_the_sums_are_of_the_same_noise(kind: str) -> None:
    """Mutation: leave ``check_noise`` out; the voxel that is left out then does not follow from the others."""
    changes = {"energy_noise_per": "voxel", "noise": 1e-3, "energy_noise": 2e-3, "drop_voxel": True}
    changes |= {"noise_on": "deposits"} if kind.startswith("caloinn") else {}
    with pytest.raises(ConfigError, match=r"'drop_voxel' needs .* 'energy_noise' equal to 'noise'"):
        build_model(kind, load_preset(f"{kind}-tiny").model | changes, toy_detector((2, 2), (2, 2)))


#: For every flow that sees logits or logarithms: the kind, what to change, and the name that the sentence must hold.
MARGINS: list[tuple[str, dict[str, Any], str]] = [
    ("caloflow", {"alpha": 1e-8, "shapes": {"blocks": 1, "hidden_features": 4, "bound": 21.0}}, "energies"),
    ("caloflow", {"shapes": {"blocks": 1, "hidden_features": 4, "bound": 9.0}}, "shapes"),
    ("caloflow-student", {"shapes": {"blocks": 1, "hidden_features": 4, "bound": 9.0}}, "shapes"),
    ("icaloflow", {"alpha": 1e-8}, "energies"),
    ("icaloflow", {"first": {"blocks": 1, "hidden_features": 4, "bound": 9.0}}, "first"),
    ("icaloflow", {"following": {"blocks": 1, "hidden_features": 4, "bound": 9.0}}, "following"),
    ("icaloflow-student", {"following": {"blocks": 1, "hidden_features": 4, "bound": 9.0}}, "following"),
    ("l2lflows", {"alpha": 1e-8}, "energies"),
    ("l2lflows", {"layer": {"blocks": 1, "hidden_features": 4, "bound": 9.0}}, "layer"),
    ("l2lflows-conv", {"alpha": 1e-8}, "energies"),
    ("caloinn", {"alpha": 1e-10}, "flow"),
    ("caloinn", {"variables": "logarithms", "drop_voxel": False, "log_alpha": 1e-10}, "flow"),
    ("caloinn-factorised", {"energy_alpha": 1e-8}, "energies"),
    ("caloinn-factorised", {"alpha": 1e-10}, "flow"),
]  # fmt: skip


@pytest.mark.parametrize(("kind", "changes", "flow"), MARGINS, ids=[f"{k} {f}" for k, _, f in MARGINS])
def test_a_margin_that_reaches_beyond_the_splines_is_refused(kind: str, changes: dict[str, Any], flow: str) -> None:
    """Mutation: leave out ``check_margin`` at any one of its places; only that of the energies was checked before."""
    with pytest.raises(ConfigError, match=rf"splines of the flow '{flow}', which end at \d+, learn nothing"):
        build_model(kind, load_preset(f"{kind}-tiny").model | changes, toy_detector((2, 2), (2, 2)))


@pytest.mark.parametrize("margin", [Logit(1e-6), LogMargin(1e-8)])
def test_reach_is_the_largest_output(margin: Logit | LogMargin) -> None:
    ends = margin.transform(torch.tensor([0.0, 1.0], dtype=torch.float64))
    assert margin.reach == pytest.approx(float(ends.abs().max()), rel=1e-9)
