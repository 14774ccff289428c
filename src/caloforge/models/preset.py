"""Presets: a model, its sizes and its training in one YAML file, found by name.

The package's own are in ``presets/``; a user's file works the same way::

    kind: caloflow
    title: one line for people
    like: published          # or improved, the default: what the kind's switches follow
    detector: calogan        # optional: numbers in it belong to this readout
    detector_reason: ...     # optional: why it is for no other, one sentence
    particle: gamma          # optional: likewise for this particle
    model: {...}             # configuration of the kind: sizes, constants, other values of switches
    aids: [{kind: ...}]      # what helps where showers are few and stands in no paper
    training: {...}          # caloforge.stage.TrainingConfig
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import yaml
from pydantic import BaseModel, ConfigDict, Field

from caloforge import plugins
from caloforge.detectors import Detector, load_detector
from caloforge.errors import ConfigError, UsageError
from caloforge.models.profiles import Profile, profile_settings
from caloforge.textfiles import read_text
from caloforge.training_settings import TrainingConfig
from caloforge.validation import validated

if TYPE_CHECKING:  # the models themselves bring torch, and presets are read without them
    from caloforge.models.base import ShowerModel

__all__ = ["Preset", "load_preset", "preset_names", "read_preset"]


class Preset(BaseModel):
    """One preset.

    Attributes:
        kind: registered name of the model class.
        title: one line for people.
        like: profile that the switches of the kind follow.
        detector: name of the detector whose readout it is meant for; None suits any that suits the kind.
        detector_reason: why it is for no other, for people.
        particle: the particle it is meant for; None suits any.
        model: configuration of the model, as plain values.
        aids: what helps it, each with its kind and settings.
        training: how it is trained.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    kind: str
    title: str = ""
    like: Profile = "improved"
    detector: str | None = None
    detector_reason: str = ""
    particle: str | None = None
    model: dict[str, Any] = Field(default_factory=dict)
    aids: list[dict[str, Any]] = Field(default_factory=list)
    training: TrainingConfig = TrainingConfig()

    def build(self, detector: Detector, *, inputs: Mapping[str, ShowerModel] | None = None) -> ShowerModel:
        """A new, untrained model for a detector.

        Args:
            detector: the calorimeter.
            inputs: models that it is trained from, by name (``teacher``).

        Raises:
            ConfigError: if the model section is wrong or the preset is meant for another readout.
            UsageError: if an input does not fit.
        """
        from caloforge.models.registry import build_model

        if self.detector is not None and load_detector(self.detector).readout != detector.readout:
            reason = f" ({self.detector_reason})" if self.detector_reason else ""
            raise ConfigError(
                f"the preset is meant for the readout of '{self.detector}'{reason}, the data come from '{detector.name}'"
            )
        return build_model(
            self.kind,
            self.model,
            detector,
            profile=self.like,
            aids=self.aids,
            inputs=inputs,
            where="the preset's model section",
        )

    @property
    def aid_names(self) -> list[str]:
        """Kinds of the aids, in order."""
        return [str(aid.get("kind")) for aid in self.aids]

    def settings(self) -> dict[str, Any]:
        """The ``model`` section with the switches of the profile filled in, as plain values."""
        from caloforge.models.registry import model_class

        return profile_settings(model_class(self.kind).differences, self.like) | self.model


def preset_names() -> list[str]:
    """Names of the presets of the package and of other distributions, sorted."""
    return plugins.names("presets")


def load_preset(name: str | Path, overrides: Sequence[str] = ()) -> Preset:
    """Read a preset by name, or from a YAML file, and check that its kind of model knows all that it says.

    Args:
        name: a name from :func:`preset_names`, or a path that ends in ``.yaml`` or ``.yml``.
        overrides: changes as typed behind ``--set``; see :func:`read_preset`.

    Raises:
        UsageError: if there is no such preset or an override is not of the form ``key=value``.
        ConfigError: if it is not YAML, or names an unknown key, kind, or a wrong value.
        PluginError: if the kind or the preset is of another distribution and cannot be loaded.
    """
    from caloforge.models.registry import model_class

    preset = read_preset(name, overrides)
    cls = model_class(preset.kind)
    validated(cls.Config, preset.settings(), where=f"{_where(name)}, section 'model'")
    return preset


def _where(name: str | Path) -> str:
    return str(name) if Path(name).suffix in (".yaml", ".yml") else f"preset '{name}'"


def read_preset(name: str | Path, overrides: Sequence[str] = ()) -> Preset:
    """Read a preset without a look at its kind of model, which is not loaded.

    Args:
        name: a name from :func:`preset_names`, or a path that ends in ``.yaml`` or ``.yml``.
        overrides: changes as typed behind ``--set``, for example ``training.epochs=5`` or
            ``model.shapes.hidden_features=128``; the value is YAML.

    Raises:
        UsageError: if there is no such preset or an override is not of the form ``key=value``.
        ConfigError: if it is not YAML, or names an unknown key or a wrong value (of the ``model`` section nothing is checked).
        PluginError: if the preset is of another distribution and not where that says.
    """
    path, where = Path(name), _where(name)
    if path.suffix in (".yaml", ".yml"):
        text = read_text(path, UsageError)
    elif str(name) in preset_names():  # nothing but a name has no ending, so a folder of that name means nothing
        text = read_text(plugins.locate("presets", str(name)), ConfigError)
    else:
        raise UsageError(
            f"the preset '{name}' is not known, expected one of {', '.join(preset_names())} or a .yaml file"
        )
    data = _yaml(text, where)
    if not isinstance(data, dict):
        raise ConfigError(f"{where}: expected keys and values, got {type(data).__name__}")
    before: list[str] = []
    for override in overrides:
        key = override.partition("=")[0].strip()
        for other in before:
            if f"{other}.".startswith(f"{key}."):  # the same, or a section around it
                raise UsageError(f"the override of '{key}' would undo that of '{other}', expected one of the two")
        before.append(key)
        _apply(data, override)
    return validated(Preset, data, where=where)


def _yaml(text: str, where: str) -> Any:
    try:
        return yaml.safe_load(text)
    except (yaml.YAMLError, RecursionError) as error:
        place = getattr(error, "problem_mark", None)
        line = "" if place is None else f" (line {place.line + 1})"
        raise ConfigError(f"{where}: is not YAML{line}") from None


def _apply(data: dict[str, Any], override: str) -> None:
    key, equals, text = override.partition("=")
    parts = key.strip().split(".")
    if not equals or not all(parts):
        raise UsageError(f"the override '{override}' is not understood, expected for example training.epochs=5")
    section = data
    for part in parts[:-1]:
        inner = section.setdefault(part, {})
        if not isinstance(inner, dict):
            raise ConfigError(f"the override '{override}': '{part}' is a value, not a section")
        section = inner
    if parts[0] == "training" and len(parts) > 1 and parts[1] != "stages":
        # What is said for all stages now counts for all of them, whatever the preset says about single ones.
        for own in (data["training"].get("stages") or {}).values():
            _drop(own, parts[1:])
            if parts[1:] == ["epochs"]:
                _drop(own, ["steps"])
    if parts[0] == "training" and parts[-1] == "epochs":
        _drop(section, ["steps"])  # a length in steps would count instead
    section[parts[-1]] = _yaml(text, f"the override '{override}'")


def _drop(section: Any, parts: list[str]) -> None:
    for part in parts[:-1]:
        section = section.get(part) if isinstance(section, dict) else None
    if isinstance(section, dict):
        section.pop(parts[-1], None)
