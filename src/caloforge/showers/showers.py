"""The data: showers as dense voxels, and showers as points.

Energies are MeV, lengths mm, times ns. Both classes are frozen and check their shapes when they are made; values are
checked where they enter the program (``check_values``), since a scan of gigabytes at every slice would be waste.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from caloforge import html
from caloforge.detectors import Detector, Readout, particle_name
from caloforge.errors import ShowerFileError
from caloforge.units import format_energy

__all__ = ["ShowerPoints", "Showers", "refuse_bad_energies"]

Float32 = NDArray[np.float32]
Float64 = NDArray[np.float64]
Provenance = Mapping[str, Any]


def _directions_ok(direction: Float32 | None, n: int) -> None:
    if direction is not None and direction.shape != (n, 3):
        raise ShowerFileError(f"the directions have shape {direction.shape}, expected ({n}, 3)")


def _first_bad(values: NDArray[np.floating], *, negative_ok: bool = False) -> tuple[tuple[int, ...], str] | None:
    """Where the first NaN, infinite or negative value is, and which of these; None if there is none."""
    # Sums are several times faster than masks, and any NaN or infinity reaches them.
    if np.isfinite(values.sum(dtype=np.float64)) and (negative_ok or not values.size or values.min() >= 0):
        return None
    bad = ~np.isfinite(values) if negative_ok else ~(np.isfinite(values) & (values >= 0))
    if not bad.any():
        return None
    where = tuple(int(i) for i in np.argwhere(bad)[0])
    value = values[where]
    return where, "NaN" if np.isnan(value) else "infinite" if np.isinf(value) else f"negative ({value:g})"


def _refuse_bad(
    name: str, values: NDArray[np.floating], column: str = "", *, first_row: int, negative_ok: bool = False
) -> None:
    """Refuse NaN, infinite and negative values, naming the first one by its shower."""
    bad = _first_bad(values, negative_ok=negative_ok)
    if bad is not None:
        (row, *rest), problem = bad
        place = f", {column} {rest[0]}" if column else ""
        raise ShowerFileError(f"the {name} of shower {first_row + row}{place} is {problem}")


def refuse_bad_energies(energies: Float64, *, first_row: int = 0) -> None:
    """Refuse incident energies that are not positive numbers, naming the first one by its shower.

    Args:
        energies: MeV, (N,).
        first_row: number of the first shower in its file.

    Raises:
        ShowerFileError: if there is one.
    """
    _refuse_bad("incident energy", energies, first_row=first_row)
    zero = np.flatnonzero(energies == 0)
    if len(zero):
        raise ShowerFileError(f"the incident energy of shower {first_row + zero[0]} is 0, expected a positive number")


@dataclass(frozen=True)
class Showers:
    """Showers on a voxel grid.

    Attributes:
        deposits: energy in each voxel, float32 (N, V), MeV; voxels are numbered as in ``Readout``.
        incident_energy: kinetic energy of the incident particle, float64 (N,), MeV.
        particle: PDG id of the incident particle.
        readout: the voxels.
        direction: flight direction in the local frame, float32 unit vectors (N, 3), or None (along +z).
        overflow: energy of each layer outside its voxels, float32 (N, layers), MeV, or None if it was not recorded.
        provenance: where the showers come from, as their maker wrote it, JSON values; empty if nobody said.
        detector: the calorimeter whose readout it is, if it is known.
    """

    deposits: Float32
    incident_energy: Float64
    particle: int
    readout: Readout = field(repr=False)
    direction: Float32 | None = None
    overflow: Float32 | None = None
    provenance: Provenance = field(default_factory=dict, repr=False, compare=False)
    detector: Detector | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        n = len(self.incident_energy)
        if self.incident_energy.ndim != 1:
            raise ShowerFileError(f"the incident energies have shape {self.incident_energy.shape}, expected (N,)")
        if self.deposits.shape != (n, self.readout.n_voxels):
            raise ShowerFileError(
                f"the deposits have shape {self.deposits.shape}, expected ({n}, {self.readout.n_voxels}): "
                f"{n} incident energies and the readout's {self.readout.n_voxels} voxels"
            )
        _directions_ok(self.direction, n)
        if self.overflow is not None and self.overflow.shape != (n, self.readout.n_layers):
            raise ShowerFileError(
                f"the overflow has shape {self.overflow.shape}, expected ({n}, {self.readout.n_layers})"
            )

    def __len__(self) -> int:
        return len(self.incident_energy)

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> Showers:
        """Some of the showers."""
        return Showers(
            self.deposits[rows],
            self.incident_energy[rows],
            self.particle,
            self.readout,
            None if self.direction is None else self.direction[rows],
            None if self.overflow is None else self.overflow[rows],
            self.provenance,
            self.detector,
        )

    def __repr__(self) -> str:
        return f"<Showers: {_words(self)}>"

    def _repr_html_(self) -> str:
        return html.page(self)

    def check_values(self, *, first_row: int = 0) -> Self:
        """Refuse values that no shower can have.

        Args:
            first_row: number of the first shower in its file, so that errors name the right row.

        Raises:
            ShowerFileError: on a NaN, infinite or negative energy, naming the row.
        """
        refuse_bad_energies(self.incident_energy, first_row=first_row)
        _refuse_bad("deposit", self.deposits, "voxel", first_row=first_row)
        if self.overflow is not None:
            _refuse_bad("overflow", self.overflow, "layer", first_row=first_row)
        if self.direction is not None:
            _refuse_bad("direction", self.direction, "component", first_row=first_row, negative_ok=True)
        return self

    @staticmethod
    def concatenate(parts: Sequence[Showers], deposits: Float32 | None = None) -> Showers:
        """Showers of several blocks as one; they must have the same readout and particle.

        Args:
            parts: the blocks.
            deposits: of all of them, if they are one array already; those of the blocks play no part then.
        """
        first = parts[0]
        if any(p.readout != first.readout or p.particle != first.particle for p in parts):
            raise ShowerFileError("showers of different readouts or particles cannot be joined")
        return Showers(
            np.concatenate([p.deposits for p in parts]) if deposits is None else deposits,
            np.concatenate([p.incident_energy for p in parts]),
            first.particle,
            first.readout,
            _joined([p.direction for p in parts], "directions"),
            _joined([p.overflow for p in parts], "overflow"),
            _origin([p.provenance for p in parts]),
            first.detector,
        )

    def layers(self) -> Iterator[Float32]:
        """The voxels of each layer in their two-dimensional shape, (N, a, b), as views."""
        for where, shape in zip(self.readout.layer_slices, self.readout.layer_shapes, strict=True):
            yield self.deposits[:, where].reshape(-1, *shape)

    def layer_energies(self) -> Float64:
        """Energy in the voxels of each layer, float64 (N, layers), MeV."""
        starts = [where.start for where in self.readout.layer_slices]
        energies: Float64 = np.add.reduceat(self.deposits, starts, axis=1, dtype=np.float64)
        return energies

    def total_energy(self) -> Float64:
        """Energy in all voxels, float64 (N,), MeV."""
        total: Float64 = self.deposits.sum(axis=1, dtype=np.float64)
        return total

    def above(self, threshold: float) -> Showers:
        """The same showers with every deposit below ``threshold`` (MeV) set to zero."""
        kept = np.where(self.deposits >= threshold, self.deposits, np.float32(0)) if threshold > 0 else self.deposits
        return replace(self, deposits=kept)


@dataclass(frozen=True)
class ShowerPoints:
    """Showers as points of deposited energy.

    Attributes:
        offsets: where the points of each shower start, int64 (N+1,); shower k owns ``points[offsets[k]:offsets[k+1]]``.
        points: float32 (M, 4) = x, y (mm, relative to the entry point), layer number, energy (MeV), or (M, 5) with the
            time (ns) behind.
        incident_energy: kinetic energy of the incident particle, float64 (N,), MeV.
        particle: PDG id of the incident particle.
        readout: the layers that the layer numbers refer to, if known.
        direction: flight direction in the local frame, float32 unit vectors (N, 3), or None (along +z).
        provenance: where the showers come from, as their maker wrote it, JSON values; empty if nobody said.
        detector: the calorimeter whose readout it is, if it is known.
    """

    offsets: NDArray[np.int64]
    points: Float32
    incident_energy: Float64
    particle: int
    readout: Readout | None = field(default=None, repr=False)
    direction: Float32 | None = None
    provenance: Provenance = field(default_factory=dict, repr=False, compare=False)
    detector: Detector | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        n = len(self.incident_energy)
        if self.points.ndim != 2 or self.points.shape[1] not in (4, 5):
            raise ShowerFileError(f"the points have shape {self.points.shape}, expected (M, 4) or (M, 5)")
        if self.offsets.shape != (n + 1,):
            raise ShowerFileError(f"there are {len(self.offsets)} offsets, expected {n + 1} for {n} incident energies")
        if self.offsets[0] != 0 or self.offsets[-1] != len(self.points) or (np.diff(self.offsets) < 0).any():
            raise ShowerFileError(f"the offsets do not rise from 0 to the number of points, {len(self.points)}")
        _directions_ok(self.direction, n)

    def __len__(self) -> int:
        return len(self.incident_energy)

    def __getitem__(self, rows: slice | NDArray[np.int64] | NDArray[np.bool_]) -> ShowerPoints:
        """Some of the showers; consecutive ones (a slice of step 1) without copying their points."""
        if not isinstance(rows, slice):
            return self._chosen(np.flatnonzero(rows) if rows.dtype == np.bool_ else rows.astype(np.int64, copy=False))
        start, stop, step = rows.indices(len(self))
        if step != 1:
            return self._chosen(np.arange(start, stop, step))
        stop = max(start, stop)
        offsets = self.offsets[start : stop + 1]
        return ShowerPoints(
            offsets - offsets[0],
            self.points[offsets[0] : offsets[-1]],
            self.incident_energy[start:stop],
            self.particle,
            self.readout,
            None if self.direction is None else self.direction[start:stop],
            self.provenance,
            self.detector,
        )

    def __repr__(self) -> str:
        return f"<ShowerPoints: {_words(self)}>"

    def _repr_html_(self) -> str:
        return html.page(self)

    def _chosen(self, rows: NDArray[np.int64]) -> ShowerPoints:
        counts = np.diff(self.offsets)[rows]
        offsets = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        where = np.repeat(self.offsets[:-1][rows] - offsets[:-1], counts) + np.arange(offsets[-1])
        return ShowerPoints(
            offsets,
            self.points[where],
            self.incident_energy[rows],
            self.particle,
            self.readout,
            None if self.direction is None else self.direction[rows],
            self.provenance,
            self.detector,
        )

    def check_values(self, *, first_row: int = 0) -> Self:
        """Refuse values that no shower can have.

        Args:
            first_row: number of the first shower in its file, so that errors name the right row.

        Raises:
            ShowerFileError: on NaN, infinite values, negative energies or impossible layer numbers.
        """
        refuse_bad_energies(self.incident_energy, first_row=first_row)
        if self.direction is not None:
            _refuse_bad("direction", self.direction, "component", first_row=first_row, negative_ok=True)
        bad = _first_bad(self.points, negative_ok=True)
        if bad is not None:
            raise ShowerFileError(f"{self._point(bad[0][0], first_row)} has a coordinate or energy that is {bad[1]}")
        bad = _first_bad(self.points[:, 3])
        if bad is not None:
            raise ShowerFileError(f"the energy of {self._point(bad[0][0], first_row)} is {bad[1]}")
        layer = self.points[:, 2]
        limit = np.inf if self.readout is None else self.readout.n_layers
        odd = np.flatnonzero((layer < 0) | (layer >= limit) | (layer != np.floor(layer)))
        if len(odd):
            raise ShowerFileError(
                f"{self._point(int(odd[0]), first_row)} has the layer number {layer[odd[0]]:g}, "
                "expected a whole number from 0" + (f" to {limit - 1}" if np.isfinite(limit) else "")
            )
        return self

    def _point(self, number: int, first_row: int) -> str:
        """A point by the number of its shower."""
        shower = int(np.searchsorted(self.offsets, number, side="right")) - 1
        return f"point {number - self.offsets[shower]} of shower {first_row + shower}"

    @staticmethod
    def concatenate(parts: Sequence[ShowerPoints]) -> ShowerPoints:
        """Showers of several blocks as one; they must have the same readout, particle and columns."""
        first = parts[0]
        if any(
            p.readout != first.readout or p.particle != first.particle or p.points.shape[1] != first.points.shape[1]
            for p in parts
        ):
            raise ShowerFileError("points of different readouts, particles or columns cannot be joined")
        counts = np.concatenate([np.diff(p.offsets) for p in parts])
        return ShowerPoints(
            np.concatenate([[0], np.cumsum(counts)]).astype(np.int64),
            np.concatenate([p.points for p in parts]),
            np.concatenate([p.incident_energy for p in parts]),
            first.particle,
            first.readout,
            _joined([p.direction for p in parts], "directions"),
            _origin([p.provenance for p in parts]),
            first.detector,
        )

    @property
    def shower_index(self) -> NDArray[np.int64]:
        """Number of the shower that each point belongs to, int64 (M,)."""
        return np.repeat(np.arange(len(self)), np.diff(self.offsets))

    def total_energy(self) -> Float64:
        """Energy of all points of each shower, float64 (N,), MeV."""
        energies: Float64 = self.points[:, 3].astype(np.float64)
        return np.bincount(self.shower_index, weights=energies, minlength=len(self)).astype(np.float64, copy=False)


def _words(showers: Showers | ShowerPoints) -> str:
    """What the showers are, in a line."""
    detector, readout = showers.detector, showers.readout
    name = "" if detector is None else f" in {detector.name}"
    if isinstance(showers, Showers):
        size = f"{showers.readout.n_layers} layers, {showers.readout.n_voxels} voxels"
    else:
        layers = "" if readout is None else f" in {readout.n_layers} layers"
        size = f"{len(showers.points)} points{layers}"
    if not len(showers):
        return f"none{name}, {size}"
    low, high = (
        format_energy(float(energy)) for energy in (showers.incident_energy.min(), showers.incident_energy.max())
    )
    particle = particle_name(showers.particle) if showers.particle else "of an unknown particle"
    return f"{len(showers)} {particle}, {low if low == high else f'{low} to {high}'}{name}, {size}"


def _joined(arrays: list[Float32 | None], what: str) -> Float32 | None:
    present = [a for a in arrays if a is not None]
    if not present:
        return None
    if len(present) != len(arrays):
        raise ShowerFileError(f"some of the showers to be joined have {what} and some have none")
    return np.concatenate(present)


def _origin(parts: list[Provenance]) -> Provenance:
    """Where joined showers come from: what all parts say, or else what each of them does."""
    several = [part for k, part in enumerate(parts) if not any(part is other or part == other for other in parts[:k])]
    return several[0] if len(several) == 1 else {"parts": [dict(part) for part in several]}
