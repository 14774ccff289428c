"""A small detector, showers for it, and a model with one stage of every sort; registered as ``toy``."""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from caloforge.detectors import Detector, detector_from_toml
from caloforge.models import Conditions, ModelConfig, Preset, ShowerModel, register
from caloforge.nn.batch_layers import Dropout
from caloforge.random import Streams
from caloforge.showers import Showers, create_showers
from caloforge.stage import FitStage, GradientStage, Player, TrainingBatch, TrainingConfig, TrainingData

DETECTOR = """
name = "toy"
symmetries = ["reflect-x", "reflect-y"]
[[readout.layers]]
repeat = 2
depth = [0.0, 10.0]
x = { bins = 2, range = [-1.0, 1.0] }
y = { bins = 2, range = [-1.0, 1.0] }
"""


def toy_detector() -> Detector:
    return detector_from_toml(DETECTOR, where="toy")


def toy_showers(n: int, seed: int = 0) -> Showers:
    generator = np.random.default_rng(seed)
    energy = generator.uniform(1000, 10_000, n)
    shares = generator.dirichlet(np.arange(1, 9), n) * generator.uniform(0.5, 1, (n, 1))
    return Showers((energy[:, None] * shares).astype(np.float32), energy, 22, toy_detector().readout)


def toy_file(path: Path, n: int, seed: int = 0) -> Path:
    with create_showers(path, detector=toy_detector(), particle=22) as writer:
        writer.write(toy_showers(n, seed))
    return path


class ToyConfig(ModelConfig):
    hidden: int = 16
    dropout: float = 0.1
    explode_after: int | None = None
    pause: float = 0.0
    reject: float = 0.0


def _log_share(batch: TrainingBatch) -> Tensor:
    return torch.log(batch.deposits.sum(dim=1) / batch.incident_energy.to(batch.deposits.dtype))


def _condition(batch: TrainingBatch) -> Tensor:
    return torch.log10(batch.incident_energy / 1000).to(batch.deposits.dtype)[:, None]


def _normal(batch: TrainingBatch, streams: Streams, size: int = 1) -> Tensor:
    noise = torch.from_numpy(streams.normal(batch.row.numpy(), size, counters=batch.epoch))
    return noise.to(batch.deposits.device, batch.deposits.dtype)


class _Scale(FitStage):
    def __init__(self, model: Toy) -> None:
        super().__init__("scale", {"scale": model.scale})

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        values = torch.cat([_log_share(batch).double() for batch in data])
        assert len(values) == len(data)
        return {"scale.mean": values.mean(), "scale.std": values.std()}


class _Gauss(GradientStage):
    """Mean and width of the standardised logarithm of the visible share, given the energy."""

    def __init__(self, model: Toy, training: TrainingConfig) -> None:
        super().__init__("gauss", {"gauss": model.gauss}, training.for_stage("gauss"), needs=("scale",))
        self.model = model
        self.calls = 0

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        if self.model.config.pause and self.model.gauss.training:
            import time

            time.sleep(self.model.config.pause)
        dtype = next(self.model.gauss.parameters()).dtype
        shares = batch.deposits / batch.deposits.sum(dim=1, keepdim=True)
        x = torch.cat([_condition(batch), shares], dim=1).to(dtype)
        target = (_log_share(batch) - self.model.scale.mean) / self.model.scale.std
        target = target + 0.1 * _normal(batch, streams)[:, 0]
        mean, log_width = self.model.gauss(x).unbind(dim=1)
        nll = (0.5 * ((target - mean) / log_width.exp()) ** 2 + log_width).mean()
        after = self.model.config.explode_after
        if after is not None and self.model.gauss.training and batch.epoch >= after:
            nll = nll / 0.0
        return {"loss": nll, "width": log_width.exp().mean()}


class _Game(GradientStage):
    """A generator against a critic, with a slow copy of the generator as the result."""

    metric = "distance"

    def __init__(self, model: Toy, training: TrainingConfig) -> None:
        parts = {"maker": model.maker, "critic": model.critic, "slow": model.slow}
        super().__init__("game", parts, training.for_stage("game"))
        self.model = model

    @property
    def players(self) -> tuple[Player, ...]:
        s = self.training
        return (
            Player("critic", tuple(self.model.critic.parameters()), s.optimiser, s.schedule, steps_per_batch=2),
            Player("maker", tuple(self.model.maker.parameters()), s.optimiser, s.schedule),
        )

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        real = _log_share(batch)[:, None]
        made = self.model.maker(_normal(batch, streams, 2))
        logits = nn.functional.logsigmoid
        if player == "critic":
            made = made.detach()
            return {"loss": -(logits(self.model.critic(real)) + logits(-self.model.critic(made))).mean()}
        return {"loss": -logits(self.model.critic(made)).mean()}

    def after_step(self, player: str, step: int) -> None:
        if player == "maker":
            with torch.no_grad():
                for slow, fast in zip(self.model.slow.parameters(), self.model.maker.parameters(), strict=True):
                    slow.lerp_(fast, 0.1)

    def validate(self, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        return {"distance": (self.model.slow(_normal(batch, streams, 2)).mean() - _log_share(batch).mean()).abs()}


class _Numbers(nn.Module):
    mean: Tensor
    std: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("mean", torch.zeros(()))
        self.register_buffer("std", torch.ones(()))


@register("toy")
class Toy(ShowerModel):
    Config = ToyConfig
    config: ToyConfig
    has_likelihood = True

    def __init__(self, config: ToyConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        h = config.hidden
        self.scale = _Numbers()
        self.gauss = nn.Sequential(nn.Linear(9, h), nn.ReLU(), Dropout(config.dropout), nn.Linear(h, 2))
        self.maker = nn.Sequential(nn.Linear(2, h), nn.Tanh(), nn.Linear(h, 1))
        self.critic = nn.Sequential(nn.Linear(1, h), nn.Tanh(), nn.Linear(h, 1))
        self.slow = nn.Sequential(nn.Linear(2, h), nn.Tanh(), nn.Linear(h, 1)).requires_grad_(False)

    def stages(self, training: TrainingConfig) -> list[Any]:
        return [_Scale(self), _Gauss(self, training), _Game(self, training)]

    def own_latents(self, conditions: Conditions, streams: Streams) -> dict[str, Tensor]:
        uniform = streams.uniform(conditions.index, 1, counters=conditions.attempt)
        normal = streams.child("voxels").normal(conditions.index, 8, counters=conditions.attempt)
        return {"accept": torch.from_numpy(uniform), "voxels": torch.from_numpy(normal)}

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        shares = torch.softmax(latents["voxels"], dim=1)
        deposits = (conditions["incident_energy"].float()[:, None] * shares).float()
        return {"deposits": deposits}, latents["accept"][:, 0] >= self.config.reject

    def log_prob(self, showers: Any, streams: Streams, *, draws: int = 1, first_row: int = 0) -> Tensor:
        rows = np.arange(first_row, first_row + len(showers))
        noise = sum(streams.normal(rows, 1, counters=draw)[:, 0].astype(np.float64) for draw in range(draws))
        return torch.from_numpy(np.log(showers.total_energy()) + noise / draws / math.sqrt(2 * math.pi))


def toy_preset(**settings: Any) -> Preset:
    model = {key: settings.pop(key) for key in tuple(settings) if key in ToyConfig.model_fields}
    training = {"epochs": 3, "batch_size": 16, "optimiser": {"learning_rate": 0.01}} | settings
    return Preset(kind="toy", model=model, training=TrainingConfig.model_validate(training))
