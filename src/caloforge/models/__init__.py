"""The framework of the models: base class, profiles, aids, registry, presets, directories, likelihood.

The published models are in ``caloforge.zoo``, what they are made of in ``caloforge.parts``.
"""

from __future__ import annotations

from caloforge.conditions import ConditionRange, Conditions
from caloforge.models.aid import Aid, aid_kinds, make_aid, only_module
from caloforge.models.base import Latents, ModelConfig, ShowerModel
from caloforge.models.directory import (
    CONTENT,
    assemble_model,
    load_model,
    missing_stages,
    planned_model,
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
from caloforge.models.likelihood import noise_averaged_log_prob
from caloforge.models.preset import Preset, load_preset, preset_names
from caloforge.models.profiles import PROFILES, Difference, Profile, deviations, differences_table, profile_settings
from caloforge.models.record import ModelRecord, RunPlan
from caloforge.models.registry import build_model, model_class, model_kinds, register

__all__ = [
    "CONTENT",
    "PROFILES",
    "Aid",
    "ConditionRange",
    "Conditions",
    "Difference",
    "Latents",
    "ModelConfig",
    "ModelRecord",
    "Preset",
    "Profile",
    "RunPlan",
    "ShowerModel",
    "aid_kinds",
    "assemble_model",
    "build_model",
    "deviations",
    "differences_table",
    "load_model",
    "load_preset",
    "make_aid",
    "missing_stages",
    "model_class",
    "model_kinds",
    "noise_averaged_log_prob",
    "only_module",
    "planned_model",
    "preset_names",
    "pretrained_names",
    "profile_settings",
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
