"""Which kinds of models there are: those of this package, those of other packages, and those of the present process.

A module in ``caloforge.zoo`` is a kind of the name of its file. Another package names its kinds in the entry point group
``caloforge.models`` (see ``caloforge.plugins``). A class of a script or a notebook makes itself known by :func:`register`.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from typing import Any, TypeVar

from caloforge import plugins
from caloforge.detectors import Detector
from caloforge.errors import ConfigError
from caloforge.models.aid import make_aid
from caloforge.models.base import ShowerModel
from caloforge.models.profiles import Profile, profile_settings
from caloforge.validation import validated

__all__ = ["build_model", "model_class", "model_kinds", "register"]

_CLASSES: dict[str, type[ShowerModel]] = {}

M = TypeVar("M", bound=type[ShowerModel])


def register(kind: str) -> Callable[[M], M]:
    """Class decorator that makes a model known as ``kind`` in this process.

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


def model_kinds() -> list[str]:
    """Names of all kinds of models, sorted; none is loaded."""
    return sorted({*_CLASSES, *plugins.names("models")})


def model_class(kind: str) -> type[ShowerModel]:
    """The class of a kind of model.

    Raises:
        ConfigError: if there is no such kind.
        PluginError: if it cannot be loaded.
    """
    if kind in _CLASSES:
        return _CLASSES[kind]
    if kind not in plugins.find("models"):
        raise ConfigError(f"the model kind '{kind}' is not known, expected one of {', '.join(model_kinds())}")
    cls = plugins.load("models", kind)
    if not (isinstance(cls, type) and issubclass(cls, ShowerModel)):
        raise plugins.find("models")[kind].broken(f": it is no class of models but {cls!r}")
    if vars(cls).get("kind") != kind:
        raise plugins.find("models")[kind].broken(f": the class {cls.__name__} does not say kind = '{kind}'")
    return cls


def build_model(
    kind: str,
    config: Mapping[str, Any],
    detector: Detector,
    *,
    profile: Profile | None = None,
    aids: Iterable[Mapping[str, Any]] = (),
    inputs: Mapping[str, ShowerModel] | None = None,
    where: str = "model",
) -> ShowerModel:
    """A new, untrained model.

    Args:
        kind: name of the kind.
        config: the ``model`` section of a preset, as plain values.
        detector: the calorimeter.
        profile: whose switches count where ``config`` says nothing; None takes the defaults, which are those of ``improved``.
        aids: what helps it, each with its ``kind`` and settings.
        inputs: models that it is trained from, by name (``teacher``).
        where: what to call the section in an error.

    Raises:
        ConfigError: if the kind is not known, a key is unknown or wrong, or the detector does not suit.
        UsageError: if an input does not fit.
        PluginError: if the kind or an aid cannot be loaded.
    """
    cls = model_class(kind)
    switches = {} if profile is None else profile_settings(cls.differences, profile)
    given = dict(inputs or {})
    settings = cls.settled(validated(cls.Config, switches | dict(config), where=where), detector, given)
    model = cls(settings, detector)
    model.profile = profile or "improved"
    for entry in aids:
        aid = make_aid(entry, model)
        if aid.kind in model.aids:
            raise ConfigError(f"the aid '{aid.kind}' is named twice")
        model.aids[aid.kind] = aid
    for name, other in given.items():
        model.attach(name, other)
    return model
