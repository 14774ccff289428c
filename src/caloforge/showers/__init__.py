"""The data: showers in memory, in files, and on their way between the two."""

from caloforge.showers.files import Reader, Writer, create_showers, energy_balance, open_showers
from caloforge.showers.showers import ShowerPoints, Showers
from caloforge.showers.voxelise import sum_in_voxels, voxelise

__all__ = [
    "Reader",
    "ShowerPoints",
    "Showers",
    "Writer",
    "create_showers",
    "energy_balance",
    "open_showers",
    "sum_in_voxels",
    "voxelise",
]
