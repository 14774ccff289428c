"""Named samples that ship with the package, and showers by name."""

from caloforge.datasets.samples import (
    Sample,
    describe,
    file_of,
    from_anywhere,
    load,
    locate,
    names,
    open_named,
    path,
    refuse_references,
    sample,
)

__all__ = [
    "Sample",
    "describe",
    "file_of",
    "from_anywhere",
    "load",
    "locate",
    "names",
    "open_named",
    "path",
    "refuse_references",
    "sample",
]
