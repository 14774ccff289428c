"""Convolutional coupling flows on images: squeeze, 1 x 1 convolutions, U-Nets (arXiv:1807.03039, arXiv:2405.20407).

An image is first squeezed: neighbouring pixels become channels. Every step then is an activation norm, a coupling whose
splines a U-Net sets from half of the channels and from context images, and an invertible 1 x 1 convolution, which mixes
the channels so that the next coupling has other halves. One pass in either direction.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable
from typing import cast

import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError
from caloforge.kernels.ops.splines import raw_parameter_count
from caloforge.nn.batch_layers import BatchNorm2d
from caloforge.nn.coupling import ActNorm
from caloforge.nn.flow import log_density
from caloforge.nn.small_images import SameConvolution, StepConvolution, StepTransposedConvolution
from caloforge.nn.splines import SplineBlock, SplineSettings

__all__ = [
    "ContextNet",
    "ConvolutionalFlow",
    "ImageCoupling",
    "InvertibleConvolution",
    "PermutedConvolution",
    "Squeeze",
    "Subsample",
    "UNet",
    "least_factor",
]

_SPLINES = SplineSettings(10, 15.0, 1e-3, 1e-3, 1e-3)

Shape = tuple[int, int]


def least_factor(number: int) -> int:
    """Smallest prime factor of a number; 1 of 1."""
    return next((k for k in range(2, math.isqrt(number) + 1) if number % k == 0), number)


def _factors(shape: Shape) -> Shape:
    return least_factor(shape[0]), least_factor(shape[1])


def _block(inputs: int, outputs: int, *, periodic: bool, batch_norm: bool) -> nn.Sequential:
    """Two 3 x 3 convolutions, each with (batch norm and) leaky ReLU behind it."""
    modules: list[nn.Module] = []
    for source in (inputs, outputs):
        modules.append(SameConvolution(source, outputs, periodic=periodic))
        modules += [BatchNorm2d(outputs), nn.LeakyReLU()] if batch_norm else [nn.LeakyReLU()]
    return nn.Sequential(*modules)


class Squeeze(nn.Module):
    """Blocks of a x b pixels become channels: (N, C, H, W) to (N, C a b, H / a, W / b); only a change of order.

    Args:
        factors: a and b.
    """

    def __init__(self, factors: Shape) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, image: Tensor) -> Tensor:
        """Pixels to channels."""
        n, c, h, w = image.shape
        a, b = self.factors
        return image.reshape(n, c, h // a, a, w // b, b).permute(0, 1, 3, 5, 2, 4).reshape(n, c * a * b, h // a, w // b)

    def inverse(self, image: Tensor) -> Tensor:
        """Channels to pixels."""
        n, c, h, w = image.shape
        a, b = self.factors
        return image.reshape(n, c // (a * b), a, b, h, w).permute(0, 1, 4, 2, 5, 3).reshape(n, -1, h * a, w * b)


class InvertibleConvolution(nn.Module):
    """A 1 x 1 convolution that keeps the number of channels, in the form P L U (arXiv:1807.03039, section 3.2).

    The permutation P is fixed; L has ones on its diagonal and U has ``sign * exp(log_scale)``, so the determinant is known
    and never zero. It starts as a random rotation.

    Args:
        channels: number of channels.
    """

    permutation: Tensor
    sign: Tensor
    below: Tensor
    above: Tensor

    def __init__(self, channels: int) -> None:
        super().__init__()
        rotation = torch.linalg.qr(torch.randn(channels, channels, dtype=torch.float64, device="cpu"))[0]
        permutation, lower, upper = torch.linalg.lu(rotation)
        diagonal = upper.diagonal()
        self.register_buffer("permutation", permutation.float())
        self.register_buffer("sign", diagonal.sign().float())
        self.log_scale = nn.Parameter(diagonal.abs().log().float())
        #: Places of the numbers of both triangles, row by row.
        self.register_buffer("below", torch.tril_indices(channels, channels, -1, device="cpu"), persistent=False)
        self.register_buffer("above", torch.triu_indices(channels, channels, 1, device="cpu"), persistent=False)
        self.lower = nn.Parameter(lower[tuple(self.below)].float())
        self.upper = nn.Parameter(upper[tuple(self.above)].float())

    def _triangles(self) -> tuple[Tensor, Tensor]:
        unit = torch.eye(len(self.sign), dtype=self.lower.dtype, device=self.lower.device)
        upper = torch.diag(self.sign * torch.exp(self.log_scale)).index_put(tuple(self.above), self.upper)
        return unit.index_put(tuple(self.below), self.lower), upper

    def weight(self) -> Tensor:
        """The matrix (channels, channels)."""
        lower, upper = self._triangles()
        return self.permutation @ lower @ upper

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, C, H, W) to mixed images and the log-determinant (N,)."""
        mixed = torch.einsum("ij,njhw->nihw", self.weight(), image)
        return mixed, (image.shape[2] * image.shape[3] * self.log_scale.sum()).expand(image.shape[0])

    def inverse(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """Undo :meth:`forward`; log-determinant of the inverse (N,)."""
        logdet = -(image.shape[2] * image.shape[3] * self.log_scale.sum()).expand(image.shape[0])
        return self._solved(torch.einsum("ji,njhw->nihw", self.permutation, image)), logdet

    def _solved(self, image: Tensor) -> Tensor:
        """Images behind L U (N, C, H, W) to those in front of it."""
        lower, upper = self._triangles()
        n, c, h, w = image.shape
        columns = image.transpose(0, 1).flatten(1)
        columns = torch.linalg.solve_triangular(lower, columns, upper=False, unitriangular=True)
        columns = torch.linalg.solve_triangular(upper, columns, upper=True)
        return cast("Tensor", columns.reshape(c, n, h, w).transpose(0, 1))


class PermutedConvolution(InvertibleConvolution):
    """The 1 x 1 convolution of convolutional L2LFlows: L U behind a random permutation, and a bias (arXiv:2405.20407).

    It starts as that permutation.

    Args:
        channels: number of channels.
    """

    def __init__(self, channels: int) -> None:
        super().__init__(channels)
        self.permutation = torch.eye(channels, device="cpu")[torch.randperm(channels, device="cpu")]
        self.sign = torch.ones(channels, device="cpu")
        self.bias = nn.Parameter(torch.zeros(channels))
        for parameter in self.parameters():
            nn.init.zeros_(parameter)

    def weight(self) -> Tensor:
        """See :meth:`InvertibleConvolution.weight`."""
        lower, upper = self._triangles()
        return lower @ upper @ self.permutation

    def forward(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`InvertibleConvolution.forward`."""
        mixed, logdet = super().forward(image)
        return mixed + self.bias[:, None, None], logdet

    def inverse(self, image: Tensor) -> tuple[Tensor, Tensor]:
        """See :meth:`InvertibleConvolution.inverse`."""
        logdet = -(image.shape[2] * image.shape[3] * self.log_scale.sum()).expand(image.shape[0])
        before = self._solved(image - self.bias[:, None, None])
        return torch.einsum("ji,njhw->nihw", self.permutation, before), logdet


class UNet(nn.Module):
    """A U-Net whose down- and up-sampling steps are as wide as the smallest factors of the image's sides.

    Every level halves, thirds or fifths the image by a convolution with a kernel as wide as its step, until nothing is
    left to divide or ``levels`` are done; on the way back the images of the same size are put beside each other. The last
    convolution starts at zero.

    ``published`` is the network of arXiv:2405.20407: its last 3 x 3 convolution gives the outputs, and at the bottom there is
    nothing but an activation. Otherwise a 1 x 1 convolution follows it, and the bottom, if larger than one pixel, has a block.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        shape: height and width of the image.
        channels: channels of the first level; every level has twice as many.
        levels: most levels below the first.
        periodic: whether the first axis closes on itself.
        batch_norm: normalise over the batch behind every 3 x 3 convolution.
        published: see above.
    """

    last: nn.Linear | SameConvolution

    def __init__(
        self,
        inputs: int,
        outputs: int,
        shape: Shape,
        *,
        channels: int,
        levels: int,
        periodic: bool,
        batch_norm: bool,
        published: bool = False,
    ) -> None:
        super().__init__()
        self.first = _block(inputs, channels, periodic=periodic, batch_norm=batch_norm)
        self.down, self.inside, self.up, self.outside = (nn.ModuleList() for _ in range(4))
        while len(self.down) < levels and shape != (1, 1):
            step = _factors(shape)
            self.down.append(StepConvolution(channels, 2 * channels, step))
            small = (shape[0] // step[0], shape[1] // step[1])
            # In an image of one pixel a 3 x 3 convolution has nothing to look at.
            bottom = small == (1, 1) or (published and len(self.down) == levels)
            inside = _block(2 * channels, 2 * channels, periodic=periodic, batch_norm=batch_norm)
            self.inside.append(nn.LeakyReLU() if bottom else inside)
            self.up.insert(0, StepTransposedConvolution(2 * channels, channels, step))
            self.outside.insert(0, _block(2 * channels, channels, periodic=periodic, batch_norm=batch_norm))
            shape, channels = small, 2 * channels
        width = cast("nn.Conv2d", self.first[0]).out_channels
        if published:
            ends = self.outside[-1] if self.outside else self.first
            del cast("nn.Sequential", ends)[-2 if not batch_norm else -3 :]
            self.last = SameConvolution(width, outputs, periodic=periodic)
        else:
            #: A 1 x 1 convolution, as a product that leaves the channels last, where splines want them.
            self.last = nn.Linear(width, outputs)
        nn.init.zeros_(self.last.weight)
        assert self.last.bias is not None
        nn.init.zeros_(self.last.bias)

    def forward(self, image: Tensor) -> Tensor:
        """Images (N, inputs, H, W) to images (N, H, W, outputs)."""
        image = self.first(image)
        kept = []
        for down, inside in zip(self.down, self.inside, strict=True):
            kept.append(image)
            image = inside(down(image))
        for up, outside in zip(self.up, self.outside, strict=True):
            image = outside(torch.cat([up(image), kept.pop()], dim=1))
        if isinstance(self.last, SameConvolution):
            image = self.last(image)
            return image.movedim(1, -1)
        result: Tensor = self.last(image.movedim(1, -1))
        return result


class ContextNet(nn.Module):
    """Context images at full size to channels at the squeezed size: 1 x 1, 3 x 3, strided and 3 x 3 convolutions.

    Args:
        inputs: context images.
        outputs: channels that come out, also inside.
        factors: those of the squeeze.
        periodic: whether the first axis closes on itself.
        published: as in arXiv:2405.20407, without an activation behind the last convolution.
    """

    def __init__(self, inputs: int, outputs: int, factors: Shape, *, periodic: bool, published: bool = False) -> None:
        super().__init__()
        self.layers = nn.Sequential(
            nn.Conv2d(inputs, outputs, 1),
            nn.LeakyReLU(),
            SameConvolution(outputs, outputs, periodic=periodic),
            nn.LeakyReLU(),
            StepConvolution(outputs, outputs, factors),
            nn.LeakyReLU(),
            SameConvolution(outputs, outputs, periodic=periodic),
            nn.Identity() if published else nn.LeakyReLU(),
        )

    def forward(self, images: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / a, W / b)."""
        result: Tensor = self.layers(images)
        return result


class Subsample(nn.Module):
    """The first pixel of every block of a x b pixels: for images that are the same everywhere.

    Args:
        factors: a and b.
    """

    def __init__(self, factors: Shape) -> None:
        super().__init__()
        self.factors = factors

    def forward(self, images: Tensor) -> Tensor:
        """(N, K, H, W) to (N, K, H / a, W / b)."""
        a, b = self.factors
        return images[:, :, ::a, ::b]


class ImageCoupling(SplineBlock):
    """The first ``ceil(C / 2)`` channels and the context set a spline for every pixel of the other channels.

    Args:
        channels: channels C, at least 2.
        context_channels: channels of the context.
        shape: height and width of the image.
        hidden_channels: channels of the U-Net's first level.
        levels: most levels of the U-Net.
        splines: bins, interval and least sizes of the splines.
        periodic: whether the first axis closes on itself.
        batch_norm: batch norm in the U-Net.
        published: the U-Net as published.

    Raises:
        ConfigError: if a setting is out of range.
    """

    def __init__(
        self,
        channels: int,
        context_channels: int,
        shape: Shape,
        *,
        hidden_channels: int,
        levels: int,
        splines: SplineSettings,
        periodic: bool,
        batch_norm: bool,
        published: bool = False,
    ) -> None:
        super().__init__(splines)
        if channels < 2:
            raise ConfigError(f"a coupling of images needs at least two channels, not {channels}")
        self.passive = (channels + 1) // 2
        self.active = channels - self.passive
        self.network = UNet(
            self.passive + context_channels,
            self.active * raw_parameter_count(splines.bins),
            shape,
            channels=hidden_channels,
            levels=levels,
            periodic=periodic,
            batch_norm=batch_norm,
            published=published,
        )
        # Raw parameters at zero would bend the spline at the knots; these make it the identity.
        start = torch.zeros(self.active, raw_parameter_count(splines.bins))
        start[:, 2 * splines.bins :] = math.log(math.expm1(1 - splines.min_derivative))
        assert self.network.last.bias is not None
        with torch.no_grad():
            self.network.last.bias.copy_(start.flatten())

    def _run(self, image: Tensor, context: Tensor, *, inverse: bool) -> tuple[Tensor, Tensor]:
        passive, active = image[:, : self.passive], image[:, self.passive :]
        raw = self.network(torch.cat([passive, context], dim=1)).unflatten(-1, (self.active, -1))
        active, logabsdet = self.spline(active.movedim(1, -1), raw, inverse=inverse)
        return torch.cat([passive, active.movedim(-1, 1)], dim=1), logabsdet.flatten(1).sum(dim=1)

    def forward(self, image: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Data to latent: images (N, C, H, W), context (N, K, H, W) to images and log-determinants (N,)."""
        return self._run(image, context, inverse=False)

    def inverse(self, image: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Latent to data; shapes as in :meth:`forward`."""
        return self._run(image, context, inverse=True)


class ConvolutionalFlow(nn.Module):
    """Squeeze, then steps of activation norm, coupling and 1 x 1 convolution, on a standard normal base distribution.

    Args:
        shape: height and width of the image; at least one of them above 1.
        context_images: context images at full size.
        steps: number of steps.
        hidden_channels: channels of the U-Nets' first level.
        context_channels: channels of the context behind its network.
        levels: most levels of the U-Nets.
        splines: bins, interval and least sizes of the splines.
        periodic: whether the first axis closes on itself.
        batch_norm: batch norm in the U-Nets.
        published: U-Nets, context and 1 x 1 convolutions as published (arXiv:2405.20407).
        plain_context: with ``published``, show the couplings the context images themselves, which are the same everywhere:
            so it is for a layer that has none before it.

    Raises:
        ConfigError: if a setting is out of range.
    """

    def __init__(
        self,
        shape: Shape,
        context_images: int,
        *,
        steps: int,
        hidden_channels: int,
        context_channels: int = 8,
        levels: int = 2,
        splines: SplineSettings = _SPLINES,
        periodic: bool = False,
        batch_norm: bool = True,
        published: bool = False,
        plain_context: bool = False,
    ) -> None:
        super().__init__()
        if steps < 1:
            raise ConfigError(f"a flow needs at least one step, not {steps}")
        factors = _factors(shape)
        channels = factors[0] * factors[1]
        small = (shape[0] // factors[0], shape[1] // factors[1])
        self.shape = shape
        self.squeeze = Squeeze(factors)
        plain = published and plain_context
        self.context = (
            Subsample(factors)
            if plain
            else ContextNet(context_images, context_channels, factors, periodic=periodic, published=published)
        )
        self.norms = nn.ModuleList(ActNorm(channels) for _ in range(steps))
        self.couplings = nn.ModuleList(
            ImageCoupling(
                channels,
                context_images if plain else context_channels,
                small,
                hidden_channels=hidden_channels,
                levels=levels,
                splines=splines,
                periodic=periodic,
                batch_norm=batch_norm,
                published=published,
            )
            for _ in range(steps)
        )
        mixing = PermutedConvolution if published else InvertibleConvolution
        self.mixings = nn.ModuleList(mixing(channels) for _ in range(steps))

    def chain(self) -> list[tuple[ActNorm, ImageCoupling, InvertibleConvolution]]:
        """The steps in the direction from data to latent."""
        norms = cast("Iterable[ActNorm]", self.norms)
        couplings = cast("Iterable[ImageCoupling]", self.couplings)
        return list(zip(norms, couplings, cast("Iterable[InvertibleConvolution]", self.mixings), strict=True))

    @torch.no_grad()
    def start_norms(self, values: Tensor, start: Callable[[ImageCoupling, Tensor], None] | None = None) -> None:
        """Set the activation norms so that what passes them has mean 0 and standard deviation 1 (arXiv:1807.03039).

        Args:
            values: training images, (rows, H W) or (rows, H, W); the couplings must be as they begin.
            start: sets initial weights of a coupling from the channels that it transforms, (rows, A, H, W).
        """
        z = self.squeeze(values.reshape(-1, 1, *self.shape))
        for norm, coupling, mixing in self.chain():
            norm.start_from(z)
            z, _ = norm(z)
            passive, active = z[:, : coupling.passive], z[:, coupling.passive :]
            if start is not None:
                start(coupling, active)
            active = active.movedim(1, -1)
            assert coupling.network.last.bias is not None
            raw = coupling.network.last.bias.view(coupling.active, -1).expand(*active.shape, -1)
            active, _ = coupling.spline(active, raw)
            z, _ = mixing(torch.cat([passive, active.movedim(-1, 1)], dim=1))

    def forward(self, image: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Data to latent.

        Args:
            image: (N, H, W).
            context: context images, (N, K, H, W).

        Returns:
            Latents (N, H W) and log |det| (N,), nats.
        """
        conditions = self.context(context)
        z = self.squeeze(image[:, None])
        logdet = image.new_zeros(image.shape[0])
        for norm, coupling, mixing in self.chain():
            z, first = norm(z)
            z, second = coupling(z, conditions)
            z, third = mixing(z)
            logdet = logdet + first + second + third
        return z.flatten(1), logdet

    def inverse(self, latents: Tensor, context: Tensor) -> tuple[Tensor, Tensor]:
        """Latents (N, H W) to images (N, H, W), exactly, and log |det| of this direction (N,), nats."""
        conditions = self.context(context)
        z = latents.reshape(latents.shape[0], -1, *conditions.shape[2:])
        logdet = latents.new_zeros(latents.shape[0])
        for norm, coupling, mixing in reversed(self.chain()):
            z, first = mixing.inverse(z)
            z, second = coupling.inverse(z, conditions)
            z, third = norm.inverse(z)
            logdet = logdet + first + second + third
        return self.squeeze.inverse(z)[:, 0], logdet

    def log_prob(self, image: Tensor, context: Tensor) -> Tensor:
        """Logarithm of the density of images (N, H, W) given context images (N, K, H, W), nats, (N,)."""
        return log_density(*self(image, context))
