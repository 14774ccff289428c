"""All that follows the flow of CaloClouds in one compiled CPU kernel (``caloforge.nn.native``), without gradients.

What the flow says about the layers, the calibration, the points from the one-step network, their places and energies and
their layers: step by step, these are some hundred small calls of PyTorch, which for a single shower take longer than their
arithmetic. Everything but the network is done in float64, for each shower on its own.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from caloforge.nn.compiled_clouds import can_serve, packed_points
from caloforge.nn.native import native_library

if TYPE_CHECKING:
    from caloforge.nn.pointwise import PointWiseNet

__all__ = ["CloudSettings", "compiled_decoding"]

_SUFFIXES = {torch.float32: "f32", torch.float64: "f64"}
_TENSORS = (
    "incident", "mean", "std", "most_points", "layer_points", "layer_energy", "occupancy", "energy", "polynomials",
    "point_mean", "point_scale", "core", "least_energy", "depths",
)  # fmt: skip
_NUMBERS = ("room", "least_factor", "half_box", "level", "scale", "skip", "out")
_INTEGERS = ("layers", "totals", "roots", "asinh", "linear_energy", "max_negative")


class CloudSettings(ctypes.Structure):
    """Constants of a model of point clouds, as the kernel wants them.

    Attributes:
        room: a shower may have so many times the points of ``most_points``.
        least_factor: least factor that the calibration's polynomials may give.
        half_box: half the width of the box, mm.
        level: noise level as the point network sees it.
        scale: factor on the random numbers in front of the network.
        skip: factor on them in the sample.
        out: factor on the network's output in the sample.
        layers: number of layers L.
        totals: how many numbers the flow gives in front of those of the layers: 0, or 5 as in CaloClouds2.
        roots: whether the flow gives square roots.
        asinh: whether places are normalised by ``asinh``.
        linear_energy: whether energies of points are normalised without a logarithm.
        max_negative: so many negative energies of layers make a shower invalid.
    """

    _fields_ = (
        *((name, ctypes.c_void_p) for name in _TENSORS),
        *((name, ctypes.c_double) for name in _NUMBERS),
        *((name, ctypes.c_int32) for name in _INTEGERS),
    )


def compiled_decoding(
    net: PointWiseNet,
    settings: CloudSettings,
    constants: Mapping[str, Tensor | None],
    raw: Tensor,
    incident_energy: Tensor,
    direction: Tensor,
    z: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Showers from what the flow gave, or None if the kernel cannot serve.

    Args:
        net: the one-step point network.
        settings: numbers; the addresses in it are set here.
        constants: the fitted constants by their names in the kernel (``_TENSORS``), float64; the polynomials may be None.
        raw: of the flow, (N, F), of the network's type.
        incident_energy: float64 (N,), MeV.
        direction: float32 (N, 3).
        z: standard normal numbers, (K, 4), of the network's type; each shower takes the first rows of its own.
        starts: where those of each shower start, int64 (N + 1,).

    Returns:
        Points float32 (M, 4), offsets int64 (N + 1,) and whether each shower is valid, bool (N,).
    """
    if not can_serve(raw, z, net.frequencies):
        return None
    n, double = len(raw), torch.float64
    others = ((incident_energy, double), (direction, torch.float32), (starts, torch.int64))
    held = [(t, double) for t in constants.values() if t is not None]
    if any(t.dtype != dtype or t.device.type != "cpu" or not t.is_contiguous() for t, dtype in (*others, *held)):
        return None
    fits = raw.shape[1] == settings.totals + 2 * settings.layers and net.features == 4 and starts.shape == (n + 1,)
    if not fits or int(starts[0]) < 0 or int(starts[-1]) > len(z):
        return None
    packed, library = packed_points(net), native_library()
    if packed is None or library is None:
        return None
    for name in _TENSORS:
        tensor = constants[name]
        setattr(settings, name, None if tensor is None else tensor.data_ptr())
    raw, z = raw.detach().contiguous(), z.detach().contiguous()
    points = torch.empty(int(starts[-1] - starts[0]), 4)
    offsets, valid = torch.empty(n + 1, dtype=torch.int64), torch.empty(n, dtype=torch.bool)
    decode = getattr(library, f"caloforge_cloud_decode_{_SUFFIXES[raw.dtype]}")
    made = decode(
        packed.handle, ctypes.addressof(settings), n, raw.data_ptr(), incident_energy.data_ptr(), direction.data_ptr(),
        z.data_ptr(), starts.data_ptr(), offsets.data_ptr(), points.data_ptr(), valid.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return None if made < 0 else (points[:made], offsets, valid)
