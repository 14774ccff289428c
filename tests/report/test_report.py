"""The report: files, page, published numbers, comparison."""

from __future__ import annotations

import builtins
import json
import re
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from caloforge import datasets
from caloforge.detectors import load_detector
from caloforge.errors import OutputError, UsageError
from caloforge.evaluation import EvaluationResult, evaluate
from caloforge.evaluation.classifiers import boosted
from caloforge.evaluation.results import (
    CrossParticleResult,
    CrossParticleScore,
    FarShowers,
    Scores,
    SharedRows,
    Spread,
    TimingResult,
    TimingRow,
    Value,
)
from caloforge.report import (
    claim_folder,
    compare_reports,
    load_report,
    published_tables,
    summary_lines,
    tables_for,
    write_report,
)
from caloforge.report.page import render_page
from caloforge.report.score_figures import feature_name
from caloforge.report.style import figure_style
from caloforge.report.tables import Row, auc_pair, number, summary_rows, verdict, worst_observables
from caloforge.showers import Showers

DETECTOR = load_detector("calogan")


@pytest.fixture(scope="module")
def result() -> EvaluationResult:
    samples = []
    for split in ("test", "floor"):
        showers = datasets.load("calogan-gamma-sample", split=split)
        assert isinstance(showers, Showers)
        samples.append(showers)
    test, floor = samples
    deposits = floor.deposits[:800].copy()
    deposits[:, 288 + 78] = 0
    dead = Showers(deposits, floor.incident_energy[:800], 22, DETECTOR.readout)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(boosted, "_ITERATIONS", 30)  # the report is to be looked at, not the trees
        whole = evaluate(
            dead, test[:800], detector=DETECTOR, floor=floor[800:1600], retrainings=2, epochs=2, skip=["kpd"],
            labels={"generated": "model <A>", "reference": "Geant4", "floor": "more Geant4"},
        )  # fmt: skip
    assert whole.floor is not None
    return whole.model_copy(update={"generated": thinned(whole.generated), "floor": thinned(whole.floor)})


def thinned(scores: Scores) -> Scores:
    """Some observables of every sort, and two groups of neighbours: drawing all of them takes most of the time."""
    families = {
        "response",
        "layer-energy",
        "eta-centroid",
        "eta-centroid-difference",
        "filled-fraction",
        "voxel-energy",
    }
    kept = tuple(o for o in scores.observables if o.family in families)
    return scores.model_copy(update={"observables": kept, "neighbours": scores.neighbours[:2]})


@pytest.fixture(scope="module")
def folder(result: EvaluationResult, tmp_path_factory: pytest.TempPathFactory) -> Path:
    out: Path = tmp_path_factory.mktemp("report")
    write_report(result, out, formats=("png",))
    return out


class _Page(HTMLParser):
    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.sources: list[str] = []
        self.text = ""

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        if tag not in ("meta", "br", "img"):
            self.open.append(tag)
        self.sources += [value or "" for key, value in attrs if key in ("src", "href")]

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text += data


def test_the_page_is_whole_and_needs_nothing_beside_it(folder: Path) -> None:
    text = (folder / "index.html").read_text()
    page = _Page()
    page.feed(text)
    assert page.open == []
    assert all(s.startswith(("data:image/png;base64,", "#")) for s in page.sources)
    assert not re.search(r"url\(|@import|<script|<link", text)
    assert 'name="viewport"' in text
    assert "model <A>" in page.text  # escaped in the source
    for word in ("Summary", "floor", "published", "CaloFlow 0.6600 ± 0.0060", "CaloGAN 1.000", "arXiv:2106.05285"):
        assert word in page.text, word
    # The summary stands before the first figure.
    assert text.index('id="summary"') < text.index("<img")


def test_figures_and_data_are_written(folder: Path, result: EvaluationResult) -> None:
    names = {p.stem for p in (folder / "figures").iterdir()}
    assert {"roc", "slices", "overview", "correlations", "event", "image-0", "image-2"} <= names
    assert "histogram-caloflow-eta-centroid-1" in names
    assert any(n.startswith("neighbours-") for n in names)
    assert all(p.read_bytes().startswith(b"\x89PNG") for p in (folder / "figures").iterdir())
    assert load_report(folder) == result
    assert load_report(folder / "report.json") == result
    assert json.loads((folder / "report.json").read_text())["schema_version"] == 1


def test_vector_figures_for_papers(result: EvaluationResult, tmp_path: Path) -> None:
    slim = result.model_copy(
        update={"generated": result.generated.model_copy(update={"observables": (), "neighbours": (), "images": None})}
    )
    files = write_report(slim, tmp_path, formats=("png", "pdf")).figures
    assert {f.suffix for f in files} == {".png", ".pdf"}
    assert all(f.read_bytes().startswith(b"%PDF") for f in files if f.suffix == ".pdf")
    assert not list((tmp_path / "figures").glob("*.svg"))
    with pytest.raises(UsageError, match="format 'gif' is not known"):
        write_report(slim, tmp_path, formats=("gif",))


def test_numbers_alone_need_no_drawing(result: EvaluationResult, tmp_path: Path) -> None:
    files = write_report(result, tmp_path, formats=(), page=False)
    assert files.page is None
    assert files.figures == ()
    assert [p.name for p in tmp_path.iterdir()] == ["report.json"]


def test_no_page_and_no_figures_of_an_older_report_stay(result: EvaluationResult, tmp_path: Path) -> None:
    (tmp_path / "index.html").write_text("of an older report")
    (tmp_path / "figures").mkdir()
    (tmp_path / "figures" / "response.png").write_text("likewise")
    (tmp_path / "notes.txt").write_text("mine")
    write_report(result, tmp_path, formats=(), page=False)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["notes.txt", "report.json"]


def test_three_honest_sentences(result: EvaluationResult) -> None:
    classifiers, distributions, limits = summary_lines(result)
    assert classifiers.startswith("Classifiers: the showers can")
    assert "floor" in classifiers
    assert "voxels never lit 1, too rarely 0" in distributions
    assert "seen with 800 showers of each kind" in limits
    alone = result.model_copy(update={"floor": None, "generated": Scores(), "notes": ()})
    classifiers, distributions, limits = summary_lines(alone)
    assert "none was trained" in classifiers
    assert "none was compared" in distributions
    assert "without a second reference (floor) nobody knows" in limits
    # A verdict must not hang on a single odd shower, and the reader must hear of it.
    fpd = result.generated.fpd
    assert fpd is not None
    far = result.generated.model_copy(update={"far_showers": FarShowers(showers=1, fpd=Value(value=1e-9, error=0.0))})
    odd = result.model_copy(update={"generated": far})
    row = {r.key: r for r in summary_rows(odd, ())}["fpd"]
    assert verdict(row) == "good"
    assert "without 1 generated shower far outside" in row.remark
    assert "without 1 generated shower far outside" in summary_lines(odd)[1]


@pytest.mark.parametrize(
    ("ours", "floor", "expected"),
    [
        ((0.559, 0.053), None, "good"),  # 300 + 300 Geant4 showers, one retraining
        ((0.559, 0.053), (0.5, 0.053), "good"),
        ((0.55, 0.02), None, "open"),
        ((0.55, 0.01), None, "near"),
        ((0.55, 0.01), (0.54, 0.01), "good"),  # Geant4 itself is told apart, as by two productions
        ((0.7, 0.01), (0.5, 0.01), "far"),
        ((0.42, 0.01), None, "good"),  # nobody told anything apart
        ((0.515, 0.002), None, "near"),
        ((1.0, 0.0), (0.5, 0.0), "far"),
        ((0.5, 0.0), None, "good"),
    ],
)
def test_no_verdict_beyond_the_statistical_error(
    ours: tuple[float, float], floor: tuple[float, float] | None, expected: str
) -> None:
    """Mutations: the standard deviation over retrainings as scatter; the floor's error left out."""
    assert verdict(Row("high-level", "AUC", "0.5", ours, floor)) == expected
    assert verdict(Row("high-level", "AUC", "0.5", ours, floor, spoiled=True)) == ""


def test_samples_that_are_not_independent_are_named_first_and_get_no_verdict(result: EvaluationResult) -> None:
    shared = SharedRows(samples=("generated", "reference"), showers=300, of=(300, 300), same_file=True)
    spoiled = result.model_copy(update={"shared": (shared,)})
    first, classifiers, *_ = summary_lines(spoiled)
    assert first.startswith("Samples: NOT INDEPENDENT: generated and reference are the same 300 showers, of one file.")
    assert "no verdict, as the samples are not independent" in classifiers
    assert {verdict(row) for row in summary_rows(spoiled, ())} == {""}
    page = render_page(spoiled, [], [])
    assert page.index("NOT INDEPENDENT") < page.index("Classifiers: ")
    assert 'class="lead alarm"' in page
    assert any("not independent: generated and reference" in note for note in compare_reports([spoiled]).notes)
    few = result.model_copy(update={"shared": (shared.model_copy(update={"showers": 2, "same_file": False}),)})
    assert "too few to change a score" in summary_lines(few)[0]
    assert "the showers can" in summary_lines(few)[1]


def test_what_stands_far_below_a_half_is_said(result: EvaluationResult) -> None:
    """The same showers in another form have no common rows; a classifier that knows them by heart gives them away."""
    name, found = next(iter(result.generated.classifiers.items()))
    low = found.model_copy(update={"auc": Spread(mean=0.4, std=0.0, values=(0.4,), error=0.02)})
    other = result.model_copy(update={"generated": Scores(classifiers={name: low}), "floor": None})
    assert "is a sign of showers that are in both samples in another form" in summary_lines(other)[0]


def test_reports_of_earlier_versions_keep_an_error(result: EvaluationResult) -> None:
    found = next(iter(result.generated.classifiers.values()))
    old = found.model_copy(update={"auc": Spread(mean=0.6, std=0.0, values=(0.6,)), "statistical_error": 0.05})
    assert auc_pair(old) == (0.6, 0.05)


def test_a_folder_is_claimed_once(result: EvaluationResult, tmp_path: Path) -> None:
    out = tmp_path / "r"
    kept = claim_folder(out)
    write_report(result, out, formats=(), page=False)
    (out / "notes.txt").write_text("mine")
    kept.mkdir()
    with pytest.raises(OutputError, match="holds a report already"):
        claim_folder(out)
    assert claim_folder(out, resume=True) == kept
    assert (out / "report.json").exists()
    claim_folder(out, overwrite=True)
    assert [p.name for p in out.iterdir()] == ["notes.txt"]
    with pytest.raises(OutputError, match="is a file, expected a folder"):
        claim_folder(out / "notes.txt")


def test_damaged_and_missing_reports_are_refused(folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UsageError, match="there is no such file"):
        load_report(tmp_path)
    file = tmp_path / "report.json"
    file.write_text("[1, 2")
    with pytest.raises(UsageError, match="is not a report"):
        load_report(file)
    tree = json.loads((folder / "report.json").read_text())
    file.write_text(json.dumps(tree | {"schema_version": 99}))
    with pytest.raises(UsageError, match="schema version 99, this program reads 1"):
        load_report(file)
    file.write_text(json.dumps(tree | {"seed": "many"}))
    with pytest.raises(UsageError, match="damaged at 'seed'"):
        load_report(file)


def test_a_folder_that_cannot_be_made_is_reported(result: EvaluationResult, tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(OutputError, match="cannot be made"):
        write_report(result, tmp_path / "file")


def test_the_summary_puts_floor_and_published_numbers_beside_ours(result: EvaluationResult) -> None:
    rows = {r.key: r for r in summary_rows(result, tables_for("calogan", 22))}
    row = rows["caloflow-dnn-unnormalised"]
    assert row.ours == (result.generated.classifiers[row.key].auc.mean, result.generated.classifiers[row.key].auc.error)
    assert result.floor is not None
    assert row.floor is not None
    assert row.floor[0] == result.floor.classifiers[row.key].auc.mean
    assert [(name, n.value, n.std) for name, n in row.published] == [("CaloFlow", 0.66, 0.006), ("CaloGAN", 1.0, 0.0)]
    assert "480 + 480 showers" in row.remark
    assert "± is the statistical error, the trainings scatter by" in row.remark
    assert rows["voxels never_lit"].ours == (1.0, None)
    assert rows["voxels never_lit"].floor == (0.0, None)
    worst, _, factor = worst_observables(result.generated, result.floor)[0]
    assert worst.layer == 1 or worst.key.endswith("difference/1-2") or "0-1" in worst.key
    assert factor > 10


def test_what_the_trees_see_is_shown(folder: Path, result: EvaluationResult) -> None:
    page = (folder / "index.html").read_text()
    section = page[page.index('id="importance"') :]
    first, family = (items[0] for items in (result.generated.classifiers["boosted"].importance,
                                            result.generated.classifiers["boosted"].families))  # fmt: skip
    for item in (first, family):
        assert f"<td>{feature_name(item.name)}</td><td>{number(item.drop.value, item.drop.error)}</td>" in section
    assert feature_name("above-20keV/1") == "above 20keV, layer 1"
    assert {p.stem for p in (folder / "figures").iterdir()} >= {"importance-boosted"}
    remark = {r.key: r.remark for r in summary_rows(result, ())}["boosted"]
    assert remark.startswith("5 folds over 800 + 800 showers")
    other = result.generated.classifiers["high-level"]
    alone = result.model_copy(update={"generated": Scores(classifiers={"high-level": other}), "floor": None})
    assert 'id="importance"' not in render_page(alone, [], [])


def test_a_page_without_floor_says_so(result: EvaluationResult) -> None:
    text = render_page(result.model_copy(update={"floor": None}), [], [])
    assert "not measured" in text
    assert "no published numbers for this detector" in text


def test_speed_and_particle_identification_are_shown_when_there(result: EvaluationResult) -> None:
    auc = Spread(mean=0.9, std=0.01, values=(0.89, 0.91))
    more = result.model_copy(
        update={
            "timing": TimingResult(
                rows=(TimingRow(program="ours", device="CPU, 2 threads", batch=100, milliseconds=0.5, std=0.01),),
                parameters=1234567, training_seconds=90.0, training_device="2 cores",
            ),
            "cross_particle": (
                CrossParticleResult(
                    particles=("e+", "pi+"), recipe="x", showers=10,
                    scores=(CrossParticleScore(trained_on="geant4", scored_on="generated", auc=auc),),
                ),
            ),
        }
    )  # fmt: skip
    text = render_page(more, tables_for("calogan", 22), [])
    for word in (
        "0.500 ± 0.010",
        "1,234,567 parameters",
        "1.5 min",
        "CaloFlow (published)",
        "96.1",
        "1,772",
        "e+ / pi+",
    ):
        assert word in text, word
    assert "Speed" not in render_page(result, [], [])


def test_published_numbers_are_those_of_the_papers() -> None:
    tables = {t.title: t for t in published_tables()}
    assert len(tables) == 7
    for table in tables.values():
        load_detector(table.detector)
        assert table.source.startswith("arXiv:")
        assert len({m.name for m in table.models}) == len(table.models)
        for model in table.models:
            aucs = [
                n.value for k, n in model.numbers.items() if k in ("calochallenge-low", "caloflow-dnn-unnormalised")
            ]
            assert all(0.49 < a <= 1 for a in aucs)

    def get(title: str, model: str, column: str) -> tuple[float, float | None]:
        found = {m.name: n for m, n in tables[title].column(column)}[model]
        return round(found.value, 5), None if found.std is None else round(found.std, 5)

    assert get("CaloFlow and CaloGAN, e+", "CaloFlow", "caloflow-cnn-normalised") == (0.736, 0.092)
    assert get("CaloFlow and CaloGAN, pi+", "CaloFlow", "caloflow-dnn-logit jsd") == (0.065, 0.002)
    assert get("CaloFlow and CaloGAN, photons", "CaloGAN", "parameters")[0] == 29_726_280
    assert get("CaloChallenge dataset 1, photons", "CaloINN", "calochallenge-low") == (0.62592, 0.00418)
    assert get("CaloChallenge dataset 1, photons", "CaloINN", "fpd") == (0.0039, 0.00017)
    assert get("CaloChallenge dataset 1, pions", "Geant4", "calochallenge-low")[0] == pytest.approx(0.609, abs=1e-3)
    assert get("CaloChallenge dataset 2", "conv. L2LFlows", "calochallenge-resnet")[0] == pytest.approx(0.941, abs=1e-3)
    assert tables_for("calogan", 13) == ()
    assert tables_for("nonexistent", 22) == ()


@pytest.mark.parametrize(
    ("value", "std", "text"),
    [
        (0.66, 0.006, "0.6600 ± 0.0060"),
        (0.5, None, "0.5"),
        (1.0, 0.0, "1.000 ± 0.000"),
        (2.16e-5, 7.9e-6, "(2.16 ± 0.79)e-5"),
        (-0.004, 0.02, "-0.004 ± 0.020"),
        (17.26, 4.2, "17.3 ± 4.2"),
        (1.2e-7, None, "1.20e-07"),
        (1772.0, None, "1,772"),
        (0.0, None, "0"),
    ],
)
def test_numbers_keep_the_digits_that_mean_something(value: float, std: float | None, text: str) -> None:
    assert number(value, std) == text


def test_comparison_of_models(result: EvaluationResult) -> None:
    samples = dict(result.samples)
    samples["generated"] = samples["generated"].model_copy(update={"label": "B", "showers": 500})
    other = result.model_copy(update={"samples": samples})
    table = compare_reports([result, other, other])
    assert table.columns == ["model <A>", "B (2)", "B (3)", "floor", "CaloFlow (published)", "CaloGAN (published)"]
    rows = dict(table.rows)
    assert rows["AUC, CaloFlow DNN, unnormalised voxels"][4] == "0.6600 ± 0.0060"
    assert rows["voxels never lit"] == ["1", "1", "1", "0", "–", "–"]
    assert any("sample sizes differ" in n for n in table.notes)
    markdown = table.to_markdown().splitlines()
    assert markdown[0].count("|") == markdown[1].count("|") == 8
    assert "model &lt;A&gt;" in table.to_html()
    detector = other.detector | {"hash": "another"}
    with pytest.raises(UsageError, match="different detectors"):
        compare_reports([result, other.model_copy(update={"detector": detector})])
    with pytest.raises(UsageError, match="at least one"):
        compare_reports([])


def test_missing_mplhep_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    real = builtins.__import__

    def without(name: str, *args: Any, **kwargs: Any) -> Any:
        if name == "mplhep":
            raise ImportError(name)
        return real(name, *args, **kwargs)

    with figure_style() as style:
        assert style.note == ""
    monkeypatch.setattr(builtins, "__import__", without)
    with figure_style() as style:
        assert "mplhep is not installed" in style.note


def test_a_readout_with_many_layers_and_round_cells(tmp_path: Path) -> None:
    detector = load_detector("par04-ds2")
    rng = np.random.default_rng(0)
    samples = []
    for _ in range(2):
        energy = rng.uniform(1e3, 1e5, 60)
        deposits = (rng.random((60, 6480)) < 0.05) * rng.exponential(size=(60, 6480)) * energy[:, None] / 324
        samples.append(Showers(deposits.astype(np.float32), energy, 11, detector.readout))
    result = evaluate(
        samples[0], samples[1], detector=detector, suite="calochallenge",
        only=["calochallenge-observables", "images", "neighbours", "voxels", "correlations"],
    )  # fmt: skip
    families = {"eta-centre", "layer-energy", "response"}
    kept = tuple(o for o in result.generated.observables if o.family in families)
    assert len(kept) == 45 + 45 + 1
    scores = result.generated.model_copy(update={"observables": kept, "neighbours": result.generated.neighbours[:1]})
    files = write_report(result.model_copy(update={"generated": scores}), tmp_path)
    names = {f.stem for f in files.figures}
    # Everything of the whole shower, but only three of the 45 layers.
    assert {n for n in names if n.startswith("histogram")} >= {"histogram-calochallenge-response"}
    assert len([n for n in names if n.startswith("histogram")]) == 3 + 3 + 1
    assert files.page is not None
    assert "CaloDiffusion" in files.page.read_text()


def test_summary_of_point_clouds_names_the_farthest_observable() -> None:
    """Points have none of the voxels' observables; the sentence must not say that nothing was compared."""
    one, two = (datasets.load("calogan-gamma-sample", split=split)[:150] for split in ("test", "floor"))
    only = ["caloclouds-profiles"]
    line = summary_lines(evaluate(two, one, detector=DETECTOR, suite="caloclouds", only=only))[1]
    assert "point-cloud observables" in line
    assert "none was compared" not in line
