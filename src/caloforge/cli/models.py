"""``caloforge models`` and ``caloforge plugins``: what can be trained, what is trained, and what other packages add."""

from __future__ import annotations

import warnings
from typing import TYPE_CHECKING, Annotated

import typer

from caloforge.cli.common import console, print_json, print_table
from caloforge.errors import CaloForgeError, CaloForgeWarning, PluginError

if TYPE_CHECKING:
    from caloforge.models import ModelRecord, Preset

__all__ = ["register"]


def models(json_: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False) -> None:
    r"""List the presets that can be trained, and the trained models.

    \b
    Example: caloforge models
    """
    from caloforge.models import preset_names, pretrained_names

    presets = {name: preset for name in preset_names() if (preset := _preset(name)) is not None}
    trained = {name: record for name in pretrained_names() if (record := _record(name)) is not None}
    if json_:
        print_json({name: preset.model_dump(mode="json") for name, preset in presets.items()})
        return
    rows = [
        [name, p.kind, p.like, ", ".join(p.aid_names) or "-", p.detector or "any", p.particle or "any", p.title]
        for name, p in presets.items()
    ]
    print_table("", ["preset", "model", "profile", "aids", "detector", "particle", "what it is"], rows)
    console.print(
        "Train one with 'caloforge train PRESET --data showers.h5 --out runs/mine'; a YAML file of your own works too."
    )
    print_table("trained models", ["name", "model", "profile", "aids", "particle", "energy"], _trained(trained))
    console.print("Generate with 'caloforge generate NAME ...'; 'caloforge info NAME' tells more of one.")


def _trained(records: dict[str, ModelRecord]) -> list[list[str]]:
    from caloforge.units import format_energy

    rows = []
    for name, record in records.items():
        low, high = (format_energy(round(energy, -3) or energy) for energy in record.valid.incident_energy)
        aids = ", ".join(str(aid.get("kind")) for aid in record.aids) or "-"
        rows.append([name, record.kind, record.profile, aids, record.valid.particle_names, f"{low} to {high}"])
    return rows


def _preset(name: str) -> Preset | None:
    """A preset, or a note why somebody else's cannot be read."""
    from caloforge.models import read_preset

    try:
        return read_preset(name)
    except CaloForgeError as error:
        warnings.warn(str(error), CaloForgeWarning, stacklevel=2)
        return None


def _record(name: str) -> ModelRecord | None:
    from caloforge.models import read_record

    try:
        return read_record(name)
    except CaloForgeError as error:
        warnings.warn(str(error), CaloForgeWarning, stacklevel=2)
        return None


def plugins(
    check: Annotated[bool, typer.Option("--check", help="Load each of them, and say what is wrong.")] = False,
    json_: Annotated[bool, typer.Option("--json", help="Machine-readable output.")] = False,
) -> None:
    r"""List models, presets, trained models, aids, measures and file formats: the package's own, and what other packages add.

    \b
    Example: caloforge plugins --check

    With --check the exit code is 1 if one of them cannot be loaded; docs/extending.md tells how to write your own.
    """
    from caloforge.plugins import GROUPS, find

    entries = [plugin for group in GROUPS for plugin in find(group).values()]
    problems = {(p.group, p.name): _problem(p.group, p.name) for p in entries} if check else {}
    others = [p for p in entries if p.distribution != "caloforge"]
    if json_:
        print_json({"plugins": [vars(p) | ({"problem": problems[p.group, p.name]} if check else {}) for p in entries]})
    else:
        own = [
            [group, ", ".join(p.name for p in entries if p.group == group and p.distribution == "caloforge")]
            for group in GROUPS
        ]  # fmt: skip
        print_table("in caloforge itself", ["group", "names"], own)
        rows = [
            [p.group, p.name, f"{p.distribution} {p.version}".strip(), p.value]
            + ([problems[p.group, p.name] or "loads"] if check else [])
            for p in others
        ]
        if rows:
            print_table(
                "in other packages", ["group", "name", "distribution", "where", *(["state"] if check else [])], rows
            )
        else:
            console.print("No installed package adds anything; docs/extending.md tells how to write your own.")
    broken = [problem for problem in problems.values() if problem]
    if broken:
        more = f" (and {len(broken) - 1} more)" if len(broken) > 1 else ""
        raise PluginError(broken[0] + more)


def _problem(group: str, name: str) -> str:
    """What is wrong with an entry; empty if it can be used."""
    try:
        match group:
            case "models":
                from caloforge.models import model_class

                model_class(name)
            case "presets":
                from caloforge.models import load_preset

                load_preset(name)
            case "pretrained":
                from caloforge.models import load_model

                load_model(name)
            case "aids":
                from caloforge.models import aid_class

                aid_class(name)
            case "measures":
                from caloforge.evaluation.measures import find_measure

                find_measure(name)
            case "formats":
                from caloforge.showers.formats.registry import find_format

                find_format(name)
    except CaloForgeError as error:
        return str(error)
    return ""


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command()(models)
    app.command()(plugins)
