"""Network parts: splines, masked autoregressive conditioners, permutations, flows and their exact fast inverse."""

from __future__ import annotations

from caloforge.nn.autoregressive import MaskedAutoregressiveFlow
from caloforge.nn.made import MADE
from caloforge.nn.permutations import FixedPermutation
from caloforge.nn.splines import rqs

__all__ = ["MADE", "FixedPermutation", "MaskedAutoregressiveFlow", "rqs"]
