"""Everything that is worth measuring when a GPU is at hand for some minutes, in one call that can be cut off at any moment.

Run with: python tools/gpu_campaign.py OUT --data TRAIN.h5 [MORE.h5 ...] --reference TEST.h5 [...] --floor FLOOR.h5 [...]
and first, without a GPU: python tools/gpu_campaign.py OUT --rehearse --data ... --reference ... --floor ...

The exact inverse comes first: in plain PyTorch, by the Triton kernel and as CUDA graphs, each compared with the kernel of the
CPU; OUT/inverse.json says which are right and which is the quickest. Each step is a `caloforge` command, or a tool beside
this, in a process of its own with a time limit; what it prints goes to OUT/STEP.log, what it measures to OUT. After every
step OUT/summary.json says which commands were run, with what result and in how many seconds; what it calls finished is not
repeated by the next call with the same OUT. The rehearsal is the same on the CPU, with tiny sizes, in OUT/rehearsal; the
Triton kernel runs in Triton's interpreter then, and CUDA graphs are left out.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

PRESETS = ("caloflow-calogan-gamma", "caloflow-calogan-gamma-compact")


@dataclass(frozen=True)
class Step:
    """One command.

    Attributes:
        name: of its log and its results.
        words: the command.
        seconds: it is stopped after so long; a training then keeps what it has, and goes on with the next call.
        needs: name of another step that must have ended well.
        tool: a program beside this one whose command it is; empty for `caloforge`.
        environment: variables set for it.
    """

    name: str
    words: tuple[str, ...]
    seconds: int
    needs: str = ""
    tool: str = ""
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def command(self) -> str:
        """As people would type it."""
        return " ".join([self.tool or "caloforge", *self.words])

    @property
    def program(self) -> list[str]:
        """What is run with the words."""
        return [str(Path(__file__).with_name(self.tool))] if self.tool else ["-m", "caloforge"]


def steps(out: Path, data: Sequence[str], reference: Sequence[str], floor: Sequence[str], rehearse: bool) -> list[Step]:
    """The campaign, the quickest and most wanted numbers first."""
    device = ("--device", "cpu" if rehearse else "cuda")
    few: tuple[str, ...] = ("--rounds", "1", "--steps", "1") if rehearse else ()
    batches = "1,10" if rehearse else "1,100,10000"
    passes = ("--seconds", "0.1") if rehearse else ("--against", "nflows", "--passes", "20")
    found = [
        *inverses(out, rehearse),
        Step(
            "sampling",
            ("bench", "sampling", *device, "--batch", batches, "--threads", "1", *passes,
             "--geant4", "0", "--json", str(out / "sampling.json")),
            150,
        ),
        Step(
            "training",
            ("bench", "training", "--against", "nflows", *device, *few, "--threads", "1",
             "--json", str(out / "training.json")),
            120,
        ),
    ]  # fmt: skip
    shorter = ("--set", "training.stages.energies.epochs=1", "--set", "training.stages.shapes.epochs=1",
               "--set", "model.shapes.hidden_features=8") if rehearse else ()  # fmt: skip
    for preset in PRESETS:
        model, made, report = out / preset, out / f"{preset}.h5", out / f"{preset}-report"
        files = [word for name in data for word in ("--data", name)]
        # After an epoch the classifier of the aid rejects everything.
        unjudged = ("--option", "rejection=false") if rehearse and preset.endswith("-compact") else ()
        found += [
            Step(
                f"{preset}-train",
                ("train", preset, *files, "--out", str(model), "--seed", "2", "--resume", *device, *shorter),
                420,
            ),
            Step(
                f"{preset}-generate",
                ("generate", str(model), "--energy", "1:100", "--events", "300" if rehearse else "100000", "--seed", "9",
                 "--out", str(made), "--overwrite", *device, *unjudged),
                120,
                f"{preset}-train",
            ),
            Step(
                f"{preset}-evaluate",
                ("evaluate", str(made), reference[0], *(w for name in reference[1:] for w in ("--more-reference", name)),
                 *(w for name in floor for w in ("--floor", name)), "--suite", "calogan", "--resume", *device,
                 *(("--only", "layers,caloflow-dnn", "--epochs", "1", "--retrainings", "1", "--max-showers", "300") if rehearse
                   else ("--only", "layers,boosted,fpd,caloflow-observables,caloflow-dnn")),
                 "--format", "html,json,png", "--out", str(report)),
                400,
                f"{preset}-generate",
            ),
        ]  # fmt: skip
    return found


def way(kind: str) -> tuple[str, ...]:
    """The words for one way of doing the exact inverse."""
    name, _, launch = kind.partition("-")
    return (name, "--launch", launch) if launch else (name,)


def inverses(out: Path, rehearse: bool) -> list[Step]:
    """The exact inverse in all ways, and which of them is to be taken."""
    # The Triton kernel in other tiles, too: what compiles without spills, and which of them is quickest nobody knows.
    kinds = ("plain", "triton") if rehearse else ("plain", "triton", "triton-32x8", "triton-16x16", "graphs")
    sizes = ("--model", "tiny", "--batch", "1,20", "--device", "cpu", "--seconds", "0.1") if rehearse else ()
    paths = [str(out / f"inverse-{kind}.json") for kind in kinds]
    return [
        *(
            Step(f"inverse-{kind}", (*way(kind), path, *sizes), 75, tool="gpu_inverse.py",
                 environment={"TRITON_INTERPRET": "1"} if rehearse else {})
            for kind, path in zip(kinds, paths, strict=True)
        ),
        Step("inverse", ("decide", str(out / "inverse.json"), *paths), 20, tool="gpu_inverse.py"),
    ]  # fmt: skip


def run(step: Step, out: Path, seconds: float) -> dict[str, object]:
    """Run a step; it gets the interrupt that a training takes for a wish to stop, and is killed half a minute later."""
    command = [sys.executable, *step.program, *step.words]
    limit, begun = min(float(step.seconds), seconds), time.monotonic()
    with (out / f"{step.name}.log").open("a") as log:
        process = subprocess.Popen(
            command,
            stdout=log,
            stderr=subprocess.STDOUT,
            env={**os.environ, "PYTHONUNBUFFERED": "1", **step.environment},
        )
        try:
            code: int | str = process.wait(limit)
        except subprocess.TimeoutExpired:
            code = f"stopped after {limit:.0f} s"
        finally:  # nothing goes on behind a campaign that was interrupted
            if process.poll() is None:
                process.send_signal(signal.SIGINT)
                try:
                    process.wait(30)
                except subprocess.TimeoutExpired:
                    process.kill()
                    process.wait()
    return {
        "command": step.command,
        "result": code,
        "seconds": round(time.monotonic() - begun, 1),
    }


def interrupt(number: int, frame: object) -> None:
    """What a request to end is taken for."""
    raise KeyboardInterrupt


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("out", type=Path)
    for name in ("--data", "--reference", "--floor"):
        parser.add_argument(name, nargs="+", required=True, help="shower files, taken as one")
    parser.add_argument(
        "--minutes", type=float, default=10.0, help="stop what is running, and begin nothing, after so long"
    )
    parser.add_argument("--rehearse", action="store_true", help="the same on the CPU with tiny sizes")
    options = parser.parse_args()
    out = (
        options.out / "rehearsal" if options.rehearse else options.out
    )  # which finishes nothing of the campaign itself
    out.mkdir(parents=True, exist_ok=True)
    path, end = out / "summary.json", time.monotonic() + 60 * options.minutes
    finished = set()
    summary: dict[str, dict[str, object]] = json.loads(path.read_text()) if path.is_file() else {}
    for step in steps(out, options.data, options.reference, options.floor, options.rehearse):
        left, before = end - time.monotonic(), summary.get(step.name, {})
        if before.get("result") == 0 and before.get("command") == step.command:
            finished.add(step.name)
            continue
        ready = not step.needs or step.needs in finished
        if left < 20 or not ready:
            print(
                f"{step.name}: left out, {'no time' if left < 20 else f'{step.needs} has not ended well'}", flush=True
            )
            continue
        summary[step.name] = run(step, out, left)
        if summary[step.name]["result"] == 0:
            finished.add(step.name)
        beside = path.with_suffix(".partial")  # a cut while it is written leaves the former one
        beside.write_text(json.dumps(summary, indent=2) + "\n")
        beside.replace(path)
        print(f"{step.name}: {summary[step.name]['result']} after {summary[step.name]['seconds']} s", flush=True)
    return 0 if all(found["result"] == 0 for found in summary.values()) else 1


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, interrupt)
    sys.exit(main())
