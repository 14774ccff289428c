"""Where a detector's stack stands in Geant4's world, and the way between Geant4's frame and the local one.

Geant4's frame: a planar stack stands in the middle of its world, its plates across z; cylinders lie around the z axis
and the gun's axis is x.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector, Stack
from caloforge.errors import SimulationError
from caloforge.units import mm

__all__ = ["WORLD_MARGIN", "Frame", "material_name", "plate_layers"]

Floats = NDArray[np.float64]

#: Vacuum around a cylindrical stack.
WORLD_MARGIN = 100.0 * mm
#: A plate may stick out of its readout layer by this much and still belong to it: edges are written with few digits.
_TOLERANCE = 1.0e-3 * mm


@dataclass(frozen=True)
class Frame:
    """Rotation and shift from the local frame (origin at the entry point, z inwards) to Geant4's, both in mm.

    Attributes:
        axes: for each local axis the number of the Geant4 axis that it lies along.
        origin: the local origin in Geant4's frame, mm.
    """

    axes: tuple[int, int, int]
    origin: tuple[float, float, float]

    @classmethod
    def of(cls, stack: Stack) -> Frame:
        """The frame of a stack."""
        if stack.kind == "planar":
            return cls((0, 1, 2), (0.0, 0.0, -stack.thickness / 2))
        assert stack.inner_radius is not None  # the description guarantees it
        # Shower along +x: local (x, y, z) lie along Geant4's (y, z, x).
        return cls((1, 2, 0), (stack.inner_radius, 0.0, 0.0))

    def rotate(self, local: Floats) -> Floats:
        """Directions from the local frame to Geant4's, shape (N, 3)."""
        turned = np.empty_like(local)
        turned[:, self.axes] = local
        return turned

    def to_geant4(self, local: Floats) -> Floats:
        """Points (N, 3) from the local frame to Geant4's."""
        shifted: Floats = self.rotate(local) + np.asarray(self.origin)
        return shifted

    def to_local(self, values: Floats, local_axis: int) -> Floats:
        """Coordinates of points in Geant4's frame, shape (M,), along a local axis (0, 1, 2 = x, y, z)."""
        return values - self.origin[self.axes[local_axis]]


def material_name(stack: Stack, name: str) -> str:
    """Name of a material in Geant4: its own, or one that stands for the definition.

    Definitions are kept for the life of a process, and calzone wants alphanumeric names that begin with a capital.
    """
    if name not in stack.materials:
        return name
    material = stack.materials[name]
    definition = f"{material.density!r} {sorted(material.composition.items())!r}"
    return "M" + hashlib.sha256(definition.encode()).hexdigest()[:16]


def plate_layers(detector: Detector) -> NDArray[np.int64] | None:
    """Readout layer of each plate, shape (plates,), where a deposit's layer is that of its plate.

    That is so if only active planar plates are scored and each lies inside one readout layer. None means that the
    layer of a deposit has to be found from its depth.

    Raises:
        SimulationError: if an active plate of such a detector lies in no readout layer or in two.
    """
    stack = detector.stack
    if stack is None or stack.kind != "planar" or stack.deposits != "active":
        return None
    layers = np.full(len(stack.plates), -1, dtype=np.int64)
    for plate in stack.plates:
        if not plate.active:
            continue
        start, end = detector.readout.depths.T
        inside = (start <= plate.start + _TOLERANCE) & (plate.end <= end + _TOLERANCE)
        if not inside.any():
            raise SimulationError(
                f"{detector.name}: the active plate from {plate.start:g} to {plate.end:g} mm lies in no readout layer; "
                "expected one layer around every active plate"
            )
        layers[plate.index] = int(np.flatnonzero(inside)[0])
    return layers
