"""All file formats, in the order in which a file is held against them."""

from __future__ import annotations

from pathlib import Path

import h5py

from caloforge.errors import ShowerFileError, UsageError
from caloforge.showers.formats.base import Format, Reader, UnbegunReader
from caloforge.showers.formats.caloclouds import CALOCLOUDS
from caloforge.showers.formats.calogan import CALOGAN
from caloforge.showers.formats.hits import HITS
from caloforge.showers.formats.ild import ILD
from caloforge.showers.formats.lemurs import LEMURS
from caloforge.showers.formats.native import CALOCHALLENGE, NATIVE
from caloforge.showers.formats.showerdata import SHOWERDATA
from caloforge.showers.hdf5 import guarded

__all__ = ["FORMATS", "find_format", "sniff"]

FORMATS: dict[str, Format] = {
    form.name: form for form in (NATIVE, CALOCHALLENGE, CALOGAN, SHOWERDATA, ILD, HITS, CALOCLOUDS, LEMURS)
}


def find_format(name: str, *, writing: bool = False) -> Format:
    """A format by name.

    Raises:
        UsageError: if there is none of this name, or it cannot be written.
    """
    known = [form.name for form in FORMATS.values() if form.encoder is not None or not writing]
    if name not in known:
        raise UsageError(f"the format '{name}' is not known, expected one of {', '.join(known)}")
    return FORMATS[name]


def sniff(path: Path, file: h5py.File) -> type[Reader]:
    """What can read an open file.

    Raises:
        ShowerFileError: if it is none of the known ones.
    """
    with guarded(path):
        if not len(file) and "request" in file.attrs:
            return UnbegunReader
        for form in FORMATS.values():
            if form.sniff(file):
                return form.reader
        names = ", ".join(sorted(map(str, file))[:8]) or "nothing"
    raise ShowerFileError(
        f"{path}: is no shower file of a known format; it holds {names} (docs/files.md lists the layouts)"
    )
