"""eqpot's part of against_nequip.py: one measurement in a process of its own, written as JSON.

eqpot_worker.py check SETTINGS DEVICE FILE                 the machine, error of the forces of 15 atoms
eqpot_worker.py calls NAME SETTINGS DEVICE SECONDS FILE    times of force calls through the ASE calculator
eqpot_worker.py steps DATA CONFIG FOLDER DEVICE FILE       when the steps of a training run ended
"""

import json
import resource
import time
from pathlib import Path

import numba
from ase import Atoms
from ase.neighborlist import neighbor_list
from recording import wait
from workloads import run_part, structure, time_calls

from eqpot import EqpotCalculator, Potential
from eqpot.backend import array_module
from eqpot.benchmark import force_error, machine
from eqpot.config import Config
from eqpot.runs import Watch
from eqpot.training.trainer import Trainer

SPECIES = ("H", "C", "O")


def untrained(atoms: Atoms, settings: dict, device: str) -> Potential:
    """A potential with random weights, which normalises sums by the neighbours in `atoms`."""
    potential = Potential.create(species=SPECIES, seed=0, dtype="float32", **settings)
    potential.mean_neighbours = len(neighbor_list("i", atoms, potential.config.cutoff)) / len(atoms)
    return potential.to(device)


def check(settings: str, device: str, path: str) -> None:
    """Error of the float32 forces, relative to the NumPy reference in float64."""
    atoms = structure("acac_15")
    error = force_error(untrained(atoms, json.loads(settings), device), atoms)
    Path(path).write_text(json.dumps({"force_error": error, "machine": machine(device)}))


def calls(name: str, settings: str, device: str, seconds: str, path: str) -> None:
    """Time force calls for about `seconds`; peak memory in bytes, of the process or held on the GPU."""
    # A repeated box has its neighbours, which are found sooner in the box.
    box = structure("water_192" if name.startswith("water") else name)
    calculator = EqpotCalculator(untrained(box, json.loads(settings), device))
    first, times = time_calls(calculator, structure(name), float(seconds))
    if device == "cuda":
        peak = array_module("cuda").get_default_memory_pool().total_bytes()
    else:
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    content = {"first": first, "times": times, "peak_memory": peak, "threads": numba.get_num_threads()}
    Path(path).write_text(json.dumps(content))


class StepTimes(Watch):
    """Keeps when each step ended, [epoch, seconds]; a GPU is waited for at the first and last of an epoch."""

    def __init__(self, device: str) -> None:
        self.ends, self.device = [], device

    def step_done(self, trainer: Trainer, fraction: float, *_) -> None:
        epoch = trainer.state.epoch
        first = not self.ends or self.ends[-1][0] != epoch
        if self.device == "cuda" and (first or fraction == 1):
            wait()
        self.ends.append((epoch, time.perf_counter()))


def steps(data: str, config: str, folder: str, device: str, path: str) -> None:
    """Train, and write when that started and when each step ended."""
    trainer = Trainer.start(Config.from_dict(json.loads(config)), data, folder, overwrite=True, device=device)
    watch, started = StepTimes(device), time.perf_counter()
    trainer.run(watch)
    content = {"started": started, "ends": watch.ends, "parameters": len(trainer.weights)}
    Path(path).write_text(json.dumps(content))


if __name__ == "__main__":
    run_part(check, calls, steps)
