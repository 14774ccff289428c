"""The catalogue, a user's own files, and what is said about mistakes in them."""

from pathlib import Path

import numpy as np
import pytest

from caloforge.detectors import catalogue, detector_from_toml, load_detector
from caloforge.detectors.drawing import draw_detector
from caloforge.errors import DetectorError, UsageError

BINNING = Path(__file__).parent / "binning"

MINIMAL = """
name = "mine"
[[readout.layers]]
depth = [0.0, 10.0]
x = { bins = 2, range = [-1.0, 1.0] }
y = { bins = 2, range = [-1.0, 1.0] }
"""


@pytest.mark.parametrize(
    ("name", "layers", "voxels"),
    [
        ("calogan", 3, 504),
        ("par04-ds2", 45, 6480),
        ("par04-ds3", 45, 40500),
        ("ild-ecal", 30, 27000),
        ("ild-ecal/10x10", 30, 3000),
        ("ild-ecal/90x90", 30, 243000),
        ("ild-ecal/points", 30, 0),
        ("ds1-photons", 5, 368),
        ("ds1-pions", 7, 533),
    ],
)
def test_catalogue(name, layers, voxels):
    detector = load_detector(name)
    assert name in catalogue()
    assert (detector.readout.n_layers, detector.readout.n_voxels) == (layers, voxels)
    again = detector_from_toml(detector.to_toml(), where="again")
    assert again == detector
    assert again.hash == detector.hash


def test_layer_shapes_are_the_published_ones():
    assert load_detector("calogan").readout.layer_shapes == ((3, 96), (12, 12), (12, 6))
    assert load_detector("ds1-photons").readout.layer_sizes == (8, 160, 190, 5, 5)
    assert load_detector("ds1-pions").readout.layer_sizes == (8, 100, 100, 5, 150, 160, 10)
    assert set(load_detector("par04-ds3").readout.layer_shapes) == {(50, 18)}


@pytest.mark.parametrize(
    ("file", "name"),
    [("1_photons", "ds1-photons"), ("1_pions", "ds1-pions"), ("2", "par04-ds2"), ("3", "par04-ds3")],
)
def test_published_binning_files_give_the_same_voxels(file, name):
    parsed, built_in = load_detector(BINNING / f"binning_dataset_{file}.xml").readout, load_detector(name).readout
    assert parsed.layer_shapes == built_in.layer_shapes
    assert [layer.label for layer in parsed.layers] == [layer.label for layer in built_in.layers]
    for one, two in zip(parsed.layers, built_in.layers, strict=True):
        assert np.allclose(one.grid.r_edges, two.grid.r_edges, atol=1e-9)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("<Bins><Bin>", "is not XML"),
        ("<Other/>", "there is no <Bin> in <Other>"),
        ("<Bins><Bin/><Bin/></Bins>", "holds 2 bins"),
        ("<Bins><Bin><Layer r_edges='0,1' n_bin_alpha='1'/></Bin></Bins>", "has no 'id'"),
        ("<Bins><Bin><Layer id='4' r_edges='0,1'/></Bin></Bins>", "layer 4 has no 'n_bin_alpha'"),
        ("<Bins><Bin><Layer id='4' r_edges='0,a' n_bin_alpha='1'/></Bin></Bins>", "layer 4: expected numbers"),
        ("<Bins><Bin><Layer id='4' r_edges='0,5,3' n_bin_alpha='1'/></Bin></Bins>", "increasing order"),
        ("<Bins><Bin><Layer id='4' r_edges='0' n_bin_alpha='1'/></Bin></Bins>", "no layer has any voxels"),
        ("<!DOCTYPE b [<!ENTITY a 'aa'>]><Bins/>", "document type"),
    ],
)
def test_damaged_binning_files(tmp_path, text, message):
    path = tmp_path / "binning.xml"
    path.write_text(text)
    with pytest.raises(DetectorError, match=message):
        load_detector(path)


def test_own_toml_works_like_a_built_in_one(tmp_path):
    path = tmp_path / "mine.toml"
    path.write_text(MINIMAL)
    detector = load_detector(path)
    assert detector.readout.n_voxels == 4
    assert detector.readout.volumes().tolist() == [10.0] * 4


@pytest.mark.parametrize(
    ("change", "key", "expected"),
    [
        (("name =", "nam ="), "name", "missing|not known"),
        (("[-1.0, 1.0] }\ny", '"a" }\ny'), r"readout.layers\[0\].x.range", "valid tuple"),
        (("bins = 2, range = [-1.0, 1.0] }\ny", "bins = 0, range = [-1.0, 1.0] }\ny"), "x.bins", "greater than or equal to 1"),
        (("range = [-1.0, 1.0] }\ny", "range = [1.0, -1.0] }\ny"), "layers", "increasing order"),
        (("depth = [0.0, 10.0]", "depth = [10.0, 0.0]"), r"layers\[0\]", "more than its start"),
        (("depth = [0.0, 10.0]", "depht = [0.0, 10.0]"), "depht", "not known"),
        (('name = "mine"', 'name = "mine"\nanalysis_threshold = -1.0'), "analysis_threshold", "greater than or equal to 0"),
        (('name = "mine"', 'name = "mine"\nsymmetries = ["rotate-alpha"]'), "", "equally many sectors"),
        (('name = "mine"', 'name = "mine"\n[gun]\nparticles = ["photino"]\nenergy = "1"'), "gun.particles", "photino"),
        (('name = "mine"', 'name = "mine"\n[gun]\nparticles = ["gamma"]\nenergy = "5:1"'), "gun.energy", "lower end"),
        (('name = "mine"', 'name = "mine"\n[stack]\nkind = "planar"\nlateral = [1.0, 1.0]\nworld = [2.0, 2.0, 2.0]\n'
          'groups = [{ plates = [{ material = "unobtainium", thickness = 1.0, active = true }] }]'), "stack", "unobtainium"),
        (("range = [-1.0, 1.0] }\n", "range = [-1.0, inf] }\n"), "range", "finite"),
    ],
)  # fmt: skip
def test_mistakes_name_the_key_and_what_was_expected(change, key, expected):
    text = MINIMAL.replace(*change, 1)
    assert text != MINIMAL
    with pytest.raises(DetectorError, match=expected) as caught:
        detector_from_toml(text, where="mine.toml")
    assert str(caught.value).startswith("mine.toml: ")
    import re

    assert re.search(key, str(caught.value))
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["nonsense", "../calogan", "missing.toml", "ild-ecal/7x7", ""])
def test_unknown_detectors(name):
    with pytest.raises(DetectorError):
        load_detector(name)


def test_hash_sees_physics_and_nothing_else():
    detector = load_detector("calogan")
    assert detector.model_copy(update={"title": "other"}).hash == detector.hash
    assert detector.model_copy(update={"analysis_threshold": 0.02}).hash != detector.hash


@pytest.mark.parametrize("name", ["calogan", "ds1-pions", "par04-ds2", "ild-ecal/points"])
def test_drawing_shows_every_kind_of_layer(name, tmp_path):
    detector = load_detector(name)
    figure = draw_detector(detector)
    kinds = {layer.grid.model_dump_json() for layer in detector.readout.layers if layer.grid is not None}
    assert len(figure.axes) == len(kinds) + bool(len(detector.readout.depths))
    figure.savefig(tmp_path / "d.png")
    assert (tmp_path / "d.png").stat().st_size > 5000


def test_the_field_is_part_of_the_detector_and_can_be_scaled():
    text = load_detector("calogan").to_toml()
    plain = detector_from_toml(text.replace("reflect-y", "reflect-x"), where="test")
    assert plain.field is None
    with pytest.raises(UsageError, match=r"names no direction of a magnetic field; write 'field = \[Bx, By, Bz\]'"):
        plain.with_field(3.5)
    detector = detector_from_toml("field = [0.6, 0, 0]\n" + plain.to_toml(), where="test")
    assert detector.hash != plain.hash
    assert detector.with_field(0.0) == plain
    assert detector.with_field(0.6) == detector
    stronger = detector.with_field(3.5)
    assert stronger.field == pytest.approx((3.5, 0, 0))
    assert stronger.hash not in (detector.hash, plain.hash)
    assert detector_from_toml(stronger.to_toml(), where="test") == stronger
    assert detector.with_field(-0.6).field == (-0.6, 0.0, 0.0)
    for strength in (21.0, float("nan")):
        with pytest.raises(UsageError, match="expected at most 20 T"):
            detector.with_field(strength)
    for wrong in ("[0.0, 0.0, 0.0]", "[35000.0, 0.0, 0.0]"):  # none at all; gauss
        with pytest.raises(DetectorError, match="a magnetic field in tesla"):
            detector_from_toml(f"field = {wrong}\n" + plain.to_toml(), where="test")
