"""Files with nothing to work with are refused when they are opened, with the row."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import h5py
import numpy as np
import pytest

from caloforge.cli.main import main
from caloforge.detectors import load_detector
from caloforge.errors import ShowerFileError
from caloforge.showers import ShowerPoints, Showers, create_showers, open_showers
from caloforge.showers.convert import describe

DETECTOR = load_detector("calogan")


def write(path: Path, layout: str, deposits: Any = None, energies: Any = None) -> Path:
    """250 showers of 10 GeV in one of the layouts, as somebody else would write them."""
    deposits = np.ones((250, 504), "f4") if deposits is None else deposits
    energies = np.full((250, 1), 1e4) if energies is None else energies
    with h5py.File(path, "w") as file:
        if layout == "calochallenge":
            file["showers"], file["incident_energies"] = deposits, energies
        elif layout == "calogan":
            file["energy"] = energies / 1000
            for k, (where, shape) in enumerate(
                zip(DETECTOR.readout.layer_slices, DETECTOR.readout.layer_shapes, strict=True)
            ):
                file[f"layer_{k}"] = deposits[:, where].reshape(-1, *shape)
        else:
            file["num_points"] = np.full(250, 2)
            file["points"] = np.repeat(deposits[:, :4], 2, axis=0) * np.array([1, 1, 0, 1], "f4")
            file["incident_energies"] = energies
    return path


@pytest.mark.parametrize("layout", ["calochallenge", "calogan", "points"])
@pytest.mark.parametrize(
    ("value", "word"), [(0.0, "is 0, expected a positive number"), (np.nan, "is NaN"), (-1, "is negative")]
)
def test_an_impossible_incident_energy(
    tmp_path: Path, layout: str, value: float, word: str, capsys: pytest.CaptureFixture[str]
) -> None:
    """Beyond the first hundred showers, which are looked at for their units: fails without ``check_energies``."""
    energies = np.full((250, 1), 1e4)
    energies[217] = value
    path = write(tmp_path / "a.h5", layout, energies=energies)
    for look in (lambda: open_showers(path, DETECTOR, particle=22), lambda: describe(path, DETECTOR)):
        with pytest.raises(ShowerFileError, match=rf"a\.h5: the incident energy of shower 217 {word}"):
            look()
    for words in (
        ("info", path), ("convert", path, tmp_path / "b.h5", "--detector", "calogan"),
        ("generate", "calogan-gamma", "--conditions-from", path, "-o", tmp_path / "b.h5"),
        ("train", "caloflow-tiny", "--data", path, "-o", tmp_path / "b", "--detector", "calogan", "--particle", "gamma"),
        ("evaluate", path, path, "-o", tmp_path / "b", "--detector", "calogan", "--particle", "gamma"),
    ):  # fmt: skip
        assert main([str(word) for word in words]) == 1, words
        assert f"the incident energy of shower 217 {word}" in capsys.readouterr().err
    assert [p.name for p in tmp_path.iterdir()] == ["a.h5"]


@pytest.mark.parametrize("layout", ["calochallenge", "calogan", "points"])
def test_only_empty_showers(tmp_path: Path, layout: str) -> None:
    """Fails if it is left to each command to stumble over them."""
    deposits = np.zeros((250, 504), "f4")
    with pytest.raises(ShowerFileError, match=r"a\.h5: all of its 250 showers are empty"):
        open_showers(write(tmp_path / "a.h5", layout, deposits), DETECTOR, particle=22)
    deposits[249, 3] = 1.0  # one that is not, far behind those that are looked at first
    with open_showers(write(tmp_path / "b.h5", layout, deposits), DETECTOR, particle=22) as reader:
        assert len(reader) == 250


def test_such_showers_are_not_written_either(tmp_path: Path) -> None:
    energies = np.array([1e4, 0.0])
    voxels = Showers(np.ones((2, 504), "f4"), energies, 22, DETECTOR.readout)
    points = ShowerPoints(np.array([0, 1, 2]), np.ones((2, 4), "f4"), energies, 22, DETECTOR.readout)
    for block, kind in ((voxels, "voxels"), (points, "points")):
        writer = create_showers(tmp_path / "a.h5", detector=DETECTOR, particle=22, kind=kind)  # type: ignore[arg-type]
        with pytest.raises(ShowerFileError, match="the incident energy of shower 1 is 0"):
            writer.write(block)  # type: ignore[arg-type]
        writer.abort()
