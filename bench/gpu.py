"""Force calls and training steps on a GPU, beside those on the CPU.

    python bench/gpu.py                                  # everything, about ten minutes
    python bench/gpu.py --only acac_15 water_98304       # some workloads; results accumulate in the JSON file
    python bench/gpu.py --largest                        # the largest box of water that fits, too

`get_forces` through `EqpotCalculator`, all atoms moved a little before each call, neighbour list included;
`Potential.predict` with the graph at hand. Before it is timed, each workload is compared with the same
potential in float64, and called twice for the same bits. Speed is counted operations over the time of
`predict`, beside what a large float32 matrix product (no TF32) and a copy within the card's memory reach.

Model: float32, random weights, 6 blocks of 64 scalars and 64 vectors, cutoff 4 Å, for the crystals 5 Å.
"""

from __future__ import annotations

import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import ase.io
import numpy as np
from ase import Atoms
from force_call import CUTOFF, SETTINGS
from recording import Record, parser
from rich.console import Console
from rich.table import Table
from workloads import ACAC, NAMES, WATER, structure

from eqpot import EqpotCalculator, Potential
from eqpot.backend import array_module, moved
from eqpot.bench import TOLERANCE
from eqpot.config import Config
from eqpot.data_tools.convert import convert
from eqpot.errors import UserError
from eqpot.explain import operations
from eqpot.fit import Trainer

WATER |= {"water_98304": (8, 8, 8), "water_786432": (16, 16, 16)}
ALL = (*NAMES, "water_98304", "water_786432")
ON_CPU = 20_000  # atoms up to which the CPU is timed, too
SIDES = (20, 24, 28, 32, 36, 40)  # water boxes of side^3 frames of 192 atoms


def card() -> dict[str, str | float]:
    """Name and versions, and what it reaches: bytes read and written per second, operations per second."""
    cp = array_module("cuda")
    runtime = cp.cuda.runtime
    name = runtime.getDeviceProperties(0)["name"].decode()
    source = cp.zeros(1 << 28, np.float32)
    target = cp.empty_like(source)
    a = cp.random.default_rng(0).random((8192, 8192), np.float32)
    copy, product = (
        min(seconds(action) for _ in range(10))
        for action in (lambda: cp.copyto(target, source), lambda: cp.matmul(a, a))
    )
    return {
        "card": name,
        "driver": str(runtime.driverGetVersion()),
        "cupy": cp.__version__,
        "bytes_per_second": 2 * source.nbytes / copy,
        "operations_per_second": 2 * 8192**3 / product,
    }


def seconds(action: Callable[[], object]) -> float:
    """Of an action, all that it started on the GPU included."""
    cp = array_module("cuda")
    cp.cuda.Device().synchronize()
    began = time.perf_counter()
    action()
    cp.cuda.Device().synchronize()
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


def force_call(name: str, device: str, limit: float) -> dict:
    """Times (s), edges, memory (bytes) and operations of one workload; UserError where forces are wrong."""
    atoms, cp = structure(name), array_module("cuda")
    potential = potential_for(atoms, name, "float32", device)
    calculator = EqpotCalculator(potential)
    start, random = atoms.positions.copy(), np.random.default_rng(0)
    atoms.calc = calculator

    def call() -> None:
        atoms.positions = start + random.normal(scale=0.003, size=start.shape)
        atoms.get_forces()

    atoms.rattle(0.1, seed=0)
    forces = atoms.get_forces()
    calculator.reset()
    if not np.array_equal(forces, atoms.get_forces()):
        raise UserError(f"{name}: {device}: expected the same bits from call to call, found others")
    atoms.calc = EqpotCalculator(potential_for(atoms, name, "float64", device))
    exact = atoms.get_forces()
    error = float(np.abs(forces - exact).max() / np.abs(exact).max())
    if not error <= TOLERANCE:
        raise UserError(f"{name}: {device}: expected forces within {TOLERANCE:g}, found {error:.2g}")
    atoms.calc = calculator
    cp.get_default_memory_pool().free_all_blocks()
    first = seconds(call)
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
        "memory": cp.get_default_memory_pool().total_bytes() if device == "cuda" else None,
        "operations": operations(potential.model, len(atoms), batch.edge_count),
    }


def training_step(name: str, device: str, limit: float) -> dict:
    """Steps of five frames of acetylacetone, or of one of water; the model of the force calls."""
    with tempfile.TemporaryDirectory() as folder:
        data, batch_size = Path(folder) / "data.h5", 5 if name == "acac_15" else 1
        if name == "acac_15":
            convert([str(ACAC)], data)
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
        train = {"batch_size": batch_size, "n_train": 10, "n_valid": 2}
        trainer = Trainer.start(
            Config.from_dict({"model": model, "train": train}), data, Path(folder) / "run", device=device
        )
        random = np.random.default_rng(0)
        step = median_seconds(lambda: trainer.step(random.choice(10, batch_size, replace=False)), limit)
    return {"workload": name, "device": device, "batch": batch_size, "step_seconds": step}


def largest(limit_of_sides: tuple[int, ...] = SIDES) -> dict:
    """Atoms of the largest water box whose forces the card can hold, and the seconds of a call."""
    cp, found = array_module("cuda"), {}
    for side in limit_of_sides:
        atoms = structure("water_192").repeat((side,) * 3)
        atoms.calc = EqpotCalculator(potential_for(atoms, "water", "float32", "cuda"))
        try:
            found = {"atoms": len(atoms), "seconds": seconds(atoms.get_forces)}
        except (UserError, cp.cuda.memory.OutOfMemoryError):
            break
        finally:
            atoms.calc = None
            cp.get_default_memory_pool().free_all_blocks()
    return found


def table(rows: list[dict], about: dict) -> Table:
    found = Table(
        title=f"{about['card']}: {about['bytes_per_second'] / 1e12:.2f} TB/s, "
        f"{about['operations_per_second'] / 1e12:.1f} Tflop/s",
        title_justify="left",
    )
    found.add_column("")
    for heading in (
        "device",
        "atoms",
        "calculator, ms",
        "µs/atom",
        "predict, ms",
        "Tflop/s",
        "kB/atom",
        "error",
    ):
        found.add_column(heading, justify="right")
    for r in rows:
        n, whole, predict = r["atoms"], r["calculator_seconds"], r["predict_seconds"]
        found.add_row(
            *(r["workload"], r["device"], f"{n}", f"{1e3 * whole:.3f}", f"{1e6 * whole / n:.3f}"),
            *(f"{1e3 * predict:.3f}", f"{r['operations'] / predict / 1e12:.2f}"),
            *(f"{r['memory'] / n / 1e3:.1f}" if r["memory"] else "", f"{r['force_error']:.1e}"),
        )
    return found


def main() -> None:
    arguments = parser(__doc__, ALL, 2.0, "time")
    arguments.add_argument("--largest", action="store_true", help="the largest water box, too")
    options = arguments.parse_args()
    about, console, record = card(), Console(width=130), Record()
    record.path = record.path.with_name(f"gpu_{about['card'].replace(' ', '_').lower()}.json")
    rows = []
    for name in options.only:
        for device in ("cuda", "cpu"):
            if device == "cpu" and len(structure(name)) > ON_CPU:
                continue
            rows.append(force_call(name, device, options.seconds))
            record.add(f"{name}, {device}", **rows[-1], **about)
            console.print(f"{name}, {device}: {1e3 * rows[-1]['calculator_seconds']:.3f} ms", highlight=False)
    for name in {"acac_15", "water_192"} & set(options.only):
        for device in ("cuda", "cpu"):
            row = training_step(name, device, options.seconds)
            record.add(f"training, {name}, {device}", **row, **about)
            console.print(
                f"training step, {name}, {device}: {1e3 * row['step_seconds']:.2f} ms", highlight=False
            )
    if options.largest:
        found = largest()
        record.add("largest water box", **found, **about)
        console.print(f"largest water box: {found}", highlight=False)
    console.print(table(rows, about))
    console.print(record.write())


if __name__ == "__main__":
    main()
