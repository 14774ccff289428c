"""The framework of the models: base class, profiles, aids, registry, presets, directories, likelihood.

The published models are in ``caloforge.zoo``, what they are made of in ``caloforge.parts``. Names are imported when they are
used, so that presets and model directories can be described without torch.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from caloforge.lazy import lazy_names

if TYPE_CHECKING:
    from caloforge.conditions import ConditionRange, Conditions
    from caloforge.models.aid import Aid, aid_class, aid_kinds, make_aid, only_module
    from caloforge.models.base import Latents, ModelConfig, ShowerModel
    from caloforge.models.card import card_rows, describe_model, is_unfinished
    from caloforge.models.directory import (
        assemble_model,
        load_model,
        planned_model,
        read_stage,
        save_model,
        write_plan,
        write_stage,
    )
    from caloforge.models.likelihood import noise_averaged_log_prob
    from caloforge.models.locating import (
        CONTENT,
        locate_model,
        missing_stages,
        pretrained_names,
        read_plan,
        read_record,
        stage_directory,
        training_row_hashes,
    )
    from caloforge.models.preset import Preset, load_preset, preset_names, read_preset
    from caloforge.models.profiles import PROFILES, Difference, Profile, deviations, differences_table, profile_settings
    from caloforge.models.ready import is_ready_preset, ready_model
    from caloforge.models.record import ModelRecord, RunPlan
    from caloforge.models.registry import build_model, model_class, model_kinds, register
else:
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "caloforge.conditions": ["ConditionRange", "Conditions"],
            "aid": ["Aid", "aid_class", "aid_kinds", "make_aid", "only_module"],
            "base": ["Latents", "ModelConfig", "ShowerModel"],
            "card": ["card_rows", "describe_model", "is_unfinished"],
            "directory": [
                "assemble_model",
                "load_model",
                "planned_model",
                "read_stage",
                "save_model",
                "write_plan",
                "write_stage",
            ],
            "likelihood": ["noise_averaged_log_prob"],
            "locating": [
                "CONTENT",
                "locate_model",
                "missing_stages",
                "pretrained_names",
                "read_plan",
                "read_record",
                "stage_directory",
                "training_row_hashes",
            ],
            "preset": ["Preset", "load_preset", "preset_names", "read_preset"],
            "profiles": ["PROFILES", "Difference", "Profile", "deviations", "differences_table", "profile_settings"],
            "ready": ["is_ready_preset", "ready_model"],
            "record": ["ModelRecord", "RunPlan"],
            "registry": ["build_model", "model_class", "model_kinds", "register"],
        },
    )

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
    "aid_class",
    "aid_kinds",
    "assemble_model",
    "build_model",
    "card_rows",
    "describe_model",
    "deviations",
    "differences_table",
    "is_ready_preset",
    "is_unfinished",
    "load_model",
    "load_preset",
    "locate_model",
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
    "read_preset",
    "read_record",
    "read_stage",
    "ready_model",
    "register",
    "save_model",
    "stage_directory",
    "training_row_hashes",
    "write_plan",
    "write_stage",
]
