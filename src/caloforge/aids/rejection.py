"""Showers that a classifier takes for generated ones are drawn again.

A classifier that tells real showers x from generated ones under the same conditions knows how many times likelier x is among the
real ones: w(x) = D / (1 - D) (arXiv:1907.08209; of a generator of calorimeter showers arXiv:2009.03796). A shower stays with
probability min(1, w / most), and is drawn again otherwise (arXiv:1810.06758), so what stays follows the real density as far
as the classifier knows it, at the price of about ``most`` draws for each shower. The classifier reads high-level features,
which are few, so that some thousand showers suffice; what it does not read stays as the model makes it.
"""

from __future__ import annotations

import copy
import itertools
import math
from collections.abc import Mapping
from typing import Annotated, ClassVar

import numpy as np
import torch
from pydantic import Field
from torch import Tensor, nn

from caloforge.conditions import Conditions
from caloforge.errors import ConfigError
from caloforge.models import Aid, Latents, ShowerModel
from caloforge.parts.rows import conditions_of_rows, generated_rows
from caloforge.parts.shower_features import FeatureFit, ShowerFeatures
from caloforge.random import Streams
from caloforge.representation import conditions_of
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import (
    CosineSchedule,
    FitStage,
    GradientStage,
    OptimiserConfig,
    Stage,
    StageTraining,
    TrainingBatch,
    TrainingConfig,
    TrainingData,
    deposits_of,
)
from caloforge.validation import Settings

__all__ = ["AcceptanceRate", "Rejection", "RejectionSettings"]

#: Name of the random number of each shower.
LATENT = "rejection"
#: The share of showers that stay is known at so many energies.
_KNOTS = 8
#: Rows of a likelihood that are looked at together.
_ROWS = 2000


class RejectionSettings(Settings):
    """Settings of the classifier, and how it is used.

    Attributes:
        most: showers that are so many times likelier among the real ones stay always; about so many are drawn for each. With more
            than 5 some shower of a large file would be drawn 100 times in vain, which ends its generation.
        networks: how many networks are averaged.
        hidden: units of the two hidden layers of each.
        draws: how many showers are generated for every training row.
        epochs: passes over the training rows.
        batch_size: training rows in a step.
        learning_rate: of Adam, at its highest.
        weight_decay: its weight decay.
    """

    most: Annotated[float, Field(gt=1, le=5)] = 2.5
    networks: Annotated[int, Field(ge=1)] = 4
    hidden: Annotated[int, Field(ge=1)] = 128
    draws: Annotated[int, Field(ge=1)] = 3
    epochs: Annotated[int, Field(ge=1)] = 40
    batch_size: Annotated[int, Field(ge=1)] = 256
    learning_rate: Annotated[float, Field(gt=0)] = 1e-3
    weight_decay: Annotated[float, Field(ge=0)] = 1e-2


class AcceptanceRate(nn.Module):
    """The share of generated showers that stay, as a function of the incident energy: linear between knots.

    Attributes:
        knots: logarithms of incident energies / MeV, rising, float64 (K,).
        rate: shares there, float64 (K,).
    """

    knots: Tensor
    rate: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.register_buffer("knots", torch.arange(_KNOTS, dtype=torch.float64))
        self.register_buffer("rate", torch.ones(_KNOTS, dtype=torch.float64))

    def forward(self, incident_energy: Tensor) -> Tensor:
        """Of incident energies (N,), MeV, float64 (N,)."""
        return self.hats(torch.log(incident_energy.double()), self.knots.double()) @ self.rate.double()

    @staticmethod
    def hats(place: Tensor, knots: Tensor) -> Tensor:
        """Weights (N, K) of the knots at places (N,); beyond the outer ones these count alone."""
        place = place.clamp(knots[0], knots[-1])
        right = torch.searchsorted(knots, place).clamp(1, len(knots) - 1)
        low, high = knots[right - 1], knots[right]
        share = (place - low) / (high - low)
        found = place.new_zeros(len(place), len(knots))
        found.scatter_(1, (right - 1)[:, None], (1 - share)[:, None])
        return found.scatter_add_(1, right[:, None], share[:, None])


class Rejection(Aid):
    """Judges showers on voxels while they are made.

    Attributes:
        features: what the classifier reads.
        networks: the classifier, their mean output.
        rate: how many stay.
    """

    kind = "rejection"
    title: ClassVar[str] = "showers that a classifier takes for generated ones are drawn again"
    Config = RejectionSettings
    rejects: ClassVar[bool] = True
    follows: ClassVar[bool] = True
    config: RejectionSettings

    def __init__(self, config: RejectionSettings, model: ShowerModel) -> None:
        super().__init__(config, model)
        if model.shower_kind != "voxels":
            raise ConfigError(
                f"the aid '{self.kind}' does not suit the model '{model.kind}' here, which makes points, not voxels"
            )
        if model.particles:
            raise ConfigError(f"the aid '{self.kind}' judges showers of one particle, and the model makes several")
        self.features = ShowerFeatures(model.detector)
        sizes = (self.features.features, config.hidden, config.hidden, 1)
        self.networks = nn.ModuleList(_network(sizes) for _ in range(config.networks))
        self.rate = AcceptanceRate()

    # ---- the classifier -----------------------------------------------------------------------------------------------

    def outputs(self, features: Tensor) -> list[Tensor]:
        """Output of each network, ln w, (N,), of features (N, F), in their precision."""
        found = []
        for network in self.networks:
            assert isinstance(network, nn.Sequential)
            x = features
            for layer in network:
                # In the precision of the features: what decides whether a shower stays must not hang on a batch's sums.
                x = (
                    nn.functional.linear(x, layer.weight.to(x.dtype), layer.bias.to(x.dtype))
                    if isinstance(layer, nn.Linear)
                    else layer(x)
                )
            found.append(x[:, 0])
        return found

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the classifier is."""
        return next(self.networks.parameters()).dtype

    def probability(self, deposits: Tensor, conditions: Mapping[str, Tensor]) -> Tensor:
        """With which showers stay, float64 (N,).

        Args:
            deposits: (N, V), MeV, as they are generated: rounded to 32 bits.
            conditions: ``incident_energy`` (N,), MeV, and ``direction`` (N, 3).
        """
        return self.chance(self.features(deposits.float(), conditions))

    def chance(self, features: Tensor) -> Tensor:
        """The same of features (N, F)."""
        logarithm = torch.stack(self.outputs(features)).mean(dim=0)
        return torch.exp(logarithm - math.log(self.config.most)).clamp(max=1.0)

    # ---- generating ---------------------------------------------------------------------------------------------------

    def latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """A uniform number for each shower, (N, 1)."""
        return {LATENT: torch.from_numpy(streams.child(LATENT).uniform(conditions.index, 1, conditions.attempt))}

    def accepts(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor], output: Mapping[str, Tensor]
    ) -> Tensor:
        """See :meth:`caloforge.models.Aid.accepts`."""
        return latents[LATENT][:, 0].double() < self.probability(output["deposits"], conditions)

    @torch.no_grad()
    def log_factor(self, showers: Showers | ShowerPoints) -> Tensor:
        """Logarithm of the probability to stay over the share of all that do, float64 (N,)."""
        assert isinstance(showers, Showers)  # the model has looked at them
        found = []
        for start in range(0, len(showers), _ROWS):
            block = showers[start : start + _ROWS]
            tensors = Conditions.of(block).tensors(self.rate.rate.device)
            deposits = torch.from_numpy(block.deposits).to(self.rate.rate.device)
            stays = self.probability(deposits, tensors)
            found.append((torch.log(stays) - torch.log(self.rate(tensors["incident_energy"]))).cpu())
        return torch.cat(found) if found else torch.zeros(0, dtype=torch.float64)

    def constants(self) -> None:
        """See :meth:`caloforge.models.Aid.constants`."""

    # ---- training -----------------------------------------------------------------------------------------------------

    def stages(self, model: ShowerModel) -> list[Stage]:
        """Scales of the features, the classifier behind all stages of the model, and the share of showers that stay."""
        return [
            FeatureFit("rejection-features", "aids.rejection.features", self.features),
            _ClassifierStage(self, model),
            _RateStage(self, model),
        ]


def _network(sizes: tuple[int, ...]) -> nn.Sequential:
    layers: list[nn.Module] = []
    for into, out in itertools.pairwise(sizes):
        layers += [nn.Linear(into, out), nn.SiLU()]
    return nn.Sequential(*layers[:-1])


class _ClassifierStage(GradientStage):
    """Tells training showers from generated ones; the loss is the binary cross-entropy, ln 2 for a guess."""

    def __init__(self, aid: Rejection, model: ShowerModel) -> None:
        config = aid.config
        training = StageTraining(
            epochs=config.epochs,
            batch_size=config.batch_size,
            optimiser=OptimiserConfig(
                name="adamw", learning_rate=config.learning_rate, weight_decay=config.weight_decay
            ),
            schedule=CosineSchedule(),
        )
        own = tuple(stage.name for stage in model.stages(TrainingConfig()))
        super().__init__(
            "rejection", {"aids.rejection.networks": aid.networks}, training, needs=(*own, "rejection-features")
        )
        self.aid, self.model = aid, model
        #: Features of generated showers by row: they cost as much as generating, and every epoch wants them.
        self._made: dict[int, Tensor] = {}
        self._made_by = b""
        self._maker: ShowerModel | None = None

    def generated(self, batch: TrainingBatch, streams: Streams) -> Tensor:
        """Features of the showers generated for some rows, (B, draws, F); NaN of one that is not valid."""
        by = streams.key().tobytes()
        if by != self._made_by:  # of another seed
            self._made, self._made_by = {}, by
        rows = batch.row.tolist()
        missing = [k for k, row in enumerate(rows) if row not in self._made]
        if missing:
            self._maker = self._maker or _maker(self.model)
            found = _drawn(self.aid, self._maker, batch, missing, self.aid.config.draws, streams)
            self._made |= {rows[k]: found[n] for n, k in enumerate(missing)}
        return torch.stack([self._made[row] for row in rows]).to(batch.incident_energy.device)

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.loss`; every epoch looks at another draw of each row."""
        made = self.generated(batch, streams)[:, batch.epoch % self.aid.config.draws]
        return self._cross_entropy(batch, made)

    @torch.no_grad()
    def validate(self, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """The same with all draws of each row."""
        return self._cross_entropy(batch, self.generated(batch, streams).flatten(0, 1))

    def _cross_entropy(self, batch: TrainingBatch, made: Tensor) -> dict[str, Tensor]:
        real = self.aid.features(deposits_of(batch), conditions_of(batch)).to(self.aid.dtype)
        # One that is not valid does not count; it is not left out of the mean, which is over as many in every process.
        sound = torch.isfinite(made).all(dim=1)
        made = torch.where(sound[:, None], made, torch.zeros_like(made)).to(real.dtype)
        losses = [
            nn.functional.softplus(-a).mean() + (nn.functional.softplus(b) * sound).mean()
            for a, b in zip(self.aid.outputs(real), self.aid.outputs(made), strict=True)
        ]
        return {"loss": torch.stack(losses).mean() / 2}


class _RateStage(FitStage):
    """Share of generated showers that stay, by least squares on knots.

    Knots lie half where they would with equally many rows between them, half where they would with equal distances: most of a
    beam that is uniform in the energy is far from its lower end, where the share changes most.
    """

    def __init__(self, aid: Rejection, model: ShowerModel) -> None:
        super().__init__("rejection-rate", {"aids.rejection.rate": aid.rate}, needs=("rejection",))
        self.aid, self.model = aid, model

    @torch.no_grad()
    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.FitStage.fit`."""
        places, stays, maker = [], [], _maker(self.model)
        for batch in data:
            # Others than the classifier has learnt from, which it knows better than what it will see.
            first = self.aid.config.draws
            features = _drawn(self.aid, maker, batch, list(range(len(batch))), 1, streams, first=first)[:, 0]
            sound = torch.isfinite(features).all(dim=1)
            stays.append(self.aid.chance(features[sound].double()).cpu())
            places.append(torch.log(batch.incident_energy.double())[sound].cpu())
        place, stay = torch.cat(places), torch.cat(stays)
        share = np.linspace(0, 1, _KNOTS)
        low, high = float(place.min()), float(place.max())
        knots = torch.from_numpy((np.quantile(place.numpy(), share) + low + (high - low) * share) / 2)
        # Beams of single energies: knots have to rise, and one without rows has the mean.
        knots = knots + torch.arange(_KNOTS, dtype=torch.float64) * 1e-6
        hats = AcceptanceRate.hats(place, knots)
        mean = stay.mean()
        normal = hats.T @ hats + 1e-3 * torch.eye(_KNOTS, dtype=torch.float64)
        rate = mean + torch.linalg.solve(normal, hats.T @ (stay - mean))
        return {"aids.rejection.rate.knots": knots, "aids.rejection.rate.rate": rate.clamp(1e-3, 1.0)}


def _maker(model: ShowerModel) -> ShowerModel:
    """What generates in these stages: the model, or a copy in 64-bit numbers of one that computes from tables of such.

    The loop has put all of the model into the precision in which the classifier is trained.
    """
    own = any(not name.startswith("aids.") for name, _ in model.named_parameters())
    return model if own else copy.deepcopy(model).double().eval()


@torch.no_grad()
def _drawn(
    aid: Rejection,
    model: ShowerModel,
    batch: TrainingBatch,
    chosen: list[int],
    draws: int,
    streams: Streams,
    *,
    first: int = 0,
) -> Tensor:
    """Features (rows, draws, F) of showers under the conditions of some rows, as precise as the model; NaN if invalid.

    ``first`` is the number of the first draw.
    """
    found = []
    for draw in range(first, first + draws):
        asked = conditions_of_rows(batch, attempt=draw, particle=int(aid.features.particle))[np.array(chosen)]
        deposits, valid = generated_rows(model, asked, streams.child("generated"))
        features = aid.features(deposits, asked.tensors(model.device)).to(aid.dtype)
        found.append(torch.where(valid[:, None], features, torch.full_like(features, math.nan)))
    return torch.stack(found, dim=1)
