"""Compression that plain HDF5 does not have: found in the package ``hdf5plugin``, or named."""

from __future__ import annotations

import contextlib
import importlib

import h5py

__all__ = ["missing_filter"]

#: Registered numbers (https://github.com/HDFGroup/hdf5_plugins) of what files of this field may be compressed with.
_NAMES = {
    307: "bzip2", 32000: "LZF", 32001: "Blosc", 32004: "LZ4", 32008: "bitshuffle", 32013: "ZFP", 32015: "Zstandard",
    32017: "SZ", 32019: "FCIDECOMP", 32022: "BitGroom", 32023: "Granular BitRound", 32024: "SZ3", 32026: "Blosc2",
}  # fmt: skip


def missing_filter(dataset: h5py.Dataset) -> str:
    """The filter that reading a dataset needs and this program does not have; empty if there is none.

    If the package ``hdf5plugin`` is installed, its filters are made known to HDF5 as soon as one is missing.
    """
    numbers = _missing(dataset)
    if numbers:
        with contextlib.suppress(ImportError):
            importlib.import_module("hdf5plugin")
            numbers = _missing(dataset)
    return ", ".join(_NAMES.get(number, f"number {number}") for number in numbers)


def _missing(dataset: h5py.Dataset) -> list[int]:
    properties = dataset.id.get_create_plist()
    numbers = [properties.get_filter(k)[0] for k in range(properties.get_nfilters())]
    return [number for number in numbers if not h5py.h5z.filter_avail(number)]
