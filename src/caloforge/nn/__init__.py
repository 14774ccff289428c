"""Network parts: splines, masked autoregressive conditioners, permutations, flows and their exact fast inverse."""

from __future__ import annotations

from caloforge.kernels.ops.splines import rqs
from caloforge.nn.autoregressive import MaskedAutoregressiveFlow
from caloforge.nn.made import MADE
from caloforge.nn.permutations import FixedPermutation

__all__ = ["MADE", "FixedPermutation", "MaskedAutoregressiveFlow", "rqs"]
