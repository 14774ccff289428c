"""Speed of exact autoregressive sampling: milliseconds per shower against nflows and Geant4, in one run.

Every row (batch size, threads) is measured in a process of its own, so that its peak memory is its own.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from torch import Tensor

from caloforge.bench.machine import PeakMemory, describe_machine, in_process, matrix_rate, time_calls
from caloforge.bench.models import named_model
from caloforge.bench.nflows_peer import build_peer, invert_peer, need_nflows, one_pass
from caloforge.detectors import load_detector
from caloforge.errors import UsageError
from caloforge.nn import MaskedAutoregressiveFlow
from caloforge.nn.permutations import alternating_within_layers
from caloforge.random import Streams
from caloforge.zoo.caloflow import CaloFlow

__all__ = ["SamplingRow", "bench_sampling", "flow_of", "geant4_milliseconds", "multiply_adds", "published_flow"]

MaskKind = Literal["published", "even"]
Say = Callable[[str], None]

#: Showers whose result is compared with the peer's; the peer needs D x blocks passes for any number of them.
_COMPARED = 2


@dataclass(frozen=True)
class SamplingRow:
    """One measurement.

    Attributes:
        masks: kind of the flow's masks.
        batch: showers in a batch.
        threads: CPU threads.
        ms_per_shower: median over batches, divided by the batch size.
        ms_lowest: fastest batch, likewise.
        ms_highest: slowest batch, likewise.
        warm_up_ms: first batch, whole, with preparing the weights.
        repeats: number of batches.
        nflows_ms_per_shower: estimate from timed passes; None if not measured.
        ratio_nflows: nflows over ours; None if not measured.
        max_abs_diff: largest difference of the first showers from nflows (published masks) or from our own D-pass
            reference (even masks).
        ratio_geant4: Geant4 over ours; None if not measured.
        peak_memory_mb: what the process needed at most beyond what it had before the first batch, MB.
        matrix_rate_gflops: measured rate of large float32 matrix products with as many threads.
        fraction_of_matrix_rate: multiply-adds of the masked flow, as operations per second, over that rate.
    """

    masks: MaskKind
    batch: int
    threads: int
    ms_per_shower: float
    ms_lowest: float
    ms_highest: float
    warm_up_ms: float
    repeats: int
    nflows_ms_per_shower: float | None
    ratio_nflows: float | None
    max_abs_diff: float
    ratio_geant4: float | None
    peak_memory_mb: float
    matrix_rate_gflops: float
    fraction_of_matrix_rate: float


def published_flow(masks: MaskKind = "published", seed: int = 0) -> MaskedAutoregressiveFlow:
    """CaloFlow's Flow II at its published size (arXiv:2106.05285, table 2) with random weights."""
    torch.manual_seed(seed)
    sizes = load_detector("calogan").readout.layer_sizes
    return MaskedAutoregressiveFlow(
        features=sum(sizes),
        context_features=4,
        blocks=8,
        hidden_features=378,
        hidden_layers=1,
        masks=masks,
        permutations=alternating_within_layers(sizes, 8, seed=seed),
    ).eval()


def flow_of(model: str | Path) -> MaskedAutoregressiveFlow:
    """The shower flow of a CaloFlow, the only kind of model whose time is that of one exact autoregressive inverse.

    Args:
        model: preset (random weights), directory of a trained model, or name of one that ships with the package.

    Raises:
        UsageError: if it is of another kind.
    """
    found = named_model(model)
    flow = found.shapes if isinstance(found, CaloFlow) else None
    if not isinstance(flow, MaskedAutoregressiveFlow):
        raise UsageError(f"'{model}' does not sample by one exact autoregressive inverse, so there is no flow to time")
    return flow


def multiply_adds(flow: MaskedAutoregressiveFlow) -> int:
    """Multiply-adds that one shower cannot do without: the non-zero entries of all masks, and the context's."""
    total = 0
    for block, _ in flow.chain():
        masks = [mask for name, mask in block.conditioner.named_buffers() if name.endswith("mask")]
        total += sum(int(mask.count_nonzero()) for mask in masks)
        if block.conditioner.context_layer is not None:
            total += block.conditioner.context_layer.weight.numel()
    return total


def bench_sampling(
    *,
    model: str | Path | None = None,
    batches: Sequence[int] = (1, 100, 10_000),
    threads: Sequence[int] = (1, 2),
    device: str = "cpu",
    against_nflows: bool = False,
    nflows_passes: int = 20,
    geant4_showers: int = 10,
    seconds: float = 2.0,
    say: Say = print,
) -> dict[str, Any]:
    """Measure sampling.

    Args:
        model: a CaloFlow, see :func:`flow_of`; None takes the published Flow II with random weights, with both kinds of masks.
        batches: batch sizes.
        threads: CPU threads.
        device: ``cpu`` or a CUDA device.
        against_nflows: time nflows with the same weights, where its masks allow it.
        nflows_passes: how many of nflows's identical passes are timed (and multiplied by their number).
        geant4_showers: Geant4 showers to time for the same energies; 0 for none.
        seconds: how long each row is repeated.
        say: where progress goes.

    Returns:
        JSON values: ``rows`` (one for each batch size and thread count; published masks, or the model's own),
        ``rows_even_masks`` (without a model), ``machine``, ``multiply_adds``, ``geant4_ms_per_shower``, ``notes``.

    Raises:
        MissingDependencyError: if nflows is asked for and not installed.
    """
    if against_nflows:
        need_nflows()
    geant4 = geant4_milliseconds(geant4_showers, say) if geant4_showers else None
    flows: dict[str, MaskedAutoregressiveFlow]
    if model is None:
        flows = {"rows": published_flow("published"), "rows_even_masks": published_flow("even")}
    else:
        flows = {"rows": flow_of(model)}
    result: dict[str, Any] = {
        "machine": describe_machine(device),
        "geant4_ms_per_shower": geant4,
        "multiply_adds": {name: multiply_adds(flow) for name, flow in flows.items()},
        "notes": [f"nflows is timed over {nflows_passes} of its identical passes, multiplied by their number"]
        if against_nflows
        else [],
    }
    for name, flow in flows.items():
        masks: MaskKind = flow.blocks[0].conditioner.masks  # type: ignore[assignment,union-attr]
        peer_x = _peer_samples(flow, masks, against_nflows, say)
        rows = []
        for count in threads:
            for batch in batches:
                say(f"{masks} masks, batch {batch}, {count} thread(s)")
                row = _measure(
                    flow, masks, batch, count, device, seconds, peer_x, geant4, against_nflows * nflows_passes
                )
                ratio = "" if row.ratio_nflows is None else f", {row.ratio_nflows:.0f}x nflows"
                say(f"    {row.ms_per_shower:.4g} ms per shower{ratio}")
                rows.append(row)
        result[name] = [asdict(row) for row in rows]
    return result


def _latents(flow: MaskedAutoregressiveFlow, batch: int) -> tuple[Tensor, Tensor | None]:
    z = Streams(0, "bench").normal(torch.arange(batch).numpy(), flow.features + flow.context_features)
    both = torch.from_numpy(z)
    return both[:, : flow.features].contiguous(), both[
        :, flow.features :
    ].contiguous() if flow.context_features else None


def _peer_samples(flow: MaskedAutoregressiveFlow, masks: MaskKind, against_nflows: bool, say: Say) -> Tensor:
    """The first showers as nflows makes them, or our own D-pass reference where it cannot."""
    z, context = _latents(flow, _COMPARED)
    if masks == "published" and against_nflows:
        say(f"nflows inverts {_COMPARED} showers in full, for comparison")
        return invert_peer(build_peer(flow), z, context)
    say(f"D full passes for {_COMPARED} showers, for comparison")
    with torch.no_grad():
        return flow.inverse_reference(z, context)[0]


def _measure(
    flow: MaskedAutoregressiveFlow,
    masks: MaskKind,
    batch: int,
    threads: int,
    device: str,
    seconds: float,
    peer_x: Tensor,
    geant4: float | None,
    nflows_passes: int,
) -> SamplingRow:
    ours = in_process(_ours, flow, batch, threads, device, seconds)
    nflows: float | None = None
    if nflows_passes and masks == "published":
        nflows = in_process(_nflows, flow, batch, threads, device, nflows_passes)
    per_shower = 1000 / batch
    timing = ours["timing"]
    first: Tensor = torch.as_tensor(ours["x"])
    count = min(_COMPARED, len(first))
    operations = 2e-9 * multiply_adds(flow) * batch / timing.median
    return SamplingRow(
        masks=masks,
        batch=batch,
        threads=threads,
        ms_per_shower=timing.median * per_shower,
        ms_lowest=timing.lowest * per_shower,
        ms_highest=timing.highest * per_shower,
        warm_up_ms=1000 * timing.warm_up,
        repeats=timing.calls,
        nflows_ms_per_shower=nflows,
        ratio_nflows=None if nflows is None else nflows / (timing.median * per_shower),
        max_abs_diff=float((first[:count] - peer_x[:count]).abs().max()),
        ratio_geant4=None if geant4 is None else geant4 / (timing.median * per_shower),
        peak_memory_mb=ours["memory"],
        matrix_rate_gflops=ours["rate"],
        fraction_of_matrix_rate=operations / ours["rate"],
    )


def _ours(flow: MaskedAutoregressiveFlow, batch: int, threads: int, device: str, seconds: float) -> dict[str, Any]:
    rate = matrix_rate(threads, device)
    flow = flow.to(device)
    z, context = _latents(flow, batch)
    z, context = z.to(device), None if context is None else context.to(device)
    peak = PeakMemory()
    if device.startswith("cuda"):
        torch.cuda.reset_peak_memory_stats(device)
    with torch.no_grad():
        timing = time_calls(lambda: flow.inverse(z, context), seconds=seconds, device=device)
        x = flow.inverse(z, context)[0][:_COMPARED].cpu()
    memory = torch.cuda.max_memory_allocated(device) / 2**20 if device.startswith("cuda") else peak.megabytes()
    rate = max(rate, matrix_rate(threads, device))  # other work on the machine can only make it look slower
    return {"timing": timing, "x": x.numpy(), "rate": rate, "memory": memory}


def _nflows(flow: MaskedAutoregressiveFlow, batch: int, threads: int, device: str, passes: int) -> float:
    """Milliseconds per shower of nflows's inverse, from some of its passes."""
    torch.set_num_threads(threads)
    peer = build_peer(flow).to(device)
    z, context = _latents(flow, batch)
    z, context = z.to(device), None if context is None else context.to(device)
    timing = time_calls(lambda: one_pass(peer, z, context), seconds=0.0, least=passes, most=passes, device=device)
    return 1000 * timing.median * flow.features * len(flow.blocks) / batch


def geant4_milliseconds(showers: int, say: Say = print) -> float:
    """Milliseconds of one Geant4 process per photon of 1-100 GeV in the CaloGAN calorimeter, start-up apart."""
    from caloforge.simulation import simulate

    say(f"Geant4: {showers} photons of 1-100 GeV on one core")
    with simulate(load_detector("calogan"), "gamma", "1:100", showers, seed=1, jobs=1) as production:
        start = time.perf_counter()
        made = sum(len(block.showers) for block in production)
        return 1000 * (time.perf_counter() - start) / made
