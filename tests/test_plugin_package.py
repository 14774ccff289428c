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
        ("presets", "toy-exponential-started"): "caloforge-toy",
        ("presets", "toy-exponential-tiny"): "caloforge-toy",
        ("pretrained", "toy-photons"): "caloforge-toy",
        ("aids", "toy-mean-start"): "caloforge-toy",
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


def test_its_aid_helps_its_preset_and_a_broken_aid_stops_nothing_else(program: Program) -> None:
    """Mutations: the aid does nothing; presets look for aids in the package itself alone."""
    program("convert", "calogan-gamma-sample:floor", "few.h5")
    begun = ("--data", "few.h5", "--set", "training.epochs=1", "--set", "training.optimiser.learning_rate=0.001")
    losses = {}
    for word in ("started", "tiny"):
        program("train", f"toy-exponential-{word}", "--out", word, *begun)
        (row,) = map(json.loads, (program.folder / word / "metrics.jsonl").read_text().splitlines())
        losses[word] = row["validation"]["loss"]
    assert losses["started"] < losses["tiny"] - 100  # nats: without it the energy lies evenly over all voxels
    assert "toy-mean-start" in program("info", "started").stdout
    broken = (PACKAGE / "caloforge_toy/presets/toy-exponential-started.yaml").read_text()
    (program.folder / "broken.yaml").write_text(broken.replace("toy-mean-start", "broken"))
    done = program("train", "broken.yaml", "--data", "few.h5", "--out", "b", code=1)
    assert done.stderr.startswith("caloforge: the aid 'broken' of the distribution 'broken-package' cannot be loaded")


def test_its_trained_model_is_listed_and_generates_by_name(program: Program) -> None:
    """Mutation: look for trained models in the package itself alone."""
    listed = program("models").stdout
    assert "toy-photons" in listed
    assert "toy-mean-start" in program("info", "toy-photons").stdout
    program("generate", "toy-photons", "--energy", "2:90", "--events", "300", "--jobs", "2", "--out", "g.h5")
    program(
        "evaluate", "g.h5", "calogan-gamma-sample:test", "--only", "toy-mean-energy", "--allow-mismatch", "--out", "r"
    )
    report = json.loads((program.folder / "r" / "report.json").read_text())
    (number,) = report["generated"]["measured"]["toy-mean-energy"]
    assert number["value"] == pytest.approx(1, abs=0.1)
    done = program("info", "broken", code=1)
    assert "the trained model 'broken' of the distribution 'broken-package' cannot be loaded" in done.stderr


def test_a_broken_measure_costs_nothing_but_itself(program: Program) -> None:
    done = program(
        "evaluate", "calogan-gamma-sample:floor", "calogan-gamma-sample:test", "--only", "broken", "--out", "r", code=1
    )
    assert done.stderr.startswith(
        "caloforge: the measure 'broken' of the distribution 'broken-package' cannot be loaded"
    )
    program("evaluate", "calogan-gamma-sample:floor", "calogan-gamma-sample:test", "--only", "fpd", "--out", "r")
