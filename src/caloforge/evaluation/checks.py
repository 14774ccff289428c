"""What must agree before two samples may be compared, and what is said if it does not."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from scipy.stats import ks_2samp

from caloforge.arguments import switch
from caloforge.detectors import Detector, particle_name
from caloforge.errors import UsageError
from caloforge.evaluation.results import Check, SharedRows
from caloforge.showers import ShowerPoints, Showers, row_hashes
from caloforge.showers.scratch import blocks_of, by_blocks
from caloforge.units import format_energy

__all__ = ["AnyShowers", "check_samples", "hashes", "refuse_trained_on", "repeated_rows", "shared_rows", "total_energy"]

AnyShowers = Showers | ShowerPoints

#: Two energy spectra with a smaller probability of being the same are refused.
SMALLEST_P = 1e-3
#: A wrong unit changes energies by 1000; no two detectors' or models' responses differ by this factor.
_UNIT_FACTOR = 30.0


@dataclass(frozen=True)
class _Finding:
    name: str
    passed: bool
    text: str
    #: Whether ``allow_mismatch`` may pass over it.
    forgivable: bool = True


def _range(energy: NDArray[np.float64]) -> str:
    return f"{format_energy(float(energy.min()))} to {format_energy(float(energy.max()))}"


def _energy_spectrum(generated: AnyShowers, reference: AnyShowers, word: str) -> _Finding:
    test = ks_2samp(generated.incident_energy, reference.incident_energy, method="asymp")
    same = f"KS distance {test.statistic:.3f}, p = {test.pvalue:.2g}"
    if test.pvalue >= SMALLEST_P:
        return _Finding("energy spectrum", True, f"the {word} and the reference energies agree ({same})")
    medians = [float(np.median(s.incident_energy)) for s in (generated, reference)]
    return _Finding(
        "energy spectrum",
        False,
        f"the {word} showers have incident energies {_range(generated.incident_energy)} (median "
        f"{format_energy(medians[0])}) and the reference {_range(reference.incident_energy)} (median "
        f"{format_energy(medians[1])}), expected the same spectrum ({same})",
    )


def _units(generated: AnyShowers, reference: AnyShowers, word: str) -> _Finding:
    responses = [float(np.median(total_energy(s) / s.incident_energy)) for s in (generated, reference)]
    text = f"the median response E_dep / E_inc is {responses[0]:.4g} for the {word} and {responses[1]:.4g} for the reference"
    low, high = sorted(max(r, 1e-12) for r in responses)
    if high / low < _UNIT_FACTOR:
        return _Finding("units", True, f"{text} showers")
    return _Finding("units", False, f"{text} showers: one of the files seems to have another unit (GeV for MeV)")


def total_energy(showers: AnyShowers) -> NDArray[np.float64]:
    """Deposited energy of all showers, MeV, (N,)."""
    return _each(lambda block: block.total_energy(), showers)


def _each(function: Callable[[AnyShowers], NDArray[Any]], showers: AnyShowers) -> NDArray[Any]:
    """What a function finds of each shower; voxels block by block."""
    return by_blocks(function, showers) if isinstance(showers, Showers) else function(showers)


def _directions(generated: AnyShowers, reference: AnyShowers, word: str) -> _Finding:
    one, two = generated.direction, reference.direction
    if one is None and two is None:
        return _Finding("directions", True, f"neither the {word} nor the reference showers have directions")
    if one is None or two is None:
        lacking = word if one is None else "reference"
        return _Finding("directions", False, f"the {lacking} showers have no directions and the others do")
    p = min(float(ks_2samp(one[:, k], two[:, k], method="asymp").pvalue) for k in range(3))
    agree = p >= SMALLEST_P
    verb = "agree" if agree else "differ"
    return _Finding("directions", agree, f"the directions of the {word} and the reference showers {verb} (p = {p:.2g})")


def check_samples(
    generated: AnyShowers,
    reference: AnyShowers,
    *,
    detector: Detector,
    generated_detector: Detector | None = None,
    allow_mismatch: bool = False,
    word: str = "generated",
) -> tuple[Check, ...]:
    """Check that two samples may be compared.

    Args:
        generated: the sample to be judged.
        reference: what it is judged by.
        detector: of the reference.
        generated_detector: of the other sample, if its file names one.
        allow_mismatch: go on if energy spectrum, particle, detector, directions or units differ.
        word: what to call the first sample.

    Raises:
        UsageError: saying what differs.
    """
    if not len(generated) or not len(reference):
        raise UsageError(f"the {word if not len(generated) else 'reference'} sample has no showers")
    findings = [_detector(generated, reference, detector, generated_detector, word)]
    if findings[0].passed or findings[0].forgivable:
        names = [particle_name(s.particle) for s in (generated, reference)]
        same = generated.particle == reference.particle
        text = f"the {word} showers are {names[0]}, the reference showers {names[1]}"
        findings += [
            _Finding("particle", same, text),
            _units(generated, reference, word),
            _energy_spectrum(generated, reference, word),
            _directions(generated, reference, word),
        ]
    _refuse(findings, allow_mismatch)
    return tuple(Check(name=f.name, passed=f.passed, text=f.text) for f in findings)


def _detector(
    generated: AnyShowers, reference: AnyShowers, detector: Detector, other: Detector | None, word: str
) -> _Finding:
    if type(generated) is not type(reference):
        text = f"the {word} and the reference showers are not of the same kind (voxels and points)"
        return _Finding("detector", False, text, forgivable=False)
    if generated.readout != reference.readout or (reference.readout or detector.readout) != detector.readout:
        counts = [0 if s.readout is None else s.readout.n_voxels for s in (generated, reference)]
        return _Finding(
            "detector",
            False,
            f"the {word} and the reference showers do not have the readout of '{detector.name}' "
            f"({counts[0]} and {counts[1]} voxels, expected {detector.readout.n_voxels} in the same arrangement)",
            forgivable=False,
        )
    if other is not None and other.hash != detector.hash:
        text = (
            f"the {word} showers are of the detector '{other.name}' ({other.hash}), the reference showers of "
            f"'{detector.name}' ({detector.hash}); their readouts agree, but not their material, gun or thresholds"
        )
        return _Finding("detector", False, text)
    return _Finding("detector", True, f"both samples are of the detector '{detector.name}' ({detector.hash})")


def _refuse(findings: Sequence[_Finding], allow_mismatch: bool) -> None:
    failed = [f for f in findings if not f.passed and not (f.forgivable and allow_mismatch)]
    if failed:
        advice = f"; {switch('allow_mismatch')} compares them all the same" if all(f.forgivable for f in failed) else ""
        raise UsageError("; ".join(f.text for f in failed) + advice)


def shared_rows(
    samples: Mapping[str, AnyShowers], threshold: float, paths: Mapping[str, Path] | None = None
) -> tuple[SharedRows, ...]:
    """Which samples hold the same showers, to the last bit, and are therefore not independent.

    Voxels are compared as they are and above the analysis threshold, so a file and its thresholded copy are recognised.
    Showers without any deposit are alike by nature and do not count.

    Args:
        samples: by name, before any threshold.
        threshold: of the analysis, MeV.
        paths: files that they were read from, as far as known.

    Returns:
        One entry for each two samples that share showers or a file; empty if all are independent.
    """
    forms = {word: _hashes(showers, threshold) for word, showers in samples.items()}
    found = []
    for one, two in itertools.combinations(samples, 2):
        # As they are in the files, and above the threshold.
        count = max(int(np.isin(a, b).sum()) for a, b in zip(forms[one], forms[two], strict=False))
        file = paths is not None and one in paths and two in paths and paths[one].resolve() == paths[two].resolve()
        if count or file:
            sizes = (len(samples[one]), len(samples[two]))
            found.append(SharedRows(samples=(one, two), showers=count, of=sizes, same_file=file))
    return tuple(found)


def _hashes(showers: AnyShowers, threshold: float) -> list[NDArray[np.uint64]]:
    """Hashes of the showers with deposits, as they are and (voxels only) above the threshold."""
    if not isinstance(showers, Showers):
        return [_of_lit(showers)]
    found = [(_of_lit(block), _of_lit(block.above(threshold))) for block in blocks_of(showers)]
    return [np.concatenate(hashes) for hashes in zip(*found, strict=True)]


def hashes(showers: AnyShowers) -> NDArray[np.uint64]:
    """Hashes of all showers, uint64 (N,)."""
    return _each(row_hashes, showers)


def _of_lit(showers: AnyShowers) -> NDArray[np.uint64]:
    """Hashes of the showers with deposits."""
    return _each(_lit_hashes, showers)


def _lit_hashes(showers: AnyShowers) -> NDArray[np.uint64]:
    lit = showers.deposits.any(axis=1) if isinstance(showers, Showers) else np.diff(showers.offsets) > 0
    return row_hashes(showers)[lit]


def repeated_rows(showers: AnyShowers) -> int:
    """Number of showers with deposits that are copies of an earlier one of the same sample."""
    hashes = _of_lit(showers)
    return len(hashes) - len(np.unique(hashes))


def refuse_trained_on(reference: AnyShowers, trained_on: NDArray[np.uint64], *, word: str = "reference") -> Check:
    """Refuse a reference that the model was trained on.

    Args:
        reference: the showers as they are in their file, before any threshold.
        trained_on: hashes of the training rows, as stored in the model directory, uint64 (M,).
        word: what to call the sample.

    Raises:
        UsageError: if any of its showers was trained on.
    """
    known = int(np.isin(hashes(reference), trained_on).sum())
    if known:
        raise UsageError(
            f"{known} of the {len(reference)} {word} showers were used to train this model, so the comparison would "
            "flatter it; use showers that no training has seen"
        )
    return Check(name=f"{word} was not trained on", passed=True, text=f"no {word} shower was used to train this model")
