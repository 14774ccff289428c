"""Probability density distillation of one autoregressive flow into another (arXiv:1711.10433, arXiv:2110.11377).

Teacher and student are stacks of the same splines; the teacher's density is fast, the student's samples are. Starting
from data or from latent numbers, one runs one way and the other runs back, and both should meet everywhere on the way:
at the end, between any two blocks, and in the parameters of every spline.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError
from caloforge.nn.autoregressive import AutoregressiveFlow, MaskedAutoregressiveFlow
from caloforge.nn.inverse_autoregressive import InverseAutoregressiveFlow

__all__ = ["Guidance", "Trace", "check_guided", "data_loss", "latent_loss", "trace_student", "trace_teacher"]

#: ``guided`` compares end points, interfaces and spline parameters; ``end-points`` compares the ends alone.
Guidance = Literal["guided", "end-points"]


@dataclass(frozen=True)
class Trace:
    """What a flow computed on its way, in the order from data to latent.

    Attributes:
        end: Where the way ended, (batch, D).
        logdet: log |det| of the way that was gone (batch,), nats.
        interfaces: Values between neighbouring blocks, before the permutation there, (batch, D) each.
        parameters: Raw spline parameters of each block, in tiles of rows (see
            :meth:`caloforge.nn.splines.SplineBlock.spline_layer`).
    """

    end: Tensor
    logdet: Tensor
    interfaces: list[Tensor]
    parameters: list[Tensor]


def trace_teacher(flow: MaskedAutoregressiveFlow, x: Tensor, context: Tensor | None) -> Trace:
    """Follow the teacher from data x (batch, D) to latents."""
    logdet = x.new_zeros(x.shape[0])
    values, parameters = [], []
    for block, permutation in flow.chain():
        x, contribution, raw = block.apply_to(x, context, keep_raw=True)
        logdet = logdet + contribution
        parameters.append(raw)
        values.append(x)
        if permutation is not None:
            x = permutation(x)
    return Trace(x, logdet, values[:-1], parameters)


def trace_student(flow: InverseAutoregressiveFlow, z: Tensor, context: Tensor | None) -> Trace:
    """Follow the student from latents z (batch, D) to data."""
    logdet = z.new_zeros(z.shape[0])
    values, parameters = [], []
    for block, permutation in reversed(list(flow.chain())):
        if permutation is not None:
            z = permutation.inverse(z)
        values.append(z)
        z, contribution, raw = block.apply_to(z, context, inverse=True, keep_raw=True)
        logdet = logdet + contribution
        parameters.append(raw)
    return Trace(z, logdet, values[:0:-1], parameters[::-1])


def check_guided(teacher: AutoregressiveFlow, student: AutoregressiveFlow) -> None:
    """Make sure that two flows can be compared block by block.

    Raises:
        ConfigError: If they have different numbers of blocks, bins, other intervals, or other permutations.
    """
    ours, theirs = list(student.chain()), list(teacher.chain())
    if len(ours) != len(theirs):
        raise ConfigError(
            f"a guided student needs as many blocks as its teacher, {len(theirs)}, not {len(ours)}; the mode "
            "'end-points' does not"
        )
    for (block, permutation), (other, behind) in zip(ours, theirs, strict=True):
        if (block.bins, block.bound) != (other.bins, other.bound):
            raise ConfigError(
                f"a guided student needs its teacher's splines, {other.bins} bins on [-{other.bound:g}, {other.bound:g}]"
            )
        if (permutation is None) != (behind is None) or (
            permutation is not None and behind is not None and not torch.equal(permutation.index, behind.index)
        ):
            raise ConfigError("a guided student needs the permutations of its teacher")


def data_loss(
    teacher: MaskedAutoregressiveFlow,
    student: InverseAutoregressiveFlow,
    x: Tensor,
    context: Tensor | None,
    guidance: Guidance,
) -> Tensor:
    """L_x: data x (batch, D) through the teacher to latents, and through the student back.

    The teacher's part has no gradient. Mean over the batch of squared distances, each summed over its numbers.
    """
    with torch.no_grad():
        there = trace_teacher(teacher, x, context)
    back = trace_student(student, there.end, context)
    return _distance(there, back, x, back.end, guidance)


def latent_loss(
    teacher: MaskedAutoregressiveFlow,
    student: InverseAutoregressiveFlow,
    z: Tensor,
    context: Tensor | None,
    guidance: Guidance,
) -> tuple[Tensor, Tensor]:
    """L_z: latents z (batch, D) through the student to showers, and through the teacher back.

    Gradients pass through the teacher to the student; the teacher's own weights should want none.

    Returns:
        The loss, and an estimate of KL(student || teacher) from the same samples, without gradient, nats.
    """
    there = trace_student(student, z, context)
    back = trace_teacher(teacher, there.end, context)
    with torch.no_grad():
        # log q(x) = log N(z) - log |dx/dz| and log p(x) = log N(z') + log |dz'/dx|
        divergence = (0.5 * (back.end.square() - z.square()).sum(dim=1) - there.logdet - back.logdet).mean()
    return _distance(back, there, z, back.end, guidance), divergence


def _distance(teacher: Trace, student: Trace, begin: Tensor, end: Tensor, guidance: Guidance) -> Tensor:
    rows = len(begin)
    ends = _squared(end, begin) / rows
    if guidance == "end-points":
        return ends
    between = sum((_squared(a, b) / rows for a, b in zip(student.interfaces, teacher.interfaces, strict=True)), ends)
    parameters = (_squared(a, b) / rows for a, b in zip(student.parameters, teacher.parameters, strict=True))
    # The published sums name every interface before and after its permutation and the end point twice.
    return 2 * between + sum(parameters, begin.new_zeros(()))


def _squared(a: Tensor, b: Tensor) -> Tensor:
    return nn.functional.mse_loss(a, b, reduction="sum")
