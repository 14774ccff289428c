"""The exact inverse of masked autoregressive blocks as one Triton kernel for GPUs.

The arithmetic is that of ``caloforge.kernels.ops.autoregressive``, with one launch per block instead of some sixty per feature.

A program solves a tile of showers through all D steps of a block. What the hidden units of a layer are made of (pre-activations,
tile x units) stays in registers: a feature that has become known is added to those of the first layer at once, a unit that has
become known to those of the next layer. So each weight is read once, and nothing but features is written. The product that gives
the raw spline parameters of a feature is taken in full float32 (no TF32).

Every sum of a shower is taken in an order that knows neither the other showers of its tile nor how many there are, so a shower is
the same in any batch.

Imports Triton: only ``caloforge.kernels.ops`` imports this, and only where it is to be used.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
import triton
import triton.language as tl
from torch import Tensor

__all__ = ["STAGES", "BlockShape", "block_arguments", "block_kernel", "covers", "launch", "pack", "solve"]

#: Most masked layers into hidden units, and most units in one, whose pre-activations fit into the registers of a tile.
MOST_LAYERS, MOST_HIDDEN, MOST_BINS = 3, 1024, 16
#: Loads of the next steps must not be begun before this one is done: a feature is read after it has been written.
STAGES = 1
#: Numbers of a row of weights are padded to as many, so that rows begin where wide loads may begin.
_ROUND = 16


@triton.jit
def _rectified(values):
    return tl.where(values < 0, 0.0, values)  # not a maximum, which would hide what is not a number


@triton.jit
def _softplus(value):
    """log(1 + exp(value)), also where it is tiny: log(1 + e) = 2 artanh(e / (2 + e)), whose series is short for e <= 1."""
    small = tl.exp(-tl.abs(value))
    s = tl.div_rn(small, 2.0 + small)
    t = s * s
    series = 1.0 / 17
    for k in tl.static_range(8):
        series = series * t + 1.0 / (15 - 2 * k)
    return 2.0 * s * series + tl.where(value < 0, 0.0, value)


@triton.jit
def _column(table, kinds, KIND: tl.constexpr):
    """One column (TILE,) of a table (TILE, 4)."""
    return tl.sum(tl.where(kinds == KIND, table, 0.0), axis=1)


@triton.jit
def _spline(
    given, raw, bound, min_width, min_height, min_derivative, TILE: tl.constexpr, BINS: tl.constexpr,
    PADDED_BINS: tl.constexpr, INVERSE: tl.constexpr,
):  # fmt: skip
    """As ``caloforge.kernels.ops.splines.plain_rqs``: results (TILE,) and logarithms of slopes (TILE,).

    Of the raw parameters (TILE, 4 * PADDED_BINS) four kinds are side by side: widths, heights, slopes at the left, at the right.
    """
    kinds = tl.arange(0, 4)[None, :]
    kind, bins = kinds[:, :, None], tl.arange(0, PADDED_BINS)[None, None, :]
    raw = tl.reshape(raw, (TILE, 4, PADDED_BINS))
    # Sizes of bins, and where the bins end; for slopes the same is done and not used.
    logits = tl.where(bins < BINS, raw, float("-inf"))
    shares = tl.exp(logits - tl.max(logits, axis=2)[:, :, None])
    shares = tl.div_rn(shares, tl.broadcast_to(tl.sum(shares, axis=2)[:, :, None], shares.shape))
    least = tl.where(kind == 0, min_width, min_height)
    ends = 2.0 * bound * tl.cumsum(least + (1.0 - least * BINS) * shares, axis=2) - bound
    ends = tl.where(bins == BINS - 1, bound, ends)

    inside = (given >= -bound) & (given <= bound)
    value = tl.where(given < -bound, -bound, tl.where(given > bound, bound, given))
    beyond = (value[:, None, None] >= ends) & (bins < BINS - 1) & (kind == (1 if INVERSE else 0))
    index = tl.sum(tl.sum(beyond.to(tl.int32), axis=2), axis=1)
    table = tl.where(kind < 2, ends, raw)
    here = tl.sum(tl.where(bins == index[:, None, None], table, 0.0), axis=2)
    # A bin begins exactly where the one before it ends.
    before = tl.sum(tl.where(bins == index[:, None, None] - 1, table, 0.0), axis=2)
    left = tl.where(index == 0, -bound, _column(before, kinds, 0))
    bottom = tl.where(index == 0, -bound, _column(before, kinds, 1))
    width, height = _column(here, kinds, 0) - left, _column(here, kinds, 1) - bottom
    slopes = min_derivative + _softplus(here)
    slope_left = tl.where(index == 0, 1.0, _column(slopes, kinds, 2))
    slope_right = tl.where(index == BINS - 1, 1.0, _column(slopes, kinds, 3))

    smallest = 2.0 * bound * 1.1920929e-07
    width = tl.where(width < smallest, smallest, width)
    height = tl.where(height < smallest, smallest, height)
    delta = tl.div_rn(height, width)
    curvature = slope_left + slope_right - 2.0 * delta
    if INVERSE:
        eta = tl.div_rn(value - bottom, height)
        a = delta - slope_left + eta * curvature
        b = slope_left - eta * curvature
        c = delta * eta
        square = b * b + 4.0 * a * c
        root = tl.sqrt_rn(tl.where(square < 1.1754944e-38, 1.1754944e-38, square))
        # Of two equal forms of the root the one that adds numbers of equal sign.
        rising = b >= 0
        theta = tl.div_rn(tl.where(rising, 2.0 * c, root - b), tl.where(rising, b + root, 2.0 * a))
    else:
        theta = tl.div_rn(value - left, width)
    spread = theta * (1.0 - theta)
    denominator = delta + curvature * spread
    if INVERSE:
        found = left + theta * width
    else:
        found = bottom + height * tl.div_rn(delta * theta * theta + slope_left * spread, denominator)
    ratio = tl.div_rn(delta, denominator)
    numerator = slope_right * theta * theta + 2.0 * delta * spread + slope_left * (1.0 - theta) * (1.0 - theta)
    log_slope = tl.log(numerator * ratio * ratio)
    if INVERSE:
        log_slope = -log_slope
    return tl.where(inside, found, given), tl.where(inside, log_slope, 0.0)


@triton.jit
def _complete(layer, following, weights, unit, begin, end, STRIDE: tl.constexpr):
    """Add the units begin .. end of a layer, now known, to the pre-activations of the following layer."""
    in_row = unit < STRIDE
    for u in range(begin, end):
        value = _rectified(tl.sum(tl.where(unit[None, :] == u, layer, 0.0), axis=1))
        row = tl.load(weights + u * STRIDE + unit, mask=in_row, other=0.0)
        following += value[:, None] * row[None, :]
    return following


@triton.jit
def _add_piece(
    total, hidden, weights, end, TILE: tl.constexpr, COLUMNS: tl.constexpr, SHARES: tl.constexpr,
    PER_SHARE: tl.constexpr, FIRST: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Add what the units FIRST, FIRST + PIECES, ... (TILE, SHARES * PER_SHARE) give, apart by shares, one for each warp."""
    unit = tl.arange(0, SHARES)[:, None, None] * PER_SHARE + tl.arange(0, PER_SHARE)[None, :, None]
    unit = unit * PIECES + FIRST
    mine = tl.load(weights + unit * COLUMNS + tl.arange(0, COLUMNS)[None, None, :], mask=unit < end, other=0.0)
    hidden = tl.permute(tl.reshape(hidden, (TILE, SHARES, PER_SHARE)), (1, 0, 2))
    return tl.dot(hidden, mine, total, input_precision="ieee")


@triton.jit
def _product(
    hidden, weights, end, TILE: tl.constexpr, PADDED_HIDDEN: tl.constexpr, COLUMNS: tl.constexpr, SHARES: tl.constexpr,
    PIECES: tl.constexpr,
):  # fmt: skip
    """Units times weights (TILE, COLUMNS), in pieces that fit into the registers, each unit in the piece of its lowest bits."""
    PER_SHARE: tl.constexpr = PADDED_HIDDEN // PIECES // SHARES
    total = tl.zeros((SHARES, TILE, COLUMNS), tl.float32)
    if PIECES == 1:
        total = _add_piece(total, hidden, weights, end, TILE, COLUMNS, SHARES, PER_SHARE, 0, 1)
    else:
        even, odd = tl.split(tl.reshape(hidden, (TILE, PADDED_HIDDEN // 2, 2)))
        if PIECES == 2:
            total = _add_piece(total, even, weights, end, TILE, COLUMNS, SHARES, PER_SHARE, 0, 2)
            total = _add_piece(total, odd, weights, end, TILE, COLUMNS, SHARES, PER_SHARE, 1, 2)
        else:
            zero, two = tl.split(tl.reshape(even, (TILE, PADDED_HIDDEN // 4, 2)))
            one, three = tl.split(tl.reshape(odd, (TILE, PADDED_HIDDEN // 4, 2)))
            total = _add_piece(total, zero, weights, end, TILE, COLUMNS, SHARES, PER_SHARE, 0, 4)
            total = _add_piece(total, one, weights, end, TILE, COLUMNS, SHARES, PER_SHARE, 1, 4)
            total = _add_piece(total, two, weights, end, TILE, COLUMNS, SHARES, PER_SHARE, 2, 4)
            total = _add_piece(total, three, weights, end, TILE, COLUMNS, SHARES, PER_SHARE, 3, 4)
    return tl.sum(total, axis=0)


@triton.jit(do_not_specialize=["rows"])
def block_kernel(
    given, found, logdet, context, weights, steps, rows, bound, min_width, min_height, min_derivative,
    FEATURES: tl.constexpr, CONTEXT: tl.constexpr, LAYERS: tl.constexpr, STRIDE: tl.constexpr,
    PADDED_HIDDEN: tl.constexpr, BINS: tl.constexpr, PADDED_BINS: tl.constexpr, INVERSE: tl.constexpr,
    TILE: tl.constexpr, SHARES: tl.constexpr, PIECES: tl.constexpr,
):  # fmt: skip
    """Solve one block.

    From ``given`` (D, rows) and ``context`` (C, rows) it finds ``found`` (D, rows), and adds the logarithms of all slopes to
    ``logdet`` (rows,). ``weights`` are those of the block, as :func:`pack` lays them out; ``steps`` are ``ready`` (D + 1,) and
    ``source`` (D,) behind them.
    """
    COLUMNS: tl.constexpr = 4 * PADDED_BINS
    row = tl.program_id(0) * TILE + tl.arange(0, TILE)
    alive = row < rows
    unit = tl.arange(0, PADDED_HIDDEN)
    column = tl.arange(0, COLUMNS)
    in_row = unit < STRIDE

    context_weights = weights + (LAYERS + 1) * STRIDE
    into_first = context_weights + CONTEXT * STRIDE
    into_second = into_first + FEATURES * STRIDE
    into_third = into_second + STRIDE * STRIDE
    out = into_second + (LAYERS - 1) * STRIDE * STRIDE
    out_bias = out + FEATURES * STRIDE * COLUMNS

    first = tl.zeros((TILE, PADDED_HIDDEN), tl.float32) + tl.load(weights + unit, mask=in_row, other=0.0)[None, :]
    if CONTEXT > 0:
        entry = tl.zeros((TILE, PADDED_HIDDEN), tl.float32)
        entry += tl.load(weights + LAYERS * STRIDE + unit, mask=in_row, other=0.0)[None, :]
        for c in range(CONTEXT):
            value = tl.load(context + c * rows + row, mask=alive, other=0.0)
            entry += value[:, None] * tl.load(context_weights + c * STRIDE + unit, mask=in_row, other=0.0)[None, :]
        first += _rectified(entry)
    second, third = first, first
    if LAYERS > 1:
        second = tl.zeros((TILE, PADDED_HIDDEN), tl.float32)
        second += tl.load(weights + STRIDE + unit, mask=in_row, other=0.0)[None, :]
    if LAYERS > 2:
        third = tl.zeros((TILE, PADDED_HIDDEN), tl.float32)
        third += tl.load(weights + 2 * STRIDE + unit, mask=in_row, other=0.0)[None, :]

    total = tl.zeros((TILE,), tl.float32)
    begin = tl.full((), 0, tl.int32)
    for i in range(FEATURES):
        end = tl.load(steps + i)
        place = tl.load(steps + FEATURES + 1 + i)
        value = tl.load(given + place * rows + row, mask=alive, other=0.0)
        bias = tl.load(out_bias + i * COLUMNS + column)

        # Read again rather than kept, so that the layout of the splines is not forced upon the hidden units.
        before = tl.maximum(i - 1, 0)
        known = tl.load(found + before * rows + row, mask=alive & (i > 0), other=0.0)
        first += known[:, None] * tl.load(into_first + before * STRIDE + unit, mask=in_row, other=0.0)[None, :]
        last = first
        if LAYERS > 1:
            second = _complete(first, second, into_second, unit, begin, end, STRIDE)
            last = second
        if LAYERS > 2:
            third = _complete(second, third, into_third, unit, begin, end, STRIDE)
            last = third
        hidden = tl.where(unit[None, :] < end, _rectified(last), 0.0)
        own = out + i * STRIDE * COLUMNS
        raw = bias[None, :] + _product(hidden, own, end, TILE, PADDED_HIDDEN, COLUMNS, SHARES, PIECES)
        result, log_slope = _spline(
            value, raw, bound, min_width, min_height, min_derivative, TILE, BINS, PADDED_BINS, INVERSE
        )
        total += log_slope
        tl.store(found + i * rows + row, result, mask=alive)
        tl.debug_barrier()  # what one thread has written others read
        begin = end
    tl.store(logdet + row, tl.load(logdet + row, mask=alive, other=0.0) + total, mask=alive)


@dataclass(frozen=True)
class BlockShape:
    """Sizes of a flow, from the beginning of its plan (``caloforge.kernels.ops.autoregressive.flow_plan``)."""

    features: int
    context: int
    hidden: int
    layers: int
    blocks: int
    bins: int
    reads_latents: bool

    @classmethod
    def of(cls, plan: Tensor) -> BlockShape:
        """Of a plan."""
        features, context, hidden, layers, blocks, bins, reads_latents = plan[:7].tolist()
        return cls(features, context, hidden, layers, blocks, bins, bool(reads_latents))

    @property
    def stride(self) -> int:
        """Numbers in a row of weights of hidden units."""
        return -(-self.hidden // _ROUND) * _ROUND

    @property
    def padded_bins(self) -> int:
        """Bins in a row of a table of splines."""
        return max(4, int(triton.next_power_of_2(self.bins)))

    def parts(self) -> list[tuple[int, ...]]:
        """Shapes of the weights of a block in the order in which they lie; then come whole numbers, see :func:`pack`."""
        stride, columns = self.stride, 4 * self.padded_bins
        return [
            (self.layers + 1, stride),  # biases, the context's last
            (self.context, stride),
            (self.features, stride),
            (self.layers - 1, stride, stride),
            (self.features, stride, columns),
            (self.features, columns),
        ]

    @property
    def weights(self) -> int:
        """Numbers of the weights of a block."""
        return sum(torch.Size(shape).numel() for shape in self.parts())

    @property
    def block(self) -> int:
        """Numbers of a block, its whole numbers included."""
        return -(-(self.weights + 2 * self.features + 1) // _ROUND) * _ROUND

    @property
    def numbers(self) -> int:
        """Numbers of the packed flow."""
        return self.blocks * self.block + self.features


def covers(plan: Tensor, dtype: torch.dtype) -> bool:
    """Whether the kernel knows a flow of this plan and type of numbers."""
    shape = BlockShape.of(plan)
    return (
        dtype == torch.float32
        and shape.layers <= MOST_LAYERS
        and shape.hidden <= MOST_HIDDEN
        and shape.bins <= MOST_BINS
        and shape.numbers < 2**31
    )


def pack(weights: Sequence[Tensor], plan: Tensor) -> Tensor:
    """All a kernel reads, one block behind the other, float32, where the weights are.

    A row of weights belongs to what is known and holds what it gives to all units, the masked ones zero. A row of ``out``, which
    belongs to a feature and a unit, has the raw widths of all bins, heights, slopes at their left and at their right. Behind the
    weights of a block, and of the whole flow, lie whole numbers: their bits, in int32.
    """
    shape, rest = BlockShape.of(plan), plan[7:].tolist()
    features, hidden, bins = shape.features, shape.hidden, shape.bins
    device, parameters = weights[0].device, 3 * bins - 1
    packed = torch.zeros(shape.numbers, dtype=torch.float32, device=device)
    columns = torch.full((4, shape.padded_bins), parameters)  # what is not there is taken from a row of zeros
    columns[0, :bins], columns[1, :bins] = torch.arange(bins), torch.arange(bins, 2 * bins)
    columns[2, 1:bins] = columns[3, : bins - 1] = torch.arange(2 * bins, parameters)
    chosen = columns.flatten().to(device)
    per_block = 2 * (shape.layers + 1 + (shape.context > 0))
    units = torch.arange(hidden)
    for b in range(shape.blocks):
        ready, source, rest = rest[: features + 1], rest[features + 1 : 2 * features + 1], rest[2 * features + 1 :]
        own, weights = weights[:per_block], weights[per_block:]
        memory = packed[b * shape.block : (b + 1) * shape.block]
        sizes = [torch.Size(part).numel() for part in shape.parts()]
        pieces = torch.split(memory[: shape.weights], sizes)
        biases, context, into, between, out, out_bias = (
            piece.view(part) for piece, part in zip(pieces, shape.parts(), strict=True)
        )
        counts = torch.tensor(ready)
        seen = (counts[None, :] <= units[:, None]).sum(1)  # features that a unit sees
        sees = counts[seen.clamp(max=features)]  # units of the layer before it that it sees
        biases[: shape.layers, :hidden] = torch.stack(list(own[1 : 2 * shape.layers : 2]))
        if shape.context:
            biases[shape.layers, :hidden] = own[2 * shape.layers + 1]
            context[:, :hidden] = own[2 * shape.layers].t()
        into[:, :hidden] = (own[0] * (torch.arange(features) < seen[:, None]).to(device)).t()
        for k in range(1, shape.layers):
            between[k - 1, :hidden, :hidden] = (own[2 * k] * (units < sees[:, None]).to(device)).t()
        raw = own[-2].view(features, parameters, hidden) * (units < counts[:features, None, None]).to(device)
        out[:, :hidden] = torch.nn.functional.pad(raw, (0, 0, 0, 1))[:, chosen].transpose(1, 2)
        out_bias[:] = torch.nn.functional.pad(own[-1].view(features, parameters), (0, 1))[:, chosen]
        _write(memory[shape.weights :], [*ready, *source])
    _write(packed[shape.blocks * shape.block :], rest)
    return packed


def _write(memory: Tensor, numbers: Sequence[int]) -> None:
    memory.view(torch.int32)[: len(numbers)] = torch.tensor(numbers, dtype=torch.int32).to(memory.device)


def launch(shape: BlockShape) -> tuple[int, int]:
    """Showers in a tile, and warps that share it."""
    return 16, 4 if shape.hidden <= 128 else 8 if shape.hidden <= 512 else 16


def block_arguments(shape: BlockShape, tile: int, warps: int) -> dict[str, Any]:
    """What a kernel is compiled for."""
    padded = triton.next_power_of_2(shape.stride)
    return {
        "FEATURES": shape.features, "CONTEXT": shape.context, "LAYERS": shape.layers, "STRIDE": shape.stride,
        "PADDED_HIDDEN": padded, "BINS": shape.bins, "PADDED_BINS": shape.padded_bins,
        "INVERSE": not shape.reads_latents, "TILE": tile,
        "SHARES": min(warps, padded // 16), "PIECES": min(4, max(1, padded // (16 * warps))),
    }  # fmt: skip


def solve(packed: Tensor, plan: Tensor, z: Tensor, context: Tensor | None, *spline: float) -> tuple[Tensor, Tensor]:
    """As ``caloforge.kernels.ops.autoregressive.solve_autoregressive``.

    Raises:
        ValueError: if the packed weights are not those of the plan.
    """
    shape = BlockShape.of(plan)
    if packed.numel() != shape.numbers or packed.dtype != torch.float32:
        raise ValueError("the packed weights do not fit their plan: they were packed by another kernel")
    most = (2**31 - 1) // max(shape.features, shape.context)  # so that places fit into 32 bits
    parts = [
        _solve(packed, shape, z[k : k + most], None if context is None else context[k : k + most], spline)
        for k in range(0, max(len(z), 1), most)
    ]
    return parts[0] if len(parts) == 1 else (torch.cat([x for x, _ in parts]), torch.cat([d for _, d in parts]))


def _solve(
    packed: Tensor, shape: BlockShape, z: Tensor, context: Tensor | None, spline: tuple[float, ...]
) -> tuple[Tensor, Tensor]:
    rows, (tile, warps) = len(z), launch(shape)
    logdet = torch.zeros(rows, dtype=torch.float32, device=z.device)
    values = z.to(torch.float32).t().contiguous()
    conditions = values if context is None else context.to(torch.float32).t().contiguous()
    for b in range(shape.blocks if rows else 0):
        memory = packed[b * shape.block : (b + 1) * shape.block]
        found = torch.empty_like(values)
        with torch.cuda.device_of(values):  # where Triton launches; nothing on a CPU
            block_kernel[(triton.cdiv(rows, tile),)](
                values, found, logdet, conditions, memory, memory[shape.weights :].view(torch.int32), rows, *spline,
                **block_arguments(shape, tile, warps), num_warps=warps, num_stages=STAGES,
            )  # fmt: skip
        values = found
    last = packed[shape.blocks * shape.block :].view(torch.int32)
    return values.index_select(0, last).t().contiguous(), logdet
