"""The double of DDML's CaloClouds against hand-made outputs, where positions and energies are known; then our export."""

from __future__ import annotations

import runpy
from pathlib import Path

import numpy as np
import pytest
import torch
from hand_made import Constant, torch_file
from model_samples import Rows, point_showers

from caloforge.cli.main import main
from caloforge.conditions import ConditionRange
from caloforge.deployment import export_model
from caloforge.deployment.hosts.ddml import CAPACITY, FLOATS, Barrel, CaloClouds
from caloforge.deployment.targets import ddml_caloclouds as target
from caloforge.detectors import Detector, load_detector
from caloforge.errors import GenerationError, UsageError
from caloforge.generation import generation_streams
from caloforge.models import ShowerModel, build_model, load_preset, save_model

ILD = load_detector("ild-ecal/points")
INPUTS = [torch.ones(1, 1), torch.zeros(1, 1), torch.zeros(1, 1)]
DEPTHS = tuple(10.0 * k + 5 for k in range(30))
INWARDS = np.array([0.0, 0.0, 1.0])
DIRECTIONS = ((-0.3, -0.3, 0.9), (0.3, 0.3, 1.0))


def one_point(layer: float = 3, count: float = 1, energy: float = 2.5, size: int = FLOATS) -> torch.Tensor:
    made = torch.zeros(FLOATS)
    made[min(int(layer), 29)] = count
    made[30:34] = torch.tensor([10.0, 20.0, layer, energy])
    return made[:size] if size <= FLOATS else torch.cat([made, torch.zeros(size - FLOATS)])


def host(tmp_path: Path, output: torch.Tensor, how: str = "") -> CaloClouds:
    return CaloClouds(torch_file(tmp_path / "m.pt", Constant(output, how), INPUTS), Barrel(DEPTHS))


def test_one_hot_point_becomes_a_hit_at_its_place(tmp_path: Path) -> None:
    """Mutation: signs of x and y, axes of the local frame, the sector, or the middle of another layer."""
    double = host(tmp_path, one_point())
    rows = double.points(20e3, INWARDS)
    assert rows.tolist() == [[10, 20, 3, 2.5]]
    spots = double.spots(rows)
    assert spots.place.tolist() == [[-10, -20, 35]]
    assert (spots.layer.tolist(), spots.energy.tolist()) == ([3], [2.5])
    # Entry in the sector around x: z of the frame is x, y is y, x is -z.
    world = double.barrel.world(spots, np.array([1804.7, 100.0, 50.0]))
    np.testing.assert_allclose(world.place, [[1804.7 + 35, 100 - 20, 50 + 10]])
    # In the one around y, a quarter further.
    world = double.barrel.world(spots, np.array([-100.0, 1804.7, 50.0]))
    np.testing.assert_allclose(world.place, [[-100 + 20, 1804.7 + 35, 50 + 10]])
    local = double.barrel.local(np.array([0.0, 0.8, 0.6]), np.array([0.0, 1.0, 0.0]))
    np.testing.assert_allclose(local, [-0.6, 0, 0.8], atol=1e-12)


def test_the_inputs_are_those_of_the_host(tmp_path: Path) -> None:
    """Angles of the direction whose x and y were negated, in degrees; mutation: those of the direction itself."""

    class Echo(torch.nn.Module):
        def forward(self, energy: torch.Tensor, theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
            point = torch.cat([theta.flatten(), phi.flatten(), 0 * energy.flatten(), energy.flatten()])
            return torch.cat([torch.ones(1), torch.zeros(29), point, torch.zeros(FLOATS - 34)])

    double = CaloClouds(torch_file(tmp_path / "m.pt", Echo(), INPUTS), Barrel(DEPTHS))
    rows = double.points(20e3, np.array([0.0, -0.6, 0.8]))
    np.testing.assert_allclose(rows, [[np.degrees(np.arccos(0.8)), 90, 0, 20]], rtol=1e-6)


@pytest.mark.parametrize(
    ("output", "how", "words"),
    [
        (one_point(size=34_999), "", "gives 34999 numbers; the host reads 35000, beyond its end"),
        (one_point(size=35_001), "", "only its beginning"),
        (one_point(), "not contiguous", "not contiguous"),
        (one_point(), "two outputs", "several outputs"),
        (one_point(energy=float("nan")), "", "no number"),
        (one_point().double(), "", "float64"),
        (one_point(layer=30), "", "a layer outside 0 to 29"),
        (one_point(layer=-1, count=0.0).index_put((torch.tensor([0]),), torch.tensor(1.0)), "", "outside 0 to 29"),
        (one_point(count=CAPACITY + 1), "", "8743 points, of which 8742 fit"),
        (one_point(count=2), "", "not as many as the counts say"),
        (one_point(energy=-1), "", "negative energy"),
        # Rows and columns of the table exchanged: x of later points stands where the layer of the first one is read.
        (torch.cat([one_point()[:30], torch.tensor([10.0]), torch.zeros(34_969)]), "", "not as many as the counts say"),
    ],
)
def test_what_the_host_would_misuse_is_refused(tmp_path: Path, output: torch.Tensor, how: str, words: str) -> None:
    with pytest.raises(GenerationError, match=words):
        host(tmp_path, output, how).points(1e3, INWARDS)


def test_inputs_of_another_number_and_other_layers_are_refused(tmp_path: Path) -> None:
    class One(torch.nn.Module):
        def forward(self, numbers: torch.Tensor) -> torch.Tensor:
            return torch.zeros(FLOATS) + numbers.sum()

    path = torch_file(tmp_path / "m.pt", One(), [torch.zeros(3)])
    with pytest.raises(GenerationError, match="fails with the host's inputs"):
        CaloClouds(path, Barrel(DEPTHS)).points(1e3, INWARDS)
    with pytest.raises(GenerationError, match="knows 30 layers, the detector has 29"):
        CaloClouds(path, Barrel(DEPTHS[:-1]))


def test_the_faintest_of_too_many_points_are_left_out_and_the_energy_stays() -> None:
    points = torch.ones(CAPACITY + 10, 4) * 2
    points[:, 3] = torch.linspace(1, 3, CAPACITY + 10)
    made = target.packed(points[torch.randperm(len(points))])
    assert made.shape == (FLOATS,)
    assert made[2] == CAPACITY
    kept = made[30:].view(-1)[: 4 * CAPACITY].view(-1, 4)[:, 3]
    assert kept.double().sum() == pytest.approx(float(points[:, 3].double().sum()), rel=1e-6)
    assert kept.min() >= points[10, 3]
    assert not target.packed(torch.full((3, 4), torch.nan)).any()
    assert not target.packed(torch.zeros(0, 4)).any()


# ---- our export -----------------------------------------------------------------------------------------------------


def saved(folder: Path, detector: Detector = ILD, **settings: object) -> Path:
    torch.manual_seed(6)
    preset = load_preset("caloclouds3-tiny")
    chosen = preset.settings() | {"max_negative": 30, "cell": 5.088333} | settings
    model: ShowerModel = build_model("caloclouds3", chosen, detector, aids=[{"kind": "trend"}, {"kind": "moment-map"}])
    for stage in model.training_stages(preset.training):
        if stage.name in ("scales", "trend"):
            stage.load_state(stage.fit(Rows(point_showers(detector, 40)), generation_streams(3)))  # type: ignore[attr-defined]
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            if name.startswith("flow.") and bool((parameter == 0).all()):
                parameter.normal_(0, 0.02)
    save_model(folder, model.eval(), ConditionRange(particle=22, incident_energy=(1e3, 9e4), direction=DIRECTIONS))
    return folder


@pytest.fixture(scope="module")
def clouds(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return saved(tmp_path_factory.mktemp("ddml") / "m")


def test_our_export_runs_in_it(
    clouds: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """At all energies and in all directions; mutation: sizes of one shower as constants, or angles of the other frame."""
    out = tmp_path / "out"
    assert main(["export", str(clouds), "--target", "ddml-caloclouds", "--out", str(out), "--showers", "12"]) == 0
    assert "numbers of points that differ" in capsys.readouterr().out
    assert sorted(path.name for path in out.iterdir()) == ["README.md", "model.pt", "parity.json", "steering.py"]
    steering = runpy.run_path(str(out / "steering.py"))
    assert steering["model_properties"]["CorrectForAngles"] is False  # the model moves its layers itself
    assert steering["trigger_properties"]["ApplicableParticles"] == {"gamma"}

    double = CaloClouds(out / "model.pt", Barrel(tuple(ILD.readout.depths.mean(axis=1).tolist())))
    shots = [double.points(energy, INWARDS) for energy in (2e3, 2e3, 8e4)]
    assert len({len(rows) for rows in shots}) == 3  # numbers of points are no constants, nor are random numbers
    # The axis is followed: a shower that flies towards the host's +x lies there.
    tilted = np.array([0.3, 0.0, np.sqrt(1 - 0.09)])
    spots = double.spots(double.points(8e4, tilted))
    deep = spots.layer > 20
    assert spots.place[deep, 0].mean() > 20

    forward = target._Graph.forward

    def turned(self: target._Graph, energy: torch.Tensor, theta: torch.Tensor, phi: torch.Tensor) -> torch.Tensor:
        return forward(self, energy, theta, phi + 180)

    monkeypatch.setattr(target._Graph, "forward", turned)
    with pytest.raises(GenerationError, match=r"points elsewhere by 0\.01 mm"):
        export_model(clouds, "ddml-caloclouds", tmp_path / "wrong", showers=4)
    assert not (tmp_path / "wrong").exists()


def test_what_it_cannot_have_is_refused_with_what_can(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="'caloflow' makes no points; target='ddml-l2lflows'"):
        export_model("calogan-gamma", "ddml-caloclouds", tmp_path / "out")
    with pytest.raises(UsageError, match="only the one-step sampler"):
        export_model(saved(tmp_path / "edm", sampler="edm"), "ddml-caloclouds", tmp_path / "out")
