"""The exact fast inverse against D full passes, over random networks of every shape."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from caloforge.errors import UsageError
from caloforge.nn import MaskedAutoregressiveFlow
from caloforge.nn.permutations import random_all


def random_flow(seed, *, features, hidden, layers, bins=8, context=2, masks="even", blocks=2, dtype=torch.float64):
    torch.manual_seed(seed)
    flow = MaskedAutoregressiveFlow(
        features=features, context_features=context, blocks=blocks, hidden_features=hidden, hidden_layers=layers,
        bins=bins, masks=masks, permutations=[random_all(features, seed=seed, stream=k) for k in range(blocks - 1)],
        dropout=0.3,
    )  # fmt: skip
    return flow.to(dtype)


def random_points(flow, count, seed, dtype=torch.float64):
    generator = torch.Generator().manual_seed(seed)
    z = 2 * torch.randn(count, flow.features, generator=generator, dtype=torch.float64)
    if not flow.context_features:
        return z.to(dtype), None
    return z.to(dtype), torch.randn(count, flow.context_features, generator=generator, dtype=torch.float64).to(dtype)


@settings(deadline=None, max_examples=40)
@given(
    seed=st.integers(0, 10**6), features=st.integers(1, 40), hidden=st.integers(1, 60), layers=st.integers(0, 3),
    bins=st.integers(1, 9), context=st.integers(0, 3), masks=st.sampled_from(["even", "published"]),
    count=st.integers(1, 20),
)  # fmt: skip
def test_equals_full_passes_in_float64(seed, features, hidden, layers, bins, context, masks, count):
    flow = random_flow(seed, features=features, hidden=hidden, layers=layers, bins=bins, context=context, masks=masks)
    z, conditions = random_points(flow, count, seed)
    x, logdet = flow.inverse(z, conditions)
    flow.eval()
    with torch.no_grad():
        expected, expected_logdet = flow.inverse_reference(z, conditions)
        again, forward_logdet = flow(x, conditions)
    torch.testing.assert_close(x, expected, rtol=0, atol=1e-9)
    torch.testing.assert_close(logdet, expected_logdet, rtol=0, atol=1e-9)
    torch.testing.assert_close(again, z, rtol=0, atol=1e-9)
    torch.testing.assert_close(forward_logdet, -logdet, rtol=0, atol=1e-8)


def test_shapes_that_do_not_fit_are_refused():
    flow = random_flow(0, features=4, hidden=5, layers=1)
    with pytest.raises(UsageError):
        flow.inverse(torch.zeros(3, 5, dtype=torch.float64), torch.zeros(3, 2, dtype=torch.float64))
    with pytest.raises(UsageError):
        flow.inverse(torch.zeros(3, 4, dtype=torch.float64), None)
