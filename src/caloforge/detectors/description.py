"""Base of everything that a detector's TOML file describes: frozen, no unknown keys, errors that name the key."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, ValidationError

from caloforge.errors import DetectorError
from caloforge.validation import first_problem

__all__ = ["Description", "build"]

T = TypeVar("T", bound=BaseModel)


class Description(BaseModel):
    """A frozen value with named fields; unknown keys are refused."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)

    # pydantic would also compare cached arrays, which have no truth value.
    def __eq__(self, other: object) -> bool:
        if type(self) is not type(other):
            return NotImplemented
        return all(getattr(self, name) == getattr(other, name) for name in type(self).model_fields)

    def model_copy(self, *, update: Mapping[str, Any] | None = None, deep: bool = False) -> Self:
        """A copy with some fields changed; what was cached for the old ones is forgotten."""
        copied = super().model_copy(update=update, deep=deep)
        for name in copied.__dict__.keys() - type(self).model_fields.keys():
            del copied.__dict__[name]
        return copied

    def __hash__(self) -> int:
        return hash(self.model_dump_json())


def build(cls: type[T], data: Mapping[str, Any], *, where: str) -> T:
    """Validate a mapping, turning the first problem into one sentence that names the key.

    Raises:
        DetectorError: with the place, the key and what was expected there.
    """
    try:
        return cls.model_validate(data)
    except ValidationError as error:
        raise DetectorError(first_problem(error, where)) from None
