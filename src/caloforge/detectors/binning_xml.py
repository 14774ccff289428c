"""CaloChallenge binning files (XML) as readouts.

The form is ``<Bins><Bin pid name etaMin etaMax><Layer id r_edges n_bin_alpha/></Bin></Bins>``; radii are mm. Layers
that hold nothing are listed with ``r_edges="0"`` and are left out, so that the voxels count as in the HDF5 files.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any
from xml.etree import ElementTree

from caloforge.errors import DetectorError
from caloforge.textfiles import read_text

__all__ = ["read_binning_xml"]


def read_binning_xml(path: str | Path) -> dict[str, Any]:
    """Read a binning file as the description of a readout-only detector.

    Args:
        path: the XML file.

    Returns:
        A detector description (name, title, readout) as it would stand in TOML.

    Raises:
        DetectorError: if the file is not a binning file, or holds several bins, or its edges make no sense.
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
    bins = root.findall("Bin") if root.tag == "Bins" else []
    if len(bins) != 1:
        raise DetectorError(f"{path}: expected <Bins> with one <Bin>, found {len(bins)} in <{root.tag}>")
    groups = [_group(path, layer) for layer in bins[0].findall("Layer")]
    layers = [group for group in groups if group is not None]
    if not layers:
        raise DetectorError(f"{path}: no layer has any voxels")
    title = f"CaloChallenge binning for {bins[0].get('name', 'unnamed particles')}"
    return {"name": path.stem.replace("_", "-"), "title": title, "readout": {"layers": _merged(layers)}}


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
