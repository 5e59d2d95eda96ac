"""Time and memory of eqpot's force call against the number of atoms.

    python bench/force_call.py                                 # every workload on 1 and 2 threads
    python bench/force_call.py --threads 1 --only water_192    # some; results accumulate in the JSON file

Two times, in turns: of `get_forces` through `EqpotCalculator`, all atoms moved a little before each call, and
of `Potential.predict`, with the graph at hand; their difference is what the calculator adds. Every workload
has a process of its own, in which the numbers of threads take turns, too. Its memory is the peak after all
calls, beyond what the process had after those on the smallest workload.

After each of them, with as many threads: NumPy's float32 matrix product of 2048 x 2048, and `predict` of 192
atoms of water. A shared machine changes its speed within seconds; ratios to these stay. Speed is counted
operations (see `eqpot.network.steps`) over the time of `predict`, beside that of the matrix product.

Model: float32, random weights, 6 blocks of 64 scalars and 64 vectors, cutoff 4 Å, for the crystals 5 Å.
"""

from __future__ import annotations

import argparse
import gc
import json
import os
import shlex
import subprocess
import sys
import time
from collections.abc import Callable
from itertools import cycle
from pathlib import Path
from statistics import median

import numpy as np
from ase import Atoms
from recording import Record, parser
from rich.console import Console
from rich.table import Table
from threadpoolctl import threadpool_limits
from workloads import HERE, NAMES, need, structure

from eqpot import EqpotCalculator, Potential
from eqpot.files import replacing
from eqpot.memory import peak_memory
from eqpot.network.steps import operations
from eqpot.structures.graph import Batch, collate, frame_graph
from eqpot.threads import on_threads

PICTURE = HERE / "scaling.png"
# the network of the papers, as in NequIP at l_max 1
SETTINGS = {"l_max": 1, "features": 64, "blocks": 6, "basis_size": 8, "radial_depth": 1, "radial_width": 8}
SETTINGS |= {"parity": "both", "filter_order": 1, "node_products": False}
CUTOFF = {"formate_cu110_52": 5.0, "lips_83": 5.0}  # Å; 4 for the others
SMALLEST = NAMES[0]
SIDE = 2048  # of the matrices of the product beside
TURN = 0.1  # s


def measure(name: str, symmetry: str, threads: list[int], seconds: float) -> list[dict]:
    """Times (s), memory (bytes) and operations of one workload, for each number of threads."""
    calls(SMALLEST, symmetry, threads, 0)
    gc.collect()  # potentials hold themselves
    base = peak_memory()
    found = calls(name, symmetry, threads, seconds)
    return [{**row, "base_memory": base, "memory": row["memory"] - base} for row in found]


def calls(name: str, symmetry: str, threads: list[int], seconds: float) -> list[dict]:
    """Time both kinds of call for about `seconds` each; memory is the peak after the calculator's, bytes."""
    atoms, potential, batch = case(name, symmetry)
    _, reference, reference_batch = case("water_192", symmetry)
    atoms.calc = EqpotCalculator(potential)
    (bare,) = atoms.calc.potentials
    random = np.random.default_rng(0)
    places = cycle(atoms.positions + random.normal(scale=0.003, size=(4, len(atoms), 3)))
    a, b = random.random((2, SIDE, SIDE), np.float32)

    def call() -> None:
        atoms.positions = next(places)
        atoms.get_forces()

    actions = {
        "calculator_seconds": call,
        "predict_seconds": lambda: bare.predict(batch),
        "product_seconds": lambda: a @ b,
        "water_192_seconds": lambda: reference.predict(reference_batch),
    }
    found = in_turn(threads, actions, seconds)
    common = {
        "atoms": len(atoms),
        "edges": batch.edge_count,
        "cutoff": potential.config.cutoff,
        "memory": peak_memory(),
        "operations": operations(potential.model, len(atoms), batch.edge_count),
    }
    return [{**common, "threads": count, **found[count]} for count in threads]


def case(name: str, symmetry: str) -> tuple[Atoms, Potential, Batch]:
    """The structure of a workload, a potential with random weights for it, and its graph."""
    atoms = structure(name)
    settings = {**SETTINGS, "symmetry": symmetry, "cutoff": CUTOFF.get(name, 4.0)}
    potential = Potential.create(species=sorted(set(atoms.numbers)), seed=0, dtype="float32", **settings)
    geometry = atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc
    batch = collate(
        [frame_graph(*geometry, potential.species, potential.config.cutoff)], len(potential.species)
    )
    potential.mean_neighbours = batch.edge_count / len(atoms)
    return atoms, potential, batch


def in_turn(
    threads: list[int], actions: dict[str, Callable[[], object]], seconds: float
) -> dict[int, dict[str, float]]:
    """Median seconds of each action for each number of threads, in turn until the first had its time."""
    times = {count: {name: [] for name in actions} for count in threads}
    for action in actions.values():
        action()
    first = next(iter(times[threads[0]].values()))
    while len(first) < 3 or sum(first) < seconds:
        for count in threads:
            with on_threads(count), threadpool_limits(count, "blas"):
                for name, action in actions.items():
                    times[count][name] += one_turn(action)
    return {count: {name: median(t) for name, t in found.items()} for count, found in times.items()}


def one_turn(action: Callable[[], object]) -> list[float]:
    """Seconds of each call of an action, as many calls as a turn has time for."""
    found = []
    while sum(found) < TURN:
        began = time.perf_counter()
        action()
        found.append(time.perf_counter() - began)
    return found


def in_process(name: str, symmetry: str, threads: list[int], seconds: float) -> list[dict]:
    """What `measure` finds in a process of its own."""
    # OpenBLAS's threads would spin after a product, on the cores of what comes next; 4 is the shortest time.
    environment = os.environ | {"NUMBA_NUM_THREADS": str(max(threads)), "OPENBLAS_THREAD_TIMEOUT": "4"}
    given = json.dumps([name, symmetry, threads, seconds])
    command = [sys.executable, __file__, "--worker", given]
    done = subprocess.run(command, env=environment, stdout=subprocess.PIPE, text=True)
    if done.returncode:
        sys.exit(f"{shlex.join(command)}: failed")
    return json.loads(done.stdout)


def table(results: list[dict]) -> Table:
    found = Table(title=f"Force calls; {results[0]['machine']['cpu']}", title_justify="left")
    columns = ("threads", "predict, ms", "µs/atom", "of 192's", "calculator adds, ms", "kB/atom")
    found.add_column("", no_wrap=True)
    for heading in (*columns, "Mflop/atom", "Gflop/s", "of product", "2 threads/1", "product's"):
        found.add_column(heading, justify="right")
    alone = {r["workload"]: r for r in results if r["threads"] == 1}
    for r in results:
        predict, whole, n = r["predict_seconds"], r["calculator_seconds"], r["atoms"]
        speed, one = r["operations"] / predict, alone.get(r["workload"], r)
        gains = [f"{one[kind] / r[kind]:.2f}" for kind in ("predict_seconds", "product_seconds")]
        found.add_row(
            *(r["workload"], f"{r['threads']}", f"{1000 * predict:.2f}", f"{1e6 * predict / n:.1f}"),
            f"{predict / n / (r['water_192_seconds'] / 192):.2f}",
            *(f"{1000 * (whole - predict):.2f}", f"{r['memory'] / n / 1e3:.1f}"),
            *(f"{r['operations'] / n / 1e6:.2f}", f"{speed / 1e9:.1f}"),
            f"{100 * speed * r['product_seconds'] / (2 * SIDE**3):.0f} %",
            *(gains if one is not r else ("", "")),
        )
    return found


def draw(results: list[dict], path: Path) -> None:
    """Time and memory against the number of atoms."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    figure, axes = plt.subplots(1, 2, figsize=(9, 3.8), layout="constrained")
    for threads in sorted({r["threads"] for r in results}):
        for cutoff, style in ((4.0, "o-"), (5.0, "x")):
            chosen = [r for r in results if (r["threads"], r["cutoff"]) == (threads, cutoff)]
            label = f"{threads} thread{'s' if threads > 1 else ''}, cutoff {cutoff:g} Å"
            atoms = [r["atoms"] for r in chosen]
            axes[0].loglog(atoms, [1e3 * r["calculator_seconds"] for r in chosen], style, label=label)
            axes[1].loglog(atoms, [r["memory"] / 1e6 for r in chosen], style, label=label)
    axes[0].set(xlabel="atoms", ylabel="force call of the ASE calculator, ms")
    axes[1].set(xlabel="atoms", ylabel="memory, MB")
    for axis in axes:
        axis.grid(which="both", alpha=0.25)
        axis.legend(frameon=False)
    with replacing(path) as temporary:
        figure.savefig(temporary, dpi=130, format="png")
    plt.close(figure)


def main() -> None:
    arguments = parser(__doc__, NAMES, 5.0, "workload and kind of call")
    arguments.add_argument("--symmetry", choices=("so3", "o3"), default="so3")
    arguments.add_argument("--worker", help=argparse.SUPPRESS)
    options = arguments.parse_args()
    if options.worker:
        print(json.dumps(measure(*json.loads(options.worker))))
        return
    need(*options.only)
    console, record = Console(width=170), Record()
    for name in options.only:
        for row in in_process(name, options.symmetry, options.threads, options.seconds):
            key = f"{name}, {row['threads']} threads, {options.symmetry}"
            record.add(key, workload=name, symmetry=options.symmetry, **row)
            console.print(f"{key}: {1000 * row['predict_seconds']:.1f} ms")
    shown = [r for r in record.results.values() if r["symmetry"] == options.symmetry]
    shown = [r for r in shown if "product_seconds" in r]  # not those recorded before there was such a thing
    shown.sort(key=lambda r: (r["threads"], r["atoms"]))
    draw(shown, PICTURE)
    console.print(table(shown))
    console.print(f"{record.write()}\nwrote {PICTURE}")


if __name__ == "__main__":
    main()
