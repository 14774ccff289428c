"""Train the model of photons that ships with the package, and put it there.

Run with: python tools/make_pretrained.py PHOTONS.h5 RUN_DIR [--report REPORT.json]

PHOTONS.h5 holds photons of 1-100 GeV, uniform, in the detector `calogan`. The training (an hour on one core) can be
stopped and goes on with the same command. Weights are stored in half precision; what that costs in likelihood is
printed. A report of `caloforge evaluate` adds its scores to model.json.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import torch

from caloforge import datasets
from caloforge.models import load_model, save_model, training_row_hashes
from caloforge.random import Streams
from caloforge.training import train

PRESET = "caloflow-calogan-gamma-compact"
NAME = "calogan-gamma"
TARGET = Path(__file__).resolve().parent.parent / "src" / "caloforge" / "zoo" / "pretrained" / NAME


def mean_likelihood(directory: Path, showers: int = 500) -> float:
    """Mean log-likelihood of unseen photons, nats."""
    sample = datasets.load("calogan-gamma-sample", split="test")
    model = load_model(directory).eval()
    return float(model.log_prob(sample[:showers], Streams(0, "likelihood")).mean())


def scores(report: Path) -> dict[str, object]:
    """The classifiers' scores of a report, each with its floor."""
    data = json.loads(report.read_text())
    found: dict[str, object] = {}
    for name, result in data["generated"]["classifiers"].items():
        floor = (data["floor"] or {}).get("classifiers", {}).get(name)
        found[name] = {
            "auc": result["auc"]["mean"],
            "auc_std": result["auc"]["std"],
            "jsd": result["jsd"]["mean"],
            "floor_auc": floor and floor["auc"]["mean"],
            "retrainings": len(result["auc"]["values"]),
        }
    return found


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("photons", type=Path)
    parser.add_argument("run", type=Path)
    parser.add_argument("--report", type=Path)
    options = parser.parse_args()
    if not (options.run / "model.json").is_file():
        train(PRESET, options.photons, options.run, val_fraction=0.05, seed=2, threads=1, resume=True)
    model = load_model(options.run).eval()
    record = model.record
    assert record is not None  # it was loaded from a directory
    save_model(
        TARGET, model, record.valid, row_hashes=training_row_hashes(options.run), training=record.training,
        metrics=scores(options.report) if options.report else {}, weights=torch.float16,
    )  # fmt: skip
    for file in TARGET.iterdir():
        file.chmod(0o644)
    size = sum(file.stat().st_size for file in TARGET.iterdir()) / 1e6
    full, half = mean_likelihood(options.run), mean_likelihood(TARGET)
    print(f"{TARGET}: {size:.1f} MB; mean likelihood of unseen photons {full:.3f} nats, in half precision {half:.3f}")


if __name__ == "__main__":
    main()
