"""Test vectors: showers of a model in plain PyTorch and 64-bit numbers, for whoever claims to make the same ones."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from safetensors.torch import save
from torch import Tensor

from caloforge.atomic import replace_file
from caloforge.conditions import ConditionRange
from caloforge.errors import UsageError
from caloforge.kernels.ops.registry import plain_only
from caloforge.models import Conditions, Latents, ShowerModel, load_model
from caloforge.random import Streams

__all__ = ["decoded_plainly", "reference_showers", "test_conditions", "write_vectors"]

#: Directions are drawn so often before the range is called too narrow.
_DIRECTION_DRAWS = 10_000
#: Showers decoded at once.
_ROWS = 25


def test_conditions(valid: ConditionRange, showers: int, seed: int) -> Conditions:
    """Conditions all over the trained range, numbered from 0: energies uniform in their logarithm, directions in their range.

    Raises:
        UsageError: if no direction is in the trained range.
    """
    streams, rows = Streams(seed, "parity"), np.arange(showers)
    low, high = valid.incident_energy
    share = streams.child("energy").uniform(rows, 1)[:, 0]
    energy = np.clip(low * (high / low) ** share, low, high)
    # The ends belong to the range.
    energy[:2] = [low, high][:showers]
    direction = None
    if valid.direction is not None:
        direction = np.stack([_direction(valid, streams.child("direction"), row) for row in range(showers)]).astype(
            np.float32
        )
    return Conditions.first(energy, valid.particle, direction=direction)


def _direction(valid: ConditionRange, streams: Streams, row: int) -> NDArray[np.float64]:
    assert valid.direction is not None
    low, high = np.asarray(valid.direction)
    generator = streams.generator(row)
    for _ in range(_DIRECTION_DRAWS):
        drawn = low + (high - low) * generator.random(3)
        length = np.linalg.norm(drawn)
        if length > 0:
            drawn /= length
            if (drawn >= low).all() and (drawn <= high).all() and drawn[2] > 0:
                return np.asarray(drawn, dtype=np.float64)
    raise UsageError(f"no direction lies within the trained range {valid.direction}")


def reference_showers(
    where: str | Path, conditions: Conditions, streams: Streams
) -> tuple[dict[str, Tensor], Latents, Tensor]:
    """First attempts of some showers, decoded in plain PyTorch and float64.

    Args:
        where: the model.
        conditions: the showers.
        streams: random streams of the generation.

    Returns:
        What the model's ``judged`` gives, its latents, and whether each shower is valid.
    """
    model = load_model(where).double()
    latents = model.latents(conditions, streams)
    parts = []
    for first in range(0, len(conditions), _ROWS):
        chosen = conditions[first : first + _ROWS]
        parts.append(decoded_plainly(model, chosen, model.latents(chosen, streams)))
    output = {name: torch.cat([part[name] for part, _ in parts]) for name in parts[0][0] if name != "offsets"}
    if "points" in output:
        counts = torch.cat([part["offsets"].diff() for part, _ in parts])
        output["offsets"] = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    return output, latents, torch.cat([valid for _, valid in parts])


@torch.no_grad()
def decoded_plainly(model: ShowerModel, conditions: Conditions, latents: Latents) -> tuple[dict[str, Tensor], Tensor]:
    """What ``judged`` gives in plain PyTorch; the model is one of 64-bit numbers for a reference."""
    with plain_only():
        return model.judged(conditions.tensors(), latents)


def write_vectors(
    folder: Path, where: str | Path, model: ShowerModel, *, showers: int, seed: int, streams: Streams
) -> None:
    """Write ``parity.safetensors``: conditions, digests of the random numbers, and the reference.

    Args:
        folder: where to; it is there.
        where: the model.
        model: the same, loaded.
        showers: how many.
        seed: of the showers.
        streams: random streams of the generation of that seed.

    Raises:
        OutputError: if it cannot be written.
        UsageError: if no direction is in the trained range.
    """
    assert model.record is not None  # loaded from a directory
    parts = [_vectors(where, part, streams) for part in _along_and_tilted(model.record.valid, showers, seed)]
    tensors = {name: torch.cat([part[name] for part in parts]) for name in parts[0] if name != "offsets"}
    if "points" in tensors:
        counts = torch.cat([part["offsets"].diff() for part in parts])
        tensors["offsets"] = torch.nn.functional.pad(counts.cumsum(0), (1, 0))
    tensors |= {
        "seed": torch.tensor([seed]),
        "cut": torch.tensor([max(model.detector.analysis_threshold, 0.0)], dtype=torch.float64),
    }
    replace_file(folder / "parity.safetensors", save({name: value.contiguous() for name, value in tensors.items()}))


def _along_and_tilted(valid: ConditionRange, showers: int, seed: int) -> list[Conditions]:
    """Test conditions; where both are in the range a fifth of them fly along z and say nothing of a direction."""
    conditions = test_conditions(valid, showers, seed)
    along = -(-showers // 5)
    if valid.direction is None or not _knows_z(valid):
        return [conditions]
    parts = [replace(conditions[:along], direction=None), conditions[along:]]
    return [part for part in parts if len(part)]


def _knows_z(valid: ConditionRange) -> bool:
    assert valid.direction is not None
    low, high = np.asarray(valid.direction)
    return bool(((low <= (0, 0, 1)) & (high >= (0, 0, 1))).all())


def _vectors(where: str | Path, conditions: Conditions, streams: Streams) -> dict[str, Tensor]:
    output, latents, valid = reference_showers(where, conditions, streams)
    showers = len(conditions)
    digests = [hashlib.blake2b(row, digest_size=32).digest() for row in _latent_rows(latents, showers)]
    return {
        "incident_energy": torch.from_numpy(conditions.incident_energy.copy()),
        "direction": conditions.tensors()["direction"].double(),
        "shower": torch.from_numpy(conditions.index.copy()),
        "latents_digest": torch.from_numpy(np.frombuffer(b"".join(digests), dtype="<i8").reshape(showers, 4).copy()),
        "valid": valid.long(),
    } | {name: value if name == "offsets" else value.double() for name, value in output.items()}


def _latent_rows(latents: Latents, showers: int) -> list[bytes]:
    """The random numbers of each shower one behind the other, in the order of their names in ``latents``, as bytes."""
    arrays = {name: value.numpy() for name, value in latents.items()}
    starts = arrays.pop("starts", None)
    rows = []
    for row in range(showers):
        parts = []
        for name, value in arrays.items():
            packed = name in ("points", "spots")
            own = value[starts[row] : starts[row + 1]] if packed and starts is not None else value[row]
            assert own.dtype in (np.float32, np.float64)  # normal and uniform numbers
            parts.append(np.ascontiguousarray(own).tobytes())
        rows.append(b"".join(parts))
    return rows
