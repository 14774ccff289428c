"""What is measured on a shower: the observables of CaloFlow, of CaloChallenge and of CaloClouds.

The communities use some words differently: "sparsity" is the share of *filled* voxels in CaloFlow and of *empty* voxels
in CaloChallenge (here ``filled_fraction`` and ``empty_fraction``); eta is y in CaloGAN's grids and x in CaloChallenge's.
"""

from caloforge.evaluation.observables import calochallenge, caloclouds, caloflow
from caloforge.evaluation.observables.calochallenge import (
    calochallenge_observables,
    high_level_feature_names,
    high_level_features,
)
from caloforge.evaluation.observables.caloclouds import caloclouds_observables, cells_as_points
from caloforge.evaluation.observables.caloflow import caloflow_observables
from caloforge.evaluation.observables.observable import Observable, layer_moments

__all__ = [
    "Observable",
    "calochallenge",
    "calochallenge_observables",
    "caloclouds",
    "caloclouds_observables",
    "caloflow",
    "caloflow_observables",
    "cells_as_points",
    "high_level_feature_names",
    "high_level_features",
    "layer_moments",
]
