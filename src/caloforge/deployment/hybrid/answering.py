"""Which models answer in a hybrid simulation, and for what."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path

import numpy as np
import torch

from caloforge.arguments import argument, switch
from caloforge.conditions import ConditionRange, Conditions
from caloforge.deployment.hybrid.acceptance import Acceptance
from caloforge.deployment.hybrid.placement import Placement
from caloforge.deployment.hybrid.work import Answerer
from caloforge.detectors import Detector, particle_id, particle_name
from caloforge.errors import UsageError
from caloforge.generation import generation_streams, sample_showers
from caloforge.models import ShowerModel, is_ready_preset, load_model, ready_model
from caloforge.showers import Showers

__all__ = ["DEFAULT_ANGLE", "Loaded", "Models", "acceptance_of", "answerer", "identity", "load_models"]

#: Of models of normal incidence: largest angle at the face, rad.
DEFAULT_ANGLE = 0.05

#: Showers whose mean says how those of a model are moved.
_MEAN_OF = 500

#: Models that answer: each for its own species, or told for which.
Models = Sequence[str | Path | tuple[str, str | Path]] | Mapping[str, str | Path]
#: By PDG id of the species, the name of a model and the model itself.
Loaded = Mapping[int, tuple[str | Path, ShowerModel]]


def load_models(models: Models, detector: Detector, *, points: bool) -> dict[int, tuple[str | Path, ShowerModel]]:
    """Load models by the species that each answers.

    Args:
        models: names of models or directories, each for the species that it was trained for (of a model of several particles for
            all of them), or species with names.
        detector: the calorimeter that they stand for.
        points: whether points are wanted, or voxels; points can become voxels, but not the other way round.

    Raises:
        UsageError: if a model does not belong to the detector, or to its species, or two answer one species.
        ModelError: if there is no such model.
    """
    found: dict[int, tuple[str | Path, ShowerModel]] = {}
    for model_or_pair in models.items() if isinstance(models, Mapping) else models:
        species, name = model_or_pair if isinstance(model_or_pair, tuple) else (None, model_or_pair)
        if not is_ready_preset(str(name)) or Path(name).exists():
            model = load_model(name)
        elif species is None:
            raise UsageError(
                f"'{name}' needs no training, so it has to be told for what it stands: e-={name}, for example"
            )
        else:
            model = ready_model(str(name), detector, species, points=points)
        valid = _valid(model)
        answers = valid.particles if species is None else (particle_id(species),)
        if species is not None and answers[0] not in valid.particles:
            raise UsageError(
                f"'{name}' makes showers of {valid.particle_names}, not of {particle_name(particle_id(species))}"
            )
        for answer in answers:
            if answer in found:
                raise UsageError(f"two models answer {particle_name(answer)}: '{found[answer][0]}' and '{name}'")
        if points and model.shower_kind != "points":
            raise UsageError(f"'{name}' makes voxels, so {argument('points')} cannot be asked for")
        _check_readout(name, model, detector, points=points)
        found |= dict.fromkeys(answers, (name, model))
    return found


def _check_readout(name: str | Path, model: ShowerModel, detector: Detector, *, points: bool) -> None:
    """Layers decide where points are; voxels are those of a whole readout."""
    ours, theirs = detector.readout, model.detector.readout
    same = ours == theirs
    if not same and model.shower_kind == "points":
        same = ours.n_layers == theirs.n_layers and np.array_equal(ours.depths, theirs.depths)
    if not same:
        raise UsageError(
            f"'{name}' makes showers for the readout of '{model.detector.name}', not for that of '{detector.name}'"
        )
    if not points and not ours.has_voxels:
        raise UsageError(f"the readout of '{detector.name}' has no voxels; ask for points ({switch('points')})")


def acceptance_of(loaded: Loaded, max_angle: float | None, max_offset: float) -> Acceptance:
    """What these models answer.

    Args:
        loaded: the models.
        max_angle: largest angle to the axis, mrad; None for as far as all of them know, 50 mrad for those of normal incidence.
        max_offset: largest distance from the axis, mm.

    Raises:
        UsageError: if a model knows smaller angles only.
    """
    energies, widest = {}, [math.inf]
    for species, (name, model) in loaded.items():
        valid = _valid(model)
        energies[species] = valid.incident_energy
        knows = _known_angle(valid)
        if knows is None:
            widest.append(DEFAULT_ANGLE)
            continue
        if not knows > 0:
            raise UsageError(f"'{name}' knows no directions about the axis of the calorimeter, so it cannot answer")
        if max_angle is not None and max_angle > 1000 * knows:
            raise UsageError(
                f"{argument('max_angle')} is {max_angle:g} mrad, and '{name}' knows {1000 * knows:.4g} mrad at most"
            )
        widest.append(knows)
    if max_angle is not None:
        return Acceptance(energies, max_angle / 1000, max_offset)
    return Acceptance(energies, min(widest) if energies else DEFAULT_ANGLE, max_offset)


def _known_angle(valid: ConditionRange) -> float | None:
    """Largest angle to the axis up to which a model knows all directions, rad; None for normal incidence."""
    if valid.direction is None:
        return None
    least, most = (np.asarray(ends, dtype=np.float64) for ends in valid.direction)
    if most[2] < 1 - 1e-6:
        return 0.0
    across = float(min(*-least[:2], *most[:2]))
    return min(math.acos(float(np.clip(least[2], -1, 1))), math.asin(float(np.clip(across, 0, 1))))


def answerer(name: str | Path, model: ShowerModel, species: int, most: float) -> Answerer:
    """A model, and how its showers are moved: voxels by the mean of some, always the same ones; points need none.

    Args:
        name: of the model, for errors.
        model: the model.
        species: PDG id.
        most: highest energy that will be asked for, MeV.

    Raises:
        UsageError: if its showers cannot be moved.
    """
    valid = _valid(model)
    slopes = valid.direction is None
    if model.shower_kind == "points":
        return Answerer(model, None, slopes)
    low, high = valid.incident_energy
    high = min(high, max(most, 2 * low))
    energies = np.exp(np.linspace(math.log(low), math.log(high), _MEAN_OF))
    direction = None
    if not slopes:
        direction = np.tile(np.array([0, 0, 1], np.float32), (_MEAN_OF, 1))
    conditions = Conditions.first(energies, species, direction=direction)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)  # sums must not depend on them
    try:
        made = sample_showers(model, conditions, generation_streams(0), extrapolate=True).showers
    finally:
        torch.set_num_threads(threads)
    assert isinstance(made, Showers)
    try:
        return Answerer(model, Placement.of(made, slopes=slopes), slopes)
    except UsageError as error:
        raise UsageError(f"'{name}': {error}") from None


def identity(model: ShowerModel) -> str:
    """What stands for a model's weights in a request."""
    assert model.record is not None  # loaded from a directory, or as if
    return model.record.weights_sha256


def _valid(model: ShowerModel) -> ConditionRange:
    assert model.record is not None  # loaded from a directory, or as if
    return model.record.valid
