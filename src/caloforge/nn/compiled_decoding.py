"""All that follows the flow of CaloClouds in one compiled CPU kernel (``caloforge.nn.native``), without gradients.

What the flow says about the layers, the calibration, the points from the one-step network, their places and energies and
their layers: step by step, these are some hundred small calls of PyTorch, which for a single shower take longer than their
arithmetic. Everything but the network is done in float64, for each shower on its own.
"""

from __future__ import annotations

import ctypes
import operator
from collections.abc import Mapping
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn

from caloforge.nn.compiled_clouds import can_serve, packed_points
from caloforge.nn.native import native_library
from caloforge.nn.native.packed import SUFFIXES

if TYPE_CHECKING:
    from caloforge.nn.pointwise import PointWiseNet

__all__ = ["CloudConstants", "CloudSettings", "compiled_decoding"]

_TENSORS = (
    "incident", "mean", "std", "variance", "most_points", "layer_points", "layer_energy",
    "made_mean", "real_mean", "made_variance", "real_variance", "spread",
    "total_scale", "made_total", "real_total", "made_total_variance", "real_total_variance",
    "occupancy", "energy", "polynomials", "point_mean", "point_scale", "core", "least_energy", "depths",
)  # fmt: skip
_NUMBERS = (
    "room", "least_factor", "least_variance", "least_total_variance", "most_total", "half_box", "level", "scale", "skip", "out",
)  # fmt: skip
_INTEGERS = ("layers", "totals", "roots", "asinh", "linear_energy", "max_negative")


class CloudSettings(ctypes.Structure):
    """Constants of a model of point clouds, as the kernel wants them.

    Attributes:
        room: a shower may have so many times the points of ``most_points``.
        least_factor: least factor that the calibration's polynomials may give.
        least_variance: variances of the flow's outputs are at least so large.
        least_total_variance: likewise those of the totals.
        most_total: totals change by this factor at most.
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


class CloudConstants:
    """Settings and fitted constants of a model for the kernel, checked once and again only when other tensors take their place.

    Args:
        settings: numbers; the addresses in it are set here.
        constants: the fitted constants by their names in the kernel, each as the module that has it, the name of its buffer,
            and a row of it or None for all; without an entry the kernel is told that there is none.
    """

    def __init__(self, settings: CloudSettings, constants: Mapping[str, tuple[nn.Module, str, int | None]]) -> None:
        self.settings = settings
        self._names = list(constants)
        self._rows = [row for _, _, row in constants.values()]
        self._holders = [(module._buffers, name) for module, name, _ in constants.values()]
        self._addresses: list[int] = []
        self._tensors: list[Tensor | None] = []

    def ready(self) -> bool:
        """Set the addresses; whether the kernel can read all constants: float64 and contiguous, in CPU memory."""
        tensors = [buffers[name] for buffers, name in self._holders]
        addresses = [0 if tensor is None else tensor.data_ptr() for tensor in tensors]
        if addresses == self._addresses and all(map(operator.is_, tensors, self._tensors)):
            return True
        for name, tensor, row in zip(self._names, tensors, self._rows, strict=True):
            if tensor is None or tensor.dtype != torch.float64 or not tensor.is_cpu or not tensor.is_contiguous():
                return False
            setattr(self.settings, name, (tensor if row is None else tensor[row]).data_ptr())
        self._addresses, self._tensors = addresses, tensors
        return True


def compiled_decoding(
    net: PointWiseNet,
    constants: CloudConstants,
    raw: Tensor,
    incident_energy: Tensor,
    direction: Tensor,
    z: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor] | None:
    """Showers from what the flow gave, or None if the kernel cannot serve.

    Args:
        net: the one-step point network.
        constants: of the model.
        raw: of the flow, (N, F), before any correction, of the network's type.
        incident_energy: float64 (N,), MeV.
        direction: float32 (N, 3).
        z: standard normal numbers, (K, 4), of the network's type; each shower takes the first rows of its own.
        starts: where those of each shower start, int64 (N + 1,).

    Returns:
        Points float32 (M, 4), offsets int64 (N + 1,) and whether each shower is valid, bool (N,).
    """
    if not can_serve(raw, z, net.frequencies):
        return None
    n, settings = len(raw), constants.settings
    others = ((incident_energy, torch.float64), (direction, torch.float32), (starts, torch.int64))
    if any(t.dtype != dtype or not t.is_cpu for t, dtype in others):
        return None
    if not all(t.is_contiguous() for t in (raw, z, incident_energy, direction, starts)):
        return None
    fits = raw.shape[1] == settings.totals + 2 * settings.layers and net.features == 4 and starts.shape == (n + 1,)
    rows = starts.numpy()
    if not fits or rows[0] < 0 or rows[-1] > len(z) or not constants.ready():
        return None
    packed, library = packed_points(net), native_library()
    if packed is None or library is None:
        return None
    points = torch.empty(max(int(rows[-1] - rows[0]), 0), 4)
    offsets, valid = torch.empty(n + 1, dtype=torch.int64), torch.empty(n, dtype=torch.bool)
    decode = getattr(library, f"caloforge_cloud_decode_{SUFFIXES[raw.dtype]}")
    made = decode(
        packed.handle, ctypes.addressof(settings), n, raw.data_ptr(), incident_energy.data_ptr(), direction.data_ptr(),
        z.data_ptr(), starts.data_ptr(), offsets.data_ptr(), points.data_ptr(), valid.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return None if made < 0 else (points[:made], offsets, valid)
