"""Errors that a user can do something about.

Every one of them carries a single clear sentence: what is wrong, where, and what was expected. The command line
prints that sentence and ends with the exit code of the class; anything else that escapes is a bug and keeps its
traceback.
"""

from __future__ import annotations

__all__ = [
    "CaloForgeError",
    "CaloForgeWarning",
    "ConfigError",
    "DetectorError",
    "GenerationError",
    "Interrupted",
    "MissingDependencyError",
    "ModelFileError",
    "OutputError",
    "PluginError",
    "ShowerFileError",
    "SimulationError",
    "TrainingError",
    "UsageError",
]


class CaloForgeError(Exception):
    """Base of all errors that are shown to a user as one sentence (exit code 1)."""

    exit_code = 1


class CaloForgeWarning(UserWarning):
    """Something that a user should know and that is no error; the command line prints it as one line, once."""


class UsageError(CaloForgeError):
    """A command or function was asked for something that makes no sense (exit code 2)."""

    exit_code = 2


class ConfigError(CaloForgeError):
    """A configuration file or preset names an unknown key or a value of the wrong kind."""

    exit_code = 2


class DetectorError(CaloForgeError):
    """A detector description is wrong; the message names the key and what was expected."""


class ShowerFileError(CaloForgeError):
    """A shower file is truncated, foreign, inconsistent or holds impossible values."""


class Interrupted(CaloForgeError):  # noqa: N818 - not an error, but shown like one
    """Ctrl-C, with what was kept (exit code 130)."""

    exit_code = 130


class OutputError(CaloForgeError):
    """Output cannot be written (exists already, no space, no permission)."""


class ModelFileError(CaloForgeError):
    """A model directory is incomplete, damaged or of another kind."""


class SimulationError(CaloForgeError):
    """Geant4 could not be run as asked."""


class GenerationError(CaloForgeError):
    """A model cannot make the showers that it was asked for."""


class TrainingError(CaloForgeError):
    """Training cannot go on, for instance because a loss is no longer a number."""


class MissingDependencyError(CaloForgeError):
    """An optional dependency is not installed; the message says how to get it."""


class PluginError(CaloForgeError):
    """Something that another distribution adds cannot be loaded; the message names both."""
