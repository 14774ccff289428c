"""Named samples that ship with the package, and showers by name."""

from caloforge.datasets.samples import Sample, describe, load, locate, names, open_named, path, sample

__all__ = ["Sample", "describe", "load", "locate", "names", "open_named", "path", "sample"]
