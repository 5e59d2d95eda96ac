"""Time of a training step, and of the four walks in it.

    python bench/training_step.py                 # acetylacetone in fives, water one by one; 1 and 2 threads
    python bench/training_step.py --threads 1     # or some of it; results accumulate in the JSON file

A step is what `eqpot fit` does for each batch: graph, four walks, loss, Adam, moving average. The walks are
timed inside the same steps; what is left is everything else. Before the timing the gradient is compared with
that of the operators one by one.

Model: float32, 6 blocks of 64 scalars and 64 vectors, cutoff 4 Å, parity off.
"""

from __future__ import annotations

import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from statistics import median

import numba
import numpy as np
from recording import Record, parser
from rich.console import Console
from rich.table import Table
from workloads import acac, published

from eqpot.config import Config
from eqpot.data_tools.convert import convert
from eqpot.engines import choice, taped
from eqpot.network.tape import Tape
from eqpot.training.loss import loss_and_gradient
from eqpot.training.trainer import Trainer

# the network of the papers
MODEL = {"symmetry": "so3", "features": 64, "blocks": 6, "cutoff": 4.0, "basis_size": 8, "radial_width": 8}
MODEL |= {"filter_order": 1, "node_products": False}
WORKLOADS = {
    "acac, batch 5": (acac, 5, 450),
    "water, batch 1": (partial(published, "water_pbe0ts"), 1, 40),
}
WALKS = ("values", "reverse", "tangent", "reverse_tangent")
TOLERANCE = 2e-5  # float32 gradient against the operators one by one, relative to the largest


@contextmanager
def timed_walks() -> Iterator[dict[str, list[float]]]:
    """Seconds of each walk of every tape recorded inside."""
    found: dict[str, list[float]] = {walk: [] for walk in WALKS}

    class TimedTape(Tape):
        def __init__(self, *arguments):
            super().__init__(*arguments)
            self.began = time.perf_counter()

        def reverse(self, *arguments):
            found["values"].append(time.perf_counter() - self.began)
            self._timed("reverse", *arguments)

        def tangent(self, *arguments):
            self._timed("tangent", *arguments)

        def reverse_tangent(self, *arguments):
            self._timed("reverse_tangent", *arguments)

        def _timed(self, walk: str, *arguments):
            began = time.perf_counter()
            getattr(Tape, walk)(self, *arguments)
            found[walk].append(time.perf_counter() - began)

    taped.Tape = TimedTape
    try:
        yield found
    finally:
        taped.Tape = Tape


def trainer_of(name: str, folder: Path) -> Trainer:
    source, batch, frames = WORKLOADS[name]
    data = folder / f"{name.split(',')[0]}.h5"
    if not data.exists():
        convert([str(source())], str(data))
    train = {"batch_size": batch, "n_train": frames, "n_valid": 1, "seed": 0, "optimizer": "adam"}
    config = Config.from_dict({"model": MODEL, "train": train})
    return Trainer.start(config, data, folder / name, overwrite=True)


def check(trainer: Trainer, chosen: np.ndarray) -> float:
    """Largest difference of the gradient from the operators one by one, over its largest."""
    batch, rows = trainer.train.batch(chosen)
    labels = trainer.train.labels(chosen, rows)

    def gradient(way) -> np.ndarray:
        def loss(prediction):
            counts, volumes = batch.atom_counts, batch.volume
            return loss_and_gradient(trainer.config.loss, prediction, labels, counts, volumes=volumes)

        return way.gradient(trainer.potential.fitted, batch, loss, stress=False)[1].copy()

    expected = gradient(taped)
    return float(np.abs(gradient(choice) - expected).max() / np.abs(expected).max())


def measure(trainer: Trainer, seconds: float) -> dict:
    size, times = trainer.config.train.batch_size, []
    frames = np.resize(np.random.default_rng(0).permutation(len(trainer.train)), 100_000 * size).reshape(
        -1, size
    )
    trainer.step(frames[0])
    with timed_walks() as walks:
        while len(times) < 10 or sum(times) < seconds:
            began = time.perf_counter()
            trainer.step(frames[len(times)])
            times.append(time.perf_counter() - began)
    batch, _ = trainer.train.batch(frames[0])
    return {
        "atoms": len(batch.species),
        "edges": batch.edge_count,
        "seconds": median(times),
        "walks": {walk: median(found) for walk, found in walks.items()},
    }


def table(results: list[dict]) -> Table:
    found = Table(title=f"Training steps; {results[0]['machine']['cpu']}", title_justify="left")
    found.add_column("")
    for heading in ("threads", "atoms", "edges", "steps/s", "step, ms", *WALKS, "rest"):
        found.add_column(heading, justify="right")
    for r in results:
        walks = [1000 * r["walks"][walk] for walk in WALKS]
        step = 1000 * r["seconds"]
        cells = [f"{r['threads']}", f"{r['atoms']}", f"{r['edges']}", f"{1000 / step:.1f}"]
        found.add_row(r["workload"], *cells, *(f"{x:.1f}" for x in (step, *walks, step - sum(walks))))
    return found


def main() -> None:
    options = parser(__doc__, list(WORKLOADS), 10.0, "workload").parse_args()
    console, record = Console(width=130), Record()
    with tempfile.TemporaryDirectory() as folder:
        for name in options.only:
            trainer = trainer_of(name, Path(folder))
            error = check(trainer, np.arange(trainer.config.train.batch_size))
            if not error <= TOLERANCE:
                sys.exit(
                    f"{name}: expected a relative error of the gradient below {TOLERANCE:g}, found {error:g}"
                )
            console.print(f"{name}: gradient agrees with the operators one by one to {error:.1e}")
            for threads in options.threads:
                numba.set_num_threads(threads)
                measured = measure(trainer, options.seconds)
                record.add(
                    f"{name}, {threads} threads", workload=name, threads=threads, error=error, **measured
                )
    console.print(table(list(record.results.values())))
    console.print(record.write())


if __name__ == "__main__":
    main()
