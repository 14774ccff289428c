"""Hits of a user's own simulation: one row for each deposit, in whatever order inside an event.

``event``, ``x``, ``y``, ``energy`` (M,), either ``layer`` or ``z``, optionally ``time``; and one row for each event:
``incident_energies`` (N,) or (N, 1), optionally ``directions`` (N, 3). Units are mm, MeV, ns in the detector's local
frame. ``event`` is the number of the event from 0 to N-1 and never falls. This layout is only read.
"""

from __future__ import annotations

from functools import cached_property
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caloforge.showers.formats.base import Block, Format, Reader, per_shower
from caloforge.showers.showers import ShowerPoints

ENTRIES = ("hits",)

__all__ = ["HITS"]

_STEP = 2**18


class HitsReader(Reader):
    """Reads hits of a user's own simulation.

    Attributes:
        outside: energy (MeV) of the hits read so far that lie in no layer, and were left out.
    """

    format = "hits"
    kind = "points"

    def _setup(self) -> None:
        self.outside = 0.0
        self._n = per_shower(self, "incident_energies")
        hits = per_shower(self, "event")
        self._place = "layer" if self.has("layer") else "z"
        for name in ("x", "y", self._place, "energy", *self._time):
            self.expect(name, (hits,))
        if self.has("directions"):
            self.expect("directions", (self._n, 3))

    @property
    def _time(self) -> list[str]:
        return ["time"] if self.has("time") else []

    @cached_property
    def _starts(self) -> NDArray[np.int64]:
        """First hit of each event, and the number of hits, int64 (N+1,)."""
        counts = np.zeros(self._n, dtype=np.int64)
        last, hits = 0, per_shower(self, "event")
        for start in range(0, hits, _STEP):
            events = self.rows("event", start, start + _STEP).reshape(-1).astype(np.int64)
            before = np.concatenate([[last], events[:-1]])
            bad = np.flatnonzero((events < before) | (events >= self._n))
            if len(bad):
                hit, event = start + bad[0], events[bad[0]]
                if 0 <= event < self._n:
                    raise self.error(
                        f"hit {hit} belongs to event {event}, after one of event {before[bad[0]]}; sort them"
                    )
                raise self.error(f"hit {hit} belongs to event {event}, expected 0 to {self._n - 1}")
            counts += np.bincount(events, minlength=self._n)
            last = int(events[-1])
        return np.concatenate([[0], counts.cumsum()])

    def incident_energies(self, start: int, stop: int) -> NDArray[np.float64]:
        """See ``Reader``."""
        return self.rows("incident_energies", start, stop).reshape(-1).astype(np.float64)

    def _read(self, start: int, stop: int) -> Block:
        starts = self._starts[start : stop + 1]
        first, end = int(starts[0]), int(starts[-1])
        layer = self._layers(first, end) if self._place == "z" else self.float32("layer", first, end)
        columns = [self.float32(name, first, end) for name in ("x", "y", "energy", *self._time)]
        points = np.stack([*columns[:2], layer, *columns[2:]], axis=1)
        inside = layer >= 0 if self._place == "z" else np.ones(len(layer), dtype=bool)
        self.outside += float(points[~inside, 3].sum(dtype=np.float64))
        offsets = np.concatenate([[0], np.cumsum(inside)])[starts - first]
        return ShowerPoints(
            offsets,
            points[inside],
            self.incident_energies(start, stop),
            self.particle,
            None if self.detector is None else self.readout,
            self.directions_of(start, stop),
        )

    def _layers(self, first: int, end: int) -> NDArray[np.float32]:
        readout = self.readout
        z = self.rows("z", first, end).astype(np.float64)
        if not len(readout.depths):
            raise self.error("its hits have z instead of layer, but the detector does not know the depth of its layers")
        layer = readout.layer_of_depth(z).astype(np.float32)
        if len(z) and not (layer >= 0).any():
            low, high = readout.depths[0, 0], readout.depths[-1, 1]
            raise self.error(
                f"no hit from {first} to {end} lies in a layer: z goes from {z.min():g} to {z.max():g} mm, the layers from "
                f"{low:g} to {high:g} mm"
            )
        return layer

    def content(self) -> dict[str, Any]:
        """See ``Reader``."""
        return {"extras": ["directions"] * self.has("directions") + self._time, "points": per_shower(self, "event")}


def _has_layout(file: h5py.File) -> bool:
    return all(name in file for name in ("event", "x", "y", "energy", "incident_energies"))


HITS = Format("hits", "hits of a user's own simulation, in mm and MeV (read only)", _has_layout, HitsReader)
