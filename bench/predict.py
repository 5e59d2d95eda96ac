"""`eqpot predict`, which reads and writes text, against the evaluator on frames in memory; and its memory.

    python bench/predict.py [--frames 100000] [--rounds 3]

Frames of 15 atoms (acetylacetone at 300 K, moved at random), a new potential of today's default network, on
one thread and on all. Each round, by turns: frames a second of `Potential.evaluate`, neighbours included, of
10,000 frames, and of the command beyond its first 10,000 frames. The ratio is the median of the rounds'.
"""

import argparse
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from statistics import median

import ase.io
import numpy as np
from recording import Record
from rich.console import Console
from rich.table import Table
from workloads import published

from eqpot import Potential
from eqpot.threads import cores

FEW = 10_000
COLUMNS = ("evaluator, frames/s", "predict, frames/s", "ratio", f"MB at {FEW:,}", "MB at the end")
EVALUATOR = """
import sys, time
import ase.io
from eqpot import Potential
potential, frames = Potential.load(sys.argv[1]), ase.io.read(sys.argv[2], ":")
potential.evaluate(frames[:100])
began = time.perf_counter()
for k in range(0, len(frames), 130):
    potential.evaluate(frames[k : k + 130])
print(len(frames) / (time.perf_counter() - began))
"""
COMMAND = """
import resource, sys, time
from eqpot.cli import main
began = time.perf_counter()
assert main(["predict", *sys.argv[1:], "-o", "out.extxyz", "--overwrite"]) == 0
print(time.perf_counter() - began, resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1000)
"""


def write_frames(path: Path, count: int) -> None:
    known = ase.io.read(published("acac") / "train_300K.xyz", ":")
    random = np.random.default_rng(0)
    for start in range(0, count, 1000):
        frames = [known[k % len(known)].copy() for k in range(start, min(start + 1000, count))]
        for atoms in frames:
            atoms.info, atoms.calc = {}, None
            atoms.arrays = {name: atoms.arrays[name] for name in ("numbers", "positions")}
            atoms.positions += 0.01 * random.normal(size=(len(atoms), 3))
        ase.io.write(path, frames, append=start > 0)


def measured(program: str, threads: int, folder: Path, *words: str) -> list[float]:
    """The numbers of the last line that a new process prints."""
    done = subprocess.run(
        [sys.executable, "-P", "-c", program, *words],
        env=os.environ | {"NUMBA_NUM_THREADS": str(threads)},
        cwd=folder,
        check=True,
        stdout=subprocess.PIPE,
        text=True,
    )
    return [float(word) for word in done.stdout.splitlines()[-1].split()]


def one_round(threads: int, folder: Path, frames: int) -> tuple[float, ...]:
    """In the order of COLUMNS."""
    (evaluator,) = measured(EVALUATOR, threads, folder, "model.h5", "few.extxyz")
    begun, at_first = measured(COMMAND, threads, folder, "model.h5", "few.extxyz")
    ended, at_last = measured(COMMAND, threads, folder, "model.h5", "all.extxyz")
    predict = (frames - FEW) / (ended - begun)
    return evaluator, predict, predict / evaluator, at_first, at_last


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--frames", type=int, default=100_000, help=f"more than {FEW:,}")
    parser.add_argument("--rounds", type=int, default=3)
    asked = parser.parse_args()
    console, record, table = Console(), Record(), Table("threads", *COLUMNS)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        Potential.create(["C", "H", "O"]).save(folder / "model.h5")
        write_frames(folder / "few.extxyz", FEW)
        write_frames(folder / "all.extxyz", asked.frames)
        for threads in dict.fromkeys((1, cores())):
            rounds = [one_round(threads, folder, asked.frames) for _ in range(asked.rounds)]
            found = dict(zip(COLUMNS, zip(*rounds, strict=True), strict=True))
            record.add(f"{threads} threads", frames=asked.frames, **found)
            shown = [" ".join(f"{x:.4g}" for x in values) for values in found.values()]
            shown[2] += f", median {median(found['ratio']):.2f}"
            table.add_row(str(threads), *shown)
    console.print(table)
    console.print(record.write())


if __name__ == "__main__":
    main()
