"""Make the compact tables that ``caloforge.simulation`` turns into a Geant4 data directory.

Run it once per change of the sources, never at run time:

    python -m venv /tmp/tables
    /tmp/tables/bin/pip install --no-deps xpecgen==1.3.1
    /tmp/tables/bin/pip install xraylib==4.3.0 periodictable==2.1.0 numpy
    /tmp/tables/bin/python tools/make_geant4_tables.py src/caloforge/simulation/data

Sources, all of them public evaluations (the README beside the tables says the same):

* ``bremsstrahlung.npz``: S. M. Seltzer and M. J. Berger, Nucl. Instrum. Meth. B 12 (1985) 95 and At. Data Nucl. Data
  Tables 35 (1986) 345, the NIST tabulation of the scaled bremsstrahlung energy-loss spectrum for Z = 1..92. The numbers
  are read from the data files that the package ``xpecgen`` carries (after PENELOPE's tabulation). xpecgen's *code* is
  GPL-3 and none of it is used; the numbers are measured and calculated facts published by NIST.
* ``photons.npz``: photoelectric and Rayleigh cross sections of EPDL97 (D. E. Cullen, J. H. Hubbell, L. Kissel,
  UCRL-50400 vol. 6 rev. 5, 1997), through ``xraylib`` (BSD-3-Clause).
* ``nuclei.npz``: atomic masses, and thermal neutron absorption (2200 m/s) after V. F. Sears, Neutron News 3 (1992) 26, and
  later compilations, through ``periodictable`` (public domain).
"""

from __future__ import annotations

import argparse
import importlib.util
from collections.abc import Callable
from pathlib import Path

import numpy as np

ELEMENTS = range(1, 93)
KEV = 1.0e-3  # MeV

#: EPDL97 as xraylib tabulates it holds between these energies (MeV) for every element and both processes.
PHOTON_RANGE = (1.01e-4, 0.79)
POINTS_PER_DECADE = 24
#: Relative half-width of an absorption edge in the tables.
EDGE = 1.0e-5
#: Photoelectric cross sections are a fit sigma = sum_i a_i / E^i above this energy (MeV), the K edges of all elements
#: being below it; the fit is made up to FIT_MAXIMUM and goes on as 1/E from there.
FIT_MINIMUM, FIT_MAXIMUM = 0.25, 0.79


def bremsstrahlung(folder: Path) -> dict[str, np.ndarray]:
    """Scaled spectra chi = (beta^2/Z^2) k dsigma/dk in millibarn, shape (92 elements, 57 energies, 32 k)."""
    energies, fractions = (np.array(line.split(","), dtype=float) for line in (folder / "grid.csv").read_text().split())
    chi = np.stack([np.loadtxt(folder / f"{z:02d}.csv", delimiter=",") for z in ELEMENTS])
    if chi.shape != (len(ELEMENTS), energies.size, fractions.size) or not np.all(chi > 0):
        raise SystemExit(f"unexpected bremsstrahlung tables in {folder}: shape {chi.shape}")
    return {"energy": energies * KEV, "fraction": fractions, "chi": chi.astype(np.float32)}


def photon_grid(edges: np.ndarray) -> np.ndarray:
    """Logarithmic energies (MeV) with a pair of points around every absorption edge."""
    low, high = PHOTON_RANGE
    count = int(np.ceil(np.log10(high / low) * POINTS_PER_DECADE)) + 1
    grid = np.geomspace(low, high, count)
    for edge in edges:
        grid = grid[np.abs(grid / edge - 1) > 20 * EDGE]
    return np.sort(np.concatenate([grid, edges * (1 - EDGE), edges * (1 + EDGE)]))


def absorption_edges(sigma: Callable[[float], float]) -> np.ndarray:
    """Energies (MeV) at which a photoelectric cross section jumps up.

    They are looked for in the cross section itself: published shell energies differ from its edges by up to 0.1 %.
    """
    scan = np.geomspace(*PHOTON_RANGE, 8000)
    values = np.array([sigma(e) for e in scan])
    edges = []
    for k in np.flatnonzero(values[1:] > values[:-1]):
        low, high = scan[k : k + 2]
        middle_value = np.sqrt(values[k] * values[k + 1])
        while high / low - 1 > EDGE / 10:
            middle = np.sqrt(low * high)
            low, high = (low, middle) if sigma(middle) > middle_value else (middle, high)
        if sigma(high) / sigma(low) > 1.005:  # else a gentle rise
            edges.append(np.sqrt(low * high))
    return np.array(edges)


def photons(xraylib: object) -> dict[str, np.ndarray]:
    """Photoelectric and Rayleigh cross sections (barn per atom) on one energy grid (MeV) per element."""
    grids, photo, rayleigh, fits = [], [], [], []
    powers = np.arange(1, 6)
    for z in ELEMENTS:
        grid = photon_grid(absorption_edges(lambda e, z=z: xraylib.CSb_Photo(z, e / KEV)))
        grids.append(grid)
        photo.append(np.array([xraylib.CSb_Photo(z, e / KEV) for e in grid]))
        rayleigh.append(np.array([xraylib.CSb_Rayl(z, e / KEV) for e in grid]))
        fit_energies = np.geomspace(FIT_MINIMUM, FIT_MAXIMUM, 80)
        sigma = np.array([xraylib.CSb_Photo(z, e / KEV) for e in fit_energies])
        # Relative least squares, all coefficients but the last: a fifth term only follows the noise of the tables.
        design = fit_energies[:, None] ** -powers[None, :4] / sigma[:, None]
        coefficients, *_ = np.linalg.lstsq(design, np.ones_like(sigma), rcond=None)
        worst = float(np.max(np.abs(design @ coefficients - 1)))
        if worst > 0.01:
            raise SystemExit(f"photoelectric fit of Z={z} is off by {worst:.3f}")
        fits.append(np.append(coefficients, 0.0))
    return {
        "offset": np.cumsum([0, *(g.size for g in grids)]).astype(np.int32),
        "energy": np.concatenate(grids),
        "photoelectric": np.concatenate(photo).astype(np.float32),
        "rayleigh": np.concatenate(rayleigh).astype(np.float32),
        "fit_minimum": np.array(FIT_MINIMUM),
        "fit": np.stack(fits),
    }


def nuclei(periodictable: object) -> dict[str, np.ndarray]:
    """Atomic mass (u) and thermal neutron absorption (barn at 2200 m/s; NaN where not measured)."""
    elements = [periodictable.elements[z] for z in ELEMENTS]
    absorption = [np.nan if e.neutron.absorption is None else e.neutron.absorption for e in elements]
    return {"mass": np.array([e.mass for e in elements]), "absorption": np.array(absorption, dtype=float)}


def main() -> None:
    parser = argparse.ArgumentParser(description="Make the compact Geant4 tables that CaloForge ships.")
    parser.add_argument("out", type=Path, help="folder for the .npz files")
    parser.add_argument(
        "--seltzer-berger", type=Path, help="folder with grid.csv and 01.csv..92.csv (default: xpecgen)"
    )
    options = parser.parse_args()

    import periodictable
    import xraylib

    folder = options.seltzer_berger
    if folder is None:
        # The package is located, never imported: only its data files are read.
        found = importlib.util.find_spec("xpecgen")
        if found is None or found.origin is None:
            raise SystemExit("xpecgen is not installed: pip install --no-deps xpecgen, or name --seltzer-berger")
        folder = Path(found.origin).parent / "data" / "cs"

    options.out.mkdir(parents=True, exist_ok=True)
    tables = {"bremsstrahlung": bremsstrahlung(folder), "photons": photons(xraylib), "nuclei": nuclei(periodictable)}
    for name, arrays in tables.items():
        target = options.out / f"{name}.npz"
        np.savez_compressed(target, allow_pickle=False, **arrays)
        print(f"{target}: {target.stat().st_size / 1e3:.0f} kB")


if __name__ == "__main__":
    main()
