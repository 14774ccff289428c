"""The data: showers in memory, in files, and on their way between the two."""

from caloforge import html
from caloforge.showers.files import Reader, Writer, create_showers, energy_balance, open_showers
from caloforge.showers.hashes import row_hashes
from caloforge.showers.pages import showers_page
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
    "row_hashes",
    "sum_in_voxels",
    "voxelise",
]

html.register_page(Showers, showers_page)
html.register_page(ShowerPoints, showers_page)
