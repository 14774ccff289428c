"""Particles that would circle in vacuum for ever."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace

import pytest

from caloforge.cli.common import given_up
from caloforge.detectors import load_detector
from caloforge.executor import InThisProcess
from caloforge.simulation import simulate_to_file

pytestmark = pytest.mark.geant4

#: Electrons of 7.5 keV start below a wide face of air, across the field (their circles of 0.0837 mm dip in by 1.5 um, or stay
#: 1 um away), or partly along it (then they leave the world after 1,600 turns). The lowest energy of ``simulate`` is far above
#: theirs, so the engine is asked itself.
SCRIPT = """
import json, math
import numpy as np
from caloforge.detectors import detector_from_toml
from caloforge.simulation.engines import make_engine

detector = detector_from_toml('''
name = "grazed"
field = [3.5, 0.0, 0.0]
[gun]
particles = ["e-"]
energy = "0.001"
position = [0.0, 0.0, %s]
[stack]
kind = "planar"
lateral = [1200.0, 1200.0]
world = [1400.0, 1400.0, 300.0]
[[stack.groups]]
plates = [{ material = "G4_AIR", thickness = 10.0, active = true }]
[[readout.layers]]
depth = [0.0, 10.0]
''', where="test")
engine = make_engine("geant4-pybind", detector, 11, "builtin", None)
engine.seed(1)
directions = np.array([[math.sin(a), 0.0, math.cos(a)] for a in %s])
engine.run_bare(np.full(len(directions), 0.0075), directions)
print(json.dumps(engine.given_up))
"""


@pytest.mark.parametrize(
    ("start", "angles", "lost"),
    [(-0.0822442, [0.0, 0.0], 2), (-0.0847442, [0.0], 1), (-0.0847442, [1.0] * 100, 0)],
    ids=["grazing", "free", "leaving"],
)
def test_an_electron_that_circles_in_vacuum_is_given_up(start, angles, lost):
    # Without the warden those that circle run into the limit of a minute (the shower that showed it had not ended after 25).
    # If the path is not forgotten from shower to shower, one of those that leave is given up.
    script = SCRIPT % (start, angles)
    ran = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, timeout=60, check=True)
    given_up = json.loads(ran.stdout.splitlines()[-1])
    assert given_up == pytest.approx([0.0075] * lost, rel=1e-6)


class Lossy:
    """An executor whose blocks have each given up one particle more than the one before."""

    jobs = 1

    def run(self, prepare, settings, tasks):
        for number, (task, made) in enumerate(InThisProcess().run(prepare, settings, tasks)):
            yield task, replace(made, block=replace(made.block, given_up=(0.0075,) * number))


def test_what_is_given_up_is_reported(tmp_path):
    # Fails if only one block counts.
    summary = simulate_to_file(
        load_detector("calogan"), tmp_path / "s.h5", particle="e+", energy="0.1", events=30, seed=5, geant4_data="builtin",
        executor=Lossy(),
    )  # fmt: skip
    assert summary.given_up == (0.0075,) * 3
    assert given_up(summary.given_up) == [["given up", "3 particles that circled in vacuum (22.5 keV)"]]
    assert given_up((0.0075,)) == [["given up", "1 particle that circled in vacuum (7.5 keV)"]]
    assert given_up(()) == []
