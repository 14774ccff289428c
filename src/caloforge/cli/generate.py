"""``caloforge generate`` and ``caloforge likelihood``."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caloforge.cli.common import command_line, console, pairs, print_table
from caloforge.cli.expand import with_options
from caloforge.errors import UsageError

if TYPE_CHECKING:
    from caloforge.models import ShowerModel
from caloforge.options import GenerateOptions, LikelihoodOptions

__all__ = ["loaded_model", "register"]

ModelArgument = Annotated[
    str, typer.Argument(help="Model directory, or the name of a model that ships with the package.")
]


@with_options(GenerateOptions, "asked")
def generate(
    model: ModelArgument,
    out: Annotated[Path, typer.Option("--out", "-o", help="File to write.")],
    energy: Annotated[str | None, typer.Option(help="GeV: 50 | 5,10,20 | 1:100 | 1:100:log.")] = None,
    events: Annotated[
        int | None, typer.Option(min=1, help="Number of showers (default: 1000, or all of --conditions-from).")
    ] = None,
    conditions_from: Annotated[
        str | None, typer.Option(help="Take energies and directions from this shower file (or NAME:SPLIT).")
    ] = None,
    random_directions: Annotated[
        bool, typer.Option("--random-directions", help="Within the range of the detector's gun.")
    ] = False,
    *,
    asked: GenerateOptions,
    option: Annotated[
        list[str] | None,
        typer.Option(help="Change how the model samples: key=value, for example sampler=edm; may be repeated."),
    ] = None,
    detector: Annotated[
        str | None,
        typer.Option(help="For a model that needs no training (gflash): name of a detector, or a TOML file."),
    ] = None,
    particle: Annotated[
        str | None,
        typer.Option(
            help="Likewise, or for a model of several particles: e-, e+, gamma ... (default: that of --conditions-from, or the "
            "first of the detector or model)."
        ),
    ] = None,
    points: Annotated[
        bool, typer.Option("--points", help="For a model that needs no training: points instead of voxels.")
    ] = False,
) -> None:
    r"""Generate showers with a trained model, or with one that needs no training.

    \b
    Example: caloforge generate runs/photons --energy 1:100 --events 1000 --out generated.h5
    caloforge generate gflash --detector my.toml --particle e- --energy 1:100 --events 1000 --out g.h5

    Same seed, same showers, for any batch size and number of processes.
    """
    from caloforge.detectors import EnergySpectrum, particle_name
    from caloforge.generation import ConditionSource, SpectrumConditions, conditions_of_file
    from caloforge.generation import generate as run

    if (energy is None) == (conditions_from is None):
        raise UsageError("expected either --energy or --conditions-from")
    if detector is not None and particle is None and conditions_from is not None:
        particle = str(conditions_of_file(conditions_from, showers=events).particle)
    loaded = loaded_model(model, detector, particle, option or [], points=points)
    assert loaded.record is not None  # loaded from a directory
    valid = loaded.record.valid
    named = None if particle is None else valid.chosen(particle)
    conditions: ConditionSource
    if conditions_from is not None:
        conditions = conditions_of_file(conditions_from, showers=events, particle=valid.particle, named=named)
    else:
        conditions = SpectrumConditions(
            EnergySpectrum.parse(energy or ""),
            events or 1000,
            asked.seed,
            named or valid.particle,
            loaded.detector.gun,
            "random" if random_directions else "straight",
        )
    by_name = asked.jobs > 1 and loaded.directory is not None
    result = run(
        model if by_name else loaded,
        conditions,
        out,
        asked=asked,
        options=loaded.options if by_name else None,
        command=command_line(),
    )
    speed = f"{result.milliseconds_per_shower:.3g} ms per shower" if result.made else "nothing left to do"
    spent = ", ".join(f"{name} {seconds:.2f} s" for name, seconds in result.timing.items())
    rows = [
        ["showers", f"{result.showers}" + (f", {result.made} of them now" if result.made < result.showers else "")],
        ["time", f"{result.seconds:.1f} s, {speed}"],
        ["spent on", spent],
        ["drawn again", str(result.redrawn)],
        ["file", f"{out} ({out.stat().st_size / 1e6:.1f} MB)"],
    ]
    if len(valid.particles) > 1:
        made = particle_name(conditions.particle)
        rows.insert(0, ["particle", f"{made} (the model makes {valid.particle_names}; --particle says which)"])
    if result.extrapolated:
        rows.append(["note", "energies outside the trained range were allowed"])
    print_table("", ["", ""], rows)


def loaded_model(
    name: str, detector: str | None, particle: str | None, option: list[str], *, points: bool
) -> ShowerModel:
    """A trained model, or one that needs no training, for a detector; arguments as they were typed.

    Raises:
        UsageError: if one is missing, or does not belong to such a model.
    """
    from caloforge.detectors import load_detector
    from caloforge.models import is_ready_preset, load_model, ready_model

    if detector is None:
        if not Path(name).exists() and is_ready_preset(name):
            raise UsageError(
                f"'{name}' needs no training, but a detector: --detector with a built-in name or a TOML file"
            )
        if points:
            raise UsageError("--points is for models that need no training, beside --detector")
        return load_model(name, options=_options(option))
    described = load_detector(detector)
    gun = described.gun
    if particle is None and gun is None:
        raise UsageError("--particle is missing, and the detector has no gun that would name one")
    model = ready_model(name, described, particle or gun.particles[0], points=points)  # type: ignore[union-attr]
    model.adjust(_options(option))
    return model


def _options(given: list[str]) -> dict[str, Any]:
    """Options as typed, ``key=value`` with a YAML value."""
    import yaml

    found = {}
    for key, value in pairs(given, "--option", "for example sampler=edm"):
        try:
            found[key] = yaml.safe_load(value)
        except (yaml.YAMLError, RecursionError):
            raise UsageError(f"--option is '{key}={value}', whose value is not YAML") from None
    return found


@with_options(LikelihoodOptions)
def likelihood(
    model: ModelArgument,
    data: Annotated[
        list[str],
        typer.Argument(help="Shower file, or a sample of the package (NAME:SPLIT); several are taken as one."),
    ],
    out: Annotated[Path, typer.Option("--out", "-o", help="Table to write (CSV).")],
    *,
    options: LikelihoodOptions,
) -> None:
    r"""Write the log-likelihood of every shower under a model, in nats.

    \b
    Example: caloforge likelihood runs/photons showers.h5 --out logp.csv
    """
    from caloforge.generation import likelihood as run

    result = run(model, data, out, options=options)
    console.print(
        f"{out}: {result.showers} showers, mean log-likelihood {result.mean:.2f} +- {result.error:.2f} nats "
        f"({result.seconds:.1f} s)"
    )
    if result.impossible:
        console.print(f"note: the model holds {result.impossible} of them for impossible")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(generate)
    app.command()(likelihood)
