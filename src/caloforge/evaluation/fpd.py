"""Fréchet and kernel physics distance (FPD, KPD), as defined by JetNet (arXiv:2211.10295).

Both compare the features of two samples: FPD by means and covariances, KPD by a polynomial kernel. The definitions, the
schedule of sample sizes and the extrapolation are JetNet's, down to the random rows, so the values agree; but rows that
are drawn several times are computed once, and the square root of a matrix is never taken.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import curve_fit

from caloforge.errors import UsageError
from caloforge.evaluation.results import Value

__all__ = ["far_rows", "fpd", "frechet_distance", "kpd"]

Float64 = NDArray[np.float64]

#: Rows of a kernel matrix that are held at a time.
_BLOCK = 2000


def _normalised(reference: Float64, generated: Float64) -> tuple[Float64, Float64]:
    if reference.ndim != 2 or generated.ndim != 2 or reference.shape[1] != generated.shape[1]:
        raise UsageError(
            f"features of shapes {reference.shape} and {generated.shape} cannot be compared, expected (N, F) and (M, F)"
        )
    if not len(reference) or not len(generated):
        raise UsageError("FPD and KPD need at least one shower in each sample")
    largest = np.abs(reference).max(axis=0)
    largest[largest == 0] = 1
    return reference / largest, generated / largest


def _drawn(features: Float64, size: int, rng: np.random.Generator) -> tuple[Float64, Float64]:
    """The distinct rows of a draw with replacement, and how often each was drawn."""
    counts = np.bincount(rng.choice(len(features), size=size), minlength=len(features))
    chosen = np.flatnonzero(counts)
    return features[chosen], counts[chosen].astype(np.float64)


def _mean_and_covariance(rows: Float64, weights: Float64) -> tuple[Float64, Float64]:
    total = weights.sum()
    mean = weights @ rows / total
    centred = rows - mean
    covariance: Float64 = (centred * weights[:, None]).T @ centred / (total - 1)
    return mean, covariance


def frechet_distance(mean1: Float64, covariance1: Float64, mean2: Float64, covariance2: Float64) -> float:
    """Fréchet distance of two Gaussians, |m1 - m2|^2 + Tr(C1 + C2 - 2 (C1 C2)^(1/2)).

    The trace of the root is the sum of the singular values of C1^(1/2) C2^(1/2), which exists for singular covariances
    as well (JetNet adds 1e-6 to their diagonals where its matrix root fails).
    """
    roots = []
    for covariance in (covariance1, covariance2):
        values, vectors = np.linalg.eigh(covariance)
        roots.append(vectors * np.sqrt(np.maximum(values, 0)))
    cross = np.linalg.svd(roots[0].T @ roots[1], compute_uv=False).sum()
    difference = mean1 - mean2
    return float(difference @ difference + np.trace(covariance1) + np.trace(covariance2) - 2 * cross)


def fpd(
    reference: Float64,
    generated: Float64,
    *,
    min_samples: int = 10_000,
    max_samples: int = 50_000,
    points: int = 10,
    draws: int = 20,
    seed: int = 42,
) -> Value:
    """Fréchet physics distance, extrapolated to infinite samples.

    At sample sizes equally spaced in 1/N, Fréchet distances of random rows (with replacement) are averaged; a straight
    line in 1/N with both coefficients >= 0 gives the value at 1/N = 0, whose fit error is the error. CaloChallenge starts
    at 10,000 (the default), JetNet at 20,000. Features are divided by the reference's largest magnitude first.

    The rows come from finite files, so this is the distance of the two files, not of their truths: with a few
    thousand showers it is not 0 even for a perfect generator, and must be read beside its floor.

    Args:
        reference: features, shape (N, F).
        generated: features, shape (M, F).
        min_samples: smallest sample size.
        max_samples: largest sample size.
        points: number of sample sizes.
        draws: draws at each of them.
        seed: of the random rows; 42 in JetNet.
    """
    x, y = _normalised(reference, generated)
    sizes = (1 / np.linspace(1 / min_samples, 1 / max_samples, points)).astype(np.int64)
    rng = np.random.default_rng(seed)
    means = []
    for size in sizes:
        values = []
        for _ in range(draws):
            one = _mean_and_covariance(*_drawn(x, int(size), rng))
            two = _mean_and_covariance(*_drawn(y, int(size), rng))
            values.append(frechet_distance(*one, *two))
        means.append(np.mean(values))
    parameters, covariance = curve_fit(
        lambda inverse, intercept, slope: intercept + slope * inverse,
        1 / sizes,
        means,
        bounds=([0, 0], [np.inf, np.inf]),
    )
    return Value(value=float(parameters[0]), error=float(np.sqrt(covariance[0, 0])))


def far_rows(reference: Float64, generated: Float64, *, factor: float = 2.0) -> NDArray[np.bool_]:
    """Generated showers with a feature ``factor`` times larger than the largest magnitude in the reference.

    Features are divided by that magnitude, so a single such shower can raise the FPD of a few thousand showers tenfold,
    also between two Geant4 samples: rare showers have long tails (a photon that converts late, say).

    Args:
        reference: features, shape (N, F).
        generated: features, shape (M, F).
        factor: how far is far.

    Returns:
        Shape (M,).
    """
    _, y = _normalised(reference, generated)
    return np.asarray((np.abs(y) > factor).any(axis=1), dtype=np.bool_)


def _kernel_sums(x: Float64, wx: Float64, y: Float64, wy: Float64) -> float:
    """sum_ij w_i w_j (x_i . y_j / F + 1)^4."""
    total = 0.0
    for start in range(0, len(x), _BLOCK):
        kernel = x[start : start + _BLOCK] @ y.T
        kernel /= x.shape[1]
        kernel += 1
        np.square(kernel, out=kernel)
        np.square(kernel, out=kernel)
        total += float(wx[start : start + _BLOCK] @ (kernel @ wy))
    return total


def _self_kernel(x: Float64, weights: Float64) -> float:
    """sum_i w_i (x_i . x_i / F + 1)^4."""
    kernel = (np.einsum("ij,ij->i", x, x) / x.shape[1] + 1) ** 4
    return float(weights @ kernel)


def kpd(
    reference: Float64, generated: Float64, *, batch_size: int = 10_000, batches: int = 10, seed: int = 42
) -> Value:
    """Kernel physics distance: the unbiased quadratic MMD with the kernel (x . y / F + 1)^4.

    Median over batches of random rows (with replacement), and half the range of the central 67.45 % of them as the
    error. It may be slightly negative. CaloChallenge uses batches of 10,000 (the default), JetNet of 5,000.

    Args:
        reference: features, shape (N, F).
        generated: features, shape (M, F).
        batch_size: rows of each sample in a batch, at least 2.
        batches: number of batches.
        seed: of the random rows; 42 in JetNet.
    """
    if batch_size < 2:
        raise UsageError(f"the batch size of the KPD is {batch_size}, expected 2 or more")
    x, y = _normalised(reference, generated)
    values = []
    pairs = batch_size * (batch_size - 1)
    for batch in range(batches):
        rng = np.random.default_rng(seed + 1000 * batch)  # JetNet's way to keep batches apart
        one, two = _drawn(x, batch_size, rng), _drawn(y, batch_size, rng)
        within = sum((_kernel_sums(*s, *s) - _self_kernel(*s)) / pairs for s in (one, two))
        values.append(within - 2 * _kernel_sums(*one, *two) / batch_size**2)
    low, high = np.percentile(values, [16.275, 83.725])
    return Value(value=float(np.median(values)), error=float((high - low) / 2))
