"""What the generated tables say of the publications, against a list typed from the audit of papers and programs."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from variants import KINDS

from caloforge.models import load_preset, preset_names
from caloforge.stage import StageTraining

PAGES = Path(__file__).parents[2] / "docs" / "models"

#: For each kind the published value of every switch, as its table has to print it.
SWITCHES: dict[str, dict[str, str]] = {
    "caloflow": {
        "masks": "published",
        "energy_noise_per": "voxel",
        "cut_first": "false",
        "energy_fractions": "recursive",
        "above_scale": "clamp",
        "postprocessing": "renormalise",
    },
    "caloflow-student": {},
    "icaloflow": {
        "masks": "published",
        "cut_first": "false",
        "energies_relative_to": "fixed",
        "conditions": "logits",
        "postprocessing": "multiply",
    },
    "icaloflow-student": {},
    "caloinn": {"variables": "logarithms", "condition": "published", "outside": "event"},
    "caloinn-factorised": {},
    "l2lflows": {"masks": "published", "cut_first": "false", "energy_fractions": "recursive"},
    "l2lflows-conv": {
        "masks": "published",
        "cells": "logits",
        "network": "published",
        "incident_factor": "2",
        "incident_reference": "31622.8",
        "layer_reference": "100",
        "coordinates": "false",
    },
    "caloclouds2": {
        "profiles": "linear",
        "profile_noise": "0",
        "outside_box": "kept",
        "edm_calibration_showers": "null",
        "condition_units": "published",
        "occupancy": "polynomial",
        "points_told": "calibrated",
        "point_energy": "linear",
        "edm_steps": "13",
    },
    "caloclouds3": {
        "profiles": "linear",
        "profile_noise": "0",
        "outside_box": "kept",
        "edm_calibration_showers": "null",
        "condition_units": "published",
        "profile_scale": "constants",
    },
}
#: Numbers that the tables must name where no switch does.
NUMBERS: dict[str, tuple[str, ...]] = {
    "caloflow": ("30 %", "float64"),
    "icaloflow": ("65 GeV", "1,000 layers", "30 %", "float64"),
    "caloinn": (
        "1e-8",
        "5e-6",
        "log2(E / GeV)",
        "ln(E / GeV)",
        "3.5 times",
        "600 GeV",
        "1 %",
        "20 %",
        "0.001",
    ),
    "l2lflows-conv": (
        "1 +- 0.2 keV",
        "log10 with 1e-7, over 7 plus 1",
        "0.01",
        "2 log10(E / GeV) - 3",
        "log10(E_k / GeV + 1e-6) + 1",
    ),
    "caloclouds2": ("13 noise levels", "6,000 points", "40 MeV", "100 GeV"),
    "caloclouds3": ("7,864 / 30 points", "3,400 / 30 MeV", "127 GeV", "1.04"),
}

#: Training of published presets, typed from the programs: stage, and what it is trained with.
TRAINING: dict[str, dict[str, dict[str, object]]] = {
    "caloflow-ds1-photons": {
        "energies": {"batch_size": 200, "epochs": 100},
        "shapes": {"batch_size": 200, "epochs": 100},
    },
    "caloflow-student-ds1-pions": {"shapes": {"batch_size": 175, "epochs": 150}},
    "icaloflow-par04-ds2": {
        "energies": {"epochs": 500, "batch_size": 1000},
        "first": {"epochs": 200},
        "following": {"epochs": 60},
    },
    "caloinn-ds1-pions": {"flow": {"batch_size": 512, "selection": "last"}},
    "l2lflows-conv-ild": {
        "energies": {"epochs": 200, "gradient_clip": None},
        "layer_07": {"epochs": 200, "batch_size": 1024, "gradient_clip": 800.0, "selection": "last"},
    },
    "l2lflows-conv-par04-ds3": {
        "energies": {"epochs": 2000, "gradient_clip": None},
        "layer_07": {
            "epochs": 800,
            "batch_size": 1024,
            "gradient_clip": 100.0,
            "augmentation": "rotations",
            "selection": "last",
        },
    },
    "caloclouds2": {"diffusion": {"batch_size": 128, "gradient_clip": 10.0}, "distillation": {"batch_size": 256}},
    "caloclouds3": {"flow": {"batch_size": 2048}, "diffusion": {"batch_size": 64}, "distillation": {"batch_size": 64}},
}


def table(kind: str) -> list[list[str]]:
    """Rows of the table of a kind, as the page prints it."""
    text = "".join(page.read_text(encoding="utf-8") for page in sorted(PAGES.glob("*.md")))
    (found,) = re.findall(rf"<!-- differences: {kind} -->\n(.*?)<!-- end of", text, re.DOTALL)
    return [[cell.strip() for cell in line.strip("|").split(" | ")] for line in found.splitlines()[2:]]


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in SWITCHES])
def test_switches_have_the_published_values(kind: str) -> None:
    """Mutation: any published value in any ``Difference``."""
    found = dict(re.findall(r"`(\w+)`: (\S+) /", " ".join(row[-1] for row in table(kind))))
    assert found == SWITCHES[kind]


@pytest.mark.parametrize("kind", NUMBERS)
def test_tables_name_the_published_numbers(kind: str) -> None:
    published = " ".join(row[1] for row in table(kind))
    assert [number for number in NUMBERS[kind] if number not in published] == []


@pytest.mark.parametrize("kind", [kind for kind in KINDS if kind in SWITCHES])
def test_every_row_gives_a_reason(kind: str) -> None:
    for row in table(kind):
        assert len(row) == 5, row
        assert all(row)
        assert len(row[3]) > 8


@pytest.mark.parametrize(("preset", "stage"), [(name, stage) for name, stages in TRAINING.items() for stage in stages])
def test_published_trainings(preset: str, stage: str) -> None:
    training: StageTraining = load_preset(preset).training.for_stage(stage)
    assert {key: getattr(training, key) for key in TRAINING[preset][stage]} == TRAINING[preset][stage]


@pytest.mark.parametrize("preset", [name for name in preset_names() if re.match("i?caloflow", name)])
def test_published_presets_of_the_autoregressive_flows_split_and_count_as_published(preset: str) -> None:
    """70 : 30, float64. Mutation: leave either out of one preset."""
    chosen = load_preset(preset)
    if chosen.like == "published":
        assert (chosen.training.validation_fraction, chosen.training.precision) == (0.3, "float64")
