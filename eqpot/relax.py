"""Relaxation of a structure by ASE's optimizers: positions, or cell and positions."""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
from ase import Atoms
from ase.filters import FrechetCellFilter
from ase.optimize import BFGS, FIRE, LBFGS

from eqpot.errors import UserError

OPTIMIZERS = {"lbfgs": LBFGS, "bfgs": BFGS, "fire": FIRE}
LONGEST_STEP = 0.1  # Å, of any atom


@dataclass(frozen=True)
class Step:
    """Where a relaxation stands."""

    number: int
    energy: float  # eV
    force: float  # the longest one, eV/Å
    stress: float | None  # the largest component, eV/Å^3; None where the cell stays
    volume: float | None  # Å^3


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

    UserError where energy or forces stop being finite.
    """
    moving = FrechetCellFilter(atoms) if cell else atoms
    run = OPTIMIZERS[optimizer](moving, logfile=None, maxstep=LONGEST_STEP)

    def look() -> None:
        energy, forces = atoms.get_potential_energy(), atoms.get_forces()
        if not (np.isfinite(energy) and np.isfinite(forces).all()):
            raise UserError(f"step {run.nsteps}: expected finite energy and forces, found NaN or infinity")
        stress = float(np.abs(atoms.get_stress()).max()) if cell else None
        longest = float(np.linalg.norm(forces, axis=1).max(initial=0))
        report(Step(run.nsteps, energy, longest, stress, atoms.get_volume() if cell else None))

    run.attach(look)
    return bool(run.run(fmax=fmax, steps=steps))
