"""All file formats: those of this folder, and of other distributions."""

from __future__ import annotations

import warnings
from functools import cache
from pathlib import Path

import h5py

from caloforge import plugins
from caloforge.errors import CaloForgeWarning, ShowerFileError, UsageError
from caloforge.showers.formats.base import Format, Reader, UnbegunReader
from caloforge.showers.hdf5 import guarded

__all__ = ["find_format", "own_formats", "sniff"]


@cache
def own_formats() -> dict[str, Format]:
    """The formats of the package by name, in the order in which a file is held against them."""
    found = [plugins.load("formats", p.name) for p in plugins.find("formats").values() if p.distribution == "caloforge"]
    return {form.name: form for form in sorted(found, key=lambda form: (form.rank, form.name))}


def find_format(name: str, *, writing: bool = False) -> Format:
    """A format by name: one of the package, or of another distribution.

    Raises:
        UsageError: if there is none of this name, or it cannot be written.
        PluginError: if it is of another distribution and cannot be loaded.
    """
    own = own_formats()
    if name in own or name not in plugins.find("formats"):
        known = [form.name for form in own.values() if form.encoder is not None or not writing]
        if name not in known:
            known += [other for other in plugins.names("formats") if other not in own]
            raise UsageError(f"the format '{name}' is not known, expected one of {', '.join(known)}")
        return own[name]
    found: Format = plugins.checked(plugins.find("formats")[name], plugins.load("formats", name), Format)
    if writing and found.encoder is None:
        raise UsageError(f"the format '{name}' can only be read")
    return found


def sniff(path: Path, file: h5py.File) -> type[Reader]:
    """What can read an open file.

    Raises:
        ShowerFileError: if it is none of the known ones.
    """
    with guarded(path):
        if not len(file) and "request" in file.attrs:
            return UnbegunReader
        for form in own_formats().values():
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
