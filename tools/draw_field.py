"""Draw what the magnetic field does to photon showers in ild-ecal: the figure of docs/simulation.md, and its numbers.

Run with: python tools/draw_field.py FIELD.h5 NONE.h5 [docs/images/field.png]

    photons="--detector ild-ecal --particle gamma --energy 10 --direction random --points --events 1000 --seed 21"
    caloforge simulate $photons --out FIELD.h5
    caloforge simulate $photons --field 0 --out NONE.h5

Distances are measured from the shower's axis along two directions across it: e_theta, in the plane of beam and axis, and
e_phi, in the plane across the field, in which charged particles turn.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

import matplotlib.pyplot as plt
import numpy as np
from numpy.typing import NDArray

from caloforge.showers import ShowerPoints
from caloforge.showers.files import open_showers

Floats = NDArray[np.float64]

EDGES = np.linspace(-30, 30, 31)  # mm
COLOURS = {"3.5 T": "tab:red", "no field": "tab:blue"}


@dataclass(frozen=True)
class Sample:
    """Of each shower: direction, energy-weighted mean distances and shifts from the axis, profiles."""

    theta: Floats
    phi: Floats
    distance: Floats  # (N, 2): mean |t|, along e_theta and e_phi, mm
    shift: Floats  # (N, 2): mean t
    profile: Floats  # (2, bins): share of the energy per mm


def measured(path: Path) -> Sample:
    with open_showers(path) as reader:
        showers = reader.read()
    assert isinstance(showers, ShowerPoints)
    assert showers.readout is not None
    assert showers.direction is not None
    direction = showers.direction.astype(float)
    theta, phi = np.arccos(direction[:, 0]), np.arctan2(direction[:, 2], direction[:, 1])
    zero = np.zeros_like(theta)
    along_theta = np.stack([-np.sin(theta), np.cos(theta) * np.cos(phi), np.cos(theta) * np.sin(phi)], axis=1)
    along_phi = np.stack([zero, -np.sin(phi), np.cos(phi)], axis=1)
    x, y, layer, energy = showers.points.T.astype(float)
    place = np.stack([x, y, showers.readout.depths.mean(axis=1)[layer.astype(int)]], axis=1)
    row, n = showers.shower_index, len(showers)
    total = np.bincount(row, energy, n)
    distance, shift, profile = np.empty((n, 2)), np.empty((n, 2)), []
    for k, unit in enumerate((along_theta, along_phi)):
        t = np.sum(place * unit[row], axis=1)
        distance[:, k] = np.bincount(row, energy * np.abs(t), n) / total
        shift[:, k] = np.bincount(row, energy * t, n) / total
        profile.append(np.histogram(t, EDGES, weights=energy / total[row])[0] / n / np.diff(EDGES))
    return Sample(np.degrees(theta), np.degrees(phi), distance, shift, np.array(profile))


def mean(values: Floats) -> tuple[float, float]:
    return float(values.mean()), float(values.std(ddof=1) / np.sqrt(len(values)))


def main(field: Path, none: Path, out: Path) -> None:
    samples = {"3.5 T": measured(field), "no field": measured(none)}
    figure, axes = plt.subplots(1, 3, figsize=(12, 3.8), layout="constrained")
    middle = (EDGES[:-1] + EDGES[1:]) / 2
    for name, sample in samples.items():
        d = sample.distance
        asymmetry = (d[:, 1] - d[:, 0]) / (d[:, 1] + d[:, 0])
        print(f"{name}: {len(d)} showers")
        for title, values in (
            ("mean distance along theta [mm]", d[:, 0]), ("mean distance along phi [mm]", d[:, 1]),
            ("asymmetry", asymmetry), ("shift along theta [mm]", sample.shift[:, 0]),
            ("shift along phi [mm]", sample.shift[:, 1]),
        ):  # fmt: skip
            print("  {}: {:.4f} +- {:.4f}".format(title, *mean(values)))
        for k, (style, letter) in enumerate((("--", r"\theta"), ("-", r"\phi"))):
            axes[0].step(
                middle, sample.profile[k], where="mid", linestyle=style, color=COLOURS[name],
                label=f"{name}, along $e_{letter}$",
            )  # fmt: skip
        for ax, angle, edges in (
            (axes[1], sample.theta, np.linspace(45, 135, 7)), (axes[2], sample.phi, np.linspace(79, 109, 7))
        ):  # fmt: skip
            bins = [asymmetry[(angle >= a) & (angle < b)] for a, b in pairwise(edges)]
            values, errors = zip(*(mean(one) for one in bins), strict=True)
            ax.errorbar(
                (edges[:-1] + edges[1:]) / 2, values, errors, np.diff(edges) / 2, fmt="o", markersize=4,
                color=COLOURS[name], label=name,
            )  # fmt: skip
    axes[0].set(yscale="log", xlabel="distance from the axis [mm]", ylabel="share of the energy per mm")
    axes[0].legend(fontsize=8)
    for ax, letter in ((axes[1], r"\theta"), (axes[2], r"\phi")):
        ax.axhline(0.0, color="0.7", linewidth=0.8)
        ax.set(
            xlabel=f"${letter}$ [degrees]", ylabel=r"$(w_\phi - w_\theta)\ /\ (w_\phi + w_\theta)$", ylim=(-0.02, 0.08)
        )
        ax.legend(fontsize=8)
    figure.suptitle("10 GeV photons in the silicon of ild-ecal; w: mean distance from the axis along a direction")
    figure.savefig(out, dpi=120)
    print(out)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]), Path(sys.argv[3] if len(sys.argv) > 3 else "docs/images/field.png"))
