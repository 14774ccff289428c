"""The optimiser against PyTorch's own."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from caloforge.kernels.ops.registry import plain_only
from caloforge.training.adam import Adam


def _parameters() -> list[nn.Parameter]:
    generator = torch.Generator().manual_seed(1)
    masked = torch.randn(150, 200, generator=generator).tril()  # as the weights of a MADE
    return [nn.Parameter(t) for t in (masked, torch.randn(77, generator=generator), torch.zeros(5, 100))]


def _set_gradients(parameters: list[nn.Parameter], step: int) -> None:
    generator = torch.Generator().manual_seed(step)
    for number, parameter in enumerate(parameters):
        gradient = torch.randn(parameter.shape, generator=generator)
        if number == 0:
            gradient = gradient.tril()
        if number == 2:  # rows that are zero for a while, and then less and less so
            gradient[:, max(0, 10 * (step - 4)) :] = 0
        parameter.grad = gradient


def _pair(decay: float, decoupled: bool) -> tuple[list[nn.Parameter], Adam, list[nn.Parameter], torch.optim.Optimizer]:
    ours, theirs = _parameters(), _parameters()
    peer = torch.optim.AdamW if decoupled else torch.optim.Adam
    return (
        ours,
        Adam(ours, 1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=decay, decoupled=decoupled),
        theirs,
        peer(theirs, 1e-2, betas=(0.9, 0.99), eps=1e-8, weight_decay=decay),
    )


def _assert_close(ours: list[nn.Parameter], theirs: list[nn.Parameter]) -> None:
    for a, b in zip(ours, theirs, strict=True):
        assert (a - b).detach().abs().max() < 1e-6


@pytest.mark.parametrize("plain", [False, True])
@pytest.mark.parametrize("decoupled", [False, True])
@pytest.mark.parametrize("decay", [0.0, 0.1])
def test_it_steps_as_the_optimiser_of_pytorch(decay, decoupled, plain):
    """Wrong if the extent of a row does not grow with its gradients, or the decay acts on the wrong side."""
    ours, adam, theirs, peer = _pair(decay, decoupled)
    for step in range(14):
        _set_gradients(ours, step)
        _set_gradients(theirs, step)
        if plain:
            with plain_only():
                adam.step()
        else:
            adam.step()
        peer.step()
    _assert_close(ours, theirs)
    if not decay:
        assert (ours[0].triu(1) == 0).all()


def test_its_state_is_that_of_pytorch():
    """Checkpoints of either can be resumed with the other; wrong if extents of other moments outlive the loading."""
    ours, adam, theirs, peer = _pair(0.0, False)
    for step in range(6):
        _set_gradients(ours, step)
        adam.step()
    peer.load_state_dict(copy.deepcopy(adam.state_dict()))
    with torch.no_grad():
        for a, b in zip(ours, theirs, strict=True):
            b.copy_(a)
    for step in range(6, 10):
        _set_gradients(theirs, step)
        peer.step()
    adam.load_state_dict(copy.deepcopy(peer.state_dict()))
    with torch.no_grad():
        for a, b in zip(ours, theirs, strict=True):
            a.copy_(b)
    for step in (3, 2):  # gradients that are zero where moments no longer are
        _set_gradients(ours, step)
        _set_gradients(theirs, step)
        adam.step()
        peer.step()
    _assert_close(ours, theirs)


def test_float64_and_parameters_without_a_gradient():
    one, other = nn.Parameter(torch.ones(3, dtype=torch.float64)), nn.Parameter(torch.ones(3))
    adam = Adam([one, other], 0.1, betas=(0.9, 0.999), eps=1e-8, weight_decay=0.0, decoupled=False)
    one.grad = torch.tensor([1.0, -2.0, 0.0], dtype=torch.float64)
    adam.step()
    assert torch.allclose(one.detach(), torch.tensor([0.9, 1.1, 1.0], dtype=torch.float64), atol=1e-7)
    assert (other == 1).all()
