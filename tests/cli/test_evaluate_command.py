"""``caloforge evaluate`` and ``compare`` as a user meets them; small samples, few epochs."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import h5py
import numpy as np
import pytest

from caloforge import datasets
from caloforge.cli.main import main
from caloforge.detectors import Detector, load_detector
from caloforge.models import ConditionRange, save_model
from caloforge.report import load_report
from caloforge.showers import Showers, row_hashes
from caloforge.showers.files import create_showers

sys.path.insert(0, str(Path(__file__).parents[1] / "training"))
from toy_model import Toy, ToyConfig, toy_detector, toy_showers

DETECTOR = load_detector("calogan")
TEST, FLOOR = "calogan-gamma-sample:test", "calogan-gamma-sample:floor"
FEW = ("--max-showers", "150", "--epochs", "1", "--retrainings", "1")


def run(capsys: pytest.CaptureFixture[str], *arguments: object) -> tuple[int, str, str]:
    code = main([str(a) for a in arguments])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def write(
    path: Path, showers: Showers, detector: Detector = DETECTOR, provenance: dict[str, object] | None = None
) -> Path:
    with create_showers(path, detector=detector, particle=showers.particle, provenance=provenance) as writer:
        writer.write(showers)
    return path


def photons(n: int = 200) -> Showers:
    showers = datasets.load("calogan-gamma-sample", split="train")
    assert isinstance(showers, Showers)
    return replace(showers, overflow=None)[:n]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The report on showers with a dead voxel."""
    out = tmp_path_factory.mktemp("evaluate")
    showers = photons()
    deposits = showers.deposits.copy()
    deposits[:, 288 + 78] = 0
    write(out / "dead.h5", replace(showers, deposits=deposits))
    arguments = [
        "evaluate", out / "dead.h5", TEST, "--floor", FLOOR, "--only", "voxels,response,high-level", *FEW,
        "--out", out / "report",
    ]  # fmt: skip
    assert main([str(a) for a in arguments]) == 0
    return out


def test_the_report_shows_what_was_damaged(folder):
    result = load_report(folder / "report")
    assert result.generated.voxels is not None
    assert result.generated.voxels.never_lit == (288 + 78,)
    assert result.floor is not None
    assert result.floor.voxels is not None
    assert result.floor.voxels.never_lit == ()
    assert {word: s.label for word, s in result.samples.items()} == {
        "generated": "dead.h5", "reference": TEST, "floor": FLOOR
    }  # fmt: skip
    page = (folder / "report" / "index.html").read_text()
    assert "dead.h5" in page
    assert "never lit" in page


def test_time_comes_first_and_an_honest_summary_last(capsys, folder, tmp_path):
    code, out, err = run(
        capsys, "evaluate", folder / "dead.h5", TEST, "--only", "voxels,high-level", *FEW, "--format", "json",
        "--out", tmp_path / "r",
    )  # fmt: skip
    assert code == 0
    lines = " ".join(out.split())
    assert lines.index("expected: about") < lines.index("Classifiers: the showers") < lines.index("Distributions: ")
    assert "voxels never lit 1, too rarely" in lines
    assert "without a second reference (--floor) nobody knows" in lines
    assert "".join(out.split()).endswith(f"report:{tmp_path / 'r' / 'report.json'}")
    assert "evaluating: 6/6 steps" in err
    assert sorted(p.name for p in (tmp_path / "r").iterdir()) == ["report.json", "retrainings"]


@pytest.mark.parametrize("seed", [0, 1])
def test_few_geant4_showers_against_geant4_get_no_verdict_from_one_retraining(capsys, tmp_path, seed):
    """Seeds with which it was "can be told, AUC 0.562 ± 0.000" and "AUC 0.558 ± 0.000".

    Mutation: 0.02 or the standard deviation over retrainings in place of the statistical error.
    """
    code, out, _ = run(
        capsys, "evaluate", FLOOR, TEST, "--max-showers", "300", "--retrainings", "1", "--only", "high-level",
        "--seed", seed, "--format", "json", "--out", tmp_path / "r",
    )  # fmt: skip
    assert code == 0
    assert "Classifiers: the showers cannot be told from the reference" in " ".join(out.split())
    auc = load_report(tmp_path / "r").generated.classifiers["high-level"].auc
    assert auc.mean > 0.55
    assert auc.error == pytest.approx(0.053, abs=0.004)  # 60 + 60 test showers
    assert "± 0.053" in out


def test_the_same_file_twice_is_named_before_anything_else(capsys, tmp_path):
    """Mutation: looking for shared showers between generated and reference alone."""
    write(tmp_path / "g.h5", photons(150))
    for arguments, pair in (
        ((tmp_path / "g.h5", tmp_path / "g.h5"), "generated and reference are the same 150 showers, of one file"),
        ((tmp_path / "g.h5", TEST, "--floor", TEST), "reference showers are also among the 150 floor showers"),
    ):
        code, out, _ = run(
            capsys, "evaluate", *arguments, *FEW, "--only", "voxels,high-level", "--format", "html",
            "--out", tmp_path / "r", "--overwrite",
        )  # fmt: skip
        assert code == 0
        said = " ".join(out.split())
        assert said.startswith("Samples: NOT INDEPENDENT: ")
        assert pair in said
        assert "Classifiers: no verdict" in said
        page = " ".join((tmp_path / "r" / "index.html").read_text().split())
        assert page.index("NOT INDEPENDENT") < page.index("Classifiers: no verdict")
        assert load_report(tmp_path / "r").spoiled


def test_uncut_comes_from_the_command_line(capsys, folder, tmp_path):
    common = ("evaluate", folder / "dead.h5", TEST, "--max-showers", "150", "--only", "voxels", "--format", "html")
    for options, said in (
        (("--uncut",), "No analysis threshold was applied"),
        ((), "threshold of 10 keV were removed"),
    ):
        assert run(capsys, *common, *options, "--out", tmp_path / "r", "--overwrite")[0] == 0
        assert said in (tmp_path / "r" / "index.html").read_text()
        assert load_report(tmp_path / "r").uncut == bool(options)
    uncut, cut = tmp_path / "r" / "report.json", folder / "report" / "report.json"
    uncut.write_text(
        uncut.read_text().replace('"uncut":false', '"uncut":true').replace('"uncut": false', '"uncut": true')
    )
    code, out, _ = run(capsys, "compare", uncut, cut, "--name", "A", "--name", "B")
    assert code == 0
    assert "threshold was applied in some of the reports only (B)" in " ".join(out.split())


def test_a_finished_report_is_not_replaced_unless_asked(capsys, folder, tmp_path):
    report = folder / "report" / "report.json"
    before = report.read_bytes()
    code, _, err = run(capsys, "evaluate", folder / "dead.h5", TEST, "--out", folder / "report", *FEW)
    assert code == 1
    assert "holds a report already; --overwrite replaces it" in err
    assert report.read_bytes() == before
    (tmp_path / "r" / "retrainings").mkdir(parents=True)
    code, _, err = run(capsys, "evaluate", folder / "dead.h5", TEST, "--out", tmp_path / "r", *FEW)
    assert code == 1
    assert "holds an interrupted evaluation; --resume" in err
    code, _, _ = run(
        capsys, "evaluate", folder / "dead.h5", TEST, "--out", tmp_path / "r", "--only", "voxels", "--overwrite",
        "--format", "json",
    )  # fmt: skip
    assert code == 0


def test_a_page_that_is_not_written_again_does_not_stay_with_other_numbers(capsys, folder, tmp_path):
    common = ("evaluate", folder / "dead.h5", TEST, "--only", "voxels", "--out", tmp_path)
    assert run(capsys, *common, "--format", "html")[0] == 0
    assert sorted(p.name for p in tmp_path.iterdir()) == ["index.html", "report.json"]
    assert run(capsys, *common, "--format", "json", "--resume")[0] == 0
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_a_killed_evaluation_goes_on_with_the_classifiers_that_are_done(capsys, tmp_path):
    write(tmp_path / "g.h5", photons())
    common = [
        "evaluate", str(tmp_path / "g.h5"), TEST, "--only", "high-level", "--max-showers", "150", "--epochs", "15",
        "--retrainings", "40", "--format", "json", "--seed", "3",
    ]  # fmt: skip
    out = tmp_path / "killed"
    process = subprocess.Popen([sys.executable, "-m", "caloforge", *common, "--out", str(out)], stderr=subprocess.PIPE)
    first = out / "retrainings" / "generated" / "high-level-00.json"
    deadline = time.monotonic() + 120
    while not first.exists() and time.monotonic() < deadline and process.poll() is None:
        time.sleep(0.05)
    os.kill(process.pid, signal.SIGKILL)
    process.communicate()
    assert first.exists()
    assert not (out / "report.json").exists()
    stamp = first.stat().st_mtime_ns
    short = ["2" if before == "--retrainings" else word for before, word in zip(["", *common], common, strict=False)]
    assert run(capsys, *short, "--out", out, "--resume")[0] == 0
    assert first.stat().st_mtime_ns == stamp
    assert run(capsys, *short, "--out", tmp_path / "whole")[0] == 0
    one, two = (load_report(tmp_path / name).generated.classifiers for name in ("killed", "whole"))
    assert one == two


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model that was trained on the first 100 of some showers, and showers that it made."""
    directory = tmp_path_factory.mktemp("model")
    seen = toy_showers(100, seed=1)
    save_model(
        directory / "toy", Toy(ToyConfig(), toy_detector()), ConditionRange.of(22, seen.incident_energy),
        row_hashes=row_hashes(seen), training={"device": "cpu", "processes": 1, "seconds": {"a": 60.0, "b": 30.0}},
    )  # fmt: skip
    assert main(["generate", str(directory / "toy"), "--energy", "1:10", "--events", "300", "--out",
                 str(directory / "g.h5")]) == 0  # fmt: skip
    write(directory / "seen.h5", Showers.concatenate([toy_showers(200, seed=2), seen]), toy_detector())
    write(directory / "unseen.h5", toy_showers(300, seed=3), toy_detector())
    return directory


def test_a_reference_that_was_trained_on_is_refused(capsys, model, monkeypatch):
    # The generated file names the hash of its model; the command that made it says where that might be.
    with h5py.File(model / "g.h5", "r+") as file:
        provenance = json.loads(file.attrs["provenance"])
        file.attrs["provenance"] = json.dumps(provenance | {"command": "caloforge generate toy --energy 1:10"})
    for named in ((), ("--model", model / "toy")):
        code, _, err = run(
            capsys, "evaluate", model / "g.h5", model / "seen.h5", "--only", "voxels", *named, "--out", model / "r"
        )
        assert code == 2
        assert "100 of the 300 reference showers were used to train this model" in err
        assert not (model / "r").exists()
    code, _, err = run(
        capsys, "evaluate", model / "g.h5", model / "unseen.h5", "--floor", model / "seen.h5", "--only", "voxels",
        "--out", model / "r",
    )  # fmt: skip
    assert code == 2
    assert "100 of the 300 floor showers" in err


def test_speed_is_measured_and_said(capsys, model, monkeypatch):
    monkeypatch.setattr("caloforge.evaluation.timing.BATCHES", (1, 10))
    code, out, _ = run(
        capsys, "evaluate", model / "g.h5", model / "unseen.h5", "--model", model / "toy", "--timing", "--only", "voxels",
        "--out", model / "timed", "--format", "html", "--allow-mismatch",
    )  # fmt: skip
    assert code == 0
    assert f"model:{model / 'toy'}" in "".join(out.split())
    timing = load_report(model / "timed").timing
    assert timing is not None
    assert [row.batch for row in timing.rows] == [1, 10]
    assert all(row.milliseconds > 0 for row in timing.rows)
    assert timing.training_seconds == 90
    page = (model / "timed" / "index.html").read_text()
    assert "Speed" in page
    assert "trained in 1.5 min on cpu" in page
    assert not (model / "timed" / "figures").exists()


def test_showers_of_another_model_are_refused(capsys, model, tmp_path):
    save_model(tmp_path / "other", Toy(ToyConfig(hidden=3), toy_detector()), ConditionRange.of(22, np.ones(20)))
    code, _, err = run(
        capsys, "evaluate", model / "g.h5", model / "unseen.h5", "--model", tmp_path / "other", "--out", tmp_path / "r"
    )
    assert code == 2
    assert "was not made by the model" in err


def test_a_model_that_is_not_here_is_said(capsys, model, tmp_path):
    generated = toy_showers(300, seed=4)
    write(tmp_path / "g.h5", generated, toy_detector(), {"model": {"kind": "toy", "sha256": "0" * 64}})
    code, out, _ = run(
        capsys, "evaluate", tmp_path / "g.h5", model / "unseen.h5", "--only", "voxels", "--format", "json",
        "--out", tmp_path / "r",
    )  # fmt: skip
    assert code == 0
    assert "the model that made the generated showers was not found here" in " ".join(out.split()).lower()


def test_several_models_and_particles(capsys, tmp_path):
    showers = photons(160)
    for name, factor, particle in (("g", 1.0, 22), ("other", 1.1, 22), ("g-e", 1.0, 11), ("e", 1.0, 11)):
        deposits = showers.deposits.copy()
        deposits[:, :288] *= factor if particle == 22 else 2.0
        write(tmp_path / f"{name}.h5", replace(showers, deposits=deposits, particle=particle))
    code, _, _ = run(
        capsys, "evaluate", tmp_path / "g.h5", TEST, "--suite", "calochallenge", "--only", "log-posterior",
        "--other", f"scaled={tmp_path / 'other.h5'}", "--cross-particle", f"{tmp_path / 'g-e.h5'}={tmp_path / 'e.h5'}",
        *FEW, "--out", tmp_path / "r",
    )  # fmt: skip
    assert code == 0
    result = load_report(tmp_path / "r")
    assert result.generated.log_posterior is not None
    assert set(result.generated.log_posterior.on_reference) == {"generated", "scaled"}
    (pair,) = result.cross_particle
    assert pair.particles == ("gamma", "e-")
    assert {(s.trained_on, s.scored_on) for s in pair.scores} == {
        (a, b) for a in ("geant4", "generated") for b in ("geant4", "generated")
    }
    assert sorted(p.name for p in (tmp_path / "r" / "retrainings").iterdir()) == ["cross-particle", "generated"]
    assert "Particle identification" in (tmp_path / "r" / "index.html").read_text()


def test_mistakes_get_one_sentence(capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    showers = photons(120)
    write(Path("good.h5"), showers)
    whole = Path("good.h5").read_bytes()
    Path("truncated.h5").write_bytes(whole[: len(whole) // 2])
    Path("text.h5").write_text("no showers")
    write(Path("nan.h5"), showers)
    with h5py.File("nan.h5", "r+") as file:
        values = file["showers"][:]
        values[7, 3] = np.nan
        del file["showers"]
        file["showers"] = values
    write(Path("gev.h5"), replace(showers, deposits=showers.deposits / 50))
    write(Path("low.h5"), showers[np.flatnonzero(showers.incident_energy < 50e3)])
    write(Path("toy.h5"), toy_showers(100), toy_detector())
    before = sorted(Path().iterdir())
    for arguments, code, message in (
        (("missing.h5", TEST), 2, "there is no shower file 'missing.h5'"),
        (("nonsense", TEST), 2, "neither a shower file nor a sample of the package"),
        (("good.h5", "calogan-gamma-sample"), 2, "has several splits, expected 'calogan-gamma-sample:train' or"),
        (("good.h5", "calogan-gamma-sample:nonsense"), 2, "no split 'nonsense'"),
        (("truncated.h5", TEST), 1, "truncated.h5"),
        (("text.h5", TEST), 1, "text.h5"),
        (("nan.h5", TEST), 1, "the deposit of shower 7, voxel 3 is NaN"),
        (("gev.h5", TEST), 2, "another unit"),
        (("low.h5", TEST), 2, "expected the same spectrum"),
        (("toy.h5", TEST), 2, "8 and 504 voxels, expected 504"),
        (("good.h5", TEST, "--suite", "fast"), 2, "suite 'fast' is not known"),
        (("good.h5", TEST, "--only", "fid"), 2, "measure 'fid' is not known"),
        (("good.h5", TEST, "--format", "gif"), 2, "--format is 'gif', expected some of html,json,png,pdf,svg"),
        (("good.h5", TEST, "--other", "good.h5"), 2, "--other is 'good.h5', expected NAME=FILE"),
        (("good.h5", TEST, "--device", "tpu"), 2, "the device 'tpu' is not known"),
        (("good.h5", TEST, "--model", "nowhere"), 1, "no model directory 'nowhere'"),
        (("good.h5", TEST, "--timing"), 2, "no model is known"),
    ):
        got, out, err = run(capsys, "evaluate", *arguments, "--out", "report")
        assert got == code, arguments
        assert message in err, arguments
        assert "Traceback" not in err + out
        assert len(err.strip().splitlines()) == 1
        assert sorted(Path().iterdir()) == before


def test_reports_side_by_side(capsys, folder, tmp_path):
    report = folder / "report"
    code, out, _ = run(capsys, "compare", report, report / "report.json", "--name", "A", "--name", "B")
    assert code == 0
    assert "voxels never lit" in " ".join(out.split())
    for suffix in ("md", "html", "json"):
        assert run(capsys, "compare", report, report, "--out", tmp_path / f"t.{suffix}")[0] == 0
    table = json.loads((tmp_path / "t.json").read_text())
    assert table["columns"] == ["dead.h5 (1)", "dead.h5 (2)", "floor"]
    assert {"measure": "voxels never lit", "dead.h5 (1)": "1", "dead.h5 (2)": "1", "floor": "0"} in table["rows"]
    assert (tmp_path / "t.html").read_text().startswith("<!DOCTYPE html>")
    assert run(capsys, "compare", report, "--out", tmp_path / "t.md")[0] == 1
    code, _, err = run(capsys, "compare", report, "--out", tmp_path / "t.docx")
    assert code == 2
    assert "expected a name that ends in .html, .md or .json" in err
    code, _, err = run(capsys, "compare", tmp_path)
    assert code == 2
    assert "there is no such file" in err
