"""One registry for what the package and others bring: models, presets, trained models, aids, measures, formats.

What the package itself brings is found by its files. Models, aids, presets and trained models are named like them, with dashes
for underscores: modules of ``caloforge.zoo`` and ``caloforge.aids``, YAML files and model directories beside the former. Modules
of ``caloforge.evaluation.catalogue`` and ``caloforge.showers.formats`` say which measures and formats they hold, in a line
``ENTRIES = ("fpd", "kpd")`` that is read without importing them. Another distribution names its entries in the entry point group
``caloforge.<group>``::

    [project.entry-points."caloforge.models"]
    my-model = "mypackage.my_model"            # a module with a class of this kind, or module:object
    [project.entry-points."caloforge.presets"]
    my-model-tiny = "mypackage.presets"        # a folder with my-model-tiny.yaml
    [project.entry-points."caloforge.pretrained"]
    my-photons = "mypackage.pretrained"        # a folder with the model directory my-photons
    [project.entry-points."caloforge.measures"]
    my-measure = "mypackage.measures:MEASURE"
    [project.entry-points."caloforge.formats"]
    my-format = "mypackage.formats:FORMAT"

Names are known without importing anything. Each entry is loaded by itself when it is wanted, so a broken one is named in one
sentence and stops nothing else.
"""

from __future__ import annotations

import ast
import importlib
import pkgutil
import warnings
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import Any

from caloforge.errors import CaloForgeWarning, PluginError

__all__ = ["GROUPS", "Plugin", "checked", "find", "load", "load_each", "locate", "names"]

#: Folders of the package whose modules are entries, those whose modules list entries, and those whose files are entries.
_MODULES = {"models": "caloforge.zoo", "aids": "caloforge.aids"}
_LISTED = {"measures": "caloforge.evaluation.catalogue", "formats": "caloforge.showers.formats"}
_FILES = {"presets": "caloforge.zoo.presets", "pretrained": "caloforge.zoo.pretrained"}

#: All groups, and what one of their entries is called.
_WORDS = {
    "models": "model",
    "presets": "preset",
    "pretrained": "trained model",
    "aids": "aid",
    "measures": "measure",
    "formats": "format",
}
GROUPS = tuple(_WORDS)


@dataclass(frozen=True)
class Plugin:
    """An entry of the registry.

    Attributes:
        group: one of ``GROUPS``.
        name: what people call it.
        value: ``module`` or ``module:object``; for presets and trained models the folder, as a module would be named.
        distribution: who brings it.
        version: of that distribution; empty if it is not known.
    """

    group: str
    name: str
    value: str
    distribution: str
    version: str = ""

    def broken(self, why: str, what: str = "loaded") -> PluginError:
        """An error that names the entry and its distribution."""
        return PluginError(
            f"the {_WORDS[self.group]} '{self.name}' of the distribution '{self.distribution}' cannot be {what}{why}"
        )


@cache
def find(group: str) -> dict[str, Plugin]:
    """All entries of a group by name, without loading any; an entry of the package wins over others of its name.

    Args:
        group: one of ``GROUPS``.
    """
    found: dict[str, Plugin] = {}
    for entry in entry_points(group=f"caloforge.{group}"):
        name, version = ("an unknown distribution", "") if entry.dist is None else (entry.dist.name, _version(entry))
        found.setdefault(entry.name, Plugin(group, entry.name, entry.value, name, version))
    for name, value in _own(group):
        found[name] = Plugin(group, name, value, "caloforge")
    return dict(sorted(found.items()))


def _version(entry: Any) -> str:
    return str(getattr(entry.dist, "version", ""))


def _own(group: str) -> Iterator[tuple[str, str]]:
    """Names and places of what the package itself brings."""
    if group in _MODULES:
        spec = find_spec(_MODULES[group])
        for module in pkgutil.iter_modules(spec.submodule_search_locations if spec is not None else None):
            if not module.ispkg and not module.name.startswith("_"):
                yield module.name.replace("_", "-"), f"{_MODULES[group]}.{module.name}"
    elif group in _LISTED:
        folder = _folder(_LISTED[group])
        for path in [] if folder is None else sorted(folder.glob("*.py")):
            for name in _listed(path):
                yield name, f"{_LISTED[group]}.{path.stem}"
    elif group in _FILES:
        folder = _folder(_FILES[group])
        ending = "*.yaml" if group == "presets" else "*/model.json"
        for path in [] if folder is None else folder.glob(ending):
            yield path.stem if group == "presets" else path.parent.name, _FILES[group]


def _listed(path: Path) -> tuple[str, ...]:
    """The names in the line ``ENTRIES = ...`` of a module; nothing is imported."""
    for statement in ast.parse(path.read_bytes()).body:
        if isinstance(statement, ast.Assign) and any(
            isinstance(target, ast.Name) and target.id == "ENTRIES" for target in statement.targets
        ):
            return tuple(ast.literal_eval(statement.value))
    return ()


def _folder(value: str) -> Path | None:
    """The folder that a module of this name would be; nothing is imported."""
    top, *rest = value.split(".")
    spec = find_spec(top)
    if spec is None:
        return None
    places = [Path(place).joinpath(*rest) for place in spec.submodule_search_locations or ()]
    return next((place for place in places if place.is_dir()), None)


def names(group: str) -> list[str]:
    """Names of all entries of a group, sorted."""
    return list(find(group))


def locate(group: str, name: str) -> Path:
    """The file of a preset, or the directory of a trained model; nothing is imported.

    Args:
        group: ``presets`` or ``pretrained``.
        name: a name from :func:`names`.

    Raises:
        KeyError: if there is no such entry.
        PluginError: if it is not where its distribution says.
    """
    plugin = find(group)[name]
    try:
        folder = _folder(plugin.value)
    except (ImportError, ValueError):
        folder = None
    file = f"{name}.yaml" if group == "presets" else name
    if folder is None or not (folder / file).exists():
        raise plugin.broken(f": there is no '{file}' in the folder '{plugin.value}'")
    return folder / file


def load(group: str, name: str) -> Any:
    """Load an entry.

    If it is a module, the class in it whose attribute ``kind`` is the entry's name is the result, or the object whose attribute
    ``name`` is, which may stand in a tuple.

    Args:
        group: one of ``GROUPS``.
        name: a name from :func:`names`.

    Returns:
        The object; for presets and trained models their path, as from :func:`locate`.

    Raises:
        KeyError: if there is no such entry.
        PluginError: if it cannot be loaded, naming the distribution that brings it.
    """
    if group in _FILES:
        return locate(group, name)
    plugin = find(group)[name]
    module, _, attribute = plugin.value.partition(":")
    try:
        found: Any = importlib.import_module(module)
        if attribute:
            for part in attribute.split("."):
                found = getattr(found, part)
    except (Exception, SystemExit) as error:  # whatever somebody else's module does
        raise plugin.broken(f" ({type(error).__name__}: {' '.join(str(error).split())})") from error
    if not isinstance(found, ModuleType):
        return found
    for value in vars(found).values():
        if isinstance(value, type) and vars(value).get("kind") == name and value.__module__ == found.__name__:
            return value
        for one in value if isinstance(value, tuple) else (value,):
            if not isinstance(one, type) and group in _LISTED and getattr(one, "name", None) == name:
                return one
    raise plugin.broken(
        f": the module '{module}' has no {'object of that name' if group in _LISTED else 'class of that kind'}"
    )


def load_each(group: str, *, expected: type) -> Iterator[tuple[Plugin, Any]]:
    """All entries of other distributions that can be loaded; of each other one a warning says why it cannot.

    Args:
        group: one of ``GROUPS``.
        expected: the class that an entry must be of.
    """
    for name, plugin in find(group).items():
        if plugin.distribution == "caloforge":
            continue
        try:
            yield plugin, checked(plugin, load(group, name), expected)
        except PluginError as error:
            warnings.warn(str(error), CaloForgeWarning, stacklevel=2)


def checked(plugin: Plugin, value: Any, expected: type) -> Any:
    """The object of an entry, if it is what it has to be and bears the name of the entry.

    Raises:
        PluginError: if not.
    """
    if not isinstance(value, expected):
        raise plugin.broken(f": expected a {expected.__name__}, got {type(value).__name__}")
    own = getattr(value, "name", plugin.name)
    if own != plugin.name:
        raise plugin.broken(f": it calls itself '{own}'")
    return value
