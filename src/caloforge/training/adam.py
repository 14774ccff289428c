"""Adam as an optimiser of PyTorch whose step is one operator (:mod:`caloforge.kernels.ops.adam`)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from caloforge.kernels.ops.adam import adam_step

__all__ = ["Adam"]


class Adam(torch.optim.Optimizer):
    """Adam (arXiv:1412.6980) or AdamW (arXiv:1711.05101); its state has the form of PyTorch's optimisers of these names.

    Args:
        parameters: dense, on the CPU.
        lr: learning rate.
        betas: decay rates of the moments.
        eps: added to the root of the second moment.
        weight_decay: weight decay.
        decoupled: whether the decay acts on the weights (AdamW) instead of their gradients.
    """

    def __init__(
        self,
        parameters: Sequence[nn.Parameter],
        lr: float,
        *,
        betas: tuple[float, float],
        eps: float,
        weight_decay: float,
        decoupled: bool,
    ) -> None:
        super().__init__(parameters, {"lr": lr, "betas": betas, "eps": eps, "weight_decay": weight_decay})
        self._decoupled = decoupled
        self._extents: dict[int, Tensor] = {}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """See :class:`torch.optim.Optimizer`."""
        super().load_state_dict(state_dict)
        self._extents.clear()  # what is known about zeros was known of other moments

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Change all parameters that have a gradient."""
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        for group in self.param_groups:
            together: dict[tuple[int, torch.dtype], list[nn.Parameter]] = defaultdict(list)
            for parameter in group["params"]:
                if parameter.grad is not None:
                    together[self._count(parameter), parameter.dtype].append(parameter)
            for (step, _), chosen in together.items():
                states = [self.state[p] for p in chosen]
                adam_step(
                    chosen, [p.grad for p in chosen if p.grad is not None], [s["exp_avg"] for s in states],
                    [s["exp_avg_sq"] for s in states], [self._extent(p) for p in chosen], step, group["lr"],
                    group["betas"], group["eps"], group["weight_decay"], decoupled=self._decoupled,
                )  # fmt: skip
        return loss

    def _count(self, parameter: nn.Parameter) -> int:
        """Number of this step of a parameter, whose state is made if there is none."""
        state = self.state[parameter]
        if not state:
            state["step"] = torch.zeros((), dtype=torch.float32)
            state["exp_avg"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
            state["exp_avg_sq"] = torch.zeros_like(parameter, memory_format=torch.preserve_format)
        state["step"] += 1
        return int(state["step"])

    def _extent(self, parameter: nn.Parameter) -> Tensor:
        """What is known of zeros at the ends of the rows; nothing for vectors and short rows."""
        known = self._extents.get(id(parameter))
        if known is None:
            rows = len(parameter) if parameter.ndim > 1 and parameter[0].numel() >= 64 else 0
            known = self._extents[id(parameter)] = torch.full((rows,), -1, dtype=torch.int32)
        return known
