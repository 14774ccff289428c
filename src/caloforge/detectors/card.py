"""A detector in words: for ``caloforge info`` and for notebooks."""

from __future__ import annotations

from caloforge import html
from caloforge.detectors.detector import Detector
from caloforge.detectors.drawing import draw_detector
from caloforge.detectors.grids import PolarGrid
from caloforge.units import keV

__all__ = ["detector_page", "detector_rows", "layer_rows"]


def detector_rows(detector: Detector) -> list[tuple[str, str]]:
    """What a detector is, as pairs of a title and a text."""
    d, readout = detector, detector.readout
    rows = [("name", d.name), ("what it is", d.title or "–"), ("source", d.reference or "–")]
    cells = f"{readout.n_voxels} voxels" if readout.has_voxels else "points"
    rows.append(("readout", f"{readout.n_layers} layers, {cells}"))
    if d.readouts:
        rows.append(("other readouts", ", ".join(f"{d.name}/{key}" for key in d.readouts)))
    rows.append(("analysis threshold", f"{d.analysis_threshold / keV:g} keV"))
    if d.stack:
        rows.append(("readout threshold", f"{d.readout_threshold / keV:g} keV"))
        scored = "every deposit" if d.stack.deposits == "all" else "deposits in active plates"
        fraction = f", divided by {d.sampling_fraction:g}" if d.sampling_fraction else ""
        material = f"{len(d.stack.plates)} plates, {d.stack.thickness:.4g} mm deep, production cut {d.stack.cut:g} mm"
        rows.append(("Geant4", f"{material}; {scored}{fraction}"))
    if d.field:
        rows.append(("magnetic field", f"({', '.join(f'{b:g}' for b in d.field)}) T along x, y, z"))
    if d.gun:
        even = {"angles": "in their angles", "barrel": "on the barrel"}
        turning = f", random directions even {even[d.gun.directions.density]}" if d.gun.directions else ""
        rows.append(("gun", f"{', '.join(d.gun.particles)}; {d.gun.energy} GeV{turning}"))
    rows.append(("symmetries", ", ".join(d.symmetries) or "none declared"))
    rows.append(("hash", d.hash))
    return rows


def layer_rows(detector: Detector) -> list[list[str]]:
    """Label, depth (mm) and cells of every layer of a detector with voxels."""
    rows = []
    for layer in detector.readout.layers:
        grid = layer.grid
        assert grid is not None  # a readout with voxels has a grid in every layer
        shape = f"{grid.shape[0]} x {grid.shape[1]}"
        if isinstance(grid, PolarGrid):
            text = f"{shape} (alpha, r), r {grid.r_edges[0]:g} to {grid.r_edges[-1]:g} mm"
        else:
            text = (f"{shape} (x, y), x {grid.x_edges[0]:g} to {grid.x_edges[-1]:g}, "
                    f"y {grid.y_edges[0]:g} to {grid.y_edges[-1]:g} mm")  # fmt: skip
        depth = "–" if layer.depth is None else f"{layer.depth[0]:.4g} to {layer.depth[1]:.4g}"
        rows.append([layer.label, depth, text])
    return rows


def detector_page(detector: Detector) -> str:
    """An HTML fragment about a detector: facts and its picture."""
    picture = html.picture(draw_detector(detector), f"plates, layers and cells of {detector.name}")
    return html.block(f"Detector {detector.name}", html.pairs(detector_rows(detector)), picture)
