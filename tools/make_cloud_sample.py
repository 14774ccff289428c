"""Make the point-cloud sample of the package from Geant4 steps in ild-ecal.

Run with: python tools/make_cloud_sample.py STEPS.h5

STEPS.h5 holds 900 photons of 10-30 GeV from all directions of a barrel segment, in the field, every Geant4 step in silicon
a point; as many as the rows below say are used:

    caloforge simulate --detector ild-ecal --particle gamma --energy 10:30 --direction random --points --events 900 \
      --seed 11 --out STEPS.h5

Steps are merged in 25 sub-cells per cell, on a grid that is shifted at random for every shower, with the point at the
highest deposit (arXiv:2511.01460). To stay small, coordinates are rounded to 1/128 mm (below 10 um) and
energies to 10 significant bits.
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import numpy as np
from make_sample_data import TARGET, repack
from numpy.typing import NDArray

from caloforge.random import Streams
from caloforge.showers import ShowerPoints
from caloforge.showers.clusters import merge_in_subcells
from caloforge.showers.files import create_showers, open_showers
from caloforge.showers.projection import cell_pitch

ROWS = {"train": slice(0, 510), "test": slice(510, 650), "floor": slice(650, 790)}
DIVISIONS = 5


def rounded(points: NDArray[np.float32]) -> NDArray[np.float32]:
    coarse = points.copy()
    coarse[:, :2] = np.round(points[:, :2] * 128) / 128
    mantissa, exponent = np.frexp(points[:, 3])
    coarse[:, 3] = np.ldexp(np.round(mantissa * 1024) / 1024, exponent)
    return coarse


def main(source: Path) -> None:
    with open_showers(source) as reader:
        detector, provenance = reader.detector, reader.provenance
        for split, rows in ROWS.items():
            steps = reader.read(rows.start, rows.stop)
            assert isinstance(steps, ShowerPoints)
            assert detector is not None
            merged = merge_in_subcells(
                steps, cell_pitch(detector.readout), DIVISIONS, Streams(0, "sub-cells"), first_row=rows.start
            )
            points = ShowerPoints(
                merged.offsets,
                rounded(merged.points),
                merged.incident_energy,
                merged.particle,
                merged.readout,
                merged.direction,
            )
            story = provenance | {
                "split": split,
                "merged": {"sub_cells_per_cell": DIVISIONS**2, "position": "highest", "grid": "shifted at random"},
                "rounded": {"coordinates_mm": 1 / 128, "energy_bits": 10},
            }
            target = TARGET / f"ild-gamma-clouds-{split}.h5"
            with tempfile.TemporaryDirectory() as folder:
                plain = Path(folder) / "plain.h5"
                with create_showers(
                    plain,
                    detector=detector,
                    particle="gamma",
                    kind="points",
                    provenance=story,
                    expected=len(points),
                ) as writer:
                    writer.write(points)
                repack(plain, target)
            per_shower = len(points.points) / len(points)
            print(
                f"{target.name}: {len(points)} showers, {per_shower:.0f} points each, {target.stat().st_size / 1e6:.2f} MB"
            )


if __name__ == "__main__":
    main(Path(sys.argv[1]))
