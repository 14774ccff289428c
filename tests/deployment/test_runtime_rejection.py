"""Showers that the aid 'rejection' judges, in the C++ runtime: the same ones stay as in Python, and the next ones are drawn."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from model_samples import sparse_showers, toy_detector
from runtime_built import Built
from runtime_exports import DIRECTIONS, checked, damaged, exported
from runtime_library import DAMAGED, FAILED, OK, REDRAWN, particles, with_changes
from safetensors.torch import load_file
from torch import nn

from caloforge.aids.rejection import Rejection
from caloforge.conditions import Conditions
from caloforge.detectors import Detector, load_detector
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import build_model, load_model
from caloforge.showers import Showers
from caloforge.testing import fit_stages

AID = {"kind": "rejection", "most": 2.0, "networks": 3, "hidden": 10}
POLAR = load_detector("par04-ds2")


def sure(folder: Path, kind: str, detector: Detector, direction: object = None) -> Path:
    """An export of a model whose classifier knows nothing, but is sure of it."""
    torch.manual_seed(4)
    settings = {}
    if kind == "caloflow":
        settings = {name: {"blocks": 1, "hidden_features": 6, "hidden_layers": 1} for name in ("energies", "shapes")}
    model = build_model(kind, settings, detector, aids=[AID]).eval()
    fit_stages(model, sparse_showers(detector, 60))
    aid = model.aids["rejection"]
    assert isinstance(aid, Rejection)
    for network in aid.networks:
        assert isinstance(network, nn.Sequential)
        torch.nn.init.normal_(network[-1].weight, std=0.5)  # type: ignore[arg-type]
    particle = 11 if kind == "gflash" else 22
    return exported(folder, model, particle=particle, direction=direction, showers=60)


@pytest.mark.parametrize(
    ("kind", "detector", "direction"),
    [
        ("caloflow", toy_detector(), None),
        ("pca-parametrisation", toy_detector((2, 2), (3, 3), (1, 1)), None),
        ("shower-library", toy_detector(), None),
        ("gflash", POLAR, DIRECTIONS),
    ],
)
def test_the_same_showers_stay(kind: str, detector: Detector, direction: object, built: Built, tmp_path: Path) -> None:
    """Mutation: any feature, the order of the random numbers, an activation behind the last layer, ``most`` left out."""
    folder = sure(tmp_path, kind, detector, direction)
    valid = load_file(folder / "parity.safetensors")["valid"]
    assert 0.1 < valid.double().mean() < 0.9
    checked(built, folder)


def test_what_is_drawn_again_is_what_python_draws(built: Built, tmp_path: Path) -> None:
    folder = sure(tmp_path, "pca-parametrisation", toy_detector())
    opened = built.library.opened(folder / "model")
    asked = np.linspace(2e3, 8e4, 80)
    made, status = opened.generate(particles(asked), 5, np.arange(80, dtype=np.uint64))
    opened.close()
    assert set(status.tolist()) == {OK, REDRAWN}
    python = sample_showers(load_model(tmp_path / "model"), Conditions.first(asked, 22), generation_streams(5)).showers
    assert isinstance(python, Showers)
    np.testing.assert_allclose(made, python.deposits, rtol=1e-5, atol=1e-6 * asked.max())


def test_a_shower_that_is_rejected_too_often_is_empty(built: Built, tmp_path: Path) -> None:
    """Mutation: leave the last rejected shower where it is."""
    folder = sure(tmp_path, "pca-parametrisation", toy_detector())

    def never(bias: torch.Tensor) -> torch.Tensor:
        return torch.full_like(bias, -1e9)

    for network in range(3):
        damaged(folder, f"rejection.{network}.2.bias", never)
    opened = built.library.opened(folder / "model")
    made, status = opened.generate(particles([2e3, 8e4]), 5, np.arange(2, dtype=np.uint64))
    opened.close()
    assert status.tolist() == [FAILED, FAILED]
    assert (made == 0).all()


def refusal(built: Built, folder: Path) -> tuple[int, bool]:
    code, model, message = built.library.open(folder)
    assert model is None
    return code, bool(message)


def test_damaged_classifiers_are_refused(built: Built, tmp_path: Path) -> None:
    """Mutation: leave out a check; the runtime then reads beyond a tensor, or divides by zero."""
    export = sure(tmp_path, "pca-parametrisation", toy_detector())
    folder = export / "model"
    own = json.loads((folder / "runtime.json").read_text())["rejection"]
    for change in ({"networks": 4}, {"hidden": 11}, {"ranks": 0}, {"steps": []}, {"most": 0}, {"steps": [0.0]}):
        with_changes(folder, rejection=own | change)
        assert refusal(built, folder) == (DAMAGED, True)
    with_changes(folder, rejection=own)
    for name, change in (("rejection.scale", torch.zeros_like), ("rejection.1.1.weight", lambda _: None)):
        copy = Path(shutil.copytree(export, tmp_path / name))
        assert refusal(built, damaged(copy, name, change)) == (DAMAGED, True)
