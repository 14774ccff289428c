"""CaloGAN: three image generators against one critic (M. Paganini, L. de Oliveira and B. Nachman, arXiv:1712.10321).

Every layer has a stream of locally connected layers, and is told what the layer before it looks like. The critic sees images,
lit cells and energies, and how much the showers of a batch are alike.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, Literal

import torch
from pydantic import Field, model_validator
from torch import Tensor, nn

from caloforge.conditions import Conditions
from caloforge.detectors import Detector
from caloforge.models import Difference, Latents
from caloforge.nn.detector_images import (
    CriticStream,
    EnergyHead,
    GeneratorStream,
    ImageCritic,
    ImageGenerator,
    InPainting,
    Norm,
)
from caloforge.nn.local import Fans
from caloforge.parts.cell_scales import CellScales, CellScalesFit
from caloforge.parts.checks import check_voxels
from caloforge.parts.flows import normal_latents
from caloforge.parts.image_game import ImageGame, ImageGameConfig, ImageGameModel
from caloforge.parts.layer_grids import Carry, LayerGroup, Resampling, layer_groups
from caloforge.parts.separations import Separations, SeparationsFit
from caloforge.parts.shower_images import ImageUnits, ShowerImages
from caloforge.random import Streams
from caloforge.representation import middle_energy
from caloforge.stage import Stage, TrainingConfig
from caloforge.units import GeV
from caloforge.validation import Count

__all__ = ["CaloGAN", "CaloGANConfig"]

#: Weights of all dense layers together, where their width is not given: the published ones have three times as many.
_DENSE_WEIGHTS = 1e7
_LEAST_CHANNELS, _MOST_CHANNELS = 4, 36


class CaloGANConfig(ImageGameConfig):
    """Configuration; the sizes are the published ones. The keys of the game, and these.

    Attributes:
        channels: of the images that the dense layers make; None takes as many, 4 to 36, as ten million weights allow.
        critic_channels: of the four convolutions of the critic.
        streams: most generator streams; where there are more layers, neighbours are channels of one.
        inpainting: whether layers see the layer before them.
        carry: how that gets onto their grid.
        conditioning: ``product``: random numbers times E / 100 GeV, with several particles also times numbers that belong to the
            particle; ``concatenated``: logarithm of E, direction and, with several particles, which it is (one-hot) beside them.
        units: of images: ``GeV``, or ``shares`` of the incident energy, over what is usual in each cell. The critic sees
            images and energies in these units, with ``shares`` also their logarithms and the incident energy.
        norm: of generator and critic.
        fans: how initial weights of locally connected layers are counted.
        minibatch: whether the critic compares the showers of a batch.
        cut: whether deposits below the detector's analysis threshold are 0, real ones and generated ones.
        incident_reference: incident energy whose logarithm is 0, MeV; None takes the logarithmic middle of the gun's.
    """

    channels: Count | None = 36
    critic_channels: tuple[Count, Count, Count, Count] = (64, 16, 8, 8)
    streams: Count = 8
    inpainting: bool = True
    carry: Carry = "conserving"
    conditioning: Literal["product", "concatenated"] = "concatenated"
    units: ImageUnits = "shares"
    norm: Norm = "batch"
    fans: Fans = "cell"
    minibatch: bool = True
    cut: bool = True
    incident_reference: Annotated[float, Field(gt=0)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> CaloGANConfig:
        if self.game.penalty and (self.norm == "batch" or self.minibatch):
            raise ValueError(
                "a gradient penalty wants every shower judged by itself, so 'norm' batch and 'minibatch' exclude it"
            )
        if self.units == "GeV" and self.start == "marginals":
            raise ValueError("images of GeV grow with the energy, so 'start' marginals needs 'units' shares")
        if self.units == "GeV" and self.layer_energies == "head":
            raise ValueError("layers that are scaled to energies of their own are shares, so 'units' must be shares")
        if self.energies == "uniform" and self.energy_loss != "absolute":
            raise ValueError("energies are compared at the same incident energies, so 'energies' must be data")
        return self


class CaloGAN(ImageGameModel):
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
            "energy distances of energies, lit cells, two brightest cells, centroids and widths from those of the "
            "batch, each with the incident energy and all together",
            "pions and visible energy deposit another, and fluctuating, share; what a batch lacks in rare showers is no bias",
            "energy_loss",
            ("absolute", "distance"),
        ),
        Difference(
            "energies of the layers",
            "sums of the images",
            "from a small network beside the images, which are scaled to them",
            "a layer fluctuates as a whole, and the response by one per cent; many cells learn both slowly",
            "layer_energies",
            ("images", "head"),
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
            "a variant: random numbers times an embedding of the type, which one unit of the critic guesses, of three types too",
            "with `particles` a unit for each type (in both profiles); the type one-hot beside the random numbers instead of the "
            "embedding",
            "one unit cannot tell three types; the authors found one network for each particle better",
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
        groups = layer_groups(readout, config.streams)
        if config.conditioning == "product" and config.units == "GeV":
            reference = config.incident_reference or 1.0  # no logarithm of the energy anywhere
        else:
            reference = config.incident_reference or middle_energy(detector)
        threshold = detector.analysis_threshold if config.cut else 0.0
        self.scales = CellScales(readout.layer_sizes)
        self.separations = Separations(detector, shapes=config.energy_loss == "distance")
        self.images = ShowerImages(
            readout, groups, self.scales, units=config.units, threshold=threshold, reference=reference
        )
        self.generator = self._generator(groups)
        views = self.images.per_layer
        streams = [
            CriticStream(
                views * len(g.layers), g.shape, config.critic_channels, len(g.layers), norm=config.norm,
                minibatch=config.minibatch, periodic=g.periodic, fans=config.fans,
            )
            for g in groups
        ]  # fmt: skip
        self.critic = ImageCritic(
            streams, views * readout.n_layers, self.images.per_event, minibatch=config.minibatch,
            types=len(config.particles),
        )  # fmt: skip

    def _generator(self, groups: list[LayerGroup]) -> ImageGenerator:
        config = self.config
        beside = config.conditioning == "concatenated"
        inputs = config.latent + (3 + len(config.particles) if beside else 0)
        places = sum((group.shape[0] + 2) * (group.shape[1] + 2) for group in groups)
        channels = config.channels or max(_LEAST_CHANNELS, min(_MOST_CHANNELS, int(_DENSE_WEIGHTS / (inputs * places))))
        following = groups[1:] if config.inpainting else []
        # Lists, since initial weights are drawn in this order.
        streams = [
            GeneratorStream(
                inputs, g.shape, len(g.layers), channels, norm=config.norm, fans=config.fans,
                bias=config.start == "marginals",
            )
            for g in groups
        ]  # fmt: skip
        painting = [InPainting(len(g.layers), g.shape, periodic=g.periodic, fans=config.fans) for g in following]
        carried = [
            Resampling(self.detector.readout, before.layers[-1], g.layers[0], config.carry)
            for before, g in zip(groups, following, strict=False)
        ]
        head = EnergyHead(inputs, self.detector.readout.n_layers) if config.layer_energies == "head" else None
        embedding = nn.Embedding(len(config.particles), config.latent) if config.particles and not beside else None
        if embedding is not None:
            nn.init.xavier_normal_(embedding.weight)
        return ImageGenerator(streams, painting, carried, head, embedding)

    def stages(self, training: TrainingConfig) -> list[Stage]:
        """Two fits, and the game."""
        return [
            CellScalesFit("scales", self.scales, self.images.threshold),
            SeparationsFit("separations", self.separations),
            ImageGame(self, training),
        ]

    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Standard normal numbers ``noise`` (N, latent)."""
        return normal_latents({"noise": self.config.latent}, conditions, streams)

    def given(
        self, noise: Tensor, incident_energy: Tensor, direction: Tensor | None, types: Tensor | None = None
    ) -> Tensor:
        """See :meth:`caloforge.parts.image_game.ImageGameModel.given`."""
        if self.config.conditioning == "product":
            scaled = noise * (incident_energy / (100 * GeV)).to(noise)[:, None]
            embedding = self.generator.embedding
            return scaled if types is None or embedding is None else scaled * (types @ embedding.weight)
        across = noise.new_zeros(len(noise), 2) if direction is None else direction[:, :2].to(noise)
        beside = [self.images.log_energy(incident_energy, self.dtype)[:, None], across]
        return torch.cat([noise, *beside, *([] if types is None else [types])], dim=1)

    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Voxels; a shower is valid if it is finite."""
        noise = latents["noise"].to(self.dtype)
        types = self.types(conditions.get("particle"))
        made = self.make(noise, conditions["incident_energy"], conditions["direction"], types).float()
        good = made.isfinite().all(dim=1)
        deposits = torch.where(good[:, None] & (made >= self.images.threshold), made, 0.0)
        return {"deposits": deposits}, good

    def describe_representation(self) -> dict[str, Any]:
        """Units, and which layers a stream makes together."""
        return {
            "images": "GeV" if self.config.units == "GeV" else "share of the incident energy over the cell's usual one",
            "mean_shares": [round(float(value), 6) for value in self.scales.shares],
            "streams": [list(group.layers) for group in self.images.groups],
            "threshold_MeV": self.images.threshold,
        }
