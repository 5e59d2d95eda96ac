"""Relaxation of a structure by ASE's optimizers: positions, or cell and positions."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.data import chemical_symbols
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS

from eqpot.errors import UserError
from eqpot.potential import Potential

OPTIMIZERS = {"lbfgs": LBFGS, "bfgs": BFGS, "fire": FIRE}
LONGEST_STEP = 0.1  # Å, of any atom
LARGE = 20.0  # eV/Å; bonds break at half of it
ROUNDING = 1e-4  # eV/Å, of float32
PATIENCE = 50  # steps


@dataclass(frozen=True)
class Step:
    """Where a relaxation stands."""

    number: int
    energy: float  # eV
    force: float  # the longest one, eV/Å
    stress: float | None  # the largest component, eV/Å^3; None where the cell stays
    volume: float | None  # Å^3


class Lost(UserError):
    """A relaxation could not go on; the atoms are back where least was left to do, at `step`."""

    def __init__(self, message: str, step: Step):
        super().__init__(message)
        self.step = step


def relax(
    atoms: Atoms,
    fmax: float = 0.01,
    steps: int = 500,
    cell: bool = False,
    optimizer: str = "lbfgs",
    report: Callable[[Step], None] = lambda step: None,
) -> bool:
    """Move atoms, which have a calculator, until no force is longer than fmax (eV/Å).

    Returns whether that was reached. With `cell` the cell follows the stress, and a component of stress times
    volume over the number of atoms counts like a force (ASE's FrechetCellFilter). Every step is reported, the
    start as number 0.

    UserError where the start has no finite energy and forces; Lost where a later step has none or leads where
    the calculator does not follow: down at rounding, optimizers divide by differences that are zero.
    """
    moving = FrechetCellFilter(atoms) if cell else atoms
    run = OPTIMIZERS[optimizer](moving, logfile=None, maxstep=LONGEST_STEP)
    best: tuple[float, Step, np.ndarray, np.ndarray] | None = None

    def look() -> None:
        nonlocal best
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        if not all(np.isfinite(x).all() for x in (energy, forces, atoms.positions, atoms.cell.array)):
            raise UserError(f"step {run.nsteps}: expected finite energy and forces, found NaN or infinity")
        stress = float(np.abs(atoms.get_stress()).max()) if cell else None
        longest = float(np.linalg.norm(forces, axis=1).max(initial=0))
        step = Step(run.nsteps, energy, longest, stress, atoms.get_volume() if cell else None)
        left = max(longest, stress * step.volume / len(atoms)) if cell else longest
        if best is None or left < best[0]:
            best = left, step, atoms.positions.copy(), atoms.cell.array.copy()
        report(step)

    run.attach(look)
    try:
        with np.errstate(all="ignore"):  # what it leads to is looked at
            return bool(run.run(fmax=fmax, steps=steps))
    except (UserError, ArithmeticError, ValueError) as e:
        if best is None:
            raise
        _, step, atoms.positions, array = best
        atoms.set_cell(array)
        atoms.get_forces()  # for whoever asks the calculator what it has
        raise Lost(f"lost its way after step {run.nsteps} ({e})", step) from e


def advice(steps: Sequence[Step], potential: Potential, atoms: Atoms, output: str) -> str:
    """What to do about a relaxation that did not end; the atoms, in the file `output`, are where it is."""
    force = steps[-1].force
    if force > LARGE:
        return f"no model knows such forces: look how close atoms are{_closest(potential, atoms)}"
    if potential.dtype == "float32" and force < ROUNDING:
        return "that is the rounding of float32: give a larger --fmax"
    best = min(range(len(steps)), key=lambda k: steps[k].force)
    if len(steps) > PATIENCE and best < len(steps) / 2:
        return (
            f"{steps[best].force:.4g} eV/Å at step {steps[best].number} was the least: "
            "more steps of this kind do not help, try another --optimizer"
        )
    return f"go on from {output} with more --steps"


def _closest(potential: Potential, atoms: Atoms) -> str:
    """The closest pair within the cutoff, if there is one."""
    graph = potential.graph(atoms)
    distances = np.linalg.norm(graph.edge_vec, axis=1)
    if not len(distances):
        return ""
    edge = distances.argmin()
    pair = (
        chemical_symbols[potential.species[graph.species[k[edge]]]] for k in (graph.senders, graph.receivers)
    )
    return f", {'-'.join(sorted(pair))} {distances[edge]:.3g} Å"
