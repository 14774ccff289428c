"""CaloForge: the open toolkit for generative calorimeter simulation.

Describe a detector, produce real Geant4 showers, train published models, generate, prove the fidelity, deploy.
Energies are MeV, lengths mm, angles radians everywhere inside the package; people write energies in GeV.

Example:
    >>> import caloforge as cf
    >>> cf.load("calogan-gamma").sample(3, energy="1:100", seed=1)
    <Showers: 3 gamma, ...
"""

from typing import TYPE_CHECKING

from caloforge.lazy import lazy_names
from caloforge.version import __version__

if TYPE_CHECKING:
    from caloforge.api import Model, Result, convert, detector, evaluate, join, load, read, simulate, train
    from caloforge.errors import CaloForgeError
    from caloforge.showers import ShowerPoints, Showers
else:  # imported when they are used: who only wants a version or a shower file does not wait for torch
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "api.data": ["convert", "detector", "join", "read", "simulate"],
            "api.model": ["Model", "load"],
            "api.result": ["Result", "evaluate"],
            "api.training": ["train"],
            "errors": ["CaloForgeError"],
            "showers": ["ShowerPoints", "Showers"],
        },
    )

__all__ = [
    "CaloForgeError",
    "Model",
    "Result",
    "ShowerPoints",
    "Showers",
    "__version__",
    "convert",
    "detector",
    "evaluate",
    "join",
    "load",
    "read",
    "simulate",
    "train",
]
