"""What a notebook shows of showers: a table, their spectra, and one event."""

from __future__ import annotations

import numpy as np

from caloforge import html
from caloforge.detectors import particle_name
from caloforge.showers.pictures import draw_event, draw_points, draw_spectra
from caloforge.showers.showers import ShowerPoints, Showers
from caloforge.units import format_energy

__all__ = ["showers_page"]


def showers_page(showers: Showers | ShowerPoints) -> str:
    """An HTML fragment about some showers: facts, spectra of incident and deposited energy, and the event in the middle."""
    rows = [("showers", f"{len(showers):,}")]
    rows.append(("particle", particle_name(showers.particle) if showers.particle else "not known"))
    detector, readout = showers.detector, showers.readout
    name = "not known" if detector is None else detector.name
    size = (
        ""
        if readout is None
        else f" ({readout.n_layers} layers"
        + (f", {readout.n_voxels} voxels)" if isinstance(showers, Showers) else ", points)")
    )
    rows.append(("detector", name + size))
    parts = []
    if len(showers):
        low, high = float(showers.incident_energy.min()), float(showers.incident_energy.max())
        energy = format_energy(low) if low == high else f"{format_energy(low)} to {format_energy(high)}"
        rows.append(("incident energy", energy))
        total = showers.total_energy()
        rows.append(("deposited", f"{total.sum() / showers.incident_energy.sum():.1%} of the incident energy"))
        number = (
            np.count_nonzero(showers.deposits, axis=1) if isinstance(showers, Showers) else np.diff(showers.offsets)
        )
        word = "lit voxels" if isinstance(showers, Showers) else "points"
        rows.append((word, f"{number.mean():.4g} per shower"))
        parts.append(html.picture(draw_spectra(showers), "spectra of incident and deposited energy"))
        middle = int(np.argsort(showers.incident_energy)[len(showers) // 2])
        figure = draw_event(showers, middle) if isinstance(showers, Showers) else draw_points(showers, middle)
        parts.append(html.picture(figure, f"shower {middle}"))
    origin = _origin(showers)
    if origin:
        rows.append(("made by", origin))
    return html.block("Showers", html.pairs(rows), *parts)


def _origin(showers: Showers | ShowerPoints) -> str:
    provenance = showers.provenance
    model = provenance.get("model")
    if isinstance(model, dict) and "kind" in model:
        far = ", beyond the range it was trained for" if provenance.get("extrapolated") else ""
        return f"model {model['kind']}{far}"
    physics = provenance.get("physics")
    program = str(provenance.get("geant4") or provenance.get("program") or "")
    return f"{program}, {physics}" if physics else program
