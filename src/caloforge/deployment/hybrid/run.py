"""A hybrid simulation into a file: Geant4 in front of the calorimeter, models in it, and Geant4 for what no model answers."""

from __future__ import annotations

import math
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from caloforge.arguments import switch
from caloforge.conditions import Conditions
from caloforge.deployment.hybrid.acceptance import Acceptance
from caloforge.deployment.hybrid.faces import read_faces
from caloforge.deployment.hybrid.placement import Placement, mean_shower
from caloforge.deployment.hybrid.work import Answerer, HybridWork, prepare
from caloforge.detectors import Detector, EnergySpectrum, Upstream, behind, particle_id, particle_name
from caloforge.errors import Interrupted, UsageError
from caloforge.executor import Executor, LocalProcesses, on_this_machine, origin
from caloforge.generation import generation_streams, sample_showers
from caloforge.kernels.ops.registry import use_choice
from caloforge.models import ShowerModel, is_ready_preset, load_model, ready_model
from caloforge.progress import progress
from caloforge.scaleout import check_choice, open_executor
from caloforge.showers import Showers
from caloforge.showers.blocks import refuse_taken
from caloforge.showers.files import Writer, create_showers
from caloforge.simulation import SimulationPlan
from caloforge.simulation.agreement import AgreedWork
from caloforge.simulation.worker import ENVIRONMENT, Facts

__all__ = ["DEFAULT_ANGLE", "DEFAULT_OFFSET", "HybridSummary", "Models", "hybrid_simulation"]

#: Of models of normal incidence: largest angle at the face, rad, and distance from the axis, mm.
DEFAULT_ANGLE, DEFAULT_OFFSET = 0.05, 20.0

#: Showers whose mean says how those of a model are moved.
_MEAN_OF = 500


#: Models that answer: each for its own species, or told for which.
Models = Sequence[str | Path | tuple[str, str | Path]] | Mapping[str, str | Path]


@dataclass(frozen=True)
class HybridSummary:
    """What a hybrid simulation did.

    Attributes:
        path: the file.
        events: in it.
        made: of these, in this run.
        engine: what ran Geant4, and with which tables.
        acceptance: what was answered, in words; empty if Geant4 tracked everything.
        seconds: wall-clock time of this run.
        spent: seconds of the workers: ``geant4``, ``models``, ``placing``.
        faces: per species and reason, particles per event and share of the incident energy (``Faces.summary``).
    """

    path: Path
    events: int
    made: int
    engine: str
    acceptance: str
    seconds: float
    spent: dict[str, float]
    faces: list[dict[str, Any]]


def hybrid_simulation(
    detector: Detector,
    out: str | Path,
    *,
    models: Models,
    particle: str | int,
    spectrum: EnergySpectrum | str,
    events: int,
    upstream: Upstream | None = None,
    seed: int = 1,
    jobs: int = 1,
    cluster: str | None = None,
    max_angle: float | None = None,
    max_offset: float = DEFAULT_OFFSET,
    engine: str | None = None,
    tables: str = "auto",
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
    executor: Executor | None = None,
    show: bool = True,
) -> HybridSummary:
    """Simulate events in a calorimeter behind other material, with models that answer for what reaches its face.

    Geant4 tracks through the material. A particle that reaches the face within the acceptance (species, trained energies, angle,
    offset) is stopped there, and its model's shower is put where it came in; everything else Geant4 tracks on. The number of a
    shower is ``event * 2^20 + track``: answers depend on nothing but the seed, their event and their track.

    Args:
        detector: with plates; voxels with Cartesian cells.
        out: native file. The particles at the face stay in it (``read_faces``).
        models: names of models or directories, each for the species that it was trained for, or species with names, which a model
            that needs no training (gflash) has to be told. Nothing means that Geant4 tracks everything, for comparison.
        particle: what starts, name or PDG id.
        spectrum: kinetic energies, GeV as on the command line.
        events: how many.
        upstream: material in front of the calorimeter.
        seed: same seed, same file, for any number of jobs.
        jobs: worker processes.
        cluster: Dask workers instead (``caloforge.scaleout.open_cluster``).
        max_angle: largest angle to the axis of what is answered, rad; by default 0.05, or as far as a model knows directions.
        max_offset: largest distance from the axis at the face of what is answered, mm.
        engine: ``calzone`` or ``geant4-pybind``; by default the one that suits the detector.
        tables: Geant4's, as for ``simulate``.
        resume: go on with an interrupted production of the same request.
        overwrite: replace an existing file.
        command: the command line, for provenance.
        executor: who makes the blocks, instead of ``jobs`` processes of this machine or a ``cluster``.
        show: whether to show progress.

    Raises:
        UsageError: if the request makes no sense, or a model does not belong to the detector.
        OutputError: if the file cannot be written, or was begun for another request.
        SimulationError: if Geant4 fails; finished blocks are kept.
        ClusterError: if a cluster cannot be started or reached, or does not do the work.
    """
    out, pdg, began = Path(out), particle_id(particle), time.monotonic()
    chosen = EnergySpectrum.parse(spectrum) if isinstance(spectrum, str) else spectrum
    if not detector.readout.has_voxels:
        raise UsageError(f"the readout of '{detector.name}' has no voxels, and a hybrid simulation writes voxels")
    check_choice(jobs, cluster)
    refuse_taken(out, resume=resume, overwrite=overwrite)
    loaded = _loaded(models, detector)
    acceptance = _acceptance(loaded, max_angle, max_offset) if loaded else None
    depth = 0.0 if upstream is None else upstream.thickness
    whole = detector.model_copy(update={"readout_threshold": 0.0}) if upstream is None else behind(detector, upstream)
    plan = SimulationPlan(
        whole, pdg, chosen, events, seed, tables=tables, engine=engine,
        removal=None if acceptance is None else acceptance.plane(depth),
    )  # fmt: skip
    work = HybridWork(
        plan,
        detector,
        acceptance,
        {species: _answerer(name, model, species, chosen.maximum) for species, (name, model) in loaded.items()},
        seed,
    )
    request = plan.request() | {
        "upstream": None if upstream is None else upstream.model_dump(mode="json"),
        "models": {str(species): _identity(model) for species, (_, model) in loaded.items()},
    }
    described = {
        "program": "caloforge hybrid",
        "upstream": None if upstream is None else upstream.model_dump(mode="json"),
        "answered": "nothing" if acceptance is None else acceptance.text(),
        "models": {
            particle_name(species): {"name": str(name), "kind": model.kind, "sha256": _identity(model)}
            for species, (name, model) in loaded.items()
        },
        "readout_threshold_MeV": detector.readout_threshold,
        "command": command,
    }

    def begin(facts: Facts) -> Writer:
        return create_showers(
            out,
            detector=detector,
            particle=pdg,
            provenance=plan.provenance(facts.versions, facts.tables) | described | origin(who),
            request=request | {"tables": facts.tables.fingerprint},
            expected=events,
            resume=resume,
            overwrite=overwrite,
        )

    if executor is None and cluster is None:
        executor = LocalProcesses(jobs, ENVIRONMENT)
    with open_executor(executor, 1, cluster) as who:
        assert who is not None  # processes or a cluster
        job = AgreedWork(who, prepare, replace(work, kernels=use_choice() if on_this_machine(who) else None))
        spent = {"geant4": 0.0, "models": 0.0, "placing": 0.0}
        writer = begin(job.facts()) if resume and out.exists() else None
        before = 0 if writer is None else len(writer)
        try:
            with ExitStack() as stack:
                bar = stack.enter_context(
                    progress("simulating", events, "events", done=before) if show else nullcontext()
                )
                todo = list(plan.blocks())
                if writer is not None:
                    stack.enter_context(writer)
                    todo = writer.missing(plan.n_blocks)
                for number, done in stack.enter_context(closing(job.run(todo))):
                    if writer is None:
                        writer = stack.enter_context(begin(done.facts))
                    assert done.showers is not None  # its number was given
                    writer.write(done.showers, number, done.beside)
                    for name, seconds in done.seconds.items():
                        spent[name] += seconds
                    if bar is not None:
                        bar.advance(len(done.showers))
        except KeyboardInterrupt:
            if writer is None:
                raise Interrupted("interrupted before the first events were finished") from None
            raise Interrupted(
                f"interrupted; {out} holds {len(writer)} of {events} events, {switch('resume')} goes on from there"
            ) from None
        known = job.facts()
    return HybridSummary(
        out,
        events,
        events - before,
        f"{plan.engine_name} (Geant4 {known.versions['geant4']}), {known.tables.kind} tables",
        "" if acceptance is None else acceptance.text(),
        time.monotonic() - began,
        spent,
        read_faces(out).summary() if acceptance is not None else [],
    )


def _loaded(models: Models, detector: Detector) -> dict[int, tuple[str | Path, ShowerModel]]:
    """Models by the species that each answers."""
    found: dict[int, tuple[str | Path, ShowerModel]] = {}
    for model_or_pair in models.items() if isinstance(models, Mapping) else models:
        species, name = model_or_pair if isinstance(model_or_pair, tuple) else (None, model_or_pair)
        ready = is_ready_preset(str(name)) and not Path(name).exists()
        if ready and species is None:
            raise UsageError(
                f"'{name}' needs no training, so it has to be told for what it stands: e-={name}, for example"
            )
        model = ready_model(str(name), detector, species) if ready and species is not None else load_model(name)
        assert model.record is not None  # loaded from a directory, or as if
        valid = model.record.valid
        if species is not None and particle_id(species) != valid.particle:
            raise UsageError(
                f"'{name}' makes showers of {particle_name(valid.particle)}, not of {particle_name(particle_id(species))}"
            )
        if valid.particle in found:
            raise UsageError(
                f"two models answer {particle_name(valid.particle)}: '{found[valid.particle][0]}' and '{name}'"
            )
        if model.shower_kind != "voxels":
            raise UsageError(f"'{name}' makes points, and a hybrid simulation writes voxels")
        if model.detector.readout != detector.readout:
            raise UsageError(
                f"'{name}' makes showers for the readout of '{model.detector.name}', not for that of '{detector.name}'"
            )
        found[valid.particle] = name, model
    return found


def _acceptance(
    loaded: Mapping[int, tuple[str | Path, ShowerModel]], max_angle: float | None, max_offset: float
) -> Acceptance:
    energies, widest = {}, []
    for species, (_, model) in loaded.items():
        assert model.record is not None
        valid = model.record.valid
        energies[species] = valid.incident_energy
        knows = None if valid.direction is None else math.acos(max(-1.0, valid.direction[0][2]))
        if knows is not None and max_angle is not None and max_angle > knows:
            raise UsageError(f"the largest angle is {max_angle:g} rad, and a model knows {knows:.3g} rad at most")
        widest.append(DEFAULT_ANGLE if knows is None else knows)
    return Acceptance(energies, min(widest) if max_angle is None else max_angle, max_offset)


def _answerer(name: str | Path, model: ShowerModel, species: int, most: float) -> Answerer:
    """A model, and how its showers are moved: by the mean of some up to an energy (MeV), always the same ones."""
    assert model.record is not None
    low, high = model.record.valid.incident_energy
    high = min(high, max(most, 2 * low))
    energies = np.exp(np.linspace(math.log(low), math.log(high), _MEAN_OF))
    direction = None
    if model.record.valid.direction is not None:
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
        return Answerer(model, Placement(model.detector.readout, mean_shower(made), slopes=direction is None))
    except UsageError as error:
        raise UsageError(f"'{name}': {error}") from None


def _identity(model: ShowerModel) -> str:
    assert model.record is not None
    return model.record.weights_sha256
