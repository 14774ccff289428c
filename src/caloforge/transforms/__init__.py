"""Invertible preprocessing: each step with its inverse, its log-determinant, and constants that go into the model file.

Every transform maps a batch to ``(outputs, log |det|)`` by ``forward`` and back by ``inverse``; log-determinants are in
nats, one for each row. Constants that are fitted to data are float64 buffers, so they travel in the model's state.
"""

from __future__ import annotations

from caloforge.transforms.cuts import cut_layers
from caloforge.transforms.energies import EnergyFractions, EnergyScale, LogEnergy, SingleFractions
from caloforge.transforms.layers import DroppedVoxelNormalisation, LayerNormalisation, LayerSums
from caloforge.transforms.logarithm import LogMargin
from caloforge.transforms.logit import Logit
from caloforge.transforms.noise import DequantisationNoise
from caloforge.transforms.restoring import clean_layer_energies, restore_deposits

__all__ = [
    "DequantisationNoise",
    "DroppedVoxelNormalisation",
    "EnergyFractions",
    "EnergyScale",
    "LayerNormalisation",
    "LayerSums",
    "LogEnergy",
    "LogMargin",
    "Logit",
    "SingleFractions",
    "clean_layer_energies",
    "cut_layers",
    "restore_deposits",
]
