"""The conditioner: who sees whom, masked weights, and the staircase product against a plain masked one."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from caloforge.errors import ConfigError
from caloforge.nn.made import MADE, StaircaseLinear, hidden_degrees


def build(masks="even", **changes):
    torch.manual_seed(0)
    sizes = {
        "features": 7,
        "context_features": 2,
        "hidden_features": 16,
        "hidden_layers": 2,
        "parameters_per_feature": 3,
    }
    return MADE(**(sizes | changes), masks=masks).double()


@pytest.mark.parametrize("masks", ["even", "published"])
@pytest.mark.parametrize("hidden", [3, 6, 16])
@pytest.mark.parametrize("layers", [0, 1, 3])
def test_parameters_depend_on_earlier_features_only(masks, hidden, layers):
    made = build(masks, hidden_features=hidden, hidden_layers=layers)
    x, context = torch.randn(1, 7, dtype=torch.float64), torch.randn(1, 2, dtype=torch.float64)
    jacobian = torch.autograd.functional.jacobian(lambda v: made(v, context)[0].abs().sum(-1), x)[:, 0]
    assert torch.equal(jacobian, jacobian.tril(-1))


def test_even_masks_let_every_feature_condition_something():
    degrees = hidden_degrees(504, 378, "even")
    made = StaircaseLinear(torch.arange(1, 505), degrees, strict=False)
    assert made.mask.any(dim=0)[:503].all()
    assert degrees[0] == 1
    assert degrees[-1] == 503
    assert (degrees.diff() >= 0).all()
    assert torch.equal(torch.unique(hidden_degrees(20, 50, "even")), torch.arange(1, 20))


def test_published_masks_are_the_cyclic_ones_sorted():
    assert hidden_degrees(504, 378, "published").tolist() == list(range(1, 379))
    assert hidden_degrees(4, 7, "published").tolist() == [1, 1, 1, 2, 2, 3, 3]
    published = StaircaseLinear(torch.arange(1, 505), hidden_degrees(504, 378, "published"), strict=False)
    assert int(published.mask.any(dim=0).sum()) == 378  # the last 126 inputs condition nothing


def test_a_single_feature_sees_only_the_context():
    made = build(features=1, hidden_features=4)
    context = torch.randn(5, 2, dtype=torch.float64)
    x = torch.randn(5, 1, dtype=torch.float64)
    torch.testing.assert_close(made(x, context), made(x + 1, context))
    assert (made(x, context) - made(x, context + 1)).abs().max() > 1e-6


@pytest.mark.parametrize("rows", [5, 3000])
def test_staircase_product_equals_the_masked_product(rows):
    torch.manual_seed(1)
    in_degrees = torch.sort(torch.randint(1, 40, (90,))).values
    out_degrees = torch.sort(torch.randint(1, 42, (rows,))).values
    layer = StaircaseLinear(in_degrees, out_degrees, strict=True).double()
    x = torch.randn(11, 90, dtype=torch.float64, requires_grad=True)
    grad = torch.randn(11, rows, dtype=torch.float64)
    found = torch.autograd.grad(layer(x), (x, layer.weight, layer.bias), grad)

    mask = out_degrees[:, None] > in_degrees[None, :]
    weight = layer.weight.detach().clone().requires_grad_()
    expected_out = nn.functional.linear(x, weight * mask, layer.bias)
    expected = torch.autograd.grad(expected_out, (x, weight, layer.bias), grad)
    torch.testing.assert_close(layer(x), expected_out)
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b)
    with torch.no_grad():
        torch.testing.assert_close(layer(x), expected_out)


def test_masked_weights_stay_zero_through_training_and_loading():
    made = build()
    optimiser = torch.optim.AdamW(made.parameters(), lr=0.1, weight_decay=0.1)
    x, context = torch.randn(20, 7, dtype=torch.float64), torch.randn(20, 2, dtype=torch.float64)
    for _ in range(3):
        optimiser.zero_grad()
        made(x, context).square().mean().backward()
        optimiser.step()
    staircases = [module for module in made.modules() if isinstance(module, StaircaseLinear)]
    assert len(staircases) == 4
    for layer in staircases:
        assert (layer.weight[~layer.mask] == 0).all()
        assert (layer.weight[layer.mask] != 0).all()
    state = {name: torch.ones_like(value) for name, value in made.state_dict().items()}
    made.load_state_dict(state)
    for layer in staircases:
        assert torch.equal(layer.weight, layer.mask.double())


def test_autocast_runs_in_bfloat16_and_keeps_float32_gradients():
    made = build(hidden_layers=1).float()
    x, context = torch.randn(64, 7), torch.randn(64, 2)
    exact = made(x, context)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        rough = made(x, context)
    assert rough.dtype == torch.bfloat16
    torch.testing.assert_close(rough.float(), exact, rtol=0.05, atol=0.02)
    rough.float().square().sum().backward()
    assert made.output_layer.weight.grad is not None
    assert made.output_layer.weight.grad.dtype == torch.float32


def test_dropout_acts_in_training_only():
    made = build(dropout=0.5)
    x, context = torch.randn(4, 7, dtype=torch.float64), torch.randn(4, 2, dtype=torch.float64)
    assert not torch.equal(made(x, context), made(x, context))
    made.eval()
    assert torch.equal(made(x, context), made(x, context))


def test_exports_without_masks_or_host_synchronisation():
    made = build().eval()
    x, context = torch.randn(3, 7, dtype=torch.float64), torch.randn(3, 2, dtype=torch.float64)
    with torch.no_grad():
        program = torch.export.export(made, (x, context))
        torch.testing.assert_close(program.module()(x, context), made(x, context))


@pytest.mark.parametrize(
    "changes",
    [{"features": 0}, {"hidden_features": 0}, {"hidden_layers": -1}, {"dropout": 1.0}, {"context_features": -1}],
)
def test_impossible_sizes_are_refused(changes):
    with pytest.raises(ConfigError):
        build(**changes)
    with pytest.raises(ConfigError):
        build(masks="random")
