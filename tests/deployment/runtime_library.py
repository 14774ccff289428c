"""The C interface through ctypes, written from runtime.h, and models to open."""

from __future__ import annotations

import ctypes
import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

SUCCESS, NO_FILE, DAMAGED, VERSION, UNSUPPORTED, ARGUMENT, MEMORY, SPACE = range(8)
OK, REDRAWN, OUTSIDE, FAILED = range(4)
EXTRAPOLATE = 1


class Particle(ctypes.Structure):
    _fields_ = (
        ("energy", ctypes.c_double),
        ("direction", ctypes.c_double * 3),
        ("pdg", ctypes.c_int32),
        ("reserved", ctypes.c_int32),
    )


class Info(ctypes.Structure):
    _fields_ = (
        ("points", ctypes.c_int32),
        ("layers", ctypes.c_int32),
        ("voxels", ctypes.c_int64),
        ("particle", ctypes.c_int32),
        ("any_direction", ctypes.c_int32),
        ("energy", ctypes.c_double * 2),
        ("direction", ctypes.c_double * 6),
        ("kind", ctypes.c_char * 32),
        ("weights", ctypes.c_char * 65),
        ("reserved", ctypes.c_char * 31),
    )


SPOT = np.dtype([(n, "<f8") for n in ("x", "y", "z", "energy")] + [("layer", "<i4"), ("voxel", "<i4")])


def pointer(array: NDArray[Any]) -> ctypes.c_void_p:
    return ctypes.c_void_p(array.ctypes.data)


def particles(
    energies: Sequence[float] | NDArray[np.float64], pdg: int = 22, directions: NDArray[Any] | None = None
) -> Any:
    made = (Particle * len(energies))()
    for k, energy in enumerate(energies):
        direction = (0.0, 0.0, 1.0) if directions is None else tuple(map(float, directions[k]))
        made[k] = Particle(float(energy), (ctypes.c_double * 3)(*direction), pdg, 0)
    return made


class Library:
    """The shared library."""

    def __init__(self, path: Path) -> None:
        self.c = ctypes.CDLL(str(path))

    def open(self, folder: Path) -> tuple[int, Model | None, str]:
        """Error, model and message."""
        message = ctypes.create_string_buffer(400)
        handle = ctypes.c_void_p()
        code = self.c.cf_open(str(folder).encode(), ctypes.byref(handle), message, ctypes.c_size_t(len(message)))
        return code, None if code else Model(self.c, handle), message.value.decode()

    def opened(self, folder: Path) -> Model:
        code, model, message = self.open(folder)
        assert model is not None, (code, message)
        return model


class Model:
    """An open model."""

    def __init__(self, c: ctypes.CDLL, handle: ctypes.c_void_p) -> None:
        self.c, self.handle = c, handle
        self.info = Info()
        assert c.cf_get_info(handle, ctypes.byref(self.info)) == SUCCESS

    def close(self) -> None:
        self.c.cf_close(self.handle)

    def generate(
        self, asked: Any, seed: int, numbers: NDArray[np.uint64], flags: int = 0
    ) -> tuple[NDArray[np.float32], NDArray[np.uint8]]:
        deposits = np.full((len(asked), self.info.voxels), np.nan, dtype=np.float32)
        status = np.full(len(asked), 99, dtype=np.uint8)
        code = self.c.cf_generate(
            self.handle, ctypes.c_int64(len(asked)), asked, ctypes.c_uint64(seed), pointer(numbers),
            ctypes.c_uint32(flags), pointer(deposits), pointer(status),
        )  # fmt: skip
        assert code == SUCCESS
        return deposits, status

    def generate_points(
        self, asked: Any, seed: int, numbers: NDArray[np.uint64], capacity: int
    ) -> tuple[int, NDArray[np.float32], NDArray[np.int64], NDArray[np.uint8]]:
        points = np.full((capacity, 4), np.nan, dtype=np.float32)
        offsets, status = np.zeros(len(asked) + 1, dtype=np.int64), np.full(len(asked), 99, dtype=np.uint8)
        code = self.c.cf_generate_points(
            self.handle, ctypes.c_int64(len(asked)), asked, ctypes.c_uint64(seed), pointer(numbers), ctypes.c_uint32(0),
            ctypes.c_int64(capacity), pointer(points), pointer(offsets), pointer(status),
        )  # fmt: skip
        return code, points, offsets, status

    def latents(self, asked: Any, seed: int, numbers: NDArray[np.uint64], attempts: NDArray[np.uint64]) -> list[Any]:
        """Random numbers of each shower."""
        sizes = []
        for particle in asked:
            size = ctypes.c_int64()
            assert self.c.cf_latent_size(self.handle, ctypes.byref(particle), ctypes.byref(size)) == SUCCESS
            sizes.append(size.value)
        out = np.empty(sum(sizes), dtype=np.float32)
        code = self.c.cf_latents(
            self.handle, ctypes.c_int64(len(asked)), asked, ctypes.c_uint64(seed), pointer(numbers), pointer(attempts),
            pointer(out),
        )  # fmt: skip
        assert code == SUCCESS
        return np.split(out, np.cumsum(sizes)[:-1])

    def place(
        self, deposits: NDArray[np.float32], per_voxel: int, seed: int, numbers: NDArray[np.uint64], capacity: int
    ) -> tuple[int, NDArray[Any], NDArray[np.int64]]:
        spots, offsets = np.zeros(capacity, dtype=SPOT), np.zeros(len(deposits) + 1, dtype=np.int64)
        code = self.c.cf_place(
            self.handle, ctypes.c_int64(len(deposits)), pointer(deposits), ctypes.c_int32(per_voxel),
            ctypes.c_uint64(seed), pointer(numbers), ctypes.c_int64(capacity), pointer(spots), pointer(offsets),
        )  # fmt: skip
        return code, spots, offsets

    def decode(self, asked: Any, latents: NDArray[np.float32]) -> tuple[int, NDArray[np.float32], NDArray[np.uint8]]:
        deposits = np.full((len(asked), self.info.voxels), np.nan, dtype=np.float32)
        valid = np.full(len(asked), 99, dtype=np.uint8)
        code = self.c.cf_decode(
            self.handle, ctypes.c_int64(len(asked)), asked, pointer(latents), pointer(deposits), pointer(valid)
        )
        return code, deposits, valid


def with_changes(folder: Path, **changes: Any) -> None:
    """Another description, with the right digest: what a program of another version may write."""
    path = folder / "runtime.json"
    description = json.loads(path.read_text()) | changes
    del description["digest"]
    text = json.dumps(description).removesuffix("}") + ", "
    digest = hashlib.blake2b(text.encode(), digest_size=32).hexdigest()
    path.write_text(f'{text}"digest": "{digest}"}}')
