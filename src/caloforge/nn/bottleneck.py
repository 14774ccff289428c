"""Networks of the bounded-information-bottleneck autoencoder (arXiv:2005.05334, arXiv:2303.18150).

Encoders and decoders have a convolutional part, which is a matter of the grid of cells, and dense layers, which are not. The
grid is (layers, rows, columns). ``fixed-angle`` and ``two-angles`` are the publications' recipes, which on their grids of
30 x 30 x 30 and 30 x 30 x 49 cells, or the 48 x 25 x 25 of arXiv:2112.09709, give the published networks, and go on as is said
here on others; ``plain`` is ours. ``dense`` has no convolutions.

Layer norms are over the cells alone: each cell has a weight and a bias of its own, which all channels share.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Literal

import torch
from torch import Tensor, nn
from torch.nn import functional

from caloforge.nn.normal_cells import bent

__all__ = [
    "BottleneckDecoder",
    "BottleneckEncoder",
    "ConvolutionStack",
    "DenseHead",
    "FixedAngleHead",
    "Flat",
    "Grid",
    "GridHead",
    "PlainHead",
    "PostProcessor",
    "Recipe",
    "Step",
    "TwoAngleHead",
    "critic_steps",
    "encoder_steps",
    "layer_norm",
    "leaky_layers",
]

Grid = tuple[int, int, int]

#: How a convolutional part is made for a grid; see the module.
Recipe = Literal["fixed-angle", "two-angles", "plain"]

SLOPE = 0.2

#: Kernel, stride and padding of the first convolution of the two-angle encoder along an axis of so many cells; those of
#: arXiv:2112.09709 are 48 and 25. Along other axes it keeps the number of cells.
_FIRST = {30: (3, 1, 0), 49: (1, 2, 3), 48: (2, 2, 0), 25: (2, 1, 0)}
#: The plain recipe halves an axis until so many cells are left.
_FEW = 7


@dataclass(frozen=True)
class Step:
    """A convolution: channels that go out; kernel, stride and padding of each axis; whether a layer norm follows."""

    channels: int
    kernel: Grid
    stride: Grid
    padding: Grid
    norm: bool = True

    @classmethod
    def of(cls, channels: int, axes: Sequence[tuple[int, int, int]], *, norm: bool = True) -> Step:
        """From kernel, stride and padding of one axis after the other."""
        kernel, stride, padding = zip(*axes, strict=True)
        return cls(channels, kernel, stride, padding, norm)

    def after(self, grid: Grid) -> Grid:
        """The grid that a grid becomes."""
        sides = zip(grid, self.kernel, self.stride, self.padding, strict=True)
        a, b, c = ((n + 2 * p - k) // s + 1 for n, k, s, p in sides)
        return a, b, c


def layer_norm(grid: Grid) -> nn.Module:
    """A layer norm over the cells of a grid; nothing where there is one cell, which it would set to zero."""
    return nn.LayerNorm(list(grid)) if math.prod(grid) > 1 else nn.Identity()


class ConvolutionStack(nn.Module):
    """Convolutions without bias, each with (a layer norm and) leaky ReLU behind it.

    Args:
        grid: of the input, which has one channel.
        steps: the convolutions.
        periodic: whether the second axis closes on itself; then its padding is from the other end, else zeros.

    Attributes:
        features: numbers that come out, flattened.
    """

    def __init__(self, grid: Grid, steps: Iterable[Step], *, periodic: bool = False) -> None:
        super().__init__()
        self.grid = grid
        self.layers = nn.ModuleList()
        channels = 1
        for step in steps:
            convolution = _Convolution(channels, step, periodic=periodic)
            channels, grid = step.channels, step.after(grid)
            self.layers.append(nn.Sequential(convolution, layer_norm(grid) if step.norm else nn.Identity()))
        self.features = channels * math.prod(grid)

    def forward(self, cells: Tensor) -> Tensor:
        """Cells (N, V) to features (N, F)."""
        x = cells.reshape(-1, 1, *self.grid)
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), SLOPE)
        return x.flatten(1)


class Flat(nn.Module):
    """Instead of convolutions: the cells themselves."""

    def __init__(self, cells: int) -> None:
        super().__init__()
        self.features = cells

    def forward(self, cells: Tensor) -> Tensor:
        """(N, V) to (N, V)."""
        return cells


class _Convolution(nn.Conv3d):
    def __init__(self, inputs: int, step: Step, *, periodic: bool) -> None:
        padding = (step.padding[0], 0 if periodic else step.padding[1], step.padding[2])
        super().__init__(inputs, step.channels, step.kernel, step.stride, padding, bias=False)
        self.around = step.padding[1] if periodic else 0

    def forward(self, x: Tensor) -> Tensor:
        """(N, C, layers, rows, columns)."""
        if self.around:
            # Written out, since padding in torch refuses to go around more than once.
            rows = torch.arange(-self.around, x.shape[3] + self.around, device=x.device) % x.shape[3]
            x = x.index_select(3, rows)
        return super().forward(x)


def encoder_steps(recipe: Recipe, grid: Grid, channels: int) -> list[Step]:
    """Convolutions of the encoder.

    Args:
        recipe: see the module.
        grid: of the cells.
        channels: of the first convolution.
    """
    if recipe == "fixed-angle":
        halving = [Step.of(channels * factor, [(4, 2, 2)] * 3) for factor in (1, 2, 4)]
        return [*halving, Step.of(8 * channels, [(3, 1, 1)] * 3)]
    if recipe == "two-angles":
        return _two_angle_steps(grid, (channels, 2 * channels, 4 * channels, 4 * channels))
    steps = [Step.of(channels, [(3, 1, 1)] * 3)]
    grid = steps[0].after(grid)
    while max(grid) > _FEW:
        steps.append(Step.of(min(2 ** len(steps), 4) * channels, [(3, 2 if n > _FEW else 1, 1) for n in grid]))
        grid = steps[-1].after(grid)
    return steps


def _two_angle_steps(grid: Grid, channels: Sequence[int]) -> list[Step]:
    """The four convolutions of the two-angle encoder, or the first three of them."""
    wanted = ((), (2, 2, 0), (4, 2, 1), (4, 1, 1))
    steps: list[Step] = []
    for width, (kind, here) in zip(channels, enumerate(wanted), strict=False):
        if kind == 0:
            axes = [_FIRST.get(n, (3, 1, 1)) for n in grid]
        else:
            kernel, stride, padding = here
            axes = [(kernel, stride, padding) if n > 1 else (1, 1, 0) for n in grid]
        steps.append(Step.of(width, axes))
        grid = steps[-1].after(grid)
    return steps


def critic_steps(recipe: Recipe, grid: Grid, channels: int) -> list[Step]:
    """Convolutions of one branch of a critic; arguments as for :func:`encoder_steps`."""
    if recipe == "two-angles":
        steps = _two_angle_steps(grid, (channels,) * 3)
        return [*steps[:-1], Step(channels, steps[-1].kernel, steps[-1].stride, steps[-1].padding, norm=False)]
    steps = []
    for stride, norm in ((2, True), (2, True), (1, False)):
        # Padding where the kernel would not fit, and in the plain recipe everywhere.
        axes = [(3, stride, 1 if recipe == "plain" or n < 3 else 0) for n in grid]
        steps.append(Step.of(channels, axes, norm=norm))
        grid = steps[-1].after(grid)
    return steps


# ---- decoders -------------------------------------------------------------------------------------------------------


class DenseHead(nn.Linear):
    """The end of a decoder without convolutions.

    Args:
        width: numbers that come in.
        cells: number of cells.
        outputs: numbers for each cell; those of all cells stand one behind the other.
    """

    def __init__(self, width: int, cells: int, outputs: int = 1) -> None:
        super().__init__(width, outputs * cells)


class GridHead(nn.Module):
    """The end of a decoder: a small grid from a dense layer, transposed convolutions, convolutions.

    Args:
        width: numbers that come in.
        start: the small grid.
        channels: on it.
    """

    def __init__(self, width: int, start: Grid, channels: int) -> None:
        super().__init__()
        self.start, self.channels = start, channels
        self.dense = nn.Linear(width, channels * math.prod(start))
        self.layers = nn.ModuleList()

    def add(self, layer: nn.Module, grid: Grid) -> None:
        """A layer whose output has this grid, with a layer norm."""
        self.layers.append(nn.Sequential(layer, layer_norm(grid)))

    def refine(self, grid: Grid, widths: Sequence[int], outputs: int = 1, *, periodic: bool = False) -> None:
        """3 x 3 x 3 convolutions at the end; the last of them, to the outputs of the cells, has neither norm nor activation."""
        for before, after in pairwise(widths):
            self.add(_Convolution(before, Step.of(after, [(3, 1, 1)] * 3), periodic=periodic), grid)
        self.last = _Convolution(widths[-1], Step.of(outputs, [(3, 1, 1)] * 3), periodic=periodic)

    def forward(self, x: Tensor) -> Tensor:
        """(N, width) to the outputs of the cells (N, O V)."""
        x = functional.leaky_relu(self.dense(x), SLOPE).reshape(-1, self.channels, *self.start)
        for layer in self.layers:
            x = functional.leaky_relu(layer(x), SLOPE)
        made: Tensor = self.last(x)
        return made.flatten(1)


class _Cropped(nn.Module):
    """A layer of whose output only the first cells of each axis are kept."""

    def __init__(self, layer: nn.Module, grid: Grid) -> None:
        super().__init__()
        self.layer, self.grid = layer, grid

    def forward(self, x: Tensor) -> Tensor:
        a, b, c = self.grid
        made: Tensor = self.layer(x)
        return made[:, :, :a, :b, :c]


class FixedAngleHead(GridHead):
    """To thrice the grid, to twice that, back to it, and five convolutions (arXiv:2005.05334).

    As published, the first transposed convolution does not reach the last plane of any axis, which gets nothing but the bias of
    the layer norm: kernel 3, stride 3 and padding 1 end one cell short. Without the padding every cell has one neighbour.

    Args:
        width: numbers that come in.
        grid: of the cells; where a side is no multiple of three, the last planes of the next one are cut off.
        channels: on the small grid.
        planes: whether the last planes are ``lost``, as published, or ``reached``.
    """

    def __init__(self, width: int, grid: Grid, channels: int, *, planes: Literal["lost", "reached"]) -> None:
        a, b, c = (-(-n // 3) for n in grid)
        super().__init__(width, (a, b, c), channels)
        padding, missing = (1, 2) if planes == "lost" else (0, 0)
        thrice = nn.ConvTranspose3d(channels, channels, 3, 3, padding, missing, bias=False)
        self.add(_Cropped(thrice, grid), grid)
        double = (2 * grid[0], 2 * grid[1], 2 * grid[2])
        self.add(nn.ConvTranspose3d(channels, 2 * channels, 3, 2, 1, 1, bias=False), double)
        self.add(nn.Conv3d(2 * channels, channels, 2, 2, bias=False), grid)
        self.refine(grid, [channels, 2 * channels, 4 * channels, 2 * channels])


class TwoAngleHead(GridHead):
    """Twice to about twice the grid, and seven convolutions (arXiv:2303.18150).

    On the grid of arXiv:2112.09709, the planes are made a little too large first and cut by convolutions without padding.

    Args:
        width: numbers that come in.
        grid: of the cells.
        channels: on the small grid.
    """

    def __init__(self, width: int, grid: Grid, channels: int) -> None:
        hadronic = grid == (48, 25, 25)
        large = (48, 28, 28) if hadronic else grid
        middle, small = (self._half(self._halves(large, times)) for times in (0, 1))
        super().__init__(width, small, channels)
        for shape in (middle, large):
            kernel = [4 + n % 2 if n > 1 else 1 for n in shape]
            stride = [2 if n > 1 else 1 for n in shape]
            padding = [1 if n > 1 else 0 for n in shape]
            layer = nn.ConvTranspose3d(channels, channels, kernel, stride, padding, bias=False)  # type: ignore[arg-type]
            self.add(layer, shape)
        if hadronic:
            self.add(nn.Conv3d(channels, channels, (1, 2, 2), bias=False), (48, 27, 27))
            self.add(nn.Conv3d(channels, channels, 3, padding=(1, 0, 0), bias=False), grid)
        plain = [channels] * (2 if hadronic else 4)
        self.refine(grid, [*plain, 2 * channels, 4 * channels, 2 * channels])

    @staticmethod
    def _half(grid: Grid) -> Grid:
        a, b, c = (max(n // 2, 1) for n in grid)
        return a, b, c

    @classmethod
    def _halves(cls, grid: Grid, times: int) -> Grid:
        return grid if times == 0 else cls._halves(cls._half(grid), times - 1)


class PlainHead(GridHead):
    """The way back of the plain encoder: every cell becomes a block, whose surplus is cut off, and three convolutions.

    Args:
        width: numbers that come in.
        grid: of the cells.
        channels: of the first convolution of the encoder.
        outputs: numbers for each cell; those of all cells stand one behind the other.
        periodic: whether the second axis closes on itself.
    """

    def __init__(self, width: int, grid: Grid, channels: int, outputs: int = 1, *, periodic: bool) -> None:
        steps = encoder_steps("plain", grid, channels)
        grids = [grid]
        for step in steps:
            grids.append(step.after(grids[-1]))
        super().__init__(width, grids[-1], steps[-1].channels)
        for number in range(len(steps) - 1, 0, -1):
            before, after = steps[number].channels, steps[number - 1].channels
            stride = steps[number].stride
            block = nn.ConvTranspose3d(before, after, stride, stride, bias=False)
            self.add(_Cropped(block, grids[number]), grids[number])
        self.refine(grid, [channels, 2 * channels, 2 * channels], outputs, periodic=periodic)


# ---- encoder, decoder, post-processor -------------------------------------------------------------------------------


def leaky_layers(widths: Sequence[int], slope: float = SLOPE) -> nn.Sequential:
    """Dense layers, each with leaky ReLU behind it."""
    layers: list[nn.Module] = []
    for before, after in pairwise(widths):
        layers += [nn.Linear(before, after), nn.LeakyReLU(slope)]
    return nn.Sequential(*layers)


class BottleneckEncoder(nn.Module):
    """Cells and conditions to mean and logarithm of the variance of the latents.

    Args:
        body: convolutions, or :class:`Flat`.
        conditions: number of conditions C.
        hidden: widths of the dense layers behind it.
        latents: number of latents D.
    """

    def __init__(self, body: ConvolutionStack | Flat, conditions: int, hidden: Sequence[int], latents: int) -> None:
        super().__init__()
        self.body = body
        self.dense = leaky_layers([body.features + conditions, *hidden])
        self.mean = nn.Linear(hidden[-1], latents)
        self.log_variance = nn.Linear(hidden[-1], latents)

    def forward(self, cells: Tensor, conditions: Tensor) -> tuple[Tensor, Tensor]:
        """Cells (N, V) and conditions (N, C) to two times (N, D)."""
        x = self.dense(torch.cat([self.body(cells), conditions], dim=1))
        return self.mean(x), self.log_variance(x)


class BottleneckDecoder(nn.Module):
    """Latents and conditions to cells.

    With ``cell_noise`` each cell is a normal number, whose mean and standard deviation the head makes, and zero if that is
    negative.

    Args:
        latents: number of latents D.
        conditions: number of conditions C.
        hidden: widths of the dense layers, in the order of the encoder; they are passed the other way round.
        head: the end, which makes the cells from the last of them; with ``cell_noise`` two numbers for each.
        cell_noise: see above.
        bend: see :func:`~caloforge.nn.normal_cells.bent`.
    """

    def __init__(
        self,
        latents: int,
        conditions: int,
        hidden: Sequence[int],
        head: DenseHead | GridHead,
        *,
        cell_noise: bool = False,
        bend: float | None = None,
    ) -> None:
        super().__init__()
        self.dense = leaky_layers([latents + conditions, *reversed(hidden)])
        self.head, self.cell_noise, self.bend = head, cell_noise, bend

    def forward(self, latents: Tensor, conditions: Tensor, noise: Tensor | None = None) -> Tensor:
        """Cells (N, V), not negative, from latents (N, D) and conditions (N, C), and standard normal (N, V) if cells are so."""
        return self.parts(latents, conditions, noise)[0]

    def parts(self, latents: Tensor, conditions: Tensor, noise: Tensor | None) -> tuple[Tensor, Tensor, Tensor]:
        """Cells; mean and standard deviation of the normal numbers behind them, or the output and ones; (N, V) each."""
        made = self.head(self.dense(torch.cat([latents, conditions], dim=1)))
        if not self.cell_noise:
            return bent(functional.relu(made), self.bend), made, torch.ones_like(made)
        assert noise is not None
        mean, raw = made.chunk(2, dim=1)
        spread = functional.softplus(raw) + 1e-2
        return bent(functional.relu(mean + spread * noise), self.bend), mean, spread


class PostProcessor(nn.Module):
    """Changes the energy of every cell by itself, knowing the sum and the conditions of the shower (arXiv:2005.05334).

    Convolutions with a kernel of one cell; numbers made of sum and conditions stand beside the channels behind the first.

    Args:
        cells: number of cells V.
        conditions: number of conditions C.
        width: channels.
        layers: convolutions in all, at least three.
        norm: layer norms over the cells behind all but the last two.
        last_bias: whether the last convolution has a bias.
        residual: add the output to the cells; then it starts as nothing.
    """

    def __init__(
        self, cells: int, conditions: int, *, width: int, layers: int, norm: bool, last_bias: bool, residual: bool
    ) -> None:
        super().__init__()
        half = max(width // 2, 1)
        self.residual = residual
        self.of_shower = leaky_layers([1 + conditions, half, half, half], 0.01)
        inputs = [1, width + half, *[width] * (layers - 3)]
        self.layers = nn.ModuleList(
            nn.Sequential(
                nn.Conv1d(before, width, 1), nn.LayerNorm(cells) if norm and number < layers - 2 else nn.Identity()
            )
            for number, before in enumerate(inputs)
        )
        self.last = nn.Conv1d(width, 1, 1, bias=last_bias)
        if residual:
            nn.init.zeros_(self.last.weight)
            if self.last.bias is not None:
                nn.init.zeros_(self.last.bias)

    def forward(self, cells: Tensor, conditions: Tensor) -> Tensor:
        """Cells (N, V) and conditions (N, C) to cells (N, V), which may be negative."""
        shower = self.of_shower(torch.cat([cells.sum(dim=1, keepdim=True), conditions], dim=1))
        x = cells[:, None]
        for number, layer in enumerate(self.layers):
            x = functional.leaky_relu(layer(x), 0.01)
            if number == 0:
                x = torch.cat([x, shower[:, :, None].expand(-1, -1, cells.shape[1])], dim=1)
        made: Tensor = self.last(x)[:, 0]
        return cells + made if self.residual else made
