"""The page on extending shows the package that the tests install, to the letter, and its tests pass."""

from __future__ import annotations

import re
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from caloforge import plugins

ROOT = Path(__file__).parents[1]
PAGE = (ROOT / "docs" / "extending.md").read_text(encoding="utf-8")
PACKAGE = ROOT / "tests" / "plugin_package"
SHOWN = [
    "pyproject.toml",
    "caloforge_toy/model.py",
    "caloforge_toy/presets/toy-exponential-tiny.yaml",
    "caloforge_toy/aid.py",
    "caloforge_toy/presets/toy-exponential-started.yaml",
    "caloforge_toy/measure.py",
    "caloforge_toy/format.py",
]


def _plain(text: str) -> str:
    """Without the empty lines that a formatter of the page may add between imports."""
    return "\n".join(line for line in text.splitlines() if line.strip())


@pytest.mark.parametrize("name", SHOWN)
def test_the_page_shows_the_package_that_is_tested(name: str) -> None:
    """Mutation: change a file of the package, or what the page says of it."""
    blocks = [_plain(block) for block in re.findall(r"```(?:python|toml|yaml)\n(.*?)```", PAGE, flags=re.DOTALL)]
    assert _plain((PACKAGE / name).read_text(encoding="utf-8")) in blocks
    assert f"`{name}`" in PAGE


@pytest.fixture
def _installed(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The entry points of the package, as if it were installed here."""
    import tomllib

    groups: dict[str, dict[str, str]] = tomllib.loads((PACKAGE / "pyproject.toml").read_text())["project"][
        "entry-points"
    ]
    dist = SimpleNamespace(name="caloforge-toy", version="1.0")
    points = [
        EntryPoint(name, value, group)._for(dist)  # type: ignore[attr-defined]
        for group, entries in groups.items()
        for name, value in entries.items()
    ]
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [p for p in points if p.group == group])
    plugins.find.cache_clear()
    yield
    plugins.find.cache_clear()


@pytest.mark.usefixtures("_installed")
@pytest.mark.parametrize("name", ["test_model", "test_measure", "test_format"])
def test_the_tests_of_the_page_pass(name: str) -> None:
    (block,) = (
        block for block in re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL) if "def test_model" in block
    )
    names: dict[str, Any] = {}
    exec(block, names)
    names[name]()
