"""What tests of hybrid simulations share."""

from __future__ import annotations

import h5py
import numpy as np

from caloforge.executor import LocalProcesses


def arrays(path):
    """All datasets of a file, by name."""
    found = {}
    with h5py.File(path) as file:
        file.visititems(lambda name, item: found.update({name: item[:]}) if isinstance(item, h5py.Dataset) else None)
    return found


def same_arrays(one, two):
    """The datasets of a file, which are those of another one to the last bit."""
    first, second = arrays(one), arrays(two)
    assert first.keys() == second.keys()
    for name, values in first.items():
        np.testing.assert_array_equal(values, second[name], err_msg=name)
    return first


class Stops:
    """An executor that is interrupted after the first block."""

    jobs = 1

    def run(self, prepare, settings, tasks):
        for number, result in LocalProcesses(1).run(prepare, settings, tasks):
            yield number, result
            if number is not None:
                raise KeyboardInterrupt
