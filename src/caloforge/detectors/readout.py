"""What a calorimeter reports: layers of voxels, or layers of points.

Voxels are numbered layer by layer, and inside a layer row-major over the grid's two coordinates (``grids``). A layer
without a grid belongs to a detector that is read out as points.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Self

import numpy as np
from numpy.typing import ArrayLike, NDArray
from pydantic import Field, model_validator

from caloforge.detectors.description import Description
from caloforge.detectors.grids import CartesianGrid, Grid, PolarGrid
from caloforge.errors import DetectorError

__all__ = ["Axis", "Layer", "LayerGroup", "Readout"]

Index = NDArray[np.int64]
Floats = NDArray[np.float64]


#: More than any calorimeter that is planned (6.5 million channels), and less than fills the memory of a laptop.
_MOST_LAYERS, _MOST_VOXELS = 100_000, 100_000_000


class Axis(Description):
    """Equal bins over a range (mm): the short way to write edges."""

    bins: Annotated[int, Field(ge=1, le=100_000)]
    range: tuple[float, float]

    def edges(self) -> tuple[float, ...]:
        """The bin edges, mm."""
        return tuple(np.linspace(*self.range, self.bins + 1).tolist())


@dataclass(frozen=True)
class Layer:
    """One layer.

    Attributes:
        grid: its cells, or None if it is read out as points.
        depth: where it starts and ends below the entry point, mm, if known.
        label: its name in the experiment (ATLAS counts 0, 1, 2, 3, 12).
    """

    grid: Grid | None
    depth: tuple[float, float] | None
    label: str

    @property
    def size(self) -> int:
        """Number of voxels."""
        return 0 if self.grid is None else self.grid.shape[0] * self.grid.shape[1]


class LayerGroup(Description):
    """Layers with the same cells, as written in a TOML file.

    The cells are ``x`` and ``y`` (or ``x_edges``, ``y_edges``), or ``r`` (or ``r_edges``) and ``alpha`` (number of
    sectors), or nothing at all for points. The depth of the layers is either ``depth`` of the first one, the others
    following behind it with the same thickness, or ``depths`` of each.
    """

    repeat: Annotated[int, Field(ge=1, le=100_000)] = 1
    labels: tuple[str, ...] | None = None
    depth: tuple[float, float] | None = None
    depths: tuple[tuple[float, float], ...] | None = None
    x: Axis | None = None
    y: Axis | None = None
    x_edges: tuple[float, ...] | None = None
    y_edges: tuple[float, ...] | None = None
    r: Axis | None = None
    r_edges: tuple[float, ...] | None = None
    alpha: Annotated[int, Field(ge=1, le=100_000)] | None = None

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        for name in ("x", "y", "r"):
            if getattr(self, name) is not None and getattr(self, f"{name}_edges") is not None:
                raise ValueError(f"'{name}' and '{name}_edges' say the same thing, expected one of them")
        cartesian = [n for n in ("x", "y") if self._edges(n) is not None]
        if len(cartesian) == 1:
            raise ValueError("Cartesian cells need both 'x' and 'y'")
        if cartesian and (self._edges("r") is not None or self.alpha is not None):
            raise ValueError("a layer is either Cartesian ('x', 'y') or polar ('r', 'alpha'), not both")
        if self.alpha is not None and self._edges("r") is None:
            raise ValueError("polar cells need 'r' or 'r_edges'")
        if self.depth is not None and self.depths is not None:
            raise ValueError("'depth' and 'depths' exclude each other")
        for name, values in (("depths", self.depths), ("labels", self.labels)):
            if values is not None and len(values) != self.repeat:
                raise ValueError(f"'{name}' has {len(values)} entries, expected {self.repeat}, one for each layer")
        for low, high in [*(self.depths or ()), *((self.depth,) if self.depth else ())]:
            if not high > low:
                raise ValueError(f"a layer ends at {high:g} mm, expected more than its start at {low:g} mm")
        self.grid  # noqa: B018 - bad edges are this description's fault, so they surface here
        return self

    def _edges(self, name: str) -> tuple[float, ...] | None:
        axis: Axis | None = getattr(self, name)
        edges: tuple[float, ...] | None = getattr(self, f"{name}_edges")
        return edges if axis is None else axis.edges()

    @cached_property
    def grid(self) -> Grid | None:
        """The cells that all layers of the group share."""
        x, y, r = (self._edges(name) for name in ("x", "y", "r"))
        if x is not None and y is not None:
            return CartesianGrid(x_edges=x, y_edges=y)
        if r is not None:
            return PolarGrid(r_edges=r, n_alpha=self.alpha or 1)
        return None

    def layers(self, first: int) -> list[Layer]:
        """The layers, the first of which has the given number in the readout."""
        depths: list[tuple[float, float] | None] = list(self.depths or [None] * self.repeat)
        if self.depth is not None:
            start, end = self.depth
            depths = [(start + k * (end - start), end + k * (end - start)) for k in range(self.repeat)]
        labels = self.labels or tuple(str(first + k) for k in range(self.repeat))
        return [Layer(self.grid, depth, label) for depth, label in zip(depths, labels, strict=True)]


class Readout(Description):
    """The layers of a detector and the numbering of their voxels."""

    groups: Annotated[tuple[LayerGroup, ...], Field(min_length=1, alias="layers")]

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if sum(group.repeat for group in self.groups) > _MOST_LAYERS or self.n_voxels > _MOST_VOXELS:
            raise ValueError(f"there are more than {_MOST_LAYERS:,} layers or {_MOST_VOXELS:,} voxels")
        grids = [layer.grid for layer in self.layers]
        if any(g is None for g in grids) and any(g is not None for g in grids):
            raise ValueError("either all layers have cells or none has")
        depths = [layer.depth for layer in self.layers]
        if any(d is None for d in depths) and any(d is not None for d in depths):
            raise ValueError("either all layers have a depth or none has")
        for before, after in zip(self.depths[:-1], self.depths[1:], strict=True):
            if after[0] < before[1] - 1e-9:
                raise ValueError(f"a layer starts at {after[0]:g} mm, inside the one that ends at {before[1]:g} mm")
        return self

    # The TOML key is "layers", the expanded layers are the attribute of that name.
    @cached_property
    def layers(self) -> tuple[Layer, ...]:
        """All layers from the front to the back."""
        expanded: list[Layer] = []
        for group in self.groups:
            expanded.extend(group.layers(len(expanded)))
        return tuple(expanded)

    @cached_property
    def depths(self) -> Floats:
        """Start and end of each layer, mm, shape (layers, 2); no rows if the depths are not known."""
        known = [layer.depth for layer in self.layers if layer.depth is not None]
        return np.asarray(known, dtype=np.float64).reshape(-1, 2)

    @property
    def n_layers(self) -> int:
        """Number of layers."""
        return len(self.layers)

    @cached_property
    def layer_sizes(self) -> tuple[int, ...]:
        """Number of voxels in each layer."""
        return tuple(layer.size for layer in self.layers)

    @cached_property
    def layer_shapes(self) -> tuple[tuple[int, int], ...]:
        """Shape of each layer: (x, y) cells or (alpha, r) cells."""
        return tuple((0, 0) if layer.grid is None else layer.grid.shape for layer in self.layers)

    @cached_property
    def layer_slices(self) -> tuple[slice, ...]:
        """Where the voxels of each layer lie in a flat row."""
        ends = np.cumsum(self.layer_sizes).tolist()
        return tuple(slice(end - size, end) for size, end in zip(self.layer_sizes, ends, strict=True))

    @property
    def n_voxels(self) -> int:
        """Number of voxels of all layers; 0 for a readout of points."""
        return sum(self.layer_sizes)

    @property
    def has_voxels(self) -> bool:
        """Whether the layers have cells."""
        return self.layers[0].grid is not None

    @cached_property
    def voxel_layers(self) -> Index:
        """Layer number of each voxel, shape (V,)."""
        return np.repeat(np.arange(self.n_layers), self.layer_sizes)

    def layer_of_depth(self, z: ArrayLike) -> Index:
        """Layer number of each depth (mm, local frame), shape (M,); -1 between, before and behind the layers.

        Raises:
            DetectorError: if the readout does not know the depth of its layers.
        """
        if not len(self.depths):
            raise DetectorError("this readout does not know the depth of its layers, so points need a layer number")
        z = np.asarray(z)
        layer = np.searchsorted(self.depths[:, 0], z, side="right") - 1
        return np.where((layer >= 0) & (z < self.depths[layer, 1]), layer, -1)

    def voxel_index(self, x: ArrayLike, y: ArrayLike, layer: ArrayLike) -> Index:
        """Flat voxel number of each point, shape (M,).

        Args:
            x: transverse position in mm, shape (M,).
            y: transverse position in mm, shape (M,).
            layer: layer number, shape (M,); a number outside the readout gives -1.

        Returns:
            The voxel number, -1 where the point lies in no voxel of its layer (overflow).

        Raises:
            DetectorError: if the layers have no cells.
        """
        self._need_voxels()
        x, y, layer = np.asarray(x), np.asarray(y), np.asarray(layer).astype(np.int64)
        voxel = np.full(layer.shape, -1, dtype=np.int64)
        # One number more in front and behind, for layers that there are not.
        place = np.clip(layer, -1, self.n_layers) + 1
        which, starts = self._grid_of_layer[place], self._start_of_layer[place]
        for number, (grid, _) in enumerate(self._distinct_grids):
            chosen = np.flatnonzero(which == number)
            cell = grid.cell(x[chosen], y[chosen])
            voxel[chosen] = np.where(cell >= 0, starts[chosen] + cell, -1)
        return voxel

    @cached_property
    def _distinct_grids(self) -> list[tuple[Grid, list[int]]]:
        distinct: list[tuple[Grid, list[int]]] = []
        for number, layer in enumerate(self.layers):
            for grid, members in distinct:
                if grid == layer.grid:
                    members.append(number)
                    break
            else:
                if layer.grid is not None:
                    distinct.append((layer.grid, [number]))
        return distinct

    @cached_property
    def _grid_of_layer(self) -> Index:
        """Which of the distinct grids each layer has, -1 in front of the first layer and behind the last, (layers + 2,)."""
        which = np.full(self.n_layers + 2, -1, dtype=np.int64)
        for number, (_, members) in enumerate(self._distinct_grids):
            which[np.asarray(members) + 1] = number
        return which

    @cached_property
    def _start_of_layer(self) -> Index:
        """First voxel of each layer, likewise."""
        return np.asarray([0, *(where.start for where in self.layer_slices), 0], dtype=np.int64)

    def centres(self) -> Floats:
        """Voxel centres (x, y, z) in mm, shape (V, 3); z is NaN if the depths are not known."""
        self._need_voxels()
        rows = []
        for layer in self.layers:
            z = np.nan if layer.depth is None else sum(layer.depth) / 2
            rows.append(np.column_stack([_grid(layer).centres, np.full(layer.size, z)]))
        return np.concatenate(rows)

    def areas(self) -> Floats:
        """Transverse areas of the voxels in mm2, shape (V,)."""
        self._need_voxels()
        return np.concatenate([_grid(layer).areas for layer in self.layers])

    def volumes(self) -> Floats:
        """Voxel volumes in mm3, shape (V,).

        Raises:
            DetectorError: if the readout does not know the depth of its layers.
        """
        if not len(self.depths):
            raise DetectorError("this readout does not know the depth of its layers, so its voxels have no volume")
        thickness: Floats = np.diff(self.depths, axis=1)[self.voxel_layers, 0]
        volumes: Floats = self.areas() * thickness
        return volumes

    def neighbours(self, *, across_layers: bool = True) -> Index:
        """Pairs of voxels that share a face.

        Args:
            across_layers: also pair voxels of consecutive layers whose transverse areas overlap.

        Returns:
            Pairs (a, b) with a < b, each once, shape (P, 2), sorted.

        Raises:
            DetectorError: if consecutive layers mix Cartesian and polar cells.
        """
        self._need_voxels()
        pairs: list[Index] = []
        for layer, where in zip(self.layers, self.layer_slices, strict=True):
            numbers = np.arange(where.start, where.stop).reshape(_grid(layer).shape)
            pairs.append(np.stack([numbers[:, :-1].ravel(), numbers[:, 1:].ravel()], axis=1))
            pairs.append(np.stack([numbers[:-1].ravel(), numbers[1:].ravel()], axis=1))
            if isinstance(layer.grid, PolarGrid) and layer.grid.n_alpha > 2:
                pairs.append(np.stack([numbers[0], numbers[-1]], axis=1))
        if across_layers:
            pairs.extend(self._facing(first) for first in range(self.n_layers - 1))
        joined = np.concatenate(pairs)
        return joined[np.lexsort((joined[:, 1], joined[:, 0]))]

    def _facing(self, first: int) -> Index:
        one, two = _grid(self.layers[first]), _grid(self.layers[first + 1])
        if type(one) is not type(two):
            raise DetectorError(
                f"layers {first} and {first + 1} mix Cartesian and polar cells, so neighbours across them are not defined"
            )
        outer, inner = (_overlaps(a, b) for a, b in zip(one.edges, two.edges, strict=True))
        i, k = np.nonzero(outer)
        j, m = np.nonzero(inner)
        a = (i[:, None] * one.shape[1] + j[None, :]).ravel() + self.layer_slices[first].start
        b = (k[:, None] * two.shape[1] + m[None, :]).ravel() + self.layer_slices[first + 1].start
        return np.stack([a, b], axis=1)

    def _need_voxels(self) -> None:
        if not self.has_voxels:
            raise DetectorError("this readout is made of points and has no voxels")

    def to_description(self) -> dict[str, Any]:
        """The readout as it would stand in a TOML file."""
        return {"layers": [group.model_dump(exclude_none=True, exclude_defaults=True) for group in self.groups]}


def _grid(layer: Layer) -> Grid:
    if layer.grid is None:
        raise DetectorError("this readout is made of points and has no voxels")
    return layer.grid


def _overlaps(one: tuple[float, ...], two: tuple[float, ...]) -> NDArray[np.bool_]:
    """Which intervals of two sets of edges overlap by more than rounding, shape (len(one)-1, len(two)-1)."""
    a, b = np.asarray(one), np.asarray(two)
    shared = np.minimum(a[1:, None], b[None, 1:]) - np.maximum(a[:-1, None], b[None, :-1])
    narrow = np.minimum(np.diff(a)[:, None], np.diff(b)[None, :])
    overlapping: NDArray[np.bool_] = shared > 1e-9 * narrow
    return overlapping
