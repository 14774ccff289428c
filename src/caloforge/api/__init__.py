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

from typing import TYPE_CHECKING

from caloforge.lazy import lazy_names

if TYPE_CHECKING:
    from caloforge.api.data import convert, detector, join, read, simulate
    from caloforge.api.model import Model, load
    from caloforge.api.result import Result, evaluate
    from caloforge.api.training import train
else:  # who simulates, reads or converts does not wait for torch
    __getattr__, __dir__ = lazy_names(
        __name__,
        {
            "data": ["convert", "detector", "join", "read", "simulate"],
            "model": ["Model", "load"],
            "result": ["Result", "evaluate"],
            "training": ["train"],
        },
    )

__all__ = ["Model", "Result", "convert", "detector", "evaluate", "join", "load", "read", "simulate", "train"]
