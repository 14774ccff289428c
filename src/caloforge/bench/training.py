"""How fast training is: the whole loop, the flow alone, and the same flow in nflows 0.14, taking turns in one run.

The peer is given its easiest form: inputs that are preprocessed already, no data to load, no noise to draw, nothing to
log, nothing to check. Our whole loop does all of that, so the quotient of the two is a lower bound.
"""

from __future__ import annotations

import copy
import math
import statistics
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.bench.models import in_float32
from caloforge.errors import MissingDependencyError, UsageError
from caloforge.models import load_preset
from caloforge.nn import MaskedAutoregressiveFlow
from caloforge.nn.nflows_weights import load_nflows_state, nflows_state
from caloforge.random import Streams
from caloforge.showers import open_showers
from caloforge.stage import GradientStage, StageTraining, TrainingBatch
from caloforge.training.data import FirstShowers, RowOrder, ShowerSource, TrainingSet
from caloforge.training.interruption import Interruption
from caloforge.training.loop import Run, train_stage
from caloforge.training.memory import memory_kept
from caloforge.training.optimisers import make_optimiser
from caloforge.training.processes import Processes

__all__ = ["Agreement", "StepTime", "TrainingSpeed", "compare_with_nflows", "measure_training", "nflows_twin"]


@dataclass(frozen=True)
class StepTime:
    """Time of one training step, medians over all steps, milliseconds.

    Attributes:
        name: what was measured.
        step: the whole step.
        forward: loss.
        backward: gradients.
        optimiser: the optimiser.
        rest: whatever else there is (data, noise, preprocessing, bookkeeping).
        steps: how many steps were measured.
        showers_per_second: throughput.
    """

    name: str
    step: float
    forward: float
    backward: float
    optimiser: float
    rest: float
    steps: int
    showers_per_second: float


@dataclass(frozen=True)
class Agreement:
    """How far two implementations of a flow with equal weights are apart, relative.

    Attributes:
        loss: of the mean negative log-likelihood.
        gradient: norm of the difference of the whole gradient over its norm.
        worst_tensor: the same for the weight tensor for which it is largest.
    """

    loss: float
    gradient: float
    worst_tensor: float


@dataclass(frozen=True)
class TrainingSpeed:
    """What a call of ``measure_training`` found.

    Attributes:
        preset: name of the preset.
        batch_size: rows of a step.
        threads: CPU threads.
        device: where it ran.
        parameters: number of parameters of the flow.
        torch: version.
        times: one entry for each thing measured: ``loop`` (all that training does), ``flow`` (the flow with its optimiser
            alone), ``flow bfloat16``, and ``nflows``.
        agreement: of our flow and the peer's with random weights; None without the peer.
        agreement_at_start: likewise with the weights from which training starts, whose steep splines let gradients depend on
            the last digits of float32.
        agreement_float64: likewise in float64.
        rounding: how far gradients in float32 are from those in float64 at the start, ours and the peer's.
    """

    preset: str
    batch_size: int
    threads: int
    device: str
    parameters: int
    torch: str
    times: dict[str, StepTime]
    agreement: Agreement | None
    agreement_at_start: Agreement | None
    agreement_float64: Agreement | None
    rounding: tuple[float, float] | None

    @property
    def speedup(self) -> float | None:
        """Time of the peer's bare step over that of our whole loop; None without the peer."""
        if "nflows" not in self.times:
            return None
        return self.times["nflows"].step / self.times["loop"].step


def nflows_twin(flow: MaskedAutoregressiveFlow) -> nn.Module:
    """The same flow in nflows, with the same weights.

    Args:
        flow: with published masks.

    Raises:
        MissingDependencyError: if nflows is not installed.
        ConfigError: if the masks are not the published ones.
    """
    try:
        from nflows.distributions import StandardNormal
        from nflows.flows import Flow
        from nflows.transforms import CompositeTransform, Permutation
        from nflows.transforms.autoregressive import MaskedPiecewiseRationalQuadraticAutoregressiveTransform
    except ImportError:
        raise MissingDependencyError("nflows is not installed; get it with: pip install nflows==0.14") from None
    parts: list[nn.Module] = []
    for k, block in enumerate(flow.blocks):
        conditioner: Any = block.conditioner
        parts.append(
            MaskedPiecewiseRationalQuadraticAutoregressiveTransform(
                flow.features,
                conditioner.hidden_features,
                context_features=flow.context_features or None,
                num_blocks=len(conditioner.hidden),
                use_residual_blocks=False,
                dropout_probability=conditioner.dropout,
                num_bins=block.bins,
                tails="linear",
                tail_bound=block.bound,
                min_bin_width=block.min_bin_width,
                min_bin_height=block.min_bin_height,
                min_derivative=block.min_derivative,
            )
        )
        if k < len(flow.permutations):
            index: Any = flow.permutations[k].index
            parts.append(Permutation(index.cpu()))
    twin: nn.Module = Flow(CompositeTransform(parts), StandardNormal([flow.features]))
    twin.load_state_dict(nflows_state(flow), strict=False)
    parameter = next(flow.parameters())
    return twin.to(parameter.device, parameter.dtype)


def compare_with_nflows(flow: MaskedAutoregressiveFlow, x: Tensor, context: Tensor) -> Agreement:
    """Losses and gradients of our flow and the peer's for equal weights, dropout off.

    Args:
        flow: with published masks.
        x: data (batch, D).
        context: conditions (batch, C).
    """
    return _agreement(_own_gradients(flow, x, context), _peer_gradients(flow, x, context))


def _own_gradients(flow: MaskedAutoregressiveFlow, x: Tensor, context: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    copied = copy.deepcopy(flow).eval()
    copied.zero_grad(set_to_none=True)
    loss = -copied.log_prob(x, context).mean()
    loss.backward()  # type: ignore[no-untyped-call]
    return loss.detach(), {n: torch.zeros_like(p) if p.grad is None else p.grad for n, p in copied.named_parameters()}


def _peer_gradients(flow: MaskedAutoregressiveFlow, x: Tensor, context: Tensor) -> tuple[Tensor, dict[str, Tensor]]:
    twin: Any = nflows_twin(flow).eval()
    loss = -twin.log_prob(x, context=context).mean()
    loss.backward()
    # The peer orders its hidden units otherwise, so its gradients travel the way its weights would.
    gradients = {name: torch.zeros_like(p) if p.grad is None else p.grad for name, p in twin.named_parameters()}
    carrier = copy.deepcopy(flow)
    load_nflows_state(carrier, gradients | dict(twin.named_buffers()))
    return loss.detach(), {name: value.detach() for name, value in carrier.named_parameters()}


def _agreement(found: tuple[Tensor, dict[str, Tensor]], expected: tuple[Tensor, dict[str, Tensor]]) -> Agreement:
    sizes, differences = [], []
    for name, value in expected[1].items():
        sizes.append(float(value.double().norm()))
        differences.append(float((found[1][name].double() - value.double()).norm()))
    worst = max(d / size if size else d for d, size in zip(differences, sizes, strict=True))
    whole = math.hypot(*differences) / math.hypot(*sizes)
    return Agreement(float(((found[0] - expected[0]) / expected[0]).abs()), whole, worst)


def _agreements_at_start(
    flow: MaskedAutoregressiveFlow, x: Tensor, context: Tensor
) -> tuple[Agreement, Agreement, tuple[float, float]]:
    """In float32, in float64, and how far gradients in float32 are off, ours and the peer's."""
    ours, theirs = _own_gradients(flow, x, context), _peer_gradients(flow, x, context)
    exact, x, context = copy.deepcopy(flow).double(), x.double(), context.double()
    ours_exactly, theirs_exactly = _own_gradients(exact, x, context), _peer_gradients(exact, x, context)
    rounding = _agreement(ours, ours_exactly).gradient, _agreement(theirs, theirs_exactly).gradient
    return _agreement(ours, theirs), _agreement(ours_exactly, theirs_exactly), rounding


def measure_training(
    preset: str = "caloflow-calogan-gamma",
    data: str | Path | ShowerSource | None = None,
    *,
    against: str | None = "nflows",
    overrides: tuple[str, ...] = (),
    threads: int = 2,
    device: str = "cpu",
    rounds: int = 5,
    steps: int = 3,
    bfloat16: bool = True,
    seed: int = 0,
) -> TrainingSpeed:
    """Measure training steps of CaloFlow's Flow II.

    Everything takes turns: ``steps`` of the loop, of the flow alone, in bfloat16, of the peer; ``rounds`` times. What else
    happens on the machine then hits all of them alike.

    Args:
        preset: a preset of the kind ``caloflow``; its masks are set to the published ones for the peer's sake.
        data: shower file; None takes the sample of photons that ships with the package.
        against: ``nflows`` or None.
        overrides: further changes to the preset, which trains in float32 unless they say otherwise.
        threads: CPU threads.
        device: ``cpu`` or ``cuda``.
        rounds: number of turns.
        steps: steps in each turn.
        bfloat16: also measure the flow under autocast.
        seed: of weights and order.

    Raises:
        UsageError: if the peer is not known, or the data do not suffice for a batch.
        MissingDependencyError: if the peer is not installed.
    """
    if against not in (None, "nflows"):
        raise UsageError(f"the peer '{against}' is not known, expected nflows")
    if data is None:
        from caloforge.datasets import path

        data = path("calogan-gamma-sample")
    where = Processes.local_device(device)
    former = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        with memory_kept():
            if isinstance(data, str | Path):
                with open_showers(data) as reader:
                    return _measure(preset, reader, against, overrides, where, rounds, steps, bfloat16, seed)
            return _measure(preset, data, against, overrides, where, rounds, steps, bfloat16, seed)
    finally:
        torch.set_num_threads(former)


def _measure(
    name: str,
    source: ShowerSource,
    against: str | None,
    overrides: tuple[str, ...],
    device: torch.device,
    rounds: int,
    steps: int,
    bfloat16: bool,
    seed: int,
) -> TrainingSpeed:
    preset = load_preset(name, (*in_float32(overrides), "model.masks=published"))
    if source.detector is None or preset.kind != "caloflow":
        raise UsageError("training is measured with CaloFlow and showers of a known detector")
    torch.manual_seed(seed)
    model: Any = preset.build(source.detector).to(device)
    stage = next(stage for stage in model.training_stages(preset.training) if stage.name == "shapes")
    batch_size = stage.batch_size
    if len(source) < batch_size * steps:
        raise UsageError(f"the data hold {len(source)} showers, expected at least {batch_size * steps}")
    rows = TrainingSet(
        FirstShowers(source, batch_size * steps), seed=seed, val_fraction=0.0, order=RowOrder(None), device=device
    )
    x, context = _flow_inputs(model, stage, next(rows.batches(stage.training, 0)))
    agreement = compare_with_nflows(model.shapes, x, context) if against else None
    stage.begin(rows.for_fit(), Streams(seed, "throughput"))  # timed from where training starts
    at_start, in_float64, rounding = _agreements_at_start(model.shapes, x, context) if against else (None, None, None)
    contenders = [_Contender("flow", copy.deepcopy(model.shapes), stage.training, x, context, fused=True)]
    if bfloat16:
        contenders.append(
            _Contender(
                "flow bfloat16", copy.deepcopy(model.shapes), stage.training, x, context, fused=True, bfloat16=True
            )
        )
    if against:
        contenders.append(_Contender("nflows", nflows_twin(model.shapes), stage.training, x, context, fused=False))
    for contender in contenders:
        contender.step()
        contender.forget()

    def others() -> None:
        for contender in contenders:
            for _ in range(steps):
                contender.step()

    watched = _Watched(stage, steps, device, others)
    watched.training = StageTraining.model_validate(
        stage.training.model_dump() | {"epochs": rounds + 1, "steps": None, "selection": "last"}
    )
    with tempfile.TemporaryDirectory() as folder, Interruption() as interruption:
        run = Run(
            directory=Path(folder), model=model, data=rows, processes=Processes(), interruption=interruption, seed=seed,
            checkpoint_seconds=1e9, show=False,
        )  # fmt: skip
        train_stage(watched, run)
    times = {"loop": watched.result(batch_size)} | {c.name: c.result(batch_size) for c in contenders}
    return TrainingSpeed(
        preset=name,
        batch_size=batch_size,
        threads=torch.get_num_threads(),
        device=str(device),
        parameters=sum(p.numel() for p in model.shapes.parameters()),
        torch=torch.__version__,
        times=times,
        agreement=agreement,
        agreement_at_start=at_start,
        agreement_float64=in_float64,
        rounding=rounding,
    )


def _flow_inputs(model: Any, stage: GradientStage, batch: TrainingBatch) -> tuple[Tensor, Tensor]:
    """What the stage's loss hands to the flow for a batch."""
    caught: list[tuple[Tensor, Tensor]] = []
    original = model.shapes.log_prob

    def catch(x: Tensor, context: Tensor) -> Tensor:
        caught.append((x.detach(), context.detach()))
        answer: Tensor = original(x, context)
        return answer

    model.shapes.log_prob = catch
    try:
        with torch.no_grad():
            stage.loss("main", batch, Streams(0, "throughput"))
    finally:
        del model.shapes.log_prob
    return caught[0]


class _Contender:
    """A flow and its optimiser, on inputs that never change."""

    def __init__(
        self,
        name: str,
        flow: Any,
        training: StageTraining,
        x: Tensor,
        context: Tensor,
        *,
        fused: bool,
        bfloat16: bool = False,
    ) -> None:
        self.name, self._flow, self._x, self._context, self._bfloat16 = name, flow.train(), x, context, bfloat16
        parameters = list(flow.parameters())
        # The peer's users take torch's default, so that is what it gets.
        self._optimiser = (
            make_optimiser(training.optimiser, parameters)
            if fused
            else torch.optim.Adam(parameters, lr=training.optimiser.learning_rate)
        )
        self._times: list[tuple[float, float, float]] = []

    def step(self) -> None:
        device = self._x.device
        self._optimiser.zero_grad(set_to_none=True)
        began = _now(device)
        with torch.autocast(device.type, torch.bfloat16, enabled=self._bfloat16):
            loss = -self._flow.log_prob(self._x, self._context).mean()
        forward = _now(device)
        loss.backward()
        backward = _now(device)
        self._optimiser.step()
        self._times.append((forward - began, backward - forward, _now(device) - backward))

    def forget(self) -> None:
        """Start to count anew."""
        self._times.clear()

    def result(self, batch_size: int) -> StepTime:
        forward, backward, optimiser = (1000 * statistics.median(part) for part in zip(*self._times, strict=True))
        step = 1000 * statistics.median(sum(times) for times in self._times)
        return StepTime(
            self.name, step, forward, backward, optimiser, 0.0, len(self._times), 1000 * batch_size / step
        )  # fmt: skip


class _Watched(GradientStage):
    """A stage that looks at the clock, and lets others have their turn at the end of every epoch."""

    def __init__(self, stage: GradientStage, steps: int, device: torch.device, others: Callable[[], None]) -> None:
        super().__init__(stage.name, stage.parts, stage.training)
        self._stage, self._steps, self._device, self._others = stage, steps, device, others
        self._forward: list[float] = []
        self._whole: list[float] = []
        self._left: float | None = None
        self._count = 0

    def loss(self, player: str, batch: TrainingBatch, streams: Streams) -> dict[str, Tensor]:
        """That of the stage."""
        began = _now(self._device)
        losses = self._stage.loss(player, batch, streams)
        self._forward.append(_now(self._device) - began)
        return losses

    def after_step(self, player: str, step: int) -> None:
        """Note how long the step took, from the end of the one before."""
        now = _now(self._device)
        self._count += 1
        if self._left is not None:
            self._whole.append(now - self._left)
        self._left = now
        if self._count % self._steps == 0:
            if self._count == self._steps:
                self._forward.clear()  # the first round warms up
                self._whole.clear()
            self._others()
            self._left = _now(self._device)

    def result(self, batch_size: int) -> StepTime:
        forward, step = 1000 * statistics.median(self._forward), 1000 * statistics.median(self._whole)
        return StepTime("loop", step, forward, 0.0, 0.0, step - forward, len(self._whole), 1000 * batch_size / step)


def _now(device: torch.device) -> float:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    return time.perf_counter()
