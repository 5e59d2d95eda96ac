"""Force calls and training steps on a GPU, beside those on the CPU.

    python bench/gpu.py                                  # 15 to 786,432 atoms
    python bench/gpu.py --only acac_15 water_98304       # some workloads; results accumulate in the JSON file
    python bench/gpu.py --largest                        # the largest box of water that fits, too

`get_forces` through `EqpotCalculator`, all atoms moved a little before each call, neighbour list included;
`Potential.predict` with the graph at hand. Before it is timed, each workload is compared with the same
potential in float64 (on the CPU, large ones on the GPU), and called twice for the same bits. Speed is counted
operations over the time of `predict`, and its share of what a long float32 matrix product (no TF32) reaches.
Results are written one by one into a file that names the card; a workload that fails is written down as such.

Model: float32, random weights, 6 blocks of 64 scalars and 64 vectors, cutoff 4 Å, for the crystals 5 Å.
"""

from __future__ import annotations

import gc
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median

import ase.io
import numpy as np
from ase import Atoms
from force_call import CUTOFF, SETTINGS
from recording import Record, check_device, gpu_limits, parser, wait
from rich.console import Console
from rich.table import Table
from workloads import NAMES, ON_GPU, acac, need, structure

from eqpot import EqpotCalculator, Potential
from eqpot.backend import array_module, moved
from eqpot.benchmark import TOLERANCE
from eqpot.config import Config
from eqpot.data_tools.convert import convert
from eqpot.errors import UserError
from eqpot.network.steps import operations
from eqpot.training.trainer import Trainer

MOST_ON_CPU = 20_000  # atoms up to which the CPU is timed, too
TRAINING = ("acac_15", "water_192")
SIDES = (20, 24, 28, 32, 36, 40)  # water boxes of side^3 frames of 192 atoms


def seconds(action: Callable[[], object]) -> float:
    """Of an action, all that it started on the GPU included."""
    wait()
    began = time.perf_counter()
    action()
    wait()
    return time.perf_counter() - began


def median_seconds(action: Callable[[], object], limit: float) -> float:
    """Median of three or more, after two that do not count."""
    seconds(action), seconds(action)
    times = [seconds(action)]
    while len(times) < 3 or sum(times) < limit:
        times.append(seconds(action))
    return median(times)


def potential_for(atoms: Atoms, name: str, dtype: str, device: str) -> Potential:
    settings = {**SETTINGS, "symmetry": "so3", "cutoff": CUTOFF.get(name, 4.0)}
    made = Potential.create(sorted(set(atoms.numbers.tolist())), seed=0, dtype=dtype, **settings)
    made.mean_neighbours = 26.0
    return made.to(device)


def memory_pool():
    return array_module("cuda").get_default_memory_pool()


def free_memory() -> None:
    """Give back what no array holds."""
    gc.collect()
    memory_pool().free_all_blocks()


def exact_forces(atoms: Atoms, name: str, device: str) -> np.ndarray:
    """Forces in float64."""
    atoms.calc = EqpotCalculator(potential_for(atoms, name, "float64", device))
    try:
        return atoms.get_forces()
    finally:
        atoms.calc = None
        free_memory()


def force_call(name: str, device: str, limit: float) -> dict:
    """Times (s), edges, memory (bytes) and operations of one workload; UserError where forces are wrong."""
    atoms = structure(name)
    start, random = atoms.positions.copy(), np.random.default_rng(0)

    def call() -> None:
        atoms.positions = start + random.normal(scale=0.003, size=start.shape)
        atoms.get_forces()

    atoms.rattle(0.1, seed=0)
    exact = exact_forces(atoms, name, "cpu" if len(atoms) <= MOST_ON_CPU else device)
    potential = potential_for(atoms, name, "float32", device)
    atoms.calc = calculator = EqpotCalculator(potential)
    first = seconds(atoms.get_forces)
    forces = atoms.get_forces()
    calculator.reset()
    if not np.array_equal(forces, atoms.get_forces()):
        raise UserError("expected the same bits from call to call, found others")
    error = float(np.abs(forces - exact).max() / np.abs(exact).max())
    if not error <= TOLERANCE:
        raise UserError(f"expected forces within {TOLERANCE:g}, found {error:.2g}")
    whole = median_seconds(call, limit)
    geometry = atoms.numbers, atoms.positions, atoms.cell[:], atoms.pbc
    batch = moved(calculator._list(calculator.potentials[0]).batch(*geometry), device)
    predict = median_seconds(lambda: calculator.potentials[0].predict(batch), limit)
    return {
        "workload": name,
        "device": device,
        "atoms": len(atoms),
        "edges": batch.edge_count,
        "first_seconds": first,
        "calculator_seconds": whole,
        "predict_seconds": predict,
        "force_error": error,
        "memory": memory_pool().total_bytes() if device == "cuda" else None,
        "operations": operations(potential.model, len(atoms), batch.edge_count),
    }


def training_step(name: str, device: str, limit: float) -> dict:
    """Steps of five frames of acetylacetone, or of one of water; the model of the force calls."""
    with tempfile.TemporaryDirectory() as folder:
        data, batch_size = Path(folder) / "data.h5", 5 if name == "acac_15" else 1
        if name == "acac_15":
            convert([str(acac())], data)
        else:
            atoms = structure(name)
            frames = []
            for k in range(12):
                frame = atoms.copy()
                frame.rattle(0.1, seed=k)
                frame.calc = EqpotCalculator(potential_for(atoms, name, "float64", device))
                frame.get_forces()
                frames.append(frame)
            path = Path(folder) / "water.traj"
            ase.io.write(path, frames)
            convert([str(path)], data)
        model = {**SETTINGS, "symmetry": "so3", "cutoff": 4.0}
        train = {"batch_size": batch_size, "n_train": 10, "n_valid": 2, "optimizer": "adam"}
        trainer = Trainer.start(
            Config.from_dict({"model": model, "train": train}), data, Path(folder) / "run", device=device
        )
        random = np.random.default_rng(0)
        step = median_seconds(lambda: trainer.step(random.choice(10, batch_size, replace=False)), limit)
    return {"workload": name, "device": device, "batch": batch_size, "step_seconds": step}


def largest() -> dict:
    """Atoms of the largest water box that the card holds, seconds of a call; UserError if it holds none."""
    found = {}
    for side in SIDES:
        atoms = structure("water_192").repeat((side,) * 3)
        atoms.calc = EqpotCalculator(potential_for(atoms, "water", "float32", "cuda"))
        try:
            found = {"atoms": len(atoms), "seconds": seconds(atoms.get_forces)}
        except (UserError, MemoryError):
            break
        finally:
            atoms.calc = None
            free_memory()
    if not found:
        raise UserError(f"expected memory for {192 * SIDES[0] ** 3} atoms at least, found too little")
    return found


def table(rows: list[dict]) -> Table:
    found = Table(title=f"Force calls; {rows[0]['machine']['gpu']}", title_justify="left")
    found.add_column("")
    columns = ("device", "atoms", "calculator, ms", "µs/atom", "predict, ms", "Tflop/s", "of peak", "kB/atom")
    for heading in (*columns, "error"):
        found.add_column(heading, justify="right")
    for r in rows:
        n, whole, predict = r["atoms"], r["calculator_seconds"], r["predict_seconds"]
        speed = r["operations"] / predict
        found.add_row(
            *(r["workload"], r["device"], f"{n}", f"{1e3 * whole:.3f}", f"{1e6 * whole / n:.3f}"),
            *(f"{1e3 * predict:.3f}", f"{speed / 1e12:.2f}"),
            f"{100 * speed / r['limits']['flops']:.1f} %" if r["device"] == "cuda" else "",
            *(f"{r['memory'] / n / 1e3:.1f}" if r["memory"] else "", f"{r['force_error']:.1e}"),
        )
    return found


def main() -> None:
    arguments = parser(__doc__, [*NAMES, *ON_GPU], 2.0, "time", threads=False)
    arguments.add_argument("--largest", action="store_true", help="the largest water box, too")
    options = arguments.parse_args()
    need(*options.only, *(["water_192"] if options.largest else []))
    check_device(arguments, "cuda")
    console, record, limits, failed = Console(width=130, highlight=False), Record("cuda"), gpu_limits(), []
    console.print(
        f"{record.machine['gpu']}: matrix products at {limits['flops'] / 1e12:.1f} Tflop/s, "
        f"copies at {limits['bytes'] / 1e12:.2f} TB/s"
    )

    def keep(key: str, measure: Callable[[], dict], shown: str) -> None:
        try:
            entry = measure()
        except (UserError, MemoryError) as e:
            entry = {"failed": str(e)}
            failed.append(key)
        record.add(key, **entry, limits=limits)
        record.write()
        console.print(f"{key}: {entry.get('failed') or shown.format(**entry)}", markup=False)

    for name in options.only:
        devices = ("cuda", "cpu") if len(structure(name)) <= MOST_ON_CPU else ("cuda",)
        for device in devices:
            call = partial(force_call, name, device, options.seconds)
            keep(f"{name}, {device}", call, "{calculator_seconds:.3g} s")
    for name in [name for name in TRAINING if name in options.only]:
        for device in ("cuda", "cpu"):
            step = partial(training_step, name, device, options.seconds)
            keep(f"training, {name}, {device}", step, "{step_seconds:.3g} s")
    if options.largest:
        keep("largest water box", largest, "{atoms} atoms, {seconds:.3g} s")
    rows = [row for row in record.results.values() if "calculator_seconds" in row]
    if rows:
        console.print(table(rows))
    console.print(record.write())
    if failed:
        sys.exit(f"failed: {', '.join(failed)}")


if __name__ == "__main__":
    main()
