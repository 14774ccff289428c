"""The page: one HTML file that needs nothing beside it, on a desk or on a phone."""

from __future__ import annotations

import base64
from collections.abc import Sequence
from dataclasses import dataclass
from html import escape
from importlib import resources

from caloforge.detectors import detector_from_toml, particle_name
from caloforge.evaluation.results import EvaluationResult, observable_name
from caloforge.report.published import PublishedNumber, PublishedTable
from caloforge.report.score_figures import feature_name
from caloforge.report.summary import summary_lines
from caloforge.report.tables import Row, auc_pair, number, summary_rows, verdict, worst_observables
from caloforge.units import format_energy

__all__ = ["Picture", "render_page", "style_sheet"]

#: Features and families in the table of a classifier.
_FEATURES = 12


@dataclass(frozen=True)
class Picture:
    """A finished figure: a ``Drawing`` as a PNG file's bytes, and its width on a page (CSS pixels)."""

    name: str
    section: str
    caption: str
    wide: bool
    width: int
    png: bytes


def _cell(label: str, content: str, kind: str = "") -> str:
    css = f' class="{kind}"' if kind else ""
    return f'<td{css} data-label="{escape(label)}">{content}</td>'


def _shown(value: tuple[float, float | None] | None) -> str:
    return "–" if value is None else escape(number(*value))


def _published_cell(published: Sequence[tuple[str, PublishedNumber]]) -> str:
    if not published:
        return "–"
    models = [(name, value) for name, value in published if name != "Geant4"]
    lines = [f"Geant4 {number(value.value, value.std)}" for name, value in published if name == "Geant4"]
    shown = models if len(models) <= 3 else models[:2]
    lines += [f"{name} {number(value.value, value.std)}" for name, value in shown]
    if len(models) > len(shown):
        last, value = models[-1]
        lines.append(f"… {last} {number(value.value, value.std)}")
    return "<br>".join(escape(line) for line in lines)


def _summary(rows: Sequence[Row]) -> str:
    head = ("measure", "this model", "floor", "published", "ideal", "set-up here")
    body = [
        "<tr>"
        + _cell("measure", escape(row.title), "name")
        + _cell("this model", f"<b>{_shown(row.ours)}</b>", f"value {verdict(row)}".strip())
        + _cell("floor", _shown(row.floor) if row.floor is not None else "not measured", "value")
        + _cell("published", _published_cell(row.published), "value small" if row.published else "none")
        + _cell("ideal", escape(row.best))
        + _cell("set-up here", escape(row.remark) or "–", "small" if row.remark else "none")
        + "</tr>"
        for row in rows
    ]
    titles = "".join(f"<th>{escape(h)}</th>" for h in head)
    return f'<table class="cards"><thead><tr>{titles}</tr></thead><tbody>{"".join(body)}</tbody></table>'


def _table(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    titles = "".join(f"<th>{escape(h)}</th>" for h in head)
    body = "".join("<tr>" + "".join(f"<td>{escape(c)}</td>" for c in row) + "</tr>" for row in rows)
    return f'<div class="scroll"><table><thead><tr>{titles}</tr></thead><tbody>{body}</tbody></table></div>'


def _samples(result: EvaluationResult) -> str:
    rows = [
        (
            word,
            info.label,
            f"{info.showers:,}",
            particle_name(info.particle),
            f"{format_energy(info.energy_min)} – {format_energy(info.energy_max)}",
            f"{info.cut_deposits:,}",
        )
        for word, info in result.samples.items()
    ]
    return _table(("sample", "file", "showers", "particle", "incident energy", "deposits below threshold"), rows)


def _worst(result: EvaluationResult) -> str:
    rows = [
        (
            observable_name(r.key),
            number(r.separation.value, r.separation.error),
            "–" if f is None else number(f.separation.value, f.separation.error),
            number(r.separation_expected),
            "–" if r.chi2_ndf is None else f"{r.chi2_ndf:.2f}",
            number(r.ks.value, r.ks.error),
            f"{number(r.wasserstein.value, r.wasserstein.error)} {r.unit}".strip(),
            number(r.js_divergence.value, r.js_divergence.error),
            f"{r.empty[0]} / {r.empty[1]}",
        )
        for r, f, _ in worst_observables(result.generated, result.floor)
    ]
    head = (
        "observable", "separation", "floor", "statistics alone", "χ²/ndf", "KS", "Wasserstein", "JS divergence",
        "undefined in (gen. / ref.)",
    )  # fmt: skip
    return _table(head, rows) if rows else ""


def _published_table(table: PublishedTable) -> str:
    columns = [c for c in dict.fromkeys(k for m in table.models for k in m.numbers) if not c.startswith("ms ")]
    rows = [
        [m.name, *("–" if c not in m.numbers else number(m.numbers[c].value, m.numbers[c].std) for c in columns)]
        for m in table.models
        if any(c in m.numbers for c in columns)
    ]
    return (
        f"<details><summary>{escape(table.title)} ({escape(table.source)})</summary><p>{escape(table.setup)}</p>"
        + _table(["model", *columns], rows)
        + "</details>"
    )


def _timing(result: EvaluationResult, tables: Sequence[PublishedTable]) -> str:
    timing = result.timing
    if timing is None:
        return ""
    rows = [(t.program, t.device, f"{t.batch:,}", number(t.milliseconds, t.std)) for t in timing.rows]
    for table in tables:
        for model in table.models:
            for key, value in model.numbers.items():
                if key.startswith("ms "):
                    _, device, batch = key.split(" ")
                    rows.append((f"{model.name} (published)", device.upper(), f"{int(batch):,}", number(value.value)))
    facts = []
    if timing.parameters is not None:
        facts.append(f"{timing.parameters:,} parameters")
    if timing.training_seconds is not None:
        facts.append(f"trained in {timing.training_seconds / 60:.1f} min on {timing.training_device}")
    if timing.left_out:
        facts.append(f"left out because they would take minutes: {', '.join(timing.left_out)}")
    text = f"<p>{escape('; '.join(facts))}.</p>" if facts else ""
    text += "<p class='small'>From conditions to showers in memory, without files; the first call does not count.</p>"
    return f'<h2 id="speed">Speed</h2>{text}' + _table(("program", "device", "batch", "ms per shower"), rows)


def _cross_particle(result: EvaluationResult) -> str:
    if not result.cross_particle:
        return ""
    rows = [
        (
            " / ".join(test.particles),
            s.trained_on,
            s.scored_on,
            number(s.auc.mean, s.auc.std if s.auc.error is None else s.auc.error),
        )
        for test in result.cross_particle
        for s in test.scores
    ]
    text = (
        "<p>A classifier between two particles, trained on showers of one source and scored on the other. If generated "
        "showers are faithful, all four numbers of a pair agree.</p>"
    )
    head = ("particles", "trained on", "scored on", "AUC")
    return f"<h2>Particle identification</h2>{text}" + _table(head, rows)


def _importance(result: EvaluationResult) -> str:
    """What classifiers of named features look at: single features, and their families in all layers together."""
    text = ""
    for name, classifier in result.generated.classifiers.items():
        if not classifier.importance:
            continue
        second = None if result.floor is None else result.floor.classifiers.get(name)
        known = {} if second is None else {i.name: i for i in (*second.importance, *second.families)}
        rows = [
            (
                feature_name(item.name),
                number(item.drop.value, item.drop.error),
                "–" if item.name not in known else number(known[item.name].drop.value, known[item.name].drop.error),
                "–" if item.shift is None else number(item.shift.value, item.shift.error),
                "–" if item.undefined is None else " / ".join(f"{share:.1%}" for share in item.undefined),
            )
            for item in (*classifier.importance[:_FEATURES], *classifier.families[:_FEATURES])
        ]
        head = ("feature, or family in all layers", "fall of the AUC", "floor", "shift in σ", "undefined (gen. / ref.)")
        text += (
            f'<h2 id="importance">What the {escape(classifier.title.split(" (")[0])} see</h2><p>How much the AUC of '
            f"{number(*auc_pair(classifier))} falls if a feature's values are shuffled among the test showers; first single "
            "features, then all layers' features of a family at once. Features that say the same share their importance. The "
            "shift is the generated showers' mean minus the reference's, in standard deviations; a feature without one matters "
            f"by its shape or by what it has to do with others.</p>{_table(head, rows)}"
        )
    return text


def _figure(picture: Picture) -> str:
    data = base64.b64encode(picture.png).decode("ascii")
    # On a phone wide pictures are not shrunk but pushed aside with a finger.
    css = "panel" if not picture.wide else "wide pan" if picture.width > 700 else "wide"
    caption = escape(picture.caption)
    return (
        f'<figure class="{css}"><div class="scroll"><img src="data:image/png;base64,{data}" alt="{caption}" '
        f'width="{picture.width}" loading="lazy"></div><figcaption>{caption}</figcaption></figure>'
    )


def _figures(pictures: Sequence[Picture]) -> str:
    parts = []
    for section in dict.fromkeys(p.section for p in pictures):
        inside = "".join(_figure(p) for p in pictures if p.section == section)
        parts.append(f'<h2 id="{escape(section.lower())}">{escape(section)}</h2><div class="grid">{inside}</div>')
    return "".join(parts)


def _threshold(result: EvaluationResult) -> str:
    if result.uncut:
        return "No analysis threshold was applied to any sample"
    threshold = detector_from_toml(result.detector["toml"], where="report").analysis_threshold
    if not threshold:
        return "The detector has no analysis threshold"
    return f"Deposits below the analysis threshold of {format_energy(threshold)} were removed from all samples alike"


def render_page(
    result: EvaluationResult, tables: Sequence[PublishedTable], pictures: Sequence[Picture], notes: Sequence[str] = ()
) -> str:
    """The whole page as HTML text.

    Args:
        result: of the evaluation.
        tables: published tables on the same detector and particle.
        pictures: figures, in the order in which they are shown.
        notes: further remarks for the reader.
    """
    generated, reference = result.samples["generated"], result.samples["reference"]
    title = f"{generated.label}: {particle_name(generated.particle)} showers in {result.detector['name']}"
    checks = "".join(
        f'<li class="{"ok" if c.passed else "bad"}">{escape(c.name)}: {escape(c.text)}</li>' for c in result.checks
    )
    remarks = "".join(f"<li>{escape(n)}</li>" for n in (*result.notes, *notes))
    setup = (
        "".join(
            f"<p class='small'>Published: {escape(t.title)}, {escape(t.source)}. {escape(t.setup)}.</p>" for t in tables
        )
        or "<p class='small'>There are no published numbers for this detector and particle in the package.</p>"
    )
    seconds = sum(result.seconds.values())
    lead = "".join(f"<p>{escape(line)}</p>" for line in summary_lines(result))
    alarm = " alarm" if result.shared else ""
    links = "".join(
        f'<a href="#{escape(s.lower())}">{escape(s)}</a>' for s in dict.fromkeys(p.section for p in pictures)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<style>{style_sheet()}</style>
</head>
<body>
<header>
<p class="kicker">CaloForge evaluation · suite {escape(result.suite)}</p>
<h1>{escape(title)}</h1>
<p>{generated.showers:,} showers against {reference.showers:,} showers of {escape(reference.label)}.</p>
{f"<p>Made by {escape(generated.made_by)}.</p>" if generated.made_by else ""}
<nav><a href="#summary">Summary</a>{links}<a href="#details">Details</a></nav>
</header>
<main>
<h2 id="summary">Summary</h2>
<div class="lead{alarm}">{lead}</div>
<p class="legend"><span class="good">as good as its floor</span> <span class="near">near</span>
<span class="far">far</span> <span class="open">not decided</span> (two to three statistical errors) — the floor
is Geant4 against Geant4: the score of a perfect generator at this sample size.</p>
{_summary(summary_rows(result, tables))}
{setup}
{_figures(pictures)}
<h2>Observables farthest from the reference</h2>
{_worst(result)}
{_importance(result)}
{_timing(result, tables)}
{_cross_particle(result)}
<h2 id="details">Details</h2>
{_samples(result)}
<ul class="checks">{checks}</ul>
{f"<h3>Remarks</h3><ul>{remarks}</ul>" if remarks else ""}
{"".join(_published_table(t) for t in tables)}
<p class="small">{_threshold(result)}; seed {result.seed}; measures took {seconds:.0f} s;
CaloForge {escape(result.caloforge_version)}. The same content, machine-readable: report.json.</p>
</main>
</body>
</html>
"""


def style_sheet() -> str:
    """The styles of all pages."""
    return (resources.files("caloforge.report") / "page.css").read_text(encoding="utf-8")
