"""Text files of any editor: read as what they say, or refused with the reason."""

from __future__ import annotations

from pathlib import Path

import pytest

from caloforge.detectors import detector_from_toml, load_detector
from caloforge.errors import CaloForgeError, DetectorError, ModelFileError, UsageError
from caloforge.models import load_preset, read_record
from caloforge.report.write import load_report
from caloforge.showers.projection import load_cell_map
from caloforge.textfiles import LARGEST, read_text

TOML = '# Zürich\nname = "own"\ntitle = "Zürich"\n[[readout.layers]]\nx_edges = [0, 1, 2]\ny_edges = [0, 1]\n'
YAML = "kind: caloflow\ntitle: Zürich\n"
XML = (
    '<?xml version="1.0"{}?>\n<Bins><Bin pid="22" name="Zürich" etaMin="0" etaMax="1">\n'
    '<Layer id="0" r_edges="0,1,2" n_bin_alpha="4"/></Bin></Bins>\n'
)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-32"])
@pytest.mark.parametrize("newline", ["\n", "\r\n", "\r"])
def test_marked_encodings_and_line_ends_are_read(tmp_path: Path, encoding: str, newline: str) -> None:
    """Fails with ``path.read_text()`` in the place of ``read_text``, for all but plain UTF-8."""
    for name, text in (("a.toml", TOML), ("a.yaml", YAML), ("a.xml", XML.format(""))):
        (tmp_path / name).write_bytes(text.replace("\n", newline).encode(encoding))
    assert read_text(tmp_path / "a.toml", UsageError) == TOML
    assert load_detector(tmp_path / "a.toml") == detector_from_toml(TOML, where="here")
    assert load_preset(tmp_path / "a.yaml").title == "Zürich"
    assert "Zürich" in load_detector(tmp_path / "a.xml").title


def test_big_endian_utf_16_is_read(tmp_path: Path) -> None:
    (tmp_path / "a.yaml").write_bytes(b"\xfe\xff" + YAML.encode("utf-16-be"))
    assert load_preset(tmp_path / "a.yaml").title == "Zürich"


def test_xml_may_state_its_encoding(tmp_path: Path) -> None:
    """Fails if the statement is ignored (then byte 0xfc is no UTF-8)."""
    text = XML.format(' encoding="ISO-8859-1" standalone="yes"')
    (tmp_path / "a.xml").write_bytes(text.encode("latin-1"))
    assert "Zürich" in load_detector(tmp_path / "a.xml").title
    (tmp_path / "b.xml").write_bytes(XML.format(" encoding='klingon'").encode())
    with pytest.raises(DetectorError, match=r"b\.xml: states the encoding 'klingon', which is not known"):
        load_detector(tmp_path / "b.xml")


@pytest.mark.parametrize("encoding", ["utf-8", "utf-16"])
def test_entities_are_refused_in_any_encoding(tmp_path: Path, encoding: str) -> None:
    """Fails if the bytes rather than the text are searched: in UTF-16 they do not hold ``<!DOCTYPE``."""
    bomb = '<?xml version="1.0"?><!DOCTYPE x [<!ENTITY a "b">]><Bins/>'
    (tmp_path / "a.xml").write_bytes(bomb.encode(encoding))
    with pytest.raises(DetectorError, match="holds a document type"):
        load_detector(tmp_path / "a.xml")


def load_model_json(path: Path) -> object:
    (path.parent / "model").mkdir(exist_ok=True)
    (path.parent / "model" / "model.safetensors").touch()
    path.rename(path.parent / "model" / "model.json")
    return read_record(path.parent / "model")


LOADERS = (
    ("a.toml", load_detector, DetectorError), ("a.xml", load_detector, DetectorError), ("a.yaml", load_preset, UsageError),
    ("a.json", load_report, UsageError), ("a.toml", load_cell_map, DetectorError), ("a.json", load_model_json, ModelFileError),
)  # fmt: skip


@pytest.mark.parametrize(("name", "load", "error"), LOADERS)
@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"# 1\n# 2\ntitle = 'Z\xfcrich'\n", r"is not UTF-8 \(byte 0xfc in line 3, perhaps Latin-1 or Windows-1252\); save it"),
        (b"\xff\xfea\x00\x00", r"is not UTF-16 \(byte 0x00 in line 1\); save it as UTF-8"),
        ("a = 1".encode("utf-16-le"), "is no text, or UTF-16 without a byte order mark"),
    ],
)  # fmt: skip
def test_other_encodings_are_named(
    tmp_path: Path, name: str, load: object, error: type[CaloForgeError], content: bytes, message: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(error, match=message):
        load(tmp_path / name)  # type: ignore[operator]


@pytest.mark.parametrize(("name", "load", "error"), LOADERS[:-1])
def test_what_is_no_file_is_named(tmp_path: Path, name: str, load: object, error: type[CaloForgeError]) -> None:
    with pytest.raises(error, match=f"{name}: there is no such file"):
        load(tmp_path / name)  # type: ignore[operator]
    if load is not load_report:  # a folder is where a report lies
        (tmp_path / name).mkdir()
        with pytest.raises(error, match=f"{name}: cannot be read \\(is a directory\\)"):
            load(tmp_path / name)  # type: ignore[operator]


def test_a_huge_file_is_not_read_into_memory(tmp_path: Path) -> None:
    with (tmp_path / "a.yaml").open("wb") as file:
        file.truncate(LARGEST + 1)  # sparse
    with pytest.raises(UsageError, match="larger than 64 MB"):
        load_preset(tmp_path / "a.yaml")
