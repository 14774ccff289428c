"""Variants of the tiny presets that the contract runs over: both profiles of all kinds, and other values of options."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from model_samples import lead_argon, toy_detector

from caloforge.detectors import Detector, load_detector
from caloforge.models import Profile, ShowerModel, build_model, load_preset, model_class, model_kinds, profile_settings

__all__ = [
    "DENSITIES",
    "KINDS",
    "NO_INTEGRAL",
    "TEACHERS",
    "VARIANTS",
    "Variant",
    "build_variant",
    "cases",
    "contract_detector",
    "teacher_variant",
    "variant_settings",
]


@dataclass(frozen=True)
class Variant:
    """A tiny preset with other values.

    Attributes:
        profile: whose switches count; those of the preset itself do not, if it is of the other profile.
        changes: other values under ``model:``.
        aids: other aids; None takes those of the preset.
    """

    profile: Profile = "improved"
    changes: dict[str, Any] = field(default_factory=dict)
    aids: tuple[dict[str, Any], ...] | None = None


def published(**changes: Any) -> Variant:
    """The published profile in a tiny size, without aids."""
    return Variant("published", changes, ())


def _judge(*values: float) -> dict[str, Any]:
    """The aid that judges showers, with other values of its settings."""
    names = ("most", "networks", "hidden", "draws", "epochs", "batch_size", "learning_rate", "weight_decay")
    return {"kind": "rejection"} | dict(zip(names, values or (3.0, 1, 4, 1, 1, 16, 1e-3, 1e-2), strict=True))


#: As published, but for sizes.
_CLOUD = {
    "flow": {"blocks": 1, "affine_hidden": 16, "spline_hidden": 16},
    "widths": [16, 16],
    "training_points": None,
    "noise_levels": 1,
    "distillation_levels": 18,
    "teacher_steps": 1,
    "distillation_reuse": 1,
}
#: Other values of whatever no other variant changes: every option is tried with at least two (test_options.py).
_OTHER_CLOUD = {
    "flow": {"blocks": 2, "affine_hidden": 16, "spline_hidden": 16, "bins": 5, "bound": 4.0},
    "widths": [16, 16],
    "time_features": 8,
    "fourier_std": 2.0,
    "box": 300.0,
    "position_fuzz": 1.0,
    "core_share": 0.4,
    "max_negative": 20,
    "cell": 10.0,
    "edm": {"sigma_data": 0.6, "sigma_min": 0.01, "sigma_max": 20.0, "rho": 5.0, "log_mean": -1.0, "log_std": 1.0},
    "target_decay": 0.9,
    "sampler": "edm",
    "edm_steps": 4,
    "calibration_showers": 20,
}
_OTHER_SIZE = {"blocks": 2, "hidden_features": 12, "hidden_layers": 0, "bins": 5, "bound": 16.0, "dropout": 0.2}
_OTHER_COUPLING = {
    "blocks": 3,
    "hidden_features": 16,
    "layers": 2,
    "bins": 6,
    "bound": 19.0,
    "least": 1e-4,
    "act_norm": False,
    "dropout": 0.1,
    "permutation_seed": 5,
}
_OTHER_BASICS = {
    "noise": 2e-3,
    "energy_noise": 2e-3,
    "alpha": 1e-5,
    "energy_scale": 1.5,
    "extra_energy": 2.0,
    "incident_reference": 2e4,
    "cut": 2e-2,
}
_OTHER_VOXELS = _OTHER_BASICS | {"layer_reference": 3e3, "layer_offset": 1e-2}
_SMALL_BOTTLENECK = {"hidden": [12, 8], "channels": 2, "critic_channels": 2, "critic_width": 8, "post_width": 4}
_OTHER_BOTTLENECK = _SMALL_BOTTLENECK | {
    "incident_reference": 2e4,
    "cut": 2e-2,
    "latents": 3,
    "noise_latents": 5,
    "critic_steps": 3,
    "gradient_penalty": 5.0,
    "difference_weight": 2.0,
    "latent_critic_weight": 3.0,
    "kl_weight": 0.2,
    "discrepancy_weight": 20.0,
    "post_layers": 4,
    "hit_weight": 2.0,
    "hit_window": 7,
    "hit_stride": 3,
    "hit_ranks": 11,
    "sorted_weight": 1.0,
    "warm_up": 0,
    "flow": _OTHER_SIZE,
}
_VOXEL_SUMS = {"drop_voxel": True, "energy_noise_per": "voxel"}
_LAYER_NOISE = {"drop_voxel": False, "energy_noise_per": "layer"}
_OTHER_AIDS = ({"kind": "marginal-start"}, {"kind": "emphasis", "factor": 2.0})

VARIANTS: dict[str, dict[str, Variant]] = {
    "bib-ae": {
        "published": published(**_SMALL_BOTTLENECK),
        "convolutions": Variant(
            changes=_OTHER_BOTTLENECK | {"network": "convolutions", "critics": 2, "critic": "batch"}
        ),
        "published network": Variant(
            changes=_SMALL_BOTTLENECK | {"network": "published", "cell_noise": False, "cells": "units"}
        ),
    },
    "bib-ae-two-angles": {
        # An untrained decoder makes so little that the squared differences of sorted cells hide all else.
        "published": published(**_SMALL_BOTTLENECK, sorted_weight=0.0),
        "convolutions": Variant(
            changes=_OTHER_BOTTLENECK | {"network": "convolutions", "critics": 1, "cut_first": False}
        ),
        "published network": Variant(
            changes=_SMALL_BOTTLENECK | {"network": "published", "cell_noise": False, "cells": "units"}
        ),
    },
    "caloclouds2": {
        "published": published(**_CLOUD, positions="box"),
        "other constants": Variant(changes=_OTHER_CLOUD),
    },
    "caloclouds3": {
        "published": published(**_CLOUD, positions="standard"),
        "many steps": Variant(
            changes=_OTHER_CLOUD | {"point_energy": "linear", "occupancy": "polynomial"},
            aids=({"kind": "moment-map", "moments": "variances"}, {"kind": "layer-factors", "per": "total"}),
        ),
    },
    "caloflow": {
        "published": published(),
        "dropped voxel": Variant(
            changes=_VOXEL_SUMS
            | _OTHER_VOXELS
            | {"energies": _OTHER_SIZE, "shapes": _OTHER_SIZE, "permutation_seed": 5, "energy_fractions": "single"}
        ),
    },
    "caloflow-student": {
        "published": published(data_weight=0.3),
        "end points": Variant(changes={"guidance": "end-points", "shapes": _OTHER_SIZE | {"blocks": 3}}, aids=()),
    },
    "caloinn": {
        "published": published(**_LAYER_NOISE),
        "noise on shares": Variant(
            changes=_LAYER_NOISE
            | _OTHER_BASICS
            | {"noise_on": "shares", "alpha": 1e-8, "cut_first": False, "flow": _OTHER_COUPLING}
            | {"energy_fractions": "single"},
            aids=_OTHER_AIDS,
        ),
        "cubic": Variant(
            changes=_LAYER_NOISE
            | {
                "flow": {
                    "blocks": 4,
                    "hidden_features": 16,
                    "spline": "cubic",
                    "permutations": "reverse",
                    "batch_norm": True,
                },
                "variables": "logarithms",
                "shares_of": "shower",
                "relative_noise": 1e-5,
                "log_alpha": 1e-7,
                "largest_ratio": 0.8,
                "largest_voxel": 5e4,
            }
        ),
    },
    "caloinn-factorised": {
        "published": published(),
        "noise on shares": Variant(
            changes=_LAYER_NOISE
            | _OTHER_VOXELS
            | {
                "noise_on": "shares",
                "alpha": 1e-8,
                "energy_alpha": 1e-5,
                "cut_first": False,
                "energy_fractions": "single",
                "energies": _OTHER_SIZE,
                "permutation_seed": 5,
                "flow": _OTHER_COUPLING | {"spline": "cubic", "permutations": "reverse", "batch_norm": True},
            },
            aids=_OTHER_AIDS,
        ),
    },
    "icaloflow": {
        "published": published(energy_reference=6.5e4),
        "dropped voxel": Variant(
            changes=_VOXEL_SUMS
            | _OTHER_VOXELS
            | dict.fromkeys(("energies", "first", "following"), _OTHER_SIZE)
            | {"permutation_seed": 5}
        ),
    },
    "icaloflow-student": {
        "published": published(data_weight=0.3),
        "dropped voxel": Variant(changes=dict.fromkeys(("first", "following"), _OTHER_SIZE)),
    },
    "l2lflows": {
        "published": published(),
        "dropped voxel, not shared": Variant(
            changes=_VOXEL_SUMS
            | _OTHER_VOXELS
            | {
                "share": False,
                "previous": 1,
                "energy_fractions": "single",
                "energies": _OTHER_SIZE,
                "layer": _OTHER_SIZE,
                "embedding": {"hidden_features": 8, "features": 4},
                "permutation_seed": 5,
            }
        ),
    },
    "l2lflows-conv": {
        "published": published(share=False),
        "no energy flow": Variant(changes={"energy_flow": False, "coordinates": False, "batch_norm": False}),
        "not shared, single fractions": Variant(
            changes=_OTHER_VOXELS
            | {
                "share": False,
                "energy_fractions": "single",
                "energy_noise_per": "voxel",
                "previous": 1,
                "energies": _OTHER_SIZE,
                "steps": 2,
                "hidden_channels": 4,
                "context_channels": 3,
                "levels": 0,
                "bins": 6,
                "bound": 12.0,
                "least": 1e-4,
                "permutation_seed": 5,
                "cell_floor": 1e-3,
                "cell_reference": 2.0,
                "cell_decades": 0.8,
                "cut_first": False,
            }
        ),
    },
    "calo-gan": {
        "published": published(game={"critic_rate": 0.1, "generator_steps": 2}),
        "penalty": Variant(
            changes={
                "latent": 8,
                "channels": None,
                "critic_channels": [4, 4, 4, 4],
                "streams": 2,
                "inpainting": False,
                "energy_loss": "moments",
                "energy_weight": 0.3,
                "norm": "layer",
                "minibatch": False,
                "cut": False,
                "incident_reference": 2e4,
                "game": {"loss": "wasserstein", "penalty": 10.0, "critic_steps": 2, "generator_steps": 1},
            }
        ),
        "two particles": Variant(changes={"particles": ["gamma", "e+"], "type_weight": 0.5, "type_flips": 0.1}),
        "published, three particles": published(
            game={"critic_rate": 0.1, "generator_steps": 2}, particles=["gamma", "e+", "pi+"]
        ),
    },
    "gflash": {
        "published": published(spots=50),
        "points": Variant(
            changes={"points": True, "spots": 300, "core_quantum": 4.0, "tail_quantum": 1.0, "stochastic": 0.1}
        ),
    },
    "pca-parametrisation": {
        "published": published(nodes=1),
        "real showers": Variant(
            changes={"nodes": 2, "bins": 2, "least_share": 0.1, "lateral": "showers", "symmetries": "none"}
        ),
        "judged": Variant(aids=(_judge(),)),
        "judged otherwise": Variant(aids=(_judge(2.0, 3, 5, 2, 2, 8, 2e-3, 0.0),)),
    },
    "shower-library": {
        "published": published(),
        "layers": Variant(changes={"neighbours": 3, "symmetries": "approximate", "scaling": "layers", "showers": 20}),
        "points": Variant(changes={"points": True}),
    },
}
#: Detectors for kinds that need something special: layers of equally many voxels; layers of which some share a flow; points.
_DETECTORS: dict[str, Detector] = dict.fromkeys(
    ("icaloflow", "icaloflow-student"), toy_detector((2, 3), (3, 2), (1, 6))
)
_DETECTORS |= dict.fromkeys(("bib-ae", "bib-ae-two-angles"), toy_detector(*[(3, 4)] * 3))
_DETECTORS |= {
    "gflash": lead_argon(),
    "l2lflows": toy_detector((2, 2), (2, 2), (2, 2), (3, 1)),
    "l2lflows-conv": toy_detector((4, 4), (4, 4), (2, 2), (3, 1)),
}
_DETECTORS |= dict.fromkeys(("caloclouds2", "caloclouds3"), load_detector("ild-ecal"))
#: From which kind a kind with a teacher learns.
TEACHERS = {"caloflow-student": "caloflow", "icaloflow-student": "icaloflow"}

#: Changes under which the likelihood of a kind is a density in the deposits alone, without noise or threshold.
DENSITIES: dict[str, dict[str, Any]] = {
    "l2lflows-conv": {
        "energy_flow": False,
        "batch_norm": False,
        "noise": 0.0,
        "energy_noise": 0.0,
        "cut_first": False,
        "incident_reference": 50.0,
        # Ten standard deviations of an untrained flow lie within the square of deposits up to 50 MeV.
        "cell_reference": 0.3,
        "cell_floor": 0.003,
        "cell_decades": 0.4,
    },
}
_DENSITY = _VOXEL_SUMS | {
    "noise": 0.0,
    "energy_noise": 0.0,
    "cut_first": False,
    "energy_scale": 1.0,
    "incident_reference": 50.0,
}
DENSITIES |= {kind: _DENSITY | {"layer_offset": 1.0} for kind in ("l2lflows", "caloflow", "icaloflow")}
DENSITIES["caloinn"] = _DENSITY | {"noise_on": "deposits", "alpha": 1e-6}
#: Needs two shares and so three deposits at least; its Jacobian is compared with autograd's in the tests of its own.
NO_INTEGRAL = frozenset({"caloinn-factorised"})

#: The kinds of the package; other tests of the same process may have registered models of their own.
KINDS = [kind for kind in model_kinds() if model_class(kind).__module__.startswith("caloforge.")]


def cases() -> list[tuple[str, str]]:
    """Kinds and names of variants; ``tiny`` is the tiny preset itself."""
    return [(kind, name) for kind in KINDS for name in ("tiny", *VARIANTS[kind])]


def teacher_variant(kind: str, name: str) -> str:
    """Name of the variant of the teacher from which a variant of a student learns."""
    return name if name in VARIANTS[TEACHERS[kind]] else "tiny"


def contract_detector(kind: str) -> Detector:
    """The detector on which a kind is tried."""
    return _DETECTORS.get(kind, toy_detector())


def variant_settings(kind: str, name: str) -> tuple[dict[str, Any], Profile, list[dict[str, Any]]]:
    """The ``model`` section, the profile and the aids of a variant."""
    preset = load_preset(f"{kind}-tiny")
    variant = Variant() if name == "tiny" else VARIANTS[kind][name]
    switches = profile_settings(model_class(kind).differences, variant.profile)
    own = {key: value for key, value in preset.model.items() if variant.profile == preset.like or key not in switches}
    aids = preset.aids if variant.aids is None else list(variant.aids)
    return switches | own | variant.changes, variant.profile, aids


def build_variant(kind: str, name: str, inputs: dict[str, ShowerModel]) -> ShowerModel:
    """A new model."""
    settings, profile, aids = variant_settings(kind, name)
    return build_model(kind, settings, contract_detector(kind), profile=profile, aids=aids, inputs=inputs)
