"""A whole production into a file: start, resume, progress, and what is said at the end."""

from __future__ import annotations

import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path

from caloforge.detectors import Detector, Directions, EnergySpectrum, particle_id
from caloforge.errors import Interrupted, UsageError
from caloforge.executor import Executor, origin
from caloforge.progress import progress
from caloforge.scaleout import check_choice, open_executor
from caloforge.showers.blocks import refuse_taken
from caloforge.showers.files import Writer, create_showers
from caloforge.simulation.plan import SimulationPlan
from caloforge.simulation.produce import Production

__all__ = ["SimulationSummary", "simulate_to_file"]


@dataclass(frozen=True)
class SimulationSummary:
    """What a production did.

    Attributes:
        particle: PDG id.
        spectrum: incident energies.
        showers: in the file.
        made: of these, in this run.
        seconds: wall-clock time of this run, start of Geant4 included.
        tables: which tables Geant4 used.
        engine: which engine ran Geant4.
    """

    particle: int
    spectrum: EnergySpectrum
    showers: int
    made: int
    seconds: float
    tables: str
    engine: str


def simulate_to_file(
    detector: Detector,
    out: Path,
    *,
    particle: str | int | None = None,
    spectrum: EnergySpectrum | str | None = None,
    events: int,
    seed: int,
    jobs: int = 1,
    directions: Directions = "fixed",
    points: bool = False,
    tables: str = "auto",
    engine: str | None = None,
    resume: bool = False,
    overwrite: bool = False,
    command: str | None = None,
    executor: Executor | None = None,
    cluster: str | None = None,
) -> SimulationSummary:
    """Simulate showers and write them, block by block, into a native file.

    Args:
        detector: with a stack.
        out: the file.
        particle: name or PDG id; None for the first one of the detector's gun.
        spectrum: incident energies; text as on the command line (GeV); None for those of the detector's gun.
        events: number of showers.
        seed: same seed, same showers, whatever ``jobs`` is.
        jobs: worker processes.
        directions: ``fixed``, or random within the range that the detector's gun gives: ``random`` (with the gun's
            density), ``angles`` or ``barrel``.
        points: raw deposits as points instead of voxels.
        tables: ``auto``, ``builtin``, ``official`` or a directory with Geant4's data.
        engine: ``calzone`` or ``geant4-pybind``; by default the one that suits the detector.
        resume: go on with an interrupted production of the same request.
        overwrite: replace an existing file.
        command: the command line, for provenance.
        executor: who makes the blocks, instead of ``jobs`` processes of this machine or a ``cluster``.
        cluster: see ``caloforge.scaleout.open_cluster``; then ``jobs`` is 1.

    Raises:
        UsageError: if the request makes no sense.
        OutputError: if the file cannot be written, or was begun for another request.
        SimulationError: if Geant4 fails; finished blocks are kept.
        ClusterError: if a cluster cannot be started or reached, or does not do the work.
    """
    pdg, spectrum = _defaults(detector, particle, spectrum)
    plan = SimulationPlan(detector, pdg, spectrum, events, seed, directions, points, tables, engine)
    started = time.monotonic()
    check_choice(jobs, cluster)

    def begin(production: Production) -> Writer:
        return create_showers(
            out,
            detector=detector,
            particle=pdg,
            kind="points" if points else "voxels",
            provenance=production.provenance(command) | origin(who),
            request=plan.request() | {"tables": production.tables.fingerprint},
            expected=events,
            resume=resume,
            overwrite=overwrite,
        )

    refuse_taken(out, resume=resume, overwrite=overwrite)
    with (
        nullcontext(executor) if cluster is None else open_executor(executor, 1, cluster) as who,
        Production(plan, jobs=jobs, executor=who) as production,
    ):
        # Provenance tells of the workers. Those of a new file are heard of with its first block, so there is no file if Geant4
        # cannot be started; one that is gone on with says which blocks are to be made.
        writer = begin(production) if resume and out.exists() else None
        before = 0 if writer is None else len(writer)
        try:
            with ExitStack() as stack, progress("simulating", events, "showers", done=before) as bar:
                if writer is not None:
                    stack.enter_context(writer)
                    production.skip(set(range(plan.n_blocks)) - set(writer.missing(plan.n_blocks)))
                for block in production:
                    if writer is None:
                        writer = stack.enter_context(begin(production))
                    elif origin(who):
                        writer.set_provenance(production.provenance(command) | origin(who))
                    writer.write(block.showers, position=block.number)
                    bar.advance(len(block.showers))
        except KeyboardInterrupt:
            if writer is None:
                raise Interrupted("interrupted before the first showers were finished") from None
            raise Interrupted(
                f"interrupted; {out} holds {len(writer)} of {events} showers, --resume goes on from there"
            ) from None
        return SimulationSummary(
            pdg,
            spectrum,
            events,
            events - before,
            time.monotonic() - started,
            str(production.tables.kind),
            plan.engine_name,
        )


def _defaults(
    detector: Detector, particle: str | int | None, spectrum: EnergySpectrum | str | None
) -> tuple[int, EnergySpectrum]:
    """Particle and energies, from the detector's gun where they are not named."""
    gun = detector.gun
    if particle is None:
        if gun is None:
            raise UsageError("--particle is missing, and the detector has no gun that would name one")
        particle = gun.particles[0]
    if spectrum is None:
        if gun is None:
            raise UsageError("--energy is missing, and the detector has no gun that would name one")
        spectrum = gun.energy
    return particle_id(particle), EnergySpectrum.parse(spectrum) if isinstance(spectrum, str) else spectrum
