"""Where real showers come from: Geant4, run through an engine, with tables that need no download.

Nothing here imports an engine's package; those are optional dependencies (``pip install "caloforge[geant4]"``) and live
in worker processes only.
"""

from caloforge.simulation.job import SimulationSummary, simulate_to_file
from caloforge.simulation.plan import BLOCK_SIZE, Block, SimulationPlan
from caloforge.simulation.produce import Production, simulate
from caloforge.simulation.removal import RemovalPlane, Removed
from caloforge.simulation.runner import BlockRunner
from caloforge.simulation.tables import TableSource, fetch_official, find_official

__all__ = [
    "BLOCK_SIZE",
    "Block",
    "BlockRunner",
    "Production",
    "RemovalPlane",
    "Removed",
    "SimulationPlan",
    "SimulationSummary",
    "TableSource",
    "fetch_official",
    "find_official",
    "simulate",
    "simulate_to_file",
]
