"""``caloforge info``, ``convert`` and ``datasets``: shower files, detectors, and the samples of the package."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from caloforge.cli.common import (
    BinOption,
    chosen_detector,
    console,
    print_json,
    print_table,
    save_figure,
)
from caloforge.cli.expand import with_options
from caloforge.options import ConvertOptions

if TYPE_CHECKING:
    from caloforge.detectors import Detector

__all__ = ["register"]


def info(
    what: Annotated[
        str,
        typer.Argument(
            help="A shower file, a sample of the package (NAME:SPLIT), a detector's name, a detector's TOML or XML file, a model "
            "directory, or the name of a trained model."
        ),
    ],
    detector: Annotated[
        str | None, typer.Option(help="For a file that does not say which detector it is from.")
    ] = None,
    bin_: BinOption = None,
    drawing: Annotated[
        Path | None, typer.Option(help="Write a picture here (default for detectors: NAME.png).")
    ] = None,
    no_drawing: Annotated[bool, typer.Option("--no-drawing", help="Text only.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Machine-readable output; no picture.")] = False,
) -> None:
    """Describe a shower file, a detector or a model.

    \b
    Example: caloforge info calogan

    A detector is also drawn (its plates, layers and cells); with --drawing a file is drawn, too (its average shower).
    """
    from caloforge import datasets as samples
    from caloforge.detectors import catalogue
    from caloforge.errors import ShowerFileError, UsageError
    from caloforge.models import pretrained_names
    from caloforge.names import is_builtin

    path = Path(what)
    name, _, split = what.partition(":")
    if path.suffix in (".toml", ".xml") or is_builtin(what, catalogue(), "detector"):
        _describe_detector(what, bin_, drawing, no_drawing, json_)
    elif is_builtin(what, pretrained_names(), "model") or path.is_dir():
        _describe_model(what, json_)
    elif name in samples.names() and (split or not path.exists()):
        if not split:
            choices = " or ".join(f"'{name}:{s}'" for s in samples.sample(name).splits)
            raise UsageError(f"the sample '{name}' has several splits, expected {choices}")
        _describe_file(samples.path(name, split=split), chosen_detector(detector, bin_), drawing, json_)
    elif path.exists():
        _describe_file(path, chosen_detector(detector, bin_), drawing, json_)
    elif "/" in what.split(":")[0] and name.split("/")[0] in catalogue():
        _describe_detector(what, bin_, drawing, no_drawing, json_)
    elif path.suffix:
        raise ShowerFileError(f"{what}: there is no such file")
    else:
        known = ", ".join((*catalogue(), *pretrained_names(), *samples.names()))
        raise UsageError(f"'{what}' is no file and no folder, and nothing built in has this name (there are {known})")


def _describe_model(where: str, json_: bool) -> None:
    from caloforge.models import card_rows, describe_model, is_unfinished, read_plan, read_record

    facts = describe_model(where)
    if json_:
        print_json(facts)
        return
    rows = [["model directory", str(facts["path"])]]
    if is_unfinished(where):
        missing = ", ".join(facts["missing"]) or "none, but it is not assembled"
        rows.append(
            ["state", f"NOT FINISHED; stages still to be trained: {missing} (caloforge train --resume goes on)"]
        )
        rows += map(list, card_rows(read_plan(Path(where))))
    else:
        rows += map(list, card_rows(read_record(where)))
    print_table("", ["", ""], rows)


def _describe_detector(name: str, bin_: str | None, drawing: Path | None, no_drawing: bool, json_: bool) -> None:
    from caloforge.detectors import load_detector
    from caloforge.detectors.card import detector_rows, layer_rows
    from caloforge.detectors.drawing import draw_detector

    d = load_detector(name, bin_=bin_)
    readout = d.readout
    if json_:
        print_json(
            {
                "name": d.name,
                "hash": d.hash,
                "layers": readout.n_layers,
                "voxels": readout.n_voxels,
                "toml": d.to_toml(),
            }
        )
        return
    rows = [list(row) for row in detector_rows(d)]
    print_table("", ["", ""], rows)
    if readout.has_voxels:
        layers = layer_rows(d)
        print_table("", ["layer", "depth [mm]", "cells"], _shortened(layers))
    if not no_drawing:
        save_figure(draw_detector(d), drawing or Path(f"{d.name.replace('/', '-')}.png"))


def _shortened(rows: list[list[str]]) -> list[list[str]]:
    """A long list of layers with its middle left out."""
    return rows if len(rows) <= 12 else [*rows[:4], ["…"] * len(rows[0]), *rows[-2:]]


def _describe_file(path: Path, detector: Detector | None, drawing: Path | None, json_: bool) -> None:
    from caloforge.detectors import particle_name
    from caloforge.showers.convert import describe
    from caloforge.units import format_energy

    facts: dict[str, Any] = describe(path, detector)
    if json_:
        print_json(facts)
        return
    showers = f"{facts['showers']}"
    if not facts["complete"]:
        wanted = f" of {facts['expected']}" if facts["expected"] else ""
        showers += f"{wanted}: INCOMPLETE (interrupted, or still being written; --resume goes on)"
    rows = [["file", f"{path} ({facts['bytes'] / 1e6:.1f} MB)"], ["format", f"{facts['format']}, {facts['kind']}"],
            ["showers", showers]]  # fmt: skip
    rows.append(["particle", particle_name(facts["particle"]) if facts["particle"] else "not recorded"])
    if facts["energy_range"]:
        low, high = (format_energy(e) for e in facts["energy_range"])
        rows.append(["incident energy", low if low == high else f"{low} to {high}"])
    if facts["detector"]:
        cells = f"{facts['voxels']} voxels" if facts["kind"] == "voxels" else "points"
        rows.append(["detector", f"{facts['detector']} ({facts['layers']} layers, {cells})"])
    else:
        rows.append(["detector", "not recorded; name one with --detector"])
    if facts.get("points") is not None:
        rows.append(["points", str(facts["points"])])
    if facts["extras"]:
        rows.append(["also", ", ".join(facts["extras"])])
    print_table("", ["", ""], rows)
    provenance = {k: v for k, v in facts["provenance"].items() if v not in (None, "", {})}
    if provenance:
        print_table("provenance", ["", ""], [[key, _plain(value)] for key, value in provenance.items()])
    if facts["detector"] and facts["kind"] == "voxels" and facts["showers"]:
        _summarise(path, detector, drawing)


def _plain(value: Any) -> str:
    return ", ".join(f"{k}: {v}" for k, v in value.items()) if isinstance(value, dict) else str(value)


def _summarise(path: Path, detector: Detector | None, drawing: Path | None) -> None:
    from caloforge.showers import Showers
    from caloforge.showers.files import open_showers
    from caloforge.showers.pictures import draw_average
    from caloforge.showers.summary import layer_table

    with open_showers(path, detector) as reader:
        showers = reader.read(0, 5000)
        assert isinstance(showers, Showers)  # the caller has looked at the kind
        threshold = reader.detector.analysis_threshold if reader.detector else 0.0
    shown = f"first {len(showers)} showers" if len(showers) == 5000 else f"{len(showers)} showers"
    columns, rows = layer_table(showers, threshold)
    print_table(f"layers ({shown})", columns, _shortened(rows))
    if drawing is not None:
        save_figure(draw_average(showers), drawing)


@with_options(ConvertOptions)
def convert(
    source: Annotated[
        str,
        typer.Argument(
            help="A shower file of any known format, a sample of the package (NAME:SPLIT), or hits of your own simulation."
        ),
    ],
    target: Annotated[Path, typer.Argument(help="The file to write.")],
    detector: Annotated[
        str | None, typer.Option(help="What the source is from; for points: the readout to put them into.")
    ] = None,
    bin_: BinOption = None,
    particle: Annotated[str | None, typer.Option(help="Incident particle, if the source does not say.")] = None,
    *,
    options: ConvertOptions,
) -> None:
    """Convert a shower file, or put points or hits into any readout.

    \b
    Example: caloforge convert hits.h5 showers.h5 --detector my_detector.toml
    """
    from caloforge.api.data import convert as run
    from caloforge.units import format_energy

    result = run(source, target, detector=chosen_detector(detector, bin_), particle=particle, options=options)
    console.print(f"{target}: {result.showers} showers, {result.target} ({result.kind}), from {result.source}")
    if not result.source_complete:
        console.print(f"note: {source} is incomplete; only its finished showers were converted")
    total_energy = result.energy + result.overflow + result.left_out
    if total_energy > 0:
        if result.overflow:
            console.print(f"outside the voxels of its layer (kept as overflow): {result.overflow / total_energy:.3%}")
        if result.left_out:
            console.print(
                f"left out: {format_energy(result.left_out)}, {result.left_out / total_energy:.3%} of the energy"
            )


def datasets(json_: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False) -> None:
    r"""List the real showers that come with the package.

    \b
    Example: caloforge datasets
    """
    from caloforge.datasets import describe
    from caloforge.detectors import particle_name
    from caloforge.units import format_energy

    found = describe()
    if json_:
        print(json.dumps(found, indent=2, default=str))
        return
    rows = [
        [
            d["name"], d["split"], str(d["showers"]), particle_name(d["particle"]), d["detector"],
            " to ".join(format_energy(round(e, -3)) for e in d["energy_range"]),
            "train on it" if d["trainable"] else "reference, never trained on", d["path"],
        ]
        for d in found
    ]  # fmt: skip
    print_table("", ["sample", "split", "showers", "particle", "detector", "energy", "use"], [row[:-1] for row in rows])
    for row in rows:
        console.print(f"{row[1]}: {row[-1]}")


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(info)
    app.command()(convert)
    app.command()(datasets)
