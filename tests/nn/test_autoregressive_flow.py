"""The flow: density, round trips, published sizes, agreement with nflows."""

from __future__ import annotations

import math

import pytest
import torch

from caloforge.errors import ConfigError, UsageError
from caloforge.nn import MaskedAutoregressiveFlow
from caloforge.nn.nflows_weights import load_nflows_state, nflows_state
from caloforge.nn.permutations import alternating_within_layers, random_after_every_block, random_all
from caloforge.nn.splines import SplineSettings


def build(**changes):
    torch.manual_seed(changes.pop("seed", 0))
    sizes = {"features": 6, "context_features": 2, "blocks": 3, "hidden_features": 12, "hidden_layers": 1}
    sizes |= {"permutations": [random_all(6, seed=k) for k in range(2)]}
    return MaskedAutoregressiveFlow(**(sizes | changes)).double()


def count(flow):
    return sum(parameter.numel() for parameter in flow.parameters())


def test_published_parameter_counts():
    energy = MaskedAutoregressiveFlow(
        features=3, context_features=1, blocks=6, hidden_features=64, hidden_layers=2, masks="published",
        permutations=random_after_every_block(3, 6, seed=0),
    )  # fmt: skip
    assert count(energy) == 79_134
    with torch.device("cpu"):
        shower = MaskedAutoregressiveFlow(
            features=504, context_features=4, blocks=8, hidden_features=378, hidden_layers=1, dropout=0.05,
            masks="published", permutations=alternating_within_layers((288, 144, 72), 8, seed=0),
        )  # fmt: skip
    assert count(shower) == 37_835_280
    assert count(energy) + count(shower) == 37_914_414


@pytest.mark.parametrize("masks", ["even", "published"])
def test_reference_inverse_undoes_forward(masks):
    flow = build(masks=masks)
    x = 3 * torch.randn(20, 6, dtype=torch.float64)
    context = torch.randn(20, 2, dtype=torch.float64)
    with torch.no_grad():
        z, logdet = flow(x, context)
        back, back_logdet = flow.inverse_reference(z, context)
    torch.testing.assert_close(back, x, rtol=0, atol=1e-9)
    torch.testing.assert_close(back_logdet, -logdet, rtol=0, atol=1e-7)


def test_log_determinant_by_autograd():
    flow = build()
    context = torch.randn(1, 2, dtype=torch.float64)
    for x in 4 * torch.randn(5, 1, 6, dtype=torch.float64):
        jacobian = torch.autograd.functional.jacobian(lambda v: flow(v, context)[0][0], x)[:, 0]
        torch.testing.assert_close(
            torch.linalg.slogdet(jacobian)[1], flow(x, context)[1][0].detach(), rtol=0, atol=1e-9
        )


def test_density_integrates_to_one():
    flow = build(features=2, permutations=[[1, 0]], blocks=2, splines=SplineSettings(bound=4.0))
    axis = torch.linspace(-7, 7, 281, dtype=torch.float64)
    grid = torch.cartesian_prod(axis, axis)
    context = torch.tensor([[0.3, -1.0]], dtype=torch.float64).expand(len(grid), -1)
    with torch.no_grad():
        total = flow.log_prob(grid, context).exp().sum() * (axis[1] - axis[0]) ** 2
    assert total.item() == pytest.approx(1.0, abs=2e-3)


def test_without_context_and_without_permutations():
    flow = build(context_features=0, permutations=())
    x = torch.randn(4, 6, dtype=torch.float64)
    z, logdet = flow(x)
    expected = logdet - 0.5 * (z**2).sum(-1) - 3 * math.log(2 * math.pi)
    torch.testing.assert_close(flow.log_prob(x), expected)


@pytest.mark.parametrize(("hidden", "layers"), [(12, 1), (4, 0), (9, 3)])
def test_agrees_with_nflows_and_exchanges_weights(hidden, layers):
    flows = pytest.importorskip("nflows.flows")
    from nflows.distributions import StandardNormal
    from nflows.transforms import CompositeTransform, Permutation
    from nflows.transforms.autoregressive import MaskedPiecewiseRationalQuadraticAutoregressiveTransform as Peer

    def peer_flow():
        parts = []
        for k in range(3):
            parts.append(
                Peer(6, hidden, context_features=2, num_blocks=layers, use_residual_blocks=False, num_bins=8,
                     tails="linear", tail_bound=14.0, min_bin_width=1e-6, min_bin_height=1e-6, min_derivative=1e-6)
            )  # fmt: skip
            if k < 2:
                parts.append(Permutation(torch.as_tensor(random_all(6, seed=10 + k))))
        return flows.Flow(CompositeTransform(parts), StandardNormal([6])).double()

    torch.manual_seed(3)
    peer = peer_flow()
    flow = build(masks="published", hidden_features=hidden, hidden_layers=layers)
    load_nflows_state(flow, peer.state_dict())
    x = 3 * torch.randn(30, 6, dtype=torch.float64)
    context = torch.randn(30, 2, dtype=torch.float64)
    torch.testing.assert_close(flow.log_prob(x, context), peer.log_prob(x, context), rtol=1e-9, atol=1e-9)
    second = peer_flow()
    second.load_state_dict(nflows_state(flow), strict=False)
    torch.testing.assert_close(second.log_prob(x, context), peer.log_prob(x, context), rtol=1e-12, atol=1e-12)

    flow.log_prob(x, context).mean().backward()
    peer.log_prob(x, context).mean().backward()
    gradients = {name: p.grad for name, p in flow.named_parameters()}
    copies = build(masks="published", hidden_features=hidden, hidden_layers=layers)
    load_nflows_state(copies, {k: v.grad for k, v in peer.named_parameters()} | dict(peer.named_buffers()))
    for name, expected in copies.named_parameters():
        torch.testing.assert_close(gradients[name], expected.detach(), rtol=1e-7, atol=1e-10)


def test_even_masks_cannot_be_exchanged():
    with pytest.raises(ConfigError, match="even"):
        nflows_state(build())
    with pytest.raises(ConfigError, match="lacks"):
        load_nflows_state(build(masks="published"), {})


@pytest.mark.parametrize("changes", [{"blocks": 0}, {"permutations": [[1, 0]]}, {"permutations": [list(range(6))] * 4}])
def test_impossible_flows_are_refused(changes):
    with pytest.raises(ConfigError):
        build(**changes)


def test_shapes_that_do_not_fit_are_refused():
    flow = build()
    x, context = torch.zeros(3, 6, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64)
    for values, conditions in ((x[:, :5], context), (x, None), (x, context[:2]), (x[0], context)):
        with pytest.raises(UsageError):
            flow(values, conditions)
        with pytest.raises(UsageError):
            flow.inverse_reference(values, conditions)


def test_float32_and_autocast_train():
    flow = build().float()
    x, context = torch.randn(16, 6), torch.randn(16, 2)
    exact = flow.log_prob(x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = flow.log_prob(x, context)
    assert rough.dtype == torch.float32
    torch.testing.assert_close(rough, exact, rtol=0.05, atol=0.1)
    (-rough.mean()).backward()
    assert all(torch.isfinite(p.grad).all() for p in flow.parameters())


def test_forward_exports():
    flow = build().eval()
    x, context = torch.randn(3, 6, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    with torch.no_grad():
        program = torch.export.export(flow, (x, context))
        for found, expected in zip(program.module()(x, context), flow(x, context), strict=True):
            torch.testing.assert_close(found, expected)
