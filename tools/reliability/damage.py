"""Damaged files of every format: flipped bits, lost ends, other types, hostile sizes; read under a limit of memory and time.

Each is refused in one sentence, or read as what it was. Formats that others write may have no checksums: there a flipped bit in
the numbers is another number, which nobody can know; that is counted as "read" for them, and as a broken promise for ours.
"""

from __future__ import annotations

import itertools
import random
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from caloforge.detectors import load_detector
from caloforge.errors import CaloForgeError
from caloforge.models import load_model, load_preset
from caloforge.report import load_report
from caloforge.showers import Showers, create_showers, open_showers
from caloforge.training.checkpoints import read_checkpoint
from reliability.children import call, command, preload
from reliability.jobs import prepare
from reliability.results import Results

__all__ = ["run"]

#: What a child may need beyond what it has: the largest sound file of these takes a hundredth of it.
_MEMORY, _CPU_SECONDS = 3 * 2**30, 60
#: Exit codes of a look: read and equal, read and different, refused.
_EQUAL, _OTHER, _REFUSED = 0, 3, 1


def _showers(detector: str | None) -> Callable[[Path], Any]:
    def read(path: Path) -> Any:
        with open_showers(path, detector, particle=22) as reader:
            parts = []
            for block in reader.blocks(100):
                bulk = block.deposits if isinstance(block, Showers) else np.append(block.points, block.offsets[:, None].repeat(
                    block.points.shape[1], axis=1).astype("f4"), axis=0)  # fmt: skip
                parts.append(
                    (
                        bulk.tobytes(),
                        block.incident_energy.tobytes(),
                        None if block.direction is None else block.direction.tobytes(),
                    )
                )
            return parts, reader.complete

    return read


def _model(path: Path) -> Any:
    model = load_model(path.parent)
    return {name: value.numpy().tobytes() for name, value in model.state_dict().items()}, repr(model.config)


def _checkpoint(path: Path) -> Any:
    saved = read_checkpoint(path)
    return {name: value.numpy().tobytes() for name, value in saved.tensors.items()}, saved.state


#: Format: how its sound file is named, how it is read, whether a checksum covers every byte of what matters.
FORMATS: dict[str, tuple[str, Callable[[Path], Any], bool]] = {
    "native": ("native.h5", _showers(None), True),
    "native points": ("points.h5", _showers(None), True),
    "native, incomplete": ("incomplete.h5", _showers(None), True),
    "calochallenge": ("calochallenge.h5", _showers(None), True),
    "calogan": ("calogan.h5", _showers(None), True),
    "ild": ("ild.h5", _showers(None), True),
    "showerdata": ("showerdata.h5", _showers(None), False),
    "plain h5py": ("plain.h5", _showers("calogan"), False),
    "hits": ("hits.h5", _showers("calogan"), False),
    "caloclouds": ("caloclouds.h5", _showers("ild-ecal"), False),
    "lemurs": ("lemurs.h5", _showers("par04-ds2"), False),
    "detector, TOML": ("own.toml", lambda path: load_detector(path).hash, False),
    "binning, XML": ("binning.xml", lambda path: load_detector(path).hash, False),
    "preset, YAML": ("preset.yaml", lambda path: load_preset(path).model_dump_json(), False),
    "report, JSON": ("report.json", lambda path: load_report(path).model_dump_json(), False),
    "model.json": ("model/model.json", _model, False),
    "model.safetensors": ("model/model.safetensors", _model, True),
    "checkpoint": ("state.safetensors", _checkpoint, True),
}


def run(out: Path, results: Results, count: int, seed: int, *, only: str, small: bool) -> None:
    """``count`` damaged files over all formats."""
    preload()
    folder = _sound(out)
    names = [name for name in FORMATS if name.startswith(only)]
    begin = max((t["trial"] + 1 for t in results.trials if t["part"] == "damage"), default=0)
    for trial in itertools.count(begin):
        if not results.want(count, "damage"):
            break
        name = names[trial % len(names)]
        generator = random.Random(f"{seed} {trial} {name}")
        file, read, checked = FORMATS[name]
        work = out / "damaged"
        shutil.rmtree(work, ignore_errors=True)
        shutil.copytree((folder / file).parent if "/" in file else folder, work / Path(file).parent)
        kinds = list(_DAMAGES) if file.endswith(".h5") else [k for k in _DAMAGES if not k.startswith("HDF5")]
        kind = generator.choice(kinds)
        # In a child too: HDF5 itself never ends when it makes some of these files.
        done = call(partial(_damage, kind, work / file, generator), work, memory=_MEMORY, cpu_seconds=20, timeout=120)
        if done.code:
            continue  # this kind of damage cannot be done to this file
        where = done.out.strip()
        outcome, problem, said = _read(work / file, folder / file, read, checked and not kind.startswith("HDF5"))
        results.add("damage", name, outcome, problem, kind=kind, where=where, said=said, seed=seed, trial=trial)


def _damage(kind: str, path: Path, generator: random.Random) -> int:
    try:
        print(_DAMAGES[kind](path, generator), flush=True)
    except (OSError, KeyError, ValueError, TypeError, RuntimeError, MemoryError):
        return 1
    return 0


def _read(path: Path, sound: Path, read: Callable[[Path], Any], checked: bool) -> tuple[str, str, str]:
    wanted = read(sound)

    def look() -> int:
        import warnings

        warnings.simplefilter("ignore")
        try:
            return _EQUAL if read(path) == wanted else _OTHER
        except CaloForgeError as error:
            print(f"caloforge: {error}".encode(errors="replace").decode().replace("\n", " "), flush=True)
            return _REFUSED

    done = call(look, path.parent, memory=_MEMORY, cpu_seconds=_CPU_SECONDS, timeout=300)
    if done.code == _REFUSED and done.out.startswith("caloforge: "):
        return "refused", "", done.out.strip()[:300]
    if done.code == _EQUAL:
        return "read", "", ""
    if done.code == _OTHER:
        return "read, other numbers", "reads something else than was written" if checked else "", ""
    return "failed", f"ended with {done.code}: {done.sentence}", ""


# ---- what is done to them


def _flip(path: Path, generator: random.Random) -> str:
    content = bytearray(path.read_bytes())
    places = [generator.randrange(8 * len(content)) for _ in range(generator.choice([1, 1, 2, 8, 64]))]
    for place in places:
        content[place // 8] ^= 1 << place % 8
    path.write_bytes(content)
    return f"bits {places[:8]}"


def _cut(path: Path, generator: random.Random) -> str:
    size = generator.randrange(path.stat().st_size)
    with path.open("r+b") as file:
        file.truncate(size)
    return f"after {size}"


def _zero(path: Path, generator: random.Random) -> str:
    content = bytearray(path.read_bytes())
    start = generator.randrange(len(content))
    length = min(generator.choice([1, 16, 512, 4096, 65536]), len(content) - start)
    content[start : start + length] = bytes(length)
    path.write_bytes(content)
    return f"{start} to {start + length}"


def _noise(path: Path, generator: random.Random) -> str:
    content = bytearray(path.read_bytes())
    start = generator.randrange(len(content))
    length = min(generator.choice([4, 64, 4096]), len(content) - start)
    content[start : start + length] = generator.randbytes(length)
    path.write_bytes(content)
    return f"{start} to {start + length}"


def _insert(path: Path, generator: random.Random) -> str:
    content = path.read_bytes()
    start = generator.randrange(len(content))
    path.write_bytes(content[:start] + generator.randbytes(generator.choice([1, 8, 100])) + content[start:])
    return f"at {start}"


def _extremes(path: Path, generator: random.Random) -> str:
    """Four or eight bytes become the largest or the smallest number, where lengths and offsets stand."""
    content = bytearray(path.read_bytes())
    width = generator.choice([4, 8])
    start = generator.randrange(max(1, min(len(content), 4096) - width))
    content[start : start + width] = generator.choice([b"\xff", b"\x7f", b"\x00", b"\x80"]) * width
    path.write_bytes(content)
    return f"{start} to {start + width}"


def _datasets(file: h5py.File) -> list[str]:
    names: list[str] = []
    file.visititems(lambda name, item: names.append(name) if isinstance(item, h5py.Dataset) else None)
    return sorted(names)


def _other_type(path: Path, generator: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        name = generator.choice(_datasets(file))
        shape = file[name].shape
        del file[name]
        kind = generator.choice(["i1", "S3", "c8", "?", "O", "f2", ">f8", "u8", "compound", "group", "scalar", "empty"])
        if kind == "group":
            file.create_group(name)
        elif kind == "scalar":
            file[name] = 3.0
        elif kind == "empty":
            file[name] = h5py.Empty("f4")
        elif kind == "compound":
            file.create_dataset(name, shape, dtype=[("a", "f4"), ("b", "i2")])
        else:
            file.create_dataset(name, shape, dtype=h5py.string_dtype() if kind == "O" else kind)
        return f"{name} as {kind}"


def _other_shape(path: Path, generator: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        name = generator.choice(_datasets(file))
        shape, kind = list(file[name].shape), file[name].dtype
        del file[name]
        axis = generator.randrange(len(shape))
        change = generator.choice(["0", "1", "more", "2**40", "2**62", "transposed", "another axis"])
        if change == "transposed":
            shape = shape[::-1]
        elif change == "another axis":
            shape.append(3)
        else:
            shape[axis] = {"0": 0, "1": 1, "more": shape[axis] + 1, "2**40": 2**40, "2**62": 2**62}[change]
        huge = any(n > 10**9 for n in shape)
        file.create_dataset(name, shape, dtype=kind, chunks=tuple(min(n, 4) for n in shape) if huge else None)
        return f"{name} {change}"


def _other_values(path: Path, generator: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        name = generator.choice(_datasets(file))
        value = generator.choice([-1, 0, 2**31 - 1, -(2**31), float("nan"), float("inf"), 1e30])
        item = file[name]
        place = tuple(generator.randrange(n) for n in item.shape)
        item[place] = np.array(value).astype(item.dtype)
        return f"{name}{place} = {value}"


def _other_attribute(path: Path, generator: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        known = [
            "caloforge",
            "detector",
            "particle",
            "provenance",
            "complete",
            "parts",
            "blocks",
            "request",
            "showers_expected",
        ]
        name = generator.choice(known)
        values: list[Any] = [
            -1,
            2**62,
            "",
            "x" * 60000,
            "{",
            '{"a": [' * 500,
            np.arange(9),
            b"\xff\xfe",
            float("nan"),
            "[[0, 1e9, 9, 9]]",
        ]
        file.attrs[name] = generator.choice(values)
        return name


def _gone(path: Path, generator: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        name = generator.choice(_datasets(file))
        del file[name]
        return name


def _links(path: Path, generator: random.Random) -> str:
    with h5py.File(path, "r+") as file:
        name = generator.choice(_datasets(file))
        del file[name]
        if generator.random() < 0.5:
            file[name] = h5py.SoftLink(f"/{name}")  # to itself
        else:
            file[name] = h5py.ExternalLink("/etc/passwd", "/x")
        return name


_DAMAGES: dict[str, Callable[[Path, random.Random], str]] = {
    "bits flipped": _flip, "end lost": _cut, "zeros": _zero, "noise": _noise, "bytes inserted": _insert,
    "extreme numbers": _extremes, "bits flipped again": _flip, "end lost again": _cut,
    "HDF5: other type": _other_type, "HDF5: other shape": _other_shape, "HDF5: other values": _other_values,
    "HDF5: other attribute": _other_attribute, "HDF5: dataset gone": _gone, "HDF5: links": _links,
}  # fmt: skip


# ---- sound files


def _sound(out: Path) -> Path:
    """One small sound file of every format."""
    folder = out / "sound"
    if (folder / "done").exists():
        return folder
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir()
    inputs = prepare(out)
    with open_showers(inputs / "voxels.h5") as reader:
        voxels, calogan = reader.read(0, 60), reader.detector
    with open_showers(inputs / "points.h5") as reader:
        clouds, ild = reader.read(0, 12), reader.detector
    for name, block, detector, kind in (("native", voxels, calogan, "voxels"), ("points", clouds, ild, "points")):
        with create_showers(folder / f"{name}.h5", detector=detector, particle=22, kind=kind) as writer:
            for start in range(0, len(block), len(block) // 3):
                writer.write(block[start : start + len(block) // 3])
    writer = create_showers(folder / "incomplete.h5", detector=calogan, particle=22, expected=120)
    writer.write(voxels)
    writer.abort()
    for words in (
        ("native.h5", "calochallenge.h5", "--to", "calochallenge"), ("native.h5", "calogan.h5", "--to", "calogan"),
        ("points.h5", "ild.h5", "--to", "ild", "--detector", "ild-ecal"), ("points.h5", "showerdata.h5", "--to", "showerdata"),
    ):  # fmt: skip
        done = command(("convert", *words), folder)
        assert done.code == 0, done.err
    rng = np.random.default_rng(0)
    with h5py.File(folder / "plain.h5", "w") as file:
        file["showers"], file["incident_energies"] = voxels.deposits, voxels.incident_energy[:, None]
    with h5py.File(folder / "hits.h5", "w") as file:
        file["event"] = np.sort(rng.integers(0, 20, 300))
        file["x"], file["y"] = rng.normal(0, 30, (2, 300))
        file["layer"], file["energy"] = rng.integers(0, 3, 300), rng.random(300) * 10
        file["incident_energies"] = np.full(20, 1e3)
    with h5py.File(folder / "caloclouds.h5", "w") as file:
        events = rng.random((20, 4, 30)).astype("f4") * np.array([1, 29, 1, 0.01], "f4")[:, None]
        events[:, 1] = np.floor(events[:, 1])
        file["events"], file["energy"] = events, np.full((20, 1), 10.0)
    with h5py.File(folder / "lemurs.h5", "w") as file:
        file.create_dataset("showers", data=rng.random((5, 9, 16, 45)).astype("f4"), compression="gzip")
        file["incident_energy"], file["incident_theta"], file["incident_phi"] = (
            np.full(5, 1e4),
            np.full(5, 1.5),
            np.zeros(5),
        )
    (folder / "own.toml").write_text(load_detector("par04-ds2").to_toml())
    (folder / "binning.xml").write_text(
        '<Bins><Bin pid="22" etaMin="20" etaMax="25">'
        + "".join(f'<Layer id="{k}" r_edges="0,5,10,30,50" n_bin_alpha="{k + 1}"/>' for k in range(5))
        + "</Bin></Bins>"
    )
    (folder / "preset.yaml").write_text(
        "kind: caloflow\nmodel:\n  energies: {blocks: 2, hidden_features: 8}\n  shapes: {blocks: 2, hidden_features: 8}\n"
        "training: {epochs: 3, batch_size: 100, schedule: {kind: milestones, epochs: [1, 2]}}\n"
    )
    shutil.copy(inputs / "one" / "report.json", folder)
    words = ("train", folder / "preset.yaml", "--data", folder / "native.h5", "-o", "run", "--threads", "1")
    assert command(words, folder).code == 0
    shutil.copy(folder / "run" / "stages" / "shapes" / "last" / "state.safetensors", folder)
    (folder / "model").mkdir()
    for name in ("model.json", "model.safetensors"):
        shutil.copy(folder / "run" / name, folder / "model")
    shutil.rmtree(folder / "run")
    (folder / "done").touch()
    return folder
