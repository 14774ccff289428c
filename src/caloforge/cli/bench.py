"""``caloforge bench``: side-by-side measurements against peers and Geant4."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any

import typer

from caloforge.cli.common import console, print_table
from caloforge.errors import OutputError, UsageError

__all__ = ["register"]

app = typer.Typer(
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


def _save(path: Path | None, data: Any) -> None:
    if path is None:
        return
    try:
        path.write_text(json.dumps(data, indent=2) + "\n")
    except OSError as error:
        raise OutputError(f"{path}: cannot be written ({error.strerror})") from None
    console.print(f"written: {path}")


@app.command()
def sampling(
    model: Annotated[
        str | None, typer.Option(help="A trained model (default: the published CaloFlow Flow II with random weights).")
    ] = None,
    batch: Annotated[str, typer.Option(help="Batch sizes.")] = "1,100,10000",
    threads: Annotated[str, typer.Option(help="CPU threads.")] = "1,2",
    device: Annotated[str, typer.Option(help="cpu | cuda | cuda:N")] = "cpu",
    against: Annotated[str | None, typer.Option(help="Peer to measure in the same run: nflows.")] = None,
    passes: Annotated[int, typer.Option(min=1, help="How many of nflows's identical passes are timed.")] = 20,
    seconds: Annotated[float, typer.Option(min=0, help="How long each row is repeated.")] = 2.0,
    geant4: Annotated[int, typer.Option(min=0, help="Geant4 showers to time in the same run; 0 for none.")] = 10,
    json_: JsonOption = None,
) -> None:
    r"""Time exact autoregressive sampling.

    \b
    Example: caloforge bench sampling --batch 1,100,10000 --threads 1,2 --against nflows --json sampling.json
    """
    from caloforge.bench.sampling import bench_sampling

    if against not in (None, "nflows"):
        raise UsageError(f"--against is '{against}', expected nflows")
    result = bench_sampling(
        model=model,
        batches=_numbers(batch, "--batch"),
        threads=_numbers(threads, "--threads"),
        device=device,
        against_nflows=against == "nflows",
        nflows_passes=passes,
        geant4_showers=geant4,
        seconds=seconds,
        say=lambda text: console.print(f"... {text}"),
    )
    machine = result["machine"]
    console.print(", ".join(str(value) for value in machine.values()))
    columns = [
        "batch",
        "threads",
        "ms/shower",
        "lowest",
        "highest",
        "vs nflows",
        "max |diff|",
        "vs Geant4",
        "peak MB",
        "of matrix rate",
    ]
    for name, title in (
        ("rows", "published masks" if model is None else str(model)),
        ("rows_even_masks", "even masks"),
    ):
        if name not in result:
            continue
        rows = [
            [
                str(r["batch"]), str(r["threads"]), f"{r['ms_per_shower']:.4g}", f"{r['ms_lowest']:.4g}",
                f"{r['ms_highest']:.4g}", "–" if r["ratio_nflows"] is None else f"{r['ratio_nflows']:.0f}x",
                f"{r['max_abs_diff']:.2g}", "–" if r["ratio_geant4"] is None else f"{r['ratio_geant4']:.0f}x",
                f"{r['peak_memory_mb']:.0f}", f"{r['fraction_of_matrix_rate']:.0%}",
            ]
            for r in result[name]
        ]  # fmt: skip
        print_table(
            f"{title}: {result['multiply_adds'][name] / 1e6:.1f} million multiply-adds per shower", columns, rows
        )
    for note in result["notes"]:
        console.print(f"note: {note}")
    _save(json_, result)


@app.command()
def generation(
    model: Annotated[
        str | None, typer.Option(help="A trained model (default: CaloFlow for photons at its published size).")
    ] = None,
    events: Annotated[int, typer.Option(min=1, help="Showers in each run.")] = 20_000,
    workers: Annotated[str, typer.Option(help="Numbers of processes.")] = "1,2",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of each process.")] = 1,
    batch_size: Annotated[int, typer.Option(min=1, help="Showers in a batch.")] = 1000,
    energy: Annotated[str, typer.Option(help="GeV, as in caloforge generate.")] = "1:100",
    json_: JsonOption = None,
) -> None:
    r"""Show where the time of generating into a file goes, and what more workers bring.

    \b
    Example: caloforge bench generation --workers 1,2
    """
    from dataclasses import asdict

    from caloforge.bench.generation import bench_generation
    from caloforge.bench.machine import describe_machine

    rows = bench_generation(
        model=model, showers=events, workers=_numbers(workers, "--workers"), threads=threads, batch_size=batch_size,
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
    _save(json_, {"machine": machine, "rows": [asdict(r) for r in rows]})


@app.command()
def training(
    preset: Annotated[str, typer.Option(help="A CaloFlow preset.")] = "caloflow-calogan-gamma",
    data: Annotated[Path | None, typer.Option(help="Showers (default: the packaged photons).")] = None,
    against: Annotated[str | None, typer.Option(help="Peer to measure in the same run: nflows.")] = None,
    set_: Annotated[list[str] | None, typer.Option("--set", help="Change the preset: key=value.")] = None,
    threads: Annotated[int, typer.Option(min=1, help="CPU threads.")] = 2,
    device: Annotated[str, typer.Option(help="cpu | cuda | cuda:N")] = "cpu",
    rounds: Annotated[int, typer.Option(min=1, help="How often everything takes its turn.")] = 5,
    steps: Annotated[int, typer.Option(min=1, help="Training steps in each turn.")] = 3,
    bfloat16: Annotated[bool, typer.Option(help="Also measure bfloat16 autocast.")] = True,
    json_: JsonOption = None,
) -> None:
    r"""Time training steps of CaloFlow's shower flow: our whole loop, the flow alone, and a peer's bare step.

    \b
    Example: caloforge bench training --against nflows --json training.json
    """
    from dataclasses import asdict

    from caloforge.bench.machine import describe_machine
    from caloforge.training.throughput import measure_training

    console.print(f"... {rounds + 1} rounds of {steps} steps each; the first one warms up")
    speed = measure_training(
        preset, data, against=against, overrides=tuple(set_ or ()), threads=threads, device=device, rounds=rounds,
        steps=steps, bfloat16=bfloat16,
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
        f"{preset}: {speed.parameters:,} parameters of the shower flow, batch {speed.batch_size}, "
        f"{speed.threads} thread(s)",
        columns,
        rows,
    )
    console.print("loop: with data, noise, preprocessing and bookkeeping; all others on inputs that are ready")
    if speed.agreement:
        console.print(
            f"equal weights: losses differ by {speed.agreement.loss:.1e}, gradients by {speed.agreement.gradient:.1e}"
        )
    _save(json_, {"machine": machine} | asdict(speed) | {"speedup": speed.speedup})


@app.command()
def simulation(
    detector: Annotated[str | None, typer.Option(help="Only this detector (default: all cases).")] = None,
    events: Annotated[int | None, typer.Option(min=1, help="Showers of each case (default: 20).")] = None,
    geant4_data: Annotated[
        str, typer.Option(help="Geant4's tables: auto | builtin | official | a directory.")
    ] = "auto",
    json_: JsonOption = None,
) -> None:
    r"""Measure what scoring and writing add to Geant4 itself.

    \b
    Example: caloforge bench simulation --detector calogan
    """
    from dataclasses import asdict, replace

    from caloforge.bench.machine import describe_machine
    from caloforge.bench.simulation import DEFAULT_CASES, bench_simulation

    cases = [case for case in DEFAULT_CASES if detector in (None, case.detector)]
    if not cases:
        known = ", ".join(dict.fromkeys(case.detector for case in DEFAULT_CASES))
        raise UsageError(f"--detector is '{detector}', expected one of {known}")
    if events:
        cases = [replace(case, events=events) for case in cases]
    measured = bench_simulation(cases, tables=geant4_data, say=lambda text: console.print(f"... {text}"))
    rows = [
        [
            r.case.detector + (" points" if r.case.points else ""), f"{r.case.particle}, {r.case.energy} GeV",
            str(r.case.events), f"{r.bare_ms:.0f}", f"{r.scored_ms:.0f}", f"{r.written_ms:.1f}", f"{r.overhead:+.1%}",
        ]
        for r in measured
    ]  # fmt: skip
    columns = ["detector", "showers", "number", "Geant4 alone [ms]", "with scoring [ms]", "writing [ms]", "added"]
    print_table("CPU time per shower, one process", columns, rows)
    _save(json_, {"machine": describe_machine(), "rows": [asdict(r) | {"overhead": r.overhead} for r in measured]})


@app.command()
def clouds(
    model: Annotated[
        list[str] | None,
        typer.Option(help="Preset (full size, random weights) or trained model; may be repeated."),
    ] = None,
    energies: Annotated[str, typer.Option(help="GeV.")] = "10,50,100",
    geant4: Annotated[int, typer.Option(min=2, help="Geant4 showers per energy.")] = 5,
    showers: Annotated[int, typer.Option(min=1, help="Showers of each model per energy.")] = 40,
    json_: JsonOption = None,
) -> None:
    r"""Time point-cloud showers against the energy: Geant4, CaloClouds2, CaloClouds3; one thread, batch 1, with placement.

    \b
    Example: caloforge bench clouds --energies 10,50,100
    """
    from dataclasses import asdict

    from caloforge.bench.clouds import bench_clouds
    from caloforge.bench.machine import describe_machine

    names = model or ["caloclouds2", "caloclouds3"]
    found = bench_clouds(
        names,
        energies=[float(energy) for energy in _numbers(energies, "--energies")],
        geant4_showers=geant4,
        showers=showers,
        say=lambda text: console.print(f"... {text}"),
    )
    columns = ["GeV", "Geant4 [ms]"]
    for name in names:
        columns += [f"{name} [ms]", "decode", "points", "Geant4 / it"]
    rows = []
    for row in found:
        cells = [f"{row.energy:g}", f"{row.geant4_ms:.0f}"]
        for name in names:
            t = row.models[name]
            cells += [f"{t.total:.2f}", f"{t.decode:.2f}", f"{t.points:.0f}", f"{row.geant4_ms / t.total:.0f}x"]
        rows.append(cells)
    print_table("CPU time per shower, one thread, batch 1, with random numbers and placement into cells", columns, rows)
    console.print("without a magnetic field, and an idealised detector: no published ratio is of the same kind")
    _save(json_, {"machine": describe_machine(), "rows": [asdict(row) for row in found]})


def register(root: typer.Typer) -> None:
    """Add the commands of this module."""
    root.add_typer(app, name="bench")
