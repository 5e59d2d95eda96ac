"""What `eqpot learn` reaches, against as many frames of plain dynamics, and how right its deviations are.

    python bench/learn.py ethanol                  # GFN2-xTB at 500 K, 20 minutes, at most 200 frames
    python bench/learn.py ethanol --part plain     # the same in parts: learn, plain
    python bench/learn.py copper                   # EMT: solid, liquid, surface

Ethanol: tested on 200 frames of 10 ps of Langevin dynamics on the reference at 500 K, 50 fs apart, made for
this alone. Plain: frames drawn from the first 25 ps of `data_tools/ethanol.h5`, another such trajectory, each
step of which (0.5 fs) was a call of the reference; fitted by the same committee in as many steps.

Copper: 100 ps of each structure with the committee, inside the band of deviations that learning kept to, and
EMT's own forces on frames of these runs.
"""

from __future__ import annotations

import json
import os
import shutil
import time
from pathlib import Path

import ase.io
import click
import numpy as np
from ase.build import bulk, fcc100, molecule
from ase.calculators.emt import EMT
from recording import Record
from workloads import HERE

from eqpot.cli import main as eqpot
from eqpot.config import Config
from eqpot.data_tools.sample import sample as make_sample
from eqpot.learning import committee, folder
from eqpot.learning.calibration import Measured, by_deviation
from eqpot.learning.forecast import forecast
from eqpot.learning.frames import labelled, unlabelled
from eqpot.learning.rounds import Learning
from eqpot.potential import Potential
from eqpot.runs import Watch
from eqpot.structures.data import Dataset, read_dataset, write_dataset
from eqpot.structures.trajectory import read_trajectory

RUNS = HERE / "runs" / "learn"
SAMPLE = HERE.parent / "data_tools" / "ethanol.h5"
PLAIN = slice(0, 500)  # frames of the sample, 50 fs apart
TEST_SEED = 1  # of the trajectory that is tested on; the sample's is 0
COPPER = {"solid": 900, "liquid": 1800, "surface": 600}  # K
LEARNED = 600, 1800  # K; of the dynamics that are learned from


def errors(models: list[Path], test: Dataset, factor: float) -> dict[str, object]:
    """Of the committee's mean on labelled frames, and of its scaled deviations by quarter; meV and Å."""
    found = forecast([Potential.load(path) for path in models], test)
    miss = 1000 * np.abs(found.forces - test.forces)
    measured = Measured.of(test, found)
    return {
        "forces_rmse": float(np.sqrt(np.mean(miss**2))),
        "forces_p99": float(np.quantile(miss, 0.99)),
        "forces_max": float(miss.max()),
        "energy_per_atom_rmse": 1000 * measured.energy_rms,
        "factor": factor,
        "own_factor": measured.factor,
        "quarters": [[n, 1000 * d, 1000 * e] for n, d, e in by_deviation(measured, factor)],
    }


def learn(name: str, words: list[str]) -> tuple[Learning, float]:
    """Run it, and the seconds that it took."""
    run, began = RUNS / name, time.monotonic()
    shutil.rmtree(run, ignore_errors=True)
    if eqpot(["learn", *words, "-o", str(run)]):
        raise SystemExit(1)
    return Learning.resume(run), time.monotonic() - began


def told(record: Record, name: str, **values: object) -> None:
    """Keep and print a row."""
    record.add(name, load=os.getloadavg()[0], **values)
    print(json.dumps({name: values}, indent=1), flush=True)
    print(record.write())


@click.group()
def main() -> None:
    RUNS.mkdir(parents=True, exist_ok=True)


@main.command()
@click.option("--part", type=click.Choice(("all", "learn", "plain")), default="all")
@click.option("--time", "limit", default="20m")
@click.option("--frames", default=200)
@click.option("--plain-frames", default=200)
@click.option("--target", default=20.0)
@click.option("--seed", default=0)
def ethanol(part: str, limit: str, frames: int, plain_frames: int, target: float, seed: int) -> None:
    record, trajectory = Record(), RUNS / "ethanol_test.h5"
    if not trajectory.exists():
        make_sample(trajectory, 200, seed=TEST_SEED)
    test = read_dataset(trajectory)
    if part in ("all", "learn"):
        start = RUNS / "ethanol.xyz"
        molecule("CH3CH2OH").write(start)
        words = [str(start), "--reference=tblite:GFN2-xTB", "--temperature=500", f"--frames={frames}"]
        run, seconds = learn(
            "ethanol", [*words, f"--max-time={limit}", f"--target={target}", f"--seed={seed}"]
        )
        found = errors(run.models(), test, run.tested().factor)
        told(record, "ethanol, learned", seconds=seconds, seed=seed, rounds=run.rows(), **found)
        run.hold.close()
    if part in ("all", "plain"):
        plain(record, test, seed, plain_frames)


def plain(record: Record, test: Dataset, seed: int, count: int) -> None:
    """The committee of `eqpot learn`, in as many steps, on frames drawn from plain dynamics."""
    run = Learning.resume(RUNS / "ethanol")
    rounds = run.round
    run.hold.close()
    data, where = read_dataset(SAMPLE).subset(PLAIN), RUNS / "plain"
    shutil.rmtree(where, ignore_errors=True)
    where.mkdir()
    chosen = np.sort(np.random.default_rng(seed).permutation(len(data))[:count])
    write_dataset(where / "data.h5", data.subset(chosen))
    steps, members, began = (
        (rounds + run.config.final_fit) * run.config.fit_steps,
        run.config.members,
        time.monotonic(),
    )
    fit = Config.from_dict(run.stored.fit)
    models = committee.fit(fit, steps, where / "data.h5", where, [], members, Watch())
    found = errors(models, test, 1.0)
    seconds = time.monotonic() - began
    told(record, f"ethanol, plain, {count} frames", seconds=seconds, frames=count, steps=steps, **found)


def copper_structures() -> dict[str, str]:
    """A crystal of 32 atoms, the same at the density of the liquid, and a slab of 36."""
    made = {
        "solid": bulk("Cu", cubic=True).repeat(2),
        "liquid": bulk("Cu", a=3.79, cubic=True).repeat(2),
        "surface": fcc100("Cu", (3, 3, 4), vacuum=8.0),
    }
    made["liquid"].rattle(0.3, seed=0)
    paths = {}
    for name, atoms in made.items():
        paths[name] = str(RUNS / f"{name}.traj")
        ase.io.write(paths[name], atoms)
    return paths


@main.command()
@click.option("--part", type=click.Choice(("all", "learn", *COPPER)), default="all")
@click.option("--frames", default=150)
@click.option("--target", default=15.0)
@click.option("--length", default="100ps")
def copper(part: str, frames: int, target: float, length: str) -> None:
    record = Record()
    if part in ("all", "learn"):
        words = ["--reference=emt", "--timestep=2", "--length=2ps", "--start=6"]
        words += [f"--temperature={','.join(map(str, LEARNED))}", f"--frames={frames}", f"--target={target}"]
        run, seconds = learn("copper", [*copper_structures().values(), *words])
        told(record, "copper, learned", seconds=seconds, rounds=run.rows())
        run.hold.close()
    for name in COPPER:
        if part in ("all", name):
            copper_dynamics(record, name, length)


def copper_dynamics(record: Record, name: str, length: str) -> None:
    """From where learning's dynamics at the nearest temperature were last certain; the band that its last
    dynamics kept to is the limit."""
    run, kelvin, where = Learning.resume(RUNS / "copper"), COPPER[name], RUNS / f"md_{name}"
    band, models = run.rows()[-1]["threshold"], run.models()
    nearest = min(range(len(LEARNED)), key=lambda k: abs(LEARNED[k] - kelvin))
    begin = folder.round_folder(run.folder, run.round) / folder.STARTS
    index, factor = list(COPPER).index(name) * len(LEARNED) + nearest, run.tested().factor
    run.hold.close()
    how = ["--thermostat=langevin", f"--temperature={kelvin}", "--timestep=2", f"--length={length}"]
    how += [
        f"--max-deviation={3**0.5 * band / factor}",
        "--min-distance=0.5",
        "--write-every=250",
        "--overwrite",
    ]
    status = eqpot(["md", *map(str, models), str(begin), f"--index={index}", *how, "-o", str(where)])
    visited = read_trajectory(where / "trajectory.traj")[1:]
    data = unlabelled(visited, [name] * len(visited))
    labels = [{"energy": EMT().get_potential_energy(a), "forces": EMT().get_forces(a), "stress": None}
              for a in visited]  # fmt: skip
    found = errors(models, labelled(data, labels), factor)
    log = np.genfromtxt(where / "thermo.csv", delimiter=",", names=True)
    largest = 1000 * factor * log["forces_std_eV_per_A"].max() / 3**0.5
    limits = {"stayed": status == 0, "ps": log["time_ps"][-1], "band": 1000 * band, "largest": largest}
    told(record, f"copper, {name}", kelvin=kelvin, **limits, **found)


if __name__ == "__main__":
    main()
