"""What a model does otherwise than its publication, said once: switches of its configuration, and a table for people.

From the differences of a kind come its two profiles, ``published`` and ``improved``, which a preset names by ``like:``, and the
table "differences from the publication" of the documentation.
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any, Literal, get_args

from caloforge.validation import Settings

__all__ = ["PROFILES", "Difference", "Profile", "deviations", "differences_table", "profile_settings"]

Profile = Literal["published", "improved"]
PROFILES: tuple[Profile, ...] = get_args(Profile)


@dataclass(frozen=True)
class Difference:
    """One row of the table.

    Attributes:
        what: what differs, in the field's words.
        published: what the publication, or the authors' program, does.
        improved: what CaloForge does unless asked otherwise.
        why: the reason.
        switch: key of the configuration that chooses between both; None if there is no choice.
        values: its values for both profiles.
    """

    what: str
    published: str
    improved: str
    why: str
    switch: str | None = None
    values: tuple[Any, Any] | None = None

    def __post_init__(self) -> None:
        if (self.switch is None) != (self.values is None):
            raise ValueError(f"the difference '{self.what}' needs both a switch and its values, or neither")


def profile_settings(differences: Iterable[Difference], profile: Profile) -> dict[str, Any]:
    """Values of all switches under a profile, for the ``model`` section."""
    number = PROFILES.index(profile)
    return {row.switch: row.values[number] for row in differences if row.switch is not None and row.values is not None}


def deviations(differences: Iterable[Difference], profile: Profile, config: Settings) -> list[str]:
    """Switches that have other values in a configuration than its profile says, as ``key=value``."""
    plain = config.model_dump(mode="json")
    settings = profile_settings(differences, profile)
    # Not by a configuration with these settings: beside other values of this one they may contradict each other.
    return [f"{key}={plain[key]}" for key, value in settings.items() if plain[key] != value]


def differences_table(differences: Iterable[Difference]) -> str:
    """The table of the documentation, Markdown."""
    lines = ["| what | publication | `improved` | why | switch |", "| --- | --- | --- | --- | --- |"]
    for row in differences:
        switch = "-"
        if row.switch is not None and row.values is not None:
            published, improved = (_yaml(value) for value in row.values)
            switch = f"`{row.switch}`: {published} / {improved}"
        lines.append(f"| {row.what} | {row.published} | {row.improved} | {row.why} | {switch} |")
    return "\n".join(lines) + "\n"


def _yaml(value: Any) -> str:
    match value:
        case None:
            return "null"
        case bool():
            return str(value).lower()
        case float():
            return f"{value:g}"
    return str(value)
