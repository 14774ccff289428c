"""The material of a calorimeter, as Geant4 will see it: plates one behind the other, or hollow cylinders."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Literal, Self

from pydantic import Field, field_validator, model_validator

from caloforge.detectors.description import Description

__all__ = ["Material", "PlacedPlate", "Plate", "PlateGroup", "Stack"]

Positive = Annotated[float, Field(gt=0)]


class Material(Description):
    """A material that Geant4's own list does not hold.

    Attributes:
        density: g/cm3.
        composition: mass fraction of each element, by symbol; they add up to 1.
    """

    density: Positive
    composition: dict[str, Positive]

    @field_validator("composition")
    @classmethod
    def _adds_up(cls, composition: dict[str, float]) -> dict[str, float]:
        if abs(sum(composition.values()) - 1.0) > 1e-3:
            raise ValueError(f"expected mass fractions that add up to 1, they add up to {sum(composition.values()):g}")
        return composition


class Plate(Description):
    """One plate: a material (``G4_*`` or one of the stack's own), a thickness in mm, and whether it is sensitive."""

    material: str
    thickness: Positive
    active: bool = False


class PlateGroup(Description):
    """Plates that follow each other, repeated as a whole."""

    plates: Annotated[tuple[Plate, ...], Field(min_length=1)]
    repeat: Annotated[int, Field(ge=1, le=100_000)] = 1


@dataclass(frozen=True)
class PlacedPlate:
    """A plate in its place.

    Attributes:
        index: number of the plate from the front, from 0.
        start: depth of its front face below the front face of the stack, mm.
        layer: number among the active plates, from 0; None for a passive plate.
    """

    index: int
    material: str
    thickness: float
    start: float
    layer: int | None

    @property
    def active(self) -> bool:
        """Whether deposits in this plate are the detector's signal."""
        return self.layer is not None

    @property
    def end(self) -> float:
        """Depth of its back face, mm."""
        return self.start + self.thickness


class Stack(Description):
    """Absorber and active plates.

    Attributes:
        kind: ``planar`` (plates across z) or ``cylindrical`` (hollow cylinders about an axis across the gun's).
        groups: the plates from the front to the back.
        lateral: planar: full widths in x and y, mm; cylindrical: full length along the cylinders' axis, mm.
        inner_radius: cylindrical only, mm.
        world: planar only: full widths in x, y, z of the surrounding vacuum, the stack in its middle, mm.
        deposits: whether every deposit counts, or only those in active plates.
        deposit_point: where along a step its deposit is booked.
        cut: Geant4's production cut, mm.
        materials: materials that are not in Geant4's own list.
    """

    kind: Literal["planar", "cylindrical"]
    groups: Annotated[tuple[PlateGroup, ...], Field(min_length=1)]
    lateral: Annotated[tuple[Positive, ...], Field(min_length=1, max_length=2)]
    inner_radius: Positive | None = None
    world: tuple[Positive, Positive, Positive] | None = None
    deposits: Literal["all", "active"] = "active"
    deposit_point: Literal["start", "middle"] = "middle"
    cut: Positive = 0.7
    materials: dict[str, Material] = Field(default_factory=dict)

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.kind == "planar":
            if len(self.lateral) != 2:
                raise ValueError("a planar stack needs 'lateral' = [width in x, width in y]")
            if self.world is None or self.world[2] < self.thickness:
                raise ValueError(
                    f"a planar stack needs 'world' = [x, y, z] with z at least its thickness {self.thickness:g}"
                )
            if self.world[0] < self.lateral[0] or self.world[1] < self.lateral[1]:
                raise ValueError("'world' must be at least as wide as 'lateral'")
            if self.inner_radius is not None:
                raise ValueError("'inner_radius' belongs to a cylindrical stack")
        else:
            if self.inner_radius is None:
                raise ValueError("a cylindrical stack needs 'inner_radius'")
            if len(self.lateral) != 1:
                raise ValueError("a cylindrical stack needs 'lateral' = [length along its axis]")
        if self.deposits == "active" and not any(plate.active for plate in self.plates):
            raise ValueError("no plate is active although only active plates are scored")
        for plate in self.plates:
            if not plate.material.startswith("G4_") and plate.material not in self.materials:
                raise ValueError(f"the material '{plate.material}' is neither a G4_ name nor listed under 'materials'")
        return self

    @cached_property
    def plates(self) -> tuple[PlacedPlate, ...]:
        """All plates in their places, from the front to the back."""
        placed: list[PlacedPlate] = []
        start, layer = 0.0, 0
        for group in self.groups:
            for _ in range(group.repeat):
                for plate in group.plates:
                    placed.append(
                        PlacedPlate(
                            len(placed), plate.material, plate.thickness, start, layer if plate.active else None
                        )
                    )
                    start += plate.thickness
                    layer += plate.active
        return tuple(placed)

    @property
    def thickness(self) -> float:
        """Depth from the front face to the back face, mm."""
        return sum(group.repeat * sum(plate.thickness for plate in group.plates) for group in self.groups)
