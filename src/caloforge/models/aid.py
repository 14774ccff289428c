"""Aids: what helps where showers are few, and stands in no paper. Each is one thing, off unless a preset names it.

An aid works at places that stages and representations offer: before the training of a stage, around a value that passes a
representation, and as a stage of its own behind others. A model that names none calls none.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar, TypeVar

from torch import Tensor, nn

from caloforge import plugins
from caloforge.conditions import Conditions
from caloforge.errors import ConfigError
from caloforge.models.base import Latents, ShowerModel
from caloforge.random import Streams
from caloforge.showers import ShowerPoints, Showers
from caloforge.stage import GradientStage, Stage, TrainingData
from caloforge.validation import Settings, validated

__all__ = ["Aid", "aid_class", "aid_kinds", "make_aid", "only_module"]

M = TypeVar("M", bound=nn.Module)


class Aid(nn.Module):
    """Base of all aids; what it learns from the data are its buffers, which travel with the model's weights.

    Args:
        config: its settings.
        model: the model that it helps; it is not kept.

    Attributes:
        kind: its name, that of its file with dashes.
        title: one line for people.
        Config: class of its settings.
        rejects: whether some showers have to be drawn again for it; see :meth:`accepts`.
        follows: whether it leaves all stages but its own as they are, so that it may be added to a training that is finished.

    Raises:
        ConfigError: if it does not suit the model.
    """

    kind: ClassVar[str]
    title: ClassVar[str]
    Config: ClassVar[type[Settings]] = Settings
    rejects: ClassVar[bool] = False
    follows: ClassVar[bool] = False

    def __init__(self, config: Settings, model: ShowerModel) -> None:
        super().__init__()
        self.config = config

    def before_training(self, model: ShowerModel, stage: GradientStage, data: TrainingData, streams: Streams) -> None:
        """Set initial weights of a stage, which its own preparation has just set; nothing by default."""

    def stages(self, model: ShowerModel) -> list[Stage]:
        """Stages of its own; each comes right behind the last one that it needs."""
        return []

    def latents(self, conditions: Conditions, streams: Streams) -> Latents:
        """Random numbers of its own, under names that no model has; none by default.

        Args:
            conditions: the showers; their numbers and attempts address the streams.
            streams: random streams of the generation.
        """
        return {}

    def accepts(
        self, conditions: Mapping[str, Tensor], latents: Mapping[str, Tensor], output: Mapping[str, Tensor]
    ) -> Tensor | None:
        """Which showers may stay, bool (N,); the others are drawn again. None, as by default, for all.

        Args:
            conditions: as from :meth:`caloforge.conditions.Conditions.tensors`.
            latents: with its own.
            output: what the model made of them, see :meth:`caloforge.models.ShowerModel.decode_tensors`.
        """
        return None

    def log_factor(self, showers: Showers | ShowerPoints) -> Tensor | None:
        """What it adds to the logarithm of the density of showers, nats, float64 (N,); None, as by default, for nothing."""
        return None

    def constants(self) -> dict[str, Tensor] | None:
        """What a compiled decoder needs to know of it, by name; nothing if it does nothing in generation, as by default.

        None says that no compiled decoder can do what it does, so the model is decoded step by step.
        """
        return {}

    def describe(self) -> dict[str, Any]:
        """Its kind and settings, as in a preset."""
        return {"kind": self.kind, **self.config.model_dump(mode="json")}


def aid_kinds() -> list[str]:
    """Names of all aids, sorted."""
    return plugins.names("aids")


def aid_class(kind: str) -> type[Aid]:
    """The class of an aid.

    Raises:
        KeyError: if there is no such aid.
        PluginError: if it cannot be loaded.
    """
    cls = plugins.load("aids", kind)
    if not (isinstance(cls, type) and issubclass(cls, Aid)):
        raise plugins.find("aids")[kind].broken(f": it is no class of aids but {cls!r}")
    return cls


def make_aid(entry: Mapping[str, Any], model: ShowerModel, *, where: str = "aids") -> Aid:
    """An aid as a preset names it.

    Args:
        entry: ``kind`` and settings.
        model: the model that it helps.
        where: what to call the place in an error.

    Raises:
        ConfigError: if there is no such aid, a setting is wrong, or it does not suit the model.
        PluginError: if it cannot be loaded.
    """
    settings = dict(entry)
    kind = settings.pop("kind", None)
    if kind not in aid_kinds():
        raise ConfigError(f"{where}: the aid '{kind}' is not known, expected one of {', '.join(aid_kinds())}")
    cls = aid_class(kind)
    return cls(validated(cls.Config, settings, where=f"{where}, '{kind}'"), model)


def only_module(model: ShowerModel, kind: type[M], aid: str) -> M:
    """The one part of a model that is of some class.

    Raises:
        ConfigError: if the model has none, so that the aid does not suit it.
    """
    found = [module for module in model.modules() if isinstance(module, kind)]
    if len(found) != 1:
        raise ConfigError(f"the aid '{aid}' does not suit the model '{model.kind}', which has no {kind.__name__}")
    return found[0]
