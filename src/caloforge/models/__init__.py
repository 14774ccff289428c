"""The models: one file, one published model; and what is common to them: base class, registry, presets, directories."""

from __future__ import annotations

from caloforge.models.base import Latents, ModelConfig, ShowerModel
from caloforge.models.conditions import ConditionRange, Conditions
from caloforge.models.directory import (
    CONTENT,
    ModelRecord,
    RunPlan,
    assemble_model,
    load_model,
    missing_stages,
    pretrained_names,
    read_plan,
    read_record,
    read_stage,
    save_model,
    stage_directory,
    training_row_hashes,
    write_plan,
    write_stage,
)
from caloforge.models.preset import Preset, load_preset, preset_names
from caloforge.models.registry import build_model, model_class, model_kinds, register

__all__ = [
    "CONTENT",
    "ConditionRange",
    "Conditions",
    "Latents",
    "ModelConfig",
    "ModelRecord",
    "Preset",
    "RunPlan",
    "ShowerModel",
    "assemble_model",
    "build_model",
    "load_model",
    "load_preset",
    "missing_stages",
    "model_class",
    "model_kinds",
    "preset_names",
    "pretrained_names",
    "read_plan",
    "read_record",
    "read_stage",
    "register",
    "save_model",
    "stage_directory",
    "training_row_hashes",
    "write_plan",
    "write_stage",
]
