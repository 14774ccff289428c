"""The published classifier networks; each takes flat rows and gives one logit (or several) for each."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from caloforge.detectors import Readout
from caloforge.errors import UsageError

__all__ = ["CaloFlowCNN", "ResNet3d", "build_network", "dense_network"]

_SLOPE = 0.01


def dense_network(inputs: int, *, width: int, hidden: int = 3, outputs: int = 1) -> nn.Sequential:
    """Fully connected network: ``hidden`` layers of ``width`` with LeakyReLU(0.01), then a linear output.

    CaloFlow: 3 x 512 (arXiv:2106.05285, appendix A); CaloChallenge since November 2023: 3 x 2048.
    """
    layers: list[nn.Module] = []
    size = inputs
    for _ in range(hidden):
        layers += [nn.Linear(size, width), nn.LeakyReLU(_SLOPE)]
        size = width
    return nn.Sequential(*layers, nn.Linear(size, outputs))


def _layer_tower(height: int, width: int) -> nn.Sequential:
    """Convolutions of one calorimeter layer, ending in 64 maps of 2 x 2 (CaloFlow, appendix A).

    The paper leaves the kernels open. Those of the 3 x 96 layer, and pooling by whole cells where that gives 6 x 6,
    are the ones that its shapes and its count of parameters allow; other shapes are pooled adaptively.
    """
    pool: nn.Module
    if (height, width) == (3, 96):
        first = nn.Conv2d(1, 128, (3, 7), padding=(2, 0))
        second = nn.Conv2d(128, 64, (4, 7), padding=(2, 0))
        pool = nn.MaxPool2d((1, 14))
    else:
        first = nn.Conv2d(1, 128, 3, padding=1)
        second = nn.Conv2d(128, 64, 3, padding=1)
        exact = height % 6 == 0 and width % 6 == 0
        pool = nn.MaxPool2d((height // 6, width // 6)) if exact else nn.AdaptiveMaxPool2d((6, 6))
    return nn.Sequential(
        first, nn.LeakyReLU(_SLOPE), second, nn.LeakyReLU(_SLOPE), pool,
        nn.Conv2d(64, 64, 3, padding=1), nn.LeakyReLU(_SLOPE),
        nn.Conv2d(64, 64, 3, padding=1), nn.LeakyReLU(_SLOPE),
        nn.MaxPool2d(3), nn.Flatten(),
    )  # fmt: skip


class CaloFlowCNN(nn.Module):
    """CaloFlow's convolutional classifier (arXiv:2106.05285, appendix A), 1,262,913 parameters on ``calogan``.

    Takes the rows of ``caloflow_inputs``: voxels, then 1 + layers numbers that join the convolutions' outputs.
    """

    def __init__(self, readout: Readout) -> None:
        super().__init__()
        self._shapes = readout.layer_shapes
        self._sizes = [*readout.layer_sizes, 1 + readout.n_layers]
        self.towers = nn.ModuleList(_layer_tower(*shape) for shape in self._shapes)
        self.dense = dense_network(256 * readout.n_layers + 1 + readout.n_layers, width=512, hidden=2)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits, shape (N, 1), of rows (N, V + 1 + layers)."""
        *layers, conditions = torch.split(rows, self._sizes, dim=1)
        maps = [
            tower(layer.reshape(-1, 1, *shape))
            for tower, layer, shape in zip(self.towers, layers, self._shapes, strict=True)
        ]
        out: Tensor = self.dense(torch.cat([*maps, conditions], dim=1))
        return out


class _Block(nn.Module):
    """Basic residual block of ResNet-18 in three dimensions (arXiv:1512.03385)."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(
            nn.Conv3d(inputs, outputs, 3, stride, 1, bias=False), nn.BatchNorm3d(outputs), nn.ReLU(),
            nn.Conv3d(outputs, outputs, 3, 1, 1, bias=False), nn.BatchNorm3d(outputs),
        )  # fmt: skip
        same = stride == 1 and inputs == outputs
        self.shortcut = (
            nn.Identity()
            if same
            else nn.Sequential(nn.Conv3d(inputs, outputs, 1, stride, bias=False), nn.BatchNorm3d(outputs))
        )

    def forward(self, x: Tensor) -> Tensor:
        return torch.relu(self.body(x) + self.shortcut(x))


class ResNet3d(nn.Module):
    """CaloChallenge's three-dimensional ResNet-18 with 32, 64, 64, 128 planes, 2.52 million parameters.

    Takes the rows of ``low_level_inputs``; all layers must have the same shape. Stem 7 x 7 x 7 with stride 2 and a
    3 x 3 x 3 maximum with stride 2; log10 E_inc passes a batch norm and joins before the last linear layer. No periodic
    padding.

    Raises:
        UsageError: if the layers differ in shape.
    """

    def __init__(self, readout: Readout, outputs: int = 1) -> None:
        super().__init__()
        if len(set(readout.layer_shapes)) != 1:
            raise UsageError("the 3D ResNet needs layers of equal shape, and those of this readout differ")
        self._shape = (1, readout.n_layers, *readout.layer_shapes[0])
        planes = (32, 64, 64, 128)
        self.stem = nn.Sequential(
            nn.Conv3d(1, 32, 7, stride=2, padding=3, bias=False), nn.BatchNorm3d(32), nn.ReLU(), nn.MaxPool3d(3, 2, 1)
        )
        blocks: list[nn.Module] = []
        size = 32
        for number, plane in enumerate(planes):
            blocks += [_Block(size, plane, 1 if number == 0 else 2), _Block(plane, plane, 1)]
            size = plane
        self.blocks = nn.Sequential(*blocks, nn.AdaptiveAvgPool3d(1), nn.Flatten())
        self.energy = nn.BatchNorm1d(1)
        self.out = nn.Linear(size + 1, outputs)

    def forward(self, rows: Tensor) -> Tensor:
        """Logits, shape (N, outputs), of rows (N, 1 + V)."""
        energy, voxels = rows[:, :1], rows[:, 1:].reshape(-1, *self._shape)
        features = self.blocks(self.stem(voxels))
        out: Tensor = self.out(torch.cat([features, self.energy(energy)], dim=1))
        return out


def build_network(kind: str, inputs: int, readout: Readout | None, *, outputs: int = 1) -> nn.Module:
    """A network by name.

    Args:
        kind: ``dense-WIDTH`` (three hidden layers), ``cnn`` or ``resnet``.
        inputs: number of columns of the rows.
        readout: the voxels; dense networks need none.
        outputs: number of logits.

    Raises:
        UsageError: if there is no such network, or it cannot take this readout.
    """
    width = kind.removeprefix("dense-")
    if kind != width and width.isdecimal():
        return dense_network(inputs, width=int(width), outputs=outputs)
    if kind == "cnn" and outputs == 1 and readout is not None:
        return CaloFlowCNN(readout)
    if kind == "resnet" and readout is not None:
        return ResNet3d(readout, outputs)
    raise UsageError(f"there is no classifier network '{kind}' with {outputs} outputs for this readout")
