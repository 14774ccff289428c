"""Binning files as they are: several bins, bins of several particles, names that no detector may have."""

from __future__ import annotations

from pathlib import Path

import h5py
import numpy as np
import pytest

from caloforge.cli.main import main
from caloforge.detectors import load_detector
from caloforge.errors import DetectorError
from caloforge.showers import open_showers

LAYER = '<Layer id="0" r_edges="0,1,{}" n_bin_alpha="{}"/>'


def one(low: int, alpha: int, **attributes: str) -> str:
    more = "".join(f' {key}="{value}"' for key, value in attributes.items())
    return f'<Bin{more} etaMin="{low}" etaMax="{low + 5}">{LAYER.format(low + 2, alpha)}</Bin>'


PLAIN = f"<Bins>{one(20, 3, pid='22', name='photons')}</Bins>"
SEVERAL = f"<Bins>{one(0, 1, pid='22')}{one(20, 3, pid='22')}{one(25, 4, pid='22')}</Bins>"
PARTICLES = (
    f'<Bins><Particle pid="22" name="photons">{one(20, 3)}{one(25, 4)}</Particle>'
    f'<Particle pid="211">{one(20, 5)}</Particle></Bins>'
)


def write(folder: Path, text: str, name: str = "binning.xml") -> Path:
    (folder / name).write_text(text)
    return folder / name


@pytest.mark.parametrize(
    ("text", "chosen", "voxels"),
    [
        (PLAIN, None, 6),
        (PLAIN, "20:25", 6),
        (SEVERAL, "0:5", 2),
        (SEVERAL, "20:25", 6),
        (SEVERAL, " 25:30 ", 8),
        (SEVERAL, "gamma/25:30", 8),
        (PARTICLES, "25:30", 8),
        (PARTICLES, "gamma/20:25", 6),
        (PARTICLES, "22/20:25", 6),
        (PARTICLES, "pi+/20:25", 10),
        (PARTICLES, "pi+", 10),
        (PARTICLES, "211", 10),
    ],
)
def test_a_bin_is_chosen(tmp_path: Path, text: str, chosen: str | None, voxels: int) -> None:
    """Fails if <Particle> is not looked into, or the first bin is taken."""
    assert load_detector(write(tmp_path, text), bin_=chosen).readout.n_voxels == voxels


@pytest.mark.parametrize(
    ("text", "chosen", "message"),
    [
        (SEVERAL, None, r"holds 3 bins, and one has to be chosen \(bin_\): gamma/0:5, gamma/20:25, gamma/25:30$"),
        (SEVERAL, "30:35", r"none of its bins is '30:35', expected one of gamma/0:5"),
        (SEVERAL, "2:25", "none of its bins is '2:25'"),
        (SEVERAL, "gamma", "'gamma' may be any of 3 bins"),
        (PARTICLES, "20:25", r"'20:25' may be any of 2 bins, expected one of gamma/20:25, gamma/25:30, pi\+/20:25"),
        (PARTICLES, "e-/20:25", "none of its bins"),
        (PLAIN, "gamma/", "none of its bins"),
        ("<Bins/>", None, "there is no <Bin> in <Bins>"),
        ("<html><body/></html>", None, "there is no <Bin> in <html>"),
    ],
)
def test_what_cannot_be_chosen_is_named(tmp_path: Path, text: str, chosen: str | None, message: str) -> None:
    with pytest.raises(DetectorError, match=message):
        load_detector(write(tmp_path, text), bin_=chosen)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("binning_dataset_1.xml", "binning-dataset-1"),
        ("binning (1).xml", "binning-1"),
        ("Kopie von binning.xml", "Kopie-von-binning"),
        ("ünï.xml", "n"),
        ("(1).xml", "1"),
        ("___.xml", "binning"),
        (".hidden.xml", "hidden"),
    ],
)
def test_a_valid_name_is_made(tmp_path: Path, name: str, expected: str) -> None:
    """Fails, quoting a pattern that nobody has written, if the file's name is taken as it is."""
    assert load_detector(write(tmp_path, PLAIN, name)).name == expected


def test_bins_have_names_of_their_own(tmp_path: Path) -> None:
    path = write(tmp_path, PARTICLES, "b.xml")
    assert load_detector(path, bin_="pi+").name == "b-pi-20-25"
    assert load_detector(path, bin_="25:30").name == "b-gamma-25-30"


def test_bins_on_the_command_line(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    xml = str(write(tmp_path, SEVERAL))
    assert main(["info", xml, "--no-drawing"]) == 1
    assert "one has to be chosen (--bin)" in capsys.readouterr().err
    assert main(["info", xml, "--bin", "20:25", "--no-drawing"]) == 0
    assert "6 voxels" in capsys.readouterr().out
    with h5py.File(tmp_path / "a.h5", "w") as file:
        file["showers"], file["incident_energies"] = np.ones((2, 6), "f4"), np.full((2, 1), 100.0)
    words = ["--detector", xml, "--bin", "20:25"]
    assert main(["info", str(tmp_path / "a.h5"), *words]) == 0
    assert main(["convert", str(tmp_path / "a.h5"), str(tmp_path / "b.h5"), "--particle", "gamma", *words]) == 0
    with open_showers(tmp_path / "b.h5") as reader:
        assert reader.detector == load_detector(xml, bin_="20:25")
    capsys.readouterr()
    assert main(["info", str(tmp_path / "a.h5"), "--bin", "20:25"]) == 2
    assert "--bin chooses from a binning file, which --detector names" in capsys.readouterr().err
    assert main(["info", "calogan", "--bin", "20:25"]) == 1
    assert "only binning files (.xml) have bins" in capsys.readouterr().err
    assert (
        main(["train", "caloflow-tiny", "--data", str(tmp_path / "a.h5"), "-o", "m", *words[:2], "--bin", "9:9"]) == 1
    )
    assert "none of its bins is '9:9'" in capsys.readouterr().err
