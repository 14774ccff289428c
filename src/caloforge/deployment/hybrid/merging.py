"""Events that are put together from what Geant4 tracked and what models answered: voxels, or points."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from caloforge.deployment.hybrid.placement import Placement
from caloforge.detectors import Detector, Readout
from caloforge.errors import GenerationError
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers, sum_in_voxels
from caloforge.simulation import Removed

__all__ = ["Events", "ModelShowers", "PointEvents", "VoxelEvents", "events_of", "moved_points"]

Floats = NDArray[np.float64]

#: Of what its energy is after moving and merging, a shower may differ from what went in by this part.
_CLOSURE = 1e-6


@dataclass(frozen=True)
class ModelShowers:
    """Showers that a model has made about the axis.

    Attributes:
        made: the showers.
        seen: the particles that they answer.
        index: numbers of the showers, which address random numbers.
        placement: moves voxels; None for points.
        streams: of the random numbers.
        slopes: whether showers are to be inclined with their particles.
    """

    made: Showers | ShowerPoints
    seen: Removed
    index: NDArray[np.int64]
    placement: Placement | None
    streams: Streams
    slopes: bool

    def points(self, readout: Readout) -> ShowerPoints:
        """Those of a model of points where their particles came in; see ``moved_points``."""
        assert isinstance(self.made, ShowerPoints)  # other models were refused
        return moved_points(self.made, self.seen, readout, slopes=self.slopes)


class Events(Protocol):
    """The events of a block, while showers are added to them."""

    def add(self, answer: ModelShowers) -> None:
        """Add showers of a model where their particles came in."""

    def finished(self) -> Showers | ShowerPoints:
        """The events with all that was added."""


def events_of(tracked: Showers | ShowerPoints, detector: Detector) -> Events:
    """Events to which showers can be added.

    Args:
        tracked: what Geant4 deposited, without a threshold.
        detector: the calorimeter alone, with its readout and threshold.
    """
    return VoxelEvents(tracked, detector) if isinstance(tracked, Showers) else PointEvents(tracked, detector.readout)


def moved_points(made: ShowerPoints, seen: Removed, readout: Readout, *, slopes: bool) -> ShowerPoints:
    """Points about the axis moved to where their particles came in: places change, nothing else.

    Args:
        made: showers.
        seen: the particles that they answer.
        readout: whose layers have depths, if showers are inclined.
        slopes: whether a point moves by its layer's depth, too, since the model made a straight shower.
    """
    of = made.shower_index
    points = made.points[:, :4].copy()
    shift = seen.position[of, :2]
    if slopes and len(readout.depths):
        depth = readout.depths.mean(axis=1)[points[:, 2].astype(np.int64)]
        shift = shift + (seen.direction[of, :2] / seen.direction[of, 2:]) * depth[:, None]
    points[:, :2] += shift.astype(np.float32)
    return ShowerPoints(made.offsets, points, made.incident_energy, made.particle, readout)


class VoxelEvents:
    """See ``Events``; a model's points are summed in the voxels that they fall into."""

    def __init__(self, tracked: Showers, detector: Detector) -> None:
        assert tracked.overflow is not None  # Geant4's have it
        self._tracked, self._readout = tracked, detector.readout
        self._threshold = detector.readout_threshold / (detector.sampling_fraction or 1.0)
        self._voxels, self._beside = tracked.deposits.astype(np.float64), tracked.overflow.astype(np.float64)

    def add(self, answer: ModelShowers) -> None:
        """See ``Events``."""
        made, seen = answer.made, answer.seen
        before = made.total_energy()
        if isinstance(made, ShowerPoints):
            moved = answer.points(self._readout)
            x, y, layer, energy = moved.points.T
            voxels, beside = sum_in_voxels(
                self._readout, len(made), moved.shower_index, x, y, layer.astype(np.int64), energy
            )
        else:
            assert answer.placement is not None  # voxels need one
            voxels, beside = answer.placement.place(
                made.deposits.astype(np.float64), seen.position[:, :2], seen.direction, answer.index, answer.streams
            )
            if made.overflow is not None:
                beside = beside + made.overflow
                before = before + made.overflow.sum(axis=1, dtype=np.float64)
        _check_closure(before, voxels.sum(axis=1) + beside.sum(axis=1))
        np.add.at(self._voxels, seen.shower, voxels)
        np.add.at(self._beside, seen.shower, beside)

    def finished(self) -> Showers:
        """See ``Events``; the readout threshold is applied to voxels."""
        voxels = self._voxels
        if self._threshold:
            voxels = np.where(voxels < self._threshold, 0.0, voxels)
        return Showers(
            voxels.astype(np.float32),
            self._tracked.incident_energy,
            self._tracked.particle,
            self._readout,
            self._tracked.direction,
            self._beside.astype(np.float32),
        )


class PointEvents:
    """See ``Events``; no threshold is applied to points, and the order within an event is Geant4's, then the answers'."""

    def __init__(self, tracked: ShowerPoints, readout: Readout) -> None:
        self._tracked, self._readout = tracked, readout
        self._parts, self._owners = [tracked.points[:, :4]], [tracked.shower_index]

    def add(self, answer: ModelShowers) -> None:
        """See ``Events``."""
        moved = answer.points(self._readout)
        _check_closure(answer.made.total_energy(), moved.total_energy())
        self._parts.append(moved.points)
        self._owners.append(answer.seen.shower[moved.shower_index])

    def finished(self) -> ShowerPoints:
        """See ``Events``."""
        owner = np.concatenate(self._owners)
        order = np.argsort(owner, kind="stable")
        counts = np.bincount(owner, minlength=len(self._tracked))
        return ShowerPoints(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate(self._parts)[order],
            self._tracked.incident_energy,
            self._tracked.particle,
            self._readout,
            self._tracked.direction,
        )


def _check_closure(before: Floats, after: Floats) -> None:
    if not (np.abs(after - before) <= _CLOSURE * before).all():
        raise GenerationError("energy was lost when showers were moved; this is an error of the program")
