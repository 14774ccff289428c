"""Showers as EDM4hep events, in the TTree layout of podio 1.3 and EDM4hep's schema 6, for reconstruction.

ROOT writes the file, in a process of its own: its interpreter and ours would share more than is good for either.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.arguments import argument, switch
from caloforge.atomic import written_beside
from caloforge.detectors import Detector
from caloforge.detectors.particles import particle_mass
from caloforge.errors import MissingDependencyError, OutputError, ShowerFileError, UsageError
from caloforge.showers import ShowerPoints, Showers
from caloforge.showers.files import open_showers
from caloforge.units import GeV

__all__ = ["CELL_ENCODING", "collection_id", "write_edm4hep"]

#: How a hit's cellID is made up: layer, and number of the voxel in it (of a point, its number among those of the layer).
CELL_ENCODING = "layer:16,cell:48"
#: Bit of ``simulatorStatus`` that says that a fast simulation answered the particle (EDM4hep 1.1).
_BY_FAST_SIMULATION = 1 << 22
_BLOCK = 500
_TIMEOUT_SECONDS = 3600


def collection_id(name: str) -> int:
    """Podio's number of a collection: MurmurHash3 (32 bit, seed 0) of its name."""
    data, mask = name.encode(), 0xFFFFFFFF

    def turned(value: int, bits: int) -> int:
        return ((value << bits) | (value >> (32 - bits))) & mask

    def mixed(word: int) -> int:
        return (turned((word * 0xCC9E2D51) & mask, 15) * 0x1B873593) & mask

    hashed, whole = 0, len(data) // 4 * 4
    for start in range(0, whole, 4):
        hashed ^= mixed(int.from_bytes(data[start : start + 4], "little"))
        hashed = (turned(hashed, 13) * 5 + 0xE6546B64) & mask
    if len(data) > whole:
        hashed ^= mixed(int.from_bytes(data[whole:], "little"))
    hashed ^= len(data)
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35), (16, 1)):
        hashed = ((hashed ^ (hashed >> shift)) * factor) & mask
    return hashed


def write_edm4hep(
    source: str | Path,
    target: str | Path,
    *,
    detector: Detector | None = None,
    particle: str | None = None,
    collection: str = "CalorimeterHits",
    overwrite: bool = False,
    progress: Callable[[int, int], None] | None = None,
) -> int:
    """Write a shower file as EDM4hep events: one event for each shower, one hit for each lit voxel or point.

    Hits lie in the detector's local frame (origin where the particle enters, z into the calorimeter), in mm; their energies are
    in GeV, times in ns, 0 if the file has none. The incident particle is the only one, in ``MCParticles``; if a model made the
    showers, it is marked as answered by a fast simulation.

    Args:
        source: a shower file of any format.
        target: the file to make, by custom ``.edm4hep.root``.
        detector: if the file does not say.
        particle: if the file does not say.
        collection: name of the hits' collection.
        overwrite: replace a file that is there.
        progress: is told how many of how many showers are done.

    Returns:
        How many showers were written.

    Raises:
        UsageError: if the name of the collection is none.
        MissingDependencyError: if ROOT is missing.
        ShowerFileError: if the source is damaged, or nobody says of which particle or detector it is.
        OutputError: if the target cannot be written.
    """
    if find_spec("ROOT") is None:
        raise MissingDependencyError(
            "EDM4hep files are written by ROOT, whose package 'root' is missing; pip install 'caloforge[edm4hep]' brings it"
        )
    if not collection.isascii() or not collection.isidentifier():
        raise UsageError(f"'{collection}' is no name of a collection, expected letters, digits and underscores")
    path = Path(target)
    if path.exists() and not overwrite:
        raise OutputError(f"'{path}' is there already ({switch('overwrite')} replaces it)")
    if not path.parent.is_dir():
        raise OutputError(f"'{path.parent}' is no folder")
    with open_showers(source, detector, particle=particle) as reader, tempfile.TemporaryDirectory() as folder:
        if not reader.particle:
            raise ShowerFileError(
                f"{source}: does not say of which particle it is, so {argument('particle')} must name it"
            )
        if not len(reader.readout.depths):
            raise ShowerFileError(
                f"{source}: its detector does not know the depths of its layers, so hits have no place"
            )
        names = ("EventHeader", "MCParticles", collection, f"{collection}Contributions")
        settings = {
            "collection": collection,
            "encoding": CELL_ENCODING,
            "ids": {name: collection_id(name) for name in names},
        }
        number = 0
        for number, columns in enumerate(_blocks(reader, progress), start=1):
            np.savez(Path(folder, f"{number}.npz"), allow_pickle=False, **columns)
        Path(folder, "settings.json").write_text(json.dumps(settings | {"blocks": number}))
        with written_beside(path) as beside:
            # ROOT works in the other folder, so a name without one would be a place there.
            _run_root(Path(folder), beside.absolute())
        return len(reader)


def _blocks(reader: Any, progress: Callable[[int, int], None] | None) -> Iterator[dict[str, NDArray[Any]]]:
    """Columns of some showers at a time."""
    mass, fast = particle_mass(reader.particle), "model" in reader.provenance
    done = 0
    for block in reader.blocks(_BLOCK):
        energy = block.incident_energy
        momentum = np.sqrt(energy**2 + 2 * energy * mass) / GeV
        direction = np.zeros((len(block), 3)) if block.direction is None else block.direction.astype(np.float64)
        if block.direction is None:
            direction[:, 2] = 1
        yield _hits(block, reader.readout.depths) | {
            "momentum": momentum[:, None] * direction,
            "particle": np.array([reader.particle, _BY_FAST_SIMULATION if fast else 0], dtype=np.int64),
            "mass": np.array([mass / GeV, _charge(reader.particle)]),
            "first": np.array([done], dtype=np.int64),
        }
        done += len(block)
        if progress is not None:
            progress(done, len(reader))


def _charge(pdg: int) -> float:
    from particle import Particle

    return float(Particle.from_pdgid(pdg).charge or 0.0)


def _hits(block: Showers | ShowerPoints, depths: NDArray[np.float64]) -> dict[str, NDArray[Any]]:
    """Where the hits of each shower start, and of each hit its cellID, place (mm), energy (GeV) and time (ns)."""
    if isinstance(block, Showers):
        shower, voxel = np.nonzero(block.deposits)
        layer = block.readout.voxel_layers[voxel]
        starts = np.array([where.start for where in block.readout.layer_slices])
        cell, energy = voxel - starts[layer], block.deposits[shower, voxel]
        place = block.readout.centres()[voxel]
        time: NDArray[Any] = np.zeros(len(voxel))
        offsets = np.searchsorted(shower, np.arange(len(block) + 1))
    else:
        lit = block.points[:, 3] > 0
        kept = np.concatenate([[0], np.cumsum(lit)])
        offsets, points = kept[block.offsets], block.points[lit]
        layer, energy = points[:, 2].astype(np.int64), points[:, 3]
        shower = np.repeat(np.arange(len(block)), np.diff(offsets))
        cell = _number_in_group(shower * len(depths) + layer)
        place = np.column_stack([points[:, :2], depths.mean(axis=1)[layer]])
        time = points[:, 4] if points.shape[1] > 4 else np.zeros(len(points))
    return {
        "offsets": offsets.astype(np.int64),
        "cell": layer.astype(np.uint64) | (cell.astype(np.uint64) << np.uint64(16)),
        "place": place.astype(np.float32),
        "energy": (energy.astype(np.float64) / GeV).astype(np.float32),
        "time": time.astype(np.float32),
    }


def _number_in_group(group: NDArray[np.int64]) -> NDArray[np.int64]:
    """Of each entry, how many of its group stand before it."""
    order = np.argsort(group, kind="stable")
    sizes = np.unique(group, return_counts=True)[1]
    number = np.arange(len(group)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    out = np.empty_like(number)
    out[order] = number
    return out


def _run_root(folder: Path, target: Path) -> None:
    # Its wheel calls itself an alpha version at every import.
    command = [
        sys.executable,
        "-W",
        "ignore",
        str(Path(__file__).with_name("edm4hep_root.py")),
        str(folder),
        str(target),
    ]
    try:
        done = subprocess.run(
            command, capture_output=True, text=True, timeout=_TIMEOUT_SECONDS, check=False, cwd=folder
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise OutputError(f"ROOT could not be run: {error}") from None
    if done.returncode or not target.exists():
        lines = [line for line in done.stderr.splitlines() if line.strip()]
        raise OutputError(f"ROOT wrote no file: {lines[-1] if lines else 'no reason given'}")
