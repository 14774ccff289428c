"""A training that takes seconds: what tests of ``train`` share."""

from __future__ import annotations

from pathlib import Path

from caloforge import datasets
from caloforge.showers import create_showers, open_showers

_PRESET = """
kind: caloflow
title: a small one for the tests
model:
  energy_scale: 1.0
  energies: {{blocks: 1, hidden_features: 8, hidden_layers: 1}}
  shapes: {{blocks: 1, hidden_features: 8, hidden_layers: 1}}
training:
  batch_size: 60
  epochs: {epochs}
"""


def small_preset(folder: Path, epochs: int) -> Path:
    """A preset in a folder."""
    path = folder / "small.yaml"
    path.write_text(_PRESET.format(epochs=epochs))
    return path


def packaged_photons(folder: Path, count: int) -> Path:
    """A file with the first training showers of the package."""
    path = folder / "g.h5"
    with open_showers(datasets.path("calogan-gamma-sample", split="train")) as reader:
        showers = reader.read(0, count)
        with create_showers(path, detector=reader.detector, particle=22) as writer:
            writer.write(showers)
    return path
