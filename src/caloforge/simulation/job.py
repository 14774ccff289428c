"""A whole production into a file: start, resume, progress, and what is said at the end."""

from __future__ import annotations

import time
from contextlib import ExitStack, nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from caloforge.arguments import argument
from caloforge.cores import available_cores
from caloforge.detectors import Detector, EnergySpectrum, particle_id
from caloforge.errors import Interrupted, UsageError
from caloforge.executor import Executor, origin
from caloforge.options import SimulateOptions
from caloforge.progress import PATIENCE, progress
from caloforge.scaleout import check_choice, open_executor
from caloforge.showers.blocks import refuse_taken
from caloforge.showers.files import Writer, create_showers
from caloforge.showers.interruption import interrupted
from caloforge.simulation.plan import SimulationPlan
from caloforge.simulation.produce import Production

__all__ = ["SimulationSummary", "simulate_to_file"]


@dataclass(frozen=True)
class SimulationSummary:
    """What a production did.

    Attributes:
        detector: with the field that it was simulated in.
        particle: PDG id.
        spectrum: incident energies.
        showers: in the file.
        made: of these, in this run.
        seconds: wall-clock time of this run, start of Geant4 included.
        tables: which tables Geant4 used.
        engine: which engine ran Geant4.
        given_up: kinetic energies (MeV) of the particles that circled in vacuum and were given up in this run.
    """

    detector: Detector
    particle: int
    spectrum: EnergySpectrum
    showers: int
    made: int
    seconds: float
    tables: str
    engine: str
    given_up: tuple[float, ...] = ()


def simulate_to_file(
    detector: Detector,
    out: Path,
    *,
    options: SimulateOptions | None = None,
    command: str | None = None,
    executor: Executor | None = None,
    **settings: Any,
) -> SimulationSummary:
    """Simulate showers and write them, block by block, into a native file.

    Args:
        detector: with a stack.
        out: the file.
        options: which showers, and how; see ``SimulateOptions``.
        command: the command line, for provenance.
        executor: who makes the blocks, instead of ``jobs`` processes of this machine or a ``cluster``.
        settings: single options, instead of or beside ``options``.

    Raises:
        UsageError: if the request makes no sense.
        OutputError: if the file cannot be written, or was begun for another request.
        SimulationError: if Geant4 fails; finished blocks are kept.
        ClusterError: if a cluster cannot be started or reached, or does not do the work.
    """
    chosen = SimulateOptions.merged(options, settings)
    if chosen.field is not None:
        detector = detector.with_field(chosen.field)
    pdg, spectrum = _defaults(detector, chosen.particle, chosen.energy)
    events, resume, overwrite = chosen.events, chosen.resume, chosen.overwrite
    plan = SimulationPlan(
        detector, pdg, spectrum, events, chosen.seed, chosen.direction,  # type: ignore[arg-type] # one of the choices
        chosen.points, chosen.geant4_data, chosen.engine,
    )  # fmt: skip
    started = time.monotonic()
    check_choice(chosen.jobs or 1, chosen.cluster)
    jobs = chosen.jobs or (available_cores() if chosen.cluster is None else 1)

    def begin(production: Production) -> Writer:
        return create_showers(
            out,
            detector=detector,
            particle=pdg,
            kind="points" if chosen.points else "voxels",
            provenance=production.provenance(command) | origin(who),
            request=plan.request() | {"tables": production.tables.fingerprint},
            expected=events,
            resume=resume,
            overwrite=overwrite,
        )

    refuse_taken(out, resume=resume, overwrite=overwrite)
    with (
        nullcontext(executor) if chosen.cluster is None else open_executor(executor, 1, chosen.cluster) as who,
        Production(plan, jobs=jobs, executor=who) as production,
    ):
        # Provenance tells of the workers. Those of a new file are heard of with its first block, so there is no file if Geant4
        # cannot be started; one that is gone on with says which blocks are to be made.
        writer = begin(production) if resume and out.exists() else None
        before = 0 if writer is None else len(writer)
        given_up: list[float] = []
        try:
            with ExitStack() as stack, progress("simulating", events, "showers", done=before, patience=PATIENCE) as bar:
                if writer is not None:
                    stack.enter_context(writer)
                    production.skip(set(range(plan.n_blocks)) - set(writer.missing(plan.n_blocks)))
                for block in production:
                    if writer is None:
                        writer = stack.enter_context(begin(production))
                    elif origin(who):
                        writer.set_provenance(production.provenance(command) | origin(who))
                    writer.write(block.showers, position=block.number)
                    given_up += block.given_up
                    bar.advance(len(block.showers))
        except KeyboardInterrupt:
            if writer is None:
                raise Interrupted("interrupted before the first showers were finished") from None
            raise interrupted(writer, events) from None
        return SimulationSummary(
            detector,
            pdg,
            spectrum,
            events,
            events - before,
            time.monotonic() - started,
            str(production.tables.kind),
            plan.engine_name,
            tuple(given_up),
        )


def _defaults(
    detector: Detector, particle: str | int | None, spectrum: EnergySpectrum | str | float | None
) -> tuple[int, EnergySpectrum]:
    """Particle and energies, from the detector's gun where they are not named."""
    gun = detector.gun
    if particle is None:
        if gun is None:
            raise UsageError(f"{argument('particle')} is missing, and the detector has no gun that would name one")
        particle = gun.particles[0]
    if spectrum is None:
        if gun is None:
            raise UsageError(f"{argument('energy')} is missing, and the detector has no gun that would name any")
        spectrum = gun.energy
    return particle_id(particle), spectrum if isinstance(spectrum, EnergySpectrum) else EnergySpectrum.parse(
        str(spectrum)
    )
