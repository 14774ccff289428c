"""Convolutions of images of a few pixels as products of matrices.

A layer of a calorimeter that is squeezed and halved is left with a few dozen pixels or less. Libraries for convolutions
are made for large images and spend nearly all of their time on bookkeeping there. Written out as a matrix between all
pixels such a convolution has more multiplications, most of them by zero, and is still several times faster on a CPU.
"""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, nn

from caloforge.nn.perceptron import dense

__all__ = ["SameConvolution", "StepConvolution", "StepTransposedConvolution", "taps"]

Shape = tuple[int, int]

#: Up to this many pixels, and from this many images on, the matrix is faster (measured with 8 to 64 channels).
_MOST_PIXELS = 36
_LEAST_IMAGES = 12


@lru_cache(maxsize=64)
def taps(shape: Shape, kernel: Shape, step: Shape, padding: Shape, periodic: bool) -> Tensor:
    """How often each element of a kernel joins an input pixel and an output pixel.

    Args:
        shape: height and width of the input.
        kernel: of the kernel.
        step: distance of neighbouring kernels.
        padding: rows above and below, and columns on both sides.
        periodic: whether the rows of the padding are those of the other end; else they are zeros, as the columns.

    Returns:
        Float32 (output pixels, input pixels, elements of the kernel).
    """
    outputs = [(shape[k] + 2 * padding[k] - kernel[k]) // step[k] + 1 for k in range(2)]
    found = torch.zeros(outputs[0], outputs[1], shape[0], shape[1], kernel[0], kernel[1])
    for p in range(outputs[0]):
        for q in range(outputs[1]):
            for i in range(kernel[0]):
                for j in range(kernel[1]):
                    row, column = p * step[0] + i - padding[0], q * step[1] + j - padding[1]
                    if periodic:
                        row %= shape[0]
                    if 0 <= row < shape[0] and 0 <= column < shape[1]:
                        found[p, q, row, column, i, j] += 1
    return found.reshape(outputs[0] * outputs[1], shape[0] * shape[1], kernel[0] * kernel[1])


def _suits(image: Tensor, pixels: int) -> bool:
    return image.device.type == "cpu" and pixels <= _MOST_PIXELS and image.shape[0] >= _LEAST_IMAGES


def _product(image: Tensor, weight: Tensor, bias: Tensor, joins: Tensor, shape: Shape) -> Tensor:
    """A convolution as a product.

    Args:
        image: (N, C, H, W).
        weight: (O, C, K), elements of the kernel last.
        bias: (O,).
        joins: (P, H W, K), from :func:`taps`.
        shape: height and width of the output, which has P pixels.
    """
    outputs, inputs, _ = weight.shape
    to, of, elements = joins.shape
    matrix = weight.reshape(-1, elements) @ joins.to(weight.dtype).reshape(-1, elements).T
    matrix = matrix.view(outputs, inputs, to, of).transpose(1, 2).reshape(outputs * to, inputs * of)
    return dense(image.flatten(1), matrix, bias.repeat_interleave(to)).view(-1, outputs, *shape)


class SameConvolution(nn.Conv2d):
    """A 3 x 3 convolution that keeps the shape.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        periodic: whether the first axis of the image closes on itself (the sectors of a polar grid do); otherwise, and along
            the second axis, there are zeros around the image.
    """

    def __init__(self, inputs: int, outputs: int, *, periodic: bool) -> None:
        super().__init__(inputs, outputs, 3)
        self.periodic = periodic

    def forward(self, image: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H, W)."""
        shape = (image.shape[2], image.shape[3])
        if _suits(image, shape[0] * shape[1]):
            assert self.bias is not None
            joins = taps(shape, (3, 3), (1, 1), (1, 1), self.periodic)
            return _product(image, self.weight.flatten(2), self.bias, joins, shape)
        if not self.periodic:
            return nn.functional.conv2d(image, self.weight, self.bias, padding=1)
        image = nn.functional.pad(image, (1, 1, 0, 0))
        wrapped = torch.cat([image[:, :, -1:], image, image[:, :, :1]], dim=2)
        return nn.functional.conv2d(wrapped, self.weight, self.bias)


class StepConvolution(nn.Conv2d):
    """A convolution whose kernel is as wide as its step: blocks of pixels become one.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        step: height and width of the blocks, which divide the image.
    """

    def __init__(self, inputs: int, outputs: int, step: Shape) -> None:
        super().__init__(inputs, outputs, step, stride=step)
        self.step = step

    def forward(self, image: Tensor) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, H / a, W / b)."""
        shape = (image.shape[2], image.shape[3])
        if _suits(image, shape[0] * shape[1]):
            assert self.bias is not None
            joins = taps(shape, self.step, self.step, (0, 0), False)
            small = (shape[0] // self.step[0], shape[1] // self.step[1])
            return _product(image, self.weight.flatten(2), self.bias, joins, small)
        return super().forward(image)


class StepTransposedConvolution(nn.ConvTranspose2d):
    """The way back from :class:`StepConvolution`: each pixel becomes a block.

    Args:
        inputs: channels that come in.
        outputs: channels that go out.
        step: height and width of the blocks.
    """

    def __init__(self, inputs: int, outputs: int, step: Shape) -> None:
        super().__init__(inputs, outputs, step, stride=step)
        self.step = step

    def forward(self, image: Tensor, output_size: list[int] | None = None) -> Tensor:
        """(N, inputs, H, W) to (N, outputs, a H, b W)."""
        large = (image.shape[2] * self.step[0], image.shape[3] * self.step[1])
        if _suits(image, large[0] * large[1]):
            assert self.bias is not None
            joins = taps(large, self.step, self.step, (0, 0), False).transpose(0, 1)
            return _product(image, self.weight.transpose(0, 1).flatten(2), self.bias, joins, large)
        return super().forward(image, output_size)
