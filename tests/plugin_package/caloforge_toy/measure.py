"""A measure in one file: the mean deposited energy, and its statistical error."""

import numpy as np

from caloforge.evaluation import Comparison, Measure, Number


def mean_energy(job: Comparison) -> list[Number]:
    """Mean share of the incident energy that is deposited, generated over reference."""
    one, two = (showers.total_energy() / showers.incident_energy for showers in (job.generated, job.reference))
    ratio = one.mean() / two.mean()
    error = ratio * np.sqrt(sum((s.std() / s.mean()) ** 2 / len(s) for s in (one, two)))
    return [Number(title="mean deposited energy over the reference's", value=ratio, error=error, best="1")]


MEASURE = Measure("toy-mean-energy", "mean deposited energy", "measured", mean_energy, voxels=False)
