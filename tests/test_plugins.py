"""What other packages add: found by name without importing it, and harmless if it is broken."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from importlib.metadata import EntryPoint
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from model_samples import toy_detector

from caloforge import plugins
from caloforge.cli.main import main
from caloforge.errors import ConfigError, PluginError
from caloforge.evaluation import catalogue
from caloforge.evaluation.measures import find_measure, measure_names
from caloforge.models import aid_kinds, build_model, model_class, model_kinds
from caloforge.showers.formats.base import Format

#: A model of somebody else's, whose file stands somewhere on the path.
MODEL = """
from caloforge.zoo.caloflow import CaloFlow


class Mine(CaloFlow):
    kind = "mine"


class Good(CaloFlow):
    kind = "good"
"""
AID = """
from caloforge.models import Aid


class Louder(Aid):
    kind = "louder"
    title = "does nothing, loudly"
"""


@pytest.fixture(autouse=True)
def _fresh() -> Iterator[None]:
    plugins.find.cache_clear()
    yield
    plugins.find.cache_clear()


@pytest.fixture
def offer(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """Offers entries of another distribution, as ``(group, name, value)``."""
    monkeypatch.syspath_prepend(tmp_path)
    (tmp_path / "their_model.py").write_text(MODEL)
    (tmp_path / "their_aid.py").write_text(AID)
    (tmp_path / "their_broken.py").write_text("import no_such_library\n")

    def give(*entries: tuple[str, str, str]) -> None:
        dist = SimpleNamespace(name="their-package")
        points = [EntryPoint(name, value, f"caloforge.{group}")._for(dist) for group, name, value in entries]  # type: ignore[attr-defined]
        monkeypatch.setattr(
            plugins, "entry_points", lambda *, group: [point for point in points if point.group == group]
        )
        plugins.find.cache_clear()

    yield give
    for name in [name for name in sys.modules if name.startswith("their_")]:
        del sys.modules[name]


def test_what_the_package_brings_is_known_by_its_files() -> None:
    assert {"caloflow", "caloclouds3", "caloinn-factorised"} <= set(plugins.names("models"))
    assert {"marginal-start", "teacher-start", "emphasis", "layer-factors"} <= set(plugins.names("aids"))
    assert all(plugin.distribution == "caloforge" for plugin in plugins.find("models").values())
    assert plugins.names("models") == sorted(plugins.names("models"))


@pytest.mark.parametrize("group", ["presets", "pretrained"])
def test_presets_and_trained_models_are_files(group: str) -> None:
    assert plugins.names(group)
    for name in plugins.names(group):
        path = plugins.load(group, name)
        assert path.exists()
        assert path.stem == name


@pytest.mark.parametrize("group", ["models", "aids"])
def test_every_entry_of_the_package_loads_and_bears_its_name(group: str) -> None:
    for name in plugins.names(group):
        assert plugins.load(group, name).kind == name


@pytest.mark.parametrize("group", ["measures", "formats"])
def test_measures_and_formats_of_the_package_stand_in_modules_that_list_them(group: str) -> None:
    """Mutation: a name in ``ENTRIES`` that nothing bears, or an object that no ``ENTRIES`` names."""
    found = plugins.find(group)
    assert {"fpd", "boosted", "response"} <= set(found) if group == "measures" else {"native", "hits"} <= set(found)
    held = set()
    for name, plugin in found.items():
        assert plugins.load(group, name).name == name
        module = sys.modules[plugin.value]
        objects = (
            module.MEASURES if group == "measures" else [v for v in vars(module).values() if isinstance(v, Format)]
        )
        held |= {one.name for one in objects}
    assert held == set(found)


def test_a_new_measure_is_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: a table of names somewhere else."""
    folder = Path(catalogue.__file__).parent
    monkeypatch.setattr(catalogue, "__path__", [str(folder), str(tmp_path)])
    (tmp_path / "lit.py").write_text(
        "from caloforge.evaluation import Measure, Number\n"
        'ENTRIES = ("lit",)\n'
        'MEASURES = (Measure("lit", "lit voxels", "measured", lambda job: [Number(title="n", value=2.0)]),)\n'
    )
    original = plugins._folder
    monkeypatch.setattr(
        plugins, "_folder", lambda value: tmp_path if value == "caloforge.evaluation.catalogue" else original(value)
    )
    plugins.find.cache_clear()
    assert measure_names() == ["lit"]
    assert find_measure("lit").title == "lit voxels"
    sys.modules.pop("caloforge.evaluation.catalogue.lit")


def test_a_model_of_another_package_is_built_like_any_other(offer: Any) -> None:
    offer(("models", "mine", "their_model"))
    assert "mine" in model_kinds()
    assert "their_model" not in sys.modules
    sizes = {name: {"blocks": 1, "hidden_features": 4} for name in ("energies", "shapes")}
    model = build_model("mine", sizes, toy_detector())
    assert (model.kind, type(model).__name__) == ("mine", "Mine")


def test_an_entry_may_name_the_object(offer: Any) -> None:
    offer(("models", "mine", "their_model:Mine"), ("models", "inner", "their_model:Mine.Config"))
    assert model_class("mine").__name__ == "Mine"
    assert plugins.load("models", "inner").__name__ == "CaloFlowConfig"


def test_an_aid_of_another_package_is_found_by_its_name(offer: Any) -> None:
    offer(("aids", "louder", "their_aid"))
    assert "louder" in aid_kinds()
    sizes = {name: {"blocks": 1, "hidden_features": 4} for name in ("energies", "shapes")}
    model = build_model("caloflow", sizes, toy_detector(), aids=[{"kind": "louder"}])
    assert [helper.describe() for helper in model.helpers()] == [{"kind": "louder"}]
    with pytest.raises(ConfigError, match="aids, 'louder': the key 'volume' is not known"):
        build_model("caloflow", sizes, toy_detector(), aids=[{"kind": "louder", "volume": 11}])


@pytest.mark.parametrize(
    ("value", "reason"),
    [
        ("their_broken", r"\(ModuleNotFoundError: No module named 'no_such_library'\)"),
        ("their_nothing", r"\(ModuleNotFoundError: No module named 'their_nothing'\)"),
        ("their_model:Yours", r"\(AttributeError: .*Yours.*\)"),
        ("their_aid", "the module 'their_aid' has no class of that kind"),
        ("their_aid:Louder", "it is no class of models"),
        ("their_model:Good", "the class Good does not say kind = 'mine'"),
    ],
)
def test_a_broken_entry_is_named_with_its_distribution_and_stops_nothing_else(
    offer: Any, value: str, reason: str
) -> None:
    """Mutation: load all entries when one is wanted, or let the error of somebody else's module through."""
    offer(("models", "mine", value), ("models", "good", "their_model:Good"))
    assert {"mine", "good", "caloflow"} <= set(model_kinds())
    assert model_class("good").__name__ == "Good"
    assert model_class("caloflow").kind == "caloflow"
    with pytest.raises(
        PluginError, match=f"the model 'mine' of the distribution 'their-package' cannot be loaded.*{reason}"
    ) as caught:
        model_class("mine")
    assert "\n" not in str(caught.value)


def test_a_broken_entry_does_not_stop_the_command_line(offer: Any, capsys: pytest.CaptureFixture[str]) -> None:
    offer(("models", "mine", "their_broken"))
    assert main(["models"]) == 0
    assert "caloflow-tiny" in capsys.readouterr().out


def test_an_entry_of_the_package_wins_over_others_of_its_name(offer: Any) -> None:
    offer(("models", "caloflow", "their_model:Mine"))
    assert plugins.find("models")["caloflow"].distribution == "caloforge"
    assert model_class("caloflow").__name__ == "CaloFlow"


def test_a_distribution_without_a_name_is_called_so(monkeypatch: pytest.MonkeyPatch) -> None:
    point = EntryPoint("mine", "their_nothing", "caloforge.models")
    assert point.dist is None
    monkeypatch.setattr(plugins, "entry_points", lambda *, group: [point] if group == point.group else [])
    with pytest.raises(PluginError, match="of the distribution 'an unknown distribution'"):
        plugins.load("models", "mine")


def test_no_such_entry_is_a_key_error() -> None:
    with pytest.raises(KeyError):
        plugins.load("models", "mine")
