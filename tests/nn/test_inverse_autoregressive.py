"""Inverse autoregressive flows: both directions, density, and distillation from a masked autoregressive flow."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from torch import Tensor

from caloforge.errors import ConfigError, UsageError
from caloforge.nn import MaskedAutoregressiveFlow
from caloforge.nn.autoregressive import AutoregressiveFlow
from caloforge.nn.distillation import check_guided, data_loss, latent_loss, trace_student, trace_teacher
from caloforge.nn.inverse_autoregressive import InverseAutoregressiveFlow
from caloforge.nn.permutations import random_all
from caloforge.nn.splines import SplineSettings

SIZES = {"features": 7, "context_features": 2, "blocks": 3, "hidden_features": 12, "hidden_layers": 1}


def permutations(count: int, features: int = 7) -> list[object]:
    return [random_all(features, seed=k) for k in range(count)]


def student(seed: int = 0, **changes: object) -> InverseAutoregressiveFlow:
    torch.manual_seed(seed)
    sizes = SIZES | {"permutations": permutations(2)} | changes
    return InverseAutoregressiveFlow(**sizes).double().eval()  # type: ignore[arg-type]


def teacher(seed: int = 1, **changes: object) -> MaskedAutoregressiveFlow:
    torch.manual_seed(seed)
    sizes = SIZES | {"permutations": permutations(2)} | changes
    return MaskedAutoregressiveFlow(**sizes).double().eval()  # type: ignore[arg-type]


def points(rows: int, features: int = 7, seed: int = 3) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(seed)
    values = 3 * torch.randn(rows, features, generator=generator, dtype=torch.float64)
    return values, torch.randn(rows, 2, generator=generator, dtype=torch.float64)


@pytest.mark.parametrize("count", [0, 2, 3])
@pytest.mark.parametrize("layers", [0, 1, 2])
def test_the_slow_direction_undoes_the_fast_one(count: int, layers: int) -> None:
    flow = student(permutations=permutations(count), hidden_layers=layers)
    z, context = points(20)
    with torch.no_grad():
        x, logdet = flow.inverse(z, context)
        back, back_logdet = flow(x, context)
        expected, expected_logdet = flow.forward_reference(x, context)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-9)
    torch.testing.assert_close(back_logdet, -logdet, rtol=0, atol=1e-8)
    torch.testing.assert_close(back, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(back_logdet, expected_logdet, rtol=0, atol=1e-9)


@pytest.mark.parametrize("masks", ["even", "published"])
@pytest.mark.usefixtures("kernels")
def test_kernels_and_plain_pytorch_find_the_same_latents(masks: str) -> None:
    flow = student(features=50, hidden_features=30, masks=masks, permutations=permutations(3, 50)).float()
    x, context = (values.float() for values in points(37, 50))
    z, logdet = flow.solve(x, context)
    expected, expected_logdet = flow.solve_plainly(x, context)
    torch.testing.assert_close(z, expected, rtol=1e-4, atol=1e-4)
    torch.testing.assert_close(logdet, expected_logdet, rtol=1e-4, atol=1e-3)
    assert not torch.equal(z, expected)  # else both were plain
    threads = torch.get_num_threads()
    try:
        for number in (2, 5):
            torch.set_num_threads(number)
            assert torch.equal(flow.solve(x, context)[0], z)
    finally:
        torch.set_num_threads(threads)


def test_log_determinant_by_autograd() -> None:
    flow = student()
    values, context = points(5)
    for z, c in zip(values[:, None], context[:, None], strict=True):
        jacobian = torch.autograd.functional.jacobian(lambda v, c=c: flow.inverse(v, c)[0][0], z)[:, 0]
        with torch.no_grad():
            x, logdet = flow.inverse(z, c)
            log_prob = flow.log_prob(x, c)
        expected = torch.linalg.slogdet(jacobian)[1]
        torch.testing.assert_close(logdet[0], expected, rtol=0, atol=1e-9)
        normal = -0.5 * z.square().sum() - 3.5 * math.log(2 * math.pi)
        torch.testing.assert_close(log_prob[0], normal - expected, rtol=0, atol=1e-7)


def test_density_integrates_to_one() -> None:
    flow = student(features=2, context_features=0, permutations=permutations(2, 2))
    line = torch.linspace(-14, 14, 401, dtype=torch.float64)
    with torch.no_grad():
        density = flow.log_prob(torch.cartesian_prod(line, line)).exp()
    assert float(density.sum() * (line[1] - line[0]) ** 2) == pytest.approx(1.0, abs=0.01)


def test_a_first_latent_reaches_all_data_and_a_last_one_only_itself() -> None:
    flow = student(blocks=1, permutations=[])
    z, context = points(1)
    jacobian = torch.autograd.functional.jacobian(lambda v: flow.inverse(v, context)[0][0], z)[:, 0]
    assert torch.equal(jacobian.triu(1), torch.zeros(7, 7, dtype=torch.float64))
    assert bool((jacobian[:, 0] != 0).all())


def test_changed_weights_are_noticed() -> None:
    flow = student().float()
    x, context = (values.float() for values in points(4))
    before, _ = flow(x, context)
    with torch.no_grad():
        flow.blocks[1].conditioner.output_layer.bias.add_(0.3)  # type: ignore[union-attr]
        after, _ = flow(x, context)
        expected, _ = flow.solve_plainly(x, context)
    assert not torch.allclose(before, after)
    torch.testing.assert_close(after, expected, rtol=1e-4, atol=1e-4)


def test_wrong_shapes_are_refused() -> None:
    flow = student()
    for wrong in (flow, flow.inverse):
        with pytest.raises(UsageError, match=r"values of shape \(batch, 7\)"):
            wrong(torch.zeros(3, 6), torch.zeros(3, 2))


# ---- distillation


def same_functions() -> tuple[MaskedAutoregressiveFlow, InverseAutoregressiveFlow]:
    """Teacher and student that compute the same: no output depends on any input, only on the context."""
    flows: list[AutoregressiveFlow] = [teacher(), student()]
    flows[1].load_state_dict(flows[0].state_dict())
    for flow in flows:
        for block in flow.blocks:
            torch.nn.init.zeros_(block.conditioner.input_layer.weight)  # type: ignore[union-attr, arg-type]
    return flows[0], flows[1]  # type: ignore[return-value]


def test_a_perfect_student_has_no_loss_and_no_divergence() -> None:
    master, pupil = same_functions()
    values, context = points(30)
    with torch.no_grad():
        loss, divergence = latent_loss(master, pupil, values, context, "guided")
        other = data_loss(master, pupil, values, context, "guided")
    assert float(other) == pytest.approx(0, abs=1e-12)
    assert float(loss) == pytest.approx(0, abs=1e-12)
    assert float(divergence) == pytest.approx(0, abs=1e-9)


def test_traces_end_where_the_flows_do() -> None:
    master, pupil = teacher(), student()
    values, context = points(10)
    with torch.no_grad():
        for trace, expected in (
            (trace_teacher(master, values, context), master(values, context)),
            (trace_student(pupil, values, context), pupil.inverse(values, context)),
        ):
            assert torch.equal(trace.end, expected[0])
            assert torch.equal(trace.logdet, expected[1])
            assert [len(trace.interfaces), len(trace.parameters)] == [2, 3]


def test_guided_loss_is_the_published_sum() -> None:
    """All tensors of both chains, as published: before and after each permutation, the end point once more."""
    master, pupil = teacher(), student()
    x, context = points(10)
    with torch.no_grad():
        found = data_loss(master, pupil, x, context, "guided")
        chain, raw = [x], []
        for block, permutation in master.chain():
            raw.append(block.conditioner(chain[-1], context))
            chain.append(block.spline(chain[-1], raw[-1])[0])
            if permutation is not None:
                chain.append(permutation(chain[-1]))
        back, parameters = [chain[-1]], []
        for block, permutation in reversed(list(pupil.chain())):
            if permutation is not None:
                back.append(permutation.inverse(back[-1]))
            parameters.append(block.conditioner(back[-1], context))
            back.append(block.spline(back[-1], parameters[-1], inverse=True)[0])

    def distance(a: Tensor, b: Tensor) -> float:
        return float((a - b).square().flatten(1).sum(dim=1).mean())

    expected = distance(back[-1], x)
    expected += sum(distance(a, b) for a, b in zip(back, reversed(chain), strict=True))
    expected += sum(distance(a, b) for a, b in zip(parameters, reversed(raw), strict=True))
    assert float(found) == pytest.approx(expected, rel=1e-12)
    ends = data_loss(master, pupil, x, context, "end-points").detach()
    assert float(ends) == pytest.approx(distance(back[-1], x), rel=1e-12)


def test_divergence_is_the_mean_logarithm_of_the_density_ratio() -> None:
    master, pupil = teacher(), student()
    z, context = points(50)
    _, divergence = latent_loss(master, pupil, z, context, "guided")
    with torch.no_grad():
        x, _ = pupil.inverse(z, context)
        expected = (pupil.log_prob(x, context) - master.log_prob(x, context)).mean()
    assert float(divergence) == pytest.approx(float(expected), abs=1e-8)


@pytest.mark.parametrize("guidance", ["guided", "end-points"])
def test_gradients_reach_the_student_through_the_teacher(guidance: str) -> None:
    master, pupil = teacher().requires_grad_(False), student()
    values, context = points(10)
    for loss in (
        data_loss(master, pupil, values, context, guidance),  # type: ignore[arg-type]
        latent_loss(master, pupil, values, context, guidance)[0],  # type: ignore[arg-type]
    ):
        pupil.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        assert all(p.grad is not None and bool(p.grad.isfinite().all()) for p in pupil.parameters())
        assert any(bool((p.grad != 0).any()) for p in pupil.parameters() if p.grad is not None)
    assert all(p.grad is None for p in master.parameters())


def test_a_student_learns_its_teacher() -> None:
    master = teacher(hidden_features=8).requires_grad_(False)
    pupil = student(hidden_features=24)
    z, context = points(400)
    x, _ = master.inverse(z / 3, context)
    optimiser = torch.optim.Adam(pupil.parameters(), lr=0.01)
    seen = []
    for _ in range(60):
        latent, divergence = latent_loss(master, pupil, z / 3, context, "guided")
        loss = latent + data_loss(master, pupil, x, context, "guided")
        optimiser.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        optimiser.step()
        seen.append((float(loss.detach()), float(divergence)))
    assert seen[-1][0] < 0.2 * seen[0][0]
    assert seen[-1][1] < 0.5 * seen[0][1]


def test_students_that_cannot_be_guided_are_refused() -> None:
    check_guided(teacher(), student())
    other = copy.deepcopy(student())
    other.permutations[1].set_index(torch.arange(7))  # type: ignore[operator, union-attr]
    for wrong, message in (
        (student(blocks=4), "as many blocks as its teacher, 3, not 4"),
        (student(splines=SplineSettings(6)), "its teacher's splines, 8 bins"),
        (student(splines=SplineSettings(bound=5.0)), "its teacher's splines"),
        (student(permutations=permutations(3)), "the permutations of its teacher"),
        (other, "the permutations of its teacher"),
    ):
        with pytest.raises(ConfigError, match=message):
            check_guided(teacher(), wrong)
