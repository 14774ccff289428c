"""File names with bytes that are no text, blanks, quotes, ends of lines, percent signs: all a file system allows."""

from __future__ import annotations

import json
import os
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caloforge.atomic import replace_file
from caloforge.cli.main import main
from caloforge.detectors import load_detector
from caloforge.errors import CaloForgeError
from caloforge.evaluation.sources import open_source
from caloforge.models import load_model
from caloforge.names import printable
from caloforge.random import Streams
from caloforge.showers import Showers
from caloforge.showers.files import create_showers, open_showers
from caloforge.training import train

DETECTOR = load_detector("calogan")
NAMES = [
    os.fsdecode(b"byte\xff"), "two words", "it's", 'q"uote', "new\nline", "ünï", "100%b", "%d%%", "-dash", "a#b?c",
    "esc\x1b[31m", "tab\tx", "a\\b", "[bold]x", ":100:", "$HOME", "*", "~", "\u202emirror",
]  # fmt: skip


def showers(rows: int) -> Showers:
    return Showers(np.ones((rows, 504), np.float32), np.full(rows, 1e4), 22, DETECTOR.readout)


@pytest.mark.parametrize("name", NAMES, ids=ascii)
def test_shower_files(tmp_path: Path, name: str) -> None:
    """Fails for bytes and for percent signs if names go into the list of parts as they are: HDF5 takes them for formats."""
    folder = tmp_path / name
    folder.mkdir()
    path = folder / f"{name}.h5"
    for resume in (False, True):  # in two parts, so that the name of the folder of parts is read again
        settings: Any = {"expected": 9, "resume": resume, "provenance": {"command": name}}
        writer = create_showers(path, detector=DETECTOR, particle=22, **settings)
        writer.write(showers(3))
        writer.abort()
        with open_showers(path) as reader:
            assert len(reader) == (6 if resume else 3)
            assert (reader.read().deposits == 1).all()
    with create_showers(path, detector=DETECTOR, particle=22, expected=9, resume=True) as writer:
        writer.write(showers(3))
    assert os.listdir(folder) == [path.name]
    source = open_source(path, streams=Streams(1, "t"))
    assert source.label.isprintable()
    source.label.encode()


@pytest.mark.parametrize("name", [NAMES[0], "new\nline", "esc\x1b[31m"], ids=ascii)
def test_commands(tmp_path: Path, name: str, monkeypatch: pytest.MonkeyPatch, capsys: Any) -> None:
    """Fails if a name goes into JSON, HTML or a message as it is."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("sys.argv", ["caloforge", "convert", name])
    with create_showers(f"{name}.h5", detector=DETECTOR, particle=22) as writer:
        writer.write(showers(12))
    assert main(["convert", f"{name}.h5", f"{name}2.h5", "--to", "calogan"]) == 0
    assert main(["info", f"{name}2.h5", "--drawing", f"{name}.png"]) == 0
    assert main(["likelihood", "calogan-gamma", f"{name}.h5", "-o", f"{name}.csv"]) == 0
    assert main(["generate", "calogan-gamma", "--energy", "10", "--events", "12", "-o", f"{name}3.h5"]) == 0
    assert printable(name) in capsys.readouterr().out.replace("\n", "") or "\n" in name
    with open_showers(f"{name}3.h5") as reader:
        assert reader.provenance["command"].isprintable()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of statistics of twelve showers
        options = ("--only", "response", "--allow-mismatch", "--format", "html,json", "-o", name)
        assert main(["evaluate", f"{name}3.h5", f"{name}.h5", *options]) == 0
        assert main(["compare", name, "-o", f"{name}.md"]) == 0
    assert printable(f"{name}3.h5") in Path(name, "report.json").read_text().replace("\\\\", "\\")
    capsys.readouterr()
    assert main(["info", f"{name}4.h5"]) == 1
    err = capsys.readouterr().err
    assert len(err.splitlines()) == 1
    assert printable(name) in err


def test_a_model_directory_needs_utf_8(tmp_path: Path) -> None:
    """The library safetensors opens no other; that is said before anything is read or written."""
    folder = tmp_path / NAMES[0]
    with create_showers(tmp_path / "a.h5", detector=DETECTOR, particle=22) as writer:
        writer.write(showers(12))
    with pytest.raises(CaloForgeError, match="is not UTF-8, and the library safetensors"):
        train("caloflow-tiny", tmp_path / "a.h5", folder, show=False)
    assert not folder.exists()
    folder.mkdir()
    with pytest.raises(CaloForgeError, match="is not UTF-8"):
        load_model(folder)


def test_data_of_any_name_are_trained_on(tmp_path: Path) -> None:
    data = tmp_path / f"{NAMES[0]}.h5"
    with create_showers(data, detector=DETECTOR, particle=22, provenance={"command": NAMES[0]}) as writer:
        writer.write(showers(12))
    train("caloflow-tiny", data, tmp_path / "m", stages=["scale"], show=False, command=NAMES[0])
    plan = json.loads((tmp_path / "m" / "plan.json").read_text())
    assert plan["details"]["data"]["file"] == "byte\\xff.h5"
    assert plan["details"]["data"]["provenance"]["command"] == NAMES[0]
    train("caloflow-tiny", data, tmp_path / "m", stages=["scale"], show=False, resume=True)


def test_names_on_one_line() -> None:
    assert printable("a\nb\x1b\udcff\u202eé ü") == "a\\nb\\x1b\\xff\\u202eé ü"


def test_surrogates_survive_in_json(tmp_path: Path) -> None:
    replace_file(tmp_path / "a.json", json.dumps({"a": NAMES[0]}, ensure_ascii=False))
    assert json.loads((tmp_path / "a.json").read_text(encoding="utf-8")) == {"a": NAMES[0]}
