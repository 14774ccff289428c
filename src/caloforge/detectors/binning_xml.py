"""CaloChallenge and FastCaloSim binning files (XML) as readouts.

The form is ``<Bins><Bin pid name etaMin etaMax><Layer id r_edges n_bin_alpha/></Bin></Bins>``, with any number of ``<Bin>``,
which may stand in ``<Particle pid name>``; radii are mm. Layers that hold nothing are listed with ``r_edges="0"`` and are
left out, so that the voxels count as in the HDF5 files.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from caloforge.arguments import argument
from caloforge.detectors.particles import particle_id, particle_name
from caloforge.errors import DetectorError, UsageError
from caloforge.textfiles import read_text

__all__ = ["read_binning_xml"]


def read_binning_xml(path: str | Path, chosen: str | None = None) -> dict[str, Any]:
    """Read a binning file as the description of a readout-only detector.

    Args:
        path: the XML file.
        chosen: which of its bins, if it has several: the range of eta as it stands there (``20:25``), the particle (``gamma`` or
            its PDG id), or both (``gamma/20:25``).

    Returns:
        A detector description (name, title, readout) as it would stand in TOML.

    Raises:
        DetectorError: if the file is not a binning file, its bins are not the ones asked for, or its edges make no sense.
    """
    path = Path(path)
    text = read_text(path, DetectorError, xml=True)
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        # Entities are how an XML file makes a parser read other files or fill the memory.
        raise DetectorError(f"{path}: holds a document type, which a binning file has no use for")
    try:
        root = ElementTree.fromstring(text)
    except ElementTree.ParseError as error:
        raise DetectorError(f"{path}: is not XML ({error})") from None
    bins = _bins(root)
    if not bins:
        raise DetectorError(f"{path}: is no binning file, there is no <Bin> in <{root.tag}>")
    one = _choose(path, bins, chosen)
    groups = [_group(path, layer) for layer in one.element.findall("Layer")]
    layers = [group for group in groups if group is not None]
    if not layers:
        raise DetectorError(f"{path}: no layer has any voxels")
    name = path.stem if len(bins) == 1 else f"{path.stem}-{one.label}"
    title = f"CaloChallenge binning for {one.element.get('name') or one.particle or 'unnamed particles'}"
    return {"name": _valid_name(name), "title": title, "readout": {"layers": _merged(layers)}}


@dataclass(frozen=True)
class _Bin:
    """One bin of a file.

    Attributes:
        element: with its layers.
        particle: name of its particle; empty if the file does not say.
        eta: its range as it stands there, "20:25"; empty likewise.
        number: its place in the file, from 1.
    """

    element: ElementTree.Element
    particle: str
    eta: str
    number: int

    @property
    def label(self) -> str:
        """What to call it, with everything that is known."""
        return "/".join(part for part in (self.particle, self.eta) if part) or str(self.number)

    def is_meant_by(self, text: str) -> bool:
        """Whether a user who says this may mean it."""
        particle, slash, eta = text.rpartition("/") if ":" in text else (text, "", "")
        known = not particle or (self.particle != "" and _same_particle(particle, self.particle))
        return text == str(self.number) or ((slash == "" or bool(particle)) and known and eta in ("", self.eta))


def _same_particle(text: str, name: str) -> bool:
    try:
        return particle_id(text) == particle_id(name)
    except UsageError:
        return text == name


def _bins(root: ElementTree.Element) -> list[_Bin]:
    found: list[_Bin] = []
    for parent in root.iter():
        for element in parent.findall("Bin"):
            pid = element.get("pid") or parent.get("pid") or ""
            try:
                particle = particle_name(particle_id(pid)) if pid else ""
            except UsageError:
                particle = pid
            low, high = element.get("etaMin"), element.get("etaMax")
            eta = "" if low is None or high is None else f"{low.strip()}:{high.strip()}"
            found.append(_Bin(element, particle, eta, len(found) + 1))
    return found


def _choose(path: Path, bins: list[_Bin], chosen: str | None) -> _Bin:
    meant = [one for one in bins if chosen is None or one.is_meant_by(chosen.strip())]
    if len(meant) == 1:
        return meant[0]
    known = ", ".join(one.label for one in bins)
    if chosen is None:
        raise DetectorError(
            f"{path}: holds {len(bins)} bins, and one has to be chosen ({argument('bin_', '--bin')}): {known}"
        )
    problem = f"none of its bins is '{chosen}'" if not meant else f"'{chosen}' may be any of {len(meant)} bins"
    raise DetectorError(f"{path}: {problem}, expected one of {known}")


def _valid_name(text: str) -> str:
    """A detector's name from that of a file: "binning (1)" has characters that no detector's name may have."""
    return re.sub(r"[^A-Za-z0-9.]+", "-", text).strip("-.") or "binning"


def _group(path: Path, layer: ElementTree.Element) -> dict[str, Any] | None:
    label = layer.get("id")
    if label is None:
        raise DetectorError(f"{path}: a <Layer> has no 'id'")
    for key in ("r_edges", "n_bin_alpha"):
        if layer.get(key) is None:
            raise DetectorError(f"{path}: layer {label} has no '{key}'")
    try:
        edges = [float(value) for value in layer.attrib["r_edges"].split(",")]
        n_alpha = int(layer.attrib["n_bin_alpha"])
    except ValueError:
        raise DetectorError(
            f"{path}: layer {label}: expected numbers separated by commas in 'r_edges' and a whole number in 'n_bin_alpha'"
        ) from None
    if len(edges) == 1:
        return None
    return {"labels": [label], "r_edges": edges, "alpha": n_alpha}


def _merged(layers: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Equal layers that follow each other, written once."""
    merged: list[dict[str, Any]] = []
    for layer in layers:
        if merged and all(merged[-1][key] == layer[key] for key in ("r_edges", "alpha")):
            merged[-1]["labels"] += layer["labels"]
            merged[-1]["repeat"] = len(merged[-1]["labels"])
        else:
            merged.append(dict(layer))
    return merged
