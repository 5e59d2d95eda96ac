"""Training steps of two ranks with a thread each, against one process with two threads, by turns.

    python bench/ranks.py                     # acetylacetone in tens, water in twos; results/ranks.json
    python bench/ranks.py --only "acac, batch 10" --turns 3 --seconds 5

Both make the same steps of the default model on the same frames, each turn in a new process or two; MPI is
that of this environment. Where other work takes cores, steps per second say little:
CPU seconds of the first process, waiting for the other one included, are told as well.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from functools import partial
from pathlib import Path
from statistics import median

from recording import Record, parser
from rich.console import Console
from rich.table import Table
from workloads import acac, published

from eqpot.config import Config
from eqpot.data_tools.convert import convert
from eqpot.launcher import world

WORKLOADS = {
    "acac, batch 10": (acac, 10, {}),
    "acac, batch 10, ordered": (acac, 10, {"ordered_sums": True}),
    "water, batch 2": (partial(published, "water_pbe0ts"), 2, {}),
}
SETUPS = {"1 rank, 2 threads": (1, 2), "2 ranks, 1 thread": (2, 1)}
FRAMES = 60


def measure(name: str, data: Path, folder: Path, seconds: float) -> dict | None:
    """Of this process, the first of its ranks; nothing at the others."""
    comm, _ = world()
    from eqpot.training.learner import Learner
    from eqpot.training.ranks import FirstRank, serve
    from eqpot.training.trainer import Trainer

    if comm.rank:
        return serve(comm, Learner.copy_of)
    _, batch, train = WORKLOADS[name]
    train = {"batch_size": batch, "n_train": FRAMES, "n_valid": 1, "seed": 0, **train}
    trainer = Trainer.start(Config.from_dict({"train": train}), data, folder, overwrite=True)
    first = FirstRank(comm)
    if comm.size > 1:
        first.begin(trainer)
    try:
        return timed(trainer, seconds)
    finally:
        first.close()


def timed(trainer, seconds: float) -> dict:
    size, steps = trainer.batch_size, 0
    orders = [trainer.random.permutation(FRAMES)[: FRAMES - FRAMES % size] for _ in range(50)]
    batches = [chosen for order in orders for chosen in order.reshape(-1, size)]
    for chosen in batches[:3]:
        trainer.step(chosen)
    began, cpu = time.perf_counter(), time.process_time()
    while steps < 5 or time.perf_counter() < began + seconds:
        trainer.step(batches[steps % len(batches)])
        steps += 1
    return {
        "steps": steps,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
    }


def turn(name: str, setup: str, data: Path, folder: Path, seconds: float) -> dict:
    ranks, threads = SETUPS[setup]
    words = ["--measure", name, "--data", str(data), "--folder", str(folder), "--seconds", str(seconds)]
    command = [str(Path(sys.prefix, "bin", "mpirun")), "-n", str(ranks), sys.executable, __file__, *words]
    environment = os.environ | {"NUMBA_NUM_THREADS": str(threads)}
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True, check=True)
    return json.loads(done.stdout.splitlines()[-1])


def summary(name: str, found: dict[str, list[dict]]) -> dict:
    """Medians over turns; ratios above 1: two ranks are faster, or need less CPU time."""
    rates = {k: [r["steps"] / r["seconds"] for r in rows] for k, rows in found.items()}
    cpu = {k: [r["cpu_seconds"] / r["steps"] for r in rows] for k, rows in found.items()}
    one, two = SETUPS
    return {
        "workload": name,
        "steps_per_second": {k: median(x) for k, x in rates.items()},
        "all_steps_per_second": rates,
        "cpu_seconds_of_first": {k: median(x) for k, x in cpu.items()},
        "ratio": median(b / a for a, b in zip(rates[one], rates[two], strict=True)),
        "cpu_ratio": median(a / 2 / b for a, b in zip(cpu[one], cpu[two], strict=True)),
        "load": os.getloadavg()[0],
    }


def table(results: list[dict]) -> Table:
    shown = Table(title=f"Training steps; {results[0]['machine']['cpu']}", title_justify="left")
    shown.add_column("")
    heads = [f"steps/s, {setup}" for setup in SETUPS]
    for head in (*heads, "ratio", "ratio of CPU time", "load"):
        shown.add_column(head, justify="right")
    for r in results:
        rates = [f"{r['steps_per_second'][setup]:.2f}" for setup in SETUPS]
        shown.add_row(r["workload"], *rates, *(f"{r[k]:.2f}" for k in ("ratio", "cpu_ratio", "load")))
    return shown


def options() -> argparse.Namespace:
    found = parser(__doc__, list(WORKLOADS), 8.0, "turn", threads=False)
    found.add_argument("--turns", type=int, default=5)
    for name in ("--measure", "--data", "--folder"):
        found.add_argument(name, help=argparse.SUPPRESS)  # of the processes that are started
    return found.parse_args()


def main() -> None:
    asked = options()
    if asked.measure:
        measured = measure(asked.measure, Path(asked.data), Path(asked.folder), asked.seconds)
        if measured:
            print(json.dumps(measured))
        return
    console, record = Console(width=130), Record()
    with tempfile.TemporaryDirectory() as folder:
        for name in asked.only:
            data = Path(folder, f"{name.split(',')[0]}.h5")
            if not data.exists():
                convert([str(WORKLOADS[name][0]())], str(data))
            found: dict[str, list[dict]] = {setup: [] for setup in SETUPS}
            for _ in range(asked.turns):
                for setup, rows in found.items():
                    rows.append(turn(name, setup, data, Path(folder, "run"), asked.seconds))
            record.add(name, **summary(name, found))
    console.print(table(list(record.results.values())))
    console.print(record.write())


if __name__ == "__main__":
    main()
