"""``caloforge bench``: side-by-side measurements against peers and Geant4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from caloforge.atomic import replace_file
from caloforge.bench.options import (
    GenerationBenchOptions,
    RuntimeBenchOptions,
    SamplingBenchOptions,
    SimulationBenchOptions,
    TrainingBenchOptions,
)
from caloforge.cli.common import App, console, print_table
from caloforge.cli.expand import with_options

__all__ = ["JsonOption", "app", "register", "save"]

app = App(
    help="Measure speed and memory, side by side with a peer, as ratios. Example: caloforge bench sampling --against nflows",
    no_args_is_help=True,
)

JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")]


def _say(text: str) -> None:
    console.print(f"... {text}")


def save(path: Path | None, data: Any) -> None:
    """Write numbers as JSON, if there is a place for them."""
    if path is None:
        return
    replace_file(path, json.dumps(data, indent=2) + "\n")
    console.print(f"written: {path}")


@app.command()
@with_options(SamplingBenchOptions)
def sampling(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Preset (its size, random weights) or trained model; of point clouds, may be repeated "
            "(default: the published CaloFlow Flow II)."
        ),
    ] = None,
    *,
    options: SamplingBenchOptions,
    json_: JsonOption = None,
) -> None:
    r"""Time sampling: CaloFlow's exact inverse, point clouds against the energy, or any other model as a whole.

    Of the presets caloclouds2 and caloclouds3, one brings the other along.

    \b
    Examples:
      caloforge bench sampling --batch 1,100,10000 --threads 1,2 --against nflows --json sampling.json
      caloforge bench sampling --model caloclouds3 --threads 1 --json clouds.json
      caloforge bench sampling --model runs/student --batch 1,100
    """
    from caloforge.bench.verbs import time_sampling

    kind, result = time_sampling(model or (), options=options, say=_say)
    if kind == "points":
        _print_clouds(result)
    else:
        _print_rows(result, None if kind == "flow" else (model or [""])[0])
    for note in result["notes"]:
        console.print(f"note: {note}")
    save(json_, result)


def _print_rows(result: dict[str, Any], model: str | None) -> None:
    """Rows of whole showers of a model, or of the exact inverse of a flow."""
    common = ["lowest", "highest", "vs Geant4", "peak MB"]
    if model is not None:
        columns = ["batch", "threads", "ms/shower", *common, "random numbers", "valid"]
        titles = {"rows": f"{model}, whole showers of {result['energy_GeV']} GeV"}
    else:
        columns = ["batch", "threads", "ms/shower", *common, "vs nflows", "max |diff|", "of matrix rate"]
        titles = {"rows": "exact inverse", "rows_even_masks": "exact inverse, even masks"}
        for name, count in result["multiply_adds"].items():
            titles[name] += f": {count / 1e6:.1f} million multiply-adds per shower"
    console.print(", ".join(str(value) for value in result["machine"].values()))
    for name, title in titles.items():
        if name not in result:
            continue
        rows = []
        for r in result[name]:
            cells = [str(r["batch"]), str(r["threads"])]
            cells += [f"{r[key]:.4g}" for key in ("ms_per_shower", "ms_lowest", "ms_highest")]
            cells += ["–" if r["ratio_geant4"] is None else f"{r['ratio_geant4']:.0f}x", f"{r['peak_memory_mb']:.0f}"]
            if model is not None:
                cells += [f"{r['random_numbers_ms']:.4g}", f"{r['valid']:.0%}"]
            else:
                cells += ["–" if r["ratio_nflows"] is None else f"{r['ratio_nflows']:.0f}x"]
                cells += [f"{r['max_abs_diff']:.2g}", f"{r['fraction_of_matrix_rate']:.0%}"]
            rows.append(cells)
        print_table(title, columns, rows)


def _print_clouds(result: dict[str, Any]) -> None:
    """Times of point clouds against the energy."""
    names = list(result["rows"][0]["models"])
    console.print(", ".join(str(value) for value in result["machine"].values()))

    def spread(times: dict[str, float]) -> str:
        return f"{times['median']:.3g} ({times['lowest']:.3g}-{times['highest']:.3g})"

    columns = ["GeV", "Geant4 [ms]"]
    for name in names:
        columns += [f"{name} [ms]", "Geant4 / it"]
    rows = []
    for row in result["rows"]:
        cells = [f"{row['energy_GeV']:g}", spread(row["geant4"])]
        for name in names:
            cells += [spread(row["models"][name]["total"]), f"{row['models'][name]['ratio_geant4']:.0f}x"]
        rows.append(cells)
    print_table("time per shower, median (lowest-highest)", columns, rows)
    for name in names:
        first = result["rows"][0]["models"][name]
        columns = ["GeV", "points", *(part.replace("_", " ") for part in first["parts"]), "network alone", "floor [ms]"]
        rows = []
        for row in result["rows"]:
            found = row["models"][name]
            cells = [f"{row['energy_GeV']:g}", f"{found['points']:.0f}"]
            times = [*found["parts"].values(), found["network"], found["floor"]["total_ms"]]
            rows.append([*cells, *(f"{t:.2f}" for t in times)])
        print_table(f"{name}: where the time goes [ms]", columns, rows)
        floor = result["rows"][-1]["models"][name]["floor"]
        console.print(
            f"floor of {name} at {result['rows'][-1]['energy_GeV']:g} GeV: flow {floor['flow_megabytes']:.1f} MB of weights "
            f"at {floor['read_rate']:.1f} GB/s, {floor['flow_ms']:.2f} ms; point network "
            f"{floor['network_multiply_adds']:.1f} million multiply-adds at {floor['matrix_rate']:.0f} GFLOP/s, "
            f"{floor['network_ms']:.2f} ms"
        )


@app.command()
@with_options(GenerationBenchOptions)
def generation(
    model: Annotated[
        str | None, typer.Option(help="A trained model (default: CaloFlow for photons at its published size).")
    ] = None,
    *,
    options: GenerationBenchOptions,
    json_: JsonOption = None,
) -> None:
    r"""Show where the time of generating into a file goes, and what more workers bring.

    \b
    Example: caloforge bench generation --jobs 1,2
    """
    from dataclasses import asdict

    from caloforge.bench.machine import describe_machine
    from caloforge.bench.verbs import time_generation

    rows = time_generation(model, options=options, say=_say)
    machine = describe_machine()
    console.print(", ".join(str(value) for value in machine.values()))
    columns = ["workers", "threads", "wall", "random numbers", "model", "flows in it", "order", "file", "start-up [s]"]
    cells = [
        [
            str(r.workers), str(r.threads), f"{r.wall:.3f}", f"{r.latents:.3f}", f"{r.decode:.3f}",
            "–" if r.flows is None else f"{r.flows:.3f}", f"{r.assembly:.3f}", f"{r.writing:.3f}", f"{r.loading:.1f}",
        ]
        for r in rows
    ]  # fmt: skip
    print_table(f"{options.events} showers into a file, ms per shower (parts: summed over the workers)", columns, cells)
    save(json_, {"machine": machine, "rows": [asdict(r) for r in rows]})


@app.command()
@with_options(RuntimeBenchOptions)
def runtime(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Trained model, or preset (its size, random weights); may be repeated (default: calogan-gamma, caloclouds3, "
            "caloinn-tiny)."
        ),
    ] = None,
    *,
    options: RuntimeBenchOptions,
    json_: JsonOption = None,
) -> None:
    r"""Time the C++ runtime against Python: one thread, shower by shower, in turns.

    \b
    Example: caloforge bench runtime --model calogan-gamma --energy 20
    """
    from dataclasses import asdict

    from caloforge.bench.machine import describe_machine
    from caloforge.bench.verbs import time_runtime

    rows = time_runtime(model or (), options=options, say=_say)
    machine = describe_machine()
    console.print(", ".join(str(value) for value in machine.values()))
    columns = [
        "model",
        "spots",
        "C++ [ms]",
        "placing in it",
        "Python [ms]",
        "ratio",
        "ONNX [ms]",
        "TorchScript [ms]",
        "first shower [s]",
        "memory / weights",
    ]
    cells = [
        [
            r.model, f"{r.spots:.0f}", f"{r.ms:.3f}", f"{r.placing_ms:.3f}", f"{r.python_ms:.3f}",
            f"{r.ratio:.2f} ({r.ratio_lowest:.2f}-{r.ratio_highest:.2f})",
            *(f"{ms:.3f}" if ms else "-" for ms in (r.onnx_ms, r.torchscript_ms)), f"{r.first_s:.2f} (CPU {r.first_cpu_s:.2f})",
            f"{r.memory_mb:.0f} / {r.weights_mb:.0f} MB",
        ]
        for r in rows
    ]  # fmt: skip
    print_table(f"{options.energy:g} GeV, CPU time of one thread, one shower at a time", columns, cells)
    save(json_, {"machine": machine, "rows": [asdict(r) for r in rows]})


@app.command()
@with_options(TrainingBenchOptions)
def training(
    kind: Annotated[
        str | None,
        typer.Option(help="Time all stages of a kind of model at its published size, or of all kinds."),
    ] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="A CaloFlow preset (default: caloflow-calogan-gamma); with --kind, any of that kind."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Showers (default: the packaged photons).")] = None,
    *,
    options: TrainingBenchOptions,
    json_: JsonOption = None,
) -> None:
    r"""Time training steps of CaloFlow's shower flow: our whole loop, the flow alone, and a peer's bare step; or of any model.

    \b
    Example: caloforge bench training --against nflows --json training.json
    Example: caloforge bench training --kind caloinn
    """
    from dataclasses import asdict

    from caloforge.bench.machine import describe_machine
    from caloforge.bench.verbs import time_training

    if kind is not None:
        _stages(kind, preset, data, options, json_)
        return
    speed = time_training(preset, data, options=options, say=_say)
    machine = describe_machine(options.device)
    console.print(", ".join(str(value) for value in machine.values()))
    base = speed.times["nflows"].step if "nflows" in speed.times else None
    rows = [
        [
            name, f"{t.step:.0f}", f"{t.forward:.0f}", f"{t.backward:.0f}" if t.backward else "–",
            f"{t.optimiser:.0f}" if t.optimiser else "–", f"{t.showers_per_second:.0f}",
            "–" if base is None else f"{base / t.step:.2f}x",
        ]
        for name, t in speed.times.items()
    ]  # fmt: skip
    columns = ["what", "step [ms]", "forward", "backward", "optimiser", "showers/s", "vs nflows"]
    print_table(
        f"{speed.preset}: {speed.parameters:,} parameters of the shower flow, batch {speed.batch_size}, "
        f"{speed.threads} thread(s)",
        columns,
        rows,
    )
    console.print("loop: with data, noise, preprocessing and bookkeeping; all others on inputs that are ready")
    if speed.agreement and speed.agreement_at_start and speed.agreement_float64 and speed.rounding:
        for name, agreement in (
            ("random weights", speed.agreement), ("as training starts", speed.agreement_at_start),
            ("the same in float64", speed.agreement_float64),
        ):  # fmt: skip
            console.print(
                f"equal weights, {name}: losses differ by {agreement.loss:.1e}, gradients by {agreement.gradient:.1e} "
                f"(worst tensor {agreement.worst_tensor:.1e})"
            )
        own, peers = speed.rounding
        console.print(f"gradients in float32 as training starts are off by {own:.1e} (ours) and {peers:.1e} (nflows)")
    save(json_, {"machine": machine} | asdict(speed) | {"speedup": speed.speedup})


def _stages(kind: str, preset: str | None, data: Path | None, options: TrainingBenchOptions, path: Path | None) -> None:
    """``bench training --kind``."""
    from dataclasses import asdict

    from caloforge.bench.machine import describe_machine
    from caloforge.bench.verbs import time_stages

    found = time_stages(kind, preset, data, options=options, say=_say)
    machine = describe_machine(options.device)
    console.print(", ".join(str(value) for value in machine.values()))
    rows = [
        [
            t.preset, t.stage, "compiled" if t.kernels else "plain PyTorch", str(t.batch_size), f"{t.parameters:,}",
            *(f"{v:.1f}" for v in (t.step, t.forward, t.backward, t.optimiser, t.rest)), f"{t.showers_per_second:.0f}",
        ]
        for t in found
    ]  # fmt: skip
    columns = [
        "preset", "stage", "kernels", "batch", "parameters", "step [ms]", "forward", "backward", "optimiser", "rest",
        "showers/s",
    ]  # fmt: skip
    print_table(f"training steps, {options.threads} thread(s), medians", columns, rows)
    save(path, {"machine": machine, "threads": options.threads, "rows": [asdict(t) for t in found]})


@app.command()
@with_options(SimulationBenchOptions)
def simulation(*, options: SimulationBenchOptions, json_: JsonOption = None) -> None:
    r"""Measure what scoring and writing add to Geant4 itself, with each engine.

    \b
    Example: caloforge bench simulation --detector calogan
    """
    from dataclasses import asdict

    from caloforge.bench.machine import describe_machine
    from caloforge.bench.verbs import time_simulation

    measured = time_simulation(options=options, say=_say)
    rows = [
        [
            r.case.engine,
            r.case.detector + (" points" if r.case.points else "") + (", field" if r.case.field else ""),
            f"{r.case.particle}, {r.case.energy} GeV",
            str(r.case.events), f"{r.bare_ms:.0f}", f"{r.scored_ms:.0f}", f"{r.written_ms:.1f}", f"{r.overhead:+.1%}",
        ]
        for r in measured
    ]  # fmt: skip
    columns = [
        "engine",
        "detector",
        "showers",
        "number",
        "Geant4 alone [ms]",
        "with scoring [ms]",
        "writing [ms]",
        "added",
    ]
    print_table("CPU time per shower, one process", columns, rows)
    save(json_, {"machine": describe_machine(), "rows": [asdict(r) | {"overhead": r.overhead} for r in measured]})


def register(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="bench")
