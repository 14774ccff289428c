"""A checksum over everything in a safetensors file, which has none of its own: a flipped bit would be another number."""

from __future__ import annotations

import zlib
from collections.abc import Mapping

import torch
from torch import Tensor

__all__ = ["CHECKSUM", "check_tensors", "check_text", "checksum_of"]

#: Under this name it stands in the header.
CHECKSUM = "checksum"


def checksum_of(tensors: Mapping[str, Tensor], text: str) -> str:
    """CRC-32 of the text of the header, and of it with all names, types, shapes and values; two times eight digits.

    Args:
        tensors: by name, on the CPU.
        text: whatever else the file says.
    """
    of_text = total = zlib.crc32(text.encode())
    for name in sorted(tensors):
        value = tensors[name]
        total = zlib.crc32(f"{name} {value.dtype} {tuple(value.shape)}".encode(), total)
        total = zlib.crc32(value.contiguous().reshape(-1).view(torch.uint8).numpy().data, total)
    return f"{of_text:08x}{total:08x}"


def check_text(header: Mapping[str, str], text: str) -> None:
    """Compare the text of a header with its checksum.

    Raises:
        ValueError: if they differ.
    """
    if _stated(header)[:8] != f"{zlib.crc32(text.encode()):08x}":
        raise ValueError("its checksum is another one")


def check_tensors(header: Mapping[str, str], tensors: Mapping[str, Tensor], text: str) -> None:
    """Compare all that was read with its checksum.

    Raises:
        ValueError: if they differ.
    """
    if _stated(header) != checksum_of(tensors, text):
        raise ValueError("its checksum is another one")


def _stated(header: Mapping[str, str]) -> str:
    if CHECKSUM not in header:
        raise ValueError("it has no checksum; the first versions of this program wrote none")
    return header[CHECKSUM]
