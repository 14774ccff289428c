"""Throughput of a coordinator against slots: tasks that sleep and return a block of 500 CaloGAN showers (1 MB).

Run with: python tools/cluster_throughput.py docs/images/cluster_throughput.png
"""

from __future__ import annotations

import os
import sys
import time

import matplotlib as mpl
import numpy as np

from caloforge.scaleout import open_cluster

mpl.use("Agg")
import matplotlib.pyplot as plt

#: Processes and threads of each; seconds that a task sleeps; seconds that a measurement lasts.
SETUPS = ((1, 4), (2, 8), (4, 16), (4, 64), (4, 250))
SLEEP, LASTS = 2.0, 8.0


def prepare(settings: float):
    block = np.random.default_rng(1).random((500, 504), dtype=np.float32)

    def work(task: int):
        time.sleep(settings)
        return block

    return work


def rate(processes: int, threads: int) -> tuple[float, float]:
    """Tasks a second in the steady state, and CPU seconds of this process for each."""
    with open_cluster(f"local:{processes}x{threads}", isolated=False) as executor:
        found = executor.run(prepare, SLEEP, range(1_000_000))
        next(found)
        for _ in range(min(processes * threads, 200)):
            next(found)
        began, cpu, done = time.monotonic(), time.process_time(), 0
        while time.monotonic() - began < LASTS:
            next(found)
            done += 1
        seconds, spent = time.monotonic() - began, time.process_time() - cpu
        found.close()
    return done / seconds, spent / done


def main(out: str) -> None:
    slots, rates = [], []
    for processes, threads in SETUPS:
        tasks, cpu = rate(processes, threads)
        slots.append(processes * threads)
        rates.append(tasks)
        load = os.getloadavg()[0]
        print(
            f"{slots[-1]:5d} slots: {tasks:7.1f} tasks/s, {1000 * cpu:.2f} ms of CPU each, load {load:.1f}", flush=True
        )
    figure, axes = plt.subplots(figsize=(6, 4), layout="constrained")
    axes.loglog(slots, np.asarray(slots) / SLEEP, "--", color="0.6", label=f"slots / {SLEEP:g} s")
    axes.loglog(slots, rates, "o-", label="measured")
    axes.set(xlabel="task slots", ylabel="tasks per second (1 MB each)")
    axes.legend(frameon=False)
    figure.savefig(out, dpi=150)


if __name__ == "__main__":
    sys.path.insert(0, os.path.dirname(os.path.abspath(__file__)))
    import cluster_throughput  # under its own name, by which workers find it

    cluster_throughput.main(sys.argv[1])
