"""The double of Par04 against hand-made outputs, where positions and energies are known; then our export in it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hand_made import Constant, onnx_file, torch_file
from model_samples import fit, sparse_showers, toy_detector

from caloforge.cli.main import main
from caloforge.conditions import ConditionRange
from caloforge.deployment import export_model
from caloforge.deployment.hosts.par04 import Mesh, Par04
from caloforge.deployment.targets import par04
from caloforge.detectors import Detector, detector_from_toml, load_detector
from caloforge.errors import GenerationError, UsageError
from caloforge.models import ShowerModel, build_model, save_model

MESH = Mesh(rho=3, phi=4, z=5, size_rho=4.0, size_z=10.0)
INPUT = [torch.zeros(8)]
ALONG_X, NOWHERE = np.array([1.0, 0.0, 0.0]), np.zeros(3)
POLAR = """
name = "barrel"
analysis_threshold = 0.010

[gun]
particles = ["e-"]
energy = "1:100"

[stack]
kind = "cylindrical"
inner_radius = 800.0
lateral = [3000.0]
deposits = "all"
groups = [{ repeat = 3, plates = [{ material = "G4_PbWO4", thickness = 10.0, active = true }] }]

[[readout.layers]]
repeat = 3
depth = [0.0, 10.0]
r = { bins = 3, range = [0.0, 12.0] }
alpha = ALPHA
"""


def hot(cell: int, value: float = 0.5, size: int = MESH.cells) -> torch.Tensor:
    made = torch.zeros(size)
    made[cell] = value
    return made


def host(tmp_path: Path, output: torch.Tensor, how: str = "") -> Par04:
    return Par04(torch_file(tmp_path / "m.pt", Constant(output, how), INPUT), MESH)


def test_one_hot_cell_becomes_a_hit_at_its_place(tmp_path: Path) -> None:
    """Ring 1, sector 2, slice 3. Mutation: another order of the cells, or another frame of the host."""
    double = host(tmp_path, hot((1 * 4 + 2) * 5 + 3))
    cells = double.energies(20e3, ALONG_X)
    assert cells.sum() == pytest.approx(500)  # GeV to MeV
    # Radius 6, angle 45 degrees, depth 35; x of the frame points against the world's z, y along its y.
    side = 6 / np.sqrt(2)
    hits = double.hits(cells, ALONG_X, np.array([800.0, 0, 0]))
    np.testing.assert_allclose(hits.place, [[835, side, -side]], atol=1e-9)
    assert (hits.energy.tolist(), hits.cell.tolist()) == ([pytest.approx(500)], [[1, 2, 3]])
    # Up: x and y of the world again, turned by atan2(0, 0) = 0.
    np.testing.assert_allclose(double.hits(cells, np.array([0.0, 0, 1]), NOWHERE).place, [[side, side, 35]], atol=1e-9)


def test_faint_cells_are_dropped(tmp_path: Path) -> None:
    double = host(tmp_path, hot(0, 0.4e-6))
    assert len(double.hits(double.energies(1e3, ALONG_X), ALONG_X, NOWHERE).energy) == 0


def test_the_input_is_that_of_calodit(tmp_path: Path) -> None:
    class Echo(torch.nn.Module):
        def forward(self, numbers: torch.Tensor) -> torch.Tensor:
            return torch.cat([numbers.abs(), torch.zeros(52)])

    double = Par04(torch_file(tmp_path / "m.pt", Echo(), INPUT), MESH)
    cells = double.energies(20e3, np.array([0.0, -0.6, 0.8])) / 1000
    np.testing.assert_allclose(cells[:8], [20, np.pi / 2, np.arccos(0.8), 1, 0, 0, 0, 0], rtol=1e-6)


@pytest.mark.parametrize(
    ("output", "how", "words"),
    [
        (hot(0), "two outputs", "several outputs"),
        (hot(0), "not contiguous", "not contiguous"),
        (hot(0, np.nan), "", "no number"),
        (hot(0, size=59), "", "gives 59 numbers; the host reads 60, beyond its end"),
        (hot(0, size=61), "", "reads 60, only its beginning"),
        (hot(0).double(), "", "float64"),
        (hot(0, -1.0), "", "negative"),
    ],
)
def test_what_the_host_would_misuse_is_refused(tmp_path: Path, output: torch.Tensor, how: str, words: str) -> None:
    with pytest.raises(GenerationError, match=words):
        host(tmp_path, output, how).energies(1e3, ALONG_X)


def test_files_that_are_none_of_its_own_are_refused(tmp_path: Path) -> None:
    (tmp_path / "m.pt").write_text("no module")
    with pytest.raises(GenerationError, match=r"libtorch cannot read 'm\.pt'"):
        Par04(tmp_path / "m.pt", MESH)
    with pytest.raises(GenerationError, match="ends neither"):
        Par04(tmp_path / "m.pth", MESH)
    values = hot(7).tolist()
    with pytest.raises(GenerationError, match="2 inputs, the host hands over 1"):
        Par04(onnx_file(tmp_path / "a.onnx", {"z": [1, 10], "x": [1, 4]}, values), MESH)
    with pytest.raises(GenerationError, match="2 outputs"):
        Par04(onnx_file(tmp_path / "b.onnx", {"x": [1, 8]}, values, outputs=2), MESH)
    with pytest.raises(GenerationError, match=r"'x' is tensor\(float\) \[1, 14\]"):
        Par04(onnx_file(tmp_path / "c.onnx", {"x": [1, 14]}, values), MESH)
    fine = Par04(onnx_file(tmp_path / "d.onnx", {"x": [1, 8]}, values), MESH)
    assert np.flatnonzero(fine.energies(1e3, ALONG_X)).tolist() == [7]


# ---- our export -----------------------------------------------------------------------------------------------------


def saved(folder: Path, detector: Detector, kind: str = "caloinn-factorised") -> Path:
    torch.manual_seed(3)
    sizes: dict[str, Any] = {"flow": {"blocks": 2, "hidden_features": 8, "layers": 2}}
    if kind == "caloinn-factorised":
        sizes |= {"energies": {"blocks": 2, "hidden_features": 8, "hidden_layers": 1}, "energy_fractions": "single"}
    model: ShowerModel = build_model(kind, sizes, detector)
    fit(model, sparse_showers(detector, 60))
    save_model(folder, model.eval(), ConditionRange(particle=11, incident_energy=(1e3, 9e4)))
    return folder


@pytest.fixture(scope="module")
def barrel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(
        tmp_path_factory.mktemp("par04") / "m", detector_from_toml(POLAR.replace("ALPHA", "8"), where="barrel")
    )


def test_our_export_runs_in_it(
    barrel: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """In any direction in the world, hits lie in the voxels that the model lit; what lies elsewhere is not written."""
    out = tmp_path / "out"
    assert main(["export", str(barrel), "--target", "par04", "--out", str(out), "--showers", "10"]) == 0
    assert "outside all voxels" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.mac", "model.pt", "parity.json"]
    macro = (out / "model.mac").read_text()
    assert "setNbOfPhiCells 8" in macro
    assert "setSizeOfRhoCells 4 mm" in macro
    # The library opens the file at once, so its line stands behind all others of the inference.
    assert [line for line in macro.splitlines() if "/inference/" in line][-1].endswith("setInferenceLibrary TORCH")

    double = Par04(out / "model.pt", par04.mesh_of(detector_from_toml(POLAR.replace("ALPHA", "8"), where="b")))
    shots = [double.energies(20e3, ALONG_X) for _ in range(2)]
    assert (shots[0] != shots[1]).any()  # random numbers are no constants

    forward = par04._Graph.forward

    def transposed(self: par04._Graph, numbers: torch.Tensor) -> torch.Tensor:
        return forward(self, numbers).view(3, 8, 3).permute(2, 1, 0).contiguous().view(-1)

    monkeypatch.setattr(par04._Graph, "forward", transposed)
    with pytest.raises(GenerationError, match="difference / energy"):
        export_model(barrel, "par04", tmp_path / "wrong", showers=3)
    monkeypatch.setattr(par04._Graph, "forward", lambda self, numbers: torch.roll(forward(self, numbers), 3))
    with pytest.raises(GenerationError, match="difference / energy"):
        export_model(barrel, "par04", tmp_path / "turned", showers=3)
    assert not (tmp_path / "turned").exists()


def test_what_it_cannot_have_is_refused_with_what_can(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="504 features would be 504 passes"):
        export_model("calogan-gamma", "par04", tmp_path / "out")
    with pytest.raises(UsageError, match=r"Par04's mesh has equal rings.*'toy' are others.*target='onnx'"):
        export_model(saved(tmp_path / "boxes", toy_detector(), "caloinn"), "par04", tmp_path / "out")
    with pytest.raises(UsageError, match=r"equal rings.*'ds1-photons'"):
        par04.mesh_of(load_detector("ds1-photons"))
    assert par04.mesh_of(load_detector("par04-ds2")) == Mesh(9, 16, 45, pytest.approx(4.65), pytest.approx(3.4))  # type: ignore[arg-type]
    odd = saved(tmp_path / "odd", detector_from_toml(POLAR.replace("ALPHA", "6"), where="odd"))
    with pytest.raises(UsageError, match="6 sectors"):
        export_model(odd, "par04", tmp_path / "out")
