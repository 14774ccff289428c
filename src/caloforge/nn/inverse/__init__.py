"""Exact inversion of masked autoregressive flows without recomputation.

A MADE block is inverted feature by feature. With hidden units sorted by degree, the units that see only the first i
features are the first ``ready[i]`` ones, in every hidden layer. When feature i becomes known, exactly the units
``ready[i] .. ready[i + 1]`` become computable, once and for all; the spline parameters of the next feature need nothing
else. All steps together do the arithmetic of one masked pass instead of D of them.
"""

from __future__ import annotations

from caloforge.nn.inverse.incremental import invert_block, ready_units

__all__ = ["invert_block", "ready_units"]
