"""Learning curves: trained and evaluated once, and continued by two laws."""

from __future__ import annotations

import json
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from caloforge import datasets
from caloforge.cli.main import main
from caloforge.showers import create_showers, open_showers
from caloforge.studies import reports
from caloforge.studies.extrapolation import Extrapolated, extrapolated, together

TINY = """
kind: caloflow
title: a small one for the tests
model:
  energy_scale: 1.0
  energies: {blocks: 1, hidden_features: 8, hidden_layers: 1}
  shapes: {blocks: 1, hidden_features: 8, hidden_layers: 1}
aids: [{kind: marginal-start}]
training:
  batch_size: 100
  epochs: 1
"""


@pytest.mark.slow
def test_curves_of_two_presets(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "tiny.yaml").write_text(TINY)
    test, floor = tmp_path / "test.h5", tmp_path / "floor.h5"
    for path in (test, floor):
        with open_showers(datasets.path("calogan-gamma-sample", split=path.stem)) as source:
            few, detector = source.read(0, 400), source.detector
        assert detector is not None
        with create_showers(path, detector=detector, particle=22) as writer:
            writer.write(few)
    command = ["study", "learning", "--preset", str(tmp_path / "tiny.yaml"), "--preset", "shower-library"]
    command += ["--data", str(datasets.path("calogan-gamma-sample", split="train")), "--reference", str(test)]
    command += ["--floor", str(floor), "--out", str(tmp_path / "out"), "--only", "boosted", "--only", "fpd"]
    command += ["--training", "100,200,400", "--classifier", "200,300", "--threads", "1"]
    assert main(command) == 0
    assert (tmp_path / "out" / "learning.png").stat().st_size > 10_000
    curves = json.loads((tmp_path / "out" / "result.json").read_text())["curves"]
    assert [curve["preset"] for curve in curves] == ["tiny", "shower-library"]
    for curve in curves:
        assert [p["showers"] for p in curve["training"]] == [100, 200, 400]
        assert [p["showers"] for p in curve["classifier"]] == [200, 300, 400]
        assert curve["classifier"][-1]["scores"] == curve["training"][-1]["scores"]
        assert set(curve["training"][0]["scores"]) == set(curve["training"][0]["floor"]) == {"boosted", "fpd"}
        assert set(curve["beyond"]) == {"boosted"}
    # Re-used Geant4 showers are told from new ones less easily than those of a flow that was hardly trained.
    flow, library = (curve["training"][-1]["scores"]["boosted"][0] for curve in curves)
    assert flow > library + 0.05
    report = tmp_path / "out" / "tiny" / "400" / "report-200" / "report.json"
    before = report.stat().st_mtime_ns
    assert main(command) == 0
    assert report.stat().st_mtime_ns == before
    assert "extrapolated" in capsys.readouterr().out


def test_other_measures_are_measured(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a folder that holds a report; mutation: take whatever report there is."""
    made: list[str] = []

    def written(result: str, folder: Path) -> None:
        folder.mkdir(exist_ok=True)
        (folder / "report.json").write_text(result)
        made.append(result)

    monkeypatch.setattr(reports, "write_report", written)
    monkeypatch.setattr(reports, "load_report", lambda folder: (folder / "report.json").read_text())

    def asked(name: str) -> object:
        job = SimpleNamespace(units=1, run=lambda keep, advance: name)
        return reports.kept_report(tmp_path / "report", lambda: job, asked={"only": (name,)})  # type: ignore[arg-type, return-value]

    assert [asked(name) for name in ("fpd", "fpd", "boosted", "boosted", "fpd")] == [
        "fpd",
        "fpd",
        "boosted",
        "boosted",
        "fpd",
    ]
    assert made == ["fpd", "boosted", "fpd"]
    (tmp_path / "report" / "asked.json").unlink()  # of a former version
    assert asked("boosted") == "fpd"


@pytest.mark.parametrize(
    ("option", "value", "words"),
    [
        ("--training", "400,200", "expected rising ones from 100 to 6,000"),
        ("--training", "many", "expected whole numbers"),
        ("--classifier", "100,99999", "numbers of showers for classifiers"),
        ("--only", "kpd", "expected some of boosted"),
        ("--preset", "caloflow-student-tiny", "learns from another model"),
        ("--preset", "caloclouds3-tiny", "makes points"),
    ],
)
def test_what_cannot_be_done_is_refused(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], option: str, value: str, words: str
) -> None:
    train, test = (str(datasets.path("calogan-gamma-sample", split=split)) for split in ("train", "test"))
    command = ["study", "learning", "--preset", "caloflow-tiny", "--data", train, "--reference", test]
    assert main([*command, "--out", str(tmp_path / "out"), option, value]) == 2
    assert words in " ".join(capsys.readouterr().err.split())
    assert not (tmp_path / "out").exists()


def test_points_on_one_of_the_laws_are_continued() -> None:
    n = [250.0, 500.0, 1000.0, 2000.0]
    for law in (np.log, lambda x: -1 / np.sqrt(x)):
        found = extrapolated([(x, 0.6 + 0.02 * float(law(x)), 1e-3) for x in n], 1e5)
        truth = 0.02 * float(law(1e5) - law(2000.0))
        # The other law says something else, and the error knows.
        assert abs(found.change - truth) <= found.error
        assert found.error > 0.3 * abs(found.change - truth)


def test_errors_of_the_continuation_cover_the_scatter() -> None:
    """Of constant scores, 68 % of continuations should be within their errors; more are, since the laws differ."""
    generator = np.random.default_rng(5)
    n = np.array([500.0, 1000.0, 2000.0, 4000.0])
    inside = 0
    for _ in range(400):
        scores = 0.6 + 0.01 * generator.normal(size=4)
        found = extrapolated(list(zip(n, scores, [0.01] * 4, strict=True)), 1e5)
        inside += abs(found.value - 0.6) < found.error
    assert 0.6 < inside / 400 < 0.95


def test_changes_add_up_and_an_auc_stays_one() -> None:
    both = together(Extrapolated(0.5, 0.03, -0.1), Extrapolated(0.9, 0.04, 0.2), (0.7, 0.0))
    assert both.value == pytest.approx(0.8)
    assert both.error == pytest.approx(0.05)
    assert together(both, Extrapolated(1, 0.1, 0.5), (0.9, 0.1)).value == 1.0
    with pytest.raises(ValueError, match="2 points"):
        extrapolated([(1, 0.5, 0.1), (2, 0.5, 0.1)], 10)
