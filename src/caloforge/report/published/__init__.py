"""Published numbers, as data files with their source."""

from __future__ import annotations

import csv
import tomllib
from dataclasses import dataclass
from functools import cache
from importlib import resources

__all__ = ["PublishedModel", "PublishedNumber", "PublishedTable", "published_tables", "tables_for"]

_FOLDER = resources.files("caloforge.report.published")


@dataclass(frozen=True)
class PublishedNumber:
    """A published number and its published spread, if any."""

    value: float
    std: float | None = None


@dataclass(frozen=True)
class PublishedModel:
    """One row of a table: a model and its numbers by column (measures are named as in this package)."""

    name: str
    numbers: dict[str, PublishedNumber]


@dataclass(frozen=True)
class PublishedTable:
    """A published comparison of models.

    Attributes:
        title: what it is about.
        detector: catalogue name of the detector.
        particles: PDG ids.
        source: publication.
        setup: how the numbers were obtained, as far as it matters for a comparison.
        models: the rows.
    """

    title: str
    detector: str
    particles: tuple[int, ...]
    source: str
    setup: str
    models: tuple[PublishedModel, ...]

    def column(self, name: str) -> list[tuple[PublishedModel, PublishedNumber]]:
        """The models that have a number in a column, and the number."""
        return [(model, model.numbers[name]) for model in self.models if name in model.numbers]


def _models(file: str) -> tuple[PublishedModel, ...]:
    models = []
    for row in csv.DictReader((_FOLDER / file).read_text(encoding="utf-8").splitlines()):
        filled = {key: float(text) for key, text in row.items() if key != "model" and text}
        numbers = {
            key: PublishedNumber(value, filled.get(f"{key} std"))
            for key, value in filled.items()
            if not key.endswith(" std")
        }
        models.append(PublishedModel(row["model"], numbers))
    return tuple(models)


@cache
def published_tables() -> tuple[PublishedTable, ...]:
    """All tables of the package."""
    index = tomllib.loads((_FOLDER / "index.toml").read_text(encoding="utf-8"))
    return tuple(
        PublishedTable(
            title=entry["title"],
            detector=entry["detector"],
            particles=tuple(entry["particles"]),
            source=entry["source"],
            setup=entry["setup"],
            models=_models(entry["file"]),
        )
        for entry in index["tables"]
    )


def tables_for(detector: str, particle: int) -> tuple[PublishedTable, ...]:
    """Tables on a detector and a particle (PDG id)."""
    return tuple(t for t in published_tables() if t.detector == detector and particle in t.particles)
