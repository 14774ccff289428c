"""The toy model of ``tests/plugin_package``, and eight ways to break it that ``check_model`` must see."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from caloforge_toy.model import ToyExponential, Voxels
from torch import Tensor, nn

from caloforge.models import register
from caloforge.random import Streams
from caloforge.stage import Stage, TrainingBatch, TrainingConfig

Conditional = Mapping[str, Tensor]
Decoded = tuple[dict[str, Tensor], Tensor]

register("toy-exponential")(ToyExponential)


@register("depends-on-the-batch")
class DependsOnTheBatch(ToyExponential):
    """Showers are scaled by what else is in the batch."""

    def decode_tensors(self, conditions: Conditional, latents: Conditional) -> Decoded:
        made, valid = super().decode_tensors(conditions, latents)
        return {"deposits": made["deposits"] / made["deposits"].sum(dim=1).max() * 1e4}, valid


@register("gev-for-mev")
class GeVForMeV(ToyExponential):
    """Energies are a thousand times too small."""

    def decode_tensors(self, conditions: Conditional, latents: Conditional) -> Decoded:
        made, valid = super().decode_tensors(conditions, latents)
        return {"deposits": made["deposits"] / 1000}, valid


@register("not-a-number")
class NotANumber(ToyExponential):
    """One voxel of a faint shower is NaN."""

    def decode_tensors(self, conditions: Conditional, latents: Conditional) -> Decoded:
        made, valid = super().decode_tensors(conditions, latents)
        deposits = made["deposits"].clone()
        deposits[latents["uniform"] < 0.01] = torch.nan
        return {"deposits": deposits}, valid


@register("negative-energy")
class NegativeEnergy(ToyExponential):
    """A constant is taken away from every voxel."""

    def decode_tensors(self, conditions: Conditional, latents: Conditional) -> Decoded:
        made, valid = super().decode_tensors(conditions, latents)
        return {"deposits": made["deposits"] - 1.0}, valid


@register("lost-tensor")
class LostTensor(ToyExponential):
    """A fitted tensor belongs to no stage, so a training would not save it."""

    factor: Tensor

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.register_buffer("factor", torch.ones(()))


@register("other-after-loading")
class OtherAfterLoading(ToyExponential):
    """Something that the model was built with stands neither in its configuration nor in its state."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self.tilt = nn.Parameter(torch.zeros(())).detach() + torch.rand(())

    def decode_tensors(self, conditions: Conditional, latents: Conditional) -> Decoded:
        made, valid = super().decode_tensors(conditions, latents)
        return {"deposits": made["deposits"] * self.tilt}, valid


@register("wrong-jacobian")
class WrongJacobian(ToyExponential):
    """The scale of the last voxel is forgotten in the density, not in the showers."""

    def density(self, deposits: Tensor, incident_energy: Tensor) -> Tensor:
        return super().density(deposits, incident_energy) + self.means(incident_energy)[:, -1].log()


class _Noisy(Voxels):
    """Random numbers of a row are those of its place in the batch."""

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        noise = streams.uniform(torch.arange(len(batch)).numpy(), 1)
        weight = torch.from_numpy(noise)[:, 0].to(batch.deposits)  # type: ignore[attr-defined]
        return {"loss": -(weight * self.model.density(batch.deposits, batch.incident_energy)).mean()}  # type: ignore[attr-defined]


@register("other-with-two-processes")
class OtherWithTwoProcesses(ToyExponential):
    """Its loss depends on how a batch is split over processes."""

    def stages(self, training: TrainingConfig) -> list[Stage]:
        return [super().stages(training)[0], _Noisy(self, training)]


#: Each broken toy and the check that must see it.
BROKEN = {
    DependsOnTheBatch: "batches",
    GeVForMeV: "showers",
    NotANumber: "showers",
    NegativeEnergy: "showers",
    LostTensor: "states",
    OtherAfterLoading: "saving",
    WrongJacobian: "density",
    OtherWithTwoProcesses: "processes",
}
