"""``caloforge bench``: side-by-side measurements against peers and Geant4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from caloforge.atomic import replace_file
from caloforge.cli.common import App, console, print_table
from caloforge.errors import UsageError

__all__ = ["JsonOption", "app", "register", "save"]

app = App(
    help="Measure speed and memory, side by side with a peer, as ratios. Example: caloforge bench sampling --against nflows",
    no_args_is_help=True,
)

JsonOption = Annotated[Path | None, typer.Option("--json", help="Write the numbers here.")]


def _numbers(text: str, option: str) -> list[int]:
    try:
        values = [int(part) for part in text.split(",")]
    except ValueError:
        values = []
    if not values or min(values) < 1:
        raise UsageError(f"{option} is '{text}', expected whole numbers such as 1,100,10000")
    return values


def save(path: Path | None, data: Any) -> None:
    """Write numbers as JSON, if there is a place for them."""
    if path is None:
        return
    replace_file(path, json.dumps(data, indent=2) + "\n")
    console.print(f"written: {path}")


@app.command()
def sampling(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Preset (its size, random weights) or trained model; of point clouds, may be repeated "
            "(default: the published CaloFlow Flow II)."
        ),
    ] = None,
    batch: Annotated[str | None, typer.Option(help="Batch sizes (default: 1,100,10000; point clouds 1).")] = None,
    threads: Annotated[str | None, typer.Option(help="CPU threads (default: 1,2; point clouds 1).")] = None,
    device: Annotated[str, typer.Option(help="cpu | cuda | cuda:N")] = "cpu",
    against: Annotated[str | None, typer.Option(help="Peer to measure in the same run: nflows.")] = None,
    passes: Annotated[int, typer.Option(min=1, help="How many of nflows's identical passes are timed.")] = 20,
    seconds: Annotated[float, typer.Option(min=0, help="How long each row is repeated.")] = 2.0,
    geant4: Annotated[
        int | None,
        typer.Option(
            min=0, help="Geant4 showers to time in the same run; 0 for none (default: 10; point clouds 3 per energy)."
        ),
    ] = None,
    energies: Annotated[str, typer.Option(help="GeV, for point clouds.")] = "10,20,30,40,50,60,70,80,90,100",
    showers: Annotated[int, typer.Option(min=1, help="Showers of each model per energy, for point clouds.")] = 40,
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
    from caloforge.bench.models import bench_kind

    if against not in (None, "nflows"):
        raise UsageError(f"--against is '{against}', expected nflows")
    names = model or []
    first = names[0] if names else None
    kinds = {bench_kind(name) for name in names or (None,)}
    if len(names) > 1 and kinds != {"points"}:
        raise UsageError("several models can be timed together only if all of them make point clouds")
    (kind,) = kinds
    if kind != "flow" and against:
        raise UsageError(f"--against {against} goes with CaloFlow's exact inverse, not with '{first}'")
    if kind == "points":
        if {batch, threads} - {None, "1"} or device != "cpu":
            raise UsageError("point clouds are timed one shower at a time on one CPU thread: --batch 1 --threads 1")
        _clouds(names, energies, 3 if geant4 is None else geant4, showers, json_)
        return
    sizes, counts = _numbers(batch or "1,100,10000", "--batch"), _numbers(threads or "1,2", "--threads")
    _flow_or_model(
        kind, first, sizes, counts, device, passes if against else 0, 10 if geant4 is None else geant4,
        seconds, json_,
    )  # fmt: skip


def _flow_or_model(
    kind: str, model: str | None, sizes: list[int], threads: list[int], device: str, passes: int, geant4: int,
    seconds: float, json_: Path | None,
) -> None:  # fmt: skip
    from caloforge.bench.models import bench_model
    from caloforge.bench.sampling import bench_sampling

    def say(text: str) -> None:
        console.print(f"... {text}")

    common = ["lowest", "highest", "vs Geant4", "peak MB"]
    if model is not None and kind == "model":
        result = bench_model(
            model, batches=sizes, threads=threads, device=device, geant4=geant4, seconds=seconds, say=say
        )
        columns = ["batch", "threads", "ms/shower", *common, "random numbers", "valid"]
        titles = {"rows": f"{model}, whole showers of {result['energy_GeV']} GeV"}
    else:
        result = bench_sampling(
            model=model, batches=sizes, threads=threads, device=device, against_nflows=passes > 0,
            nflows_passes=passes, geant4_showers=geant4, seconds=seconds, say=say,
        )  # fmt: skip
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
            if kind == "model":
                cells += [f"{r['random_numbers_ms']:.4g}", f"{r['valid']:.0%}"]
            else:
                cells += ["–" if r["ratio_nflows"] is None else f"{r['ratio_nflows']:.0f}x"]
                cells += [f"{r['max_abs_diff']:.2g}", f"{r['fraction_of_matrix_rate']:.0%}"]
            rows.append(cells)
        print_table(title, columns, rows)
    for note in result["notes"]:
        console.print(f"note: {note}")
    save(json_, result)


def _clouds(names: list[str], energies: str, geant4: int, showers: int, json_: Path | None) -> None:
    from caloforge.bench.clouds import bench_clouds, with_companion

    names = with_companion(names)
    result = bench_clouds(
        names,
        energies=[float(energy) for energy in _numbers(energies, "--energies")],
        geant4=geant4,
        showers=showers,
        say=lambda text: console.print(f"... {text}"),
    )
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
    for note in result["notes"]:
        console.print(f"note: {note}")
    save(json_, result)


@app.command()
def generation(
    model: Annotated[
        str | None, typer.Option(help="A trained model (default: CaloFlow for photons at its published size).")
    ] = None,
    events: Annotated[int, typer.Option(min=1, help="Showers in each run.")] = 20_000,
    jobs: Annotated[str, typer.Option(help="Numbers of processes.")] = "1,2",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each process.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Showers in a batch.")] = 1000,
    energy: Annotated[str, typer.Option(help="GeV, as in caloforge generate.")] = "1:100",
    json_: JsonOption = None,
) -> None:
    r"""Show where the time of generating into a file goes, and what more workers bring.

    \b
    Example: caloforge bench generation --jobs 1,2
    """
    from dataclasses import asdict

    from caloforge.bench.generation import bench_generation
    from caloforge.bench.machine import describe_machine

    rows = bench_generation(
        model=model, showers=events, workers=_numbers(jobs, "--jobs"), threads=threads, batch_size=batch_size,
        energy=energy, say=lambda text: console.print(f"... {text}"),
    )  # fmt: skip
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
    print_table(f"{events} showers into a file, ms per shower (parts: summed over the workers)", columns, cells)
    save(json_, {"machine": machine, "rows": [asdict(r) for r in rows]})


@app.command()
def runtime(
    model: Annotated[
        list[str] | None,
        typer.Option(
            help="Trained model, or preset (its size, random weights); may be repeated (default: calogan-gamma, caloclouds3, "
            "caloinn-tiny)."
        ),
    ] = None,
    energy: Annotated[float, typer.Option(min=0.001, help="Incident energy, GeV.")] = 20.0,
    events: Annotated[int, typer.Option(min=1, help="Showers of each round.")] = 300,
    json_: JsonOption = None,
) -> None:
    r"""Time the C++ runtime against Python: one thread, shower by shower, in turns.

    \b
    Example: caloforge bench runtime --model calogan-gamma --energy 20
    """
    from dataclasses import asdict

    from caloforge.bench.machine import describe_machine
    from caloforge.bench.runtime import DEFAULT_MODELS, bench_runtime

    rows = bench_runtime(
        model or DEFAULT_MODELS, energy=energy, showers=events, say=lambda text: console.print(f"... {text}")
    )
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
    print_table(f"{energy:g} GeV, CPU time of one thread, one shower at a time", columns, cells)
    save(json_, {"machine": machine, "rows": [asdict(r) for r in rows]})


@app.command()
def training(
    kind: Annotated[
        str | None,
        typer.Option(help="Time all stages of a kind of model at its published size, or of all kinds."),
    ] = None,
    stage: Annotated[list[str] | None, typer.Option(help="With --kind: only this stage; may be repeated.")] = None,
    preset: Annotated[
        str | None,
        typer.Option(help="A CaloFlow preset (default: caloflow-calogan-gamma); with --kind, any of that kind."),
    ] = None,
    data: Annotated[Path | None, typer.Option(help="Showers (default: the packaged photons).")] = None,
    against: Annotated[str | None, typer.Option(help="Peer to measure in the same run: nflows.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change the preset: key=value.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="cpu | cuda | cuda:N")] = "cpu",
    rounds: Annotated[
        int | None, typer.Option(min=1, help="How often everything takes its turn (default: 5; with --kind 2).")
    ] = None,
    steps: Annotated[
        int | None, typer.Option(min=1, help="Training steps in each turn (default: 3; with --kind 1).")
    ] = None,
    bfloat16: Annotated[bool, typer.Option(help="Also measure bfloat16 autocast.")] = True,
    json_: JsonOption = None,
) -> None:
    r"""Time training steps of CaloFlow's shower flow: our whole loop, the flow alone, and a peer's bare step; or of any model.

    \b
    Example: caloforge bench training --against nflows --json training.json
    Example: caloforge bench training --kind caloinn
    """
    from dataclasses import asdict

    if kind is not None:
        if against is not None or not bfloat16:
            raise UsageError("--against and --no-bfloat16 are for CaloFlow's shower flow, without --kind")
        _stages(kind, stage or [], preset, data, tuple(set_ or ()), threads, device, rounds or 2, steps or 1, json_)
        return
    if stage:
        raise UsageError("--stage needs --kind")
    rounds, steps = rounds or 5, steps or 3

    from caloforge.bench.machine import describe_machine
    from caloforge.bench.training import measure_training

    console.print(f"... {rounds + 1} rounds of {steps} steps each; the first one warms up")
    speed = measure_training(
        preset or "caloflow-calogan-gamma", data, against=against, overrides=tuple(set_ or ()), threads=threads,
        device=device, rounds=rounds, steps=steps, bfloat16=bfloat16,
    )  # fmt: skip
    machine = describe_machine(device)
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


def _stages(
    kind: str,
    stages: list[str],
    preset: str | None,
    data: Path | None,
    overrides: tuple[str, ...],
    threads: int,
    device: str,
    rounds: int,
    steps: int,
    path: Path | None,
) -> None:
    """``bench training --kind``."""
    from dataclasses import asdict

    from caloforge.bench.machine import describe_machine
    from caloforge.bench.stages import KINDS, bench_stages
    from caloforge.showers import open_showers

    if kind not in (*KINDS, "all"):
        raise UsageError(f"the kind '{kind}' is not known, expected all or one of {', '.join(KINDS)}")
    if kind == "all" and (preset or stages):
        raise UsageError("--preset and --stage need a single kind")
    showers = None
    if data is not None:
        with open_showers(data) as reader:
            showers = reader.read()
    machine = describe_machine(device)
    console.print(", ".join(str(value) for value in machine.values()))
    found = [
        time
        for name in ([preset] if preset else KINDS.values() if kind == "all" else [KINDS[kind]])
        for time in bench_stages(
            name, stages=stages, overrides=overrides, showers=showers, threads=threads, device=device, rounds=rounds,
            steps=steps + 1, say=lambda text: console.print(f"... {text}"),
        )
    ]  # fmt: skip
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
    print_table(f"training steps, {threads} thread(s), medians", columns, rows)
    save(path, {"machine": machine, "threads": threads, "rows": [asdict(t) for t in found]})


@app.command()
def simulation(
    detector: Annotated[str | None, typer.Option(help="Only this detector (default: all cases).")] = None,
    engine: Annotated[str | None, typer.Option(help="Only calzone | geant4-pybind (default: both).")] = None,
    events: Annotated[int | None, typer.Option(min=1, help="Showers of each case (default: 20).")] = None,
    geant4_data: Annotated[
        str, typer.Option(help="Geant4's tables: auto | builtin | official | a directory.")
    ] = "auto",
    json_: JsonOption = None,
) -> None:
    r"""Measure what scoring and writing add to Geant4 itself, with each engine.

    \b
    Example: caloforge bench simulation --detector calogan
    """
    from dataclasses import asdict, replace

    from caloforge.bench.machine import describe_machine
    from caloforge.bench.simulation import DEFAULT_CASES, bench_simulation

    for option, value, names in (
        ("--detector", detector, [case.detector for case in DEFAULT_CASES]),
        ("--engine", engine, [case.engine for case in DEFAULT_CASES]),
    ):
        if value is not None and value not in names:
            raise UsageError(f"{option} is '{value}', expected one of {', '.join(dict.fromkeys(names))}")
    cases = [c for c in DEFAULT_CASES if detector in (None, c.detector) and engine in (None, c.engine)]
    if events:
        cases = [replace(case, events=events) for case in cases]
    measured = bench_simulation(cases, tables=geant4_data, say=lambda text: console.print(f"... {text}"))
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
