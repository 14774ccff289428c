from __future__ import annotations

from itertools import pairwise

import numpy as np
import pytest

from caloforge.detectors import detector_from_toml, load_detector
from caloforge.errors import SimulationError
from caloforge.simulation.engines.calzone import geometry_of
from caloforge.simulation.geometry import Frame, material_name, plate_layers

# Lower faces of ILD's silicon plates along the normal, mm (CaloClouds3 metadata).
ILD_FACES = [
    1811.34020996, 1814.46508789, 1823.81005859, 1826.93505859, 1836.2800293, 1839.4050293, 1848.75, 1851.875,
    1861.2199707, 1864.3449707, 1873.68994141, 1876.81494141, 1886.16003418, 1889.28503418, 1898.63000488,
    1901.75500488, 1911.09997559, 1914.22497559, 1923.56994629, 1926.69494629, 1938.14001465, 1943.36499023,
    1954.81005859, 1960.03503418, 1971.47998047, 1976.70495605, 1988.15002441, 1993.375, 2004.81994629, 2010.04504395,
]  # fmt: skip
ILD_SURFACE = 1804.7
TUNGSTEN_X0 = 3.504  # mm, PDG


def test_calogan_world_is_that_of_the_published_code():
    stack = load_detector("calogan").stack
    world = geometry_of(stack)["World"]
    assert world["box"] == [120.0, 120.0, 57.6]
    assert world["material"] == "G4_Galactic"
    plates = [world[f"P{k}"] for k in range(160)]
    assert {tuple(p["box"]) for p in plates} == {(100.0, 100.0, 0.2), (100.0, 100.0, 0.4)}
    assert plates[0]["material"] == "G4_Pb"  # lead first, its face at z = -240 mm
    assert plates[0]["position"] == pytest.approx([0, 0, -23.9])
    assert plates[159]["position"] == pytest.approx([0, 0, 23.8])
    assert all(p["role"] == "record_deposits" for p in plates)


def test_calogan_gun_and_layers_in_geant4s_frame():
    detector = load_detector("calogan")
    frame = Frame.of(detector.stack)
    assert frame.to_geant4(np.array([detector.gun.position]))[0] == pytest.approx([0, 0, -288])
    borders = [end for _, end in detector.readout.depths]
    assert [frame.to_geant4(np.array([[0, 0, z]]))[0, 2] for z in borders] == pytest.approx([-150, 197, 240])


def test_par04_cylinders():
    stack = load_detector("par04-ds2").stack
    world = geometry_of(stack)["World"]
    shapes = [world[f"P{k}"]["cylinder"] for k in range(180)]
    outer = np.array([s["radius"] for s in shapes])
    inner = outer - [s["thickness"] for s in shapes]
    assert inner[0] == pytest.approx(80.0)
    assert inner[1:] == pytest.approx(outer[:-1])
    assert outer[-1] == pytest.approx(80.0 + 90 * 0.17)
    assert [world[f"P{k}"].get("role") for k in (0, 1)] == [None, "record_deposits"]
    assert [world[f"P{k}"]["material"] for k in (0, 1)] == ["G4_W", "G4_Si"]
    assert world["box"][0] / 2 > outer[-1]


def test_par04_gun_sits_on_the_axis_and_shoots_along_x():
    detector = load_detector("par04-ds2")
    frame = Frame.of(detector.stack)
    assert frame.to_geant4(np.array([detector.gun.position]))[0] == pytest.approx([0, 0, 0])
    assert frame.rotate(np.array([[0.0, 0.0, 1.0]]))[0] == pytest.approx([1, 0, 0])
    # x_local = global y, y_local = global z
    assert frame.to_geant4(np.array([[10.0, 20.0, 30.0]]))[0] == pytest.approx([830, 10, 20])


@pytest.mark.parametrize("name", ["calogan", "par04-ds2", "ild-ecal"])
def test_frames_go_back_and_forth(name):
    frame = Frame.of(load_detector(name).stack)
    local = np.random.default_rng(0).normal(size=(20, 3)) * 100
    there = frame.to_geant4(local)
    back = np.stack([frame.to_local(there[:, frame.axes[k]], k) for k in range(3)], axis=1)
    assert back == pytest.approx(local)


def test_ild_plates_stand_where_published():
    detector = load_detector("ild-ecal")
    plates = detector.stack.plates
    silicon = [p for p in plates if p.active]
    assert len(silicon) == 30
    assert [p.start + ILD_SURFACE for p in silicon] == pytest.approx(ILD_FACES, abs=1e-3)
    assert all(p.thickness == pytest.approx(0.5250244, abs=1e-4) for p in silicon)
    assert detector.stack.thickness == pytest.approx(223.2 + 0.1)
    tungsten = sum(p.thickness for p in plates if p.material == "G4_W")
    assert tungsten / TUNGSTEN_X0 == pytest.approx(24.0, abs=0.1)
    # Two sensors back to back on one core: the material in front of every second one is tungsten and little else.
    between = [
        {q.material for q in plates if a.end < q.start + q.thickness / 2 < b.start} for a, b in pairwise(silicon)
    ]
    assert all("G4_Cu" not in materials for materials in between[0::2])
    assert all("G4_Cu" in materials and "G4_Al" in materials for materials in between[1::2])


def test_ild_plates_belong_to_their_layers():
    detector = load_detector("ild-ecal")
    layers = plate_layers(detector)
    for plate in detector.stack.plates:
        assert layers[plate.index] == (-1 if plate.layer is None else plate.layer)


def test_layers_follow_from_depth_where_deposits_are_everywhere_or_plates_are_curved():
    assert plate_layers(load_detector("calogan")) is None
    assert plate_layers(load_detector("par04-ds2")) is None


def test_an_active_plate_without_a_layer_is_named():
    text = load_detector("ild-ecal").to_toml()
    detector = detector_from_toml(text.replace("thickness = 1.18", "thickness = 2.18", 1), where="test")
    with pytest.raises(SimulationError, match=r"the active plate from 7.64 to 8.165 mm lies in no readout layer"):
        plate_layers(detector)


def test_own_materials_get_names_that_stand_for_their_definition():
    text = """
name = "one"
[gun]
particles = ["e-"]
energy = "1"
[stack]
kind = "planar"
lateral = [100.0, 100.0]
world = [200.0, 200.0, 300.0]
[stack.materials.glue]
density = 1.1
composition = { H = 0.08, C = 0.92 }
[[stack.groups]]
plates = [{ material = "glue", thickness = 10.0, active = true }]
[[readout.layers]]
depth = [0.0, 10.0]
x = { bins = 1, range = [-1.0, 1.0] }
y = { bins = 1, range = [-1.0, 1.0] }
"""
    stack = detector_from_toml(text, where="test").stack
    name = material_name(stack, "glue")
    assert name[0].isupper()
    assert name.isalnum()
    definition = geometry_of(stack)
    assert definition["World"]["P0"]["material"] == name
    assert definition["materials"]["mixtures"][name] == {"density": 1.1, "composition": {"H": 0.08, "C": 0.92}}
    denser = detector_from_toml(text.replace("1.1", "1.2"), where="test").stack
    assert material_name(denser, "glue") != name
    assert material_name(stack, "G4_Pb") == "G4_Pb"
