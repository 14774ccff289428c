"""What pydantic finds wrong with a configuration, as one sentence."""

from __future__ import annotations

from pydantic import BaseModel, ValidationError

__all__ = ["first_problem"]


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
