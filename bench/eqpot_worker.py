"""eqpot's part of against_nequip.py: one measurement in a process of its own, written as JSON.

eqpot_worker.py check SETTINGS FILE                  relative error of the forces of 15 atoms
eqpot_worker.py calls NAME SETTINGS SECONDS FILE     times of force calls through the ASE calculator
eqpot_worker.py steps DATA CONFIG FOLDER FILE        when the steps of a training run ended
"""

import json
import resource
import sys
import time
from pathlib import Path

import numba
from ase import Atoms
from ase.neighborlist import neighbor_list
from workloads import structure, time_calls

from eqpot import EqpotCalculator, Potential
from eqpot.bench import force_error
from eqpot.config import Config
from eqpot.fit import Trainer, Watch

SPECIES = ("H", "C", "O")


def untrained(atoms: Atoms, settings: dict, **options) -> Potential:
    """A potential with random weights, which normalises sums by the neighbours in `atoms`."""
    potential = Potential.create(species=SPECIES, seed=0, **settings, **options)
    potential.mean_neighbours = len(neighbor_list("i", atoms, potential.config.cutoff)) / len(atoms)
    return potential


def check(settings: str, path: str) -> None:
    """Error of the float32 forces, relative to the NumPy reference in float64."""
    atoms = structure("acac_15")
    error = force_error(untrained(atoms, json.loads(settings), dtype="float32"), atoms)
    Path(path).write_text(json.dumps({"force_error": error}))


def calls(name: str, settings: str, seconds: str, path: str) -> None:
    """Time force calls for about `seconds`; peak memory of the process in bytes."""
    atoms = structure(name)
    calculator = EqpotCalculator(untrained(atoms, json.loads(settings), dtype="float32"))
    first, times = time_calls(calculator, atoms, float(seconds))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    content = {"first": first, "times": times, "peak_memory": peak, "threads": numba.get_num_threads()}
    Path(path).write_text(json.dumps(content))


class StepTimes(Watch):
    """Keeps when each step ended: [epoch, seconds]."""

    def __init__(self) -> None:
        super().__init__()
        self.ends = []

    def step_done(self, trainer: Trainer, *_) -> None:
        self.ends.append((trainer.state.epoch, time.perf_counter()))


def steps(data: str, config: str, folder: str, path: str) -> None:
    """Train, and write when that started and when each step ended."""
    trainer = Trainer.start(Config.from_dict(json.loads(config)), data, folder, overwrite=True)
    watch, started = StepTimes(), time.perf_counter()
    trainer.run(watch)
    content = {"started": started, "ends": watch.ends, "parameters": len(trainer.weights)}
    Path(path).write_text(json.dumps(content))


if __name__ == "__main__":
    {"check": check, "calls": calls, "steps": steps}[sys.argv[1]](*sys.argv[2:])
