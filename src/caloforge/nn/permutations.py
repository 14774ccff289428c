"""Fixed permutations of features, and builders for the orders used by the published flows.

Index arrays follow ``outputs = inputs[..., index]``. Builders are pure functions of their arguments: the random ones
sort raw 64-bit words of NumPy's Philox generator, whose stream is fixed for ever, so a seed means the same permutation
with every NumPy version.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
import numpy.typing as npt
import torch
from torch import Tensor, nn

from caloforge.errors import ConfigError

__all__ = [
    "FixedPermutation",
    "IndexArray",
    "alternating_within_layers",
    "random_after_every_block",
    "random_all",
    "random_within_layers",
    "reverse_all",
    "reverse_within_layers",
]

IndexArray: TypeAlias = npt.NDArray[np.int64]


class FixedPermutation(nn.Module):
    """Reorder the last axis: ``outputs = inputs[..., index]``; a volume-preserving map with log-determinant 0.

    Args:
        index: A permutation of 0 .. features - 1.

    Raises:
        ConfigError: If ``index`` is not a permutation.
    """

    index: Tensor
    inverse_index: Tensor

    def __init__(self, index: Sequence[int] | IndexArray | Tensor) -> None:
        super().__init__()
        order = torch.as_tensor(index, dtype=torch.int64).detach().clone()
        self.register_buffer("index", order)
        self.register_buffer("inverse_index", torch.empty_like(order), persistent=False)
        self.register_load_state_dict_post_hook(FixedPermutation._after_loading)  # type: ignore[no-untyped-call]
        self.set_index(order)

    @staticmethod
    def _after_loading(module: nn.Module, _incompatible: object) -> None:
        assert isinstance(module, FixedPermutation)
        module.set_index(module.index)

    def set_index(self, index: Tensor) -> None:
        """Replace the permutation (features,) in place.

        Raises:
            ConfigError: If ``index`` is not a permutation.
        """
        order = index.detach().cpu()
        if order.ndim != 1 or not torch.equal(order.sort().values, torch.arange(order.numel())):
            raise ConfigError(f"a permutation must hold each of 0 .. n - 1 once, not {order.tolist()}")
        self.index.copy_(index)
        self.inverse_index.copy_(torch.argsort(index))

    def forward(self, inputs: Tensor) -> Tensor:
        """Permute the last axis of ``inputs`` (..., features)."""
        return inputs.index_select(-1, self.index)

    def inverse(self, inputs: Tensor) -> Tensor:
        """Undo :meth:`forward`."""
        return inputs.index_select(-1, self.inverse_index)


def _random_words(count: int, seed: int, stream: int) -> npt.NDArray[np.uint64]:
    generator = np.random.Philox(key=np.array([seed, stream], dtype=np.uint64))
    return np.asarray(generator.random_raw(count), dtype=np.uint64)


def reverse_all(features: int) -> IndexArray:
    """Reverse the order of all features."""
    return np.arange(features, dtype=np.int64)[::-1].copy()


def random_all(features: int, *, seed: int, stream: int = 0) -> IndexArray:
    """A random permutation of all features, fixed by ``seed`` and ``stream`` (non-negative, below 2**64)."""
    return np.argsort(_random_words(features, seed, stream), kind="stable").astype(np.int64)


def _within(layer_sizes: Sequence[int], parts: Sequence[IndexArray]) -> IndexArray:
    starts = np.concatenate([[0], np.cumsum(np.asarray(layer_sizes, dtype=np.int64))])
    return np.concatenate([start + part for start, part in zip(starts, parts, strict=False)]).astype(np.int64)


def reverse_within_layers(layer_sizes: Sequence[int]) -> IndexArray:
    """Reverse the order inside each layer of ``layer_sizes`` voxels; the layers keep their places."""
    return _within(layer_sizes, [reverse_all(size) for size in layer_sizes])


def random_within_layers(layer_sizes: Sequence[int], *, seed: int, stream: int = 0) -> IndexArray:
    """A fixed random permutation inside each layer; the layers keep their places."""
    words = _random_words(int(sum(layer_sizes)), seed, stream)
    splits = np.split(words, np.cumsum(layer_sizes)[:-1])
    return _within(layer_sizes, [np.argsort(part, kind="stable").astype(np.int64) for part in splits])


def alternating_within_layers(layer_sizes: Sequence[int], blocks: int, *, seed: int) -> list[IndexArray]:
    """The ``blocks - 1`` permutations between the blocks of CaloFlow's shower flow (arXiv:2106.05285, section 3).

    Reversals and random permutations alternate, a reversal first, each inside the layers only.
    """
    return [
        reverse_within_layers(layer_sizes) if k % 2 == 0 else random_within_layers(layer_sizes, seed=seed, stream=k)
        for k in range(blocks - 1)
    ]


def random_after_every_block(features: int, blocks: int, *, seed: int) -> list[IndexArray]:
    """The ``blocks`` random permutations of CaloFlow's energy flow, one after every block, the last included."""
    return [random_all(features, seed=seed, stream=k) for k in range(blocks)]
