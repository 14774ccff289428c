"""Coupling flows: Jacobian, inverse, density, normalisation, starting values."""

from __future__ import annotations

import math

import pytest
import torch

from caloforge.errors import ConfigError, UsageError
from caloforge.nn.coupling import ActNorm, CouplingFlow, SplineKind
from caloforge.nn.permutations import random_all
from caloforge.nn.splines import SplineSettings

KINDS: list[SplineKind] = ["rqs", "cubic"]


def new_flow(features: int = 5, spline: SplineKind = "rqs", context: int = 2, **changes) -> CouplingFlow:
    torch.manual_seed(3)
    settings = {"blocks": 4, "hidden_features": 12, "layers": 3, "splines": SplineSettings(6, 4.0)} | changes
    flow = CouplingFlow(
        features=features,
        context_features=context,
        spline=spline,
        permutations=[random_all(features, seed=1, stream=k) for k in range(settings["blocks"] - 1)],
        **settings,
    ).double()
    for parameter in flow.parameters():
        torch.nn.init.normal_(parameter, std=0.3)
    return flow.eval()


def values(rows: int, features: int = 5, seed: int = 0) -> torch.Tensor:
    return 1.5 * torch.randn(rows, features, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


@pytest.mark.parametrize("spline", KINDS)
@pytest.mark.parametrize("changes", [{}, {"batch_norm": True}, {"act_norm": False}])
def test_jacobian_is_the_one_that_autograd_finds(spline, changes):
    flow = new_flow(spline=spline, **changes)
    x, context = values(6), values(6, 2, seed=1)
    logdet = flow(x, context)[1].detach()
    for row in range(6):
        jacobian = torch.autograd.functional.jacobian(
            lambda v, c=context[row : row + 1]: flow(v[None], c)[0][0], x[row]
        )
        assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(float(logdet[row]), abs=1e-9)


@pytest.mark.parametrize("spline", KINDS)
@pytest.mark.parametrize("features", [2, 5, 6])
@torch.no_grad()
def test_inverse_undoes_forward(spline, features):
    flow = new_flow(features, spline)
    z, context = values(200, features), values(200, 2, seed=1)
    x, log_inverse = flow.inverse(z, context)
    back, log_forward = flow(x, context)
    torch.testing.assert_close(back, z, rtol=0, atol=1e-8)
    torch.testing.assert_close(log_forward, -log_inverse, rtol=0, atol=1e-6)
    found, _ = flow.float().inverse(z.float(), context.float())
    # Where the data lie many flat bins away from the latents, float32 has few digits left.
    assert float((found - x).abs().median()) < 1e-5


@pytest.mark.parametrize("spline", KINDS)
@torch.no_grad()
def test_density_integrates_to_one(spline):
    flow = new_flow(2, spline, context=0)
    points = torch.linspace(-10, 10, 701, dtype=torch.float64)
    grid = torch.cartesian_prod(points, points)
    assert float(flow.log_prob(grid).exp().sum() * (20 / 700) ** 2) == pytest.approx(1.0, abs=5e-3)


@torch.no_grad()
def test_every_variable_can_depend_on_every_other():
    flow = new_flow(7, blocks=6)
    x = values(1, 7)
    context = values(1, 2, seed=1)
    z, _ = flow(x, context)
    for k in range(7):
        moved = x.clone()
        moved[0, k] += 0.1
        changed = (flow(moved, context)[0] - z).abs() > 1e-12
        assert int(changed.sum()) >= 5
    assert not torch.equal(flow(x, context + 0.1)[0], z)


@torch.no_grad()
def test_a_block_leaves_its_first_half_alone():
    block = next(iter(new_flow(5).blocks))
    x, context = values(4), values(4, 2)
    y, _ = block(x, context)
    assert torch.equal(y[:, :3], x[:, :3])
    assert bool((y[:, 3:] != x[:, 3:]).all())


@torch.no_grad()
def test_activation_norm_standardises_and_inverts():
    for shape in ((50, 3), (50, 3, 4, 5)):
        x = 3 * torch.randn(shape, dtype=torch.float64, generator=torch.Generator().manual_seed(1)) + 7
        norm = ActNorm(3).double()
        norm.start_from(x)
        y, logdet = norm(x)
        rows = y.transpose(0, 1).flatten(1)
        torch.testing.assert_close(rows.mean(dim=1), torch.zeros(3, dtype=torch.float64), atol=1e-6, rtol=0)
        torch.testing.assert_close(rows.std(dim=1), torch.ones(3, dtype=torch.float64), atol=1e-6, rtol=0)
        back, log_inverse = norm.inverse(y)
        torch.testing.assert_close(back, x)
        assert torch.equal(logdet, -log_inverse)
        places = x[0, 0].numel()
        assert float(logdet[0]) == pytest.approx(places * float(norm.log_scale.sum()))


@torch.no_grad()
def test_the_data_set_the_norms_and_nothing_else():
    generator = torch.Generator().manual_seed(2)
    x = -3.5 + 0.1 * torch.randn(4000, 7, dtype=torch.float64, generator=generator)
    flow = CouplingFlow(
        features=7, context_features=0, blocks=2, hidden_features=8, layers=2, splines=SplineSettings(10, 4.0)
    ).double()
    flow.start_norms(x)
    assert all(float(parameter.abs().max()) == 0 for parameter in flow.blocks[0].network[-1].parameters())
    (norm,) = flow.norms
    between, _ = flow.blocks[0](x)
    passed, _ = norm(between)
    torch.testing.assert_close(passed.mean(dim=0), torch.zeros(7, dtype=torch.float64), atol=1e-6, rtol=0)
    torch.testing.assert_close(passed.std(dim=0), torch.ones(7, dtype=torch.float64), atol=1e-3, rtol=0)


def test_published_parameter_count_of_a_block():
    flow = CouplingFlow(
        features=373,
        context_features=1,
        blocks=1,
        hidden_features=256,
        layers=4,
        splines=SplineSettings(10),
        batch_norm=True,
    )
    # 187 passive variables and the condition, 186 active ones with 29 spline parameters, three normalised hidden layers.
    expected = (188 * 256 + 256) + 2 * (256 * 256 + 256) + (256 + 1) * 186 * 29 + 3 * 2 * 256
    assert sum(p.numel() for p in flow.parameters()) == expected


@torch.no_grad()
def test_untrained_log_prob_is_close_to_the_base_distribution():
    flow = CouplingFlow(features=6, context_features=0, blocks=2, hidden_features=8, layers=2, spline="cubic").double()
    x = values(10, 6)
    base = -0.5 * x.square().sum(dim=1) - 3 * math.log(2 * math.pi)
    assert float((flow.log_prob(x) - base).abs().max()) < 3


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"features": 1}, "at least two features"),
        ({"blocks": 0}, "at least one block"),
        ({"permutations": [[0, 1]]}, "does not fit 4 features"),
        ({"permutations": [[0, 1, 2, 3]] * 4}, "do not fit behind"),
    ],
)
def test_impossible_settings_are_refused(changes, message):
    settings = {"features": 4, "context_features": 0, "blocks": 2, "hidden_features": 4, "layers": 2} | changes
    with pytest.raises(ConfigError, match=message):
        CouplingFlow(**settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [({"min_bin_width": 0.2}, "bin width"), ({"bins": 0}, "bin"), ({"bound": 0.0}, "interval|bound")],
)
def test_impossible_splines_are_refused(settings, message):
    with pytest.raises(ConfigError, match=message):
        SplineSettings(**settings)


def test_wrong_shapes_are_refused():
    flow = new_flow()
    with pytest.raises(UsageError, match="values of shape"):
        flow(values(3, 4), values(3, 2))
    with pytest.raises(UsageError, match="context of shape"):
        flow.inverse(values(3))
