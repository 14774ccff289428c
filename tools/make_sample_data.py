"""Make the sample files of the package from Geant4 showers in CaloGAN files.

Run with: python tools/make_sample_data.py SOURCE_DIR

SOURCE_DIR holds calogan_gamma_{train,test,floor}.h5: photons of 1-100 GeV, uniform, made with Geant4 11.4.0 (calzone)
with the conventions of the detector `calogan`; every shower is independent, the files are disjoint. The first 6,000
training showers and all others go into the package, re-packed as native files with the strongest compression that
plain HDF5 offers (they are written once and downloaded often).
"""

from __future__ import annotations

import sys
import tempfile
from pathlib import Path

import h5py

from caloforge.showers.files import create_showers, open_showers
from caloforge.showers.hashes import row_hashes

TARGET = Path(__file__).resolve().parent.parent / "src" / "caloforge" / "datasets" / "data"
ROWS = {"train": 6000, "test": 3000, "floor": 3000}


def main(source: Path) -> None:
    TARGET.mkdir(parents=True, exist_ok=True)
    seen: set[int] = set()
    for split, rows in ROWS.items():
        with open_showers(source / f"calogan_gamma_{split}.h5", "calogan", particle="gamma") as reader:
            showers = reader.read(0, rows)
            provenance = reader.provenance | {"split": split}
            detector = reader.detector
        hashes = set(row_hashes(showers).tolist())
        assert len(hashes) == rows, f"{split}: some showers occur twice"
        assert not hashes & seen, f"{split}: shares showers with another split"
        seen |= hashes
        target = TARGET / f"calogan-gamma-sample-{split}.h5"
        with tempfile.TemporaryDirectory() as folder:
            plain = Path(folder) / "plain.h5"
            with create_showers(
                plain, detector=detector, particle="gamma", provenance=provenance, expected=rows
            ) as writer:
                writer.write(showers)
            repack(plain, target)
        print(f"{target.name}: {rows} showers, {target.stat().st_size / 1e6:.2f} MB")


def repack(source: Path, target: Path) -> None:
    with h5py.File(source) as old, h5py.File(target, "w") as new:
        new.attrs.update(old.attrs)
        for name, dataset in old.items():
            # The columns of points (places, layers, energies) are alike only among themselves.
            points = name == "points"
            chunks = (min(65536 if points else 1000, len(dataset)), *((1,) if points else dataset.shape[1:]))
            copy = new.create_dataset(
                name, data=dataset[()], chunks=chunks, compression="gzip", compression_opts=9, shuffle=True
            )
            copy.attrs.update(dataset.attrs)


if __name__ == "__main__":
    main(Path(sys.argv[1]))
