"""How a bounded-information-bottleneck autoencoder is trained: units, the game with its critics, post-processor, flow."""

from __future__ import annotations

import math
from collections.abc import Mapping

import torch
from torch import Tensor, nn

from caloforge.errors import UsageError
from caloforge.nn.batch_layers import gathered
from caloforge.nn.bottleneck import DenseHead
from caloforge.nn.bottleneck_critics import PairCritic
from caloforge.nn.discrepancy import discrepancy, sorted_kernel_discrepancy
from caloforge.nn.normal_cells import censored_log_prob, straightened
from caloforge.parts.adversarial import (
    critic_loss,
    generator_loss,
    gradient_penalty,
    mixing_numbers,
    optimiser_at,
    rows_of,
)
from caloforge.parts.bottleneck_model import BottleneckModel
from caloforge.parts.flows import FlowStage
from caloforge.parts.layer_energies import ScaleStage
from caloforge.parts.separations import SeparationsFit
from caloforge.random import Streams
from caloforge.stage import (
    FitStage,
    GradientStage,
    Player,
    Stage,
    StageTraining,
    TrainingBatch,
    TrainingConfig,
    TrainingData,
    deposits_of,
)

__all__ = ["AutoencoderStage", "PostProcessorStage", "UnitsFit", "bottleneck_stages", "divergence_from_normal"]

#: Inverse squared widths of the kernels between latents: as published, of all of them, and of the learnt ones.
_KERNELS = {"all": (1.0, 0.01), "learnt": (1.0, 0.1, 0.01)}
#: Learning rate of the latent critic over that of everything else, in both publications.
_LATENT_RATE = 4.0
#: Logarithm of the variance of latents at first.
_NARROW = -3.0
#: Of this softplus makes 1.
_AS_WIDE = math.log(math.e - 1)


def divergence_from_normal(mean: Tensor, log_variance: Tensor) -> Tensor:
    """Kullback-Leibler divergence of normal numbers from standard normal ones, nats, summed over latents, a mean over rows.

    Args:
        mean: (N, D).
        log_variance: logarithms of their variances, (N, D).
    """
    return -0.5 * (1 + log_variance - mean.square() - log_variance.exp()).sum(dim=1).mean()


def bottleneck_stages(model: BottleneckModel, training: TrainingConfig) -> list[Stage]:
    """Units and histograms, autoencoder and critics, post-processor, and the flow if there is one."""
    stages: list[Stage] = [UnitsFit(model), SeparationsFit("separations", model.separations)]
    stages.append(AutoencoderStage(model, training.for_stage("autoencoder")))
    stages.append(PostProcessorStage(model, training.for_stage("post-processor")))
    if model.flow is None:
        return stages
    needs = ["autoencoder"]
    scale = model.flow.scale
    if scale is not None:
        fit = ScaleStage("flow.energies.scale", scale, model.dequantisation)
        needs.append(fit.name)
        stages.append(fit)
    settings = training.for_stage("flow")
    flow = FlowStage("flow", "flow.flow", model.flow.flow, model.flow_variables, settings, needs=tuple(needs))
    return [*stages, flow]


class UnitsFit(FitStage):
    """Unit and mean shares of the cells, and what a shower deposits.

    Args:
        model: the model.
    """

    def __init__(self, model: BottleneckModel) -> None:
        parts: dict[str, nn.Module] = {"units": model.units}
        if model.flow is not None:
            parts["flow.ratio"] = model.flow.ratio
        super().__init__("units", parts)
        self.model = model

    def fit(self, data: TrainingData, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.FitStage.fit`.

        Raises:
            UsageError: if the showers come at an angle and the model knows no direction.
        """
        model, blocks, ratios = self.model, [], []
        for batch in data:
            tilted = batch.direction is not None and bool((batch.direction[:, 2] < 1 - 1e-6).any())
            if tilted and not model.knows_direction:
                raise UsageError(
                    f"the model '{model.kind}' knows no directions, and the training showers come at an angle; "
                    "'bib-ae-two-angles' does"
                )
            visible = model.dequantisation.visible(deposits_of(batch)).cpu()
            blocks.append(visible)
            ratios.append(visible.double().sum(dim=1) / batch.incident_energy.double().cpu())
        found = {f"units.{name}": value for name, value in model.units.fitted(torch.cat(blocks)).items()}
        if model.flow is not None:
            ratio = torch.cat(ratios)
            found["flow.ratio.mean"] = ratio.mean()
            found["flow.ratio.spread"] = ratio.std(correction=0).clamp_min(1e-6)
        return found


class AutoencoderStage(GradientStage):
    """Encoder and decoder against critics of showers and of latents (arXiv:2005.05334, equations 6 to 11).

    The weights of the epoch are chosen in which the showers behind encoder and decoder are most like those in front of them.

    Args:
        model: the model.
        training: epochs, batch size and so on.
    """

    metric = "separation"

    def __init__(self, model: BottleneckModel, training: StageTraining) -> None:
        parts: dict[str, nn.Module] = {"encoder": model.encoder, "decoder": model.decoder}
        parts |= {"critic": model.critic, "latent_critic": model.latent_critic}
        if model.fresh_critic is not None:
            parts["fresh_critic"] = model.fresh_critic
        super().__init__("autoencoder", parts, training, needs=("units", "separations"))
        self.model = model
        self.critics: dict[str, PairCritic] = {"critic": model.critic}
        if model.fresh_critic is not None:
            self.critics["fresh-critic"] = model.fresh_critic

    @property
    def players(self) -> tuple[Player, ...]:
        """All critics, then the autoencoder."""
        model, settings = self.model, self.training
        steps = model.config.critic_steps
        found = [
            Player(name, tuple(critic.parameters()), settings.optimiser, settings.schedule, steps)
            for name, critic in self.critics.items()
        ]
        latent = tuple(model.latent_critic.parameters())
        found.append(Player("latent-critic", latent, optimiser_at(settings, _LATENT_RATE), settings.schedule, steps))
        own = (*model.encoder.parameters(), *model.decoder.parameters())
        return (*found, Player("autoencoder", own, settings.optimiser, settings.schedule))

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        """Where cells are shares, latents start narrow, and a decoder without convolutions with about the mean shower.

        Latents that start as noise are learnt to be ignored. Cells that fluctuate by themselves start doing so as much as all
        do.
        """
        model = self.model
        if model.config.cells == "shares":
            model.encoder.log_variance.bias.fill_(_NARROW)
            if isinstance(model.decoder.head, DenseHead):
                start = straightened(model.units.middle.float(), model.config.cell_bend)
                if model.config.cell_noise:
                    start = torch.cat([start, torch.full_like(start, _AS_WIDE)])
                model.decoder.head.bias.copy_(start)

    def start_epoch(self, epoch: int) -> tuple[str, ...]:
        """The second critic begins anew, as in arXiv:2303.18150."""
        if self.model.fresh_critic is None:
            return ()
        for module in self.model.fresh_critic.modules():
            reset = getattr(module, "reset_parameters", None)
            if reset is not None:
                reset()
        return ("fresh-critic",)

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.loss`."""
        model = self.model
        cells, condition, energies = model.encoded(batch)
        if player == "autoencoder":
            return self._own_loss(cells, condition, energies, batch, streams)
        with torch.no_grad():
            made = model.reconstructed(cells, condition, energies, batch, streams)
        mix = mixing_numbers(model, batch, streams)
        if player == "latent-critic":
            fake = self._judged(made.latents)
            real = rows_of(model, batch, streams, "normal", fake.shape[1])
            critic = model.latent_critic
            scores = critic_loss("wasserstein", critic(real).mean(dim=1), critic(fake).mean(dim=1))
            # The gradient of the sum over latents, whose mean is the score.
            penalty = gradient_penalty(lambda z: critic(z).sum(dim=1), real, fake, mix)
        else:
            judge, false = self.critics[player], made.cells
            scores = critic_loss("wasserstein", judge(cells, cells, condition), judge(cells, false, condition))
            pairs = (torch.stack([cells, cells], dim=1), torch.stack([cells, false], dim=1))
            penalty = gradient_penalty(lambda pair: judge(pair[:, 0], pair[:, 1], condition), *pairs, mix)
        return {"loss": scores + model.config.gradient_penalty * penalty, "distance": -scores, "penalty": penalty}

    def _judged(self, latents: Tensor) -> Tensor:
        """The latents that latent critic and discrepancy see."""
        return latents if self.model.config.latent_terms == "all" else latents[:, : self.model.config.latents]

    def _own_loss(
        self, cells: Tensor, condition: Tensor, energies: Tensor, batch: TrainingBatch, streams: Streams
    ) -> dict[str, Tensor]:
        model, config = self.model, self.model.config
        made = model.reconstructed(cells, condition, energies, batch, streams)
        scores = [
            generator_loss("wasserstein", critic(cells, made.cells, condition)) for critic in self.critics.values()
        ]
        judged = self._judged(made.latents)
        latent = generator_loss("wasserstein", model.latent_critic(judged).mean(dim=1))
        divergence = divergence_from_normal(made.mean, made.log_variance)
        normal = rows_of(model, batch, streams, "normal", judged.shape[1])
        away = discrepancy(gathered(judged), gathered(normal), _KERNELS[config.latent_terms])
        critics = torch.stack(scores).sum()
        loss = critics + config.latent_critic_weight * latent + config.kl_weight * divergence
        loss = loss + config.discrepancy_weight * away
        logged = {"critics": critics, "divergence": divergence, "discrepancy": away}
        if config.difference == "likelihood":
            # Of the numbers behind the cells; the density of the cells themselves differs by a constant of each shower.
            numbers = straightened(cells, config.cell_bend)
            logged["difference"] = -censored_log_prob(numbers, made.centre, made.spread).mean()
            loss = loss + config.difference_weight * logged["difference"]
        return {"loss": loss} | logged

    def validate(self, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """Histograms of showers in front of and behind the autoencoder; see :meth:`caloforge.stage.GradientStage.validate`."""
        model = self.model
        cells, condition, energies = model.encoded(batch)
        made = model.reconstructed(cells, condition, energies, batch, streams)
        return model.separations.means(batch, model.units.decode(made.cells, energies))

    def conclude(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.conclude`."""
        return self.model.separations.conclude(means)


class PostProcessorStage(GradientStage):
    """The energies of single cells: discrepancy of sorted cells from those of the true shower (arXiv:2005.05334, appendix A.3).

    In the first epochs the post-processor learns to change nothing.

    Args:
        model: the model; its autoencoder stays as it is.
        training: epochs, batch size and so on.
    """

    metric = "cells"

    def __init__(self, model: BottleneckModel, training: StageTraining) -> None:
        parts = {"post_processor": model.post_processor}
        super().__init__("post-processor", parts, training, needs=("autoencoder",))
        self.model = model

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.loss`."""
        change, cells = self._terms(batch, streams)
        return {"loss": change if batch.epoch < self.model.config.warm_up else change + cells, "change": change}

    def validate(self, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.validate`; the number of the epoch is always 0 there."""
        change, cells = self._terms(batch, streams)
        return {"cells": change + cells, "change": change}

    def _terms(self, batch: TrainingBatch, streams: Streams) -> tuple[Tensor, Tensor]:
        """Squared change of the cells, and how far they are from those of the true showers."""
        model, config = self.model, self.model.config
        with torch.no_grad():
            cells, condition, energies = model.encoded(batch)
            made = model.reconstructed(cells, condition, energies, batch, streams).cells
        corrected = model.corrected(made, condition, energies.sum(dim=1))
        change = (corrected - made).square().mean()
        found, truth = self._compared(corrected, energies), self._compared(cells, energies)
        away = sorted_kernel_discrepancy(
            found, truth, config.hit_kernels, size=config.hit_window, stride=config.hit_stride, ranks=config.hit_ranks
        )
        loss = config.hit_weight * away.mean()
        if config.sorted_weight:
            apart = found.sort(dim=1).values - truth.sort(dim=1).values
            loss = loss + config.sorted_weight * (apart.square().mean() + apart.abs().mean())
        return change, loss

    def _compared(self, cells: Tensor, energies: Tensor) -> Tensor:
        """Cells (B, V) as the discrepancy compares them."""
        units = self.model.units
        deposits = (units.decode(cells, energies) / units.unit).to(cells.dtype)
        if self.model.config.hits == "energy":
            return deposits
        # A post-processor may make cells of less than nothing; they are cut, so it learns nothing from how much less.
        return torch.log1p(deposits.clamp_min(0))
