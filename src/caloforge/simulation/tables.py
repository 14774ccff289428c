"""Where Geant4 gets its data tables from: CERN's official ones, or built-in ones made from public evaluations.

Geant4 reads its tables from a directory. The official ones (about 2 GB) come with ``python -m calzone download``. The
built-in ones need no download: the few files that electromagnetic and FTFP_BERT physics open are written, element by
element, into a per-user cache from compact arrays that ship with the package (``data/README.md`` names their sources).
"""

from __future__ import annotations

import hashlib
import os
import subprocess
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge.atomic import written_beside
from caloforge.caches import cache_folder, home
from caloforge.errors import SimulationError, UsageError
from caloforge.simulation import nucleons
from caloforge.simulation.packages import need_engine

__all__ = [
    "DATASETS",
    "TableSource",
    "atomic_number",
    "builtin_fingerprint",
    "fetch_official",
    "find_official",
    "find_tables",
    "geant4_data",
    "write_tables",
]

#: Folders of a Geant4 11.4 data directory; calzone checks that all of them exist.
DATASETS = (
    "G4NDL4.7.1", "G4EMLOW8.8", "PhotonEvaporation6.1.2", "RadioactiveDecay6.1.2", "G4PARTICLEXS4.2", "G4PII1.3",
    "RealSurface2.2", "G4SAIDDATA2.0", "G4ABLA3.3", "G4INCL1.3", "G4ENSDFSTATE3.0", "G4CHANNELING2.0",
)  # fmt: skip

_SYMBOLS = (
    "H He Li Be B C N O F Ne Na Mg Al Si P S Cl Ar K Ca Sc Ti V Cr Mn Fe Co Ni Cu Zn Ga Ge As Se Br Kr Rb Sr Y Zr Nb "
    "Mo Tc Ru Rh Pd Ag Cd In Sn Sb Te I Xe Cs Ba La Ce Pr Nd Pm Sm Eu Gd Tb Dy Ho Er Tm Yb Lu Hf Ta W Re Os Ir Pt Au "
    "Hg Tl Pb Bi Po At Rn Fr Ra Ac Th Pa U"
)

#: Counts the changes of what is written from the same arrays; part of the cache key.
LAYOUT = 1

_EMLOW, _XS = "G4EMLOW8.8", "G4PARTICLEXS4.2"
_HIGHEST_Z = 92
_BARN = 1.0e-22  # mm2
_NEUTRON_GRID = (1.0e-11, 2000.0, 20)  # MeV, MeV, points per decade
_CHARGED_GRID = (0.1, 2000.0, 40)


@dataclass(frozen=True)
class TableSource:
    """The data directory of a run, as provenance states it.

    Attributes:
        kind: ``builtin``, ``official`` or ``directory`` (a given one).
        path: the directory.
        fingerprint: of the built-in tables; empty otherwise.
    """

    kind: str
    path: Path
    fingerprint: str = ""

    @property
    def approximate_nucleons(self) -> bool:
        """Whether cross sections of neutrons, protons and light ions are parametrised."""
        return self.kind == "builtin"

    def provenance(self) -> dict[str, str]:
        """What to write into a file: names, never a path of this machine."""
        if self.kind != "builtin":
            return {"kind": self.kind, "datasets": " ".join(DATASETS)}
        return {
            "kind": "builtin",
            "fingerprint": self.fingerprint,
            "bremsstrahlung": "NIST (Seltzer and Berger 1986)",
            "photons": "EPDL97 photoelectric and Rayleigh; no photonuclear reactions below 150 MeV",
            "nucleons": "parametrised (Letaw et al. 1983, normalised to PDG interaction lengths)",
        }


def atomic_number(symbol: str) -> int:
    """Z of an element, 1 to 92.

    Raises:
        SimulationError: if there is no such element in the tables.
    """
    try:
        return _SYMBOLS.split().index(symbol) + 1
    except ValueError:
        raise SimulationError(f"'{symbol}' is not the symbol of an element from H to U") from None


def geant4_data() -> Path:
    """Where calzone keeps official tables: ``GEANT4_DATA_DIR`` or its own default directory.

    Raises:
        SimulationError: if there is neither such a variable nor a home.
    """
    if named := os.environ.get("GEANT4_DATA_DIR"):
        return Path(named)
    if (found := home()) is None:
        raise SimulationError(
            "there is no home directory to look for Geant4's tables in; GEANT4_DATA_DIR can name another"
        )
    return found / ".local" / "share" / "calzone" / "data"


def _missing(directory: Path) -> str | None:
    """The first thing that a usable data directory lacks."""
    for name in DATASETS:
        if not (directory / name).is_dir():
            return name
    for name in (f"{_EMLOW}/brem_SB", f"{_XS}/gamma/inel1", "G4ENSDFSTATE3.0/ENSDFSTATE.dat"):
        if not (directory / name).exists():
            return name
    return None


def find_official() -> Path | None:
    """The directory of the official tables, if a complete one is there."""
    if home() is None and not os.environ.get("GEANT4_DATA_DIR"):
        return None
    directory = geant4_data()
    return directory if _missing(directory) is None else None


def find_tables(choice: str | Path, elements: Iterable[int], *, hadronic: bool = True) -> TableSource:
    """Settle where the tables of a run come from, writing the built-in ones if they are wanted.

    Args:
        choice: ``auto`` (official if found, else built-in), ``builtin``, ``official``, or a directory.
        elements: atomic numbers in the geometry; only these are written.
        hadronic: whether hadronic physics is used.

    Raises:
        SimulationError: if the wanted tables are not there or incomplete.
    """
    if choice == "auto":
        # Whoever names a directory means it: a wrong one is an error, not a reason to use something else.
        named = bool(os.environ.get("GEANT4_DATA_DIR"))  # an empty variable names nothing
        choice = "official" if named or find_official() else "builtin"
    if choice == "builtin":
        path = write_tables(cache_folder() / "geant4" / builtin_fingerprint(), elements, hadronic=hadronic)
        return TableSource("builtin", path, builtin_fingerprint())
    official = choice == "official"
    directory = geant4_data() if official else Path(choice)
    if (missing := _missing(directory)) is not None:
        hint = "; 'caloforge simulate --fetch-geant4-data' downloads them, 'builtin' needs no download"
        raise SimulationError(
            f"'{directory}' holds no complete Geant4 11.4 data ('{missing}' is missing){hint if official else ''}"
        )
    return TableSource("official" if official else "directory", directory.resolve())


def fetch_official(destination: Path | None = None) -> Path:
    """Start calzone's own download of the official tables (about 2 GB, from CERN), with its progress bar.

    Args:
        destination: directory; by default where calzone looks for them.

    Raises:
        SimulationError: if the download fails.
    """
    need_engine("calzone")
    target = geant4_data() if destination is None else destination
    target.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "calzone", "download", str(target)]
    result = subprocess.run(command, stderr=subprocess.PIPE, text=True, check=False)
    if result.returncode != 0:
        reason = (result.stderr.strip().splitlines() or [f"exit code {result.returncode}"])[-1]
        raise SimulationError(f"the download of Geant4's data to '{target}' failed: {reason}")
    return target


# ---- built-in tables -------------------------------------------------------------------------------------------------


@cache
def _arrays(name: str) -> Mapping[str, NDArray[Any]]:
    archive = files("caloforge.simulation") / "data" / f"{name}.npz"
    with archive.open("rb") as stream, np.load(stream, allow_pickle=False) as loaded:
        return {key: loaded[key] for key in loaded.files}


@cache
def builtin_fingerprint() -> str:
    """Short hash of the shipped arrays and of the code that writes them out."""
    digest = hashlib.sha256(f"layout {LAYOUT}".encode())
    for name in ("bremsstrahlung", "photons", "nuclei"):
        digest.update((files("caloforge.simulation") / "data" / f"{name}.npz").read_bytes())
    digest.update((files("caloforge.simulation") / "nucleons.py").read_bytes())
    return digest.hexdigest()[:16]


def write_tables(directory: Path, elements: Iterable[int], *, hadronic: bool = True) -> Path:
    """Write the built-in tables for some elements as a Geant4 11.4 data directory; what is there already stays.

    Every file appears at once under its final name, with content that depends only on its name, so any number of
    processes may do this at the same time.

    Args:
        directory: target; created.
        elements: atomic numbers, 1 to 92.
        hadronic: also write cross sections of nucleons and light ions, for all elements: nuclear reactions make new
            ones, and Geant4 opens their files when it meets them.

    Raises:
        UsageError: for an element that the tables do not hold.
        SimulationError: if the directory cannot be written.
    """
    wanted = sorted({1, *elements})  # Geant4's vacuum counts as hydrogen
    if wanted[0] < 1 or wanted[-1] > _HIGHEST_Z:
        raise UsageError(f"the built-in tables hold the elements 1 to {_HIGHEST_Z}, not Z = {wanted[-1]}")
    try:
        for name in DATASETS:
            (directory / name).mkdir(parents=True, exist_ok=True)
        _write(directory / "G4ENSDFSTATE3.0/ENSDFSTATE.dat", lambda: "")
        for z in range(1, 98):  # opened at start-up for every element, in the geometry or not
            _write(directory / _XS / f"gamma/inel{z}", _no_photonuclear)
        for z in wanted:
            for name, make in _electromagnetic_files(z):
                _write(directory / name, make)
        for z in range(1, _HIGHEST_Z + 1) if hadronic else ():
            for name, make in _hadronic_files(z):
                _write(directory / name, make)
    except OSError as error:
        raise SimulationError(
            f"Geant4's tables cannot be written to '{directory}' ({error.strerror}); set CALOFORGE_CACHE to a writable directory"
        ) from error
    return directory


def _write(path: Path, make: Callable[[], str]) -> None:
    """Write ``make()`` to a file, all or nothing, unless it is there already."""
    if path.exists():
        return
    path.parent.mkdir(parents=True, exist_ok=True)
    with written_beside(path, durable=False) as beside:
        beside.write_text(make(), encoding="ascii")


def _electromagnetic_files(z: int) -> Iterator[tuple[str, Callable[[], str]]]:
    """Names and contents of the files of one element that electrons and photons need."""
    photo = f"{_EMLOW}/epics2017/phot/pe"
    yield f"{_EMLOW}/brem_SB/br{z}", partial(_bremsstrahlung, z)
    yield f"{photo}-cs-{z}.dat", partial(_photon_vector, z, "photoelectric")
    yield f"{photo}-high-{z}.dat", partial(_photoelectric_fit, z)
    yield f"{photo}-low-{z}.dat", partial(_photoelectric_fit, z)
    yield f"{_EMLOW}/epics2017/rayl/re-cs-{z}.dat", partial(_photon_vector, z, "rayleigh")


def _hadronic_files(z: int) -> Iterator[tuple[str, Callable[[], str]]]:
    """Names and contents of the files of one element that nucleons and light ions need."""
    for folder, kind in (("neutron", "inel"), ("neutron", "el"), ("neutron", "cap"), ("proton", "inel")):
        yield f"{_XS}/{folder}/{kind}{z}", partial(_hadron, z, folder, kind)
    for folder in nucleons.PROJECTILES:
        yield f"{_XS}/{folder}/inel{z}", partial(_hadron, z, folder, "inel")


def _vector(x: NDArray[np.float64], y: NDArray[np.float64]) -> str:
    """Geant4's text form of a vector: range and length, length again, then pairs."""
    lines = [f"{x[0]:.9g} {x[-1]:.9g} {x.size}", str(x.size)]
    lines += [f"{a:.9g} {b:.7g}" for a, b in zip(x.tolist(), y.tolist(), strict=True)]
    return "\n".join(lines) + "\n"


@cache
def _no_photonuclear() -> str:
    grid = np.arange(131.0)
    return _vector(grid, np.zeros_like(grid))


def _bremsstrahlung(z: int) -> str:
    tables = _arrays("bremsstrahlung")
    rows = [f"0 {tables['fraction'].size} {tables['energy'].size}"]
    numbers = [tables["fraction"], np.log(tables["energy"]), *tables["chi"][z - 1]]
    rows += [" ".join(f"{v:.7g}" for v in row.tolist()) for row in numbers]
    return "\n".join(rows) + "\n"


def _photon_vector(z: int, kind: str) -> str:
    tables = _arrays("photons")
    rows = slice(*tables["offset"][z - 1 : z + 1].tolist())
    energy = tables["energy"][rows]
    sigma = tables[kind][rows].astype(np.float64)
    # The powers of the energy that Geant4 divides out again: E^3 in barn MeV^3, and E^2 in mm2 MeV^2.
    return _vector(energy, sigma * energy**3 if kind == "photoelectric" else sigma * energy**2 * _BARN)


def _photoelectric_fit(z: int) -> str:
    tables = _arrays("photons")
    # One shell, bound by next to nothing, stands for all: the electron then carries the whole photon energy.
    coefficients = " ".join(f"{a:.9g}" for a in tables["fit"][z - 1].tolist())
    return f"1 1 {float(tables['fit_minimum']):.9g}\n1e-4 {coefficients}\n"


def _hadron(z: int, projectile: str, kind: str) -> str:
    nuclei = _arrays("nuclei")
    mass = float(nuclei["mass"][z - 1])
    low, high, density = _NEUTRON_GRID if projectile == "neutron" else _CHARGED_GRID
    if z == 1:
        high = 20.0  # nucleon-nucleon scattering is code in Geant4 from there on
    energy = np.geomspace(low, high, round(np.log10(high / low) * density) + 1)
    if kind == "cap":
        sigma = nucleons.capture(energy, float(nuclei["absorption"][z - 1]))
    elif kind == "el":
        sigma = nucleons.elastic(energy, z, mass)
    elif projectile in nucleons.PROJECTILES:
        sigma = nucleons.ion_inelastic(energy, z, mass, projectile)
    else:
        sigma = nucleons.nucleon_inelastic(energy, z, mass, charged=projectile == "proton")
    return _vector(energy, sigma * _BARN)
