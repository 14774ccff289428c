"""Differences from publications that several models share: rows of their tables, and switches of their profiles."""

from __future__ import annotations

from caloforge.models.profiles import Difference

__all__ = ["BOTTLENECK_DIFFERENCES", "CUT_FIRST", "LAYER_NOISE", "MASKS", "POINT_DIFFERENCES", "TRAINING_DIFFERENCES"]

MASKS = Difference(
    "masks of the MADEs",
    "degrees 1 .. H of the hidden units, as nflows gives them",
    "degrees spread evenly over all inputs",
    "with H < D - 1 the inputs behind number H condition nothing",
    "masks",
    ("published", "even"),
)

LAYER_NOISE = Difference(
    "noise on layer energies",
    "sums of the noisy voxels",
    "one noise for each layer",
    "the sums are shifted by half a width for every voxel",
    "energy_noise_per",
    ("voxel", "layer"),
)

CUT_FIRST = Difference(
    "threshold before training",
    "none",
    "the detector's analysis threshold",
    "what lies below it is cut behind the model anyway",
    "cut_first",
    (False, True),
)

#: These two are settings of the training, so the presets of both profiles name them and no switch of the model does.
FLOAT32 = Difference(
    "precision",
    "float64, as the published presets are trained (`training.precision`)",
    "float32, and so are showers made in both profiles",
    "twice as fast; the densities agree to rounding",
)

SPLIT = Difference(
    "validation share",
    "30 % of the showers, as in the published presets (`training.validation_fraction`)",
    "10 %",
    "few showers to train on",
)

LAST_BATCH = Difference(
    "last batch of an epoch",
    "kept, though it is short",
    "its rows wait for the next shuffling",
    "a step of few rows has a gradient of its own size",
)

#: Of the autoregressive flows by the same authors.
TRAINING_DIFFERENCES = (SPLIT, LAST_BATCH, FLOAT32)

POINT_DIFFERENCES = (
    Difference(
        "features of the flow",
        "points and energies of the layers",
        "their square roots",
        "the spread of a square root hardly depends on the energy",
        "profiles",
        ("linear", "sqrt"),
    ),
    Difference(
        "noise on the flow's features in training",
        "none",
        "a tenth of their standard deviation",
        "few showers are learnt by heart otherwise",
        "profile_noise",
        (0.0, 0.1),
    ),
    Difference(
        "padding", "padded to the largest shower, rows of padding enter the loss", "packed", "no work for nothing"
    ),
    Difference("batches", "showers of similar size", "random", "nothing is padded"),
    Difference(
        "points outside the box",
        "kept as they are",
        "reflected at its edge",
        "training showers have no points there",
        "outside_box",
        ("kept", "reflected"),
    ),
    Difference(
        "calibration of the many-step sampler",
        "as that of the one-step one",
        "on 100 showers",
        "it takes 35 times as long, and both sides have the same showers",
        "edm_calibration_showers",
        (None, 100),
    ),
    Difference(
        "unit of energy and points in conditions",
        "127 GeV (CaloClouds2: 100 GeV and 6,000 points)",
        "the highest of the training, and the most points at it",
        "constants belong to data",
        "condition_units",
        ("published", "data"),
    ),
    Difference(
        "rounding of calibrated counts",
        "down; surplus points are dropped",
        "to the nearest, and no layer with points loses all (in both profiles)",
        "a layer keeps its energy",
    ),
    Difference(
        "factors by hand",
        "on the energy, and (CaloClouds3) 1.04 on the width",
        "the energy factor is fitted, there is none on the width (in both profiles)",
        "they belong to a detector and a training",
    ),
)

#: Of both autoencoders with a bounded information bottleneck.
BOTTLENECK_DIFFERENCES = (
    Difference(
        "networks",
        "convolutions for one grid",
        "convolutions for any grid, which close on themselves around a polar one; none for few cells or unequal layers",
        "any readout",
        "network",
        ("published", "auto"),
    ),
    Difference(
        "cells",
        "energies in MeV",
        "share of the layer over its standard deviation; the encoder sees ln(1 + x)",
        "numbers of the order of one at all energies",
        "cells",
        ("units", "shares"),
    ),
    Difference(
        "unit of cells",
        "MeV",
        "the median of the lit cells",
        "constants belong to data",
        "cell_unit",
        (1.0, None),
    ),
    Difference(
        "conditions",
        "energy in GeV, angles in degrees",
        "logarithm of the energy, components of the direction",
        "of the order of one",
        "conditions",
        ("raw", "scaled"),
    ),
    Difference(
        "fluctuations of single cells",
        "all from the numbers that the decoder starts from",
        "a normal number for every cell, too, whose width the decoder sets",
        "a few hundred numbers do not make thousands of cells fluctuate by themselves",
        "cell_noise",
        (False, True),
    ),
    Difference(
        "tails of single cells",
        "those that the decoder makes",
        "exponential from one standard deviation of the cell on",
        "normal numbers have no tails: 5 to 10 % fewer lit cells, and the brightest ones of a dark layer too much alike",
        "cell_bend",
        (None, 1.0),
    ),
    Difference(
        "difference from the shower in front",
        "seen by the critics of showers, a learnt norm",
        "likelihood of normal cells, zero where negative; critics see one shower",
        "a norm is least for the mean of all showers that have these latents, so cells fluctuate too little",
        "difference",
        ("critics", "likelihood"),
    ),
    Difference(
        "latents that are made normal",
        "all, of which most are drawn from a normal distribution anyway; the discrepancy of 512 of them is nearly idle",
        "the learnt ones",
        "the others need it not",
        "latent_terms",
        ("all", "learnt"),
    ),
    Difference(
        "post-processor",
        "makes the cells anew",
        "changes them, beginning with nothing; no layer norms",
        "has nothing to learn first",
        "post_residual",
        (False, True),
    ),
    Difference(
        "cells compared by the post-processor",
        "energies in MeV",
        "ln(1 + energy) in units of the median cell",
        "deposits of all particles have no peak of minimum-ionising ones",
        "hits",
        ("energy", "logarithm"),
    ),
    Difference(
        "latent flow",
        "coupling blocks of affine and spline maps, or a kernel density",
        "masked autoregressive, with splines (in both profiles)",
        "one kind of flow for few variables in all models",
    ),
)
