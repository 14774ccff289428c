"""Studies train what they say, keep what is finished, and their numbers mean what their names say."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from matplotlib.image import imread

from caloforge import datasets
from caloforge.cli.main import main
from caloforge.errors import CaloForgeError, UsageError
from caloforge.models import read_record
from caloforge.showers import create_showers, open_showers
from caloforge.studies import STUDIES, run_study, study_particles

SHORT = [
    "training.stages.energies.epochs=1",
    "training.stages.shapes.epochs=2",
    "model.shapes.blocks=1",
    "model.shapes.hidden_features=16",
    "model.energy_scale=1.0",
]


def options(*values: str) -> list[str]:
    return [part for value in (*SHORT, *values) for part in ("--set", value)]


@pytest.fixture(scope="module")
def noise_study(tmp_path_factory: pytest.TempPathFactory) -> Path:
    out = tmp_path_factory.mktemp("noise")
    train, test = (str(datasets.path("calogan-gamma-sample", split=split)) for split in ("train", "test"))
    command = ["study", "noise", "--data", train, "--reference", test, "--out", str(out), "--preset", "caloflow-tiny"]
    assert main([*command, "--showers", "200", "--rows", "400", "--threads", "1", *options()]) == 0
    return out


@pytest.mark.slow
def test_noise_is_on_in_one_variant_and_off_in_the_other(noise_study: Path) -> None:
    on, off = (
        json.loads((noise_study / f"{name}-0" / "model" / "model.json").read_text())
        for name in ("with-noise", "without-noise")
    )
    assert on["config"]["noise"] > 0
    assert off["config"]["noise"] == off["config"]["energy_noise"] == 0
    scores = {s["name"]: s for s in json.loads((noise_study / "result.json").read_text())["scores"]}
    assert scores["without-noise"]["validation_loss"][0] < scores["with-noise"]["validation_loss"][0]
    for score in scores.values():
        assert len(score["image_deviation"][0]) == 3
        assert all(0 <= values[0] <= 1 for values in score["separation"].values())


@pytest.mark.slow
def test_figure_is_drawn(noise_study: Path) -> None:
    pixels = imread(noise_study / "noise.png")
    assert pixels.shape[0] > 500
    assert len(np.unique(pixels[::8, ::8].reshape(-1, pixels.shape[-1]), axis=0)) > 100


@pytest.mark.slow
def test_finished_trainings_are_kept(noise_study: Path) -> None:
    weights = noise_study / "with-noise-0" / "model" / "model.safetensors"
    before = weights.stat().st_mtime_ns
    train, test = (datasets.path("calogan-gamma-sample", split=split) for split in ("train", "test"))
    run_study(
        STUDIES["noise"], train, test, noise_study, preset="caloflow-tiny", overrides=SHORT, showers=200, rows=400, threads=1,
        say=lambda text: None,
    )  # fmt: skip
    assert weights.stat().st_mtime_ns == before


@pytest.mark.slow
def test_models_with_other_noise_have_other_variables(noise_study: Path, tmp_path: Path) -> None:
    """Densities of deposits with noise and of deposits without have no meaningful ratio."""
    test = datasets.path("calogan-gamma-sample", split="test")
    models = tuple(noise_study / f"{name}-0" / "model" for name in ("with-noise", "without-noise"))
    with pytest.raises(UsageError, match="noise"):
        study_particles((models[0], models[1]), (test, test), tmp_path, showers=20)
    with pytest.raises(UsageError, match="expected two particles"):
        study_particles((models[0], models[0]), (test, test), tmp_path, showers=20)
    assert read_record(models[0]).kind == "caloflow"


@pytest.mark.slow
def test_a_likelihood_ratio_of_a_model_with_itself_tells_nothing(noise_study: Path, tmp_path: Path) -> None:
    test = datasets.path("calogan-gamma-sample", split="test")
    other = tmp_path / "eplus.h5"
    with open_showers(test) as source:
        photons = source.read(0, 40)
        # The same showers under another name, which no command would write.
        with create_showers(other, detector=source.detector, particle="e+") as writer:
            writer.write(replace(photons, particle=-11))
    model = noise_study / "with-noise-0" / "model"
    found = study_particles((model, model), (test, other), tmp_path / "out", showers=40)
    assert found.auc == pytest.approx(0.5)
    assert found.impossible == 0


def test_repetitions_below_one_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="expected 1 or more"):
        run_study(STUDIES["noise"], "a.h5", "b.h5", tmp_path, repetitions=0)


@pytest.mark.parametrize(
    ("study", "preset", "overrides", "message"),
    [
        ("noise", "caloclouds2-tiny", [], "compares showers on voxels, and a 'caloclouds2' makes points"),
        ("symmetries", "caloflow-student-tiny", [], "a 'caloflow-student' learns from another"),
        (
            "noise",
            "caloinn-tiny",
            ["model.variables=logarithms", "model.drop_voxel=false", "model.energy_noise_per=layer"],
            "all its variants have the same preprocessing for the preset 'caloinn-tiny'",
        ),
        ("noise", "caloflow-tiny", ["model.noise=0", "model.energy_noise=0"], "would undo that of 'model.noise'"),
        ("symmetries", "caloflow-tiny", ["training.batch=3"], "training.batch"),
    ],
)  # fmt: skip
def test_what_a_study_cannot_vary_is_refused_before_anything_is_trained(
    study: str, preset: str, overrides: list[str], message: str, tmp_path: Path
) -> None:
    """Mutation: train first; kinds without a stage called 'shapes' then ended in a traceback after hours."""
    train, test = (datasets.path("calogan-gamma-sample", split=split) for split in ("train", "test"))
    with pytest.raises(CaloForgeError, match=message):
        run_study(
            STUDIES[study], train, test, tmp_path / "out", preset=preset, overrides=overrides, say=lambda text: None
        )
    assert not (tmp_path / "out").exists()


def test_a_detector_without_symmetries_and_missing_files_are_refused_too(tmp_path: Path) -> None:
    train, test = (datasets.path("calogan-gamma-sample", split=split) for split in ("train", "test"))
    plain = tmp_path / "plain.h5"
    with open_showers(train) as source:
        assert source.detector is not None
        detector = source.detector.model_copy(update={"symmetries": ()})
        with create_showers(plain, detector=detector, particle="gamma") as writer:
            writer.write(source.read(0, 20))
    with pytest.raises(UsageError, match="the same augmentation"):
        run_study(STUDIES["symmetries"], plain, test, tmp_path / "out", preset="caloflow-tiny")
    for files in ((test, tmp_path / "no.h5", None), (test, test, tmp_path / "no.h5")):
        with pytest.raises(CaloForgeError, match=r"no\.h5"):
            run_study(
                STUDIES["symmetries"], files[0], files[1], tmp_path / "out", preset="caloflow-tiny", floor=files[2]
            )
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("study", "preset", "short", "stage"),
    [
        ("symmetries", "caloinn-tiny",
         ["model.flow.blocks=1", "model.flow.hidden_features=8"], "flow"),
        ("noise", "l2lflows-tiny",
         ["model.layer.blocks=1", "model.layer.hidden_features=8", "model.energies.blocks=1", "model.embedding.features=4"],
         "layer_00"),
    ],
)  # fmt: skip
@pytest.mark.slow
def test_kinds_without_a_stage_called_shapes_are_studied(
    study: str, preset: str, short: list[str], stage: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Mutation: look for the losses of a stage called 'shapes' (``min`` of nothing)."""
    train, test = (str(datasets.path("calogan-gamma-sample", split=split)) for split in ("train", "test"))
    changes = ["training.epochs=1", "model.energy_scale=1.0", *short]
    options = [part for change in changes for part in ("--set", change)]
    command = ["study", study, "--data", train, "--reference", test, "--preset", preset, "--out", str(tmp_path)]
    assert main([*command, "--rows", "60", "--showers", "100", "--threads", "1", *options]) == 0
    scores = json.loads((tmp_path / "result.json").read_text())["scores"]
    assert [score["stage"] for score in scores] == [stage, stage]
    assert all(np.isfinite(score["validation_loss"]).all() for score in scores)
    assert (tmp_path / f"{study}.png").is_file()
    assert f"stage '{stage}'" in " ".join(capsys.readouterr().out.split())
