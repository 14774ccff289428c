"""A network may not be larger than the weights that there are for it, whatever its configuration says."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager

from torch import Tensor, nn

from caloforge.errors import ModelFileError

__all__ = ["limited_to"]


@contextmanager
def limited_to(tensors: Mapping[str, Tensor]) -> Iterator[None]:
    """Stop while a model is being built whose parameters are many more or much larger than these tensors.

    A configuration from elsewhere may ask for a thousand million layers, or for layers that do not fit into any memory;
    the few bytes of its weights say long before that it cannot be meant.

    Raises:
        ModelFileError: if that happens, or if there is not enough memory.
    """
    # Some parameters are registered twice while a module is made, so the limits are no narrow ones.
    numbers, count = 4 * sum(tensor.numel() for tensor in tensors.values()) + 10_000, 100 * (len(tensors) + 10)

    def note(_: nn.Module, name: str, parameter: nn.Parameter | None) -> None:
        nonlocal numbers, count
        count -= 1
        numbers -= 0 if parameter is None else parameter.numel()
        if numbers < 0 or count < 0:
            raise ModelFileError(
                f"the configuration does not fit the weights, it asks for more parameters (at '{name}')"
            )

    hook = nn.modules.module.register_module_parameter_registration_hook(note)
    try:
        yield
    except (MemoryError, RuntimeError, ValueError, OverflowError) as error:
        raise ModelFileError(f"the configuration asks for a model that cannot be built ({_brief(error)})") from None
    finally:
        hook.remove()


def _brief(error: Exception) -> str:
    return (str(error).splitlines() or ["not enough memory"])[0]
