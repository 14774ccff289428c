"""Models whose flows sample in one pass, in the C++ runtime, against their references."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from model_samples import fit, sparse_showers, toy_detector
from runtime_built import Built

from caloforge.conditions import ConditionRange
from caloforge.deployment import export_model
from caloforge.deployment.parity import run_parity
from caloforge.models import ShowerModel, build_model, save_model

FLOW = {"blocks": 3, "hidden_features": 12, "layers": 3}
SMALL = {"blocks": 2, "hidden_features": 12, "hidden_layers": 1}
#: Name: kind, aids and settings.
LOGS = {"variables": "logarithms", "condition": "published"}
COUPLING: dict[str, tuple[str, tuple[Any, ...], dict[str, Any]]] = {
    "logits": ("caloinn", (), {"flow": FLOW, "energy_scale": 1.2}),
    "noise on deposits, 8 bins": (
        "caloinn",
        (),
        {"flow": FLOW | {"bins": 8}, "noise_on": "deposits", "energy_fractions": "single"},
    ),
    "logarithms of layers, cubic": (
        "caloinn",
        (),
        LOGS | {"flow": FLOW | {"spline": "cubic", "permutations": "reverse"}},
    ),
    "logarithms of showers, whole events": (
        "caloinn",
        (),
        LOGS
        | {"flow": FLOW | {"act_norm": False, "bound": 18.0, "bins": 7}, "shares_of": "shower", "outside": "event"},
    ),
    "one linear layer": ("caloinn", (), {"flow": FLOW | {"layers": 1}}),
    "batch norm": ("caloinn", (), {"flow": FLOW | {"batch_norm": True, "dropout": 0.1}}),
    "emphasis": ("caloinn", ({"kind": "emphasis", "factor": 3.0},), {"flow": FLOW}),
    "in two steps": (
        "caloinn-factorised",
        ({"kind": "emphasis", "factor": 4.0},),
        {"flow": FLOW, "energies": SMALL, "energy_fractions": "single"},
    ),
}


def stirred(model: ShowerModel) -> ShowerModel:
    """A model with outputs unlike each other: as they begin, splines are the identity and norms do nothing."""
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.endswith(("mean", "log_scale")):
                parameter.normal_(0, 0.1)
            elif bool((parameter == 0).all()):
                parameter.normal_(0, 0.3)
        for name, buffer in model.named_buffers():
            if "running_mean" in name:
                buffer.normal_(0, 0.3)
            elif "running_var" in name:
                buffer.uniform_(0.5, 2)
        for made in (m for m in model.modules() if hasattr(m, "apply_mask")):
            made.apply_mask()
    return model.eval()


def checked(model: ShowerModel, built: Built, folder: Path) -> None:
    save_model(folder / "model", model, ConditionRange(particle=22, incident_energy=(1e3, 9e4)))
    done = export_model(folder / "model", "cpp", folder / "out", verify=False, showers=40)
    result = run_parity(built.parity, done.path)
    assert result.passed, result.text


@pytest.mark.parametrize("name", list(COUPLING))
def test_coupling_flows_of_every_sort(name: str, built: Built, tmp_path: Path) -> None:
    """Mutation: any of the branches of caloinn.cpp and onepass.cpp as another one."""
    kind, aids, settings = COUPLING[name]
    torch.manual_seed(3)
    detector = toy_detector()
    model = build_model(kind, settings, detector, aids=list(aids))
    fit(model, sparse_showers(detector, 60))
    checked(stirred(model), built, tmp_path)


@pytest.mark.parametrize("layers", [0, 2])
def test_a_student_of_caloflow(layers: int, built: Built, tmp_path: Path) -> None:
    """Mutation: the context behind the activation, or permutations in the other direction."""
    torch.manual_seed(5)
    detector = toy_detector()
    teacher = build_model("caloflow", {"energies": SMALL, "shapes": SMALL, "energy_scale": 1.2}, detector)
    own = teacher.config.model_dump(mode="json")
    sizes = SMALL | {"hidden_layers": layers, "blocks": 3}
    student = build_model("caloflow-student", {"teacher": own, "shapes": sizes, "guidance": "end-points"}, detector)
    checked(stirred(student), built, tmp_path)


EVEN = toy_detector((3, 3), (3, 3), (3, 3))
INDUCTIVE: dict[str, dict[str, Any]] = {
    "logarithms": {"energy_scale": 1.2},
    "as published": {
        "energies_relative_to": "fixed",
        "energy_reference": 1e3,
        "conditions": "logits",
        "postprocessing": "multiply",
        "masks": "published",
        "noise": 0.02,
    },
}


@pytest.mark.parametrize("name", list(INDUCTIVE))
def test_icaloflow_of_every_sort(name: str, built: Built, tmp_path: Path) -> None:
    """Mutation: the energies of the two layers exchanged, the number of the layer one off, or noise of another stream."""
    torch.manual_seed(7)
    settings = {"energies": SMALL, "first": SMALL, "following": SMALL} | INDUCTIVE[name]
    checked(stirred(build_model("icaloflow", settings, EVEN)), built, tmp_path)


def test_a_student_of_icaloflow(built: Built, tmp_path: Path) -> None:
    torch.manual_seed(8)
    sizes = {"energies": SMALL, "first": SMALL, "following": SMALL}
    own = build_model("icaloflow", sizes | {"energy_scale": 1.2}, EVEN).config.model_dump(mode="json")
    student = build_model("icaloflow-student", {"teacher": own, "first": SMALL, "following": SMALL}, EVEN)
    checked(stirred(student), built, tmp_path)


LAYERED: dict[str, tuple[Any, dict[str, Any]]] = {
    "different layers": (toy_detector(), {"previous": 1}),
    "shared": (EVEN, {"share": True, "previous": 2}),
    "single voxels, none before": (toy_detector((3, 3), (1, 1), (2, 2)), {"previous": 0}),
}


@pytest.mark.parametrize("name", list(LAYERED))
def test_l2lflows_of_every_sort(name: str, built: Built, tmp_path: Path) -> None:
    """Mutation: layers before it in another order, those that are missing behind the others, or another layer's place."""
    torch.manual_seed(9)
    detector, settings = LAYERED[name]
    sizes = {"energies": SMALL, "layer": SMALL, "embedding": {"hidden_features": 9, "features": 5}, "energy_scale": 1.2}
    checked(stirred(build_model("l2lflows", sizes | settings, detector)), built, tmp_path)
