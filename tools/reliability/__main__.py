"""The reliability campaign: kills, damaged files, full disks, two writers, moving clocks, hostile model directories.

Run with: python tools/reliability --out campaign --part kills --only generate --count 50
Everything goes into campaign/results.jsonl, one line for each trial. Run it again and it makes what is missing, so that a long
campaign can be done in pieces (--seconds 200). --table prints the table of docs/reliability.md.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from reliability import clocks, damage, disk, hostile, kills, writers
from reliability.results import Results

PARTS = {
    "kills": kills.run, "damage": damage.run, "disk": disk.run, "writers": writers.run, "clocks": clocks.run,
    "hostile": hostile.run,
}  # fmt: skip


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True, help="folder of the campaign")
    parser.add_argument("--part", choices=PARTS, action="append", help="default: all")
    parser.add_argument("--only", help="only cases whose name begins so")
    parser.add_argument("--count", type=int, default=50, help="trials of each case (of damaged files: in all)")
    parser.add_argument("--seconds", type=float, default=float("inf"), help="begin no trial after so long")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--small", action="store_true", help="shorter jobs, fewer cases")
    parser.add_argument("--table", action="store_true", help="only print what is there")
    options = parser.parse_args(arguments)
    options.out.mkdir(parents=True, exist_ok=True)
    results = Results(options.out / "results.jsonl", options.seconds)
    if not options.table:
        for name in options.part or PARTS:
            PARTS[name](
                options.out.resolve(),
                results,
                options.count,
                options.seed,
                only=options.only or "",
                small=options.small,
            )
    print(results.table())
    for trial in results.broken():
        print("BROKEN", trial)
    return 1 if results.broken() else 0


if __name__ == "__main__":
    sys.exit(main())
