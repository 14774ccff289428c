"""Texts with more levels than Python's parsers take: one sentence, not a RecursionError."""

from __future__ import annotations

from pathlib import Path

import pytest

from caloforge.cli.main import main
from caloforge.detectors import load_detector
from caloforge.errors import CaloForgeError, ConfigError, DetectorError
from caloforge.evaluation.classifiers.kept import KeptResults
from caloforge.models import load_preset
from caloforge.report import load_report
from caloforge.showers.projection import load_cell_map

DEEP = 60000


@pytest.mark.parametrize(
    ("name", "text", "load", "error"),
    [
        ("a.toml", "name = " + "[" * DEEP, load_detector, DetectorError),
        ("b.toml", "name = " + "[" * DEEP, load_cell_map, DetectorError),
        ("c.yaml", "kind: " + "[" * DEEP, load_preset, ConfigError),
        ("d.json", "[" * DEEP, load_report, CaloForgeError),
    ],
)
def test_files(tmp_path: Path, name: str, text: str, load: object, error: type[CaloForgeError]) -> None:
    (tmp_path / name).write_text(text)
    assert callable(load)
    with pytest.raises(error, match=rf"{name}.* not "):
        load(tmp_path / name)


def test_options(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    words = ["generate", "calogan-gamma", "--energy", "1", "--events", "1", "-o", str(tmp_path / "a.h5")]
    assert main([*words, "--option", "sampler=" + "[" * DEEP]) == 2
    assert capsys.readouterr().err.rstrip().endswith("whose value is not YAML")


@pytest.mark.parametrize("content", ["[" * DEEP, "[]", '{"fingerprint": "X"}', '{"fingerprint": "X", "result": 3}'])
def test_a_damaged_retraining_is_made_again(tmp_path: Path, content: str) -> None:
    kept = KeptResults(tmp_path, "auc", {"seed": 1})
    kept.put(0, {"auc": 0.5})
    assert kept.get(0) == {"auc": 0.5}
    (path,) = tmp_path.iterdir()
    path.write_text(content.replace("X", kept._fingerprint(0)))
    assert kept.get(0) is None
