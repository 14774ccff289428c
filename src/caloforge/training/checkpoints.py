"""Checkpoints: one safetensors file each, replaced in one step, so that a kill or a full disk never leaves half of one.

The tensors are network weights, optimiser moments and running sums; counters and settings are JSON in the header of
the same file. One file and one rename make both appear together. Nothing in it is executable.
"""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from caloforge.atomic import reason, written_beside
from caloforge.errors import ModelFileError, OutputError
from caloforge.models.checksums import CHECKSUM, check_tensors, check_text, checksum_of

__all__ = [
    "Checkpoint",
    "flat_optimiser",
    "read_checkpoint",
    "restore_optimiser",
    "write_checkpoint",
]

_HEADER = "caloforge"


@dataclass(frozen=True)
class Checkpoint:
    """What a checkpoint file holds.

    Attributes:
        tensors: by name, on the CPU.
        state: everything else, as JSON values.
    """

    tensors: dict[str, Tensor]
    state: dict[str, Any]

    def part(self, prefix: str) -> dict[str, Tensor]:
        """The tensors whose name starts with ``prefix.``, without it."""
        start = f"{prefix}."
        return {name.removeprefix(start): value for name, value in self.tensors.items() if name.startswith(start)}


def write_checkpoint(path: Path, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> None:
    """Write a checkpoint beside its place and move it there once it is safely on the disk.

    Args:
        path: the file to replace; its folder exists.
        tensors: by name, any device and memory layout.
        state: JSON values.

    Raises:
        OutputError: if it cannot be written; what was at ``path`` before is still there.
    """
    # Tied weights are stored under each of their names: safetensors refuses shared memory.
    seen: set[int] = set()
    plain: dict[str, Tensor] = {}
    for name, tensor in tensors.items():
        value = tensor.detach().to("cpu").contiguous()
        pointer = value.untyped_storage().data_ptr()
        plain[name] = value.clone() if pointer in seen else value
        seen.add(pointer)
    text = json.dumps(dict(state), allow_nan=True)
    header = {_HEADER: text, CHECKSUM: checksum_of(plain, text)}
    try:
        with written_beside(path, alone=True) as beside:
            save_file(plain, beside, metadata=header)
    except (OSError, SafetensorError) as error:
        kept = "the one written before it is kept" if path.exists() else "there is none before it"
        raise OutputError(f"the checkpoint '{path}' cannot be written ({reason(error)}); {kept}") from None


def read_checkpoint(path: Path, *, tensors: bool = True) -> Checkpoint:
    """Read a checkpoint.

    Args:
        path: the file.
        tensors: whether to read the tensors too.

    Raises:
        ModelFileError: if the file does not exist, is damaged or was not written here.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
            if _HEADER not in header:
                raise ModelFileError(f"'{path}' is not a checkpoint of CaloForge")
            text = header[_HEADER]
            check_text(header, text)
            read = {name: file.get_tensor(name) for name in file.keys()} if tensors else {}  # noqa: SIM118
            if tensors:
                check_tensors(header, read, text)
            return Checkpoint(read, json.loads(text))
    except FileNotFoundError:
        raise ModelFileError(f"there is no checkpoint '{path}'") from None
    except (OSError, SafetensorError, ValueError, RecursionError) as error:
        raise ModelFileError(f"the checkpoint '{path}' is damaged ({error})") from None


def flat_optimiser(optimiser: torch.optim.Optimizer, prefix: str) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Moments and counters of an optimiser as named tensors, and what is not a tensor as JSON.

    Learning rates and the like are left out: they are a function of the configuration and the step.

    Args:
        optimiser: its parameters are numbered in the order in which it was given them.
        prefix: start of every name.
    """
    tensors: dict[str, Tensor] = {}
    plain: dict[str, Any] = {}
    for number, entries in optimiser.state_dict()["state"].items():
        for key, value in entries.items():
            if isinstance(value, Tensor):
                tensors[f"{prefix}.{number}.{key}"] = value
            else:
                plain[f"{number}.{key}"] = value
    return tensors, plain


def restore_optimiser(
    optimiser: torch.optim.Optimizer, tensors: Mapping[str, Tensor], plain: Mapping[str, Any]
) -> None:
    """Give an optimiser the moments and counters that ``flat_optimiser`` took from its twin.

    Args:
        optimiser: made from the same parameters in the same order.
        tensors: names without the prefix.
        plain: what was not a tensor.
    """
    state: dict[int, dict[str, Any]] = {}
    for name, value in (*tensors.items(), *plain.items()):
        number, key = name.split(".", 1)
        state.setdefault(int(number), {})[key] = value
    optimiser.load_state_dict({"state": state, "param_groups": optimiser.state_dict()["param_groups"]})
