"""Draw what the example has printed: python plot.py spots.csv [spots.png]."""

import csv
import sys

import matplotlib.pyplot as plt

with open(sys.argv[1], newline="") as file:
    rows = list(csv.DictReader(file))
showers = 1 + max(int(row["shower"]) for row in rows)
depth = [float(row["x"]) - 1500 for row in rows]  # the example enters at x = 1500 mm
side = [float(row["y"]) for row in rows]
energy = [float(row["energy"]) / showers for row in rows]

figure, (left, right) = plt.subplots(1, 2, figsize=(9, 3.6), layout="constrained")
left.hist(depth, bins=60, weights=energy, histtype="step")
left.set(xlabel="depth (mm)", ylabel="mean energy per bin (MeV)")
drawn = right.scatter(depth, side, s=2, c=energy, norm="log")
right.set(xlabel="depth (mm)", ylabel="y (mm)")
figure.colorbar(drawn, label="energy per shower (MeV)")
figure.suptitle(f"{showers} showers from the C++ runtime")
figure.savefig(sys.argv[2] if len(sys.argv) > 2 else "spots.png", dpi=140)
