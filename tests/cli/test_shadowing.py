"""Folders that are called like something built in: the built-in wins, with a note; ``./name`` is the folder."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import pytest

from caloforge.cli.main import main
from caloforge.errors import CaloForgeWarning, ModelFileError
from caloforge.models import load_model, read_record
from caloforge.names import is_builtin

Run = Callable[..., tuple[int, str, str]]


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Run:
    monkeypatch.chdir(tmp_path)

    def call(*arguments: str) -> tuple[int, str, str]:
        code = main(arguments)
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return call


def note(name: str, what: str, kind: str = "folder") -> str:
    return (
        f"caloforge: note: '{name}' is the {what} that is built in; the {kind} of this name in the working directory is "
        f"'./{name}'\n"
    )


def test_detector(run: Run) -> None:
    """Fails with ``not path.exists()`` alone as the condition of ``info``."""
    Path("calogan").mkdir()
    code, out, err = run("info", "calogan", "--no-drawing")
    assert (code, err) == (0, note("calogan", "detector"))
    assert "504 voxels" in out
    code, _, err = run("info", "./calogan")
    assert (code, err) == (
        1,
        "caloforge: 'calogan' is no model directory: it has no model.json and model.safetensors\n",
    )
    # Where only a name or a .toml file can stand, there is nothing to take it for, and no note.
    assert run("info", "nothing.h5", "--detector", "calogan")[2].count("\n") == 1


def test_model(run: Run) -> None:
    """Fails if a folder is looked for first."""
    Path("calogan-gamma").mkdir()
    code, _, err = run("generate", "calogan-gamma", "--energy", "10", "--events", "2", "-o", "a.h5")
    assert code == 0
    assert err.startswith(note("calogan-gamma", "model"))
    assert err.count("note:") == 1  # however often the model is opened
    assert os.listdir("calogan-gamma") == []
    code, _, err = run("generate", "./calogan-gamma", "--energy", "10", "--events", "2", "-o", "b.h5")
    assert code == 1
    assert "'calogan-gamma' is no model directory" in err


def test_preset(run: Run) -> None:
    Path("caloflow-tiny").touch()
    arguments = ("bench", "sampling", "--batch", "1", "--threads", "1", "--geant4", "0", "--seconds", "0", "--model")
    code, _, err = run(*arguments, "caloflow-tiny")  # built for the smallest detector that suits
    assert code == 0
    assert err.startswith(note("caloflow-tiny", "preset", "file"))
    assert "there is no model directory './caloflow-tiny'" in run(*arguments, "./caloflow-tiny")[2]


def test_sample(run: Run) -> None:
    Path("calogan-gamma-sample:test").touch()
    Path("calogan-gamma-sample").mkdir()
    code, _, err = run("evaluate", "missing.h5", "calogan-gamma-sample:test", "-o", "r")
    assert code == 2
    assert err == note("calogan-gamma-sample:test", "sample", "file") + (
        "caloforge: there is no shower file 'missing.h5'\n"
    )
    code, _, err = run("evaluate", "missing.h5", "calogan-gamma-sample", "-o", "r")
    assert "several splits" in err
    code, _, err = run("evaluate", "missing.h5", "./calogan-gamma-sample:test", "-o", "r")
    assert (code, err) == (1, "caloforge: calogan-gamma-sample:test: is empty, expected an HDF5 file\n")


def test_a_path_object_is_a_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """``Path("./x")`` cannot be told from ``Path("x")``, so it must not become a name."""
    monkeypatch.chdir(tmp_path)
    Path("calogan-gamma").mkdir()
    with pytest.raises(ModelFileError, match="is no model directory"):
        load_model(Path("./calogan-gamma"))
    with pytest.warns(CaloForgeWarning, match=r"'\./calogan-gamma'"):
        assert read_record("calogan-gamma").kind == "caloflow"
    Path("calogan-gamma").rmdir()
    assert read_record(Path("calogan-gamma")).kind == "caloflow"  # nothing else is called so


def test_a_dangling_link_is_noted_too(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("x").symlink_to("nowhere")
    with pytest.warns(CaloForgeWarning, match="the file of this name"):
        assert is_builtin("x", ["x"], "thing")
    assert not is_builtin("y", ["x"], "thing")
