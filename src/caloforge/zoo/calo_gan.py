"""CaloGAN: three image generators against one critic (M. Paganini, L. de Oliveira and B. Nachman, arXiv:1712.10321).

Every layer has a stream of locally connected layers, and is told what the layer before it looks like. The critic sees images,
lit cells and energies, and how much the showers of a batch are alike.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Any, Literal

import numpy as np
import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from caloforge.conditions import Conditions
from caloforge.detectors import Detector
from caloforge.models import Difference, Latents, ModelConfig, ShowerModel
from caloforge.nn.batch_layers import gathered
from caloforge.nn.detector_images import CriticStream, GeneratorStream, ImageCritic, InPainting, Norm
from caloforge.nn.local import Fans
from caloforge.parts.adversarial import (
    AdversarialSettings,
    critic_loss,
    generator_loss,
    gradient_penalty,
    mixing_numbers,
    optimiser_at,
    rows_of,
)
from caloforge.parts.cell_scales import CellScales, CellScalesFit
from caloforge.parts.checks import check_voxels
from caloforge.parts.flows import normal_latents
from caloforge.parts.layer_grids import Carry, LayerGroup, Resampling, layer_groups
from caloforge.parts.rows import collect_rows
from caloforge.parts.separations import Separations, SeparationsFit, generated_of
from caloforge.random import Streams
from caloforge.representation import LayerSums, middle_energy
from caloforge.stage import (
    GradientStage,
    Player,
    Stage,
    TrainingBatch,
    TrainingConfig,
    TrainingData,
    deposits_of,
)
from caloforge.units import GeV
from caloforge.validation import Count, Size

__all__ = ["CaloGAN", "CaloGANConfig"]

#: Weights of all dense layers together, where their width is not given: the published ones have three times as many.
_DENSE_WEIGHTS = 1e7
_LEAST_CHANNELS, _MOST_CHANNELS = 4, 36
#: Energies of layers and of the shower, as the critic sees them; how far the latter may be off before a flag says it.
_LAYER_UNIT, _SUM_UNIT, _OFF = 10 * GeV, 100 * GeV, 5 * GeV
#: Where a detector has no threshold, MeV: deposits have logarithms from here on.
_FAINT = 1e-3
#: Widths of energies are compared relative to the real one and this share of the mean.
_LEAST_WIDTH = 1e-2
#: Rows from which the generator's last layers are scaled.
_START_ROWS = 512
#: Logarithms of deposits over the threshold are up to ten or so.
_LOG_UNIT = 4.0


class CaloGANConfig(ModelConfig):
    """Configuration; the sizes are the published ones.

    Attributes:
        latent: random numbers of a shower.
        channels: of the images that the dense layers make; None takes as many, 4 to 36, as ten million weights allow.
        critic_channels: of the four convolutions of the critic.
        streams: most generator streams; where there are more layers, neighbours are channels of one.
        inpainting: whether layers see the layer before them.
        carry: how that gets onto their grid.
        conditioning: ``product``: random numbers times E / 100 GeV; ``concatenated``: logarithm of E and direction beside them.
        units: of images: ``GeV``, or ``shares`` of the incident energy, over what is usual in each cell. The critic sees
            images and energies in these units, with ``shares`` also their logarithms and the incident energy.
        start: initial weights of the generator: ``random``; or such that the cells begin with the mean and the share of
            lit ones of the training showers (``marginals``), as positive parts of normal numbers.
        energies: incident energies of generated showers in training: ``uniform`` over the gun's range, or those of the ``data``.
        energy_loss: ``absolute``: mean of abs(deposited - incident energy), GeV; ``moments``: relative differences of means
            and standard deviations of energies, in all and by layer, between generated and real showers of the batch.
        energy_weight: its weight.
        fakes: averages in the batch norms of the generator when the critic is trained: ``moving``, or those of the ``batch``.
        norm: of generator and critic.
        fans: how initial weights of locally connected layers are counted.
        minibatch: whether the critic compares the showers of a batch.
        cut: whether deposits below the detector's analysis threshold are 0, real ones and generated ones.
        incident_reference: incident energy whose logarithm is 0, MeV; None takes the logarithmic middle of the gun's.
        game: losses and steps.
    """

    latent: Size = 1024
    channels: Count | None = 36
    critic_channels: tuple[Count, Count, Count, Count] = (64, 16, 8, 8)
    streams: Count = 8
    inpainting: bool = True
    carry: Carry = "conserving"
    conditioning: Literal["product", "concatenated"] = "concatenated"
    units: Literal["GeV", "shares"] = "shares"
    start: Literal["random", "marginals"] = "marginals"
    energies: Literal["uniform", "data"] = "data"
    energy_loss: Literal["absolute", "moments"] = "moments"
    energy_weight: Annotated[float, Field(ge=0)] = 0.05
    fakes: Literal["moving", "batch"] = "batch"
    norm: Norm = "batch"
    fans: Fans = "cell"
    minibatch: bool = True
    cut: bool = True
    incident_reference: Annotated[float, Field(gt=0)] | None = None
    game: AdversarialSettings = AdversarialSettings(critic_rate=0.1, generator_steps=2)

    @model_validator(mode="after")
    def _consistent(self) -> CaloGANConfig:
        if self.game.penalty and (self.norm == "batch" or self.minibatch):
            raise ValueError(
                "a gradient penalty wants every shower judged by itself, so 'norm' batch and 'minibatch' exclude it"
            )
        if self.units == "GeV" and self.start == "marginals":
            raise ValueError("images of GeV grow with the energy, so 'start' marginals needs 'units' shares")
        if self.energies == "uniform" and self.energy_loss == "moments":
            raise ValueError("energies are compared at the same incident energies, so 'energies' must be data")
        return self


class _Generator(nn.Module):
    """All streams, with in-painting between them: numbers to images, which are not negative."""

    def __init__(self, config: CaloGANConfig, detector: Detector, groups: list[LayerGroup], inputs: int) -> None:
        super().__init__()
        places = sum((group.shape[0] + 2) * (group.shape[1] + 2) for group in groups)
        channels = config.channels or max(_LEAST_CHANNELS, min(_MOST_CHANNELS, int(_DENSE_WEIGHTS / (inputs * places))))
        self.streams = nn.ModuleList(
            GeneratorStream(
                inputs, g.shape, len(g.layers), channels, norm=config.norm, fans=config.fans,
                bias=config.start == "marginals",
            )
            for g in groups
        )  # fmt: skip
        following = groups[1:] if config.inpainting else []
        self.painting = nn.ModuleList(
            InPainting(len(g.layers), g.shape, periodic=g.periodic, fans=config.fans) for g in following
        )
        self.carried = nn.ModuleList(
            Resampling(detector.readout, before.layers[-1], g.layers[0], config.carry)
            for before, g in zip(groups, following, strict=False)
        )

    def forward(self, x: Tensor) -> list[Tensor]:
        """(N, inputs) to images (N, layers, rows, columns) of every group."""
        found = [stream(x) for stream in self.streams]
        for k, (painting, carried) in enumerate(zip(self.painting, self.carried, strict=True), 1):
            found[k] = painting(found[k], carried(found[k - 1][:, -1:]))
        return [image.relu() for image in found]


class CaloGAN(ShowerModel):
    """A generator with a stream for each layer.

    Args:
        config: sizes, and how showers are seen.
        detector: a calorimeter with voxels.

    Raises:
        ConfigError: if it has none, or no gun to take the missing range or reference of energies from.
    """

    kind = "calo-gan"
    Config = CaloGANConfig
    differences = (
        Difference(
            "conditioning",
            "random numbers times E / 100 GeV",
            "logarithm of E and direction beside them",
            "at 1 GeV all showers would be alike",
            "conditioning",
            ("product", "concatenated"),
        ),
        Difference(
            "images",
            "GeV",
            "shares of the incident energy over what is usual in the cell; the critic sees their logarithms too",
            "layers of 0.2 % of the energy are heard",
            "units",
            ("GeV", "shares"),
        ),
        Difference(
            "initial weights",
            "random",
            "every cell begins with the mean, and as often lit, as in the training showers",
            "few steps on few showers",
            "start",
            ("random", "marginals"),
        ),
        Difference(
            "energies asked of the generator in training",
            "uniform, 1-100 GeV",
            "those of the training showers",
            "the critic would learn the spectrum",
            "energies",
            ("uniform", "data"),
        ),
        Difference(
            "energy term",
            "0.05 times the mean of abs(deposited - incident energy), GeV",
            "relative differences of the means and widths of deposited energy and of layer energies from the batch's",
            "pions and visible energy deposit another, and fluctuating, share",
            "energy_loss",
            ("absolute", "moments"),
        ),
        Difference(
            "carry to the next layer",
            "repeated rows, averaged columns",
            "by overlapping area",
            "keeps the energy, on any grids",
            "carry",
            ("average", "conserving"),
        ),
        Difference(
            "the generator's batch norm while the critic learns",
            "moving averages",
            "the batch's",
            "the critic judges what the generator will be trained on",
            "fakes",
            ("moving", "batch"),
        ),
        Difference(
            "initial weights of locally connected layers",
            "he-uniform with all output cells counted, as Keras 2 does",
            "he-uniform",
            "signals keep their size",
            "fans",
            ("keras", "cell"),
        ),
        Difference(
            "threshold", "none", "the analysis threshold", "what lies below it is cut anyway", "cut", (False, True)
        ),
        Difference(
            "critic's step",
            "one on real showers, one on generated ones",
            "one on both, which never are in one batch (in both profiles)",
            "one loss, one step",
        ),
        Difference(
            "several particles in one network",
            "a variant: embedding of the type, which the critic has to guess",
            "one network for each particle (in both profiles)",
            "the authors found one for each better; training files hold one particle",
        ),
        Difference(
            "weights of the result",
            "chosen by eye from those of every epoch",
            "smallest mean separation power on validation showers (in both profiles)",
            "losses of a game say nothing of quality",
        ),
        Difference(
            "length",
            "50 epochs of 100,000 showers, 19,500 batches",
            "as many steps, whatever the number of showers (in both profiles)",
            "7,000 showers make 27 batches an epoch",
        ),
    )
    config: CaloGANConfig

    def __init__(self, config: CaloGANConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        check_voxels(self.kind, detector)
        readout = detector.readout
        self.groups = layer_groups(readout, config.streams)
        self.sums = LayerSums(readout.layer_sizes)
        self.cells = torch.tensor(readout.layer_sizes, dtype=torch.float64)
        if config.conditioning == "product" and config.units == "GeV":
            self.reference = config.incident_reference or 1.0  # no logarithm of the energy anywhere
        else:
            self.reference = config.incident_reference or middle_energy(detector)
        self.threshold = detector.analysis_threshold if config.cut else 0.0
        self.scales = CellScales(readout.layer_sizes)
        self.separations = Separations(detector)
        inputs = config.latent + (3 if config.conditioning == "concatenated" else 0)
        self.generator = _Generator(config, detector, self.groups, inputs)
        # With shares two images and energies each; for both, the sum of energies and three numbers or two of the shower.
        views, more = (2, 3) if config.units == "shares" else (1, 2)
        streams = [
            CriticStream(
                views * len(g.layers), g.shape, config.critic_channels, len(g.layers), norm=config.norm,
                minibatch=config.minibatch, periodic=g.periodic, fans=config.fans,
            )
            for g in self.groups
        ]  # fmt: skip
        self.critic = ImageCritic(streams, views * readout.n_layers, views + more, minibatch=config.minibatch)

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """Two fits, and the game."""
        return [
            CellScalesFit("scales", self.scales, self.threshold),
            SeparationsFit("separations", self.separations),
            _Game(self, training),
        ]

    # ---- generator ------------------------------------------------------------------------------------------------

    def latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers ``noise`` (N, latent)."""
        return normal_latents({"noise": self.config.latent}, conditions, streams)

    def _log_energy(self, incident_energy: Tensor) -> Tensor:
        return torch.log10(incident_energy.double() / self.reference).to(self.dtype)

    def _unit(self, incident_energy: Tensor) -> Tensor:
        """Energy of a voxel of value 1 in an image, (N, V), MeV."""
        if self.config.units == "GeV":
            return incident_energy.new_full((1, 1), GeV).to(self.dtype)
        return (incident_energy.double()[:, None] * self.scales.cells.double()).to(self.dtype)

    def make(self, noise: Tensor, incident_energy: Tensor, direction: Tensor | None) -> Tensor:
        """Deposits (N, V), MeV, with gradients, from random numbers (N, latent), energies (N,), MeV, and directions (N, 3)."""
        images = self.generator(self.given(noise, incident_energy, direction))
        return torch.cat([image.flatten(1) for image in images], dim=1) * self._unit(incident_energy)

    def given(self, noise: Tensor, incident_energy: Tensor, direction: Tensor | None) -> Tensor:
        """What the generator is given; arguments as for :meth:`make`."""
        if self.config.conditioning == "product":
            return noise * (incident_energy / (100 * GeV)).to(noise)[:, None]
        across = noise.new_zeros(len(noise), 2) if direction is None else direction[:, :2].to(noise)
        return torch.cat([noise, self._log_energy(incident_energy)[:, None], across], dim=1)

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Voxels; a shower is valid if it is finite."""
        noise = latents["noise"].to(self.dtype)
        made = self.make(noise, conditions["incident_energy"], conditions["direction"]).float()
        good = made.isfinite().all(dim=1)
        deposits = torch.where(good[:, None] & (made >= self.threshold), made, 0.0)
        return {"deposits": deposits}, good

    # ---- critic ---------------------------------------------------------------------------------------------------

    def scores(self, deposits: Tensor, incident_energy: Tensor, direction: Tensor | None) -> Tensor:
        """Scores of showers (N, V), MeV: (N,), logits with ``cross-entropy``."""
        config, deposits = self.config, deposits.to(self.dtype)
        if self.threshold:
            # What is cut goes on pulling at the generator, or a dark cell would never light up.
            deposits = deposits + torch.where(deposits < self.threshold, -deposits, 0.0).detach()
        relative = deposits / self._unit(incident_energy)
        layers = self.sums(deposits)
        if config.units == "GeV":
            views = [group.images(relative) for group in self.groups]
            lit = self.sums((deposits > 0).to(self.dtype)) / self.cells.to(deposits)
            layers, total = layers / _LAYER_UNIT, layers.sum(dim=1) / _SUM_UNIT
            off = (layers.sum(dim=1) * _LAYER_UNIT - incident_energy.to(self.dtype)).abs() / GeV
            event = torch.stack([total, off, 10 * (off > _OFF / GeV).to(off)], dim=1)
        else:
            above = (deposits.clamp_min(0) / max(self.threshold, _FAINT)).clamp_min(1e-30).log()
            views = [
                torch.cat([g.images(relative.clamp_min(0).log1p()), g.images(above.relu() / _LOG_UNIT)], dim=1)
                for g in self.groups
            ]
            # Lit or not, forward; backward as if a cell lit up gradually.
            gradual = torch.sigmoid(2 * above)
            lit = self.sums(gradual + ((above >= 0).to(gradual) - gradual).detach()) / self.cells.to(deposits)
            layers, event = self._energies(layers, incident_energy, direction)
        shares = [lit[:, g.layers[0] : g.layers[-1] + 1] for g in self.groups]
        scores: Tensor = self.critic(views, shares, layers, event)
        return scores

    def _energies(self, layers: Tensor, incident_energy: Tensor, direction: Tensor | None) -> tuple[Tensor, Tensor]:
        """Energies of layers (N, 2 L), and of the shower with its condition (N, 5), each relative and as a logarithm."""
        shares = self.scales.shares.to(layers)
        share = layers / incident_energy.to(layers)[:, None]
        relative, total = share / shares, (share.sum(dim=1, keepdim=True) / shares.sum())
        across = layers.new_zeros(len(layers), 2) if direction is None else direction[:, :2].to(layers)
        each = torch.cat([relative, (relative + 1e-3).log() / _LOG_UNIT], dim=1)
        event = [total, 4 * (total + 1e-3).log(), self._log_energy(incident_energy)[:, None], across]
        return each, torch.cat(event, dim=1)

    def energy_loss(self, made: Tensor, real: Tensor, incident_energy: Tensor) -> Tensor:
        """See ``energy_loss`` of the configuration; showers (N, V) made with these incident energies (N,), and real ones."""
        if self.config.energy_loss == "absolute":
            return (made.sum(dim=1) - incident_energy.to(made)).abs().mean() / GeV
        found = []
        for deposits in (made, real.to(made)):
            share = gathered(self.sums(deposits) / incident_energy.to(made)[:, None])
            each = torch.cat([share.sum(dim=1, keepdim=True), share], dim=1)
            centred = each - each.mean(dim=0)
            # The root has no derivative at 0, where a layer that is never lit lies.
            found.append((each.mean(dim=0), (centred.square().mean(dim=0) + 1e-12).sqrt()))
        scale = torch.cat([self.scales.shares.sum()[None], self.scales.shares]).to(made)
        means = (found[0][0] - found[1][0]).abs() / scale
        widths = (found[0][1] - found[1][1]).abs() / (found[1][1] + _LEAST_WIDTH * scale)
        return means[0] + means[1:].mean() + widths[0] + widths[1:].mean()

    def describe_representation(self) -> dict[str, Any]:
        """Units, and which layers a stream makes together."""
        return {
            "images": "GeV" if self.config.units == "GeV" else "share of the incident energy over the cell's usual one",
            "mean_shares": [round(float(value), 6) for value in self.scales.shares],
            "streams": [list(group.layers) for group in self.groups],
            "threshold_MeV": self.threshold,
        }


class _Game(GradientStage):
    """Generator against critic; the weights are chosen by separation powers."""

    metric = "separation"

    def __init__(self, model: CaloGAN, training: TrainingConfig) -> None:
        parts = {"generator": model.generator, "critic": model.critic}
        super().__init__("game", parts, training.for_stage("game"), needs=("scales", "separations"))
        self.model = model

    @property
    def players(self) -> tuple[Player, ...]:
        """The critic, then the generator."""
        model, own, game = self.model, self.training, self.model.config.game
        slow = optimiser_at(own, game.critic_rate)
        return (
            Player("critic", tuple(model.critic.parameters()), slow, own.schedule, game.critic_steps),
            Player("generator", tuple(model.generator.parameters()), own.optimiser, own.schedule, game.generator_steps),
        )

    def prepare(self, data: TrainingData, streams: Streams) -> None:
        """See :meth:`caloforge.stage.GradientStage.prepare`; with ``start`` marginals the last layers are scaled."""
        model = self.model
        if model.config.start == "random":
            return
        energies = collect_rows(data, _START_ROWS, lambda batch: batch.incident_energy.double()[:, None])[:, 0]
        noise = streams.child("start").normal(np.arange(len(energies)), model.config.latent)
        # Directions are left out: what they do is learnt.
        x = model.given(torch.from_numpy(noise).to(model.device, model.dtype), energies, None)
        places = model.scales.places()[None]
        model.generator.train()
        for stream, group in zip(model.generator.streams, model.groups, strict=True):
            assert isinstance(stream, GeneratorStream)
            stream.start(x, group.images(places)[0])

    def _asked(self, batch: TrainingBatch, streams: Streams) -> Tensor:
        """Incident energies of the generated showers, (B,), MeV."""
        gun = self.model.detector.gun
        if self.model.config.energies == "data" or gun is None:
            return batch.incident_energy
        low, high = gun.spectrum.minimum, gun.spectrum.maximum
        share = streams.child("energy").uniform(batch.row.numpy(), 1, batch.epoch)[:, 0]
        return torch.from_numpy(low + (high - low) * share).to(batch.incident_energy)

    def _made(self, batch: TrainingBatch, streams: Streams, incident_energy: Tensor) -> Tensor:
        noise = rows_of(self.model, batch, streams, "noise", self.model.config.latent)
        return self.model.make(noise, incident_energy, batch.direction)

    @contextmanager
    def _at_rest(self) -> Iterator[None]:
        """Batch norms of the generator take their moving averages, if so asked."""
        generator = self.model.generator
        training = generator.training
        generator.train(training and self.model.config.fakes == "batch")
        try:
            yield
        finally:
            generator.train(training)

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.loss`."""
        model, game = self.model, self.model.config.game
        asked, real = self._asked(batch, streams), deposits_of(batch)
        if player == "generator":
            made = self._made(batch, streams, asked)
            scores = model.scores(made, asked, batch.direction)
            energy = model.energy_loss(made, real, asked)
            loss = generator_loss(game.loss, scores)
            return {"loss": loss + model.config.energy_weight * energy, "energy": energy.detach()}
        with torch.no_grad(), self._at_rest():
            made = self._made(batch, streams, asked)
        right, wrong = (
            model.scores(real, batch.incident_energy, batch.direction),
            model.scores(made, asked, batch.direction),
        )
        loss = critic_loss(game.loss, right, wrong)
        if game.penalty:
            mix = mixing_numbers(model, batch, streams)
            # In units in which no layer and no energy is louder than another.
            unit = model._unit(batch.incident_energy)
            loss = loss + game.penalty * gradient_penalty(
                lambda x: model.scores(x * unit, batch.incident_energy, batch.direction),
                real.to(made) / unit, made / model._unit(asked), mix,
            )  # fmt: skip
        return {"loss": loss, "margin": (right.mean() - wrong.mean()).detach()}

    def validate(self, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.validate`."""
        return self.model.separations.means(batch, generated_of(self.model, batch, streams))

    def conclude(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.conclude`."""
        return self.model.separations.conclude(means)
