"""Train a model that ships with the package, and put it there.

Run with: python tools/make_pretrained.py calogan-gamma RUN_DIR SHOWERS.h5 [MORE.h5 ...] [--unseen TEST.h5] [--report REPORT.json]

The files hold the particle of the name with 1-100 GeV, uniform, in the detector `calogan`. The training (half an hour on a
busy core) can be stopped and goes on with the same command. Weights are stored in half precision, without those that masks
keep at zero; what that costs in likelihood is printed for the first 500 showers of `--unseen`. A report of
`caloforge evaluate` adds its scores to model.json.
"""

from __future__ import annotations

import argparse
import json
import shlex
from pathlib import Path

import torch

from caloforge.models import load_model, save_model, training_row_hashes
from caloforge.random import Streams
from caloforge.showers import Showers, open_showers
from caloforge.training import train

PRESETS = {
    "calogan-gamma": "caloflow-calogan-gamma-compact",
    "calogan-eplus": "caloflow-calogan-eplus-compact",
    "calogan-piplus": "caloflow-calogan-piplus-compact",
}
TARGET = Path(__file__).resolve().parent.parent / "src" / "caloforge" / "zoo" / "pretrained"


def mean_likelihood(directory: Path, showers: Showers) -> float:
    """Mean log-likelihood of some showers, nats."""
    return float(load_model(directory).eval().log_prob(showers, Streams(0, "likelihood")).mean())


def scores(report: Path) -> dict[str, object]:
    """The classifiers' scores of a report, each with its floor."""
    data = json.loads(report.read_text())
    found: dict[str, object] = {}
    for name, result in data["generated"]["classifiers"].items():
        floor = (data["floor"] or {}).get("classifiers", {}).get(name)
        found[name] = {
            "auc": result["auc"]["mean"],
            "auc_error": result["auc"]["error"] or max(result["auc"]["std"], result["statistical_error"]),
            "jsd": result["jsd"]["mean"],
            "floor_auc": floor and floor["auc"]["mean"],
            "showers_of_each": result["settings"].get("showers of each class"),
            "trainings": len(result["auc"]["values"]),
        }
    return found


def without_folders(command: str, preset: str) -> str:
    """What was typed, files by their names alone: where they lay is nobody's business.

    A run that goes on with the preset of the package has its settings, whatever the file was called with which it began, and
    all its stages, whichever came first.
    """
    words = [Path(word).name if "/" in word else word for word in shlex.split(command)]
    words[2] = preset
    if "--stage" in words:
        del words[words.index("--stage") : words.index("--stage") + 2]
    return shlex.join(word for word in words if word != "--resume")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("name", choices=PRESETS)
    parser.add_argument("run", type=Path)
    parser.add_argument("showers", type=Path, nargs="+")
    parser.add_argument("--unseen", type=Path)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    target = TARGET / options.name
    if not (options.run / "model.json").is_file():
        train(PRESETS[options.name], options.showers, options.run, val_fraction=0.05, seed=2, threads=1, resume=True)
    model = load_model(options.run).eval()
    record = model.record
    assert record is not None  # it was loaded from a directory
    training = dict(record.training)
    if training.get("command"):
        training["command"] = without_folders(training["command"], PRESETS[options.name])
    save_model(
        target, model, record.valid, row_hashes=training_row_hashes(options.run), training=training,
        metrics=scores(options.report) if options.report else {}, weights=torch.float16,
    )  # fmt: skip
    for file in target.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in target.iterdir()) / 1e6
    print(f"{target}: {size:.1f} MB")
    if options.unseen:
        with open_showers(options.unseen) as source:
            showers = source.read(0, 500)
        assert isinstance(showers, Showers)
        full, half = mean_likelihood(options.run, showers), mean_likelihood(target, showers)
        print(f"mean likelihood of unseen showers {full:.3f} nats, in half precision {half:.3f}")


if __name__ == "__main__":
    main()
