"""All that follows the flow of CaloClouds: from what it says about the layers to the points of the showers, without gradients.

Step by step, these are some hundred small calls of PyTorch, which for a single shower take longer than their arithmetic;
the compiled kernel does them in one. Everything but the network is done in float64, for each shower on its own.

With nothing but its plain core, what the flow gives is scaled, counts and energies of the layers follow, and a one-step
network makes the points, which are dealt out to the layers. Every other constant is a correction: one that is missing
costs nothing.
"""

from __future__ import annotations

import ctypes
from collections.abc import Mapping
from dataclasses import astuple, dataclass, fields
from typing import Any

import torch
from torch import Tensor

from caloforge.errors import GenerationError
from caloforge.kernels.ops.allocation import allocate_plainly
from caloforge.kernels.ops.pointwise import _plain_generate
from caloforge.kernels.ops.registry import SUFFIXES, check_status, operator

__all__ = ["CLOUD_ARRAYS", "CloudSettings", "cloud_constants", "decode_clouds"]


@dataclass(frozen=True)
class CloudSettings:
    """Settings of a model of point clouds.

    Attributes:
        incident: unit of the incident energies, MeV: the highest one in training.
        points_unit: twice the number of points over this, less 1, is what the point network sees of it (with ``totals``).
        room: a shower may have so many times the points of ``most_points``.
        least_factor: least factor that ``polynomials`` may give.
        least_variance: variances of the flow's outputs are at least so large.
        least_total_variance: likewise those of the totals.
        most_total: totals change by this factor at most.
        half_box: half the width of the box, mm.
        level: noise level as the point network sees it.
        scale: factor on the random numbers in front of the network.
        skip: factor on them in the sample.
        out: factor on the network's output in the sample.
        core: scale of places with ``asinh``, mm.
        least_energy: least energy of a point with ``linear_energy``, MeV.
        layers: number of layers L.
        totals: how many numbers the flow gives in front of those of the layers: 0, or 5 as in CaloClouds2.
        roots: whether the flow gives square roots.
        asinh: whether places are normalised by ``asinh``.
        linear_energy: whether energies of points are normalised without a logarithm.
        max_negative: a shower with more negative energies of layers than this is not valid.
        told_calibrated: whether the point network is told the number of points after the calibration (with ``totals``).
    """

    incident: float
    points_unit: float
    room: float
    least_factor: float
    least_variance: float
    least_total_variance: float
    most_total: float
    half_box: float
    level: float
    scale: float
    skip: float
    out: float
    core: float
    least_energy: float
    layers: int
    totals: int
    roots: bool
    asinh: bool
    linear_energy: bool
    max_negative: int
    told_calibrated: bool = False


#: Constants in the order of point_cloud.hpp, all of which may be missing. With F numbers from the flow and b the seven
#: functions of the condition 1, e, log e, x, y, 1 / z, e / z (e the incident energy over its unit; x, y, z the direction):
#: - ``mean`` and ``std`` of the flow's outputs (F,); ``point_mean`` and ``point_scale`` of the features of points (4,);
#:   ``depths`` of the layers (L,), mm, along which points are moved back from the shower axis.
#: Corrections:
#: - ``most_points`` (2,): constant and slope (per MeV) of the largest number of points; ``trend`` (7, F): b times it is added
#:   to the mean; ``variance`` (2, F): its root at (1, e) multiplies the standard deviation.
#: - A map of the flow's outputs: ``made_mean`` and ``real_mean`` (7, F), ``made_variance`` and ``real_variance`` (2, F),
#:   ``spread`` (F, F), or none. One of the totals of points and energy: ``total_scale`` (2,), ``made_total`` and
#:   ``real_total`` (7, 2), ``made_total_variance`` and ``real_total_variance`` (2, 2).
#: - Factors ``layer_points`` and ``layer_energy`` (L,), and the calibration: ``energy`` (1,) on all energies, ``occupancy``
#:   (L,) on points of the layers, or ``polynomials`` (2, 4) of the number of points, highest power first, whose factor is at
#:   most the largest of ``occupancy``.
CLOUD_ARRAYS = (
    "mean", "std", "point_mean", "point_scale", "depths", "most_points", "trend", "variance",
    "made_mean", "real_mean", "made_variance", "real_variance", "spread",
    "total_scale", "made_total", "real_total", "made_total_variance", "real_total_variance",
    "layer_points", "layer_energy", "energy", "occupancy", "polynomials",
)  # fmt: skip
_MOMENTS = ("made_mean", "real_mean", "made_variance", "real_variance")
_TOTALS = ("total_scale", "made_total", "real_total", "made_total_variance", "real_total_variance")


def cloud_constants(settings: CloudSettings, arrays: Mapping[str, Tensor | None]) -> Tensor:
    """Settings and constants of a model as one row of numbers, float64, in CPU memory.

    Args:
        settings: the settings.
        arrays: constants by the names in ``CLOUD_ARRAYS``; a correction that is missing or None is not made.

    Raises:
        ValueError: if a name is not known, a size is wrong, or a correction is there in part.
    """
    given = {name: value.detach().double().cpu().reshape(-1) for name, value in arrays.items() if value is not None}
    layers, flow = settings.layers, settings.totals + 2 * settings.layers
    sizes = dict.fromkeys(CLOUD_ARRAYS, flow) | {
        "point_mean": 4, "point_scale": 4, "depths": layers, "most_points": 2, "trend": 7 * flow, "variance": 2 * flow,
        "made_mean": 7 * flow, "real_mean": 7 * flow, "made_variance": 2 * flow, "real_variance": 2 * flow,
        "spread": flow * flow, "total_scale": 2, "made_total": 14, "real_total": 14, "made_total_variance": 4,
        "real_total_variance": 4, "layer_points": layers, "layer_energy": layers, "energy": 1, "occupancy": layers,
        "polynomials": 8,
    }  # fmt: skip
    for name in arrays:
        if name not in sizes:
            raise ValueError(f"'{name}' is no constant of point clouds")
    for name, value in given.items():
        if len(value) != sizes[name]:
            raise ValueError(f"the constant '{name}' has {len(value)} numbers, not {sizes[name]}")
    for group in (_MOMENTS, _TOTALS):
        if 0 < sum(name in given for name in group) < len(group):
            raise ValueError(f"of {', '.join(group)} all are needed, or none")
    if ("spread" in given and "made_mean" not in given) or ("polynomials" in given and "occupancy" not in given):
        raise ValueError("'spread' needs the means and variances, 'polynomials' needs 'occupancy'")
    place, places = len(fields(settings)) + len(CLOUD_ARRAYS), []
    for name in CLOUD_ARRAYS:
        places.append(place if name in given else 0)
        place += sizes[name] if name in given else 0
    head = torch.tensor([*(float(value) for value in astuple(settings)), *places], dtype=torch.float64)
    return torch.cat([head, *(given[name] for name in CLOUD_ARRAYS if name in given)])


def decode_clouds(
    packed: Tensor,
    plan: Tensor,
    constants: Tensor,
    raw: Tensor,
    incident_energy: Tensor,
    direction: Tensor,
    z: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    """Showers from what the flow gave; nothing may require gradients.

    Args:
        packed: weights of the one-step point network, from ``pack_pointwise``.
        plan: of the network.
        constants: from :func:`cloud_constants`.
        raw: of the flow, (N, F), before any correction, of the weights' type.
        incident_energy: (N,), MeV.
        direction: unit vectors (N, 3).
        z: standard normal numbers, (K, 4), of the weights' type; each shower takes the first rows of its own.
        starts: where those of each shower start, int64 (N + 1,).

    Returns:
        Points float32 (M, 4), layer by layer in every shower, offsets int64 (N + 1,) and whether each shower is valid, bool (N,).

    Raises:
        GenerationError: if a shower needs more random numbers than it has.
        ValueError: if shapes do not fit each other.
    """
    n = len(raw)
    shapes = incident_energy.shape, direction.shape, starts.shape
    if shapes != ((n,), (n, 3), (n + 1,)) or raw.ndim != 2 or z.ndim != 2 or z.shape[1] != 4:
        raise _misfit()
    points, offsets, valid = _decode(
        packed, plan, constants, raw, incident_energy.double(), direction.float(), z, starts
    )
    return points, offsets, valid


def _misfit() -> ValueError:
    return ValueError("the flow's outputs, conditions and random numbers do not fit each other or the constants")


def _too_few() -> GenerationError:
    return GenerationError("a shower needs more random numbers than were drawn for it; the calibration is broken")


# ---- plain PyTorch --------------------------------------------------------------------------------------------------


class _Constants:
    """Settings and arrays of a row of numbers; an array that is missing is None."""

    def __init__(self, row: Tensor) -> None:
        numbers = [field.name for field in fields(CloudSettings)]
        head = row[: len(numbers) + len(CLOUD_ARRAYS)].tolist()
        values = {name: type_(value) for name, type_, value in zip(numbers, _types(), head, strict=False)}
        self.settings = CloudSettings(**values)
        starts = {name: int(start) for name, start in zip(CLOUD_ARRAYS, head[len(numbers) :], strict=True)}
        self._arrays: dict[str, Tensor] = {}
        ends = sorted([*(start for start in starts.values() if start), len(row)])
        for name, start in starts.items():
            if start:
                self._arrays[name] = row[start : ends[ends.index(start) + 1]]

    def array(self, name: str, *shape: int) -> Tensor | None:
        value = self._arrays.get(name)
        return None if value is None else value.view(*shape)

    def one(self, name: str, *shape: int) -> Tensor:
        return self._arrays[name].view(*shape)

    def __contains__(self, name: str) -> bool:
        return name in self._arrays


def _types() -> list[type]:
    return [{"float": float, "int": int, "bool": bool}[str(field.type)] for field in fields(CloudSettings)]


def _plain_decode(
    packed: Tensor,
    plan: Tensor,
    constants: Tensor,
    raw: Tensor,
    incident_energy: Tensor,
    direction: Tensor,
    z: Tensor,
    starts: Tensor,
) -> tuple[Tensor, Tensor, Tensor]:
    c, device = _Constants(constants), raw.device
    s = c.settings
    if raw.shape[1] != s.totals + 2 * s.layers or starts[0] < 0 or starts[-1] > len(z):
        raise _misfit()
    counts, energies, gravity, valid = _layers(c, raw, incident_energy, direction)
    total = counts.sum(dim=1)
    relative = incident_energy / s.incident
    layer_points = _calibrated(c, counts, total)
    if s.totals:
        told = layer_points.sum(dim=1) if s.told_calibrated else total
        context = torch.stack([2 * relative - 1, 2 * (told / s.points_unit) - 1], dim=1)
    else:
        context = torch.cat([relative[:, None], direction.double()], dim=1)
    if not bool((layer_points.sum(dim=1) <= starts.diff()).all()):
        raise _too_few()
    layer_points = layer_points.long()
    offsets = torch.nn.functional.pad(layer_points.sum(dim=1).cumsum(0), (1, 0))
    scales = (s.scale, s.skip, s.out)
    features = _plain_generate(packed, plan, z, starts, offsets, s.level, context.to(raw.dtype), *scales)
    place, depth, energy = _restored_points(c, features)
    shift = torch.zeros(len(raw), s.layers, 2, dtype=torch.float64, device=device)
    if "depths" in c:
        slopes = direction[:, None, :2].double() / direction[:, None, 2:].double()
        shift = (c.one("depths", -1).to(device)[:, None] * slopes).float()
    return (
        allocate_plainly(layer_points, energies, place, depth, energy, gravity if s.totals else None, shift),
        offsets,
        valid,
    )


def _layers(
    c: _Constants, raw: Tensor, incident_energy: Tensor, direction: Tensor
) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Points and energies of the layers (N, L) before the calibration, centres of gravity (N, 2), whether showers are valid."""
    s = c.settings
    e = incident_energy / s.incident
    x, y, slant = direction[:, 0].double(), direction[:, 1].double(), 1 / direction[:, 2].double()
    basis = torch.stack([torch.ones_like(e), e, torch.log(e), x, y, slant, e * slant], dim=1)
    features = _restored_outputs(c, raw, basis)
    finite = torch.isfinite(features).all(dim=1)
    per_layer = features[:, s.totals :]
    valid = finite & ((per_layer[:, s.layers :] < 0).sum(dim=1) <= s.max_negative)
    per_layer = per_layer.clamp_min(0)
    per_layer = per_layer.square() if s.roots else per_layer
    counts, energies = per_layer[:, : s.layers], per_layer[:, s.layers :]
    if s.totals:
        # Shares of the layers. The noise of half a point per layer is taken off again by rounding down.
        whole, visible = features[:, 0].clamp_min(0) + s.layers / 2, features[:, 1].clamp_min(0)
        counts = whole[:, None] * counts / counts.sum(dim=1, keepdim=True).clamp_min(1e-300)
        energies = visible[:, None] * energies / energies.sum(dim=1, keepdim=True).clamp_min(1e-300)
        valid = valid & (features[:, 0] >= 1) & (features[:, 1] > 0)
    counts = torch.floor(counts)
    of_points = of_energy = torch.ones(len(raw), 1, dtype=torch.float64, device=raw.device)
    if "total_scale" in c:
        sums = torch.stack([counts.sum(dim=1), energies.sum(dim=1)], dim=1) / incident_energy[:, None]
        of_points, of_energy = _total_factors(c, sums, basis).T[..., None]
    if "total_scale" in c or "layer_points" in c:
        factors = c.array("layer_points", -1)
        counts = torch.floor(counts * of_points * (1 if factors is None else factors) + 0.5)
    if (factors := c.array("layer_energy", -1)) is not None:
        of_energy = of_energy * factors
    energies = energies * of_energy
    if (most := c.array("most_points", -1)) is not None:
        valid = valid & (counts.sum(dim=1) <= torch.ceil(s.room * (most[0] + most[1] * incident_energy)))
    kept = valid[:, None] & (counts > 0) & (energies > 0)
    zero = torch.zeros_like(counts)
    if (factor := c.array("energy", -1)) is not None:
        energies = energies * factor
    gravity = features[:, 2:4] if s.totals else zero[:, :1].expand(-1, 2)
    gravity = torch.where(valid[:, None], gravity, torch.zeros_like(gravity))
    return torch.where(kept, counts, zero), torch.where(kept, energies, zero), gravity, valid


def _restored_outputs(c: _Constants, raw: Tensor, basis: Tensor) -> Tensor:
    """What the flow's outputs mean, float64 (N, F)."""
    least, outputs = c.settings.least_variance, raw.double()

    def variance(name: str) -> Tensor:
        return (basis[:, :2] @ c.one(name, 2, -1)).clamp_min(least)

    if "made_mean" in c:
        gain = torch.sqrt(variance("real_variance") / variance("made_variance"))
        outputs = (outputs - basis @ c.one("made_mean", 7, -1)) * gain
        if "spread" in c:
            outputs = outputs @ c.one("spread", outputs.shape[1], -1).T
        outputs = (basis @ c.one("real_mean", 7, -1) + outputs).to(raw.dtype).double()
    if (std := c.array("std", -1)) is not None:
        outputs = outputs * std
    if "variance" in c:
        outputs = outputs * torch.sqrt(variance("variance"))
    if (mean := c.array("mean", -1)) is not None:
        outputs = mean + outputs
    if (trend := c.array("trend", 7, -1)) is not None:
        outputs = basis @ trend + outputs
    return outputs


def _total_factors(c: _Constants, totals: Tensor, basis: Tensor) -> Tensor:
    """By what to multiply points and energies of the layers, (N, 2), whose sums over the incident energy are ``totals``."""
    s = c.settings
    relative = totals / c.one("total_scale", -1)
    terms = torch.stack([torch.ones_like(basis[:, 1]), 1 / basis[:, 1]], dim=1)
    real, sample = (
        (terms @ c.one(name, 2, 2)).clamp_min(s.least_total_variance)
        for name in ("real_total_variance", "made_total_variance")
    )
    rest = relative - basis @ c.one("made_total", 7, 2)
    wanted = basis @ c.one("real_total", 7, 2) + rest * torch.sqrt(real / sample)
    return (wanted / relative.clamp_min(1e-300)).clamp(1 / s.most_total, s.most_total)


def _calibrated(c: _Constants, counts: Tensor, total: Tensor) -> Tensor:
    """Points after the calibration, whole numbers (N, L), at least one where the flow wants one."""
    factor: Tensor | float = 1.0
    if (cubics := c.array("polynomials", 2, 4)) is not None:
        wanted = total
        for p in cubics:
            wanted = ((p[0] * wanted + p[1]) * wanted + p[2]) * wanted + p[3]
        least = torch.full_like(wanted, c.settings.least_factor)
        found = torch.maximum(wanted / total.clamp_min(1), least)
        factor = torch.minimum(found, c.one("occupancy", -1).max())[:, None]
    elif (factors := c.array("occupancy", -1)) is not None:
        factor = factors
    wanted = torch.floor(counts * factor + 0.5).clamp_min(1)
    return torch.where(counts > 0, wanted, torch.zeros_like(wanted))


def _restored_points(c: _Constants, features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Places (M, 2), mm, depths (M,), layers, and energies (M,), MeV, of normalised features (M, 4)."""
    s = c.settings
    scale, mean = c.array("point_scale", -1), c.array("point_mean", -1)
    features = features if scale is None else features * scale
    features = features if mean is None else mean + features
    place, depth, last = features[:, :2], features[:, 2], features[:, 3]
    if s.asinh:
        place = s.core * torch.sinh(place.clamp(-20.0, 20.0))
    # Reflected at the edges of the box as often as it takes.
    way = torch.remainder(place + s.half_box, 4 * s.half_box)
    folded = torch.where(way > 2 * s.half_box, 3 * s.half_box - way, way - s.half_box)
    place = torch.where(place.abs() > s.half_box, folded, place)
    energy = last.clamp_min(s.least_energy) if s.linear_energy else torch.exp(last.clamp(-30.0, 30.0))
    return place, depth, energy


# ---- compiled -------------------------------------------------------------------------------------------------------


def _compiled_decode(
    library: ctypes.CDLL,
    packed: Tensor,
    plan: Tensor,
    constants: Tensor,
    raw: Tensor,
    incident_energy: Tensor,
    direction: Tensor,
    z: Tensor,
    starts: Tensor,
) -> Any:
    if packed.dtype not in SUFFIXES:
        return NotImplemented
    raw, z = raw.to(packed.dtype).contiguous(), z.to(packed.dtype).contiguous()
    incident_energy, direction, starts = (t.contiguous() for t in (incident_energy, direction, starts))
    n, rows = len(raw), starts.numpy()
    if rows[0] < 0 or rows[-1] > len(z):
        raise _misfit()
    points = torch.empty(max(int(rows[-1] - rows[0]), 0), 4)
    offsets, valid = torch.empty(n + 1, dtype=torch.int64), torch.empty(n, dtype=torch.bool)
    count = getattr(library, f"caloforge_clouds_decode_{SUFFIXES[packed.dtype]}")(
        plan.data_ptr(), packed.numel(), packed.data_ptr(), constants.data_ptr(), n, raw.shape[1], raw.data_ptr(),
        incident_energy.data_ptr(), direction.data_ptr(), z.data_ptr(), starts.data_ptr(), offsets.data_ptr(),
        points.data_ptr(), valid.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    check_status(count)
    if count < 0:
        raise _too_few() if count == -1 else _misfit()
    return points[:count], offsets, valid


_decode = operator(
    "clouds_decode(Tensor packed, Tensor plan, Tensor constants, Tensor raw, Tensor incident_energy, Tensor direction, "
    "Tensor z, Tensor starts) -> (Tensor, Tensor, Tensor)",
    _plain_decode,
    _compiled_decode,
)
