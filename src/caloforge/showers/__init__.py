"""The data: showers in memory, in files, and on their way between the two."""

from caloforge.showers.showers import ShowerPoints, Showers
from caloforge.showers.voxelise import sum_in_voxels, voxelise

__all__ = ["ShowerPoints", "Showers", "sum_in_voxels", "voxelise"]
