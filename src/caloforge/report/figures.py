"""All figures of a report, in the order in which they are shown."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np

from caloforge.detectors import Detector
from caloforge.evaluation.results import EvaluationResult, ObservableResult
from caloforge.report.cloud_figures import (
    cloud_groups,
    draw_angle_bias,
    draw_angle_errors,
    draw_angle_scan,
    draw_clouds,
    draw_js_by_energy,
    draw_separation,
)
from caloforge.report.histogram_figures import draw_histogram, draw_overview
from caloforge.report.score_figures import draw_correlations, draw_importance, draw_layers, draw_roc, draw_slices
from caloforge.report.shower_figures import chosen_layers, draw_event_display, draw_images, draw_neighbours
from caloforge.units import format_energy

if TYPE_CHECKING:
    from matplotlib.figure import Figure

__all__ = ["Drawing", "drawings"]

#: Histograms of this many layers are shown of each family.
_LAYERS = 3


@dataclass(frozen=True)
class Drawing:
    """A figure with what belongs to it.

    Attributes:
        name: file name without suffix.
        section: heading under which it stands.
        caption: one sentence.
        wide: whether it needs the full width of the page.
        figure: the figure.
    """

    name: str
    section: str
    caption: str
    wide: bool
    figure: Figure


def _shown(results: tuple[ObservableResult, ...], layers: set[int]) -> list[ObservableResult]:
    """The histograms worth a figure: all of the whole shower, and those of a selection of layers."""
    kept, pairs = [], dict[str, int]()
    for result in results:
        if result.layer is not None:
            if result.layer in layers:
                kept.append(result)
            continue
        # Pairs of layers, rings and energies: some of each family.
        pairs[result.family] = pairs.get(result.family, 0) + 1
        if pairs[result.family] <= 6:
            kept.append(result)
    return kept


def drawings(result: EvaluationResult, detector: Detector) -> Iterator[Drawing]:
    """Draw every figure, one at a time.

    Args:
        result: of the evaluation.
        detector: that it is about.
    """
    name = result.samples["generated"].label
    readout = detector.readout
    ours, floor = result.generated, result.floor
    if ours.classifiers:
        yield Drawing(
            "roc", "Classifiers", "ROC curves; the diagonal is a perfect generator.", False, draw_roc(ours.classifiers)
        )
        if any(c.slices for c in ours.classifiers.values()):
            yield Drawing(
                "slices",
                "Classifiers",
                "The same classifiers in parts of the energy range: a pooled score can hide a bad one.",
                False,
                draw_slices(ours.classifiers, {} if floor is None else floor.classifiers),
            )
    for key, classifier in ours.classifiers.items():
        if classifier.importance:
            caption = (
                f"What the {classifier.title} see: fall of the AUC if a feature is shuffled among the test showers"
                f"{'' if floor is None else '; open points: between the two references'}."
            )
            second = None if floor is None else floor.classifiers.get(key)
            yield Drawing(f"importance-{key}", "Classifiers", caption, True, draw_importance(classifier, second))
    if ours.observables:
        others = () if floor is None else floor.observables
        caption = "Separation power of every observable over that of statistics alone; 1 is as good as Geant4 itself."
        yield Drawing("overview", "Observables", caption, True, draw_overview(ours.observables, others))
    if ours.layers is not None:
        caption = (
            "Energy and lit cells of every layer over Geant4's; the band is 5 %, grey the layers' shares of the energy "
            "(pale points: less than 1 %)."
        )
        means = draw_layers(ours.layers, None if floor is None else floor.layers)
        yield Drawing("layers", "Observables", caption, True, means)
    if ours.correlations is not None:
        caption = "Pearson correlations of the layer energies."
        yield Drawing(
            "correlations", "Observables", caption, True, draw_correlations(ours.correlations, generated=name)
        )
    yield from _clouds(result)
    yield from _showers(result, detector)
    by_key = {} if floor is None else {r.key: r for r in floor.observables}
    energies = np.asarray(ours.images.reference) if ours.images is not None else None
    sums = (
        np.asarray([energies[w].sum() for w in readout.layer_slices])
        if energies is not None and len(energies) == readout.n_voxels
        else np.ones(readout.n_layers)
    )
    for observable in _shown(ours.observables, set(chosen_layers(sums, _LAYERS))):
        figure = draw_histogram(observable, by_key.get(observable.key), generated=name)
        file = "histogram-" + observable.key.replace("/", "-")
        where = "" if observable.layer is None else f", layer {readout.layers[observable.layer].label}"
        yield Drawing(file, "Histograms", observable.family.replace("-", " ") + where, False, figure)


def _clouds(result: EvaluationResult) -> Iterator[Drawing]:
    name = result.samples["generated"].label
    ours, floor = result.generated, result.floor
    others = () if floor is None else floor.clouds
    for title, group in cloud_groups(ours.clouds):
        caption = f"Cells above the cut: {title}; in brackets the divergence that statistics alone give."
        figure = draw_clouds(group, others, generated=name)
        yield Drawing(f"clouds-{title.replace(' ', '-')}", "Cells", caption, len(group) > 1, figure)
    if any(o.slices for o in ours.clouds):
        caption = "Jensen-Shannon distance (in bits) of every observable at single energies."
        yield Drawing("clouds-by-energy", "Cells", caption, True, draw_js_by_energy(ours.clouds, others))
    if ours.angles is not None:
        second = None if floor is None else floor.angles
        for share, hits in (("100", "all hits"), ("4", "the 4 % of hits with the highest energies")):
            errors = [e for e in ours.angles.errors if e.key.endswith(f"/{share}")]
            figure = draw_angle_errors(errors, () if second is None else second.errors, generated=name)
            caption = f"Error of the internal angle, from the principal axis of {hits}."
            yield Drawing(f"angle-{share}", "Internal angle", caption, True, figure)
        caption = "Error of the internal angle against the share of hits that is used."
        yield Drawing(
            "angle-scan", "Internal angle", caption, True, draw_angle_scan(ours.angles, second, generated=name)
        )
        if ours.angles.bias:
            caption = "Bias of the internal angle against the true direction."
            figure = draw_angle_bias(ours.angles.bias, generated=name)
            yield Drawing("angle-bias", "Internal angle", caption, True, figure)
    if ours.diphotons is not None:
        caption = (
            "Photons found in pairs of overlaid single-photon showers, against their distance. "
            f"Reconstruction: {ours.diphotons.algorithm}."
        )
        figure = draw_separation(ours.diphotons, None if floor is None else floor.diphotons, generated=name)
        yield Drawing("di-photons", "Di-photon separation", caption, True, figure)


def _showers(result: EvaluationResult, detector: Detector) -> Iterator[Drawing]:
    name = result.samples["generated"].label
    readout = detector.readout
    ours = result.generated
    if ours.neighbours:
        # The largest energy shows most of a shower.
        group = ours.neighbours[-1]
        yield Drawing(
            "event",
            "Showers",
            f"A Geant4 shower and its nearest generated neighbour at {format_energy(group.energy)}.",
            True,
            draw_event_display(group, readout, generated=name),
        )
    if ours.images is not None:
        sums = np.asarray([np.sum(ours.images.reference[w]) for w in readout.layer_slices])
        for layer in chosen_layers(sums, _LAYERS):
            label = readout.layers[layer].label
            marks = "; circles mark voxels lit significantly too rarely or too often" if ours.voxels is not None else ""
            yield Drawing(
                f"image-{label}",
                "Showers",
                f"Average of layer {label}{marks}.",
                True,
                draw_images(ours.images, readout, layer, ours.voxels, generated=name),
            )
    for group in ours.neighbours:
        how = "generated at this energy" if group.how == "sampled" else "within 2 % of this energy"
        yield Drawing(
            f"neighbours-{format_energy(group.energy).replace(' ', '')}",
            "Showers",
            f"A Geant4 shower of {format_energy(group.energy)} and its nearest neighbour in full voxel space among "
            f"{group.candidates} showers {how}.",
            True,
            draw_neighbours(group, readout, generated=name),
        )
