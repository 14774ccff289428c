"""A calorimeter as a shower passes through it: steps in radiation lengths, and what is seen of the energy in each."""

from __future__ import annotations

import math
from itertools import pairwise

import numpy as np
import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.detectors.materials import Sampling, matter_of, radiation_depths, sampling_of
from caloforge.errors import ConfigError, DetectorError

__all__ = ["ShowerSteps"]

#: Steps are not longer than this, radiation lengths: the radial profile changes along the shower.
_LONGEST = 1.0


class ShowerSteps(nn.Module):
    """Steps along the axis of a detector, each inside one layer of the readout.

    Where every deposit counts, the steps fill the layers. Where active plates alone are read out, each plate stands for the
    depths that are nearer to it than to its neighbours, and sees of the energy there what a minimum-ionising particle loses in
    it, times e/mip (hep-ex/0001020), divided by the detector's sampling fraction, as its files are. So uneven absorbers are
    seen as such.

    Attributes:
        matter: averages over the stack.
        seen: the stack, for the sampling formulas; None if every deposit counts.
        edge: different depths at which steps begin or end, (U,), radiation lengths.
        first, last: number of the edge at which each step begins and ends, (S,).
        layer: layer of each step, (S,).
        weight: share of the energy in the step that the files hold, (S,).
        z: middle of each step, mm, (S,).

    Raises:
        ConfigError: if the detector has no stack, or one of its materials is not known.
    """

    edge: Tensor
    first: Tensor
    last: Tensor
    layer: Tensor
    weight: Tensor
    z: Tensor

    def __init__(self, detector: Detector, kind: str) -> None:
        super().__init__()
        if detector.stack is None:
            raise ConfigError(
                f"the model '{kind}' needs the material of the calorimeter, and '{detector.name}' has no [stack]"
            )
        try:
            self.sampling: Sampling = sampling_of(detector.stack)
            rows = _filled(detector) if detector.stack.deposits == "all" else _plates(detector, self.sampling)
        except DetectorError as error:
            raise ConfigError(f"the model '{kind}' on '{detector.name}': {error}") from None
        self.matter = self.sampling.whole
        self.seen = None if detector.stack.deposits == "all" else self.sampling
        steps = np.asarray([piece for row in rows for piece in _divided(*row)])
        edges, which = np.unique(np.round(steps[:, :2], 9), return_inverse=True)
        which = which.reshape(-1, 2)
        for name, values in (("edge", edges), ("weight", steps[:, 2]), ("z", steps[:, 4])):
            self.register_buffer(name, torch.from_numpy(values.astype(np.float64)), persistent=False)
        for name, values in (("first", which[:, 0]), ("last", which[:, 1]), ("layer", steps[:, 3])):
            self.register_buffer(name, torch.from_numpy(values.astype(np.int64)), persistent=False)

    @property
    def middle(self) -> Tensor:
        """Middle of each step, radiation lengths, (S,)."""
        return (self.edge[self.first] + self.edge[self.last]) / 2


#: Where it begins and ends (radiation lengths), the share that is seen, layer, and where it begins and ends, mm.
_Row = tuple[float, float, float, int, float, float]


def _divided(low: float, high: float, weight: float, layer: int, top: float, bottom: float) -> list[list[float]]:
    count = max(1, math.ceil((high - low) / _LONGEST))
    edges, places = np.linspace(low, high, count + 1), np.linspace(top, bottom, 2 * count + 1)
    return [[edges[k], edges[k + 1], weight, layer, places[2 * k + 1]] for k in range(count)]


def _filled(detector: Detector) -> list[_Row]:
    assert detector.stack is not None
    plates = radiation_depths(detector.stack)
    z = [plate.start for plate, _, _ in plates] + [detector.stack.thickness]
    t = [depth for _, depth, _ in plates] + [plates[-1][1] + plates[-1][2]]
    found = []
    for number, (top, bottom) in enumerate(detector.readout.depths.tolist()):
        low, high = np.interp([top, bottom], z, t)
        if high > low:
            found.append((float(low), float(high), 1.0, number, top, bottom))
    return found


def _plates(detector: Detector, sampling: Sampling) -> list[_Row]:
    assert detector.stack is not None
    plates = radiation_depths(detector.stack)
    ionised = [matter_of(p.material, detector.stack) for p, _, _ in plates]
    loss = sum(m.ionisation * m.density * p.thickness for m, (p, _, _) in zip(ionised, plates, strict=True)) / 10
    total = plates[-1][1] + plates[-1][2]
    active = [(p, depth + length / 2, m) for m, (p, depth, length) in zip(ionised, plates, strict=True) if p.active]
    middles = [t for _, t, _ in active]
    between = [(a + b) / 2 for a, b in pairwise(middles)]
    lows = [max(0.0, 2 * middles[0] - between[0]) if between else 0.0, *between]
    highs = [*between, 2 * middles[-1] - between[-1] if between else total]
    layers = detector.readout.layer_of_depth([(p.start + p.end) / 2 for p, _, _ in active])
    found = []
    for (plate, _, matter), low, high, layer in zip(active, lows, highs, layers.tolist(), strict=True):
        if layer < 0 or high <= low:
            continue
        signal = matter.ionisation * matter.density * plate.thickness / 10
        weight = sampling.e_over_mip * signal / (loss / total * (high - low)) / (detector.sampling_fraction or 1.0)
        found.append((low, high, weight, layer, plate.start, plate.end))
    if not found:
        raise ConfigError(f"no active plate of '{detector.name}' lies in a layer of its readout")
    return found
