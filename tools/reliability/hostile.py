"""Model directories from someone who means harm: nothing is executed, nothing outside the folder is read or written.

An audit hook (PEP 578) sees every file that Python opens, every program that it starts and every class that a pickle asks for.
"""

from __future__ import annotations

import json
import os
import pickle
import random
import shutil
import sys
import tempfile
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from caloforge.errors import CaloForgeError
from reliability.children import call, preload
from reliability.damage import _sound
from reliability.results import Results

__all__ = ["run"]

_MEMORY, _CPU_SECONDS = 4 * 2**30, 60


def run(out: Path, results: Results, count: int, seed: int, *, only: str, small: bool) -> None:
    """``count`` hostile directories, each loaded, asked for its hashes, generated from and trained on."""
    preload()
    sound = _sound(out) / "model"
    while results.want(count, "hostile models"):
        trial = results.count("hostile models")
        generator = random.Random(f"{seed} {trial}")
        place = out / "hostile"
        shutil.rmtree(place, ignore_errors=True)
        place.mkdir()
        (place / "secret").write_text("the secret word is mellon")
        (place / "precious").mkdir()
        (place / "precious" / "file").write_text("mine")
        shutil.copytree(sound, place / "model")
        kind = generator.choice([name for name in _TRICKS if name.startswith(only)])
        _TRICKS[kind](place / "model", generator)
        watched = partial(_watched, place, generator)
        done = call(watched, place, memory=_MEMORY, cpu_seconds=_CPU_SECONDS, timeout=300)
        problem = "" if done.code in (0, 1) else f"ended with {done.code}: {done.sentence}"
        if (place / "secret").read_text() != "the secret word is mellon" or os.listdir(place / "precious") != ["file"]:
            problem = "something outside was changed"
        if "mellon" in done.out + done.err:
            problem = "something outside was told"
        if (place / "executed").exists():
            problem = "something was executed"
        results.add("hostile models", kind, "loaded" if done.code == 0 else "refused", problem, seed=seed, trial=trial)


def _watched(place: Path, generator: random.Random) -> int:
    from caloforge.generation import SpectrumConditions, generate
    from caloforge.kernels.ops.registry import use_choice
    from caloforge.models import read_record, training_row_hashes
    from caloforge.training import train

    # Beginnings of paths that end in "/" if they are folders.
    here = f"{place}/"
    allowed = [
        here + "model/",
        here + "out.h5",
        here + ".out.h5",
        f"{sys.prefix}/",
        f"{sys.base_prefix}/",
        f"{_data(place)}/",
    ]
    allowed += ["/proc/", "/sys/", "/dev/null/", "/dev/urandom/", "/usr/", "/lib/", "/etc/ld"]
    allowed.append(f"{Path(__file__).resolve().parents[2]}/")
    found: list[str] = []

    def watch(event: str, arguments: tuple[Any, ...]) -> None:
        if event in ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "ctypes.dlopen.unknown"):
            found.append(f"{event} {arguments[:1]}")
        elif event == "pickle.find_class" and arguments[0] not in ("torch._utils", "collections", "torch"):
            found.append(f"pickle.find_class {arguments}")
        elif event in ("open", "os.mkdir", "os.remove", "os.rename", "os.rmdir", "shutil.rmtree") and isinstance(
            arguments[0], str | bytes
        ):
            path = os.path.realpath(os.fsdecode(arguments[0]))
            # rmtree names files relative to a folder that it has opened, which was seen before.
            relative = os.sep not in os.fsdecode(arguments[0]) and not os.path.lexists(path)
            folder = event == "open" and path == str(place)  # to bring the name of out.h5 to the disk
            if not (relative or folder or any(f"{path}/".startswith(prefix) for prefix in allowed)):
                found.append(f"{event} {path}")

    # What this process does once and for all: compiled kernels are looked for, a folder for temporary files is chosen.
    use_choice()
    allowed += [f"{tempfile.gettempdir()}/caloforge-", f"{tempfile.gettempdir()}/torchinductor_"]
    sys.addaudithook(watch)
    refused = 0
    model = place / "model"
    actions: list[Callable[[], object]] = [
        lambda: read_record(model),
        lambda: training_row_hashes(model),
        lambda: generate(str(model), _asked(SpectrumConditions), place / "out.h5", show=False, overwrite=True),
        lambda: train(
            "caloflow-tiny", _data(place), model, show=False, **{generator.choice(["resume", "overwrite"]): True}
        ),
    ]
    for action in actions:
        try:
            action()
        except CaloForgeError as error:
            refused += 1
            print(str(error).encode(errors="replace").decode())
    if found:
        print("seen:", *found[:5], sep="\n", file=sys.stderr)
        return 3
    return 1 if refused else 0


def _data(place: Path) -> Path:
    return place.parent / "sound" / "native.h5"


def _asked(conditions: Any) -> Any:
    from caloforge.detectors import EnergySpectrum

    return conditions(EnergySpectrum.parse("10"), 3, 1, 22)


# ---- tricks


class _Payload:
    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("executed",)


def _pickles(folder: Path, generator: random.Random) -> None:
    (folder / generator.choice(["model.json", "model.safetensors", "plan.json", "config.yaml"])).write_bytes(
        pickle.dumps(_Payload())
    )


def _yaml(folder: Path, generator: random.Random) -> None:
    (folder / "config.yaml").write_text('!!python/object/apply:os.mkdir ["executed"]\n')
    (folder / "plan.json").write_text('{"format": 1, "kind": "!!python/object/apply:os.mkdir [executed]"}')


def _links(folder: Path, generator: random.Random) -> None:
    names = (
        "model.json model.safetensors plan.json metrics.jsonl config.yaml stages stages/shapes stages/shapes/last "
        "stages/shapes/best stages/scale/lock tensorboard"
    )
    name = generator.choice(names.split())
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.unlink(missing_ok=True)
    targets = [
        "../secret",
        "../precious",
        str(folder.parent / "secret"),
        str(folder.parent / "precious"),
        "/etc/passwd",
        name,
        "/dev/zero",
    ]
    path.symlink_to(generator.choice(targets))


def _pipes(folder: Path, generator: random.Random) -> None:
    path = folder / generator.choice(["model.json", "model.safetensors", "plan.json", "config.yaml", "metrics.jsonl"])
    path.unlink(missing_ok=True)
    os.mkfifo(path)


def _header(folder: Path, generator: random.Random) -> None:
    sizes = [2**63 - 1, 2**62, 10**8 + 1, 99_999_999, 0, 1]
    head = generator.choice(
        [b"{", b'{"a":{"dtype":"F32","shape":[4294967296,4294967296],"data_offsets":[0,4]}}', b"{" * 5000]
    )
    _weights(
        folder,
        generator.choice([*(n.to_bytes(8, "little") for n in sizes), len(head).to_bytes(8, "little")])
        + head
        + bytes(64),
    )


def _weights(folder: Path, content: bytes) -> None:
    import hashlib

    (folder / "model.safetensors").write_bytes(content)
    record = json.loads((folder / "model.json").read_text())
    record["weights_sha256"] = hashlib.sha256(content).hexdigest()
    (folder / "model.json").write_text(json.dumps(record))


def _values(folder: Path, generator: random.Random) -> None:
    """Some values of model.json become others, of any kind."""
    record = json.loads((folder / "model.json").read_text())
    evil: list[Any] = [
        10**9, 10**30, -1, 0, 1e308, "../../secret", "/etc/passwd", "x" * 10**6, None, [], {}, [[[]]], True, "\x00", "\udcff",
        {"__class__": "os.system"}, "os.system", "caloflow-student",
    ]  # fmt: skip
    for _ in range(generator.choice([1, 1, 2, 5])):
        inner, key = generator.choice(list(_places(record)))
        inner[key] = generator.choice(evil)
    (folder / "model.json").write_text(json.dumps(record))


def _places(value: Any) -> Any:
    items = value.items() if isinstance(value, dict) else enumerate(value) if isinstance(value, list) else ()
    for key, inner in items:
        yield value, key
        yield from _places(inner)


def _detector(folder: Path, generator: random.Random) -> None:
    record = json.loads((folder / "model.json").read_text())
    text = record["detector"]
    numbers = [word for word in text.replace("=", " ").split() if word.strip(",[]").isdigit()]
    if numbers:
        word = generator.choice(numbers)
        text = text.replace(
            word,
            word.replace(word.strip(",[]"), generator.choice(["1000000000", "-1", "0", "99999999999999999999"])),
            1,
        )
    record["detector"] = text
    (folder / "model.json").write_text(json.dumps(record))


def _sizes(folder: Path, generator: random.Random) -> None:
    record = json.loads((folder / "model.json").read_text())
    for _ in range(generator.choice([1, 2])):
        section = record["config"][generator.choice(["energies", "shapes"])]
        section[generator.choice(["blocks", "hidden_features", "hidden_layers", "bins"])] = generator.choice(
            [10**4, 10**6, 10**9, 10**18]
        )
    (folder / "model.json").write_text(json.dumps(record))


def _state(folder: Path, generator: random.Random) -> None:
    """A state to go on from that is none."""
    for stage in ("scale", "energies", "shapes"):
        (folder / "stages" / stage / "last").mkdir(parents=True)
        (folder / "stages" / stage / "last" / "state.safetensors").write_bytes(
            generator.choice([pickle.dumps(_Payload()), b"", (2**40).to_bytes(8, "little"), generator.randbytes(500)])
        )


_TRICKS: dict[str, Callable[[Path, random.Random], None]] = {
    "pickles": _pickles, "tags of YAML": _yaml, "links": _links, "pipes": _pipes, "headers": _header, "values": _values,
    "detector": _detector, "sizes": _sizes, "states": _state,
}  # fmt: skip
