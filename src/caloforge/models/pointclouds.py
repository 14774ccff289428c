"""What CaloClouds2 and CaloClouds3 share: points and energies of the layers from a flow, then the points from diffusion.

The flow says how many points each layer has and how much energy. A diffusion model, or its one-step distillation, makes
that many points, each on its own. They are sorted by depth and dealt out to the layers, whose energies they are scaled to;
at last every layer is moved back from the shower axis. docs/models/caloclouds.md gives the equations.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.errors import ConfigError, UsageError
from caloforge.kernels.ops.allocation import allocate
from caloforge.kernels.ops.clouds import CloudSettings, cloud_constants, decode_clouds
from caloforge.kernels.ops.normals import ragged_normal
from caloforge.kernels.ops.pointwise import packed_index
from caloforge.kernels.ops.registry import eager
from caloforge.models.base import Latents, ShowerModel
from caloforge.models.cloud_parts import (
    CORRECTIONS,
    LEAST_FACTOR,
    LEAST_TOTAL_VARIANCE,
    LEAST_VARIANCE,
    MOST_TOTAL,
    ROOM,
    SAMPLERS,
    CalibrationFactors,
    Cloud,
    FlowScales,
    LayerFactors,
    PointCloudConfig,
    Profiles,
    Sampler,
    layer_totals,
)
from caloforge.models.conditions import Conditions
from caloforge.nn.edm import Edm, heun_sample
from caloforge.nn.pointwise import PointWiseNet
from caloforge.nn.showerflow import BlockOrder, ShowerFlow
from caloforge.nn.weights import weights_now
from caloforge.random import Streams
from caloforge.showers.projection import cell_pitch
from caloforge.stage import TrainingBatch
from caloforge.transforms.clouds import AxisShift, PointNormalisation

__all__ = ["PointCloudModel", "conditions_of", "directions_of"]

#: Buffers of the fitted parts of a model.
_BUFFERS = (
    "incident", "mean", "std", "variance", "most_points", "points", "energy", "occupancy", "polynomials", "scale", "core",
    "least_energy", "depths", *CORRECTIONS,
)  # fmt: skip


class PointCloudModel(ShowerModel):
    """Base of the two models.

    Args:
        config: sizes and constants.
        detector: with depths of its layers, and with cells unless ``cell`` is configured.
        features: outputs of the flow.
        flow_context: length of the flow's condition.
        point_context: length of the point network's condition.
        order: of the flow's layers.

    Raises:
        ConfigError: if the detector does not suit.
    """

    config: PointCloudConfig
    shower_kind = "points"
    adjustable = frozenset({"sampler", "edm_steps", "max_negative"})
    #: Whether the flow says where the centre of gravity is, and showers are moved there.
    moves_gravity: ClassVar[bool]
    #: Of a class whose profiles the compiled kernel knows: how many numbers the flow gives in front of those of the layers. A
    #: class does not inherit it, since its profiles may be others.
    compiled_totals: ClassVar[int | None] = None

    def __init__(
        self,
        config: PointCloudConfig,
        detector: Detector,
        *,
        features: int,
        flow_context: int,
        point_context: int,
        order: BlockOrder,
    ) -> None:
        super().__init__(config, detector)
        self.layers = detector.readout.n_layers
        if config.cell is None:
            try:
                self.cell = cell_pitch(detector.readout)
            except UsageError as error:
                raise ConfigError(f"model.cell: {error}") from None
        else:
            self.cell = (config.cell, config.cell)
        self.edm = Edm(**config.edm.model_dump())
        self.shift = AxisShift(detector.readout)
        self.scales = FlowScales(features)
        self.points = PointNormalisation(self.layers, config.box, config.positions, config.point_energy)
        size = config.flow
        self.flow = ShowerFlow(
            features,
            flow_context,
            blocks=size.blocks,
            order=order,
            affine_hidden=size.affine_hidden,
            spline_hidden=size.spline_hidden,
            bins=size.bins,
            bound=size.bound,
        )
        self.diffusion = self._network(point_context)
        self.student = self._network(point_context)
        self.target = self._network(point_context).requires_grad_(False)
        self.layer_factors = LayerFactors(self.layers, features)
        self.calibration = CalibrationFactors(self.layers, polynomial=config.occupancy == "polynomial")

    def _network(self, context: int) -> PointWiseNet:
        config = self.config
        return PointWiseNet(config.widths, context, time_features=config.time_features, fourier_std=config.fourier_std)

    @property
    def dtype(self) -> torch.dtype:
        """Precision of the parameters; sampling asks for it often, and looking for the first parameter takes long."""
        return self.target.frequencies.dtype

    @property
    def device(self) -> torch.device:
        """Where the parameters are."""
        return self.target.frequencies.device

    # ---- what differs between the models --------------------------------------------------------------------------

    @abstractmethod
    def profile_features(self, cloud: Cloud, uniform: Tensor) -> Tensor:
        """Outputs of the flow before standardisation, float64 (N, F), of showers; uniform numbers (N, L) as noise."""

    @abstractmethod
    def profiles_of(self, features: Tensor) -> Profiles:
        """Undo :meth:`profile_features`."""

    @abstractmethod
    def flow_condition(self, conditions: Mapping[str, Tensor]) -> Tensor:
        """Condition of the flow, (N, C)."""

    @abstractmethod
    def point_condition(self, conditions: Mapping[str, Tensor], counts: Tensor) -> Tensor:
        """Condition of the point network, (N, C); ``counts`` are the points of each layer before calibration, (N, L)."""

    # ---- training data --------------------------------------------------------------------------------------------

    def cloud(self, batch: TrainingBatch) -> Cloud:
        """A training batch as the model sees it.

        Raises:
            UsageError: if the data are no points.
        """
        if batch.points is None or batch.offsets is None:
            raise UsageError(
                f"the model '{self.kind}' learns from points, the data hold voxels (simulate with --points)"
            )
        shower = packed_index(batch.offsets)
        layer = batch.points[:, 2].long()
        away = self.shift.displacement(directions_of(batch)).to(batch.points.dtype)[shower, layer]
        place = batch.points[:, :2] - away
        energy = batch.points[:, 3]
        inside = (place.abs() <= self.config.box / 2).all(dim=1) & (energy > 0)
        shower, layer, place, energy = shower[inside], layer[inside], place[inside], energy[inside]
        n, cells = len(batch), shower * self.layers + layer
        counts = torch.bincount(cells, minlength=n * self.layers).double().reshape(n, self.layers)
        energies = torch.bincount(cells, weights=energy.double(), minlength=n * self.layers).reshape(n, self.layers)
        offsets = torch.cat([batch.offsets.new_zeros(1), counts.sum(dim=1).long().cumsum(0)])
        return Cloud(offsets, shower, place, layer, energy, counts, energies)

    # ---- generating -----------------------------------------------------------------------------------------------

    def latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers: ``profile`` (N, F); ``points`` (K, 4), packed, and where each shower's start, ``starts``.

        How many points a shower has is known only to :meth:`decode_tensors`, so numbers are drawn for the most that are
        possible under its condition.
        """
        rooms, index, attempt = self.point_room(conditions.incident_energy), conditions.index, conditions.attempt
        features = np.full(len(conditions), self.flow.features)
        profile = ragged_normal(streams.child("profile"), index, features, attempt)
        points = ragged_normal(streams.child("points"), index, 4 * rooms, attempt)
        return {
            "profile": torch.from_numpy(profile).reshape(-1, self.flow.features),
            "points": torch.from_numpy(points).reshape(-1, 4),
            "starts": torch.from_numpy(np.concatenate([[0], np.cumsum(rooms)])),
        }

    def point_room(self, incident_energy: NDArray[np.float64]) -> NDArray[np.int64]:
        """Most points that are made for a shower, (N,), after the calibration: what ``FlowScales.point_limit`` allows, and more.

        One more for each layer, since the calibration leaves no layer without points.
        """
        constant, slope = self.scales.most_points.tolist()
        most = max(1.0, *self.calibration.occupancy.tolist()[SAMPLERS.index(self.config.sampler)])
        limit = np.ceil(ROOM * (constant + slope * incident_energy))
        rooms: NDArray[np.int64] = (limit * most + self.layers).astype(np.int64)
        return rooms

    def occupancy(self, counts: Tensor, sampler: Sampler) -> Tensor:
        """Factors of the calibration on numbers of points (N, L), as :meth:`calibrated` takes them."""
        return self.calibration.of_points(counts.sum(dim=1), sampler)

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Points (M, 4) and offsets (N + 1,); a shower whose counts or energies are unphysical is not valid, and empty."""
        raw = self.flow_outputs(conditions, latents["profile"])
        if not self._in_one_kernel(raw):
            return self.decode_reference(conditions, raw, latents)
        packed, plan = self.target.packed()
        points, offsets, valid = decode_clouds(
            packed, plan, self._kernel_constants(), raw, conditions["incident_energy"], conditions["direction"],
            latents["points"].to(raw.dtype), latents["starts"],
        )  # fmt: skip
        return {"offsets": offsets, "points": points}, valid

    def decode_reference(
        self, conditions: Mapping[str, Tensor], raw: Tensor, latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As :meth:`decode_tensors`, from the flow's outputs (N, F), step by step."""
        outputs = self.layer_factors.outputs(raw, self.scales.basis(conditions))
        profiles = self.restored_profiles(conditions, outputs)
        counts = self.calibrated(profiles, self.occupancy(profiles.counts, self.config.sampler))
        factor = self.calibration.energy[SAMPLERS.index(self.config.sampler)]
        points, offsets = self.make_points(
            conditions,
            profiles,
            counts,
            profiles.energies * factor,
            latents["points"],
            latents["starts"],
            self.config.sampler,
        )
        return {"offsets": offsets, "points": points}, profiles.valid

    def _in_one_kernel(self, raw: Tensor) -> bool:
        """Whether one operator does all that follows the flow's outputs ``raw``; else it goes step by step."""
        known = self.config.sampler == "consistency" and "compiled_totals" in vars(type(self))
        return known and not torch.is_grad_enabled() and eager(raw) and raw.dtype == self.target.frequencies.dtype

    def _kernel_constants(self) -> Tensor:
        """Settings and fitted constants as the operator takes them; from memory if nothing has changed since."""
        config = self.config
        scales, factors, found, points = self.scales, self.layer_factors, self.calibration, self.points

        def make() -> Tensor:
            number, (level, (scale, skip, out)) = SAMPLERS.index(config.sampler), self.edm.one_step
            settings = CloudSettings(
                incident=float(scales.incident), points_unit=float(scales.point_limit(scales.incident)), room=ROOM,
                least_factor=LEAST_FACTOR, least_variance=LEAST_VARIANCE, least_total_variance=LEAST_TOTAL_VARIANCE,
                most_total=MOST_TOTAL, half_box=config.box / 2, level=level, scale=scale, skip=skip, out=out,
                core=float(points.core), least_energy=float(points.least_energy), layers=self.layers,
                totals=self.compiled_totals or 0, roots=config.profiles == "sqrt", asinh=config.positions == "asinh",
                linear_energy=config.point_energy == "linear", max_negative=config.max_negative,
            )  # fmt: skip
            arrays = {
                "trend": scales.mean, "std": scales.std, "variance": scales.variance, "most_points": scales.most_points,
                "point_mean": points.mean, "point_scale": points.scale, "depths": self.shift.depths,
                "layer_points": factors.points, "layer_energy": factors.energy,
                "energy": found.energy[number], "occupancy": found.occupancy[number],
                "polynomials": found.polynomials[number] if found.polynomial else None,
            } | {name: getattr(factors, name) for name in CORRECTIONS}  # fmt: skip
            return cloud_constants(settings, arrays)

        tensors, copies = weights_now(self, [scales, factors, found, points, self.shift], _BUFFERS)
        key = (config.sampler, config.max_negative)  # all else is settled for good
        constants: Tensor = copies.get(tensors, key, make)
        return constants

    def flow_outputs(self, conditions: Mapping[str, Tensor], normal: Tensor) -> Tensor:
        """What the flow makes of standard normal numbers, (N, F) both, before anything is corrected or scaled."""
        return self.flow.sample(normal.to(self.dtype), self.flow_condition(conditions).to(self.dtype))

    def sample_profiles(self, conditions: Mapping[str, Tensor], normal: Tensor, *, corrected: bool = True) -> Profiles:
        """Profiles of the layers from the flow; those of showers that are not valid are zero.

        Args:
            conditions: of the showers.
            normal: standard normal numbers, (N, F).
            corrected: with what corrects totals and layers.
        """
        outputs = self.layer_factors.outputs(self.flow_outputs(conditions, normal), self.scales.basis(conditions))
        return self.restored_profiles(conditions, outputs, corrected=corrected)

    def restored_profiles(self, conditions: Mapping[str, Tensor], raw: Tensor, *, corrected: bool = True) -> Profiles:
        """As :meth:`sample_profiles`, from outputs of the flow (N, F) behind the map that corrects them."""
        features = self.scales.restored(raw, conditions)
        profiles = self.profiles_of(features)
        if corrected:
            factors = self.layer_factors
            sums = layer_totals(profiles.counts, profiles.energies)
            per_energy = sums / conditions["incident_energy"].double()[:, None]
            of_points, of_energy = factors.total_factors(per_energy, self.scales.basis(conditions)).T[..., None]
            profiles = replace(
                profiles,
                counts=torch.floor(profiles.counts * of_points * factors.points + 0.5),
                energies=profiles.energies * of_energy * factors.energy,
            )
        total = profiles.counts.sum(dim=1)
        valid = profiles.valid & (total <= self.scales.point_limit(conditions["incident_energy"]))
        valid = valid & torch.isfinite(features).all(dim=1)
        kept = valid[:, None] & (profiles.counts > 0) & (profiles.energies > 0)
        zero = torch.zeros_like(profiles.counts)
        gravity = profiles.gravity
        if gravity is not None:
            gravity = torch.where(valid[:, None], gravity, torch.zeros_like(gravity))
        return Profiles(
            torch.where(kept, profiles.counts, zero), torch.where(kept, profiles.energies, zero), gravity, valid
        )

    @staticmethod
    def calibrated(profiles: Profiles, factors: Tensor) -> Tensor:
        """Points to be made in each layer, int64 (N, L), from factors (L,) or (N, 1): at least one where the flow wants one."""
        wanted = torch.floor(profiles.counts * factors + 0.5).clamp_min(1)
        return torch.where(profiles.counts > 0, wanted, torch.zeros_like(wanted)).long()

    def make_points(
        self,
        conditions: Mapping[str, Tensor],
        profiles: Profiles,
        counts: Tensor,
        energies: Tensor,
        normal: Tensor,
        starts: Tensor,
        sampler: Sampler,
    ) -> tuple[Tensor, Tensor]:
        """The points of showers whose layers are known.

        Args:
            conditions: of the showers.
            profiles: what the flow said, for the condition of the points and their centre of gravity.
            counts: points to be made in each layer, int64 (N, L).
            energies: of each layer, (N, L), MeV.
            normal: standard normal numbers, (K, 4); each shower takes the first ones of its own.
            starts: where those of each shower start, int64 (N + 1,).
            sampler: which one.

        Returns:
            Points (M, 4), float32, layer by layer in every shower, and offsets, int64 (N + 1,).
        """
        offsets = nn.functional.pad(counts.sum(dim=1).cumsum(0), (1, 0))
        context = self.point_condition(conditions, profiles.counts).to(self.dtype)
        place, depth, energy = self.points.restore(self.sampled(normal, starts, offsets, context, sampler))
        shift = self.shift.displacement(conditions["direction"])
        return allocate(counts, energies, place, depth, energy, profiles.gravity, shift), offsets

    def sampled(self, normal: Tensor, starts: Tensor, offsets: Tensor, context: Tensor, sampler: Sampler) -> Tensor:
        """Normalised features of points, float64 (M, 4), from standard normal numbers.

        All but the network is done in float64, where sums are rounded alike whatever other showers there are.

        Args:
            normal: standard normal numbers, (K, 4); each shower takes the first ones of its own.
            starts: where those of each shower start, int64 (N + 1,).
            offsets: where the points of each shower start, int64 (N + 1,).
            context: condition of each shower, (N, C).
            sampler: which one.
        """
        if sampler == "consistency":
            level, scales = self.edm.one_step
            return self.target.generate(normal.to(context.dtype), starts, offsets, level, context, scales)
        shower = packed_index(offsets)
        number = torch.arange(len(shower), device=offsets.device) - offsets[shower]
        noise = normal.index_select(0, starts[shower] + number).double()

        def denoise(x: Tensor, sigma: Tensor) -> Tensor:
            return self.denoised(self.diffusion, x, sigma, context, offsets, shower)

        return heun_sample(self.edm, denoise, noise, len(context), shower, self.config.edm_steps)

    def denoised(
        self,
        network: PointWiseNet,
        x: Tensor,
        sigma: Tensor,
        context: Tensor,
        offsets: Tensor,
        shower: Tensor,
        *,
        consistent: bool = False,
    ) -> Tensor:
        """What a network makes of noisy points (M, 4), with the noise level (N,) and condition (N, C) of each shower.

        Args:
            network: the point network.
            x: noisy points, packed.
            sigma: noise levels.
            context: conditions.
            offsets: where the showers start, int64 (N + 1,).
            shower: number of the shower of each point, int64 (M,).
            consistent: with the scales of a consistency model.
        """
        skip, out = self.edm.consistency_scales(sigma) if consistent else self.edm.output_scales(sigma)
        scaled = x * self.edm.input_scale(sigma)[shower][:, None]
        dtype = context.dtype
        raw = network(scaled.to(dtype), torch.log(sigma).to(dtype) / 4, context, offsets)
        return torch.addcmul(skip[shower][:, None] * x, out[shower][:, None], raw)

    def transforms(self) -> dict[str, Any]:
        """The preprocessing in words and numbers."""
        scales, found = self.scales, self.calibration
        return {
            "shift": self.shift.describe(),
            "points": self.points.describe(),
            "profiles": {
                "transform": self.config.profiles,
                "mean": scales.mean.tolist(),
                "std": scales.std.tolist(),
                "variance": scales.variance.tolist(),
                "noise": self.config.profile_noise,
            },
            "layer_factors": {
                "points": self.layer_factors.points.tolist(),
                "energy": self.layer_factors.energy.tolist(),
            },
            "outside_the_box": {"points": float(scales.outside[0]), "energy": float(scales.outside[1])},
            "conditions": {"incident_energy_MeV": float(scales.incident)},
            "most_points": {"constant": float(scales.most_points[0]), "per_MeV": float(scales.most_points[1])},
            "calibration": {
                name: {
                    "occupancy": found.occupancy[k].tolist(),
                    "energy": float(found.energy[k]),
                    **({"polynomials": found.polynomials[k].tolist()} if found.polynomial else {}),
                }
                for k, name in enumerate(SAMPLERS)
            },
        }


def directions_of(batch: TrainingBatch) -> Tensor:
    """Flight directions of a batch, (N, 3), along +z if it names none."""
    if batch.direction is not None:
        return batch.direction
    direction = torch.zeros(len(batch), 3, device=batch.incident_energy.device)
    direction[:, 2] = 1
    return direction


def conditions_of(batch: TrainingBatch) -> dict[str, Tensor]:
    """Conditions of the showers of a batch, as the models want them."""
    return {"incident_energy": batch.incident_energy.double(), "direction": directions_of(batch)}
