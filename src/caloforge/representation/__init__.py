"""How showers become the variables of a model, and variables showers: each written once, with its inverse.

Log-determinants are in nats, one for each row. Constants that are fitted to data are float64 buffers, so they travel in the
model's state. Aids may work at places that a representation names (:class:`Representation`).
"""

from __future__ import annotations

from caloforge.representation.base import Representation
from caloforge.representation.cell_logits import CellLogits, CellScale, keep_brightest
from caloforge.representation.cell_logs import CellLogs
from caloforge.representation.cell_units import CellUnits, CellUnitsKind
from caloforge.representation.cloud_points import (
    AxisShift,
    Cloud,
    PointNormalisation,
    cloud_of,
    conditions_of,
    directions_of,
)
from caloforge.representation.cloud_profiles import (
    CONDITION_FUNCTIONS,
    ROOM,
    CloudProfiles,
    Profiles,
    Scale,
    condition_functions,
)
from caloforge.representation.conditions import EnergyConditions, InductiveConditions, highest_energy, middle_energy
from caloforge.representation.cuts import cut_layers
from caloforge.representation.dequantisation import Dequantisation, NoisyShowers
from caloforge.representation.energies import EnergyFractions, EnergyScale, FixedEnergy, LogEnergy, SingleFractions
from caloforge.representation.joint_shares import JointShares, check_share_noise, share_noise_width
from caloforge.representation.layer_energies import EncodedEnergies, LayerEnergies, energy_fractions
from caloforge.representation.layers import DroppedVoxelNormalisation, LayerNormalisation, LayerSums
from caloforge.representation.log_shares import LogShares
from caloforge.representation.logarithm import LogMargin
from caloforge.representation.logit import Logit
from caloforge.representation.noise import DequantisationNoise
from caloforge.representation.restoring import clean_layer_energies, restore_deposits, unless_finite
from caloforge.representation.settings import (
    FractionSettings,
    FractionsKind,
    JointSettings,
    LayerConditionSettings,
    PostProcessing,
    ShareSettings,
    VoxelBasics,
    VoxelSettings,
)
from caloforge.representation.shares import EncodedShares, VoxelShares, axis_voxels, check_noise, least_deposit

__all__ = [
    "CONDITION_FUNCTIONS",
    "ROOM",
    "AxisShift",
    "CellLogits",
    "CellLogs",
    "CellScale",
    "CellUnits",
    "CellUnitsKind",
    "Cloud",
    "CloudProfiles",
    "Dequantisation",
    "DequantisationNoise",
    "DroppedVoxelNormalisation",
    "EncodedEnergies",
    "EncodedShares",
    "EnergyConditions",
    "EnergyFractions",
    "EnergyScale",
    "FixedEnergy",
    "FractionSettings",
    "FractionsKind",
    "InductiveConditions",
    "JointSettings",
    "JointShares",
    "LayerConditionSettings",
    "LayerEnergies",
    "LayerNormalisation",
    "LayerSums",
    "LogEnergy",
    "LogMargin",
    "LogShares",
    "Logit",
    "NoisyShowers",
    "PointNormalisation",
    "PostProcessing",
    "Profiles",
    "Representation",
    "Scale",
    "ShareSettings",
    "SingleFractions",
    "VoxelBasics",
    "VoxelSettings",
    "VoxelShares",
    "axis_voxels",
    "check_noise",
    "check_share_noise",
    "clean_layer_energies",
    "cloud_of",
    "condition_functions",
    "conditions_of",
    "cut_layers",
    "directions_of",
    "energy_fractions",
    "highest_energy",
    "keep_brightest",
    "least_deposit",
    "middle_energy",
    "restore_deposits",
    "share_noise_width",
    "unless_finite",
]
