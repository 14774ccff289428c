"""Wiring of the published networks, against slow references written from the papers' words, with equal weights."""

from __future__ import annotations

import math

import numpy as np
import published_references as reference
import pytest
import torch
from torch import nn

from caloforge.nn.convolutional import ContextNet, ConvolutionalFlow, PermutedConvolution, Subsample, UNet
from caloforge.nn.coupling import CouplingFlow
from caloforge.nn.pointwise import PointWiseNet
from caloforge.nn.showerflow import ShowerFlow
from caloforge.nn.splines import SplineSettings


def shaken(module: nn.Module) -> nn.Module:
    """In float64 with random weights and random running statistics."""
    torch.manual_seed(8)
    module = module.double().eval()
    for tensor in module.state_dict().values():
        if tensor.is_floating_point():
            tensor.copy_(0.4 * torch.randn_like(tensor))
    for name, tensor in module.state_dict().items():
        if name.endswith("running_var"):
            tensor.copy_(0.5 + torch.rand_like(tensor))
    return module


def weights(module: nn.Module) -> dict[str, np.ndarray]:
    return {name: tensor.numpy() for name, tensor in module.state_dict().items() if not name.endswith("tracked")}


def images(*shape: int) -> torch.Tensor:
    return torch.randn(*shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1))


@torch.no_grad()
@pytest.mark.parametrize(
    ("shape", "kernels", "periodic"),
    [((15, 15), [(3, 3), (5, 5)], False), ((25, 9), [(5, 3), (5, 3)], True), ((8, 3), [(2, 3), (2, 1)], True)],
    ids=["ILD", "data set 3", "a bottom of two pixels"],
)
def test_unet(shape: tuple[int, int], kernels: list[tuple[int, int]], periodic: bool) -> None:
    """Mutations: an activation behind the last convolution, a block at the bottom, or the skipped image in front."""
    network = UNet(3, 7, shape, channels=2, levels=2, periodic=periodic, batch_norm=True, published=True)
    assert [layer.kernel_size for layer in network.down] == kernels
    assert not any(tensor.any() for tensor in network.last.parameters())  # zero start
    shaken(network)
    parts = {name: weights(network.get_submodule(name)) for name in ("first", "down", "inside", "up", "outside")}
    parts["last"] = {f"last.{name}": value for name, value in weights(network.last).items()}
    image = images(2, 3, *shape)
    made = network(image).numpy()
    for row in range(2):
        expected = reference.unet(image[row].numpy(), parts, 2, periodic=periodic)
        np.testing.assert_allclose(made[row], np.moveaxis(expected, 0, -1), rtol=1e-10, atol=1e-12)


@torch.no_grad()
@pytest.mark.parametrize("periodic", [False, True])
def test_context_net(periodic: bool) -> None:
    """Mutation: a leaky ReLU behind the last convolution."""
    network = ContextNet(4, 3, (2, 3), periodic=periodic, published=True)
    shaken(network)
    context = images(2, 4, 6, 6)
    made = network(context).numpy()
    for row in range(2):
        expected = reference.context_net(context[row].numpy(), weights(network.layers), periodic=periodic)
        np.testing.assert_allclose(made[row], expected, rtol=1e-10, atol=1e-12)
    assert (made < -0.05).any()


@torch.no_grad()
def test_the_first_layer_sees_two_numbers_as_they_are() -> None:
    flow = ConvolutionalFlow((6, 6), 2, steps=1, hidden_channels=2, published=True, plain_context=True)
    assert isinstance(flow.context, Subsample)
    numbers = torch.tensor([[0.3, -2.0]]).view(1, 2, 1, 1).expand(1, 2, 6, 6)
    assert torch.equal(flow.context(numbers), numbers[:, :, :3, :3])
    assert flow.couplings[0].network.first[0].in_channels == 2 + 2  # two channels of the image, two numbers


@torch.no_grad()
def test_one_by_one_convolution() -> None:
    """Mutations: the permutation behind the product, U L instead of L U, no bias."""
    torch.manual_seed(3)
    module = PermutedConvolution(4).double()
    assert sum(p.numel() for p in module.parameters()) == 16 + 4
    image = images(2, 4, 3, 2)
    order = module.permutation.argmax(dim=1)
    assert sorted(order.tolist()) == [0, 1, 2, 3]
    start, logdet = module(image)
    assert torch.equal(start, image[:, order])  # the identity behind a permutation
    assert torch.equal(logdet, torch.zeros(2, dtype=torch.float64))
    for parameter in module.parameters():
        parameter.copy_(0.5 * torch.randn_like(parameter))
    made, logdet = module(image)
    lower, upper, scales, bias = (t.numpy() for t in (module.lower, module.upper, module.log_scale.exp(), module.bias))
    for row in range(2):
        expected = reference.mixing(image[row].numpy(), order.numpy(), lower, upper, scales, bias)
        np.testing.assert_allclose(made[row], expected, rtol=1e-12, atol=1e-12)
    assert logdet.tolist() == pytest.approx([6 * math.log(abs(np.prod(scales)))] * 2)
    back, log_inverse = module.inverse(made)
    torch.testing.assert_close(back, image)
    assert torch.equal(log_inverse, -logdet)


@torch.no_grad()
@pytest.mark.parametrize("whole_rows", [True, False])
@pytest.mark.parametrize(("spline", "batch_norm"), [("rqs", True), ("cubic", False)], ids=["data set 1", "data set 2"])
def test_coupling_flow_of_caloinn(spline: str, batch_norm: bool, whole_rows: bool) -> None:
    """Mutations: the smaller half passive, no norm in front of the second block, a permutation the other way round."""
    settings = {"bins": 10, "bound": 3.0, "least": 1e-3, "whole_rows": whole_rows}
    order = torch.tensor([3, 0, 4, 1, 6, 2, 5])
    flow = CouplingFlow(
        features=7,
        context_features=1,
        blocks=2,
        hidden_features=9,
        layers=4 if batch_norm else 3,
        permutations=[order],
        spline=spline,  # type: ignore[arg-type]
        splines=SplineSettings(10, 3.0, 1e-3, 1e-3, 1e-3),
        act_norm=True,
        batch_norm=batch_norm,
        whole_rows=whole_rows,
    )
    permutation = flow.permutations[0].index.clone()
    shaken(flow)
    flow.permutations[0].set_index(permutation)
    x, condition = 2 * images(6, 7), images(6, 1)
    outside = (x[:, 4:].abs() > 3).any(dim=1)
    assert 0 < int(outside.sum()) < 6
    made, logdet = flow(x, condition)
    torch.testing.assert_close(flow.inverse(made, condition)[0], x)
    (norm,) = flow.norms
    mean, scale = norm.mean.numpy(), np.exp(norm.log_scale.numpy())
    networks = [weights(block.network) for block in flow.blocks]
    for row in range(6):
        own = condition[row].numpy()
        values, first = reference.coupling_block(x[row].numpy(), own, networks[0], spline, **settings)
        values = (values[order.numpy()] - mean) * scale
        values, second = reference.coupling_block(values, own, networks[1], spline, **settings)
        np.testing.assert_allclose(made[row], values, rtol=1e-9, atol=1e-10)
        assert float(logdet[row]) == pytest.approx(first + second + np.log(scale).sum(), rel=1e-9)


@torch.no_grad()
@pytest.mark.parametrize(
    ("order", "kinds"),
    [("caloclouds2", "apapap ps apapap"), ("caloclouds3", "apapap sp apapap")],
)
def test_shower_flow(order: str, kinds: str) -> None:
    """Mutations: no hyperbolic tangent, the larger half kept, splines that see the features, the other order."""
    flow = ShowerFlow(5, 3, blocks=1, order=order, affine_hidden=8, spline_hidden=6)  # type: ignore[arg-type]
    indices = [layer.index.clone() for layer in flow.layers if hasattr(layer, "index")]
    shaken(flow)
    names = {"a": "affine", "p": "permutation", "s": "spline"}
    kept, steps = iter(indices), []
    for layer, kind in zip(flow.layers, kinds.replace(" ", ""), strict=True):
        if kind == "p":
            layer.index.copy_(next(kept))
            steps.append((names[kind], [layer.index.numpy()]))
        else:
            steps.append((names[kind], list(weights(layer).values())))
    z, condition = images(4, 5), images(4, 3)
    made = flow.sample_reference(z, condition).numpy()
    density = flow.log_prob(torch.from_numpy(made), condition)
    for row in range(4):
        expected, logdet = reference.shower_flow(z[row].numpy(), condition[row].numpy(), steps, 8, 3.0)
        np.testing.assert_allclose(made[row], expected, rtol=1e-10, atol=1e-12)
        base = -0.5 * float(z[row].square().sum()) - 2.5 * math.log(2 * math.pi)
        assert float(density[row]) == pytest.approx(base - logdet, rel=1e-9)
    np.testing.assert_allclose(flow.sample(z, condition), made, rtol=1e-9, atol=1e-10)


@torch.no_grad()
def test_sizes_of_the_shower_flow_follow_its_outputs() -> None:
    flow = ShowerFlow(60, 4, blocks=1, order="caloclouds3")
    assert flow.layers[0].network[0].weight.shape == (600, 30 + 4)
    assert flow.layers[6].network[0].weight.shape == (240, 4)
    assert (flow.bins, flow.bound) == (8, 3.0)


@torch.no_grad()
def test_pointwise_net() -> None:
    """Mutations: leaky ReLU behind the last layer, a bias of the shift, cosines in front of the sines, no 2 pi."""
    network = PointWiseNet((6, 9, 6), 2, time_features=8)
    shaken(network)
    layers = []
    for layer in network.gated_layers():
        own = (layer.linear.weight, layer.linear.bias, layer.gate.weight, layer.gate.bias, layer.shift.weight)
        assert layer.shift.bias is None
        layers.append([tensor.numpy() for tensor in own])
    time = [network.time.weight.numpy(), network.time.bias.numpy()]
    points, noise, condition = images(7, 4), torch.tensor([0.3, -1.1], dtype=torch.float64), images(2, 2)
    offsets = torch.tensor([0, 3, 7])
    made = network(points, noise, condition, offsets).numpy()
    for number in range(7):
        shower = int(number >= 3)
        expected = reference.pointwise_net(
            points[number].numpy(),
            float(noise[shower]),
            condition[shower].numpy(),
            network.frequencies.numpy(),
            time,
            layers,
        )
        np.testing.assert_allclose(made[number], expected, rtol=1e-9, atol=1e-11)
