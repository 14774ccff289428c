"""Settings as frozen pydantic models, and what pydantic finds wrong with them as one sentence; where two JSON values differ."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from caloforge.errors import ConfigError

__all__ = ["Count", "Settings", "Size", "first_difference", "first_problem", "validated"]

#: Numbers of things that are made one after the other (blocks, layers), and widths of one of them. What a configuration from
#: elsewhere may ask for is bounded, so that it cannot keep a machine busy for ever.
Count = Annotated[int, Field(ge=1, le=10_000)]
Size = Annotated[int, Field(ge=1, le=1_000_000)]

T = TypeVar("T", bound=BaseModel)


class Settings(BaseModel):
    """Base of all settings that people write: frozen, unknown keys refused, no NaN and no infinities."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


def validated(cls: type[T], data: Mapping[str, Any], *, where: str) -> T:
    """Validate a mapping, turning the first problem into one sentence that names the key.

    Raises:
        ConfigError: with the place, the key and what was expected there.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise ConfigError(first_problem(error, where)) from None


def first_problem(error: ValidationError, where: str) -> str:
    """The first problem that a validation found, with the place, the key and what was expected there.

    Args:
        error: what pydantic raised.
        where: file or section that was validated.
    """
    first = error.errors()[0]
    key = "".join(f"[{part}]" if isinstance(part, int) else f".{part}" for part in first["loc"]).lstrip(".")
    if first["type"] == "extra_forbidden":
        return f"{where}: the key '{key}' is not known"
    if first["type"] == "missing":
        return f"{where}: the key '{key}' is missing"
    reason = first["msg"].removeprefix("Value error, ")
    reason = reason[0].lower() + reason[1:]
    given = "" if isinstance(first["input"], dict | list | BaseModel) else f", got {first['input']!r}"
    place = f"at '{key}' " if key else ""
    return f"{where}: {place}{reason}{given}"


def first_difference(old: Any, new: Any, where: str = "") -> str:
    """Say where two JSON values differ first; empty if they do not."""
    if isinstance(old, dict) and isinstance(new, dict):
        for key in [*old, *(k for k in new if k not in old)]:
            if key not in new:
                return f"{where}{key} = {json.dumps(old[key])}, now it is not given"
            if key not in old:
                return f"{where}{key} not given, now it is {json.dumps(new[key])}"
            inner = first_difference(old[key], new[key], f"{where}{key}.")
            if inner:
                return inner
        return ""
    return "" if old == new else f"{where.rstrip('.')} = {json.dumps(old)}, now it is {json.dumps(new)}"
