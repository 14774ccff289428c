"""What files are that people take for HDF5 files: pointers, web pages, archives, files of other programs."""

from __future__ import annotations

__all__ = ["kind_of_content"]

#: How files begin that people take for HDF5 files, what they are, and how that may have come about.
_BEGINNINGS = (
    (b"version https://git-lfs", "a pointer of Git LFS and not the file itself ('git lfs pull' fetches it)"),
    (b"\x1f\x8b", "compressed with gzip (gunzip unpacks it)"),
    (b"BZh", "compressed with bzip2 (bunzip2 unpacks it)"),
    (b"\xfd7zXZ\0", "compressed with xz (unxz unpacks it)"),
    (b"\x28\xb5\x2f\xfd", "compressed with zstd (unzstd unpacks it)"),
    (b"PK\x03\x04", "a ZIP archive, which .npz and .pt files are too"),
    (b"root", "a ROOT file"),
    (b"\x93NUMPY", "a NumPy array (.npy)"),
    (b"CDF", "a netCDF 3 file"),
    (b"PAR1", "a Parquet file"),
    (b"\x80", "a pickle, which runs code when it is opened"),
    (b"\x0e\x03\x13\x01", "an HDF4 file"),
)


def kind_of_content(start: bytes) -> str:
    """What a file is that is not HDF5, from its first 512 bytes."""
    for beginning, kind in _BEGINNINGS:
        if start.startswith(beginning):
            return kind
    if start[257:262] == b"ustar":
        return "a tar archive"
    text = start.lstrip(b"\xef\xbb\xbf \t\r\n").lower()
    if text.startswith((b"<!doctype html", b"<html", b"<head")):
        return "a web page, perhaps the answer to a download that asked for a login"
    if text.startswith((b"<?xml", b"{", b"[")) or all(byte in b"\t\n\r\f" or byte >= 32 for byte in start):
        return "a text file"
    return "something else"
