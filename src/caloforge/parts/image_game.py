"""Generator of images of layers against critic, as in CaloGAN (arXiv:1712.10321): their energies, and how both are trained."""

from __future__ import annotations

import math
from abc import abstractmethod
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Annotated, Literal

import numpy as np
import torch
from pydantic import Field, field_validator
from torch import Tensor
from torch.nn import functional

from caloforge.detectors import Detector, particle_id, particle_name
from caloforge.errors import UsageError
from caloforge.models import ModelConfig, ShowerModel
from caloforge.nn.batch_layers import gathered
from caloforge.nn.detector_images import GeneratorStream, ImageCritic, ImageGenerator
from caloforge.nn.discrepancy import energy_distance
from caloforge.parts.adversarial import (
    AdversarialSettings,
    critic_loss,
    generator_loss,
    gradient_penalty,
    mixing_numbers,
    optimiser_at,
    rows_of,
)
from caloforge.parts.cell_scales import CellScales
from caloforge.parts.rows import collect_rows
from caloforge.parts.separations import Separations, generated_of
from caloforge.parts.shower_images import ShowerImages
from caloforge.random import Streams
from caloforge.stage import GradientStage, Player, TrainingBatch, TrainingConfig, TrainingData, deposits_of
from caloforge.units import GeV
from caloforge.validation import Size

__all__ = [
    "ImageGame",
    "ImageGameConfig",
    "ImageGameModel",
    "absolute_difference",
    "moment_difference",
    "shape_distance",
]

#: Widths of energies are compared relative to the real one and this share of the mean.
_LEAST_WIDTH = 1e-2
#: Least median of the deposited over the incident energy.
_LEAST_SHARE = 1e-6
#: Rows from which the generator's last layers are scaled.
_START_ROWS = 512


class ImageGameConfig(ModelConfig):
    """What the game needs to know of a configuration.

    Attributes:
        latent: random numbers of a shower.
        start: initial weights of the generator: ``random``; or such that the cells begin with the mean and the share of
            lit ones of the training showers (``marginals``), as positive parts of normal numbers.
        energies: incident energies of generated showers in training: ``uniform`` over the gun's range, or those of the ``data``.
        energy_loss: ``absolute``: mean of abs(deposited - incident energy), GeV; ``moments``: relative differences of means
            and standard deviations of energies, in all and by layer, between generated and real showers of the batch;
            ``distance``: energy distances of the observables of ``separations`` between them.
        energy_weight: its weight.
        layer_energies: sums of the ``images``; or from a small network of the same random numbers and conditions (``head``),
            and the images of a layer are scaled to them.
        fakes: averages in the batch norms of the generator when the critic is trained: ``moving``, or those of the ``batch``.
        game: losses and steps.
        particles: names of the particles that one network makes; none for that of the data.
        type_weight: with several particles, weight of the cross-entropy of the critic's guess which of them a shower is of.
        type_flips: share of the generated showers that the critic is told to be of another particle.
    """

    latent: Size = 1024
    start: Literal["random", "marginals"] = "marginals"
    energies: Literal["uniform", "data"] = "data"
    energy_loss: Literal["absolute", "moments", "distance"] = "distance"
    energy_weight: Annotated[float, Field(ge=0)] = 0.05
    layer_energies: Literal["images", "head"] = "head"
    fakes: Literal["moving", "batch"] = "batch"
    game: AdversarialSettings = AdversarialSettings(critic_rate=0.1, generator_steps=2)
    particles: tuple[str, ...] = ()
    type_weight: Annotated[float, Field(ge=0)] = 0.2
    type_flips: Annotated[float, Field(ge=0, le=1)] = 0.3

    @field_validator("particles", mode="before")
    @classmethod
    def _named(cls, particles: object) -> object:
        """One name for each particle, whatever it was called."""
        if not isinstance(particles, list | tuple):
            return particles
        try:
            named = tuple(particle_name(particle_id(str(particle))) for particle in particles)
        except UsageError as error:
            raise ValueError(str(error)) from None
        if len(set(named)) != len(named):
            raise ValueError("a particle is named twice")
        if len(named) == 1:
            raise ValueError("one particle is that of the data and needs no name; expected none, or two and more")
        return named


class ImageGameModel(ShowerModel):
    """A model that makes images of layers and has a critic for them.

    Attributes:
        generator: numbers of a shower to images.
        critic: scores of what is seen of showers.
        images: units of the images, and what the critic sees.
        scales: what is usual in each cell and layer.
        separations: by which the weights are chosen.
    """

    config: ImageGameConfig
    generator: ImageGenerator
    critic: ImageCritic
    images: ShowerImages
    scales: CellScales
    separations: Separations
    _pdg: Tensor
    takes_particles = True

    def __init__(self, config: ImageGameConfig, detector: Detector) -> None:
        super().__init__(config, detector)
        self.particles = tuple(map(particle_id, config.particles))
        self.register_buffer("_pdg", torch.tensor(self.particles, dtype=torch.int64), persistent=False)

    def types(self, particle: Tensor | None) -> Tensor | None:
        """Types of showers, one-hot (N, particles), of PDG ids (N,); None for a model of one particle.

        Raises:
            UsageError: if nobody says which particles they are.
        """
        if not self.particles:
            return None
        if particle is None:
            raise UsageError("the model makes showers of several particles, and nothing says of which these are")
        return (particle[:, None] == self._pdg).to(self.dtype)

    @abstractmethod
    def given(
        self, noise: Tensor, incident_energy: Tensor, direction: Tensor | None, types: Tensor | None = None
    ) -> Tensor:
        """What the generator is given; arguments as for :meth:`make`."""

    def make(
        self, noise: Tensor, incident_energy: Tensor, direction: Tensor | None, types: Tensor | None = None
    ) -> Tensor:
        """Deposits (N, V), MeV, with gradients.

        Args:
            noise: random numbers (N, latent).
            incident_energy: (N,), MeV.
            direction: (N, 3), or None.
            types: see :meth:`types`.
        """
        given = self.given(noise, incident_energy, direction, types)
        images = self.generator(given)
        unit = self.images.unit(incident_energy, self.dtype)
        deposits = torch.cat([image.flatten(1) for image in images], dim=1) * unit
        if self.generator.head is None:
            return deposits
        sums = self.scales.sums
        # A layer without any deposit, which a network may begin with, becomes the mean one.
        empty = sums.spread(sums(deposits) <= 0)
        deposits = torch.where(empty, unit, deposits)
        energies = self.layer_energies(given, incident_energy)
        return deposits * sums.spread(energies / sums(deposits))

    def layer_energies(self, given: Tensor, incident_energy: Tensor) -> Tensor:
        """Energies of the layers (N, L), MeV, of what the generator is given, with its ``head``.

        The energy of the shower over that of the particle is the median of the training showers times the exponential of a
        number, in units of the relative distance between the outer edges of ``separations``. The layers divide it among
        themselves by a softmax, which begins at their mean shares.
        """
        assert self.generator.head is not None
        numbers = self.generator.head(given)
        edges = self.separations.edges[0].to(numbers)
        middle = edges[len(edges) // 2].clamp_min(_LEAST_SHARE)
        total = middle * torch.exp(numbers[:, :1] * (edges[-1] - edges[0]) / middle)
        shares = torch.softmax(self.scales.shares.to(numbers).log() + numbers[:, 1:], dim=1)
        return total * shares * incident_energy.to(numbers)[:, None]

    def scores(self, deposits: Tensor, incident_energy: Tensor, direction: Tensor | None) -> Tensor:
        """Scores of showers (N, V), MeV: (N,), logits with ``cross-entropy``."""
        return self.guesses(deposits, incident_energy, direction)[0]

    def guesses(
        self, deposits: Tensor, incident_energy: Tensor, direction: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Scores as from :meth:`scores`, and logits of the types (N, particles) or None."""
        found: tuple[Tensor, Tensor | None]
        found = self.critic(*self.images.view(deposits.to(self.dtype), incident_energy, direction))
        return found

    def energy_loss(self, made: Tensor, real: Tensor, incident_energy: Tensor, types: Tensor | None = None) -> Tensor:
        """See ``energy_loss`` of the configuration; showers (N, V) made with these energies (N,) and types, and real ones."""
        if self.config.energy_loss == "absolute":
            return absolute_difference(made, incident_energy)
        if self.config.energy_loss == "distance":
            return shape_distance(self.separations, made, real, incident_energy, types)
        return moment_difference(self.scales, made, real, incident_energy, types)


def absolute_difference(made: Tensor, incident_energy: Tensor) -> Tensor:
    """Mean of abs(deposited - incident energy), GeV (arXiv:1712.10321), of deposits (N, V) and energies (N,), MeV."""
    return (made.sum(dim=1) - incident_energy.to(made)).abs().mean() / GeV


def moment_difference(
    scales: CellScales, made: Tensor, real: Tensor, incident_energy: Tensor, types: Tensor | None = None
) -> Tensor:
    """Relative differences of means and of widths of energies, in all and as a mean over layers, added up.

    With types of showers a sum over these, each as much as it has rows.

    Args:
        scales: mean shares of the layers.
        made: generated showers, (N, V), MeV.
        real: real ones of the same incident energies, (N, V), MeV.
        incident_energy: (N,), MeV.
        types: one-hot (N, types).
    """
    shares = []
    for deposits in (made, real.to(made)):
        share = gathered(scales.sums(deposits) / incident_energy.to(made)[:, None])
        shares.append(torch.cat([share.sum(dim=1, keepdim=True), share], dim=1))
    scale = torch.cat([scales.shares.sum()[None], scales.shares]).to(made)
    if types is None:
        return _moments_apart(shares[0], shares[1], scale)
    rows = gathered(types.to(made))
    apart = [_moments_apart(shares[0], shares[1], scale, own[:, None]) * own.mean() for own in rows.T]
    return torch.stack(apart).sum()


def _moments_apart(made: Tensor, real: Tensor, scale: Tensor, weight: Tensor | None = None) -> Tensor:
    """The difference of shares in all and by layer, (N, 1 + L) each, of rows with a weight (N, 1) of 0 or 1."""

    def mean(values: Tensor) -> Tensor:
        if weight is None:
            return values.mean(dim=0)
        return (weight * values).sum(dim=0) / weight.sum().clamp_min(1)

    found = []
    for each in (made, real):
        centred = each - mean(each)
        # The root has no derivative at 0, where a layer that is never lit lies.
        found.append((mean(each), (mean(centred.square()) + 1e-12).sqrt()))
    means = (found[0][0] - found[1][0]).abs() / scale
    widths = (found[0][1] - found[1][1]).abs() / (found[1][1] + _LEAST_WIDTH * scale)
    return means[0] + means[1:].mean() + widths[0] + widths[1:].mean()


def shape_distance(
    separations: Separations, made: Tensor, real: Tensor, incident_energy: Tensor, types: Tensor | None = None
) -> Tensor:
    """How far energies, lit cells and shapes of generated showers are from those of real ones: energy distances, without bias.

    A mean over the observables of the distance in the plane of each and the logarithm of the incident energy, and one of all
    together, over the root of their number. Types of showers are further coordinates, so showers of one are no neighbours of
    those of another.

    Args:
        separations: says which observables, and their scales.
        made: generated showers, (N, V), MeV.
        real: real ones of the same incident energies, (N, V), MeV.
        incident_energy: (N,), MeV.
        types: one-hot (N, types).
    """
    given = (incident_energy / GeV).log10().to(made)[:, None]
    if types is not None:
        given = torch.cat([given, types.to(made)], dim=1)
    found = []
    for deposits in (made, real.to(made)):
        each = separations.scaled(deposits, incident_energy).to(made)
        found.append(gathered(torch.cat([each, given], dim=1)))
    seen = found[0].shape[1] - given.shape[1]
    planes = [torch.cat([x[:, :seen].T[..., None], x[:, seen:].expand(seen, -1, -1)], dim=2) for x in found]
    together = energy_distance(found[0], found[1]) / math.sqrt(found[0].shape[1])
    return energy_distance(planes[0], planes[1]).mean() + together


class ImageGame(GradientStage):
    """Generator against critic; the weights are chosen by separation powers.

    Args:
        model: whose generator and critic.
        training: of the whole model; the stage is called ``game``.
    """

    metric = "separation"

    def __init__(self, model: ImageGameModel, training: TrainingConfig) -> None:
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

        def asked(batch: TrainingBatch) -> Tensor:
            types = model.types(batch.particle)
            energy = batch.incident_energy.double()[:, None]
            return energy if types is None else torch.cat([energy, types.double()], dim=1)

        rows = collect_rows(data, _START_ROWS, asked)
        energies, types = rows[:, 0], rows[:, 1:].to(model.dtype) if model.particles else None
        noise = streams.child("start").normal(np.arange(len(energies)), model.config.latent)
        # Directions are left out: what they do is learnt.
        x = model.given(torch.from_numpy(noise).to(model.device, model.dtype), energies, None, types)
        places = model.scales.places()[None]
        model.generator.train()
        for stream, group in zip(model.generator.streams, model.images.groups, strict=True):
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
        return self.model.make(noise, incident_energy, batch.direction, self.model.types(batch.particle))

    def _told(self, types: Tensor, batch: TrainingBatch, streams: Streams) -> Tensor:
        """Types (B, particles) that the critic is told of generated showers: sometimes another one, at random."""
        numbers = streams.child("types").uniform(batch.row.numpy(), 2, batch.epoch)
        others = types.shape[1] - 1
        steps = torch.from_numpy((numbers[:, 1] * others).astype(np.int64) + 1).to(types.device)
        flipped = torch.from_numpy(numbers[:, 0] < self.model.config.type_flips).to(types.device)
        number = (types.argmax(dim=1) + steps * flipped) % types.shape[1]
        return functional.one_hot(number, types.shape[1]).to(types)

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
        types, weight = model.types(batch.particle), model.config.type_weight
        if player == "generator":
            made = self._made(batch, streams, asked)
            scores, guess = model.guesses(made, asked, batch.direction)
            energy = model.energy_loss(made, real, asked, types)
            loss = generator_loss(game.loss, scores) + model.config.energy_weight * energy
            if types is None or guess is None:
                return {"loss": loss, "energy": energy.detach()}
            mistaken = functional.cross_entropy(guess, types)
            return {"loss": loss + weight * mistaken, "energy": energy.detach(), "types": mistaken.detach()}
        with torch.no_grad(), self._at_rest():
            made = self._made(batch, streams, asked)
        right, guess = model.guesses(real, batch.incident_energy, batch.direction)
        wrong, guess_of_made = model.guesses(made, asked, batch.direction)
        loss = critic_loss(game.loss, right, wrong)
        more = {}
        if types is not None and guess is not None and guess_of_made is not None:
            mistaken = functional.cross_entropy(guess, types)
            told = self._told(types, batch, streams)
            loss = loss + weight * (mistaken + functional.cross_entropy(guess_of_made, told))
            more["types"] = mistaken.detach()
        if game.penalty:
            mix = mixing_numbers(model, batch, streams)
            # In units in which no layer and no energy is louder than another.
            unit = model.images.unit(batch.incident_energy, model.dtype)
            loss = loss + game.penalty * gradient_penalty(
                lambda x: model.scores(x * unit, batch.incident_energy, batch.direction),
                real.to(made) / unit, made / model.images.unit(asked, model.dtype), mix,
            )  # fmt: skip
        return {"loss": loss, "margin": (right.mean() - wrong.mean()).detach()} | more

    def validate(self, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.validate`."""
        model = self.model
        return model.separations.means(batch, generated_of(model, batch, streams), model.types(batch.particle))

    def conclude(self, means: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """See :meth:`caloforge.stage.GradientStage.conclude`."""
        return self.model.separations.conclude(means)
