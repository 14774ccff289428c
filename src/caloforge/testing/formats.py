"""What every file format promises."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import h5py
import numpy as np
from numpy.typing import NDArray

from caloforge.detectors import Detector
from caloforge.errors import ShowerFileError
from caloforge.showers import ShowerPoints, Showers, create_showers, open_showers
from caloforge.showers.formats.base import Block, Format, Kind
from caloforge.showers.formats.registry import find_format, own_formats
from caloforge.testing.checks import CheckFailedError, expect, failing_as
from caloforge.testing.toys import toy_detector, toy_points, toy_showers

__all__ = ["check_format"]

_ROWS, _BLOCK = 23, 10


def check_format(name: str, *, detector: Detector | None = None) -> list[str]:
    """Check what every file format that can be written promises, on toy showers; the format must be known by its name.

    What is written is read back with its energies, particle and detector; the file is recognised, and files of other formats
    are not; any rows can be read; an interrupted file can be read and goes on to the same end; a damaged file is refused.

    Args:
        name: of the format, as on the command line.
        detector: of the toy showers; None takes :func:`~caloforge.testing.toy_detector`.

    Returns:
        The kinds of showers (``voxels``, ``points``) that were checked.

    Raises:
        CheckFailedError: naming the check and what is wrong.
    """
    with failing_as("name"):
        form = find_format(name, writing=True)
    expect(form.name == name and form.title, "name", "it has another name than its entry, or no title")
    expect(form.kinds, "name", "it can be written but takes neither voxels nor points")
    where = detector or toy_detector()
    with tempfile.TemporaryDirectory(prefix="caloforge-") as folder:
        for kind in form.kinds:
            make = toy_showers if kind == "voxels" else toy_points
            _check_kind(form, make(where, _ROWS), where, Path(folder) / kind)
    return list(form.kinds)


def _write(form: Format, showers: Block, detector: Detector, path: Path, blocks: int, *, resume: bool = False) -> None:
    total = -(-len(showers) // _BLOCK)
    kind: Kind = "voxels" if isinstance(showers, Showers) else "points"
    writer = create_showers(
        path, form.name, detector=detector, particle=showers.particle, kind=kind, expected=len(showers), resume=resume,
        provenance={"program": "check_format"}, request={"rows": len(showers)},
    )  # fmt: skip
    with writer:
        for position in writer.missing(total)[: blocks or total]:
            writer.write(showers[position * _BLOCK : (position + 1) * _BLOCK], position)


def _check_kind(form: Format, showers: Block, detector: Detector, folder: Path) -> None:
    folder.mkdir()
    whole = folder / "whole.h5"
    with failing_as("writing"):
        _write(form, showers, detector, whole, 0)
    with failing_as("reading"), open_showers(whole) as reader:
        expect(
            reader.format == form.name, "recognition", f"its files are taken for those of the format '{reader.format}'"
        )
        expect(
            reader.complete and len(reader) == len(showers),
            "reading",
            f"{len(reader)} of {len(showers)} showers are there",
        )
        expect(
            reader.particle == showers.particle,
            "reading",
            f"the particle is {reader.particle} and was {showers.particle}",
        )
        known = reader.detector
        expect(known is not None and known.hash == detector.hash, "reading", "the detector is not the one it was")
        _compare(reader.read(), showers, "reading")
        for start, stop in ((0, 1), (7, 19), (len(showers) - 1, len(showers))):
            _compare(reader.read(start, stop), showers[start:stop], "any rows")
    _check_others(form, detector, folder)
    part = folder / "part.h5"
    with failing_as("interruption"):
        _write(form, showers, detector, part, 1)
        with open_showers(part) as reader:
            expect(not reader.complete, "interruption", "an interrupted file looks whole")
            _compare(reader.read(), showers[: len(reader)], "interruption")
        _write(form, showers, detector, part, 0, resume=True)
        with open_showers(part) as reader:
            expect(reader.complete, "interruption", "a resumed file is not whole")
            _compare(reader.read(), showers, "interruption")
    _check_damage(whole, folder)


def _compare(read: Block, written: Block, check: str) -> None:
    expect(type(read) is type(written), check, f"{type(written).__name__} come back as {type(read).__name__}")
    arrays: list[tuple[str, NDArray[Any], NDArray[Any]]] = [
        ("incident energies", read.incident_energy, written.incident_energy)
    ]
    if isinstance(read, Showers) and isinstance(written, Showers):
        arrays.append(("deposits", read.deposits, written.deposits))
    elif isinstance(read, ShowerPoints) and isinstance(written, ShowerPoints):
        same = np.array_equal(read.offsets, written.offsets)
        expect(same, check, "showers come back with other numbers of points")
        arrays.append(("points", read.points, written.points))
    for word, one, two in arrays:
        expect(one.shape == two.shape, check, f"the {word} have the shape {one.shape} and had {two.shape}")
        near = np.allclose(one, two, rtol=1e-5, atol=1e-6)
        expect(near, check, f"the {word} are others than those that were written (MeV is expected)")


def _check_others(form: Format, detector: Detector, folder: Path) -> None:
    """Files of the other formats must stay theirs."""
    for other in own_formats().values():
        if other.name == form.name or "voxels" not in other.kinds:
            continue
        path = folder / f"{other.name}.h5"
        try:
            _write(other, toy_showers(detector, 3), detector, path, 0)
        except CheckFailedError:
            raise
        except Exception:
            continue  # a format that has no place for this detector
        with failing_as("recognition"), h5py.File(path) as file:
            # NATIVE and CaloChallenge share a layout on purpose, and the lower rank wins.
            shared = {form.name, other.name} == {"native", "calochallenge"}
            expect(
                shared or not form.sniff(file),
                "recognition",
                f"it takes files of the format '{other.name}' for its own",
            )
        path.unlink()


def _check_damage(whole: Path, folder: Path) -> None:
    content = whole.read_bytes()
    for share in (0.3, 0.9):
        path = folder / "damaged.h5"
        path.write_bytes(content[: int(share * len(content))])
        try:
            with open_showers(path) as reader:
                reader.read()
        except ShowerFileError:
            continue
        except Exception as error:
            raise CheckFailedError(
                f"damage: a file cut at {share:.0%} ends in {type(error).__name__}: {error}"
            ) from error
        raise CheckFailedError(f"damage: a file cut at {share:.0%} is read as if it were whole")
