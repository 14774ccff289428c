"""Two models without parameters, registered as ``toy-profile`` and ``toy-library``: the mean shower, and the data themselves."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.detectors import Detector
from caloforge.models import Conditions, ModelConfig, ShowerModel, register
from caloforge.random import Streams
from caloforge.stage import FitStage, Stage, TrainingConfig, TrainingData

PRESETS = {kind: f"kind: {kind}\nmodel: {{}}\ntraining: {{}}\n" for kind in ("toy-profile", "toy-library")}


class _Kept(nn.Module):
    def __init__(self, **tensors: Tensor) -> None:
        super().__init__()
        for name, value in tensors.items():
            self.register_buffer(name, value)


class _Fitted(ShowerModel):
    """One fit stage and a number between 0 and 1 for each shower."""

    Config = ModelConfig

    def stages(self, training: TrainingConfig) -> list[Stage]:
        return [_Fit(self)]

    def found(self, deposits: Tensor, incident: Tensor) -> dict[str, Tensor]:
        raise NotImplementedError

    def own_latents(self, conditions: Conditions, streams: Streams) -> dict[str, Tensor]:
        return {"which": torch.from_numpy(streams.uniform(conditions.index, 1, counters=conditions.attempt))[:, 0]}


class _Fit(FitStage):
    def __init__(self, model: _Fitted) -> None:
        super().__init__("fit", {"kept": model.kept})
        self.model = model

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        batches = list(data)
        deposits = torch.cat([batch.deposits for batch in batches])
        return self.model.found(deposits, torch.cat([batch.incident_energy for batch in batches]))


@register("toy-profile")
class Profile(_Fitted):
    """Every shower is the mean one, scaled to its energy."""

    def __init__(self, config: ModelConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        self.kept = _Kept(response=torch.zeros(detector.readout.n_voxels))

    def found(self, deposits: Tensor, incident: Tensor) -> dict[str, Tensor]:
        return {"kept.response": (deposits / incident[:, None].float()).mean(dim=0)}

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        energy = conditions["incident_energy"].to(self.dtype)
        deposits = energy[:, None] * self.kept.response * (0.9 + 0.2 * latents["which"].to(self.dtype)[:, None])
        return {"deposits": deposits}, torch.ones_like(energy, dtype=torch.bool)


@register("toy-library")
class Library(_Fitted):
    """Every shower is one of the data, scaled to its energy."""

    def __init__(self, config: ModelConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        self.kept = _Kept(showers=torch.zeros(0, detector.readout.n_voxels), energies=torch.zeros(0))

    def found(self, deposits: Tensor, incident: Tensor) -> dict[str, Tensor]:
        return {"kept.showers": deposits, "kept.energies": incident.float()}

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        row = (latents["which"] * len(self.kept.energies)).long()
        scale = conditions["incident_energy"].float() / self.kept.energies[row]
        return {"deposits": self.kept.showers[row] * scale[:, None]}, torch.ones_like(row, dtype=torch.bool)


def preset_file(folder: Path, kind: str) -> Path:
    path = folder / f"{kind}.yaml"
    path.write_text(PRESETS[kind])
    return path


def trained(kind: str, detector: Detector, **settings: Any) -> ShowerModel:
    """An untrained one."""
    return {"toy-profile": Profile, "toy-library": Library}[kind](ModelConfig(**settings), detector)
