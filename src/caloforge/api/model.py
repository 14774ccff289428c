"""A trained model as people use it: load it, look at it, sample from it, ask it for a likelihood."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from caloforge import html
from caloforge.api.words import Energy, Like, wanted
from caloforge.detectors import Detector, load_detector, particle_name
from caloforge.errors import UsageError
from caloforge.generation import GenerationResult, borrowed, generate, generation_streams, sample_showers
from caloforge.models import ModelRecord, ShowerModel, card_rows, load_model, ready_model
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.training.processes import Processes
from caloforge.units import GeV, format_energy

__all__ = ["Model", "load"]


def load(
    where: str | Path,
    *,
    detector: Detector | str | Path | None = None,
    particle: str | int | None = None,
    points: bool = False,
    device: str = "cpu",
    options: Mapping[str, Any] | None = None,
) -> Model:
    """Load a trained model, or make one that needs no training for a detector.

    Args:
        where: the name of a model that ships with the package (``caloforge models`` lists them), or a model directory.
        detector: for a model that needs no training (``gflash``): built-in name, TOML file, or a detector.
        particle: likewise; None for the detector's first.
        points: likewise: points instead of voxels.
        device: ``cpu``, ``cuda`` or ``cuda:N``.
        options: changes of how it samples, for example ``{"sampler": "edm"}``.

    Raises:
        ModelFileError: if it is missing, damaged or not finished.
        UsageError: if there is no such device or option.
    """
    place = Processes.local_device(device)
    if detector is None:
        if particle is not None or points:
            raise UsageError("particle and points are for models that need no training, beside a detector")
        return Model(load_model(where, device=place, options=options))
    described = detector if isinstance(detector, Detector) else load_detector(detector)
    gun = described.gun
    if particle is None:
        if gun is None:
            raise UsageError("no particle is named, and the detector has no gun that would name one")
        particle = gun.particles[0]
    model = ready_model(str(where), described, particle, points=points)
    model.adjust(options or {})
    return Model(model.to(place))


class Model:
    """A trained model.

    Args:
        network: a model that was loaded from its directory.

    Attributes:
        network: the model itself, a ``torch.nn.Module``.
    """

    def __init__(self, network: ShowerModel) -> None:
        if network.record is None:
            raise UsageError("the model was not loaded from a directory, so nobody knows for what it was trained")
        self.network = network
        self._record: ModelRecord = network.record

    @property
    def record(self) -> ModelRecord:
        """What its directory says about it."""
        return self._record

    @property
    def kind(self) -> str:
        """Name of its kind, for example ``caloflow``."""
        return self.network.kind

    @property
    def detector(self) -> Detector:
        """The calorimeter."""
        return self.network.detector

    @property
    def particle(self) -> str:
        """Name of the incident particle; of a model of several that of the first, which is made if nobody says which."""
        return particle_name(self._record.valid.particle)

    @property
    def particles(self) -> tuple[str, ...]:
        """Names of all particles whose showers it makes."""
        return tuple(map(particle_name, self._record.valid.particles))

    @property
    def energy_range(self) -> tuple[float, float]:
        """Lowest and highest incident energy that it was trained for, GeV."""
        low, high = self._record.valid.incident_energy
        return low / GeV, high / GeV

    @property
    def has_likelihood(self) -> bool:
        """Whether ``log_prob`` works."""
        return self.network.has_likelihood

    def sample(
        self,
        events: int | None = None,
        energy: Energy | None = None,
        *,
        like: Like | None = None,
        particle: str | int | None = None,
        seed: int = 0,
        batch_size: int = 1000,
        random_directions: bool = False,
        extrapolate: bool = False,
    ) -> Showers | ShowerPoints:
        """Generate showers in memory; the same ones as ``caloforge generate`` with the same seed.

        Args:
            events: number of showers; None for 1000, or for as many as ``energy`` or ``like`` has.
            energy: GeV: words as on the command line (``"1:100"``), a number, or one for each shower.
            like: instead of an energy: showers (or the name of their file) whose energies, directions and particle are asked
                for again.
            particle: of a model of several: name or PDG id; None for that of ``like``, or for the first of ``particles``.
            seed: same seed, same showers, for any batch size.
            batch_size: showers at a time; changes speed and memory, not the showers.
            random_directions: within the range of the detector's gun.
            extrapolate: allow energies outside the range that the model was trained for; the showers say so.

        Returns:
            Showers with their detector; energies in MeV.

        Raises:
            UsageError: if the request makes no sense, or lies outside the range that the model was trained for.
            GenerationError: if the model rejects a shower too often.
        """
        conditions = self._conditions(events, energy, like, particle, seed, random_directions)
        if not extrapolate:
            conditions.check(self._record.valid)
        block = conditions.block(0, len(conditions))
        streams = generation_streams(seed)
        return sample_showers(self.network, block, streams, batch_size=batch_size, extrapolate=extrapolate).showers

    def generate(
        self,
        out: str | Path,
        events: int | None = None,
        energy: Energy | None = None,
        *,
        like: Like | None = None,
        particle: str | int | None = None,
        seed: int = 0,
        random_directions: bool = False,
        **options: Any,
    ) -> GenerationResult:
        """Generate showers into a file, in any number of processes, as ``caloforge generate`` does.

        Args:
            out: file to write.
            events: see :meth:`sample`, as for the others up to ``random_directions``.
            energy: see :meth:`sample`.
            like: see :meth:`sample`.
            particle: see :meth:`sample`.
            seed: see :meth:`sample`.
            random_directions: see :meth:`sample`.
            options: of :func:`caloforge.generation.generate`: ``jobs``, ``batch_size``, ``format``, ``resume``, ``overwrite``,
                ``extrapolate`` ...

        Raises:
            UsageError: if the request makes no sense.
            OutputError: if the file cannot be written; finished blocks are kept.
        """
        conditions = self._conditions(events, energy, like, particle, seed, random_directions)
        return generate(self.network, conditions, out, seed=seed, **options)

    def _conditions(
        self,
        events: int | None,
        energy: Energy | None,
        like: Like | None,
        particle: str | int | None,
        seed: int,
        random_directions: bool,
    ) -> Any:
        return wanted(
            events,
            energy,
            like,
            seed=seed,
            particle=self._record.valid.particle,
            named=None if particle is None else self._record.valid.chosen(particle),
            gun=self.detector.gun,
            random_directions=random_directions,
        )

    def log_prob(
        self, showers: Showers | ShowerPoints, *, noise_draws: int = 1, seed: int = 0, batch_size: int = 500
    ) -> NDArray[np.float64]:
        """Log-likelihood of every shower, as ``caloforge likelihood`` writes it.

        Args:
            showers: of the model's detector.
            noise_draws: draws of the training noise to average the density over.
            seed: of the noise; a shower's noise depends on it and on the number of the shower.
            batch_size: showers at a time.

        Returns:
            float64 (N,), nats; in which variables, the model's page in the documentation says.

        Raises:
            UsageError: if the model has no likelihood, or the showers have another readout.
        """
        if batch_size < 1:
            raise UsageError(f"the batch size is {batch_size}, expected 1 or more")
        streams = Streams(seed, "likelihood")
        with borrowed(self.network) as ready:
            parts = [
                ready.log_prob(showers[k : k + batch_size], streams, draws=noise_draws, first_row=k).numpy()
                for k in range(0, len(showers), batch_size)
            ]
        return np.concatenate(parts) if parts else np.empty(0)

    def card(self) -> list[tuple[str, str]]:
        """The model card: what it is, for what it was trained, on what, and what it scores; and what was changed of it."""
        rows = card_rows(self._record)
        rows.insert(1, ("likelihood", "exact" if self.has_likelihood else "none"))
        if self.network.options:
            changed = ", ".join(f"{key}={value}" for key, value in self.network.options.items())
            rows.insert(2, ("options", f"{changed}; the rest of this card is of the model without them"))
        return rows

    def __repr__(self) -> str:
        low, high = (format_energy(energy) for energy in self._record.valid.incident_energy)
        return f"<Model: {self.kind} of {self._record.valid.particle_names}, {low} to {high} in {self.detector.name}>"

    def _repr_html_(self) -> str:
        where = self.network.directory
        return html.block(f"Model {'' if where is None else where.name}".strip(), html.pairs(self.card()))
