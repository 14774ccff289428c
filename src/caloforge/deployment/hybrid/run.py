"""A hybrid simulation into a file: Geant4 in front of the calorimeter, models in it, and Geant4 for what no model answers."""

from __future__ import annotations

import time
from contextlib import ExitStack, closing, nullcontext
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from caloforge.atomic import save_figure
from caloforge.cores import available_cores
from caloforge.deployment.hybrid.answering import Loaded, Models, acceptance_of, answerer, identity, load_models
from caloforge.deployment.hybrid.faces import read_faces
from caloforge.deployment.hybrid.picture import check_picture, draw_picture, picture_of
from caloforge.deployment.hybrid.work import HybridWork, prepare
from caloforge.detectors import Detector, EnergySpectrum, Upstream, behind, load_upstream, particle_id, particle_name
from caloforge.errors import Interrupted
from caloforge.executor import Executor, LocalProcesses, on_this_machine, origin
from caloforge.kernels.ops.registry import use_choice
from caloforge.options import HybridOptions
from caloforge.progress import PATIENCE, progress
from caloforge.scaleout import check_choice, open_executor
from caloforge.showers.blocks import refuse_taken
from caloforge.showers.files import Writer, create_showers
from caloforge.showers.interruption import interrupted
from caloforge.simulation import SimulationPlan
from caloforge.simulation.agreement import AgreedWork
from caloforge.simulation.worker import ENVIRONMENT, Facts
from caloforge.units import mm

__all__ = ["HybridProduction", "HybridSummary", "hybrid_simulation", "plan_hybrid"]

#: Blocks of Geant4 that are answered together: models work at half the cost in batches of a hundred.
_TOGETHER = 5
#: Of pictures.
_DPI = 110
#: In front of the face, where particles start if a detector's gun stands on it.
_ROOM = 1.0 * mm


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
        picture: of the event that was asked for.
        given_up: kinetic energies (MeV) of the particles that circled in vacuum and were given up in this run.
    """

    path: Path
    events: int
    made: int
    engine: str
    acceptance: str
    seconds: float
    spent: dict[str, float]
    faces: list[dict[str, Any]]
    picture: Path | None = None
    given_up: tuple[float, ...] = ()


@dataclass(frozen=True)
class HybridProduction:
    """What follows from what was asked for, before anything is done.

    Attributes:
        work: what every worker is told.
        request: what has to be the same for a production to be resumed.
        described: for provenance.
    """

    work: HybridWork
    request: dict[str, Any]
    described: dict[str, Any]


def plan_hybrid(
    detector: Detector,
    models: Models,
    particle: str | int,
    energy: EnergySpectrum | str,
    upstream: Upstream | str | Path | None,
    chosen: HybridOptions,
) -> HybridProduction:
    """Load all models, and settle what is answered; see ``hybrid_simulation`` for the arguments and what is refused."""
    spectrum = EnergySpectrum.parse(energy) if isinstance(energy, str) else energy
    front = upstream if upstream is None or isinstance(upstream, Upstream) else load_upstream(upstream)
    if chosen.field is not None:
        detector = detector.with_field(chosen.field)
    loaded = load_models(models, detector, points=chosen.points)
    acceptance = acceptance_of(loaded, chosen.max_angle, chosen.max_offset)
    depth = 0.0 if front is None else front.thickness
    whole = _started_in_front(detector) if front is None else behind(detector, front)
    plan = SimulationPlan(
        whole, particle_id(particle), spectrum, chosen.events, chosen.seed, points=chosen.points,
        tables=chosen.geant4_data, engine=chosen.engine, removal=acceptance.plane(depth),
    )  # fmt: skip
    answerers = {species: answerer(name, model, species, spectrum.maximum) for species, (name, model) in loaded.items()}
    together = _TOGETHER if answerers else 1
    in_front = None if front is None else front.model_dump(mode="json")
    return HybridProduction(
        HybridWork(plan, detector, acceptance, answerers, chosen.seed, together),
        plan.request()
        | {
            "blocks_together": together,
            "upstream": in_front,
            "models": {str(species): identity(model) for species, (_, model) in loaded.items()},
        },
        {
            "program": "caloforge hybrid",
            "upstream": in_front,
            "answered": acceptance.text(),
            "models": _names(loaded),
            "readout_threshold_MeV": 0.0 if chosen.points else detector.readout_threshold,
        },
    )


def _started_in_front(detector: Detector) -> Detector:
    """A calorimeter with nothing in front, whose particles start in front of its face, not on it; no threshold is applied."""
    gun = detector.gun
    if gun is not None and gun.position[2] > -_ROOM:
        back = np.asarray(gun.position) - np.asarray(gun.direction) * (gun.position[2] + _ROOM) / gun.direction[2]
        gun = gun.model_copy(update={"position": tuple(back.tolist())})
    return detector.model_copy(update={"readout_threshold": 0.0, "gun": gun})


def _names(loaded: Loaded) -> dict[str, dict[str, str]]:
    return {
        particle_name(species): {"name": str(name), "kind": model.kind, "sha256": identity(model)}
        for species, (name, model) in loaded.items()
    }


def hybrid_simulation(
    detector: Detector,
    out: str | Path,
    *,
    particle: str | int,
    energy: EnergySpectrum | str,
    models: Models = (),
    upstream: Upstream | str | Path | None = None,
    options: HybridOptions | None = None,
    command: str | None = None,
    executor: Executor | None = None,
    show: bool = True,
    **settings: Any,
) -> HybridSummary:
    """Simulate events in a calorimeter behind other material, with models that answer for what reaches its face.

    Geant4 tracks through the material. A particle that reaches the face within the acceptance (species, trained energies, angle,
    offset) is stopped there, and its model's shower is put where it came in; everything else Geant4 tracks on. The number of a
    shower is ``event * 2^20 + track``: answers depend on nothing but the seed, their event and their track.

    Args:
        detector: with a stack; its voxels are polar, or Cartesian and equally wide, unless points are asked for.
        out: native file. The particles at the face stay in it (``read_faces``).
        particle: what starts, name or PDG id.
        energy: kinetic energies, GeV as on the command line.
        models: names of models or directories, each for the species that it was trained for, or species with names, which a model
            that needs no training (gflash) has to be told. Nothing means that Geant4 tracks everything, for comparison.
        upstream: material in front of the calorimeter, or the TOML file that describes it.
        options: how many, and how; see ``HybridOptions``.
        command: the command line, for provenance.
        executor: who makes the blocks, instead of ``jobs`` processes of this machine or a ``cluster``.
        show: whether to show progress.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if the request makes no sense, or a model does not belong to the detector.
        OutputError: if the file cannot be written, or was begun for another request.
        SimulationError: if Geant4 fails; finished blocks are kept.
        ClusterError: if a cluster cannot be started or reached, or does not do the work.
    """
    chosen = HybridOptions.merged(options, settings)
    out, began, events = Path(out), time.monotonic(), chosen.events
    check_choice(chosen.jobs or 1, chosen.cluster)
    refuse_taken(out, resume=chosen.resume, overwrite=chosen.overwrite)
    asked = plan_hybrid(detector, models, particle, energy, upstream, chosen)
    work, plan = asked.work, asked.work.plan
    if chosen.picture is not None:
        check_picture(work, chosen.picture)

    def begin(facts: Facts) -> Writer:
        return create_showers(
            out,
            detector=work.detector,
            particle=plan.particle,
            kind="points" if chosen.points else "voxels",
            provenance=plan.provenance(facts.versions, facts.tables)
            | asked.described
            | {"command": command}
            | origin(who),
            request=asked.request | {"tables": facts.tables.fingerprint},
            expected=events,
            resume=chosen.resume,
            overwrite=chosen.overwrite,
        )

    if executor is None and chosen.cluster is None:
        executor = LocalProcesses(chosen.jobs or available_cores(), ENVIRONMENT)
    with open_executor(executor, 1, chosen.cluster) as who:
        assert who is not None  # processes or a cluster
        job = AgreedWork(who, prepare, replace(work, kernels=use_choice() if on_this_machine(who) else None))
        spent = {"geant4": 0.0, "models": 0.0, "placing": 0.0}
        given_up: list[float] = []
        writer = begin(job.facts()) if chosen.resume and out.exists() else None
        before = 0 if writer is None else len(writer)
        try:
            with ExitStack() as stack:
                bar = stack.enter_context(
                    progress("simulating", events, "events", done=before, patience=PATIENCE) if show else nullcontext()
                )
                todo = list(range(work.tasks))
                if writer is not None:
                    stack.enter_context(writer)
                    todo = writer.missing(work.tasks)
                for number, done in stack.enter_context(closing(job.run(todo))):
                    if writer is None:
                        writer = stack.enter_context(begin(done.facts))
                    assert done.showers is not None  # its number was given
                    writer.write(done.showers, number, done.beside)
                    given_up += done.given_up
                    for name, seconds in done.seconds.items():
                        spent[name] += seconds
                    if bar is not None:
                        bar.advance(len(done.showers))
        except KeyboardInterrupt:
            if writer is None:
                raise Interrupted("interrupted before the first events were finished") from None
            raise interrupted(writer, events, "events") from None
        known = job.facts()
    return HybridSummary(
        out,
        events,
        events - before,
        f"{plan.engine_name} (Geant4 {known.versions['geant4']}), {known.tables.kind} tables",
        work.acceptance.text() if work.answerers else "",
        time.monotonic() - began,
        spent,
        read_faces(out).summary(),
        None if chosen.picture is None else _drawn(work, chosen.picture, out),
        tuple(given_up),
    )


def _drawn(work: HybridWork, event: int, out: Path) -> Path:
    """Draw an event beside the file."""
    path = out.with_name(f"{out.stem}.event{event}.png")
    save_figure(path, draw_picture(picture_of(work, event), work), _DPI)
    return path
