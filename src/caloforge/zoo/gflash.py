"""GFlash: parametrised electromagnetic showers (G. Grindhammer and S. Peters, hep-ex/0001020), for any calorimeter with a stack.

Longitudinal profiles are gamma distributions with fluctuating, correlated parameters, radial profiles two components; material
and sampling come from the detector's own stack, so nothing is trained. A photon converts into two electrons. Fitted to a file
of showers, the ten numbers of the longitudinal fluctuations, a scale of the radii, and the response are taken from it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

import numpy as np
import torch
from pydantic import Field
from torch import Tensor

from caloforge.conditions import ConditionRange, Conditions
from caloforge.detectors import Detector, particle_name
from caloforge.errors import UsageError
from caloforge.models import Difference, Latents, ModelConfig, ShowerModel
from caloforge.parts.cell_shares import CellShares
from caloforge.parts.electron_fit import ProfileFit
from caloforge.parts.electron_profile import LongitudinalFormula, RadialFormula, spot_number
from caloforge.parts.electron_showers import ElectronNumbers, ElectronShowers, electron_showers, seen_layers
from caloforge.parts.electron_spots import electron_spots
from caloforge.parts.gamma_numbers import log_gamma_numbers
from caloforge.parts.shower_steps import ShowerSteps
from caloforge.random import Streams
from caloforge.representation import LayerSums
from caloforge.stage import Stage, TrainingConfig
from caloforge.units import GeV
from caloforge.validation import Size

__all__ = ["GFlash", "GFlashConfig"]

#: Mean depth at which photons convert, radiation lengths.
_CONVERSION = 9.0 / 7.0
#: Showers whose cells are made together.
_PIECE = 100


class GFlashConfig(ModelConfig):
    """Configuration of GFlash.

    Attributes:
        fluctuations: of cells. ``spots``, as published: spots of equal energy at random places. ``cells``: every cell gets its
        share of the profile, and fluctuates by itself. Showers at an angle, and points, always come in spots.
        core_quantum, tail_quantum: ``cells``: the variance of the energy in a cell over its mean, in critical energies, for
        the core and the tail of the radial profile.
        spots: most spots of a shower; their number follows the publication up to there.
        points: whether to give spots as points where the readout has cells.
        stochastic: c of the resolution c / sqrt(E/GeV) where active plates alone are read out; None estimates it from the stack.
    """

    fluctuations: Literal["spots", "cells"] = "cells"
    core_quantum: Annotated[float, Field(gt=0)] = 8.0
    tail_quantum: Annotated[float, Field(gt=0)] = 0.5
    spots: Size = 20_000
    points: bool = False
    stochastic: Annotated[float, Field(ge=0)] | None = None


class GFlash(ShowerModel):
    """Electrons, positrons and photons.

    Args:
        config: how cells fluctuate.
        detector: a calorimeter with a stack, read out as voxels or points.

    Raises:
        ConfigError: if it has none, or consists of what is not known here.
    """

    kind = "gflash"
    Config = GFlashConfig
    needs_training: ClassVar[bool] = False
    differences = (
        Difference(
            "cells",
            "spots of equal energy",
            "their shares of the profile, each with fluctuations of its own",
            "spots fluctuate a quarter as much as the core of a Geant4 shower; and faster",
            "fluctuations",
            ("spots", "cells"),
        ),
        Difference("photons", "none", "conversion after 9/7 X0 on average, then two electrons", "as good as electrons"),
        Difference(
            "formulas where every deposit counts",
            "sampling ones for sampling calorimeters",
            "homogeneous ones, with effective material",
            "sampling ones are for the visible energy",
        ),
        Difference(
            "uneven absorbers",
            "one pitch",
            "every active plate stands for its own depths",
            "of most calorimeters today",
        ),
    )
    config: GFlashConfig

    def __init__(self, config: GFlashConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        readout = detector.readout
        self.steps = ShowerSteps(detector, self.kind)
        matter, seen = self.steps.matter, self.steps.seen
        self.radial = RadialFormula(matter.z, seen)
        stochastic = 0.0 if seen is None else seen.stochastic
        if config.stochastic is not None:
            stochastic = config.stochastic
        self.numbers = ElectronNumbers(LongitudinalFormula.of(matter.z, seen).numbers(), stochastic, readout.n_layers)
        self.least = detector.readout_threshold / (detector.sampling_fraction or 1.0)
        if readout.has_voxels and not config.points:
            self.sums = LayerSums(readout.layer_sizes)
            self.cells = CellShares(readout, matter.moliere_radius)
        else:
            self.shower_kind = "points"

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """One fit."""
        return [ProfileFit(self)]

    def untrained_range(self, particle: int) -> ConditionRange:
        """Electrons, positrons and photons of 1 GeV to 10 TeV, at most 78 degrees off the axis.

        Raises:
            UsageError: if the particle is another one.
        """
        self._check_particle(particle)
        return ConditionRange(
            particle=particle, incident_energy=(1 * GeV, 1e4 * GeV), direction=((-1.0, -1.0, 0.2), (1.0, 1.0, 1.0))
        )

    def _check_particle(self, particle: int) -> None:
        if particle not in (11, -11, 22):
            known = "electrons, positrons and photons"
            raise UsageError(f"the model '{self.kind}' makes {known}, not {particle_name(particle)}")

    # ---- random numbers -------------------------------------------------------------------------------------------

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Draw all numbers of some showers.

        They are ``shape`` (N, 5) and ``pair`` (N, 2) of each shower, its ``layers`` and ``sampling`` (N, L), and for cells
        ``cells`` and ``chance`` (N, V), or for spots ``spots`` (M, 3), which begin at ``starts`` (N + 1,).

        Raises:
            UsageError: if the particle is neither an electron, nor a positron, nor a photon.
        """
        self._check_particle(conditions.particle)
        index, counters, layers = conditions.index, conditions.attempt, self.detector.readout.n_layers
        # Share of photons that convert earlier, and that of the first electron: an electron starts at once, and alone.
        pair = streams.child("pair").uniform(index, 2, counters)
        if conditions.particle != 22:
            pair[:] = (0.0, 1.0)
        found = {
            "shape": streams.child("shape").normal(index, 5, counters),
            "pair": pair,
            "layers": streams.child("layers").normal(index, layers, counters),
            "sampling": streams.child("sampling").uniform(index, layers, counters),
        }
        if self.config.fluctuations == "cells" and self.shower_kind == "voxels" and conditions.direction is None:
            voxels = self.detector.readout.n_voxels
            found["cells"] = streams.child("cells").normal(index, voxels, counters)
            found["chance"] = streams.child("chance").uniform(index, voxels, counters)
        else:
            wanted = spot_number(
                torch.from_numpy(conditions.incident_energy / GeV), self.radial.matter_z, self.radial.sampling
            )
            counts = np.clip(np.rint(wanted.numpy()), 1, self.config.spots).astype(np.int64)
            found["starts"] = np.concatenate([[0], np.cumsum(counts)])
            found["spots"] = streams.child("spots").ragged_uniform(index, 3 * counts, counters).reshape(-1, 3)
        return {name: torch.from_numpy(values) for name, values in found.items()}

    # ---- showers --------------------------------------------------------------------------------------------------

    def electrons(self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]) -> ElectronShowers:
        """The electrons of each shower in every step, before sampling; radii in Moliere radii."""
        pair = latents["pair"]
        begin = torch.stack([-_CONVERSION * torch.log1p(-pair[:, 0]), pair[:, 1]], dim=1)
        return electron_showers(
            self.steps, self.numbers.longitudinal, self.radial, conditions, latents["shape"], begin,
            with_spots="spots" in latents,
        )  # fmt: skip

    def layer_energies(self, found: ElectronShowers, incident: Tensor, latents: Mapping[str, Tensor]) -> Tensor:
        """Energy that the files hold of each layer, float64 (N, L), MeV."""
        layers = self.detector.readout.n_layers
        return seen_layers(found, self.steps, layers, self.numbers.response, incident, latents)

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Voxels or points; every shower is valid."""
        incident = conditions["incident_energy"]
        valid = torch.ones_like(incident, dtype=torch.bool)
        if "cells" in latents:
            # In pieces, which stay in the caches of a processor.
            pieces = []
            for start in range(0, len(incident), _PIECE):
                rows = slice(start, start + _PIECE)
                pieces.append(
                    self._cells({k: v[rows] for k, v in conditions.items()}, {k: v[rows] for k, v in latents.items()})
                )
            return {"deposits": torch.cat(pieces)}, valid
        found = self.electrons(conditions, latents)
        layers = self.layer_energies(found, incident, latents)
        spots = electron_spots(found, self.steps, self.numbers, layers, conditions["direction"].double(), latents)
        if self.shower_kind == "points":
            offsets, points = spots.points(self.least)
            return {"offsets": offsets, "points": points}, valid
        deposits = spots.voxels(self.detector.readout)
        return {"deposits": torch.where(deposits < self.least, 0.0, deposits).float()}, valid

    def _cells(self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]) -> Tensor:
        """Every cell gets its share of the profile, and fluctuates; float32 (N, V), MeV."""
        found = self.electrons(conditions, latents)
        layers = self.layer_energies(found, conditions["incident_energy"], latents)
        lost = found.deposited * self.steps.weight
        place = self.steps.layer.repeat(2)
        core, tail = (
            self.cells(place, (radius * self.numbers.radius).flatten(1), (lost * share).flatten(1))
            for radius, share in ((found.core, found.share), (found.tail, 1 - found.share))
        )
        mean = core + tail
        # Energy comes in portions, in the core of the shower in larger ones; so many of them make the variance right.
        unit = self.steps.matter.critical_energy * self.steps.weight.mean()
        sizes = unit * self.numbers.quanta * torch.tensor([[self.config.core_quantum], [self.config.tail_quantum]])
        of_core, of_tail = self.sums.spread(sizes.to(mean))
        portions = (of_core * core + of_tail * tail) / mean.clamp_min(1e-30)
        shape = (mean / portions.clamp_min(1e-30)).clamp_min(1e-6)
        logs = log_gamma_numbers(shape, latents["cells"].double(), latents["chance"]) + portions.clamp_min(1e-30).log()
        # The cells of a layer share what the layer has within them; in logarithms, since faint cells may be very faint.
        brightest = torch.cat([block.amax(dim=-1) for block in self.sums.blocks(logs)], dim=1)
        deposits = (logs - self.sums.spread(brightest)).exp()
        expected = torch.zeros_like(layers).scatter_add_(1, self.steps.layer.expand(len(lost), -1), lost.sum(dim=1))
        inside = self.sums(mean) / expected.clamp_min(1e-300)
        deposits = deposits * self.sums.spread(layers * inside / self.sums(deposits))
        return torch.where(deposits < self.least, 0.0, deposits).float()

    def describe_representation(self) -> dict[str, Any]:
        """The effective material, and the numbers of the formulas."""
        matter, sampling = self.steps.matter, self.steps.sampling
        return {
            "radiation_length_mm": round(matter.radiation_length_mm, 3),
            "critical_energy_MeV": round(matter.critical_energy, 3),
            "moliere_radius_mm": round(matter.moliere_radius, 2),
            "atomic_number": round(matter.z, 2),
            "formulas": "homogeneous" if self.steps.seen is None else "sampling",
            "visible": 1.0 if self.steps.seen is None else round(sampling.visible, 5),
            "longitudinal": self.numbers.longitudinal.tolist(),
            "radius": float(self.numbers.radius),
            "quanta": self.numbers.quanta.tolist(),
            "response": self.numbers.response.tolist(),
        }
