"""All file formats, in the order in which a file is held against them."""

from __future__ import annotations

import warnings
from pathlib import Path

import h5py

from caloforge import plugins
from caloforge.errors import CaloForgeWarning, ShowerFileError, UsageError
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
    """A format by name: one of the package, or of another distribution.

    Raises:
        UsageError: if there is none of this name, or it cannot be written.
        PluginError: if it is of another distribution and cannot be loaded.
    """
    if name not in FORMATS and name in plugins.find("formats"):
        found: Format = plugins.checked(plugins.find("formats")[name], plugins.load("formats", name), Format)
        if writing and found.encoder is None:
            raise UsageError(f"the format '{name}' can only be read")
        return found
    known = [form.name for form in FORMATS.values() if form.encoder is not None or not writing]
    if name not in known:
        known += plugins.names("formats")
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
        found = _foreign(file)
        if found is not None:
            return found
        names = ", ".join(sorted(map(str, file))[:8]) or "nothing"
    raise ShowerFileError(
        f"{path}: is no shower file of a known format; it holds {names} (docs/files.md lists the layouts)"
    )


def _foreign(file: h5py.File) -> type[Reader] | None:
    """A reader of another distribution's; what one of them does wrong is said, and the others are asked all the same."""
    form: Format
    for plugin, form in plugins.load_each("formats", expected=Format):
        try:
            if form.sniff(file):
                return form.reader
        except Exception as error:  # whatever somebody else's module does
            warnings.warn(f"{plugin.broken(f' ({type(error).__name__}: {error})')}", CaloForgeWarning, stacklevel=4)
    return None
