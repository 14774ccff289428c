"""A small real package that is installed with pip: found, trained, generated and evaluated by name, on the command line."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

PACKAGE = Path(__file__).with_name("plugin_package")


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the installed package, and beside it one that is broken in every group."""
    folder = tmp_path_factory.mktemp("site")
    source = shutil.copytree(PACKAGE, tmp_path_factory.mktemp("source") / "package")
    install = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    done = subprocess.run([*install, "--target", str(folder), str(source)], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    broken = folder / "broken_package-1.0.dist-info"
    broken.mkdir()
    (broken / "METADATA").write_text("Metadata-Version: 2.1\nName: broken-package\nVersion: 1.0\n")
    groups = ("models", "presets", "pretrained", "aids", "measures", "formats")
    (broken / "entry_points.txt").write_text("".join(f"[caloforge.{g}]\nbroken = no_such_module\n" for g in groups))
    return folder


class Program:
    """The command line in a process of its own, in a folder of its own."""

    def __init__(self, site: Path, folder: Path) -> None:
        own = os.environ.get("PYTHONPATH", "")
        self.environment = os.environ | {"PYTHONPATH": f"{own}:{site}".lstrip(":")}
        self.folder = folder

    def __call__(self, *arguments: str, code: int = 0) -> subprocess.CompletedProcess[str]:
        done = subprocess.run(
            [sys.executable, "-m", "caloforge", *arguments], capture_output=True, text=True, cwd=self.folder,
            env=self.environment, check=False,
        )  # fmt: skip
        assert done.returncode == code, done.stderr
        assert "Traceback" not in done.stderr
        return done


@pytest.fixture
def program(site: Path, tmp_path: Path) -> Program:
    return Program(site, tmp_path)


def test_it_is_found_and_a_broken_one_is_named(program: Program) -> None:
    """Mutation: look for entry points in the groups of models and aids only."""
    found = json.loads(program("plugins", "--json").stdout)["plugins"]
    own = {(p["group"], p["name"]): p["distribution"] for p in found if p["distribution"] == "caloforge-toy"}
    assert own == {
        ("models", "toy-exponential"): "caloforge-toy",
        ("presets", "toy-exponential-tiny"): "caloforge-toy",
        ("measures", "toy-mean-energy"): "caloforge-toy",
        ("formats", "toy-gev"): "caloforge-toy",
    }
    done = program("plugins", "--check", "--json", code=1)
    checked = {(p["group"], p["name"]): p["problem"] for p in json.loads(done.stdout)["plugins"]}
    assert all(not problem for (_, name), problem in checked.items() if name != "broken")
    for group, word in (("models", "model"), ("aids", "aid"), ("measures", "measure"), ("formats", "format")):
        start = f"the {word} 'broken' of the distribution 'broken-package' cannot be loaded (ModuleNotFoundError"
        assert checked[group, "broken"].startswith(start)
    for group, word in (("presets", "preset"), ("pretrained", "trained model")):
        start = f"the {word} 'broken' of the distribution 'broken-package' cannot be loaded: there is no 'broken"
        assert checked[group, "broken"].startswith(start)
    assert done.stderr.startswith("caloforge: the model 'broken'")
    models = program("models", "--json")
    assert json.loads(models.stdout)["toy-exponential-tiny"]["kind"] == "toy-exponential"
    assert "caloforge: note: the preset 'broken' of the distribution 'broken-package' cannot be loaded" in models.stderr


def test_it_is_trained_generated_written_and_evaluated_by_name(program: Program) -> None:
    data = "calogan-gamma-sample:train"
    program("convert", data, "train.h5", "--to", "toy-gev")
    trained = program("train", "toy-exponential-tiny", "--data", "train.h5", "--out", "m", "--set", "training.epochs=2")
    assert "toy-exponential" in trained.stdout
    assert "toy-exponential" in program("info", "m").stdout
    generate = (
        "generate",
        "m",
        "--energy",
        "1:100",
        "--events",
        "300",
        "--to",
        "toy-gev",
        "--out",
        "g.h5",
        "--jobs",
        "2",
    )
    program(*generate)
    assert "toy-gev" in program("info", "g.h5").stdout
    test = "calogan-gamma-sample:test"
    done = program(
        "evaluate",
        "g.h5",
        test,
        "--floor",
        "calogan-gamma-sample:floor",
        "--only",
        "toy-mean-energy",
        "--out",
        "report",
    )
    assert "Traceback" not in done.stderr
    report = json.loads((program.folder / "report" / "report.json").read_text())
    (number,) = report["generated"]["measured"]["toy-mean-energy"]
    assert number["value"] == pytest.approx(1, abs=0.1)
    assert report["floor"]["measured"]["toy-mean-energy"]
    page = (program.folder / "report" / "index.html").read_text()
    assert number["title"].replace("'", "&#x27;") in page
    assert "mean deposited energy" in program("compare", "report").stdout


def test_a_broken_measure_costs_nothing_but_itself(program: Program) -> None:
    done = program(
        "evaluate", "calogan-gamma-sample:floor", "calogan-gamma-sample:test", "--only", "broken", "--out", "r", code=1
    )
    assert done.stderr.startswith(
        "caloforge: the measure 'broken' of the distribution 'broken-package' cannot be loaded"
    )
    program("evaluate", "calogan-gamma-sample:floor", "calogan-gamma-sample:test", "--only", "fpd", "--out", "r")
