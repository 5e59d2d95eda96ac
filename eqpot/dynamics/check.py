"""What a careful user asks of a potential before a long run: is it consistent, symmetric, smooth, stable?"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import combinations_with_replacement

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols, covalent_radii
from scipy.spatial.transform import Rotation

from eqpot.calculator import EqpotCalculator
from eqpot.config import DynamicsConfig
from eqpot.dynamics.ensembles import draw_momenta, freedom, integrator
from eqpot.dynamics.limits import closest
from eqpot.errors import UserError
from eqpot.memory import peak_memory
from eqpot.potential import Potential, Result
from eqpot.timing import TIME_STEP, nanoseconds_per_day, seconds_of

SHAKE = 0.05  # Å, so that nothing is zero by symmetry or at a minimum
# Å and 1: of the differences. A step of 0.005 Å is too coarse where the shake has squeezed a bond of
# hydrogen: the fourth-order error of a right force was 0.008 there, in water.
STEP, STRAIN = 0.002, 1e-3
EDGE = 0.01  # Å inside the cutoff, where next to nothing should be left
STEPS, TEMPERATURE = 400, 300.0  # of the dynamics; K
DEFINITE = (
    0.01  # eV/Å, and eV/atom of the virial: the slopes of energies in float32 have a tenth of it as noise
)
SQUEEZED = np.arange(80, 49, -1) / 100  # lengths at which two atoms must repel, in bonds


@dataclass(frozen=True)
class Finding:
    """One question and its answer; without a limit it is for information, `remedy` is what may help.

    value: None where the question does not apply, for the reason that stands as the unit.
    """

    question: str
    value: float | None
    unit: str
    limit: float | None = None
    remedy: str = ""

    @property
    def passed(self) -> bool:
        """NaN never passes."""
        return self.limit is None or self.value <= self.limit


def check(potential: Potential, atoms: Atoms) -> Iterator[Finding]:
    """The findings, each as soon as it is there; they take some five hundred force calls.

    Limits are those of float32 arithmetic with a margin, and for dynamics what a careful thermostat hides.
    UserError where forces are not finite.
    """
    shaken = atoms.copy()
    shaken.calc = None
    shaken.set_constraint()
    shaken.rattle(SHAKE, seed=0)
    random = np.random.default_rng(0)
    potential.evaluate(Atoms(shaken.numbers[:1]))  # loads the kernels
    program = peak_memory()
    with np.errstate(all="ignore"):  # what it leads to is looked at
        found = potential.evaluate(shaken)
    if not np.isfinite(found.forces).all():  # dynamics would call it a fault of positions
        raise UserError("expected finite forces from the model, found NaN or infinity")
    yield _forces(potential, shaken, found, random)
    if found.stress is not None:
        yield _stress(potential, shaken, found, random)
    yield _rotation(potential, shaken, found)
    yield _permutation(potential, shaken, found, random)
    for pair in combinations_with_replacement(sorted(set(atoms.numbers.tolist())), 2):
        yield from _dimer(potential, pair)
    yield from _closer(potential, atoms)
    yield from _dynamics(potential, atoms)
    yield Finding("memory beyond the program's", (peak_memory() - program) / 1e6, "MB")


def _slope(potential: Potential, along: Iterator[Atoms], step: float) -> float:
    """dE/dh from structures at -2, -1, 1 and 2 steps, of fourth order."""
    a, b, c, d = (r.energy for r in potential.evaluate(list(along)))
    return (a - 8 * b + 8 * c - d) / (12 * step)


def _forces(potential: Potential, atoms: Atoms, found: Result, random) -> Finding:
    errors, sizes = [], []
    for _ in range(3):
        direction = random.normal(size=(len(atoms), 3))

        def moved(direction=direction):
            for k in (-2, -1, 1, 2):
                copy = atoms.copy()
                copy.positions += k * STEP * direction
                yield copy

        expected = -_slope(potential, moved(), STEP)
        size = np.linalg.norm(found.forces) * np.linalg.norm(direction) / np.sqrt(direction.size)
        errors.append(abs(np.sum(found.forces * direction) - expected))
        sizes.append(np.max([size, abs(expected)]))
    return _relative("forces against slope of energy", errors, sizes, 2e-3, "forces")


def _stress(potential: Potential, atoms: Atoms, found: Result, random) -> Finding:
    errors, sizes, volume = [], [], atoms.get_volume()
    for _ in range(3):
        strain = random.normal(size=(3, 3))
        strain = (strain + strain.T) / 2

        def strained(strain=strain):
            for k in (-2, -1, 1, 2):
                copy = atoms.copy()
                copy.set_cell(atoms.cell[:] @ (np.eye(3) + k * STRAIN * strain), scale_atoms=True)
                yield copy

        expected = _slope(potential, strained(), STRAIN)
        size = volume * np.linalg.norm(found.stress) * np.linalg.norm(strain) / 3
        errors.append(abs(volume * np.sum(found.stress * strain) - expected))
        sizes.append(np.max([size, abs(expected)]))
    return _relative("stress against slope of energy", errors, sizes, 5e-3, "stress", len(atoms))


def _rotation(potential: Potential, atoms: Atoms, found: Result) -> Finding:
    turn = Rotation.random(random_state=0).as_matrix()
    turned = atoms.copy()
    turned.set_cell(atoms.cell[:] @ turn.T)
    turned.positions = atoms.positions @ turn.T
    return _alike("forces turn with the structure", potential.evaluate(turned).forces, found.forces @ turn.T)


def _permutation(potential: Potential, atoms: Atoms, found: Result, random) -> Finding:
    order = random.permutation(len(atoms))
    return _alike(
        "forces follow order of atoms", potential.evaluate(atoms[order]).forces, found.forces[order]
    )


def _alike(question: str, forces: np.ndarray, expected: np.ndarray) -> Finding:
    size = np.max([np.abs(forces).max(), np.abs(expected).max()])
    return _relative(question, [np.abs(forces - expected).max()], [size], 1e-4, "forces")


def _relative(
    question: str, errors: list[float], sizes: list[float], limit: float, of: str, count: int = 1
) -> Finding:
    """The largest error over what it is an error of, unless that is nothing but noise."""
    if max(sizes) / count < DEFINITE:
        return Finding(question, None, f"no {of}")
    return Finding(question, float(np.max(np.divide(errors, sizes))), "relative", limit)


def _dimer(potential: Potential, pair: tuple[int, int]) -> Iterator[Finding]:
    """Two atoms by themselves: near the cutoff, and closer than their bond, the sum of covalent radii."""
    cutoff, bond = potential.config.cutoff, float(covalent_radii[list(pair)].sum())
    name = "-".join(chemical_symbols[z] for z in pair)

    def pulls(r: np.ndarray) -> np.ndarray:
        """Force that brings the two together, eV/Å."""
        pairs = [Atoms(pair, [[0, 0, 0], [d, 0, 0]]) for d in r]
        return np.array([result.forces[0, 0] for result in potential.evaluate(pairs)])

    edge = float(np.abs(pulls(np.array([cutoff - EDGE]))).max())
    yield Finding(f"{name}: force {EDGE:g} Å inside the cutoff", edge, "eV/Å", 1e-3)
    r = SQUEEZED * bond
    attracted = r[~(pulls(r) < 0)]
    turn = float(attracted.max(initial=0))
    remedy = "" if potential.config.zbl else "a fit with --set model.zbl=true adds repulsion there"
    yield Finding(f"{name}: attract at distances up to", turn, "Å", round(r.min(), 2) - 0.01, remedy)


def _closer(potential: Potential, atoms: Atoms) -> Iterator[Finding]:
    """For each pair of elements the two atoms that are closer than any in training, where there are such."""
    graph, symbols = potential.graph(atoms), np.array(atoms.get_chemical_symbols())
    distances, first, second = np.linalg.norm(graph.edge_vec, axis=1), graph.receivers, graph.senders
    for pair, known in closest(potential).items():
        one, other = pair.split("-")
        if not {one, other} <= set(symbols):
            continue
        r = np.where((symbols[first] == one) & (symbols[second] == other), distances, np.inf)
        if r.min(initial=np.inf) < known:
            a, b = first[r.argmin()], second[r.argmin()]
            name = f"{one} {a} and {other} {b} closer than in training ({known:.3f} Å)"
            yield Finding(name, float(r.min()), "Å")


def _dynamics(potential: Potential, atoms: Atoms) -> Iterator[Finding]:
    """A short run without thermostat, from Maxwell's velocities; none of a lone atom."""
    config = DynamicsConfig(ensemble="nve", timestep=TIME_STEP, temperature=TEMPERATURE)
    moving, random = atoms.copy(), np.random.default_rng(0)
    moving.set_constraint()
    moving.calc = EqpotCalculator(potential)
    if freedom(config, moving) == 0:
        return
    draw_momenta(config, moving, random)
    run = integrator(config, moving, random)
    energies = []
    run.attach(lambda: energies.append(moving.get_total_energy() / len(moving)))
    seconds = seconds_of(lambda: run.run(STEPS)) / STEPS
    quarter = STEPS // 4
    drift = 1000 * abs(np.mean(energies[-quarter:]) - np.mean(energies[1 : quarter + 1]))
    name = f"energy drift, {STEPS * TIME_STEP / 1000:g} ps, {TEMPERATURE:g} K"
    yield Finding(name, float(drift), "meV/atom", 0.5)
    yield Finding(f"dynamics in steps of {TIME_STEP:g} fs", nanoseconds_per_day(seconds), "ns/day")
