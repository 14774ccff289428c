"""What every representation offers to aids: named places where a function may be put around a value."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar, TypeVar

from torch import nn

__all__ = ["Representation"]

T = TypeVar("T")


class Representation(nn.Module):
    """How showers become numbers, and numbers showers.

    A representation knows no aid. It names places (``places``) at which a value passes through whatever was put there; an
    aid that suits puts its function there when a model is built, so a model without aids calls nothing.

    Attributes:
        places: names of the places; each class says what passes there.
    """

    places: ClassVar[tuple[str, ...]] = ()

    def __init__(self) -> None:
        super().__init__()
        self._around: dict[str, list[Callable[..., Any]]] = {}

    def put(self, place: str, function: Callable[..., Any]) -> None:
        """Let values pass through a function at a place, behind those that are there already.

        Args:
            place: one of ``places``.
            function: takes the value and what else the place hands on, and returns a value of the same kind.

        Raises:
            KeyError: if there is no such place.
        """
        if place not in self.places:
            raise KeyError(place)
        self._around.setdefault(place, []).append(function)

    def passed(self, place: str, value: T, *others: Any) -> T:
        """The value behind all functions at a place."""
        for function in self._around.get(place, ()):
            value = function(value, *others)
        return value
