"""The weights of a network as they are now, by reading where PyTorch keeps them."""

from __future__ import annotations

import gc
import weakref

import torch
from torch import nn

from caloforge.nn import MaskedAutoregressiveFlow
from caloforge.nn.pointwise import PointWiseNet
from caloforge.nn.showerflow import ShowerFlow
from caloforge.nn.weights import first_parameter, weights_now


def same(found: list[torch.Tensor], expected: list[torch.Tensor]) -> bool:
    return [id(tensor) for tensor in found] == [id(tensor) for tensor in expected]


def test_every_way_of_replacing_a_weight_is_seen() -> None:
    """Fails if PyTorch keeps parameters, buffers or children elsewhere, or if only the first level of children is compared."""
    net = nn.Sequential(nn.Sequential(nn.Linear(2, 3), nn.BatchNorm1d(3)), nn.Linear(3, 1, bias=False))

    def check() -> None:
        found, _ = weights_now(net, list(net), ("running_mean",))
        assert same(found, [*net.parameters(), net[0][1].running_mean])  # type: ignore[index, list-item]

    check()
    net[1].weight = nn.Parameter(torch.ones(1, 3))
    check()
    net[0][0] = nn.Linear(2, 3)  # type: ignore[index, operator]
    check()
    net[0][1].running_mean = torch.ones(3)  # type: ignore[index, union-attr]
    check()
    net.append(nn.Linear(1, 1))
    check()
    del net[2]
    check()
    net.load_state_dict({name: value.clone() for name, value in net.state_dict().items()}, assign=True)
    check()


def test_replaced_weights_within_a_call_are_used_and_mapped_ones_need_no_kernel(kernels: object) -> None:
    """Fails if packed weights are those of another moment, or if a kernel is handed tensors of a function transform."""
    torch.manual_seed(0)
    flow = MaskedAutoregressiveFlow(features=4, context_features=0, blocks=1, hidden_features=5, hidden_layers=1)
    z = torch.randn(3, 4)
    before, _ = flow.inverse(z)
    other = {name: value + 0.1 for name, value in flow.state_dict().items() if value.is_floating_point()}
    with torch.no_grad():
        swapped = torch.func.functional_call(flow, other, (flow.inverse(z)[0],))[0]
        assert torch.equal(flow.inverse(z)[0], before)
        assert not torch.equal(swapped, z)
        mapped = torch.func.vmap(lambda c: flow.log_prob(c[None])[0])(z)
    torch.testing.assert_close(mapped, flow.log_prob(z).detach())


def test_networks_are_forgotten_with_their_packed_weights() -> None:
    """Fails if what is kept for a network refers to it."""
    net, offsets = PointWiseNet((3,), 2), torch.tensor([0, 4])
    flow = ShowerFlow(4, 2, blocks=1, order="caloclouds3", affine_hidden=3, spline_hidden=3)
    with torch.no_grad():
        net(torch.zeros(4, 4), torch.zeros(1), torch.zeros(1, 2), offsets)
        flow.sample(torch.zeros(2, 4), torch.zeros(2, 2))
    gone = weakref.ref(net), weakref.ref(flow)
    del net, flow
    gc.collect()
    assert [reference() for reference in gone] == [None, None]


def test_the_first_parameter_is_that_of_torch() -> None:
    inner = torch.nn.Sequential(torch.nn.ReLU(), torch.nn.Sequential(), torch.nn.Linear(2, 3))
    for module in (
        inner,
        torch.nn.Linear(1, 1),
        torch.nn.Linear(1, 1, bias=False),
        torch.nn.BatchNorm1d(2, affine=False),
    ):
        assert first_parameter(module) is next(module.parameters(), None)
    tied = torch.nn.ModuleList([torch.nn.Identity(), inner[2], inner[2]])
    assert first_parameter(tied) is inner[2].weight
