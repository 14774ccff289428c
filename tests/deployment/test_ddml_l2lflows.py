"""The double of DDML's L2LFlows against hand-made outputs, where positions and energies are known; then our export."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import Constant, torch_file
from model_samples import toy_detector

from caloforge.cli.main import main
from caloforge.conditions import ConditionRange
from caloforge.deployment import export_model
from caloforge.deployment.hosts.ddml import Barrel, L2LFlows
from caloforge.deployment.targets import ddml_l2lflows as target
from caloforge.detectors import load_detector
from caloforge.errors import GenerationError, UsageError
from caloforge.models import ShowerModel, build_model, load_model, save_model

INPUT = [torch.ones(1, 4)]
DEPTHS = tuple(10.0 * k + 5 for k in range(30))
INWARDS = np.array([0.0, 0.0, 1.0])
CELLS = 30 * 90 * 90


def hot(layer: int, i: int, j: int, value: float = 0.002, size: int = CELLS) -> torch.Tensor:
    made = torch.zeros(size)
    made[(layer * 90 + i) * 90 + j] = value
    return made


def host(tmp_path: Path, output: torch.Tensor, how: str = "") -> L2LFlows:
    return L2LFlows(torch_file(tmp_path / "m.pt", Constant(output, how), INPUT), Barrel(DEPTHS))


def test_one_hot_cell_becomes_a_hit_at_its_place(tmp_path: Path) -> None:
    """Mutation: x and y exchanged, a sign, GeV for MeV, or a layer that is not moved along the direction."""
    double, pitch = host(tmp_path, hot(7, 45, 60)), 5.088333 / 3
    cells = double.cells(20e3, INWARDS)
    assert cells[7, 45, 60] == pytest.approx(2)
    spots = double.spots(cells, INWARDS, np.random.default_rng(0))
    assert (spots.layer.tolist(), spots.energy.tolist()) == ([7], [pytest.approx(2)])
    (x, y, z) = spots.place[0]
    assert 1.48446 - pitch <= x <= 1.48446
    assert 0.67168 - 16 * pitch <= y <= 0.67168 - 15 * pitch
    assert z == 75
    # The same numbers, moved by the depth times the slope.
    moved = double.spots(cells, np.array([0.6, 0.0, 0.8]), np.random.default_rng(0))
    np.testing.assert_allclose(moved.place - spots.place, [[75 * 0.75, 0, 0]])


def test_cells_of_the_readout_are_those_of_the_host(tmp_path: Path) -> None:
    """Corners of the grid: places of the host, turned by half a turn, lie in the voxel of that number."""
    readout = load_detector("ild-ecal/90x90").readout
    for where in ((0, 0, 0), (0, 89, 0), (29, 0, 89), (29, 89, 89)):
        double = host(tmp_path, hot(*where))
        cells = double.cells(1e3, INWARDS)
        for seed in range(5):
            x, y, _ = double.spots(cells, INWARDS, np.random.default_rng(seed)).place.T
            assert readout.voxel_index(-x, -y, [where[0]]).tolist() == [(where[0] * 90 + where[1]) * 90 + where[2]]


def test_faint_cells_are_dropped(tmp_path: Path) -> None:
    double = host(tmp_path, hot(1, 2, 3, 0.9e-5))
    assert len(double.spots(double.cells(1e3, INWARDS), INWARDS, np.random.default_rng(0)).energy) == 0


def test_the_input_is_that_of_the_host(tmp_path: Path) -> None:
    """Mutation: the direction as it is."""

    class Echo(torch.nn.Module):
        def forward(self, numbers: torch.Tensor) -> torch.Tensor:
            return torch.cat([numbers.flatten(), torch.zeros(CELLS - 4)])

    double = L2LFlows(torch_file(tmp_path / "m.pt", Echo(), INPUT), Barrel(DEPTHS))
    cells = double.cells(20e3, np.array([0.48, -0.36, 0.8]))
    np.testing.assert_allclose(cells[0, 0, :4] / 1000, [20, -0.48, 0.36, 0.8], rtol=1e-6)


@pytest.mark.parametrize(
    ("output", "how", "words"),
    [
        (hot(0, 0, 0, size=CELLS - 1), "", "beyond its end"),
        (hot(0, 0, 0), "not contiguous", "not contiguous"),
        (hot(0, 0, 0), "two outputs", "several outputs"),
        (hot(0, 0, 0, np.inf), "", "no number"),
        (hot(0, 0, 0).half(), "", "float16"),
    ],
)
def test_what_the_host_would_misuse_is_refused(tmp_path: Path, output: torch.Tensor, how: str, words: str) -> None:
    with pytest.raises(GenerationError, match=words):
        host(tmp_path, output, how).cells(1e3, INWARDS)


# ---- our export -----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def layers(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """As small as can be: one step without a U-Net, of few channels, that all layers share, with random weights."""
    torch.manual_seed(4)
    sizes = {
        "share": True, "steps": 1, "hidden_channels": 2, "context_channels": 1, "levels": 0, "previous": 1, "bins": 2,
        "energies": {"blocks": 1, "hidden_features": 8, "hidden_layers": 1}, "batch_norm": False, "energy_scale": 0.05,
    }  # fmt: skip
    model: ShowerModel = build_model("l2lflows-conv", sizes, load_detector("ild-ecal/90x90"))
    folder = tmp_path_factory.mktemp("l2l") / "m"
    save_model(folder, model.eval(), ConditionRange(particle=22, incident_energy=(1e4, 9e4)))
    return folder


@pytest.mark.slow
def test_our_export_runs_in_it(layers: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Mutation: cells of a layer transposed."""
    out = tmp_path / "out"
    assert main(["export", str(layers), "--target", "ddml-l2lflows", "--out", str(out), "--showers", "2"]) == 0
    assert "outside all cells" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.pt", "parity.json", "steering.py"]
    steering = runpy.run_path(str(out / "steering.py"))
    assert steering["model_properties"]["CorrectForAngles"] is True  # the host moves its layers
    assert steering["trigger_properties"]["Etrigger"] == {"gamma": 1e4}
    double = L2LFlows(out / "model.pt", Barrel(DEPTHS))
    shots = [double.cells(2e4, INWARDS) for _ in range(2)]
    assert shots[0].sum() > 100
    assert (shots[0] != shots[1]).any()

    run = double.graph.run

    def transposed(inputs: Any) -> Any:
        return run(inputs).reshape(30, 90, 90).transpose(0, 2, 1).ravel()

    double.graph.run = transposed  # type: ignore[method-assign]
    assert "at the threshold" in target._compared(double, layers, load_model(layers), 1, 1).reason()


def test_what_it_cannot_have_is_refused_with_what_can(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="504 features would be 504 passes"):
        export_model("calogan-gamma", "ddml-l2lflows", tmp_path / "out")
    sizes = {
        "steps": 1,
        "hidden_channels": 2,
        "levels": 0,
        "energies": {"blocks": 1, "hidden_features": 8, "hidden_layers": 1},
    }
    model = build_model("l2lflows-conv", sizes | {"energy_scale": 1.0}, toy_detector())
    save_model(tmp_path / "m", model.eval(), ConditionRange(particle=22, incident_energy=(1e4, 9e4)))
    with pytest.raises(UsageError, match=r"cells of 'ild-ecal/90x90'.*'toy'.*ddml-caloclouds"):
        export_model(tmp_path / "m", "ddml-l2lflows", tmp_path / "out")
