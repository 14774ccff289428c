"""What every model is: conditions and latents in, showers out; a frozen configuration; stages of training.

A model's file holds its configuration class and its network class. All randomness of a shower is drawn in ``latents``, from its
own streams; ``decode_tensors`` is a pure function of tensors, so it can be exported. A model may find a shower invalid; whoever
called draws it again with the next attempt.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, Self, cast, final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn

from caloforge.conditions import ConditionRange, Conditions
from caloforge.detectors import Detector, particle_name, particle_names
from caloforge.errors import ConfigError, UsageError
from caloforge.models.profiles import Difference, Profile, deviations
from caloforge.models.record import ModelRecord
from caloforge.nn.weights import first_parameter
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import GradientStage, Stage, TrainingConfig, TrainingData
from caloforge.validation import Settings, validated

__all__ = ["Helper", "Latents", "ModelConfig", "ShowerModel"]

#: Random inputs of a batch of showers by name; in every tensor the first axis counts showers, or the model says how.
Latents = dict[str, Tensor]


class ModelConfig(Settings):
    """The ``model`` section of a preset."""


class Helper(Protocol):
    """What a model knows of the aids that were given to it; see :class:`caloforge.models.aid.Aid`."""

    kind: str
    rejects: bool
    follows: bool

    def before_training(self, model: Any, stage: GradientStage, data: TrainingData, streams: Streams) -> None:
        """Set initial weights of a stage."""
        ...

    def stages(self, model: Any) -> list[Stage]:
        """Stages of its own."""
        ...

    def latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Random numbers of its own."""
        ...

    def accepts(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor], output: Mapping[str, Tensor]
    ) -> Tensor | None:
        """Which showers may stay; None for all."""
        ...

    def log_factor(self, showers: Showers | ShowerPoints) -> Tensor | None:
        """What it adds to the logarithm of the density; None for nothing."""
        ...

    def constants(self) -> dict[str, Tensor] | None:
        """What a compiled decoder needs to know of it; None if none knows it."""
        ...

    def describe(self) -> dict[str, Any]:
        """Its kind and settings."""
        ...


class ShowerModel(nn.Module, ABC):
    """A generative model of calorimeter showers.

    Args:
        config: the model's configuration, of the class's own ``Config``.
        detector: the calorimeter whose showers it makes.

    Attributes:
        kind: name of the kind: that of its file with dashes, or the one under which it was registered.
        Config: class of the configuration.
        differences: what it does otherwise than its publication; its profiles are made from them.
        inputs: names of other models that training needs (``teacher``); see :meth:`attach`.
        has_likelihood: whether :meth:`log_prob` works.
        takes_particles: whether models of this kind can be of several particles.
        shower_kind: what the model learns and makes: showers on the detector's voxels, or points. A kind that does either has
            ``voxels``, and its models say what they are.
        needs_training: whether it must see showers before it makes any; see :meth:`untrained_range`.
        adjustable: keys of the configuration that may be changed after training (how many sampling steps, say); aids that
            have showers drawn again can be switched off besides.
        options: which of them were changed, and to what; see :meth:`adjust`.
        record: what the model's directory says about it; None for a model that was not loaded from one.
        directory: that directory.
        profile: what the switches of its configuration follow.
        aids: what helps it that stands in no paper, by kind.
        particles: PDG ids of the particles of a model of several, which batches and conditions name; the first is made if nobody
            says which. Empty for a model of one, whatever it is.
    """

    kind: ClassVar[str]
    Config: ClassVar[type[Settings]]
    differences: ClassVar[tuple[Difference, ...]] = ()
    inputs: ClassVar[tuple[str, ...]] = ()
    has_likelihood: ClassVar[bool] = False
    takes_particles: ClassVar[bool] = False
    shower_kind: Literal["voxels", "points"] = "voxels"
    needs_training: ClassVar[bool] = True
    adjustable: ClassVar[frozenset[str]] = frozenset()

    _place: Tensor

    def __init__(self, config: Settings, detector: Detector) -> None:
        super().__init__()
        self.config = config
        self.detector = detector
        self.options: dict[str, Any] = {}
        self.record: ModelRecord | None = None
        self.directory: Path | None = None
        self._trainable: int | None = None
        # A parametrisation has no parameters, and yet has a place and a precision; this goes wherever the model goes.
        self.register_buffer("_place", torch.empty(0), persistent=False)
        self.profile: Profile = "improved"
        self.aids = nn.ModuleDict()
        self.particles: tuple[int, ...] = ()

    @classmethod
    def settled(cls, config: Settings, detector: Detector, inputs: Mapping[str, ShowerModel]) -> Settings:
        """The configuration after a look at the models that it is trained from; the same one by default.

        Args:
            config: as the preset says.
            detector: the calorimeter.
            inputs: those of ``inputs`` that are there, by name.

        Raises:
            UsageError: if one of them does not fit.
            ConfigError: if the configuration contradicts one.
        """
        return config

    @abstractmethod
    def stages(self, training: TrainingConfig) -> list[Stage]:
        """What is trained, in an order that respects the needs of every stage.

        Args:
            training: the training section of the preset; the stages carry what concerns them.
        """

    @final
    def training_stages(self, training: TrainingConfig) -> list[Stage]:
        """All that is trained: the model's own stages and those of its aids, each right behind the last that it needs.

        Args:
            training: see :meth:`stages`.
        """
        stages = self.stages(training)
        for helper in self.helpers():
            for added in helper.stages(self):
                places = [number for number, stage in enumerate(stages) if stage.name in added.needs]
                stages.insert(max(places, default=-1) + 1, added)
                for stage in stages:
                    if stage.name in added.needed_by:
                        stage.needs = (*stage.needs, added.name)
        for stage in stages:
            if isinstance(stage, GradientStage):
                stage.before = tuple(partial(helper.before_training, self) for helper in self.helpers())
        return stages

    @final
    def helpers(self) -> Sequence[Helper]:
        """The aids that were given to the model and are not switched off."""
        off = self.switched_off
        return tuple(cast("Helper", aid) for kind, aid in self.aids.items() if kind not in off)

    @property
    def switched_off(self) -> frozenset[str]:
        """Kinds of its aids that it does without; see :meth:`adjust`."""
        return frozenset(kind for kind in self.aids if self.options.get(kind) is False)

    @final
    def described_profile(self) -> str:
        """Profile, and the switches that differ from it, for people."""
        changed = deviations(self.differences, self.profile, self.config)
        return self.profile if not changed else f"{self.profile}, but {', '.join(changed)}"

    @final
    def described(self) -> dict[str, Any]:
        """What generated showers say of how they were made, JSON values: ``kind``, ``profile``, ``aids``, maybe ``options``."""
        found = {
            "kind": self.kind,
            "profile": self.described_profile(),
            "aids": [helper.describe() for helper in self.helpers()],
        }
        return found | ({"options": dict(self.options)} if self.options else {})

    @final
    def latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Draw all random numbers of some showers: the model's own, and those of its aids.

        Args:
            conditions: the showers; their numbers and attempts address the streams.
            streams: random streams of the generation.

        Returns:
            Tensors in CPU memory, bit-equal for a shower whatever else is in the batch.

        Raises:
            UsageError: if it is a model of several particles, and these are of another one.
        """
        self.check_particle(conditions.particle)
        drawn = self.own_latents(conditions, streams)
        for helper in self.helpers():
            drawn |= helper.latents(conditions, streams)
        return drawn

    @final
    def check_particle(self, particle: int) -> None:
        """Refuse a particle that a model of several does not make; there is nothing to extrapolate.

        Args:
            particle: PDG id.

        Raises:
            UsageError: naming those that it makes.
        """
        if self.particles and particle not in self.particles:
            made = particle_names(self.particles)
            raise UsageError(f"the model makes showers of {made}, not of {particle_name(particle)}")

    @abstractmethod
    def own_latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Draw the random numbers that :meth:`decode_tensors` needs; as :meth:`latents`."""

    @abstractmethod
    def decode_tensors(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """Turn conditions and latents into showers: a pure function of tensors on the model's device.

        Args:
            conditions: as from :meth:`Conditions.tensors`.
            latents: as from :meth:`latents`.

        Returns:
            Voxel models give ``deposits`` (N, V) in MeV, point models ``offsets`` (N + 1,) and ``points`` (M, 4 or 5)
            as in ``ShowerPoints``; then whether each shower is valid, bool (N,). A shower that is not valid still has
            finite, non-negative energies.
        """

    @final
    def judged(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor]
    ) -> tuple[dict[str, Tensor], Tensor]:
        """As :meth:`decode_tensors`; a shower that an aid does not accept is not valid."""
        output, valid = self.decode_tensors(conditions, latents)
        for helper in self.helpers():
            accepted = helper.accepts(conditions, latents, output)
            valid = valid if accepted is None else valid & accepted
        return output, valid

    @final
    def judges(self) -> Sequence[str]:
        """Kinds of its aids that do not accept every shower, so that whoever decodes must be able to draw again."""
        return [helper.kind for helper in self.helpers() if helper.rejects]

    @final
    def with_factors(self, log_prob: Tensor, showers: Showers | ShowerPoints) -> Tensor:
        """A log-density of some showers, float64 (N,), nats, and what its aids add to it."""
        for helper in self.helpers():
            factor = helper.log_factor(showers)
            log_prob = log_prob if factor is None else log_prob + factor
        return log_prob

    @final
    @torch.no_grad()
    def decode(self, conditions: Conditions, latents: Latents) -> tuple[Showers | ShowerPoints, NDArray[np.bool_]]:
        """Turn conditions and latents into showers.

        Args:
            conditions: the showers.
            latents: their random numbers, from :meth:`latents`.

        Returns:
            The showers (energies in MeV) and whether each is valid, bool (N,). Invalid ones are to be drawn again
            with ``conditions.again()``.
        """
        device = self.device
        moved = {name: value.to(device) for name, value in latents.items()}
        output, valid = self.judged(conditions.tensors(device), moved)
        arrays = {name: value.cpu().numpy() for name, value in output.items()}
        good: NDArray[np.bool_] = valid.cpu().numpy()
        readout = self.detector.readout
        if "points" in arrays:
            points = ShowerPoints(
                arrays["offsets"].astype(np.int64, copy=False),
                arrays["points"].astype(np.float32, copy=False),
                conditions.incident_energy,
                conditions.particle,
                readout,
                conditions.direction,
            )
            return points, good
        deposits = arrays["deposits"].astype(np.float32, copy=False)
        showers = Showers(deposits, conditions.incident_energy, conditions.particle, readout, conditions.direction)
        return showers, good

    def log_prob(
        self, showers: Showers | ShowerPoints, streams: Streams, *, draws: int = 1, first_row: int = 0
    ) -> Tensor:
        """Logarithm of the probability density of showers, nats.

        Args:
            showers: the showers, as they come from a file; deposits below the threshold are cut first if the model was
                trained so.
            streams: random streams for training noise, addressed by the number of the shower and of the draw.
            draws: how many draws of the noise are averaged (over the density, not its logarithm).
            first_row: number of the first shower, for a file that is read in blocks.

        Returns:
            float64 (N,), in CPU memory; the model's page in the documentation says in which variables.

        Raises:
            UsageError: if the model has no likelihood, the showers have another readout, or fewer than one draw is
                asked for.
        """
        raise UsageError(f"the model '{self.kind}' has no likelihood")

    def untrained_range(self, particle: int) -> ConditionRange:
        """Conditions under which it makes showers without having seen any.

        Args:
            particle: PDG id.

        Raises:
            UsageError: if it needs training, or does not know the particle.
        """
        raise UsageError(f"the model '{self.kind}' makes no showers without training")

    def describe_representation(self) -> dict[str, Any]:
        """How showers become numbers, in words and numbers, for ``model.json``; JSON values only."""
        return {}

    def attach(self, name: str, model: ShowerModel) -> None:
        """Take another model as an input of training.

        Args:
            name: one of ``inputs``.
            model: the other model; it is not changed.

        Raises:
            UsageError: if this model takes no such input, or the other one does not fit.
        """
        raise UsageError(f"the model '{self.kind}' takes no other model as '{name}'")

    @final
    def adjust(self, options: Mapping[str, Any]) -> None:
        """Change how a trained model samples.

        Args:
            options: some of the keys in ``adjustable``, with plain values; and aids that have showers drawn again, with
                false to do without, true to do with them.

        Raises:
            UsageError: if a key is not one of them.
            ConfigError: if a value is wrong.
        """
        switches = {kind for kind, aid in self.aids.items() if cast("Helper", aid).rejects}
        for key, value in options.items():
            if key not in self.adjustable | switches:
                known = ", ".join(sorted(self.adjustable | switches)) or "none"
                raise UsageError(f"the model '{self.kind}' has no option '{key}', its options are: {known}")
            if key in switches and not isinstance(value, bool):
                raise ConfigError(f"options of the model '{self.kind}': {key} is {value!r}, expected true or false")
        changed = self.config.model_dump() | {key: value for key, value in options.items() if key not in switches}
        self.config = validated(type(self).Config, changed, where=f"options of the model '{self.kind}'")
        self.options = self.options | dict(options)

    @property
    def device(self) -> torch.device:
        """Where the model is; it need not have parameters."""
        found = first_parameter(self)
        return (self._place if found is None else found).device

    @property
    def dtype(self) -> torch.dtype:
        """Precision in which the model computes: that of its parameters, if it has any."""
        found = first_parameter(self)
        return (self._place if found is None else found).dtype

    def parameter_count(self) -> int:
        """Number of trainable parameters, masked weights included (as all publications count)."""
        if self._trainable is not None:
            return self._trainable
        return sum(p.numel() for p in self.parameters() if p.requires_grad)

    def freeze(self) -> Self:
        """Take no gradients from now on; what could be trained until now still counts as such."""
        self._trainable = self.parameter_count()
        return self.requires_grad_(False)
