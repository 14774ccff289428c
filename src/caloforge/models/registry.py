"""Which kinds of models there are: those of this package, and those that other packages bring.

A module in ``caloforge.models`` registers its class when it is imported. Another package names its modules in the
entry point group ``caloforge.models``::

    [project.entry-points."caloforge.models"]
    mymodel = "mypackage.mymodel"
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Callable, Mapping
from functools import cache
from importlib.metadata import entry_points
from typing import Any, TypeVar

from caloforge.detectors import Detector
from caloforge.errors import ConfigError
from caloforge.models.base import ShowerModel, validated

__all__ = ["build_model", "model_class", "model_kinds", "register"]

_CLASSES: dict[str, type[ShowerModel]] = {}

M = TypeVar("M", bound=type[ShowerModel])


def register(kind: str) -> Callable[[M], M]:
    """Class decorator that makes a model known as ``kind``.

    Raises:
        ConfigError: if another class has that name already.
    """

    def enter(cls: M) -> M:
        known = _CLASSES.get(kind)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise ConfigError(f"two models are called '{kind}': {known.__module__} and {cls.__module__}")
        cls.kind = kind
        _CLASSES[kind] = cls
        return cls

    return enter


@cache
def _discover() -> None:
    package = importlib.import_module("caloforge.models")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"caloforge.models.{module.name}")
    for entry in entry_points(group="caloforge.models"):
        entry.load()


def model_kinds() -> list[str]:
    """Names of all kinds of models, sorted."""
    _discover()
    return sorted(_CLASSES)


def model_class(kind: str) -> type[ShowerModel]:
    """The class of a kind of model.

    Raises:
        ConfigError: if there is no such kind.
    """
    _discover()
    if kind not in _CLASSES:
        raise ConfigError(f"the model kind '{kind}' is not known, expected one of {', '.join(model_kinds())}")
    return _CLASSES[kind]


def build_model(kind: str, config: Mapping[str, Any], detector: Detector, *, where: str = "model") -> ShowerModel:
    """A new, untrained model.

    Args:
        kind: registered name.
        config: the ``model`` section of a preset, as plain values.
        detector: the calorimeter.
        where: what to call the section in an error.

    Raises:
        ConfigError: if the kind is not known, a key is unknown or wrong, or the detector does not suit.
    """
    cls = model_class(kind)
    return cls(validated(cls.Config, config, where=where), detector)
