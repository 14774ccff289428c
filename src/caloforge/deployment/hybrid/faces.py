"""The particles at the face of the calorimeter, as they stay in the file beside the showers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import closing
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.deployment.hybrid.acceptance import ANSWERED, REASONS
from caloforge.detectors import particle_name
from caloforge.errors import ShowerFileError
from caloforge.showers.hdf5 import Column, open_hdf5
from caloforge.simulation import Removed

__all__ = ["Faces", "face_columns", "read_faces"]

_GROUP = "face"
_COUNTS = Column(f"{_GROUP}/counts", (), np.dtype(np.int64))


def _column(name: str, shape: tuple[int, ...], dtype: type) -> Column:
    return Column(f"{_GROUP}/{name}", shape, np.dtype(dtype), counted_by=_COUNTS.path)


#: What is known of every particle: PDG id; kinetic energy, MeV; place at the face and direction in the local frame, mm; time, ns
#: (NaN from calzone); Geant4's number of the track; why it was answered or not.
_COLUMNS = {
    "particle": _column("particle", (), np.int32),
    "energy": _column("energy", (), np.float64),
    "position": _column("position", (2,), np.float32),
    "direction": _column("direction", (3,), np.float32),
    "time": _column("time", (), np.float32),
    "track": _column("track", (), np.int64),
    "reason": _column("reason", (), np.int8),
}


def face_columns(seen: Removed, reasons: NDArray[np.int8], events: int) -> dict[Column, NDArray[Any]]:
    """The particles of some events as columns of a file; they are put in the order of the events.

    Args:
        seen: the particles.
        reasons: of each, (M,).
        events: how many events there are.
    """
    order = np.argsort(seen.shower, kind="stable")
    values: Mapping[str, NDArray[Any]] = {
        "particle": seen.particle,
        "energy": seen.energy,
        "position": seen.position[:, :2],
        "direction": seen.direction,
        "time": seen.time,
        "track": seen.track,
        "reason": reasons,
    }
    columns: dict[Column, NDArray[Any]] = {_COUNTS: np.bincount(seen.shower, minlength=events).astype(np.int64)}
    return columns | {column: values[name][order].astype(column.dtype) for name, column in _COLUMNS.items()}


@dataclass(frozen=True)
class Faces:
    """Particles at the face of all events of a file.

    Attributes:
        offsets: where those of each event begin, int64 (N + 1,).
        particle: PDG id, (M,).
        energy: kinetic, MeV, (M,).
        position: at the face, mm, (M, 2).
        direction: unit vectors in the local frame, (M, 3).
        time: ns, (M,); NaN where the engine does not know it.
        track: Geant4's number of the track, (M,).
        reason: why it was answered or not, one of ``REASONS`` by number, (M,).
        incident_energy: of the events, MeV, (N,).
    """

    offsets: NDArray[np.int64]
    particle: NDArray[np.int32]
    energy: NDArray[np.float64]
    position: NDArray[np.float32]
    direction: NDArray[np.float32]
    time: NDArray[np.float32]
    track: NDArray[np.int64]
    reason: NDArray[np.int8]
    incident_energy: NDArray[np.float64]

    def summary(self) -> list[dict[str, Any]]:
        """What was answered and what not: per species and reason, particles per event and share of the incident energy."""
        events, incident = len(self.incident_energy), float(self.incident_energy.sum())
        rows = []
        for pdg in np.unique(self.particle):
            for reason in np.unique(self.reason[self.particle == pdg]):
                chosen = (self.particle == pdg) & (self.reason == reason)
                rows.append(
                    {
                        "particle": particle_name(int(pdg)),
                        "answer": REASONS[int(reason)],
                        "per_event": float(chosen.sum()) / events,
                        "energy_share": float(self.energy[chosen].sum()) / incident,
                    }
                )
        return sorted(rows, key=lambda row: (row["answer"] != REASONS[ANSWERED], -row["energy_share"]))


def read_faces(path: str | Path) -> Faces:
    """The particles at the face that a hybrid simulation has kept.

    Raises:
        ShowerFileError: if the file holds none, or is damaged.
    """
    path = Path(path)
    with closing(open_hdf5(path)) as file:
        try:
            counts = np.asarray(file[_COUNTS.path][:])
            values = {name: np.asarray(file[column.path][:]) for name, column in _COLUMNS.items()}
            incident = np.asarray(file["incident_energies"][:, 0])
        except KeyError:
            raise ShowerFileError(
                f"{path}: holds no particles at the face, so it is not from a hybrid simulation"
            ) from None
        except OSError as error:
            raise ShowerFileError(f"{path}: is damaged: {error}") from None
    if int(counts.sum()) != len(values["particle"]):
        raise ShowerFileError(f"{path}: its particles at the face do not fit their numbers")
    return Faces(np.concatenate([[0], np.cumsum(counts)]), incident_energy=incident, **values)
