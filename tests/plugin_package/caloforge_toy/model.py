"""A model in one file: the energy of every voxel follows an exponential distribution of its own."""

from collections.abc import Mapping

import numpy as np
import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.errors import UsageError
from caloforge.models import Conditions, Latents, ModelConfig, ShowerModel
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import (
    FitStage,
    GradientStage,
    Stage,
    TrainingBatch,
    TrainingConfig,
    TrainingData,
    VoxelBatch,
)


class ToyConfig(ModelConfig):
    """The ``model`` section of a preset.

    Attributes:
        share: of the incident energy that is deposited, before the fit to the data.
    """

    share: float = 0.5


class FittedShare(nn.Module):
    """A number that is fitted to the data; as a buffer it is saved with the model."""

    share: Tensor

    def __init__(self, share: float) -> None:
        super().__init__()
        self.register_buffer("share", torch.tensor(share, dtype=torch.float64))


class VoxelLogits(nn.Module):
    """Numbers that are trained."""

    def __init__(self, voxels: int) -> None:
        super().__init__()
        self.logits = nn.Parameter(torch.zeros(voxels))


class ToyExponential(ShowerModel):
    """Voxel v has the mean energy ``incident energy * share * softmax(logits)[v]``."""

    kind = "toy-exponential"
    Config = ToyConfig
    config: ToyConfig
    has_likelihood = True

    def __init__(self, config: ToyConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        self.fitted = FittedShare(config.share)
        self.voxels = VoxelLogits(detector.readout.n_voxels)

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """What is trained: first the share from the data, then the distribution over voxels."""
        return [Share(self), Voxels(self, training)]

    def means(self, incident_energy: Tensor) -> Tensor:
        """Mean energy of every voxel, (N, V), MeV."""
        part = torch.softmax(self.voxels.logits, dim=0)
        return incident_energy.to(part)[:, None] * self.fitted.share.to(part) * part

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """All random numbers of every shower, from streams of its own: (N, V)."""
        uniform = streams.uniform(conditions.index, self.detector.readout.n_voxels, counters=conditions.attempt)
        return {"uniform": torch.from_numpy(uniform)}

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Showers from random numbers; every one is valid."""
        means = self.means(conditions["incident_energy"])
        deposits = -means * torch.log1p(-latents["uniform"].to(means))
        return {"deposits": deposits}, torch.ones(len(deposits), dtype=torch.bool, device=deposits.device)

    def density(self, deposits: Tensor, incident_energy: Tensor) -> Tensor:
        """Log-density of the deposits, nats, (N,)."""
        means = self.means(incident_energy)
        return -(means.log() + deposits.to(means) / means).sum(dim=1)

    @torch.no_grad()
    def log_prob(
        self, showers: Showers | ShowerPoints, streams: Streams, *, draws: int = 1, first_row: int = 0
    ) -> Tensor:
        """Log-density of every shower in its deposits, nats; there is no noise to average over."""
        if not isinstance(showers, Showers) or showers.readout != self.detector.readout:
            raise UsageError(f"the showers do not have the readout of '{self.detector.name}'")
        deposits, incident = torch.from_numpy(showers.deposits), torch.from_numpy(showers.incident_energy)
        return self.density(deposits.to(self.device), incident.to(self.device)).double().cpu()


class Share(FitStage):
    """The share of the incident energy that is deposited, from one look at the data."""

    def __init__(self, model: ToyExponential) -> None:
        super().__init__("share", {"fitted": model.fitted})

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """Mean of deposited over incident energy."""
        shares = [np.asarray(batch.deposits.double().sum(dim=1) / batch.incident_energy) for batch in data]
        return {"fitted.share": torch.tensor(np.concatenate(shares).mean(), dtype=torch.float64)}


class Voxels(GradientStage):
    """The distribution over voxels, by maximum likelihood."""

    def __init__(self, model: ToyExponential, training: TrainingConfig) -> None:
        super().__init__("voxels", {"voxels": model.voxels}, training.for_stage("voxels"), needs=("share",))
        self.model = model

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """Mean negative log-likelihood."""
        assert isinstance(batch, VoxelBatch)
        return {"loss": -self.model.density(batch.deposits, batch.incident_energy).mean()}
