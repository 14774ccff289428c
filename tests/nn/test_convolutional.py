"""Convolutional flows: squeeze, determinant of the 1 x 1 convolution, U-Net, Jacobian, inverse."""

from __future__ import annotations

import pytest
import torch

from caloforge.errors import ConfigError
from caloforge.nn.convolutional import (
    ConvolutionalFlow,
    ImageCoupling,
    InvertibleConvolution,
    Squeeze,
    UNet,
    least_factor,
)
from caloforge.nn.splines import SplineSettings

LEAST = (1e-3, 1e-3, 1e-3)
SHAPES = [(4, 6), (2, 1), (3, 3), (1, 5)]


def images(rows: int, *shape: int, seed: int = 0) -> torch.Tensor:
    return torch.randn(rows, *shape, dtype=torch.float64, generator=torch.Generator().manual_seed(seed))


def new_flow(shape: tuple[int, int] = (4, 6), **changes) -> ConvolutionalFlow:
    torch.manual_seed(4)
    settings = {
        "steps": 2,
        "hidden_channels": 3,
        "context_channels": 2,
        "splines": SplineSettings(5, 4.0, *LEAST),
    } | changes
    flow = ConvolutionalFlow(shape, 2, **settings).double()
    for name, parameter in flow.named_parameters():
        if not name.startswith("mixings"):
            torch.nn.init.normal_(parameter, std=0.3)
    return flow.eval()


@pytest.mark.parametrize(("number", "factor"), [(1, 1), (2, 2), (9, 3), (25, 5), (30, 2), (49, 7), (13, 13)])
def test_least_factor(number, factor):
    assert least_factor(number) == factor


def test_squeeze_moves_neighbours_into_channels_and_back():
    image = torch.arange(48.0).reshape(1, 2, 4, 6)
    squeezed = Squeeze((2, 3))(image)
    assert squeezed.shape == (1, 12, 2, 2)
    assert squeezed[0, :6, 0, 0].tolist() == [0, 1, 2, 6, 7, 8]
    assert torch.equal(Squeeze((2, 3)).inverse(squeezed), image)


@pytest.mark.parametrize("channels", [1, 2, 7])
def test_determinant_of_the_convolution(channels):
    torch.manual_seed(1)
    mixing = InvertibleConvolution(channels).double()
    rotation = mixing.weight().detach()
    torch.testing.assert_close(rotation @ rotation.t(), torch.eye(channels, dtype=torch.float64), atol=1e-5, rtol=0)
    with torch.no_grad():
        for parameter in mixing.parameters():
            parameter.add_(0.3 * torch.randn_like(parameter))
    image = images(3, channels, 2, 5)
    mixed, logdet = mixing(image)
    expected = 10 * torch.linalg.slogdet(mixing.weight()).logabsdet
    torch.testing.assert_close(logdet, expected.expand(3))
    torch.testing.assert_close(mixed, torch.nn.functional.conv2d(image, mixing.weight()[:, :, None, None]))
    back, log_inverse = mixing.inverse(mixed)
    torch.testing.assert_close(back, image)
    assert torch.equal(log_inverse, -logdet)


@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("periodic", [False, True])
def test_jacobian_is_the_one_that_autograd_finds(shape, periodic):
    flow = new_flow(shape, periodic=periodic)
    image, context = images(2, *shape), images(2, 2, *shape, seed=1)
    logdet = flow(image, context)[1].detach()
    for row in range(2):
        jacobian = torch.autograd.functional.jacobian(
            lambda v, c=context[row : row + 1]: flow(v.view(1, *shape), c)[0][0], image[row].flatten()
        )
        assert float(torch.linalg.slogdet(jacobian).logabsdet) == pytest.approx(float(logdet[row]), abs=1e-8)


@pytest.mark.parametrize("shape", SHAPES)
@torch.no_grad()
def test_inverse_undoes_forward(shape):
    flow = new_flow(shape)
    latents, context = images(50, shape[0] * shape[1]), images(50, 2, *shape, seed=1)
    image, log_inverse = flow.inverse(latents, context)
    assert image.shape == (50, *shape)
    back, log_forward = flow(image, context)
    torch.testing.assert_close(back, latents, rtol=0, atol=1e-7)
    torch.testing.assert_close(log_forward, -log_inverse, rtol=0, atol=1e-6)


@torch.no_grad()
def test_density_integrates_to_one():
    flow = new_flow((2, 1))
    points = torch.linspace(-9, 9, 501, dtype=torch.float64)
    grid = torch.cartesian_prod(points, points).view(-1, 2, 1)
    density = flow.log_prob(grid, images(1, 2, 2, 1, seed=1).expand(len(grid), -1, -1, -1)).exp()
    assert float(density.sum() * (18 / 500) ** 2) == pytest.approx(1.0, abs=5e-3)


@torch.no_grad()
def test_a_periodic_axis_has_no_seam():
    torch.manual_seed(2)
    network = UNet(1, 1, (6, 5), channels=4, levels=0, periodic=True, batch_norm=False).double()
    torch.nn.init.normal_(network.last.weight)
    image = images(1, 1, 6, 5)
    turned = network(image.roll(1, dims=2))
    # The network leaves the channels last.
    torch.testing.assert_close(turned, network(image).roll(1, dims=1))
    assert not torch.allclose(network(image.roll(1, dims=3)), network(image).roll(1, dims=2))


@torch.no_grad()
def test_a_deep_network_sees_the_whole_image():
    torch.manual_seed(2)
    network = UNet(1, 1, (15, 15), channels=4, levels=2, periodic=False, batch_norm=True).double().eval()
    torch.nn.init.normal_(network.last.weight)
    assert [layer.kernel_size for layer in network.down] == [(3, 3), (5, 5)]
    image = images(1, 1, 15, 15)
    other = image.clone()
    other[0, 0, 0, 0] += 1
    assert (network(other) - network(image))[0, 14, 14, 0].abs() > 0


@torch.no_grad()
def test_couplings_begin_as_the_identity_and_norms_from_the_data():
    torch.manual_seed(1)
    coupling = ImageCoupling(
        5,
        1,
        (2, 2),
        hidden_channels=2,
        levels=1,
        splines=SplineSettings(6, 4.0, *LEAST),
        periodic=False,
        batch_norm=True,
    )
    image, context = images(4, 5, 2, 2).float(), images(4, 1, 2, 2).float()
    same, logdet = coupling(image, context)
    torch.testing.assert_close(same, image)
    torch.testing.assert_close(logdet, torch.zeros(4), atol=1e-4, rtol=0)
    flow = (
        ConvolutionalFlow((4, 4), 1, steps=3, hidden_channels=2, splines=SplineSettings(10, 4.0, *LEAST))
        .double()
        .eval()
    )
    data, context = 5 + 3 * images(500, 4, 4, seed=1), images(500, 1, 4, 4)
    before = {name: value.clone() for name, value in flow.state_dict().items()}
    flow.start_norms(data)
    assert {name for name, value in flow.state_dict().items() if not torch.equal(value, before[name])} == {
        f"norms.{k}.{name}" for k in range(3) for name in ("mean", "log_scale")
    }
    z, _ = flow(data, context)
    assert float(z.mean().abs()) < 0.2
    assert float(z.std()) == pytest.approx(1, abs=0.2)


def test_impossible_settings_are_refused():
    with pytest.raises(ConfigError, match="at least two channels"):
        ConvolutionalFlow((1, 1), 1, steps=1, hidden_channels=2)
    with pytest.raises(ConfigError, match="at least one step"):
        ConvolutionalFlow((2, 2), 1, steps=0, hidden_channels=2)
    with pytest.raises(ConfigError, match="bin width"):
        SplineSettings(10, 15.0, 0.5, 0.5, 0.5)
