"""The slow direction of autoregressive flows, exactly and without recomputation.

A MADE block is inverted feature by feature. With hidden units sorted by degree, the units that see only the first i
features are the first ``ready[i]`` ones, in every hidden layer. When feature i becomes known, exactly the units
``ready[i] .. ready[i + 1]`` become computable, once and for all; the spline parameters of the next feature need nothing
else. All steps together do the arithmetic of one masked pass instead of D of them.

An inverse autoregressive flow is slow in the other direction, from data to latent, and solved by the same means: only
the order of the blocks and the direction of the splines differ.

In plain PyTorch features are taken in groups: what a group needs from features and hidden units known before it is one
dense product per layer, and inside the group remains a small triangle, walked step by step. The compiled kernels do
likewise, with weights packed in the order in which they are read, without the masked corner. On a GPU a kernel solves a block in
one launch (``caloforge.kernels.gpu.inverse``), or the plain operations are replayed (``caloforge.kernels.gpu.graphs``).
"""

from __future__ import annotations

import ctypes
import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.errors import CaloForgeWarning
from caloforge.kernels.gpu.choice import choose_gpu_kernels
from caloforge.kernels.gpu.graphs import Graphs
from caloforge.kernels.ops.packing import addresses_of, new_memory, pack_plainly, plain_weights
from caloforge.kernels.ops.registry import SUFFIXES, check_status, gpu_kernels, operator
from caloforge.kernels.ops.splines import rqs

__all__ = [
    "BlockWeights",
    "FlowSizes",
    "flow_plan",
    "pack_autoregressive",
    "ready_units",
    "solve_autoregressive",
    "solve_blocks",
]

#: Features per group: long enough for efficient products, short enough that the triangle inside stays small.
_GROUP = 16
#: Rows per tile on a CPU, so that the activations of a tile stay in its cache; an accelerator takes all rows at once.
_CPU_ROWS = 2048

Linear = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class FlowSizes:
    """Sizes of a flow whose blocks are alike.

    Attributes:
        features: number of features D.
        context: number of context values C; 0 for none.
        hidden: units per hidden layer H.
        layers: masked layers into hidden units, the input layer included.
        bins: spline bins K.
        reads_latents: whether conditioners read the latent side of their splines.
    """

    features: int
    context: int
    hidden: int
    layers: int
    bins: int
    reads_latents: bool


@dataclass(frozen=True)
class BlockWeights:
    """A block as it is solved.

    Attributes:
        ready: number of hidden units that need only the first i features, for i = 0 .. D.
        source: which of the incoming values is feature i, int64 (D,); None if the order stays.
        layers: weights and biases of the masked layers into hidden units.
        context: those of the layer that reads the context; None without one.
        out: those of the layer that gives the raw spline parameters.
    """

    ready: Sequence[int]
    source: Tensor | None
    layers: Sequence[Linear]
    context: Linear | None
    out: Linear

    def tensors(self) -> list[Tensor]:
        """All weights and biases in the order in which they are packed."""
        parts = [*self.layers, *([] if self.context is None else [self.context]), self.out]
        return [tensor for part in parts for tensor in part]


def ready_units(degrees: Tensor, features: int) -> list[int]:
    """Number of hidden units that need only the first i features, for i = 0 .. features.

    Args:
        degrees: sorted degrees of the hidden units (H,).
        features: number of features D.
    """
    counts: list[int] = torch.searchsorted(degrees.cpu(), torch.arange(features + 1), right=True).tolist()
    return counts


def flow_plan(sizes: FlowSizes, blocks: Sequence[BlockWeights], last: Tensor | None) -> Tensor:
    """What a packed flow looks like, int64, in CPU memory.

    Args:
        sizes: of the flow.
        blocks: in the order in which they are solved.
        last: which of the values that come out of the last block is output i, (D,); None if the order stays.
    """
    same = list(range(sizes.features))
    plan = [
        sizes.features,
        sizes.context,
        sizes.hidden,
        sizes.layers,
        len(blocks),
        sizes.bins,
        int(sizes.reads_latents),
    ]
    for block in blocks:
        plan += [*block.ready, *(same if block.source is None else block.source.tolist())]
    return torch.tensor(plan + (same if last is None else last.tolist()), dtype=torch.int64)


def pack_autoregressive(blocks: Sequence[BlockWeights], plan: Tensor, *, single: bool) -> Tensor:
    """The weights of a flow as one tensor for :func:`solve_autoregressive`.

    Args:
        blocks: in the order in which they are solved.
        plan: from :func:`flow_plan`.
        single: for one shower at a time instead of many side by side.
    """
    packed: Tensor = _pack([tensor.detach() for block in blocks for tensor in block.tensors()], plan, single)
    return packed


def solve_autoregressive(
    packed: Tensor, plan: Tensor, z: Tensor, context: Tensor | None, spline: tuple[float, ...], *, single: bool
) -> tuple[Tensor, Tensor]:
    """Evaluate a packed flow in its slow direction, without gradients.

    Args:
        packed: from :func:`pack_autoregressive`.
        plan: from :func:`flow_plan`.
        z: what is given, (N, D), of the weights' type: latents, or data for a flow that reads latents.
        context: conditions (N, C), or None.
        spline: bound, smallest relative bin width and height, smallest derivative.
        single: as when packing.

    Returns:
        What was looked for, (N, D), and log |det| of this direction, (N,), nats.
    """
    x, logdet = _solve(packed, plan, z.detach(), None if context is None else context.detach(), single, *spline)
    return x, logdet


# ---- plain PyTorch --------------------------------------------------------------------------------------------------


@torch.no_grad()
def solve_blocks(
    blocks: Sequence[BlockWeights],
    last: Tensor | None,
    z: Tensor,
    context: Tensor | None,
    spline: tuple[float, ...],
    *,
    inverse: bool,
) -> tuple[Tensor, Tensor]:
    """As :func:`solve_autoregressive`, from weights that are not packed, in plain PyTorch: any device, any type of numbers.

    Args:
        blocks: in the order in which they are solved.
        last: which of the values that come out of the last block is output i, (D,); None if the order stays.
        z: what is given, (N, D).
        context: conditions (N, C), or None.
        spline: bound, smallest relative bin width and height, smallest derivative.
        inverse: whether the splines are applied from latents to data.
    """
    step = max(1, z.shape[0]) if z.device.type != "cpu" else _CPU_ROWS
    if z.shape[0] > step:
        parts = [
            solve_blocks(
                blocks,
                last,
                z[k : k + step],
                None if context is None else context[k : k + step],
                spline,
                inverse=inverse,
            )
            for k in range(0, z.shape[0], step)
        ]
        return torch.cat([x for x, _ in parts]), torch.cat([logdet for _, logdet in parts])
    logdet = z.new_zeros(z.shape[0])
    for block in blocks:
        if block.source is not None:
            z = z.index_select(1, block.source.to(z.device))
        z, contribution = _solve_block(block, z, context, spline, inverse=inverse)
        logdet = logdet + contribution
    return z if last is None else z.index_select(1, last.to(z.device)), logdet


def _solve_block(
    block: BlockWeights, z: Tensor, context: Tensor | None, spline: tuple[float, ...], *, inverse: bool
) -> tuple[Tensor, Tensor]:
    bound, *minima = spline
    least = dict(zip(("min_bin_width", "min_bin_height", "min_derivative"), minima, strict=True))
    count, ready = z.shape[1], block.ready
    out_weight, out_bias = block.out
    hidden, per_feature = out_weight.shape[1], len(out_bias) // count
    x = torch.zeros_like(z)
    logdet = z.new_zeros(z.shape[0])
    # sources[l] feeds layer l; sources[-1] feeds the output layer. Everything not yet known is zero.
    sources = [x, *(z.new_zeros(z.shape[0], hidden) for _ in block.layers)]
    deeper = len(block.layers) - 1
    entry = None
    if block.context is not None and context is not None:
        entry = nn.functional.relu(nn.functional.linear(context, *block.context))

    def complete(first: int, end: int, base: list[Tensor], offset: int, known: list[int], seen: list[int]) -> None:
        """Finish units first .. end of every layer: what the group start gave, plus the part inside the group."""
        for k, (layer_weight, _) in enumerate(block.layers):
            weight = layer_weight[first:end, known[k] : seen[k]]
            values = base[k][:, first - offset : end - offset] + sources[k][:, known[k] : seen[k]] @ weight.t()
            sources[k + 1][:, first:end] = nn.functional.relu(values)

    for start in range(0, count, _GROUP):
        stop = min(start + _GROUP, count)
        begin, end = (ready[start] if start else 0), ready[stop]
        known = [start, *([begin] * deeper)]
        base = [
            torch.addmm(bias[begin:end], sources[k][:, : known[k]], weight[begin:end, : known[k]].t())
            for k, (weight, bias) in enumerate(block.layers)
        ]
        if entry is not None:
            base[0] += entry[:, begin:end]
        if begin < ready[start]:  # units that see the context alone, complete from the beginning
            complete(begin, ready[start], base, begin, known, [start, *([ready[start]] * deeper)])
        raw_rows = slice(start * per_feature, stop * per_feature)
        raw = torch.addmm(out_bias[raw_rows], sources[-1][:, :begin], out_weight[raw_rows, :begin].t())
        raw = raw.view(-1, stop - start, per_feature)
        for i in range(start, stop):
            own = slice(i * per_feature, (i + 1) * per_feature)
            parameters = raw[:, i - start] + sources[-1][:, begin : ready[i]] @ out_weight[own, begin : ready[i]].t()
            value, logabsdet = rqs(z[:, i], parameters, bound=bound, inverse=inverse, **least)
            x[:, i] = value
            logdet += logabsdet
            if ready[i + 1] > ready[i]:
                seen = [i + 1, *([ready[i + 1]] * deeper)]
                complete(ready[i], ready[i + 1], base, begin, known, seen)
    return x, logdet


def _plain_pack(weights: Sequence[Tensor], plan: Tensor, single: bool) -> Tensor:
    return pack_plainly(weights)


def _plain_solve(
    packed: Tensor, plan: Tensor, z: Tensor, context: Tensor | None, single: bool, *spline: float
) -> tuple[Tensor, Tensor]:
    blocks, last, reads_latents = _unpack(packed, plan)
    return solve_blocks(blocks, last, z, context, spline, inverse=not reads_latents)


def _unpack(packed: Tensor, plan: Tensor) -> tuple[list[BlockWeights], Tensor, bool]:
    """What :func:`solve_blocks` takes, in the memory in which the weights were packed plainly."""
    features, given, hidden, layers, blocks, bins, reads_latents, *rest = plan.tolist()
    own = features * (3 * bins - 1)
    shapes = [(hidden, features), (hidden,), *([(hidden, hidden), (hidden,)] * (layers - 1))]
    shapes += [(hidden, given), (hidden,)] if given else []
    shapes += [(own, hidden), (own,)]
    weights = plain_weights(packed, shapes * blocks)
    packs = []
    for _ in range(blocks):
        ready, source, rest = rest[: features + 1], rest[features + 1 : 2 * features + 1], rest[2 * features + 1 :]
        tensors, weights = weights[: len(shapes)], weights[len(shapes) :]
        pairs = list(zip(tensors[::2], tensors[1::2], strict=True))
        order = torch.tensor(source, device=packed.device)
        packs.append(BlockWeights(ready, order, pairs[:layers], pairs[layers] if given else None, pairs[-1]))
    return packs, torch.tensor(rest, device=packed.device), bool(reads_latents)


# ---- compiled -------------------------------------------------------------------------------------------------------


def _compiled_pack(library: ctypes.CDLL, weights: Sequence[Tensor], plan: Tensor, single: bool) -> Any:
    dtype = weights[0].dtype
    if dtype not in SUFFIXES:
        return NotImplemented
    suffix, weights = SUFFIXES[dtype], [weight.contiguous() for weight in weights]
    numbers = getattr(library, f"caloforge_autoregressive_numbers_{suffix}")(plan.data_ptr(), single)
    if not numbers:
        return NotImplemented
    packed = new_memory(library, numbers, dtype)
    work = getattr(library, f"caloforge_autoregressive_pack_{suffix}")
    work(plan.data_ptr(), single, addresses_of(weights), packed.data_ptr())
    return packed


def _compiled_solve(
    library: ctypes.CDLL, packed: Tensor, plan: Tensor, z: Tensor, context: Tensor | None, single: bool, *spline: float
) -> Any:
    if packed.dtype not in SUFFIXES:
        return NotImplemented
    z = z.to(packed.dtype).contiguous()
    conditions = z[:, :0] if context is None else context.to(packed.dtype).contiguous()
    x, logdet = torch.empty_like(z), z.new_empty(len(z))
    work = getattr(library, f"caloforge_autoregressive_solve_{SUFFIXES[packed.dtype]}")
    status = work(
        plan.data_ptr(), single, *spline, packed.numel(), packed.data_ptr(), len(z), z.data_ptr(), conditions.data_ptr(),
        x.data_ptr(), logdet.data_ptr(), torch.get_num_threads(),
    )  # fmt: skip
    return (x, logdet) if check_status(status) else NotImplemented


# ---- on a GPU -------------------------------------------------------------------------------------------------------

_graphs = Graphs()
#: What of the plans (their sizes) the Triton kernel has proven here: True, or False if it is not to be used.
_proven: dict[tuple[int, ...], bool] = {}
#: Values that may differ by more than this from the plain twin, and how many of them: flat bins magnify rounding.
_TOLERANCE, _OUTSIDE = 2e-3, 0.02


def _gpu_kind(plan: Tensor, dtype: torch.dtype) -> str:
    """What solves a flow of this plan on a GPU."""
    kind = gpu_kernels()
    if kind != "triton":
        return kind
    from caloforge.kernels.gpu import inverse

    return "triton" if inverse.covers(plan, dtype) and _proven.get(_sizes(plan), True) else "plain"


def _sizes(plan: Tensor) -> tuple[int, ...]:
    return tuple(plan[:7].tolist())


def _gpu_pack(weights: Sequence[Tensor], plan: Tensor, single: bool) -> Any:
    if _gpu_kind(plan, weights[0].dtype) != "triton":
        return NotImplemented
    from caloforge.kernels.gpu import inverse

    packed = inverse.pack(weights, plan)
    if _sizes(plan) not in _proven:
        _proven[_sizes(plan)] = _prove(packed, weights, plan)
    return packed if _proven[_sizes(plan)] else NotImplemented


def _prove(packed: Tensor, weights: Sequence[Tensor], plan: Tensor) -> bool:
    """Solve a few rows by the Triton kernel and by its plain twin, once for each kind of flow in a process.

    The kernel is compiled where it runs, for a GPU and by a compiler that nobody has tried; so it is asked for a proof before its
    results are used.
    """
    from caloforge.kernels.gpu import inverse

    features, given = plan[:2].tolist()
    numbers = torch.Generator().manual_seed(0)
    z = (2 * torch.randn(20, features, generator=numbers)).to(packed.device)
    context = torch.randn(20, given, generator=numbers).to(packed.device) if given else None
    spline = 5.0, 1e-6, 1e-6, 1e-6
    try:
        found, logdet = inverse.solve(packed, plan, z, context, *spline)
        expected, _ = _plain_solve(pack_plainly(weights), plan, z, context, False, *spline)
        outside = ((found - expected).abs() > _TOLERANCE).double().mean().item()
        if outside <= _OUTSIDE and torch.isfinite(logdet).all():
            return True
        reason = (
            f"{100 * outside:.1f} % of what it found for a few rows differ from plain PyTorch by more than {_TOLERANCE}"
        )
    except Exception as error:  # whatever a compiler or a driver may say
        if choose_gpu_kernels().demanded:
            raise
        reason = f"{type(error).__name__}: {' '.join(str(error).split())[:200]}"
    if choose_gpu_kernels().demanded:
        raise RuntimeError(f"the Triton kernel was asked for and fails: {reason}")
    warnings.warn(
        f"the Triton kernel does not serve here ({reason}), so the exact inverse is done in plain PyTorch, whose many small "
        "launches take far longer; CALOFORGE_GPU_KERNELS=graphs may help",
        CaloForgeWarning,
        stacklevel=2,
    )
    return False


def _gpu_solve(packed: Tensor, plan: Tensor, z: Tensor, context: Tensor | None, single: bool, *spline: float) -> Any:
    kind = _gpu_kind(plan, packed.dtype)
    if kind == "triton":
        from caloforge.kernels.gpu import inverse

        return inverse.solve(packed, plan, z, context, *spline)
    if kind != "graphs":
        return NotImplemented

    def make() -> Any:
        blocks, last, reads_latents = _unpack(packed, plan)
        return lambda own, conditions: solve_blocks(blocks, last, own, conditions, spline, inverse=not reads_latents)

    return _graphs.solve(packed, spline, make, z, context)


_pack = operator(
    "autoregressive_pack(Tensor[] weights, Tensor plan, bool single) -> Tensor", _plain_pack, _compiled_pack, _gpu_pack
)
_solve = operator(
    "autoregressive_solve(Tensor packed, Tensor plan, Tensor z, Tensor? context, bool single, float bound, "
    "float min_bin_width, float min_bin_height, float min_derivative) -> (Tensor, Tensor)",
    _plain_solve,
    _compiled_solve,
    _gpu_solve,
)
