"""Threads of Python that share a potential or a calculator: each gets what one alone gets, bit by bit."""

import copy
import pickle
import subprocess
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pytest
from ase import Atoms
from checks import gradient
from graphs import cluster
from potentials import cluster_of_nine as molecule
from potentials import narrow_crystal as crystal
from potentials import slab
from toy import MODEL

from eqpot import EqpotCalculator, Potential
from eqpot.structures.graph import collate
from eqpot.threads import later

THREADS = 8

# Of several sizes, so that buffers grow.
STRUCTURES = [
    molecule(),
    crystal(),
    slab(),
    Atoms("CHOHHCHH", cluster(8, 3)),
    Atoms("HOC" * 8, cluster(24, 4)),
]


def potential(seed: int = 1, **settings) -> Potential:
    return Potential.create(("H", "C", "O"), seed=seed, **(MODEL | settings))


def at_once(call: Callable[[int], object], count: int) -> list:
    """call(k) for each k below count, by several threads."""
    with ThreadPoolExecutor(THREADS) as pool:
        return list(pool.map(call, range(count)))


def check(call: Callable[[int], bytes], alone: list[bytes], count: int = 400) -> None:
    """That call(k) is alone[k], the latter over and over, by how many there are that differ."""
    found = at_once(call, count)
    assert sum(found[k] != alone[k % len(alone)] for k in range(count)) == 0


def evaluated(p: Potential, atoms: Atoms, **how) -> bytes:
    r = p.evaluate(atoms, **how)
    stress = b"" if r.stress is None else r.stress.tobytes()
    return np.float64(r.energy).tobytes() + r.forces.tobytes() + r.energies.tobytes() + stress


def calculated(calculator: EqpotCalculator, atoms: Atoms) -> bytes:
    """By ASE, from new atoms."""
    atoms = atoms.copy()
    atoms.calc = calculator
    found = [atoms.get_forces(), atoms.get_potential_energies(), np.array(atoms.get_potential_energy())]
    if atoms.pbc.all():
        found.append(atoms.get_stress())
    return b"".join(x.tobytes() for x in found)


@pytest.mark.parametrize(
    "settings",
    [{}, {"dtype": "float64", "zbl": True}, {"nonlinearity": "norm"}],
    ids=["compiled", "zbl", "taped"],
)
def test_one_potential(settings):
    p, count = potential(**settings), len(STRUCTURES)
    alone = [evaluated(p, a) for a in STRUCTURES]
    check(lambda k: evaluated(p, STRUCTURES[k % count]), alone)


def test_the_first_call_comes_from_a_thread():
    alone = [evaluated(potential(), a) for a in STRUCTURES]
    p = potential()
    check(lambda k: evaluated(p, STRUCTURES[k % len(alone)]), alone, 40)


def test_paths_off_and_copies():
    p, off = potential(), {(2, "1x1->0")}
    calls = [
        lambda a: evaluated(p, a, paths_off=off),
        lambda a: evaluated(p, a),
        lambda a: evaluated(copy.deepcopy(p), a),
        lambda a: evaluated(pickle.loads(pickle.dumps(p)), a),
    ]
    alone = [call(STRUCTURES[0]) for call in calls]
    assert alone[0] != alone[1] == alone[2] == alone[3]
    check(lambda k: calls[k % 4](STRUCTURES[0]), alone, 80)


def test_several_potentials():
    all_of_them = [potential(seed) for seed in range(4)]
    alone = [evaluated(p, STRUCTURES[0]) for p in all_of_them]
    check(lambda k: evaluated(all_of_them[k % 4], STRUCTURES[0]), alone)


@pytest.mark.parametrize("nonlinearity", ["gate", "norm"])
def test_loss_gradient(nonlinearity):
    """Compiled, and on the tape."""
    p = potential(nonlinearity=nonlinearity)
    batches = [collate([p.graph(a)], 3) for a in STRUCTURES]

    def numbers(k: int) -> bytes:
        value, found = gradient(p, batches[k % len(batches)])
        return np.float64(value).tobytes() + found.tobytes()

    check(numbers, [numbers(k) for k in range(len(batches))], 100)


@pytest.mark.parametrize("committee", [False, True])
def test_one_calculator(committee):
    models = [potential(seed) for seed in range(1 + 2 * committee)]
    # A stress that follows from what was asked before changes no other number.
    calculator, count = EqpotCalculator(models), len(STRUCTURES)
    alone = [calculated(EqpotCalculator(models), a) for a in STRUCTURES]
    check(lambda k: calculated(calculator, STRUCTURES[k % count]), alone, 200)
    again = pickle.loads(pickle.dumps(calculator)), copy.deepcopy(calculator)
    check(lambda k: calculated(again[k % 2], STRUCTURES[k % count]), alone, 40)


def test_calculators_of_one_potential():
    p, count = potential(), len(STRUCTURES)
    alone = [calculated(EqpotCalculator(p), a) for a in STRUCTURES]
    each = [EqpotCalculator(p) for _ in range(THREADS)]
    check(lambda k: calculated(each[k % THREADS], STRUCTURES[k % count]), alone, 8 * count * 5)


WORK_QUEUE = """
import sys
sys.path.insert(0, sys.argv[1])
import test_threads
test_threads.test_several_potentials()
test_threads.test_the_first_call_comes_from_a_thread()
import numba
print(numba.threading_layer())
"""


FORK = """
import multiprocessing, os, sys, threading
sys.path.insert(0, sys.argv[1])
from checks import gradient
from test_threads import STRUCTURES, calculated, evaluated, potential
from eqpot import EqpotCalculator
from eqpot.structures.graph import collate
from eqpot.threads import most_threads

p, atoms = potential(), STRUCTURES[-1]
calculator = EqpotCalculator(p)

def work(k):
    value, slope = gradient(p, collate([p.graph(atoms)], 3))
    many = EqpotCalculator(p, threads=most_threads())
    return evaluated(p, atoms), calculated(calculator, atoms), calculated(many, atoms), value, slope.tobytes()

def in_children():
    with multiprocessing.get_context("fork").Pool(2) as pool:
        return pool.map(work, range(4))

early = in_children() if sys.argv[2] == "before" else []
here = work(0)
assert all(there == here for there in [*early, *in_children(), work(0)])

held = threading.Event()
def hold():  # a thread that the child does not have
    with p._lock, calculator._lock:
        held.set()
        threading.Event().wait()
threading.Thread(target=hold, daemon=True).start()
held.wait()
assert all(there == here for there in in_children())
print("equal")
os._exit(0)
"""


@pytest.mark.parametrize("first", ["before", "after"])
def test_forked_processes(first):
    """Before the parent has started threads of its own, or after; and while one of them holds the locks."""
    folder = str(Path(__file__).parent)
    ran = subprocess.run(
        [sys.executable, "-c", FORK, folder, first], capture_output=True, text=True, timeout=120
    )
    assert (ran.returncode, ran.stdout) == (0, "equal\n"), ran.stderr


def test_work_queue(monkeypatch):
    """Numba's own threads, where there is no OpenMP, abort the process at calls from two threads at once."""
    monkeypatch.setenv("NUMBA_THREADING_LAYER", "workqueue")
    folder = str(Path(__file__).parent)
    ran = subprocess.run(
        [sys.executable, "-c", WORK_QUEUE, folder], capture_output=True, text=True, timeout=300
    )
    assert (ran.returncode, ran.stdout) == (0, "workqueue\n"), ran.stderr


def test_what_is_done_later():
    """Its result or its error comes; a process that ends does not wait for it."""
    assert later(divmod, 7, 2).result() == (3, 1)
    with pytest.raises(ZeroDivisionError):
        later(divmod, 7, 0).result()
    program = "import time; from eqpot.threads import later; later(time.sleep, 60)"
    subprocess.run([sys.executable, "-c", program], check=True, timeout=50)
