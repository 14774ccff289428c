"""Base of the models of point clouds: layers from a flow, points from diffusion or its one-step distillation.

The flow says how many points each layer has and how much energy. A diffusion model, or its one-step distillation, makes that many
points, each on its own. They are sorted by depth and dealt out to the layers, whose energies they are scaled to; at last every
layer is moved back from the shower axis.
"""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from dataclasses import replace
from typing import Any, ClassVar, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caloforge.arguments import switch
from caloforge.conditions import Conditions
from caloforge.detectors import Detector
from caloforge.errors import ConfigError, UsageError
from caloforge.kernels.ops.allocation import allocate
from caloforge.kernels.ops.clouds import CloudSettings, cloud_constants, decode_clouds
from caloforge.kernels.ops.normals import ragged_normal
from caloforge.kernels.ops.pointwise import packed_index
from caloforge.kernels.ops.registry import eager
from caloforge.models import Latents, ShowerModel
from caloforge.nn.edm import Edm, heun_sample
from caloforge.nn.pointwise import PointWiseNet
from caloforge.nn.showerflow import BlockOrder, PackedFlow, ShowerFlow
from caloforge.nn.weights import weights_now
from caloforge.parts.occupancy import LEAST_FACTOR, CalibrationFactors
from caloforge.parts.point_settings import SAMPLERS, PointCloudConfig, Sampler
from caloforge.random import Streams
from caloforge.representation import ROOM, AxisShift, Cloud, CloudProfiles, PointNormalisation, Profiles, cloud_of
from caloforge.showers.projection import cell_pitch
from caloforge.stage import PointBatch, TrainingBatch

__all__ = ["LEAST_TOTAL_VARIANCE", "LEAST_VARIANCE", "MOST_TOTAL", "PointCloudModel"]

#: Variances of standardised outputs below this come from a straight line through few showers.
LEAST_VARIANCE = 0.1
#: Relative totals never vary less than this from shower to shower, a resolution of 1 %.
LEAST_TOTAL_VARIANCE = 1e-4
#: Half a box, mm, that no point is outside of.
_FAR = 1e300
#: A shower's total is changed by this factor at most, up or down.
MOST_TOTAL = 2.0


class _Ready(NamedTuple):
    """Packed weights of the flow and of the point network, and the constants, as operators take them."""

    flow: PackedFlow
    points: tuple[Tensor, Tensor]
    constants: Tensor


class PointCloudModel(ShowerModel):
    """A model of point clouds.

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
    #: Whether the point network is told how many points there are after the calibration, instead of before it.
    tells_calibrated: bool = False
    #: Of a class whose profiles the operator ``clouds_decode`` knows: how many numbers the flow gives in front of those of the
    #: layers. A class does not inherit it, since its profiles may be others.
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
        self.profiles = CloudProfiles(features)
        self.points = PointNormalisation(
            self.layers, config.box, config.positions, config.point_energy, config.outside_box
        )
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
        self.calibration = CalibrationFactors(self.layers, polynomial=config.occupancy == "polynomial")
        self._names: tuple[int, tuple[str, ...]] = (0, ())

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
        """Features of the profiles, float64 (N, F), of showers; uniform numbers (N, L) make counts continuous."""

    @abstractmethod
    def profiles_of(self, features: Tensor) -> Profiles:
        """Undo :meth:`profile_features`."""

    @abstractmethod
    def flow_condition(self, conditions: Mapping[str, Tensor]) -> Tensor:
        """Condition of the flow, (N, C)."""

    @abstractmethod
    def point_condition(self, conditions: Mapping[str, Tensor], counts: Tensor) -> Tensor:
        """Condition of the point network, (N, C); ``counts`` are the points of each layer, (N, L): see ``tells_calibrated``."""

    @property
    @abstractmethod
    def published_units(self) -> tuple[float, float]:
        """Incident energy, MeV, and number of points that the publication measures conditions by."""

    @property
    def points_unit(self) -> Tensor:
        """Number of points by which a condition is measured, float64 (1,)."""
        if self.config.condition_units == "published":
            return self.profiles.incident.new_tensor([self.published_units[1]])
        return self.profiles.point_limit(self.profiles.incident[None])

    def profile_units(self) -> Tensor | None:
        """Fixed units of the features of the profiles, (F,), whose means are left alone then; None takes those of the data."""
        return None

    # ---- training data --------------------------------------------------------------------------------------------

    def cloud(self, batch: TrainingBatch) -> Cloud:
        """A training batch as the model sees it.

        Raises:
            UsageError: if the data are no points.
        """
        if not isinstance(batch, PointBatch):
            raise UsageError(
                f"the model '{self.kind}' learns from points, the data hold voxels (simulate with {switch('points')})"
            )
        return cloud_of(batch, self.shift, self.config.box)

    # ---- generating -----------------------------------------------------------------------------------------------

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers: ``profile`` (N, F); ``points`` (K, 4), packed, and where each shower's start, ``starts``.

        How many points a shower has is known only to :meth:`decode_tensors`, so numbers are drawn for the most that are
        possible under its condition.
        """
        rooms, index, attempt = self.point_room(conditions.incident_energy), conditions.index, conditions.attempt
        features = np.full(len(conditions), self.flow.features)
        profile = ragged_normal(streams.child("profile"), index, features, attempt)
        points = ragged_normal(streams.child("points"), index, 4 * rooms, attempt)
        starts = np.zeros(len(rooms) + 1, dtype=np.int64)
        rooms.cumsum(out=starts[1:])
        return {
            "profile": torch.from_numpy(profile).reshape(-1, self.flow.features),
            "points": torch.from_numpy(points).reshape(-1, 4),
            "starts": torch.from_numpy(starts),
        }

    def point_room(self, incident_energy: NDArray[np.float64]) -> NDArray[np.int64]:
        """Most points that are made for a shower, (N,), after the calibration: what ``point_limit`` allows, and more.

        One more for each layer, since the calibration leaves no layer without points.
        """
        constant, slope = self.profiles.most_points.tolist()
        most = max(1.0, *self.calibration.occupancy.tolist()[SAMPLERS.index(self.config.sampler)])
        limit = np.ceil(ROOM * (constant + slope * incident_energy))
        rooms: NDArray[np.int64] = (limit * most + self.layers).astype(np.int64)
        return rooms

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Points (M, 4) and offsets (N + 1,); a shower whose counts or energies are unphysical is not valid, and empty."""
        normal = latents["profile"].to(self.dtype)
        ready = self._ready(len(normal)) if self._in_one_operator(normal) else None
        if ready is None:
            return self.decode_reference(conditions, self.flow_outputs(conditions, normal), latents)
        raw = self.flow.sample_packed(ready.flow, normal, self.flow_condition(conditions).to(normal.dtype))
        points, offsets, valid = decode_clouds(
            *ready.points, ready.constants, raw, conditions["incident_energy"], conditions["direction"],
            latents["points"].to(raw.dtype), latents["starts"],
        )  # fmt: skip
        return {"offsets": offsets, "points": points}, valid

    def decode_reference(
        self, conditions: Mapping[str, Tensor], raw: Tensor, latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As :meth:`decode_tensors`, from the flow's outputs (N, F), step by step."""
        profiles, sampler = self.profiles_from(raw, conditions), self.config.sampler
        counts = self.calibration.calibrated(profiles.counts, sampler)
        energies = profiles.energies * self.calibration.energy[SAMPLERS.index(sampler)]
        points, offsets = self.make_points(
            conditions, profiles, counts, energies, latents["points"], latents["starts"], sampler
        )
        return {"offsets": offsets, "points": points}, profiles.valid

    def _in_one_operator(self, numbers: Tensor) -> bool:
        """Whether operators make showers of such numbers, the flow's inputs or outputs; else it goes step by step."""
        known = self.config.sampler == "consistency" and "compiled_totals" in vars(type(self))
        frequencies = self.target.frequencies
        return (
            known and not torch.is_grad_enabled() and eager(numbers, frequencies) and numbers.dtype == frequencies.dtype
        )

    def _ready(self, showers: int) -> _Ready | None:
        """All that operators take besides the showers' own numbers; None if they do not know one of the aids.

        One look at all tensors together: for a single shower, a look at each part takes a tenth of the time of all the rest.
        """
        single = self.flow.single(showers)

        def make() -> _Ready | None:
            constants = self.operator_constants()
            return None if constants is None else _Ready(self.flow.pack(single=single), self.target.pack(), constants)

        modules = [
            self.flow,
            self.target,
            self.profiles,
            self.calibration,
            self.points,
            self.shift,
            *self.aids.values(),
        ]
        tensors, copies = weights_now(self, modules, self._buffer_names(modules))
        if not eager(tensors[0]):
            return None
        key = (single, self.config.sampler, self.config.max_negative)  # all else is settled for good
        ready: _Ready | None = copies.get(tensors, key, make)
        return ready

    def operator_constants(self) -> Tensor | None:
        """Settings and fitted constants as the operator takes them; None if it does not know one of the aids."""
        config = self.config
        number = SAMPLERS.index(config.sampler)
        profiles, found, points = self.profiles, self.calibration, self.points
        arrays = {
            "mean": profiles.mean, "std": profiles.std, "most_points": profiles.most_points,
            "point_mean": points.mean, "point_scale": points.scale, "depths": self.shift.depths,
            "energy": found.energy[number], "occupancy": found.occupancy[number],
            "polynomials": found.polynomials[number] if found.polynomial else None,
        }  # fmt: skip
        for helper in self.helpers():
            known = helper.constants()
            if known is None:
                return None
            arrays |= known
        level, (scale, skip, out) = self.edm.one_step
        half_box = _FAR if config.outside_box == "kept" else config.box / 2
        settings = CloudSettings(
            incident=float(profiles.incident), points_unit=float(self.points_unit),
            room=ROOM, least_factor=LEAST_FACTOR, least_variance=LEAST_VARIANCE,
            least_total_variance=LEAST_TOTAL_VARIANCE, most_total=MOST_TOTAL, half_box=half_box, level=level,
            scale=scale, skip=skip, out=out, core=float(points.core), least_energy=float(points.least_energy),
            layers=self.layers, totals=self.compiled_totals or 0, roots=config.profiles == "sqrt",
            asinh=config.positions == "asinh", linear_energy=config.point_energy == "linear",
            max_negative=config.max_negative, told_calibrated=self.tells_calibrated,
        )  # fmt: skip
        return cloud_constants(settings, arrays)

    def _buffer_names(self, modules: list[nn.Module]) -> tuple[str, ...]:
        """Names of all buffers of the parts; aids are given to a model after it is made."""
        if self._names[0] != len(modules):
            found = {name.rpartition(".")[2] for module in modules for name, _ in module.named_buffers()}
            self._names = len(modules), tuple(sorted(found))
        return self._names[1]

    def flow_outputs(self, conditions: Mapping[str, Tensor], normal: Tensor) -> Tensor:
        """What the flow makes of standard normal numbers, (N, F) both, before anything is scaled."""
        return self.flow.sample(normal.to(self.dtype), self.flow_condition(conditions).to(self.dtype))

    def profiles_from(self, raw: Tensor, conditions: Mapping[str, Tensor]) -> Profiles:
        """Profiles of the layers from outputs of the flow (N, F); those of showers that are not valid are zero."""
        features = self.profiles.decode(raw, conditions)
        profiles = self.profiles.corrected(self.profiles_of(features), conditions)
        total = profiles.counts.sum(dim=1)
        valid = profiles.valid & (total <= self.profiles.point_limit(conditions["incident_energy"]))
        valid = valid & torch.isfinite(features).all(dim=1)
        kept = valid[:, None] & (profiles.counts > 0) & (profiles.energies > 0)
        zero = torch.zeros_like(profiles.counts)
        gravity = profiles.gravity
        if gravity is not None:
            gravity = torch.where(valid[:, None], gravity, torch.zeros_like(gravity))
        return replace(
            profiles,
            counts=torch.where(kept, profiles.counts, zero),
            energies=torch.where(kept, profiles.energies, zero),
            gravity=gravity,
            valid=valid,
        )

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
        context = self._told(conditions, profiles, counts)
        features = self.sampled(normal, starts, offsets, context, sampler)
        return self._allocated(conditions, profiles, counts, energies, features), offsets

    def points_from(
        self, conditions: Mapping[str, Tensor], profiles: Profiles, counts: Tensor, energies: Tensor, normal: Tensor
    ) -> tuple[Tensor, Tensor]:
        """As :meth:`make_points` in one step, from exactly as many normal numbers (M, 4) as there are points.

        Nothing in it depends on sizes, so that it may be written down as a graph.
        """
        level, (scale, skip, out) = self.edm.one_step
        offsets = nn.functional.pad(counts.sum(dim=1).cumsum(0), (1, 0))
        context = self._told(conditions, profiles, counts)
        noise = context.new_full((context.shape[0],), level)
        made = self.target((normal * scale).to(context.dtype), noise, context, offsets)
        features = skip * normal.double() + out * made.double()
        return self._allocated(conditions, profiles, counts, energies, features), offsets

    def _told(self, conditions: Mapping[str, Tensor], profiles: Profiles, counts: Tensor) -> Tensor:
        """Condition of the point network, (N, C)."""
        told = counts.double() if self.tells_calibrated else profiles.counts
        return self.point_condition(conditions, told).to(self.dtype)

    def _allocated(
        self,
        conditions: Mapping[str, Tensor],
        profiles: Profiles,
        counts: Tensor,
        energies: Tensor,
        features: Tensor,
    ) -> Tensor:
        """Points (M, 4) from their normalised features (M, 4)."""
        place, depth, energy = self.points.restore(features)
        shift = self.shift.displacement(conditions["direction"])
        return allocate(counts, energies, place, depth, energy, profiles.gravity, shift)

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

    def describe_representation(self) -> dict[str, Any]:
        """How showers become numbers, in words and numbers."""
        profiles = {"transform": self.config.profiles, "noise": self.config.profile_noise}
        return {
            "shift": self.shift.describe(),
            "points": self.points.describe(),
            "profiles": profiles | self.profiles.describe(),
            "calibration": self.calibration.describe(),
        }
