"""Named samples that ship with the package."""

from caloforge.datasets.samples import Sample, describe, load, names, path, sample

__all__ = ["Sample", "describe", "load", "names", "path", "sample"]
