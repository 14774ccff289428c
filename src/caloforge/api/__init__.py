"""What people import: models, showers, training, simulation and evaluation in a notebook or a script.

``import caloforge as cf`` has all of these names; they are imported when they are used. Energies are words in GeV, as on the
command line; arrays of showers are MeV, as in every file.

Example:
    >>> import caloforge as cf
    >>> model = cf.load("calogan-gamma")
    >>> showers = model.sample(100, energy="1:100", seed=1)
    >>> len(showers)
    100
"""

from caloforge.api.data import detector, read, simulate
from caloforge.api.model import Model, load
from caloforge.api.result import Result, evaluate
from caloforge.api.training import train

__all__ = ["Model", "Result", "detector", "evaluate", "load", "read", "simulate", "train"]
