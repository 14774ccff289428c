"""One registry for what the package brings and what other packages add: models, aids, presets and the like.

What the package itself brings is found by its files: in the folders of ``_OWN`` every file is an entry, named like the file with
dashes for underscores. Another distribution names its entries in the entry point group ``caloforge.<group>``::

    [project.entry-points."caloforge.models"]
    my-model = "mypackage.my_model"

Names are known without importing anything. Each entry is loaded by itself when it is wanted, so a broken one is named in one
sentence and stops nothing else.
"""

from __future__ import annotations

import importlib
import pkgutil
from dataclasses import dataclass
from functools import cache
from importlib.metadata import entry_points
from importlib.util import find_spec
from types import ModuleType
from typing import Any

from caloforge.errors import PluginError

__all__ = ["GROUPS", "Plugin", "find", "load", "names"]

#: Groups, and the folder of the package whose files are entries of each.
_OWN = {"models": "caloforge.zoo", "aids": "caloforge.aids"}

#: All groups.
GROUPS = tuple(_OWN)


@dataclass(frozen=True)
class Plugin:
    """An entry of the registry.

    Attributes:
        group: one of ``GROUPS``.
        name: what people call it.
        value: ``module`` or ``module:object``.
        distribution: who brings it.
    """

    group: str
    name: str
    value: str
    distribution: str


@cache
def find(group: str) -> dict[str, Plugin]:
    """All entries of a group by name, without loading any; an entry of the package wins over others of its name.

    Args:
        group: one of ``GROUPS``.
    """
    found: dict[str, Plugin] = {}
    for entry in entry_points(group=f"caloforge.{group}"):
        distribution = entry.dist.name if entry.dist is not None else "an unknown distribution"
        found.setdefault(entry.name, Plugin(group, entry.name, entry.value, distribution))
    package = _OWN[group]
    spec = find_spec(package)
    for module in pkgutil.iter_modules(spec.submodule_search_locations if spec is not None else None):
        if not module.ispkg and not module.name.startswith("_"):
            name = module.name.replace("_", "-")
            found[name] = Plugin(group, name, f"{package}.{module.name}", "caloforge")
    return dict(sorted(found.items()))


def names(group: str) -> list[str]:
    """Names of all entries of a group, sorted."""
    return list(find(group))


def load(group: str, name: str) -> Any:
    """Load an entry.

    If it is a module, the class in it whose attribute ``kind`` is the entry's name is the result.

    Args:
        group: one of ``GROUPS``.
        name: a name from :func:`names`.

    Raises:
        KeyError: if there is no such entry.
        PluginError: if it cannot be loaded, naming the distribution that brings it.
    """
    plugin = find(group)[name]
    module, _, attribute = plugin.value.partition(":")
    try:
        found: Any = importlib.import_module(module)
        if attribute:
            for part in attribute.split("."):
                found = getattr(found, part)
    except Exception as error:  # whatever somebody else's module does
        raise PluginError(
            f"the {group.removesuffix('s')} '{name}' of the distribution '{plugin.distribution}' cannot be loaded "
            f"({type(error).__name__}: {error})"
        ) from error
    if not isinstance(found, ModuleType):
        return found
    for value in vars(found).values():
        if isinstance(value, type) and vars(value).get("kind") == name and value.__module__ == found.__name__:
            return value
    raise PluginError(
        f"the {group.removesuffix('s')} '{name}' of the distribution '{plugin.distribution}' cannot be loaded: the module "
        f"'{module}' has no class of that kind"
    )
