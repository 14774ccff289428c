"""Exports for the C++ runtime that tests make of small models, and damage."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Any

from runtime_built import Built
from runtime_library import with_changes
from safetensors.torch import load_file, save_file

from caloforge.conditions import ConditionRange
from caloforge.deployment import export_model
from caloforge.deployment.parity import run_parity
from caloforge.models import ShowerModel, save_model

__all__ = ["DIRECTIONS", "ENERGIES", "checked", "damaged", "exported"]

ENERGIES = (1e3, 9e4)
DIRECTIONS = ((-0.5, -0.5, 0.7), (0.5, 0.5, 1.0))


def exported(folder: Path, model: ShowerModel, *, particle: int = 22, direction: Any = None, showers: int = 40) -> Path:
    """An export that nobody has compared yet."""
    valid = ConditionRange(particle=particle, incident_energy=ENERGIES, direction=direction)
    save_model(folder / "model", model, valid)
    return export_model(folder / "model", "cpp", folder / "out", verify=False, showers=showers).path


def checked(built: Built, folder: Path) -> None:
    result = run_parity(built.parity, folder)
    assert result.passed, result.text


def damaged(folder: Path, name: str, change: Any) -> Path:
    """A model of which a tensor was changed, or left out if ``change`` gives None, by a program that can write their digest."""
    path = folder / "model" / "runtime.safetensors"
    tensors = load_file(path)
    changed = change(tensors.pop(name))
    tensors |= {} if changed is None else {name: changed}
    save_file({key: value.contiguous() for key, value in tensors.items()}, path)
    with_changes(folder / "model", weights=hashlib.blake2b(path.read_bytes(), digest_size=32).hexdigest())
    return folder / "model"
