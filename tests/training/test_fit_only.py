"""Models without parameters: a parametrisation and a library of showers train, are saved, loaded, and generate."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from fitted_models import preset_file, trained
from toy_model import toy_detector, toy_file

from caloforge.cli.main import main
from caloforge.errors import ModelFileError, UsageError
from caloforge.evaluation.timing import measure_timing
from caloforge.generation import conditions_of_file, generate, generation_streams
from caloforge.models import Conditions, load_model, read_record
from caloforge.random import Streams
from caloforge.showers import open_showers
from caloforge.stage import TrainingConfig
from caloforge.training import train

KINDS = ["toy-profile", "toy-library"]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return toy_file(tmp_path_factory.mktemp("data") / "g.h5", 120)


@pytest.mark.parametrize("kind", KINDS)
def test_device_and_precision_are_found_without_parameters(kind: str) -> None:
    """Mutation: take them from ``next(self.parameters())`` alone."""
    model = trained(kind, toy_detector())
    assert (model.device, model.dtype, model.parameter_count()) == (torch.device("cpu"), torch.float32, 0)
    assert model.double().dtype == torch.float64
    assert model.to("meta").device == torch.device("meta")
    assert sorted(model.state_dict()) == sorted(model.stages(TrainingConfig())[0].state())


@pytest.mark.parametrize("kind", KINDS)
def test_from_data_to_showers_on_the_command_line(
    kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    model, made = tmp_path / "model", tmp_path / "made.h5"
    command = ["train", str(preset_file(tmp_path, kind)), "--data", str(data), "--out", str(model)]
    assert main(command) == 0
    assert main([*command, "--resume"]) == 0
    record = read_record(model)
    assert (record.parameters, record.training_rows) == (0, 120)
    assert main(["generate", str(model), "--conditions-from", str(data), "--out", str(made)]) == 0
    with open_showers(made) as source, open_showers(data) as geant4:
        showers, real = source.read(), geant4.read()
    assert np.median(showers.total_energy() / showers.incident_energy) == pytest.approx(0.75, abs=0.05)
    if kind == "toy-library":  # every shower is one of the 108 that were not kept for validation
        shares = [s.deposits / s.deposits.sum(axis=1, keepdims=True) for s in (showers, real)]
        distance = np.abs(shares[0][:, None] - shares[1][None]).max(axis=2).min(axis=1)
        assert distance.max() < 1e-6
        assert len(load_model(model).get_buffer("kept.showers")) == 108
    capsys.readouterr()
    assert main(["likelihood", str(model), str(data), "--out", str(tmp_path / "p.csv")]) == 2
    assert f"the model '{kind}' has no likelihood" in capsys.readouterr().err
    assert not (tmp_path / "p.csv").exists()


@pytest.mark.parametrize("kind", KINDS)
def test_a_saved_one_makes_the_same_showers_and_can_be_timed(kind: str, data: Path, tmp_path: Path) -> None:
    train(preset_file(tmp_path, kind), data, tmp_path / "model", show=False)
    model = load_model(tmp_path / "model")
    asked = Conditions.first(np.linspace(2e3, 9e3, 30), 22)
    made, valid = model.decode(asked, model.latents(asked, generation_streams(0)))
    assert valid.all()
    generate(model, conditions_of_file(data, showers=30), tmp_path / "made.h5", show=False)
    with open_showers(tmp_path / "made.h5") as source:
        assert source.complete
    with pytest.raises(UsageError, match="has no likelihood"):
        model.log_prob(made, Streams(0, "test"))
    with open_showers(data) as source:
        timing = measure_timing(model, source.read(0, 50), batches=[10], devices=["cpu"])
    assert timing.parameters == 0
    assert timing.rows[0].milliseconds > 0


def test_a_library_of_another_readout_is_refused() -> None:
    """Only the number of rows is the data's to say."""
    (stage,) = trained("toy-library", toy_detector()).stages(TrainingConfig())
    with pytest.raises(ModelFileError, match=r"shape \(5, 7\), expected \(0, 8\)"):
        stage.load_state({"kept.showers": torch.zeros(5, 7), "kept.energies": torch.zeros(5)})
    stage.load_state({"kept.showers": torch.ones(5, 8), "kept.energies": torch.ones(5)})
    with pytest.raises(ModelFileError, match=r"shape \(6, 8\), expected \(5, 8\)"):
        stage.load_state({"kept.showers": torch.ones(6, 8), "kept.energies": torch.ones(5)})


@pytest.mark.slow
def test_two_processes_fit_what_one_does(data: Path, tmp_path: Path) -> None:
    """Mutation: share the tensors of a fit stage among processes, which have no rows for them yet."""
    script = tmp_path / "job.py"
    script.write_text(
        f"import sys; sys.path.insert(0, {str(Path(__file__).parent)!r})\n"
        "import fitted_models\nfrom caloforge.training import train\n"
        f"train({str(preset_file(tmp_path, 'toy-library'))!r}, {str(data)!r}, sys.argv[1], threads=1, show=False)\n"
    )
    for count in (1, 2):
        launch = ["-m", "torch.distributed.run", "--standalone", f"--nproc-per-node={count}"]
        done = subprocess.run(
            [sys.executable, *launch, str(script), str(tmp_path / str(count))], capture_output=True, text=True
        )
        assert done.returncode == 0, done.stderr
    one, two = (load_model_here(tmp_path / str(count)) for count in (1, 2))
    assert torch.equal(one, two)


def load_model_here(directory: Path) -> torch.Tensor:
    return load_model(directory).get_buffer("kept.showers")
